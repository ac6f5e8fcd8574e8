"""What holds for the bundle of every system that is imported in `models/__init__.py`."""

from pathlib import Path

import pytest
import torch

from models import SYSTEMS
from models.system import System
from pipelines.bundles.export import checked_sizes, read_bundle, seeded_inputs, write_bundle
from pipelines.bundles.programs import load_program
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
    program = load_program(tmp_path / "program.pt2", "meta")
    vi, ir, hints = seeded_inputs(system, checked_sizes(system)[1], torch.Generator())
    found = program(*(tensor.to("meta") for tensor in (vi, ir, *hints.values())))
    assert (found[0] if system.restores_sources else found).device.type == "meta"
