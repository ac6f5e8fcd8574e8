"""The authors' state dict, strictly."""

import pytest
import torch
from torch import Tensor

from models.drfusion.fuser import DRFusionFuser
from models.drfusion.released import convert, official_name
from tests.models.drfusion.golden import needs_golden, official_shapes


@needs_golden
@pytest.mark.parametrize("num_steps", [3, 10])
def test_every_official_key_is_taken(num_steps: int) -> None:
    state = official_state(num_steps)
    assert len(state) == 361
    config, fuser = convert({"drfusion": state})
    assert config.num_steps == num_steps
    assert isinstance(fuser, DRFusionFuser)
    for key, tensor in fuser.state_dict().items():
        assert torch.equal(tensor, state[official_name(key)])


@needs_golden
@pytest.mark.parametrize("wrong", ["missing", "unexpected", "shape", "alpha"])
def test_a_wrong_key_is_named(wrong: str) -> None:
    state, key = official_state(3), "unet.upBlock.3.0.conv2.3.weight"
    match wrong:
        case "missing":
            del state[key]
            message = f"lacks the key '{key}'"
        case "unexpected":
            state["unet.other"] = torch.zeros(1)
            message = "the key 'unet.other' is unexpected"
        case "shape":
            state[key] = torch.zeros(2, 2)
            message = rf"'{key}' is \(2, 2\), but the model's is \(128, 128, 3, 3\)"
        case _:
            del state["alpha"]
            message = "has no key 'alpha'"
    with pytest.raises(ValueError, match=message):
        convert({"drfusion": state})


def official_state(num_steps: int) -> dict[str, Tensor]:
    shapes = official_shapes() | {"alpha": [num_steps]}
    generator = torch.Generator().manual_seed(0)
    return {key: torch.rand(shape, generator=generator) for key, shape in shapes.items()}
