import pytest
import torch
from torch import Tensor

from models import read_stage_config
from models.drfusion.config import DRFusionConfig, LossProfile, Stage1Config, tiny
from models.drfusion.loss import ChainLoss
from models.drfusion.stage1 import Stage1
from models.system import Batch
from tests.models.drfusion.samples import BLURRED, CLEAN, NOISY, batch, hints


def objective(config: Stage1Config) -> Stage1:
    torch.manual_seed(0)
    return Stage1(config)


def gradients(model: Stage1, given: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(3)
    terms = model(given, 0)
    terms["loss"].backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return terms, grads


@pytest.mark.parametrize("loss", ["released", "paper", "medical"])
@pytest.mark.parametrize("correction", ["released", "paper", "off"])
def test_every_parameter_learns(loss: LossProfile, correction: str) -> None:
    model = DRFusionConfig(**{**dict(tiny()), "correction": correction})
    trained = objective(Stage1Config(model=model, loss=loss))
    terms, grads = gradients(trained, batch(2, 16))
    parts = [terms[name] for name in trained.loss.weights]
    torch.testing.assert_close(terms["loss"].detach(), torch.stack(parts).sum())
    # Without correction no weight is read.
    idle = {name for name, _ in trained.named_parameters() if "weight_decoder" in name}
    expected = {name for name, _ in trained.named_parameters()}
    assert grads.keys() == (expected - idle if correction == "off" else expected)
    assert all(grad.isfinite().all() for grad in grads.values())
    assert grads["chain.alpha"].abs().min() > 0


def test_profiles() -> None:
    """Spec 6 on pictures whose losses are known."""
    x0 = torch.zeros(1, 3, 16, 16)
    x0[:, 0], x0[:, 1], x0[:, 2] = 0.6, 0.2, 0.5
    clean = torch.full((1, 2, 16, 16), 0.4)
    found = {profile: ChainLoss(profile)(x0, clean) for profile in ("released", "paper", "medical")}
    assert float(found["released"]["intensity"]) == pytest.approx(5 * 0.1)
    assert float(found["released"]["reconstruction"]) == pytest.approx(5 * 0.4)
    assert float(found["paper"]["intensity"]) == pytest.approx(10 * 0.1)
    assert float(found["paper"]["reconstruction"]) == pytest.approx(0.4)
    assert float(found["medical"]["intensity"]) == pytest.approx(10 * 0.2)
    # Flat pictures have edges at their borders alone, for zeros lie outside.
    ratio = found["paper"]["gradient"] / found["released"]["gradient"]
    assert float(ratio) == pytest.approx(200)
    border = 4 * 14 * 4 + 4 * 6
    assert float(found["released"]["gradient"]) == pytest.approx(0.1 * border / 256, rel=1e-5)


def test_dropout_is_repeatable_and_recomputing_changes_nothing() -> None:
    given = batch(2, 16) | hints(NOISY, BLURRED)
    plain, again = (objective(Stage1Config(model=tiny())) for _ in range(2))
    saved = objective(Stage1Config(model=tiny(), recompute_steps=True))
    terms, grads = gradients(plain, given)
    for other in (again, saved):
        found, others = gradients(other, given)
        assert torch.equal(terms["loss"], found["loss"])
        assert all(torch.equal(grads[name], others[name]) for name in grads)
    assert gradients(plain.eval(), given)[0]["loss"] != terms["loss"]


def test_recomputing_keeps_less() -> None:
    kept = {}
    for recompute in (False, True):
        model = objective(Stage1Config(model=tiny(), recompute_steps=recompute))
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x
        ):
            model(batch(1, 32), 0)
        kept[recompute] = sum(sizes)
    assert kept[True] < kept[False] / 3


def test_autocast_rounds_the_network_alone() -> None:
    model, given = objective(Stage1Config(model=tiny())).eval(), batch(1, 16)
    plain = model(given, 0)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(given, 0)["loss"]
    assert rounded.dtype == torch.float32
    assert 0 < (plain - rounded).abs() < 0.05 * plain


def test_a_few_steps_lower_the_loss() -> None:
    torch.manual_seed(0)
    model = objective(Stage1Config(model=tiny()))
    given = batch(2, 16) | hints(NOISY, CLEAN)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for step in range(12):
        optimizer.zero_grad()
        loss = model(given, step)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_config_round_trip() -> None:
    config = Stage1Config(model=tiny(), loss="paper", recompute_steps=True)
    assert read_stage_config(config.model_dump(mode="json")) == config


@pytest.mark.slow
def test_a_step_of_full_size() -> None:
    """Every weight of the published model gets a gradient that Adam can take, on a 64 px pair."""
    model = objective(Stage1Config(recompute_steps=True))
    given = batch(1, 64)
    terms, grads = gradients(model, given)
    assert len(grads) == 359
    assert all(grad.isfinite().all() for grad in grads.values())
    torch.optim.Adam(model.parameters(), lr=1e-4).step()
    assert torch.isfinite(model(given, 1)["loss"])
    assert float(terms["loss"]) > 0
