"""Fixtures: what is served."""

from pathlib import Path

import pytest

from jobs.serve.model import ServedModel
from models.system import FuseOptions
from tests.settings import tracked_settings


@pytest.fixture(scope="session")
def model(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    """A bundle, loaded."""
    settings = tracked_settings(tmp_path_factory.mktemp("work"))
    return ServedModel(str(tiny_bundle), FuseOptions(), settings)
