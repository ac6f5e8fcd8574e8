"""Fixtures: what is served."""

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from jobs.serve.model import ServedModel
from models import system_of
from models.system import FuseOptions
from pipelines.bundles.export import contract_of
from tests.conftest import tiny_fuser
from tests.settings import tracked_settings


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_bundle` without its program, which takes a quarter of a minute to export and is not served."""
    fuser, folder = tiny_fuser(), tmp_path_factory.mktemp("bundle")
    save_file(fuser.state_dict(), folder / "model.safetensors")
    model = fuser.config.model_dump(mode="json")
    described = {"model": model, "contract": contract_of(system_of(fuser.config))}
    (folder / "config.json").write_text(json.dumps(described))
    return folder


@pytest.fixture(scope="session")
def model(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    """That bundle, loaded."""
    settings = tracked_settings(tmp_path_factory.mktemp("work"))
    return ServedModel(str(bundle), FuseOptions(), settings)
