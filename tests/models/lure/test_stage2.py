import hashlib

import pytest
import torch
from torch import nn

from models.lure import SYSTEM
from models.lure.config import LUREConfig, Stage1Config, Stage2Config, full, tiny
from models.system import Initial
from pipelines.training.config import OptimConfig
from pipelines.training.optimiser import start_state, train_step
from tests.models.lure.samples import STAGE1, STAGE2, objective_of, open_text, pairs

FROZEN = ("encoders", "decoders", "prompts")
TERMS = {"intensity_max", "gradient", "ssim", "color"}


def digest_of(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for value in network.state_dict().values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def test_fields():
    assert set(objective_of(STAGE2).FIELDS) == {"vi_gt", "ir_gt"}
    mixed = objective_of(Stage2Config(model=tiny(), mix_degraded=0.5))
    assert set(mixed.FIELDS) == {"vi_gt", "ir_gt", "vi_lq", "ir_lq", "vi_task", "ir_task"}


def test_steps_change_the_fusion_and_nothing_that_is_frozen():
    objective = objective_of(STAGE2)
    before = {name: digest_of(getattr(objective, name)) for name in (*FROZEN, "fusion")}
    optim = OptimConfig(num_steps=4, clip_norm=1)
    state = start_state(objective.train(), optim)
    for step in range(2):
        terms = train_step(objective, state, [pairs(seed=step)], optim, step=step)
    assert terms.keys() == TERMS | {"loss", "grad_norm"}
    after = {name: digest_of(getattr(objective, name)) for name in before}
    assert {name for name in before if before[name] != after[name]} == {"fusion"}
    for name, parameter in objective.named_parameters():
        trained = name.split(".")[0] not in FROZEN
        assert parameter.requires_grad == trained, name
        assert (parameter.grad is not None) == trained, name


def test_the_frozen_stay_in_eval_mode():
    objective = objective_of(STAGE2).train()
    assert objective.fusion.training
    assert objective.fused_decoder.training
    frozen = [module for name in FROZEN for module in getattr(objective, name).modules()]
    assert not any(module.training for module in frozen)


def test_clean_pairs_are_all_that_is_read():
    objective = objective_of(STAGE2)
    batch = {name: pairs()[name] for name in objective.FIELDS}
    terms = objective(batch, 0)
    torch.testing.assert_close(
        terms["loss"].detach(), torch.stack([terms[name] for name in TERMS]).sum()
    )


def test_mixing_reads_degraded_pairs_with_their_prompts():
    def loss(config: Stage2Config, *, of: dict[str, torch.Tensor], seed: int = 0) -> torch.Tensor:
        objective = objective_of(config)
        open_text(objective)
        torch.manual_seed(seed)
        return objective(of, 0)["loss"]

    clean, mixed = STAGE2, Stage2Config(model=tiny(), mix_degraded=0.5)
    batch = pairs(size=8)
    equal = batch | {"vi_lq": batch["vi_gt"], "ir_lq": batch["ir_gt"]}
    equal |= {name: torch.zeros(8, dtype=torch.long) for name in ("vi_task", "ir_task")}
    assert torch.equal(loss(clean, of=equal), loss(mixed, of=equal))
    assert not torch.equal(loss(mixed, of=equal), loss(mixed, of=batch))
    other_task = equal | {"vi_task": torch.ones(8, dtype=torch.long)}
    assert not torch.equal(loss(mixed, of=equal), loss(mixed, of=other_task))


def test_stage2_starts_from_what_stage1_learned():
    stage1, stage2 = objective_of(STAGE1), objective_of(STAGE2, seed=1)
    stage1.prompts.vi.add_(1)
    SYSTEM.load_initial(stage2, STAGE2, Initial(STAGE1, stage1.state_dict()))
    for name in FROZEN:
        assert digest_of(getattr(stage1, name)) == digest_of(getattr(stage2, name))
    assert digest_of(stage2.fused_decoder) == digest_of(stage1.decoders["vi"])


@pytest.mark.parametrize("config", [STAGE1, STAGE2])
def test_a_stage_goes_on_from_its_own(config: Stage1Config | Stage2Config):
    first, second = objective_of(config), objective_of(config, seed=1)
    SYSTEM.load_initial(second, config, Initial(config, first.state_dict()))
    assert digest_of(first) == digest_of(second)


def test_other_networks_and_later_stages_are_refused():
    stage1, stage2 = objective_of(STAGE1), objective_of(STAGE2)
    with pytest.raises(ValueError, match="is a lure stage2 checkpoint"):
        SYSTEM.load_initial(stage1, STAGE1, Initial(STAGE2, stage2.state_dict()))
    wider = Stage1Config(model=tiny().model_copy(update={"width": 8}))
    with pytest.raises(ValueError, match="width=8 there, 4 here"):
        SYSTEM.load_initial(stage2, STAGE2, Initial(wider, objective_of(wider).state_dict()))


@pytest.mark.parametrize("config", [Stage1Config, Stage2Config])
def test_stages_train_learned_fusion_only(config: type):
    with pytest.raises(ValueError, match=r"model\.fusion"):
        config(model=LUREConfig(fusion="mean"))


@pytest.mark.slow
def test_full_size_takes_a_step():
    objective = objective_of(Stage2Config(model=full()))
    optim = OptimConfig(num_steps=2)
    terms = train_step(objective, start_state(objective, optim), [pairs(size=1)], optim, step=0)
    assert torch.isfinite(terms["loss"])
