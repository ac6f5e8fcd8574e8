"""What holds for the bundle of every system that is imported in `models/__init__.py`."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models import SYSTEMS
from models.system import System
from pipelines.bundles.export import checked_sizes, read_bundle, seeded_inputs
from pipelines.bundles.programs import load_program
from pipelines.promotion.evidence import program_difference


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_a_written_bundle_is_read_and_its_program_is_its_module(
    system: System, bundle_of: Callable[[str], Path]
) -> None:
    bundle = bundle_of(system.name)
    assert read_bundle(bundle).model == system.tiny()
    # At batches of 1, 2 and 3, each of a size of its own.
    assert program_difference(bundle) < 1e-4
    # On the device that has no numbers, which mixes with no other, what were left behind would raise.
    program = load_program(bundle / "program.pt2", "meta")
    vi, ir, hints = seeded_inputs(system, checked_sizes(system)[1], torch.Generator())
    found = program(*(tensor.to("meta") for tensor in (vi, ir, *hints.values())))
    fused = found[0] if system.restores_sources else found
    assert (fused.device.type, fused.shape) == ("meta", vi.shape)
