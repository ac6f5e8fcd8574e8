"""Our commands: the modules of this folder that can be run, and the packages."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Sequence
from pathlib import Path

from jobs.command_line import Command
from pipelines.store.names import nearest

_FOLDER = Path(__file__).parent
# Stands between two commands of a chain.
THEN = "then"


def command_names() -> list[str]:
    """The commands, in order of name."""
    modules = [
        path.stem
        for path in _FOLDER.glob("[!_]*.py")
        if '\nif __name__ == "__main__":\n' in path.read_text()
    ]
    return sorted([*modules, *(path.parent.name for path in _FOLDER.glob("*/__main__.py"))])


def summary_of(command: str) -> str:
    """What a command does: its docstring's first paragraph, after the way to call it."""
    package = _FOLDER / command / "__main__.py"
    source = package if package.exists() else _FOLDER / f"{command}.py"
    doc = ast.get_docstring(ast.parse(source.read_text())) or ""
    return doc.partition("\n\n")[0].replace("\n", " ").partition(": ")[2]


def load_command(name: str) -> Command:
    """The command of that name, which must be one of `command_names()`."""
    is_package = (_FOLDER / name / "__main__.py").exists()
    module = importlib.import_module(f"jobs.{name}.__main__" if is_package else f"jobs.{name}")
    command: Command = module.COMMAND
    return command


def words_of(command: Sequence[str], *, besides: Sequence[str] = ("submit",)) -> list[str]:
    """The words of one of our commands but those `besides`, without the `--` before it.

    Raises ValueError when it is none.
    """
    words = list(command[1:] if command[:1] == ["--"] else command)
    known = [name for name in command_names() if name not in besides]
    if not words or words[0] not in known:
        given = words[0] if words else ""
        hint = nearest(given, known)
        raise ValueError(f"no command {given!r}{hint}; there are: {', '.join(known)}")
    return words


def read_steps(words: Sequence[str]) -> list[list[str]]:
    """The words of each step of a chain.

    Raises ValueError for a step that is none of our commands, or that is empty.
    """
    steps: list[list[str]] = [[]]
    for word in words[1:] if words[:1] == ["--"] else words:
        if word == THEN:
            steps.append([])
        else:
            steps[-1].append(word)
    return [words_of(step, besides=("submit", "chain")) for step in steps]
