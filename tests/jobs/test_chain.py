"""jobs.chain: steps in processes of their own, checked before the first, ended by one that fails."""

import sys
from pathlib import Path

import pytest

from jobs.chain import COMMAND
from jobs.commands import read_steps


def chain(monkeypatch: pytest.MonkeyPatch, words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["chain", *words.split()])
    with pytest.raises(SystemExit) as ended:
        COMMAND.run()
    return int(ended.value.code or 0)


def test_the_word_then_stands_between_steps() -> None:
    assert read_steps(["--", "scan", "a", "--name", "b", "then", "promote", "c"]) == [
        ["scan", "a", "--name", "b"],
        ["promote", "c"],
    ]
    for wrong in ("", "then scan a", "scan a then", "scan a then chain scan b"):
        with pytest.raises(ValueError, match="no command '"):
            read_steps(wrong.split())


def test_a_mistake_in_a_later_step_is_found_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    steps = f"scan {tmp_path} --name a --work {work} then generate smal --scenes a"
    assert chain(monkeypatch, steps) == 2
    assert "did you mean 'small'" in capfd.readouterr().err
    assert not work.exists()


@pytest.mark.slow  # three processes, which import torch
def test_a_step_that_fails_ends_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    absent, show = tmp_path / "absent", "generate small --scenes a --show"
    failing = f"scan {absent} --name b --work {tmp_path}"
    assert chain(monkeypatch, f"{show} then {failing} then {show}") == 2
    said = capfd.readouterr()
    assert said.out.count("scenes_per_shard = ") == 1
    assert "step 2 of 3, scan, ended with status 2" in said.out
    assert str(absent) in said.err
