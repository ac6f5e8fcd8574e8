"""Our commands: the files of this folder that can be run."""

from __future__ import annotations

import ast
from pathlib import Path

_FOLDER = Path(__file__).parent


def command_names() -> list[str]:
    """The files here that are commands, in order of name."""
    return sorted(
        path.stem
        for path in _FOLDER.glob("[!_]*.py")
        if '\nif __name__ == "__main__":\n' in path.read_text()
    )


def summary_of(command: str) -> str:
    """What a command does: its docstring's first line, after the way to call it."""
    doc = ast.get_docstring(ast.parse((_FOLDER / f"{command}.py").read_text())) or ""
    usage, _, told = doc.partition("\n\n")[0].replace("\n", " ").partition(": ")
    return told or usage
