import pytest
import torch
from torch import Tensor

from models.dspfusion.config import DSPFusionConfig, tiny
from models.dspfusion.fuser import DSPFusionFuser
from models.dspfusion.released import OFFICIAL_FILES, import_released, official_name

STEM = "conv1.0.weight"


def official_files(fuser: DSPFusionFuser) -> dict[str, dict[str, Tensor]]:
    """The fuser's weights as the authors would have written them."""
    return {
        file: {
            official_name(network, key): tensor
            for key, tensor in getattr(fuser, network).state_dict().items()
        }
        for network, file in OFFICIAL_FILES.items()
    }


@pytest.fixture
def fuser() -> DSPFusionFuser:
    torch.manual_seed(0)
    return DSPFusionFuser(tiny())


def test_round_trip(fuser):
    state = import_released(tiny(), official_files(fuser))
    assert state.keys() == fuser.state_dict().keys()
    for key, tensor in fuser.state_dict().items():
        assert torch.equal(state[key], tensor), key


def test_wrapper_prefix_and_profiler_marks_are_dropped(fuser):
    files = official_files(fuser)
    files["net_dp"] = {f"module.{key}": tensor for key, tensor in files["net_dp"].items()}
    files["net_g"]["encoder_level1.total_ops"] = torch.zeros(1)
    files["net_g"]["total_params"] = torch.zeros(1)
    assert import_released(tiny(), files).keys() == fuser.state_dict().keys()


def test_missing_key(fuser):
    files = official_files(fuser)
    del files["net_sp"][STEM]
    with pytest.raises(ValueError, match=rf"net_sp lacks the key '{STEM}'"):
        import_released(tiny(), files)


def test_unexpected_key(fuser):
    files = official_files(fuser)
    files["net_dm"]["ema.decay"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"net_dm has the key 'ema\.decay'"):
        import_released(tiny(), files)


def test_wrong_shape(fuser):
    files = official_files(fuser)
    files["net_dp"][STEM] = torch.zeros(3, 3)
    with pytest.raises(ValueError, match=rf"net_dp: '{STEM}' has shape \(3, 3\)"):
        import_released(tiny(), files)


def test_wrong_files(fuser):
    files = official_files(fuser)
    without_denoiser = DSPFusionConfig(**{**tiny().model_dump(), "prior": "low_quality"})
    with pytest.raises(ValueError, match="net_dm"):
        import_released(without_denoiser, files)
    del files["net_dm"]
    assert not any(k.startswith("denoiser") for k in import_released(without_denoiser, files))


def test_unknown_name():
    with pytest.raises(ValueError, match="no official name"):
        official_name("fusion", "backbone.weight")
