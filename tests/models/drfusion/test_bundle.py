"""DRFusion as a bundle: the exported program, and the registered model's own padding."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from infra.registry.fuser_model import ServedFuser
from models import find_system
from pipelines.bundles.export import checked_sizes, seeded_inputs
from pipelines.bundles.programs import load_program
from tests.conftest import untrained
from tests.models.drfusion.samples import BLURRED, NOISY, hints, pair

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(bundle_of: Callable[[str], Path]) -> Path:
    return bundle_of("drfusion")


@torch.inference_mode()
def test_the_program_is_the_module_at_any_even_size(bundle: Path) -> None:
    system = find_system("drfusion")
    fuser = untrained("drfusion")
    program = load_program(bundle / "program.pt2")
    for size in checked_sizes(system):
        vi, ir, _ = seeded_inputs(system, size, torch.Generator().manual_seed(1))
        told = hints(*[NOISY, BLURRED, [0.0, 0, 3]][: size[0]])
        for ours, theirs in zip(fuser(vi, ir, told), program(vi, ir, *told.values()), strict=True):
            # The fuser's maps are channels last, and its sums in another order.
            torch.testing.assert_close(ours, theirs, atol=3e-5, rtol=0)


@torch.inference_mode()
def test_the_registered_model_pads_as_the_fuser_does(bundle: Path) -> None:
    fuser = untrained("drfusion")
    served = ServedFuser()
    served.load_context(
        SimpleNamespace(artifacts={"bundle": str(bundle)}, model_config={"device": "cpu"})
    )
    vi, ir = pair(1, 17, 23)
    told = hints(NOISY)
    given = {"vi": vi, "ir": ir, **told}
    found = served.predict(None, {name: x.numpy() for name, x in given.items()})
    for name, ours in fuser(vi, ir, told)._asdict().items():
        np.testing.assert_allclose(found[name], ours.numpy(), atol=3e-5)
