"""Checkpoints that were edited: digests that fit again, and tensors that are not the model's."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipelines.bundles.export import fuser_of_checkpoint
from pipelines.store.files import sha256_of_file
from pipelines.training.checkpoints import TrainingState, load_checkpoint, save_checkpoint


def state_after_a_step() -> TrainingState:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return TrainingState(model, optimizer, (1.0,), None)


def edit(folder: Path, file: str, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change a file's tensors, and write the digest that it has now."""
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file)
    described = json.loads((folder / "state.json").read_text())
    described["sha256"][file] = sha256_of_file(folder / file)
    (folder / "state.json").write_text(json.dumps(described))


MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (MODEL, lambda tensors: tensors.pop("bias"), "not this model's"),
        (MODEL, lambda tensors: tensors.update(other=torch.ones(1)), "not this model's"),
        (MODEL, lambda tensors: tensors.update(bias=torch.ones(5)), "not this model's"),
        (MODEL, lambda tensors: tensors["bias"].fill_(math.nan), "bias holds NaN"),
        (OPTIMIZER, lambda tensors: tensors.pop("bias/exp_avg"), "moments of bias are not"),
        (OPTIMIZER, lambda tensors: tensors.update({"x/step": torch.ones(())}), "moments of x are"),
        (
            OPTIMIZER,
            lambda tensors: tensors.update({"bias/step": torch.ones(3)}),
            "bias/step is not",
        ),
        (OPTIMIZER, lambda tensors: tensors["bias/exp_avg"].fill_(math.inf), "exp_avg holds NaN"),
    ],
)
def test_tensors_that_are_not_the_models(
    file: str, change: Callable[[dict[str, Tensor]], object], message: str, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path, state_after_a_step(), step=1, config_json="{}")
    assert load_checkpoint(tmp_path, state_after_a_step()) == 1
    edit(tmp_path, file, change)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path, state_after_a_step())


@pytest.mark.parametrize("config", ["[]", "7", "{}", '{"objective": [], "optim": 3}', "[" * 10**5])
def test_a_config_that_is_none(config: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state_after_a_step(), step=1, config_json=config)
    with pytest.raises(ValueError, match=r"config\.json: "):
        fuser_of_checkpoint(tmp_path)
