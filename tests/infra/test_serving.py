"""The registered form of a model: what it answers, and that it needs nothing that it does not name."""

import importlib.metadata
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from packaging.requirements import Requirement
from torch import Tensor, nn

from infra.registry import model_versions as registry
from infra.registry import tracking
from jobs.train.records import REQUIREMENTS
from models import find_system
from pipelines.bundles.export import contract_of, read_bundle
from tests.settings import tracked_settings

NAME = "served"

# Runs in an environment that knows neither this repository nor what is installed for it.
NOTHING_OF_OURS = """
import importlib.util
for name in ("degradations", "models", "pipelines", "infra", "jobs", "ray", "cv2"):
    assert importlib.util.find_spec(name) is None, name
"""
SIZES = ((1, 16, 16), (2, 37, 50), (1, 240, 321), (3, 17, 100))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    return tracking.connect(tracked_settings(tmp_path_factory.mktemp("serving")))


def register(client: MlflowClient, name: str, bundle: Path) -> str:
    run_id = tracking.open_run(client, name="train", config={}, tags={}).info.run_id
    version = registry.register_bundle(
        client, name, bundle, run_id=run_id, tags={}, requirements=REQUIREMENTS
    )
    return f"models:/{name}/{version.version}"


class Blend(nn.Module):
    """A fuser in one line: so much of vi, the rest of ir."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, vi: Tensor, ir: Tensor) -> Tensor:
        """B×3×H×W."""
        return self.share * vi + (1 - self.share) * ir


def blend_bundle(folder: Path, share: float) -> Path:
    batch = torch.export.Dim("batch", min=1)
    height, width = (8 * torch.export.Dim(name, min=2) for name in ("rows", "columns"))
    shape = {0: batch, 2: height, 3: width}
    example = torch.rand(2, 3, 40, 48), torch.rand(2, 1, 40, 48)
    program = torch.export.export(Blend(share), example, dynamic_shapes=(shape, shape))
    folder.mkdir()
    torch.export.save(program, folder / "program.pt2")
    contract = contract_of(find_system("dspfusion"))
    (folder / "config.json").write_text(json.dumps({"contract": contract}))
    return folder


@pytest.fixture(scope="module")
def blends(client: MlflowClient, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Two versions of one model, loaded into this process."""
    folder = tmp_path_factory.mktemp("blends")
    return [
        mlflow.pyfunc.load_model(
            register(client, "blend", blend_bundle(folder / str(share), share))
        )
        for share in (0.25, 0.75)
    ]


def test_two_versions_in_one_process_keep_to_their_own(blends: list[Any]) -> None:
    vi, ir = np.ones((1, 3, 19, 33), np.float32), np.zeros((1, 1, 19, 33), np.float32)
    for model, share in zip(blends, (0.25, 0.75), strict=True):
        fused = model.predict({"vi": vi, "ir": ir})
        assert fused.shape == vi.shape
        np.testing.assert_allclose(fused, share, rtol=1e-6)


def pair(shape: tuple[int, int, int] = (1, 20, 20), *, dtype: Any = np.float32) -> dict[str, Any]:
    batch, height, width = shape
    rng = np.random.default_rng(0)
    return {
        name: rng.random((batch, channels, height, width)).astype(dtype)
        for name, channels in (("vi", 3), ("ir", 1))
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (pair() | {"ir": pair((1, 20, 24))["ir"]}, "batch and size must be equal"),
        (pair((1, 8, 20)), "pictures of 20x8 px are too small; 16 a side"),
        (pair((0, 20, 20)), "the batch is empty"),
        (pair() | {"vi": 255 * pair()["vi"]}, r"vi lies in .*; give \[0, 1\]"),
        (pair() | {"ir": pair()["ir"] * np.nan}, "ir lies in"),
        (pair(dtype=np.float64), "enforce schema"),
        ({"vi": pair()["vi"]}, "enforce schema"),
        (pair() | {"vi": pair()["vi"][:, :1]}, "enforce schema"),
    ],
)
def test_what_it_cannot_fuse_is_refused(
    blends: list[Any], wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(MlflowException, match=message):
        blends[0].predict(wrong)


@pytest.fixture(scope="module")
def python(client: MlflowClient, served: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with what the model's own requirements name, and nothing else.

    Links to what is installed here: to unpack torch and MLflow again takes a minute.
    """
    venv = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    [packages] = venv.glob("lib/*/site-packages")
    lines = Path(mlflow.pyfunc.get_model_dependencies(served)).read_text().splitlines()
    for distribution in with_all_they_need([Requirement(line) for line in lines if line]):
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(str(distribution.locate_file(top)))
    # MLflow's server is this command.
    command = venv / "bin" / "uvicorn"
    command.write_text(f'#!/bin/sh\nexec {venv}/bin/python -m uvicorn "$@"\n')
    command.chmod(0o755)
    return venv / "bin" / "python"


def with_all_they_need(requirements: list[Requirement]) -> list[Distribution]:
    """The distributions that requirements name, and that those need; each as it is installed here."""
    found: dict[tuple[str, frozenset[str]], Distribution] = {}
    while requirements:
        requirement = requirements.pop()
        key = requirement.name, frozenset(requirement.extras)
        if key not in found:
            found[key] = importlib.metadata.distribution(requirement.name)
            assert requirement.specifier.contains(found[key].version), requirement
            needs = [Requirement(line) for line in found[key].requires or ()]
            requirements += [need for need in needs if is_needed(need, requirement.extras)]
    return [*found.values()]


def is_needed(requirement: Requirement, extras: set[str]) -> bool:
    marker = requirement.marker
    return not marker or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


@pytest.fixture(scope="module")
def served(client: MlflowClient, bundle_of: Callable[[str], Path]) -> str:
    return register(client, NAME, bundle_of("dspfusion"))


def environment(client: MlflowClient, python: Path) -> dict[str, str]:
    return {
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "HOME": str(python.parents[2]),
        "MLFLOW_TRACKING_URI": client.tracking_uri,
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="module")
def server(client: MlflowClient, served: str, python: Path) -> Iterator[str]:
    """`mlflow models serve` in that environment; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = python.parents[2] / "serve.log"
    command = [str(python), "-m", "mlflow", "models", "serve", "-m", served]
    command += ["--env-manager", "local", "-h", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            env=environment(client, python),
            cwd=log.parent,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    deadline = time.monotonic() + 300
    while not answers(f"http://127.0.0.1:{port}/ping"):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)
    yield f"http://127.0.0.1:{port}"
    # The command starts uvicorn, which is what listens.
    os.killpg(process.pid, 15)
    process.wait(timeout=120)


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except (OSError, URLError):
        return False
    return True


def ask(url: str, inputs: dict[str, Any]) -> Any:
    body = json.dumps({"inputs": {name: image.tolist() for name, image in inputs.items()}})
    request = urllib.request.Request(
        f"{url}/invocations", body.encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)["predictions"]


@pytest.mark.slow
def test_it_is_served_where_only_its_requirements_are(
    server: str, python: Path, tiny_bundle: Path
) -> None:
    # -I: neither the folder it runs in nor PYTHONPATH is on its path.
    subprocess.run([python, "-I", "-c", NOTHING_OF_OURS], check=True)
    fuser = read_bundle(tiny_bundle).fuser()
    for size in SIZES:
        both = pair(size)
        with torch.inference_mode():
            ours = fuser(torch.from_numpy(both["vi"]), torch.from_numpy(both["ir"])).fused
        np.testing.assert_allclose(ask(server, both), ours.numpy(), atol=1e-4)
    with pytest.raises(HTTPError) as refused:
        ask(server, pair((1, 8, 20)))
    assert refused.value.code == 400
    assert "pictures of 20x8 px are too small" in refused.value.read().decode()
