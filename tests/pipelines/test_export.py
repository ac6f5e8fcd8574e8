from pathlib import Path

import pytest
import torch

from models import build_fuser
from models.dspfusion.config import DSPFusionConfig, tiny
from models.dspfusion.fuser import DSPFusionFuser
from pipelines.export import load_bundle, write_bundle


def fuser_of(config: DSPFusionConfig) -> DSPFusionFuser:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_fuser(config).eval()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    write_bundle(folder, tiny(), fuser_of(tiny()), origin={"run_id": "r"})
    return folder


@pytest.mark.slow
@torch.inference_mode()
def test_program_equals_the_module_at_any_batch_and_size(bundle: Path) -> None:
    program = torch.export.load(bundle / "program.pt2").module()
    fuser = fuser_of(tiny())
    for batch, height, width in ((1, 16, 16), (2, 24, 40), (3, 72, 16)):
        vi, ir = torch.rand(batch, 3, height, width), torch.rand(batch, 1, height, width)
        torch.testing.assert_close(program(vi, ir), fuser(vi, ir), atol=1e-4, rtol=0)


@torch.inference_mode()
def test_a_bundle_rebuilds_its_fuser(bundle: Path) -> None:
    vi, ir = torch.rand(1, 3, 33, 47), torch.rand(1, 1, 33, 47)
    assert torch.equal(load_bundle(bundle)(vi, ir), fuser_of(tiny())(vi, ir))


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_bundle(tmp_path)
