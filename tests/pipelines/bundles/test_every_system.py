"""What holds for the bundle of every system that is imported in `models/__init__.py`."""

from pathlib import Path

import pytest
import torch

from models import SYSTEMS
from models.system import System
from pipelines.bundles.export import read_bundle, write_bundle
from pipelines.promotion.evidence import program_difference


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_a_written_bundle_is_read_and_its_program_is_its_module(
    system: System, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = system.tiny()
    write_bundle(tmp_path, config, system.build_fuser(config).eval(), origin={})
    assert read_bundle(tmp_path).model == config
    assert program_difference(tmp_path) < 1e-4
