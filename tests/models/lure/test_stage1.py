import pytest
import torch
from torch import Tensor, nn
from torch.distributed import HashStore, destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel

from models.layers import cpu_strips
from models.layers.recompute import recompute_blocks
from models.lure.config import Stage1Config, full, tiny
from models.lure.text import CAMERAS
from models.lure.unified import (
    Moments,
    alignment_loss,
    latent_gap_ratio,
    moments_by_task,
    statistics_loss,
)
from pipelines.training.config import OptimConfig
from pipelines.training.optimiser import start_state, train_step
from tests.models.lure.samples import STAGE1, objective_of, open_text, singles

TERMS = {"restored", "pseudo", "ssim", "alignment", "statistics"}


def loss_of(objective: nn.Module, batch: dict[str, Tensor], step: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(0)  # paraphrases
    return objective(batch, step)


def test_terms_sum_to_the_loss_with_the_ramp():
    objective = objective_of(Stage1Config(model=tiny(), ramp_steps=10))
    for step, ramp in ((0, 0), (5, 0.5), (10, 1), (99, 1)):
        terms = loss_of(objective, singles(), step)
        assert terms.keys() == TERMS | {"loss"}
        rec = terms["restored"] + terms["pseudo"] + terms["ssim"]
        unified = terms["alignment"] + terms["statistics"]
        torch.testing.assert_close(terms["loss"].detach(), rec + ramp * unified)
        assert not any(terms[name].requires_grad for name in TERMS)


def test_hash_text_makes_the_run_deterministic():
    def train(num_steps: int) -> list[Tensor]:
        objective = objective_of(STAGE1)
        state = start_state(objective, OptimConfig(num_steps=8, clip_norm=1))
        losses = []
        for step in range(num_steps):
            batch = singles(seed=step)
            optim = OptimConfig(num_steps=8, clip_norm=1)
            losses.append(train_step(objective, state, [batch], optim, step=step)["loss"])
            objective.after_step(step)
        return losses

    assert torch.equal(torch.stack(train(3)), torch.stack(train(3)))


def test_gradient_reaches_exactly_what_is_trained():
    objective = objective_of(STAGE1)
    open_text(objective)
    loss_of(objective, singles(size=8), 10**6)["loss"].backward()
    for name, parameter in objective.named_parameters():
        assert parameter.requires_grad != name.startswith("teachers"), name
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name


def test_prompts_are_no_parameters():
    objective = objective_of(STAGE1)
    assert "prompts.vi" in objective.state_dict()
    assert not list(objective.prompts.parameters())


@pytest.mark.parametrize("camera", [0, 1])
def test_a_batch_may_lack_a_camera(camera: int):
    objective = objective_of(STAGE1)
    batch = singles() | {"camera": torch.full((4,), camera)}
    loss_of(objective, batch)["loss"].backward()
    absent = objective.encoders[CAMERAS[1 - camera]]
    present = objective.encoders[CAMERAS[camera]]
    assert all(not p.grad.any() for p in absent.parameters())
    assert all(p.grad.any() for p in present.embed.parameters())
    objective.after_step(0)
    assert objective.num_seen.tolist() == [1 - camera, camera]


def test_replicas_take_a_batch_without_a_camera():
    # DDP raises in the second step where a parameter had no gradient in the first.
    init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        replica = DistributedDataParallel(objective_of(STAGE1))
        for step, camera in enumerate((0, 1)):
            batch = singles() | {"camera": torch.full((4,), camera)}
            loss_of(replica, batch, step)["loss"].backward()
    finally:
        destroy_process_group()


def test_cameras_count_by_their_share():
    objective, batch = objective_of(STAGE1), singles(size=4)
    batch["camera"] = torch.tensor([0, 1, 1, 1])
    objective.prompts.ir.copy_(objective.prompts.ir[:, :1].clone().expand_as(objective.prompts.ir))
    objective.prompts.vi.copy_(objective.prompts.vi[:, :1].clone().expand_as(objective.prompts.vi))
    both = loss_of(objective, batch)["restored"]
    ir = loss_of(objective, {name: x[:1] for name, x in batch.items()})["restored"]
    vi = loss_of(objective, {name: x[1:] for name, x in batch.items()})["restored"]
    torch.testing.assert_close(both, ir / 4 + 3 * vi / 4)


def test_teachers_follow_the_encoders_after_a_step():
    objective = objective_of(Stage1Config(model=tiny(), teacher_decay=0.9))
    before = objective.teachers["vi"].embed.weight.clone()
    assert torch.equal(before, objective.encoders["vi"].embed.weight)
    objective.encoders["vi"].embed.weight.data += 1
    loss_of(objective, singles())
    assert torch.equal(before, objective.teachers["vi"].embed.weight)
    objective.after_step(0)
    torch.testing.assert_close(objective.teachers["vi"].embed.weight, before + 0.1)


def test_running_moments_are_those_of_clean_pictures_and_part_of_the_state():
    objective = objective_of(Stage1Config(model=tiny(), statistics_decay=0.5))
    batch = singles()
    ir = batch["camera"] == 0
    with torch.no_grad():
        z = objective.encoders["ir"](batch["gt"][ir], objective.prompts.ir[0, :1].expand(2, -1))
    expected = z[0].mean(dim=(0, 2, 3))
    assert loss_of(objective, batch)["statistics"] == 0  # nothing seen yet
    objective.after_step(0)
    torch.testing.assert_close(objective.state_dict()["mean1"][0], expected)
    torch.testing.assert_close(objective.std1[0], z[0].transpose(0, 1).flatten(1).std(1, False))
    loss_of(objective, batch | {"gt": batch["gt"] / 2})
    objective.after_step(1)
    assert not torch.allclose(objective.mean1[0], expected)
    assert loss_of(objective, batch)["statistics"] > 0


def test_pseudo_noise_reaches_the_clean_pass_alone():
    noisy = Stage1Config(model=tiny(), pseudo_noise_level=2)
    a, b = (loss_of(objective_of(config), singles()) for config in (STAGE1, noisy))
    assert a["restored"] == b["restored"]
    assert a["pseudo"] != b["pseudo"]


def test_recomputed_blocks_give_the_same_gradients(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cpu_strips, "use_strips", lambda *_, **__: False)
    plain, recomputed = objective_of(STAGE1), objective_of(STAGE1)
    recompute_blocks(recomputed, recomputed.RECOMPUTED)
    for objective in (plain, recomputed):
        loss_of(objective, singles())["loss"].backward()
    block = recomputed.encoders["vi"].guided[0]
    assert "forward" in vars(block)
    names = dict(recomputed.named_parameters())
    for name, parameter in plain.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter.grad, names[name].grad), name


def test_moments_by_task():
    z = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    own = moments_by_task(z, torch.tensor([1, 0, 1]), 3)
    chosen = z[[0, 2]].transpose(0, 1).flatten(1)  # C 2HW
    torch.testing.assert_close(own.mean[1], chosen.mean(1))
    torch.testing.assert_close(own.std[1], chosen.std(1, correction=0))
    running = [Moments(own.mean[1], own.std[1])] * 4
    same = statistics_loss([z[[0, 2]]] * 4, torch.tensor([1, 1]), running, 3)
    torch.testing.assert_close(same, torch.tensor(0.0))
    assert statistics_loss([z] * 4, torch.tensor([1, 0, 1]), running, 3) > 0


def test_alignment_ignores_a_pixels_scale_and_shift():
    z = [torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(k)) for k in range(4)]
    assert alignment_loss(z, [3 * each + 1 for each in z]) < 1e-4
    assert alignment_loss(z, [each.flip(1) for each in z]) > 0.1


@pytest.mark.slow
def test_four_pairs_are_learned_by_heart():
    objective = objective_of(Stage1Config(model=tiny(), ramp_steps=50))
    batch = {name: value[:4] for name, value in smooth_singles().items()}
    optim = OptimConfig(num_steps=200, lr=5e-3, clip_norm=1)
    state = start_state(objective, optim)
    for step in range(optim.num_steps):
        terms = train_step(objective, state, [batch], optim, step=step)
        objective.after_step(step)
        # Of 0.46 at first; without any detail, 0.24 is reached.
        if terms["restored"] + terms["pseudo"] + terms["ssim"] < 0.12:
            return
    pytest.fail(f"L_rec is {terms} after {optim.num_steps} steps")


@pytest.mark.slow
def test_the_latent_gap_falls_on_two_tasks():
    objective = objective_of(Stage1Config(model=tiny(), ramp_steps=10))
    open_text(objective, std=0.02)
    optim = OptimConfig(num_steps=30, lr=5e-3, clip_norm=1)
    state = start_state(objective, optim)
    before = gap(objective)
    for step in range(optim.num_steps):
        train_step(objective, state, [smooth_singles(seed=step)], optim, step=step)
        objective.after_step(step)
    assert gap(objective) < 0.8 * before


@torch.no_grad()
def gap(objective: nn.Module) -> float:
    """The latent gap ratio of visible pictures that no step has seen."""
    batch = smooth_singles(seed=10**6)
    vi = (batch["camera"] == 1) & (batch["task"] > 0)
    lq, gt, task = (batch[name][vi] for name in ("lq", "gt", "task"))
    encoder, prompts = objective.encoders["vi"], objective.prompts
    z = encoder(lq, prompts.plainest("vi", task))
    clean = encoder(gt, prompts.plainest("vi", torch.zeros_like(task)))
    return float(latent_gap_ratio(z, clean))


def smooth_singles(*, seed: int = 0) -> dict[str, Tensor]:
    """Eight smooth pictures: noise (task 1) and half the light (task 2), of either camera."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(8, 3, 4, 4, generator=generator)
    gt = nn.functional.interpolate(coarse, size=(16, 16), mode="bilinear")
    task, camera = torch.arange(8) // 2 % 2 + 1, torch.arange(8) % 2
    noisy = (gt + 0.1 * torch.randn(gt.shape, generator=generator)).clamp(0, 1)
    lq = torch.where((task == 1)[:, None, None, None], noisy, gt / 2)
    return {"lq": lq, "gt": gt, "camera": camera, "task": task}


@pytest.mark.slow
def test_full_size_takes_a_step():
    objective = objective_of(Stage1Config(model=full()))
    trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    assert trained == 2 * (4_952_402 + 2_584_939)
    optim = OptimConfig(num_steps=2)
    state = start_state(objective, optim)
    terms = train_step(objective, state, [singles(size=2)], optim, step=0)
    objective.after_step(0)
    assert torch.isfinite(terms["loss"])
