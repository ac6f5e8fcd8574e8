"""Command lines of ours, parsed by the commands themselves: what deployment files and READMEs say."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from jobs.config import find_recipe, override
from jobs.recipes import DATASETS, EVALUATION, PROMOTION, TRAINING

_RECIPES: Mapping[str, Mapping[str, Any]] = {
    "jobs.generate": DATASETS,
    "jobs.train": TRAINING,
    "jobs.evaluate": EVALUATION,
    "jobs.promote": PROMOTION,
}


class _ParsedError(Exception):
    """Raised where a command would begin its work."""


def parse_command(line: str, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """Hand `python -m jobs.X …` to that command's own parser, and its recipe and --set to the recipe."""
    python, flag, module, *words = shlex.split(line)
    assert Path(python).name == "python", line
    assert flag == "-m", line
    if module == "jobs.submit" and "--" in words:
        inner = words[words.index("--") + 1 :]
        return parse_command(
            shlex.join(["python", "-m", f"jobs.{inner[0]}", *inner[1:]]), monkeypatch
        )
    parse = argparse.ArgumentParser.parse_args
    parsed: list[argparse.Namespace] = []

    def stop(parser: argparse.ArgumentParser) -> argparse.Namespace:
        parsed.append(parse(parser))
        raise _ParsedError

    with monkeypatch.context() as patch:
        patch.setattr("sys.argv", [module, *words])
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(_ParsedError):
            _command(module).main()
    if "recipe" in parsed[0]:
        override(find_recipe(_RECIPES[module], parsed[0].recipe), parsed[0].overrides)
    return parsed[0]


def _command(module: str) -> Any:
    package = importlib.import_module(module)
    is_package = hasattr(package, "__path__")
    return importlib.import_module(f"{module}.__main__") if is_package else package


def commands_in(markdown: Path) -> list[str]:
    """The `python -m jobs.…` lines of a document's code blocks, continued lines joined."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", markdown.read_text(), re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = (re.search(r"\S*python -m jobs\.[^#|>]*", line) for line in lines)
    return [match.group().strip() for match in found if match]
