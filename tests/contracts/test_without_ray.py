"""A GPU machine may have neither Ray nor MLflow: the local commands run where they cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.synthetic.pairs import write_scenes

ROOT = Path(__file__).resolve().parents[2]
# Runs commands one after the other in one process: importing torch takes longer than all of them.
RUN = """
import json, runpy, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "mlflow", "boto3", "botocore", "prometheus_client"):
            raise ModuleNotFoundError(f"{name} is not on this machine", name=name)

sys.meta_path.insert(0, Blocked())
for words in json.loads(sys.argv[1]):
    sys.argv = [words[0], *words[1:], "--debug"]
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
    dataset = ["--set", "dataset=pairs-small-smoke", "--smoke"]
    commands = [
        ["jobs.scan", str(sources)],
        ["jobs.generate", "small", "--scenes", "pairs", "--smoke", "--local"],
        ["jobs.train", "dspfusion_stage1_small", *dataset, "--local", "--device", "cpu"],
        ["jobs.fuse", str(tiny_bundle), *places, "--local", "--device", "cpu"],
        ["jobs.evaluate", str(tiny_bundle), "--scenes", "pairs", "--smoke", "--local"],
    ]
    work = ["--work", str(tmp_path / "work")]
    words = json.dumps([[*command, *work] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", RUN, words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert list((tmp_path / "work" / "runs").glob("*-local/step-*/model.safetensors"))
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    (rows,) = (tmp_path / "work" / "reports").glob("*/rows.parquet")
    assert (rows.parent / "report.html").is_file()
