"""A system costs one folder, one recipe file, its tests and one line: seen on copies of the tree."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from safetensors.numpy import load_file

from pipelines.synthetic.pairs import write_scenes
from tests.one_process import Ended, run_commands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
NAME = "dspfusion"
# Rooms that go through all systems. Those of single systems, and those that know none, passed in this tree.
_GO_THROUGH_SYSTEMS = "contracts or jobs or bundles or evaluation or probes or promotion or devices"


def copy_tree(folder: Path) -> Path:
    """A copy of what git would have: the files that are tracked or new, as they are now."""
    command = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"]
    files = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def delete_system(tree: Path) -> None:
    """Its folder, its recipes, its tests (what names it, and what imports that), its line."""
    shutil.rmtree(tree / "models" / NAME)
    (tree / "jobs" / "recipes" / f"{NAME}.py").unlink()
    shutil.rmtree(tree / "tests" / "models" / NAME)
    # Two fixtures of conftest.py make that system's networks; a folder whose own has them needs them all.
    networks = {"tiny_bundle", "tiny_fuser"}
    gone = {NAME, *networks}
    for path in [*(tree / "tests").glob("*/**/conftest.py")]:
        if any(name in path.read_text() for name in networks):
            gone.add(".".join(path.parent.relative_to(tree).parts))
            shutil.rmtree(path.parent)
    while found := [
        path for path in files_of_tests(tree) if any(x in path.read_text() for x in gone)
    ]:
        for path in found:
            gone.add(".".join(path.relative_to(tree).with_suffix("").parts))
            path.unlink()
    lines = (tree / "models" / "__init__.py").read_text().splitlines(keepends=True)
    kept = [line for line in lines if NAME not in line]
    assert len(kept) == len(lines) - 1
    (tree / "models" / "__init__.py").write_text("".join(kept))


def files_of_tests(tree: Path) -> list[Path]:
    return [path for path in (tree / "tests").rglob("*.py") if path.name != "conftest.py"]


def add_toy(tree: Path) -> None:
    """One folder, one recipe file, one line."""
    (tree / "models" / "toy").mkdir()
    shutil.copy(HERE / "system.py", tree / "models" / "toy" / "__init__.py")
    shutil.copy(HERE / "recipes.py", tree / "jobs" / "recipes" / "toy.py")
    path = tree / "models" / "__init__.py"
    line = "from models.toy import SYSTEM as TOY  # noqa: F401\n"
    path.write_text(path.read_text().replace("from models.system", line + "from models.system", 1))


def run(tree: Path, *commands: Sequence[str], work: Path) -> list[Ended]:
    """Run commands of the copy's own in one process; how each ended."""
    return run_commands(
        [[*each, "--work", str(work)] for each in commands], tree, environment(tree)
    )


def environment(tree: Path) -> dict[str, str]:
    ours = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    return ours | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}


def last_checkpoint(work: Path) -> Path:
    return sorted(work.glob("runs/*-local/step-*"))[-1]


def test_the_rest_stands_without_the_system(tmp_path: Path) -> None:
    tree = copy_tree(tmp_path / "tree")
    delete_system(tree)
    tools = Path(sys.executable).parent
    # Plain asserts: to rewrite those of a new tree takes longer than many of its tests.
    pytest_ = [sys.executable, "-m", "pytest", "-n", "0", "--assert=plain"]
    # Not one line of the rest has to be edited; it imports, lints and passes its own tests.
    for command in (
        [tools / "ruff", "check", "."],
        [tools / "lint-imports", "--no-cache"],
        # All tests are imported, and with them whatever they test.
        [*pytest_, "-m", "not slow and not ray", "-k", _GO_THROUGH_SYSTEMS],
    ):
        done = subprocess.run(
            command, cwd=tree, capture_output=True, text=True, check=False, env=environment(tree)
        )
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert re.search(r"(\d+) passed", done.stdout)
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 300  # type: ignore[index]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which the toy is the only system."""
    folder = copy_tree(tmp_path_factory.mktemp("toy") / "tree")
    delete_system(folder)
    add_toy(folder)
    return folder


@pytest.fixture(scope="module")
def work(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with rendered scenes, their index and the toy's dataset."""
    folder = tmp_path_factory.mktemp("work")
    write_scenes(folder / "src", split_counts={"train": 8, "val": 3}, seed=1, height=48, width=64)
    scan = ("jobs.scan", str(folder / "src"), "--name", "src")
    generate = ("jobs.generate", "linear", "--scenes", "src", "--local")
    ended = run(tree, scan, generate, work=folder)
    assert [each.status for each in ended] == [0, 0], ended
    return folder


def test_a_killed_training_resumes_bit_for_bit_with_dropout(tree: Path, work: Path) -> None:
    train = ("jobs.train", "toy_only", "--local", "--set", "dataset=src-linear")
    other = work.with_name(f"{work.name}-killed")
    shutil.copytree(work, other, ignore=shutil.ignore_patterns("runs"))
    command = [sys.executable, "-m", *train, "--work", str(other)]
    process = subprocess.Popen(command, cwd=tree, env=environment(tree), stdout=subprocess.DEVNULL)
    while not list(other.glob("runs/*-local/step-*")):
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stopped_at = last_checkpoint(other).name
    both = [[*train, "--work", str(folder)] for folder in (work, other)]
    ended = run_commands(both, tree, environment(tree))
    assert [each.status for each in ended] == [0, 0], ended
    whole, resumed = (
        load_file(last_checkpoint(folder) / "model.safetensors") for folder in (work, other)
    )
    assert whole["last_step"] == 11
    assert stopped_at < last_checkpoint(other).name
    assert whole.keys() == resumed.keys()
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)


def test_the_toy_goes_the_whole_way(tree: Path, work: Path) -> None:
    (trained, evaluated, forced, *fused, rain, tile, blind), pictures = whole_way(tree, work)
    did = (trained, evaluated, forced, *fused)
    assert [each.status for each in did] == [0] * 6, did
    assert "models:/toy/1" in trained.out
    assert "vi_blur" in evaluated.out
    assert "given for vi and ir: the noise of each picture is estimated" in fused[0].out
    # What the fuser is told changes the picture; what it cannot be told of is refused.
    clean, told = (cv2.imread(str(picture)) for picture in pictures[1:3])
    assert clean.shape == told.shape
    assert not np.array_equal(clean, told)
    assert [each.status for each in (rain, tile, blind)] == [2, 2, 2], (rain, tile, blind)
    assert "has no linear operator" in rain.err
    assert "tile_px=64: this system does not offer it" in tile.err
    assert "toy inverts linear degradations only" in blind.err
    serve_by_pyfunc(tree, work)


def whole_way(tree: Path, work: Path) -> tuple[list[Ended], list[Path]]:
    """Train, evaluate and promote a version; fuse by it without a hint, and with three and an option;
    evaluate it wrongly. How each ended, and where each fusion's picture would be.
    """
    evaluate = ("jobs.evaluate", "models:/toy/1", "--scenes", "src")
    name = sorted((work / "src" / "val" / "vi").iterdir())[0].name
    sources = [f"--{camera}={work / 'src' / 'val' / camera / name}" for camera in ("vi", "ir")]
    told = (
        (),
        ("--degradation=clean",),
        ("--degradation=vi:gaussian_noise:sigma_level=60",),
        ("--degradation=vi:low_light:gain=0.5,gamma=1.5",),
        ("--tile=64",),
    )
    pictures = [work / f"fused-{number}.png" for number in range(len(told))]
    fuse = ("jobs.fuse", "models:/toy@champion", *sources)
    commands = [
        ("jobs.train", "toy_only", "--set", "dataset=src-linear"),
        (*evaluate, "--recipe", "linear_scenarios"),
        ("jobs.promote", "toy", "--force", "--reason", "the toy is to be champion"),
        *((*fuse, *hint, f"--out={out}") for hint, out in zip(told, pictures, strict=True)),
        (*evaluate, "--set", 'scenarios=["clean", "vi_rain"]'),
    ]
    return run(tree, *commands, work=work), pictures


def serve_by_pyfunc(tree: Path, work: Path) -> None:
    """The registered version takes the hints and gives the restored sources, without this tree."""
    script = f"""
import json, mlflow, numpy as np
mlflow.set_tracking_uri("sqlite:///{work}/mlflow.db")
model = mlflow.pyfunc.load_model("models:/toy@champion")
pair = {{"vi": np.full((2, 3, 21, 34), 0.4, np.float32), "ir": np.full((2, 1, 21, 34), 0.6, np.float32)}}
clean = np.array([[0, 0, 1]] * 2, np.float32)
found = model.predict(pair | {{"vi_op": clean, "ir_op": clean}})
other = model.predict(pair | {{"vi_op": clean + 0.5, "ir_op": clean}})
print(json.dumps({{"shapes": {{name: list(x.shape) for name, x in found.items()}},
    "differs": bool((found["fused"] != other["fused"]).any()),
    "inputs": [spec.name for spec in model.metadata.signature.inputs]}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=work, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert said["shapes"] == {"fused": [2, 3, 21, 34], "vi": [2, 3, 21, 34], "ir": [2, 1, 21, 34]}
    assert said["differs"]
    assert said["inputs"] == ["vi", "ir", "vi_op", "ir_op"]
