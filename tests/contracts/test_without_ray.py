"""A GPU machine may have torch and neither Ray nor MLflow: the local commands run where they are absent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from pipelines.synthetic.pairs import write_scenes

ROOT = Path(__file__).resolve().parents[2]
# Runs commands one after the other in one process: importing torch takes longer than all of them.
RUN = """
import glob, json, runpy, sys

# None in sys.modules makes an import fail as an absent package does.
for name in ("ray", "mlflow", "boto3", "botocore", "prometheus_client", "sklearn"):
    sys.modules[name] = None

# A pattern stands for what a command before has made.
def found(word):
    option, _, pattern = word.partition("=")
    return f"{option}={glob.glob(pattern)[0]}" if "*" in pattern else word

for words in json.loads(sys.argv[1]):
    sys.argv = [*map(found, words), "--debug"]
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as done:
        assert not done.code, words
"""


@pytest.mark.slow
def test_the_local_commands_need_neither_ray_nor_mlflow(tmp_path: Path, tiny_bundle: Path) -> None:
    sources = tmp_path / "pairs"
    write_scenes(sources, split_counts={"train": 4, "val": 2}, seed=1, height=48, width=64)
    places = ["--vi", f"{sources}/val/vi", "--ir", f"{sources}/val/ir", "--out", f"{tmp_path}/out"]
    here = ["--set", "dataset=pairs-small-smoke", "--smoke", "--local", "--device", "cpu"]
    first = f"init_from={tmp_path}/work/runs/*stage1*/step-00000004"
    commands = [
        ["jobs.scan", str(sources)],
        ["jobs.generate", "small", "--scenes", "pairs", "--smoke", "--local"],
        ["jobs.train", "dspfusion_stage1_small", *here],
        ["jobs.train", "dspfusion_stage2_small", *here, "--set", first],
        ["jobs.fuse", str(tiny_bundle), *places, "--local", "--device", "cpu"],
        ["jobs.evaluate", str(tiny_bundle), "--scenes", "pairs", "--smoke", "--local"],
    ]
    work = ["--work", str(tmp_path / "work")]
    words = json.dumps([[*command, *work] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", RUN, words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "no map of the probe: sklearn is not installed" in done.stdout
    trained = sorted((tmp_path / "work" / "runs").glob("*-local"))
    assert [folder.name.split("_")[1] for folder in trained] == ["stage1", "stage2"]
    for folder in trained:
        assert (folder / "step-00000004" / "model.safetensors").is_file()
        assert cv2.imread(str(folder / "previews" / "step-00000004.png")).shape[2] == 3
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    (rows,) = (tmp_path / "work" / "reports").glob("*/rows.parquet")
    assert (rows.parent / "report.html").is_file()
