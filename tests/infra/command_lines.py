"""Command lines of ours, parsed by the commands themselves: what deployment files and READMEs say."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.command_line import parse_words
from jobs.commands import load_command, read_steps
from jobs.config import read_recipe
from jobs.recipes import DATASETS, EVALUATION, PROMOTION, TRAINING, Recipes

_RECIPES: Mapping[str, Recipes[Any]] = {
    "jobs.generate": DATASETS,
    "jobs.train": TRAINING,
    "jobs.evaluate": EVALUATION,
    "jobs.promote": PROMOTION,
}


def parse_command(line: str) -> argparse.Namespace:
    """Have `python -m jobs.X …` parsed by that command, and its recipe read with its --set."""
    python, flag, module, *words = shlex.split(line)
    assert Path(python).name == "python", line
    assert flag == "-m", line
    if module == "jobs.submit" and "--" in words:
        inner = words[words.index("--") + 1 :]
        return parse_command(shlex.join(["python", "-m", f"jobs.{inner[0]}", *inner[1:]]))
    if module == "jobs.chain":
        for step in read_steps(words):
            parse_command(shlex.join(["python", "-m", f"jobs.{step[0]}", *step[1:]]))
    arguments = parse_words(load_command(module.removeprefix("jobs.")), words)
    if "recipe" in arguments and module in _RECIPES:
        read_recipe(_RECIPES[module], arguments)
    return arguments


def commands_in(markdown: Path) -> list[str]:
    """The `python -m jobs.…` lines of a document's code blocks, continued lines joined."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", markdown.read_text(), re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = (re.search(r"\S*python -m jobs\.[^#|>]*", line) for line in lines)
    return [match.group().strip() for match in found if match]
