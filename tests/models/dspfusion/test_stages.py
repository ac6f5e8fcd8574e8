import pytest
import torch
from torch import nn
from torch.distributed import HashStore, destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel

from models.dspfusion import SYSTEM
from models.dspfusion.config import (
    DSPFusionConfig,
    Stage1Config,
    Stage2Config,
    full,
    fuser_config,
    tiny,
)
from models.dspfusion.denoiser import PriorBlend
from models.dspfusion.fuser import DSPFusionFuser
from models.dspfusion.stage2 import lightened, seeded_noise
from tests.models.samples import training_batch

STAGES = [Stage1Config(model=tiny()), Stage2Config(model=tiny())]
CONTRAST = {"vi_pos", "ir_pos", "neg"}
TERMS = {"intensity_max", "intensity_consistency", "color", "gradient", "ssim", "fusion"}
FROZEN = ("fusion", "degradation", "semantic")


def objective_of(config: Stage1Config | Stage2Config) -> nn.Module:
    torch.manual_seed(0)
    return SYSTEM.build_objective(config)


def fields(objective: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: batch[name] for name in objective.FIELDS}


def test_fields():
    stage1, stage2 = (set(objective_of(config).FIELDS) for config in STAGES)
    pairs = {"vi_lq", "vi_gt", "ir_lq", "ir_gt"}
    assert stage1 == pairs | CONTRAST
    assert stage2 == pairs | {"seed"}


@pytest.mark.parametrize(
    ("config", "own_term"), [(STAGES[0], "contrastive"), (STAGES[1], "diffusion")]
)
def test_losses(config, own_term):
    objective = objective_of(config)
    losses = objective(fields(objective, training_batch(2, 32)), 0)
    assert losses.keys() == TERMS | {"loss", own_term}
    parts = losses["fusion"] + losses[own_term]
    torch.testing.assert_close(losses["loss"].detach(), parts)
    assert losses["loss"].requires_grad
    assert not any(term.requires_grad for name, term in losses.items() if name != "loss")


@pytest.mark.parametrize("config", STAGES)
def test_same_batch_same_loss(config):
    objective = objective_of(config)
    batch = fields(objective, training_batch(2, 32))
    first = objective(batch, 0)["loss"]
    torch.rand(3)  # The global generator has no say.
    assert torch.equal(first, objective(batch, 0)["loss"])


@pytest.mark.parametrize("config", STAGES)
def test_gradient_reaches_exactly_the_trainable_parameters(config):
    objective = objective_of(config)
    objective(fields(objective, training_batch(2, 32)), 0)["loss"].backward()
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name


def test_only_the_denoiser_trains_in_stage2():
    objective = objective_of(STAGES[1])
    trained = {name for name, p in objective.named_parameters() if p.requires_grad}
    assert trained == {f"denoiser.{name}" for name, _ in objective.denoiser.named_parameters()}


def test_stage2_under_ddp_stays_frozen():
    init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(objective_of(STAGES[1])).train()
        objective = wrapped.module
        wrapped(fields(objective, training_batch(2, 32)), 0)["loss"].backward()
    finally:
        destroy_process_group()
    assert objective.denoiser.training
    for name in FROZEN:
        network = getattr(objective, name)
        assert not any(module.training for module in network.modules())
        assert not any(p.requires_grad or p.grad is not None for p in network.parameters())


def test_stage2_learns_through_every_reverse_step():
    objective = objective_of(STAGES[1])
    calls = []
    handle = objective.denoiser.register_full_backward_hook(lambda *_: calls.append(1))
    objective(fields(objective, training_batch(1, 32)), 0)["loss"].backward()
    handle.remove()
    assert len(calls) == tiny().num_steps


@pytest.mark.parametrize("stage", [Stage1Config, Stage2Config])
def test_the_papers_variants_train(stage):
    """With every switch of the model: each trainable weight has a gradient, and the fuser takes them."""
    changes = {
        "dpmm_convolution": False,
        "fusion_convolution": False,
        "level1_reduction": True,
        "denoiser_predicts": "noise",
        "stretch": True,
    }
    config = stage(model=DSPFusionConfig(**{**tiny().model_dump(), **changes}))
    objective = objective_of(config)
    losses = objective(fields(objective, training_batch(2, 16)), 0)
    losses["loss"].backward()
    for name, parameter in objective.named_parameters():
        moved = parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
        assert moved == parameter.requires_grad, name
    DSPFusionFuser(fuser_config(config)).load_state_dict(objective.state_dict(), strict=True)


def test_the_objectives_hand_their_switches_to_the_losses():
    batch = training_batch(2, 16)
    for plain in STAGES:
        usual = objective_of(plain)
        given = fields(usual, batch)
        changes = {"content_target": "element_maximum"}
        if plain.stage == "stage1":
            changes["positive_in_denominator"] = False
        other = objective_of(plain.model_copy(update=changes))(given, 0)
        usual_losses = usual(given, 0)
        assert float(other["intensity_max"]) != float(usual_losses["intensity_max"])
        assert torch.equal(other["color"], usual_losses["color"])
        if plain.stage == "stage1":
            assert float(other["contrastive"]) < float(usual_losses["contrastive"])


def test_step_noise_belongs_to_the_sample():
    config = DSPFusionConfig(**{**tiny().model_dump(), "denoiser_predicts": "noise"})
    objective = objective_of(Stage2Config(model=config)).eval()
    batch = fields(objective, training_batch(2, 16))
    swapped = {name: x.flip(0) for name, x in batch.items()}
    losses, others = objective(batch, 0), objective(swapped, 0)
    torch.testing.assert_close(losses["diffusion"], others["diffusion"])
    reseeded = objective({**batch, "seed": batch["seed"] + 7}, 0)
    assert float(reseeded["diffusion"]) != float(losses["diffusion"])


def test_a_blend_goes_from_the_pairs_own_prior_to_the_restored_one():
    config = DSPFusionConfig(**{**tiny().model_dump(), "prior_blend": "learned"})
    blend = PriorBlend(config)
    width = config.semantic_prior_width
    restored = torch.randn(2, config.num_tokens, width)
    condition = torch.randn(2, config.num_tokens, width + 2 * config.degradation_prior_width)
    assert 0.8 < float(_share(blend, restored, condition).mean()) < 1
    for bias, expected in ((-100.0, condition[..., :width]), (100.0, restored)):
        torch.nn.init.constant_(blend.linear_out.bias, bias)
        torch.testing.assert_close(blend(restored, condition), expected)


def _share(blend, restored, condition):
    own = condition[..., : restored.shape[-1]]
    return ((blend(restored, condition) - own) / (restored - own)).detach()


def test_stage2_trains_a_blend_that_the_fuser_takes():
    model = DSPFusionConfig(**{**tiny().model_dump(), "prior_blend": "learned"})
    config = Stage2Config(model=model, lightened_share=0.5)
    objective = objective_of(config)
    objective(fields(objective, training_batch(2, 16)), 0)["loss"].backward()
    assert all(bool(p.grad.abs().max() > 0) for p in objective.blend.parameters())
    fuser = DSPFusionFuser(fuser_config(config))
    fuser.load_state_dict(objective.state_dict(), strict=True)
    plain = DSPFusionFuser(fuser_config(config).model_copy(update={"prior_blend": "restored"}))
    plain.load_state_dict(objective.state_dict(), strict=False)
    vi, ir = torch.rand(1, 3, 24, 24), torch.rand(1, 1, 24, 24)
    with torch.no_grad():
        assert not torch.equal(fuser.eval()(vi, ir).fused, plain.eval()(vi, ir).fused)


def test_a_blend_does_not_keep_the_denoiser_from_learning():
    """As it did when both had one loss: closed at first, it stayed closed."""
    model = DSPFusionConfig(**{**tiny().model_dump(), "prior_blend": "learned"})
    gradients = []
    for bias in (-100.0, 0.0):
        torch.manual_seed(3)
        objective = objective_of(Stage2Config(model=model, fusion_weights=None))
        torch.nn.init.constant_(objective.blend.linear_out.bias, bias)
        objective(fields(objective, training_batch(2, 16)), 0)["loss"].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in objective.denoiser.parameters()]))
    assert bool(gradients[0].abs().max() > 0)
    assert torch.equal(*gradients)


def test_a_share_of_the_pairs_is_degraded_less():
    batch = training_batch(1, 16)
    many = {name: x.expand(400, *x.shape[1:]) for name, x in batch.items()}
    many = many | {"seed": torch.arange(400)}
    there = lightened(many, 0.3)["vi_lq"]
    whole, clean = many["vi_lq"], many["vi_gt"]
    is_clean = (there - clean).abs().amax((1, 2, 3)) < 1e-6
    is_whole = (there == whole).all((1, 2, 3))
    assert 0.1 < float(is_clean.float().mean()) < 0.2  # half of the share
    assert 0.65 < float(is_whole.float().mean()) < 0.75
    between = ~(is_clean | is_whole)
    assert bool(between.any())
    assert bool(((there - clean).abs() <= (whole - clean).abs() + 1e-6).all())
    swapped = lightened({name: x.flip(0) for name, x in many.items()}, 0.3)["vi_lq"]
    assert torch.equal(swapped.flip(0), there)


def test_stage2_without_fusion_weights_learns_from_the_prior_alone(monkeypatch):
    whole = objective_of(Stage2Config(model=tiny()))
    alone = objective_of(Stage2Config(model=tiny(), fusion_weights=None))
    alone.load_state_dict(whole.state_dict())
    batch = fields(whole, training_batch(2, 16))
    expected = whole(batch, 0)["diffusion"]
    monkeypatch.setattr(alone.fusion, "forward", None)  # not called
    losses = alone(batch, 0)
    assert losses.keys() == {"loss", "diffusion"}
    torch.testing.assert_close(losses["diffusion"], expected)
    losses["loss"].backward()
    assert all(parameter.grad is not None for parameter in alone.denoiser.parameters())


def test_stage2_takes_the_weights_of_stage1():
    stage1, stage2 = (objective_of(config) for config in STAGES)
    with torch.no_grad():
        for parameter in stage1.parameters():
            parameter.add_(1)
    stage2.load_stage1(stage1.state_dict())
    for name, tensor in stage1.state_dict().items():
        assert torch.equal(stage2.state_dict()[name], tensor), name


def test_stage2_refuses_other_weights():
    stage1, stage2 = (objective_of(config) for config in STAGES)
    with pytest.raises(ValueError, match="not a Stage I state dict"):
        stage2.load_stage1(stage2.state_dict())
    lacking = stage1.state_dict()
    del lacking["semantic.encoder.stem.weight"]
    with pytest.raises(RuntimeError, match=r"encoder\.stem\.weight"):
        stage2.load_stage1(lacking)


@pytest.mark.parametrize("config", STAGES)
def test_state_dict_loads_strictly_into_the_fuser(config):
    objective = objective_of(config)
    fuser = DSPFusionFuser(fuser_config(config))
    fuser.load_state_dict(objective.state_dict(), strict=True)
    assert fuser(torch.rand(1, 3, 16, 16), torch.rand(1, 1, 16, 16)).fused.shape == (1, 3, 16, 16)


def test_noise_belongs_to_the_sample():
    noise = seeded_noise(torch.tensor([5, 7, 5]), (4, 3))
    assert noise.shape == (3, 4, 3)
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(seeded_noise(torch.tensor([7]), (4, 3))[0], noise[1])


@pytest.mark.parametrize("config", STAGES)
def test_a_few_steps_lower_the_loss(config):
    objective = objective_of(config)
    batch = fields(objective, training_batch(2, 32))
    losses = train(objective, batch, num_steps=8, learning_rate=2e-3)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("config", [Stage1Config(model=full()), Stage2Config(model=full())])
def test_full_size_training_step(config):
    objective = objective_of(config)
    batch = fields(objective, training_batch(1, 64))
    before = objective.fusion.patch_embed.weight.clone()
    (loss,) = train(objective, batch, num_steps=1, learning_rate=2e-4)
    assert loss > 0
    assert all(torch.isfinite(parameter).all() for parameter in objective.parameters())
    moved = not torch.equal(objective.fusion.patch_embed.weight, before)
    assert moved == (config.stage == "stage1")


def train(
    objective: nn.Module,
    batch: dict[str, torch.Tensor],
    *,
    num_steps: int,
    learning_rate: float,
) -> list[float]:
    trainable = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=learning_rate)
    losses = []
    for _ in range(num_steps):
        loss = objective(batch, 0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses
