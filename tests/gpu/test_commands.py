"""A bundle on a GPU: its program, the served model, `jobs.fuse` and `jobs.evaluate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from infra.settings import Settings
from jobs.evaluate.run import evaluate
from jobs.evaluate.scenes import SceneChoice
from jobs.evaluate.subject import ROWS, Asked
from jobs.fuse.run import FuseTask, fuse_folders
from jobs.placement import Placement
from jobs.recipes.kinds import EvaluateRecipe
from models import find_system
from pipelines.bundles.export import checked_sizes, read_bundle, seeded_inputs, write_onnx
from pipelines.bundles.fusing import Fusing
from pipelines.bundles.programs import load_program
from pipelines.results.rows import MODEL, read_rows

CPU, CUDA = Placement("cpu"), Placement("cuda")


@torch.inference_mode()
def test_the_program_makes_the_picture_of_the_cpu(bundle: Path) -> None:
    here, there = (load_program(bundle / "program.pt2", device) for device in ("cpu", "cuda"))
    system, generator = find_system("dspfusion"), torch.Generator().manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False
    for size in checked_sizes(system):
        vi, ir, _ = seeded_inputs(system, size, generator)
        fused = there(vi.cuda(), ir.cuda())
        torch.testing.assert_close(fused.cpu(), here(vi, ir), atol=1e-4, rtol=0)


def test_what_is_written_as_onnx_is_the_model_on_the_gpu(bundle: Path, tmp_path: Path) -> None:
    for package in ("onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="the extra `onnx` is not on this machine")
    assert write_onnx(tmp_path / "fuser.onnx", bundle, "cuda") < 1e-4


def test_the_served_model_takes_the_gpu(bundle: Path) -> None:
    pytest.importorskip("mlflow", reason="MLflow is not on this machine")
    from infra.registry.fuser_model import ServedFuser

    class Context:
        """What MLflow hands over."""

        def __init__(self, device: str) -> None:
            self.artifacts, self.model_config = {"bundle": str(bundle)}, {"device": device}

    pictures = []
    vi, ir = (np.random.default_rng(0).random((2, c, 33, 47), np.float32) for c in (3, 1))
    for device in ("cpu", "auto"):
        model = ServedFuser()
        model.load_context(Context(device))
        pictures.append(model.predict(None, {"vi": vi, "ir": ir}))
    np.testing.assert_allclose(*pictures, atol=1e-4)


def test_folders_are_fused_as_on_the_cpu(bundle: Path, settings: Settings, work: Path) -> None:
    fusing, places = Fusing(bundle=read_bundle(bundle)), {}
    for camera in ("vi", "ir"):
        places[camera] = str(work / "pairs" / "train" / camera)
    pictures = []
    for name, placement in (("cpu", CPU), ("cuda", CUDA)):
        out = work / f"fused-{name}"
        fused = fuse_folders(
            fusing,
            settings,
            FuseTask(**places, out=str(out), placement=replace(placement, local=True)),
        )
        assert (fused.made, fused.failures) == (16, ())
        pictures.append({path.name: cv2.imread(str(path), -1) for path in out.glob("*.png")})
    for name, here in pictures[0].items():
        assert np.abs(here.astype(int) - pictures[1][name].astype(int)).max() <= 1


def test_an_evaluation_measures_as_on_the_cpu(bundle: Path, settings: Settings, work: Path) -> None:
    recipe = EvaluateRecipe(scenarios=("clean", "vi_blur"), steps=(), num_examples=1)
    rows = []
    for place, placement in enumerate((CPU, CUDA)):
        own = settings.model_copy(update={"work": work / f"evaluated-{place}"})
        index = SceneChoice(str(work / "scenes" / "rendered.parquet"))
        here = replace(placement, local=True)
        found = evaluate(recipe, own, Asked(str(bundle), index, placement=here))
        rows.append([row for row in read_rows(found.folder / ROWS) if row["method"] == MODEL])
    for here, there in zip(*rows, strict=True):
        for name, value in here.items():
            if isinstance(value, float) and name != "seconds":
                assert there[name] == pytest.approx(value, rel=1e-2, abs=1e-3), name
