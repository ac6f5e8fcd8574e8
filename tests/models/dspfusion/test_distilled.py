"""The stage after Stage II, and the folded network that it trains."""

from functools import partial

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from models.dspfusion import SYSTEM
from models.dspfusion.config import DistilledConfig, Stage1Config, Stage2Config, tiny
from models.dspfusion.distilled import Distilled
from models.dspfusion.fuser import DSPFusionFuser
from models.dspfusion.heads import fold_pixels, restored_sources
from models.losses import Ssim, brighter_source
from models.system import Initial, Weights
from tests.models.samples import training_batch

TEACHER = tiny().model_copy(update={"prior_blend": "learned"})
STUDENT = TEACHER.model_copy(update={"fold": 2, "width": 6})
CONFIG = DistilledConfig(model=STUDENT, teacher=TEACHER)
JOINED = TEACHER.model_copy(update={"fold": 2, "joins_sources": True})


def trained() -> Initial:
    """A Stage II run's weights."""
    torch.manual_seed(1)
    config = Stage2Config(model=TEACHER)
    return Initial(config, SYSTEM.build_objective(config).state_dict())


def started(config: DistilledConfig = CONFIG) -> Distilled:
    torch.manual_seed(2)
    objective = SYSTEM.build_objective(config)
    SYSTEM.load_initial(objective, config, trained())
    assert isinstance(objective, Distilled)
    return objective


def pairs(size: int = 3) -> dict[str, torch.Tensor]:
    batch = training_batch(size, 64)
    return {name: batch[name] for name in Distilled.FIELDS}


@pytest.mark.parametrize("fold", [2, 4])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (65, 130), (16, 17), (16, 16)])
def test_folding_loses_nothing_and_repeats_the_last(fold: int, height: int, width: int) -> None:
    picture = torch.rand(2, 3, height, width)
    folded = fold_pixels(picture, fold)
    assert all(size % 8 == 0 and size >= 16 for size in folded.shape[-2:])
    unfolded = torch.nn.functional.pixel_shuffle(folded, fold)
    assert torch.equal(unfolded[..., :height, :width], picture)
    assert (unfolded[..., height:, :width] == picture[..., -1:, :]).all()


def test_it_starts_as_its_teacher_on_a_smaller_picture() -> None:
    folded = TEACHER.model_copy(update={"fold": 2})
    objective = started(CONFIG.model_copy(update={"model": folded}))
    squares = torch.rand(2, 4, 32, 32)
    vi, ir = squares[:, :3], squares[:, 3:].expand(-1, 3, -1, -1)
    priors = objective.student.priors(vi, ir, objective.student.noise.expand(2, -1, -1))
    small = objective.teacher(ir, vi, *priors)
    vi, ir = (each.repeat_interleave(2, 2).repeat_interleave(2, 3) for each in (vi, ir))
    large = objective.student.fusion(ir, vi, *priors)
    torch.testing.assert_close(large[..., ::2, 1::2], small)


def test_of_a_feed_forward_it_keeps_what_weighs_most() -> None:
    narrow = TEACHER.model_copy(update={"ffn_expansion": 1.5})
    objective = started(CONFIG.model_copy(update={"model": narrow}))
    whole, pruned = (
        network.head.refinement.blocks[0].feed_forward
        for network in (objective.teacher, objective.student.fusion)
    )
    norms, kept = (each.project_out.weight.flatten(2).norm(dim=(0, 2)) for each in (whole, pruned))
    assert torch.equal(kept.sort().values, norms.sort().values[-len(kept) :])
    places = [int((norms == norm).nonzero()) for norm in kept]
    for weights in ("project_in", "context"):
        halves = getattr(whole, weights).weight.chunk(2)
        expected = torch.cat([half[places] for half in halves])
        assert torch.equal(getattr(pruned, weights).weight, expected)


@pytest.mark.parametrize("fold", [2, 4])
@pytest.mark.parametrize("shape", [(16, 16), (37, 50)])
def test_a_folded_fuser_takes_any_size(fold: int, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    fuser = DSPFusionFuser(STUDENT.model_copy(update={"fold": fold})).eval()
    with torch.inference_mode():
        fused = fuser(torch.rand(2, 3, *shape), torch.rand(2, 1, *shape)).fused
    assert fused.shape == (2, 3, *shape)
    assert 0 <= float(fused.min()) <= float(fused.max()) <= 1


def test_imported_weights_fold_nothing_and_join_nothing() -> None:
    with pytest.raises(ValidationError, match="fold is 2, but imported weights"):
        type(STUDENT)(fold=2, three_heads=True)
    with pytest.raises(ValidationError, match="joins_sources is true, but imported weights"):
        type(STUDENT)(joins_sources=True, three_heads=True)


def test_each_source_is_weighed_with_what_it_is_when_smoothed() -> None:
    torch.manual_seed(0)
    ir, vi = torch.rand(1, 1, 8, 8).expand(-1, 3, -1, -1), torch.rand(1, 3, 8, 8)
    weights = torch.randn(12)
    found = restored_sources(weights[None, :, None, None].expand(-1, -1, 8, 8), ir, vi)
    gray = 0.299 * vi[:, :1] + 0.587 * vi[:, 1:2] + 0.114 * vi[:, 2:]
    near, far = torch.zeros(2, 1, 8, 8), torch.zeros(2, 3, 8, 8)
    for index, each in enumerate((ir[:, :1], gray)):
        for y in range(8):
            for x in range(8):
                window = each[..., max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
                near[index, :, y, x] = window.mean()
    for index, each in enumerate((torch.cat([ir[:, :1], gray, gray], dim=1), vi - gray)):
        squares = each.unflatten(2, (2, 4)).unflatten(4, (2, 4)).mean(dim=(3, 5))  # 1 3 2 2
        rise = torch.tensor([0, 0, 1, 3, 5, 7, 8, 8]) / 8  # between the squares' centres
        across = torch.stack([1 - rise, rise])  # 2 8
        far[index] = across.t() @ squares[0] @ across
    w = weights.tolist()
    of_ir = (1 + w[0]) * ir + w[1] * near[0] + w[2] * far[0, 0] + w[3]
    of_gray = (1 + w[4]) * gray + w[5] * near[1] + w[6] * far[0, 1]
    of_color = (1 + w[7]) * (vi - gray) + w[8] * far[1] + weights[9:, None, None]
    torch.testing.assert_close(found[0], of_ir)
    torch.testing.assert_close(found[1], of_gray + of_color)


def test_each_pixel_blends_the_brighter_source_with_what_is_drawn() -> None:
    torch.manual_seed(0)
    fuser = DSPFusionFuser(JOINED).eval()
    vi, ir = torch.rand(2, 3, 37, 50), torch.rand(2, 1, 37, 50)
    brighter = brighter_source(vi, ir.expand(-1, 3, -1, -1))
    shares = fuser.fusion.head.output.weight[-4:]
    fused = []
    with torch.inference_mode():
        for bias in (0, 40, -40):
            hook = fuser.fusion.head.register_forward_hook(partial(_shifted, by=bias))
            fused.append(fuser(vi, ir).fused)
            hook.remove()
    assert not shares.any(), "half of each before training"
    half, drawn, joined = fused
    torch.testing.assert_close(joined, brighter)
    torch.testing.assert_close(half, (drawn + brighter) / 2)
    assert not torch.allclose(drawn, brighter, atol=0.1)


def _shifted(_module: nn.Module, _inputs: object, head: Tensor, by: float) -> Tensor:
    return torch.cat([head[:, :-1], head[:, -1:] + by], dim=1)


def test_restored_sources_are_held_to_the_clean_ones() -> None:
    config = CONFIG.model_copy(update={"model": JOINED, "taught_share": 0})
    objective, batch = started(config.model_copy(update={"restoration_weight": 3})), pairs()
    losses = objective(batch, 0)
    # The untrained head restores nothing.
    expected = 0.0
    for camera in ("vi", "ir"):
        each = [batch[f"{camera}_{quality}"].expand(-1, 3, -1, -1) for quality in ("lq", "gt")]
        expected += 3 * float((each[0] - each[1]).abs().mean() + (1 - Ssim()(*each)) / 10)
    assert float(losses["restoration"]) == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(losses["loss"].detach(), losses["fusion"] + losses["restoration"])
    assert "restoration" not in started(config)(batch, 0)
    with pytest.raises(ValidationError, match="joins_sources is false, so that no source"):
        DistilledConfig(model=STUDENT, teacher=TEACHER, restoration_weight=3)


def test_one_without_refinement_starts_from_what_both_have() -> None:
    lighter = JOINED.model_copy(update={"num_refinement_blocks": 0, "ffn_expansion": 1.0})
    config = DistilledConfig(model=lighter, teacher=JOINED, restoration_weight=1)
    torch.manual_seed(3)
    objective = SYSTEM.build_objective(config)
    assert isinstance(objective, Distilled)
    teacher = DSPFusionFuser(JOINED).state_dict()
    teacher["fusion.head.output.weight"].normal_()
    # A distilled run's weights are read as Stage II's.
    SYSTEM.load_initial(objective, config, Initial(Stage2Config(model=JOINED), teacher))
    own = objective.student.fusion.state_dict()
    assert not any(name.startswith("head.refinement.blocks") for name in own)
    for name in ("patch_embed.weight", "head.output.weight"):
        assert torch.equal(own[name], teacher[f"fusion.{name}"])


def test_what_joins_starts_as_nothing_beside_what_draws() -> None:
    objective = started(CONFIG.model_copy(update={"model": JOINED, "restoration_weight": 1}))
    drawing, joining = objective.student.fusion.head.output.weight.split([12, 52])
    taught = objective.teacher.head.output.weight
    torch.testing.assert_close(drawing, taught.repeat_interleave(4, dim=0))
    assert not joining.any()


def test_only_the_smaller_network_learns() -> None:
    objective = started()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    losses = objective(pairs(), 0)
    parts = losses["fusion"] + losses["teacher"]
    torch.testing.assert_close(losses["loss"].detach(), parts)
    losses["loss"].backward()
    learning = {name for name, each in objective.named_parameters() if each.grad is not None}
    assert learning == {name for name in before if name.startswith("student.fusion.")}
    [(rate, parameters)] = objective.parameter_groups()
    assert (rate, len(parameters)) == (1.0, len(learning))
    objective.train()
    assert objective.student.fusion.training
    assert not objective.teacher.training
    assert not objective.student.degradation.training


def test_the_teacher_fuses_a_share_with_the_priors_of_its_pairs() -> None:
    objective, batch = started(), pairs()
    teacher = DSPFusionFuser(TEACHER).eval()
    teacher.load_state_dict(trained().weights)
    with torch.inference_mode():
        taught = teacher(batch["vi_lq"], batch["ir_lq"]).fused[:2]
        own = objective.student.eval()(batch["vi_lq"], batch["ir_lq"]).fused[:2]
        found = objective(batch, 0)["teacher"]
    # Half of three pairs, rounded up.
    torch.testing.assert_close(found, CONFIG.teacher_weight * (taught - own).abs().mean())
    untaught = started(CONFIG.model_copy(update={"taught_share": 0}))
    assert "teacher" not in untaught(batch, 0)


def test_its_weights_are_a_fusers_and_start_other_stages() -> None:
    objective = started()
    model, weights = SYSTEM.fuser_weights(CONFIG, objective.state_dict())
    assert model == STUDENT
    DSPFusionFuser(STUDENT).load_state_dict(weights)
    # As a run has them, and as pretrained weights do.
    as_fused = Initial(SYSTEM.fused_stage(CONFIG), weights)
    for initial in (Initial(CONFIG, objective.state_dict()), as_fused):
        for stage in (Stage1Config(model=STUDENT), Stage2Config(model=STUDENT)):
            following = SYSTEM.build_objective(stage)
            SYSTEM.load_initial(following, stage, initial)
            assert all(
                torch.equal(value, weights[k]) for k, value in following.state_dict().items()
            )
    again = SYSTEM.build_objective(CONFIG)
    SYSTEM.load_initial(again, CONFIG, Initial(CONFIG, objective.state_dict()))
    assert torch.equal(again.state_dict()["teacher.patch_embed.weight"], teacher_embedding())


def teacher_embedding() -> torch.Tensor:
    return trained().weights["fusion.patch_embed.weight"]


@pytest.mark.parametrize(
    ("config", "initial", "message"),
    [
        (CONFIG, Initial(Stage1Config(model=TEACHER), {}), "these weights are of stage1"),
        (
            CONFIG.model_copy(update={"teacher": tiny()}),
            trained(),
            "prior_blend was 'learned', is 'restored' here",
        ),
        (
            CONFIG.model_copy(update={"model": STUDENT.model_copy(update={"semantic_width": 8})}),
            trained(),
            "semantic_width was 4, is 8 here",
        ),
    ],
)
def test_other_initial_weights_are_refused(
    config: DistilledConfig, initial: Initial, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SYSTEM.load_initial(SYSTEM.build_objective(config), config, initial)


def test_a_few_steps_bring_it_nearer_to_its_teacher() -> None:
    objective, batch = started(), pairs(2)
    optimizer = torch.optim.AdamW(objective.student.fusion.parameters(), lr=1e-3)
    losses = []
    for step in range(12):
        found: Weights = objective(batch, step)
        losses.append(float(found["loss"].detach()))
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
