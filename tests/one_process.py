"""Commands of ours, one after the other in one process: importing torch takes longer than most of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_RUN = """
import contextlib, io, json, runpy, sys
ended = []
for words in json.loads(sys.argv[1]):
    sys.argv = words
    status, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        except SystemExit as done:
            status = done.code or 0
    ended.append((status, out.getvalue(), err.getvalue()))
print(json.dumps(ended))
"""


class Ended(NamedTuple):
    """How a command ended and what it said."""

    status: int
    out: str
    err: str


def run_commands(
    commands: Sequence[Sequence[str]], folder: Path, environment: Mapping[str, str] | None = None
) -> list[Ended]:
    """Run `jobs.NAME WORD…` for each, from the tree in `folder`, whether the one before failed or not."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, json.dumps([list(words) for words in commands])],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [Ended(*ended) for ended in json.loads(done.stdout.splitlines()[-1])]
