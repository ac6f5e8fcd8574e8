"""What a person sees where it is not a terminal."""

import subprocess
import sys

import pytest

from infra.settings import REPOSITORY
from jobs.commands import command_names
from jobs.console import progress


def test_lines_of_progress_have_no_spaces_at_their_end(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("shards", 2) as advance:
        advance(2)
    assert capsys.readouterr().out == "  shards 2/2\n"


def test_the_commands_are_listed() -> None:
    command = [sys.executable, "-m", "jobs"]
    shown = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    lines = shown.stdout.splitlines()[1:]
    assert [line.split()[0] for line in lines] == command_names()
    assert all(len(line.split()) > 2 for line in lines)
