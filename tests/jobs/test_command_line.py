"""What a command line answers before any work begins: help, examples, settings, recipes of one's own."""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import pytest

from infra.settings import REPOSITORY
from infra.signals import handlers_kept
from jobs.command_line import Command, Verb, parse_words
from jobs.commands import command_names, load_command
from jobs.placement import PRECISIONS
from models.system import Precision
from tests.infra.command_lines import parse_command
from tests.one_process import run_commands

# What takes more than a tenth of a second to import.
HEAVY = {"torch", "ray", "mlflow", "pyarrow", "cv2", "scipy", "numpy", "pydantic", "rich"}


@pytest.mark.parametrize("name", command_names())
def test_help_imports_nothing_heavy(name: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", f"jobs.{name}", "--help"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    imported = set(re.findall(r"\| +(\w+)$", done.stderr, re.MULTILINE))
    assert "argparse" in imported
    assert imported.isdisjoint(HEAVY)
    assert f"usage: python -m jobs.{name}" in done.stdout
    assert "examples:\n  python -m jobs." in done.stdout


def test_workers_import_nothing_that_takes_seconds() -> None:
    """Each worker of a cluster is a new process, which imports these before it begins."""
    modules = "jobs.evaluate.run, jobs.fuse.run, jobs.generate.run, jobs.train.run, jobs.train.task"
    command = [sys.executable, "-c", f"import sys, {modules}; print(*sys.modules)"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    imported = done.stdout.split()
    assert "torch" in imported
    slow = {"torch._dynamo", "scipy.stats", "scipy.signal", "sklearn", "ray", "mlflow"}
    assert slow.isdisjoint(imported)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_one_line_that_says_how_to_resume(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: argparse.Namespace) -> None:
        os.kill(os.getpid(), number)
        time.sleep(60)

    command = Command("work", None, [], Verb(lambda _: None, run))
    monkeypatch.setattr(sys, "argv", ["jobs.work"])
    with handlers_kept():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # The tests themselves may run under nohup, which is respected: a signal that is ignored stays so.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with pytest.raises(SystemExit) as ended:
            command.run()
    assert ended.value.code == 130
    assert capsys.readouterr().err.endswith("the same command resumes: python -m jobs.work\n")


def every_parser(command: Command, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The parser of each verb of a command, and of its default."""
    parsers: list[Any] = []
    monkeypatch.setattr(
        argparse.ArgumentParser, "parse_args", lambda parser, *_: parsers.append(parser)
    )
    for words in ([], *([verb] for verb in command.verbs)):
        parse_words(command, words)
    return parsers


@pytest.mark.parametrize("name", command_names())
def test_every_argument_has_help_with_its_default(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for parser in every_parser(load_command(name), monkeypatch):
        for action in parser._actions:
            if action.dest not in ("verb", "help") and action.help != argparse.SUPPRESS:
                assert action.help, action.dest
                assert action.default in (None, False, []) or "(default: " in action.help


@pytest.mark.parametrize("name", command_names())
def test_every_example_parses(name: str) -> None:
    for example in load_command(name).examples:
        if "team.recipes" not in example:
            parse_command(example)


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["train", "dspfusion_stage1_small", "--workers", "WRONG"], "--workers"),
        (["generate", "small", "--scenes", "x", "--price", "WRONG"], "--price"),
        (["generate", "gc", "--min-age-h", "WRONG"], "--min-age-h"),
        (["scan", "x", "--max-refused-share", "WRONG"], "--max-refused-share"),
        (["fuse", "m", "--vi", "a", "--ir", "b", "--out", "c", "--tile", "WRONG"], "--tile"),
        (["bench", "metrics", "--batch", "WRONG"], "--batch"),
    ],
)
def test_a_number_out_of_bounds_is_one_line_with_its_option(
    words: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *rest = words
    for value in ("nan", "-1", "inf", "1e99", "9" * 5000, "many"):
        given = [word.replace("WRONG", value) for word in rest]
        with pytest.raises(SystemExit) as ended:
            parse_words(load_command(command), given)
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: argument {option}: {value[:40]}: give a ")
        assert error.count("\n") == 1


def test_what_is_written_down_so_as_not_to_import_torch() -> None:
    assert get_args(Precision) == PRECISIONS


def test_show_needs_nothing_but_the_recipe() -> None:
    shown, missing = run_commands(
        [["jobs.evaluate", "--show", "--smoke", "--set", "seed=7"], ["jobs.evaluate", "--smoke"]],
        REPOSITORY,
    )
    assert shown.status == 0
    lines = shown.out.splitlines()
    assert "num_scenes = 2  # How many scenes of the split; null for all." in lines
    assert any(line.startswith("seed = 7") for line in lines)
    assert missing.status == 2
    assert "the following arguments are required: model, --scenes" in missing.err


def test_the_recipes_of_a_system_go_with_its_file(tmp_path: Path) -> None:
    for name in ("models", "pipelines", "degradations", "infra"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    shutil.copytree(REPOSITORY / "jobs", tmp_path / "jobs")
    for path in (tmp_path / "jobs" / "recipes").glob("*.py"):
        if path.stem not in ("__init__", "datasets", "evaluation", "kinds"):
            path.unlink()
    *shown, listed, absent = run_commands(
        [
            ["jobs.generate", "small", "--show"],
            ["jobs.evaluate", "--show"],
            ["jobs.promote", "--show"],
            ["jobs.train", "--help"],
            ["jobs.train", "dspfusion_stage1_small", "--show"],
        ],
        tmp_path,
    )
    assert [ended.status for ended in shown] == [0, 0, 0]
    assert listed.out.endswith("recipes:\n")
    assert absent.err.startswith("error: no recipe 'dspfusion_stage1_small'")
