"""How far a kernel is from its command: our own functions on the stack when a real command reaches it."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from degradations.blur import apply_blur
from infra.settings import REPOSITORY
from jobs.commands import load_command
from jobs.config import find_recipe
from jobs.recipes import DATASETS
from models.dspfusion.fuser import DSPFusionFuser
from models.dspfusion.stage1 import Stage1
from models.metrics.statistics import information
from pipelines.sources.index import write_index
from pipelines.sources.scan import scan
from pipelines.store.folders import LocalFolder
from pipelines.synthetic.pairs import write_scenes
from tests.conftest import make_version

ROOMS = tuple(
    str(REPOSITORY / room) + "/"
    for room in ("jobs", "pipelines", "infra", "models", "degradations")
)
GENERATE = ["generate", "small", "--scenes", "toy", "--local"]
EVALUATE = ["evaluate", "mini", "--scenes", "toy", "--local", "--device", "cpu"]
BLURRED = [*EVALUATE, "--set", 'scenarios=["vi_blur"]']
TRAIN = ["train", "dspfusion_stage1_small", "--smoke", "--local", "--set", "dataset=six"]
FUSE = ["fuse", "mini", "--vi", "toy/val/vi", "--ir", "toy/val/ir", "--out", "out", "--local"]


class ReachedError(Exception):
    """The kernel was called; our functions on the stack, from the command's to the kernel."""


def calls_of(frame: FrameType | None) -> list[str]:
    """Without what reads the command line, and without the loops that Python 3.11 has as functions."""
    names: list[str] = []
    while frame is not None:
        code, frame = frame.f_code, frame.f_back
        if code.co_qualname == "Command.run":
            break
        if code.co_filename.startswith(ROOMS) and not code.co_name.startswith("<"):
            names.insert(0, code.co_name)
    return names


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rendered pairs and their index, and a dataset."""
    folder = tmp_path_factory.mktemp("calls")
    write_scenes(folder / "toy", split_counts={"train": 4, "val": 1}, seed=1, height=48, width=64)
    found = scan(folder / "toy", dataset="toy")
    write_index(found, folder / "work" / "scenes" / "toy.parquet")
    small = find_recipe(DATASETS, "small")
    # Of another seed: what GENERATE is to make must not be there.
    shard = small.shard.model_copy(update={"seed": 1})
    six = small.model_copy(update={"name": "six", "shard": shard})
    make_version(
        LocalFolder(folder / "work" / "datasets"), six, list(found.scenes.of_split("train"))
    )
    return folder


@pytest.mark.parametrize(
    ("words", "kernel", "through", "most"),
    [
        (GENERATE, apply_blur, "try_shard", 7),
        (EVALUATE, information, "measure_case", 7),
        (EVALUATE, DSPFusionFuser.forward, "measure_case", 7),
        (BLURRED, apply_blur, "measure_case", 8),  # `degrade` is that of previews and probes, too
        (FUSE, DSPFusionFuser.forward, "fuse_folders", 7),
        (TRAIN, Stage1.forward, "run_training", 5),
    ],
)
def test_a_kernel_is_a_few_calls_from_its_command(
    words: list[str],
    kernel: Callable[..., Any],
    through: str,
    most: int,
    toy: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop_in_the_kernel(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is kernel.__code__:
            names = calls_of(frame)
            if through in names:  # not where the time of it all is tried on a corner
                raise ReachedError(names)

    command = load_command(words[0])
    monkeypatch.chdir(toy)
    monkeypatch.setattr(sys, "argv", [*words, "--work", "work"])
    before = sys.getprofile()
    sys.setprofile(stop_in_the_kernel)
    try:
        with pytest.raises(ReachedError) as reached:
            command.run()
    finally:
        sys.setprofile(before)
    [names] = reached.value.args
    assert names[0] == f"_{words[0]}"
    assert len(names) <= most, names
