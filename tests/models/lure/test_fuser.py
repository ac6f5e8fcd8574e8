from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models import read_fuser_config, read_stage_config
from models.color import to_rgb
from models.lure import SYSTEM
from models.lure.config import Stage1Config, Stage2Config, full, tiny
from models.lure.fuser import LUREFuser
from models.system import FuseOptions
from pipelines.bundles.programs import load_program
from tests.models.lure.samples import STAGE1, STAGE2, objective_of, open_text, pairs


def fuser_of(config: Stage1Config | Stage2Config) -> LUREFuser:
    objective = objective_of(config)
    open_text(objective)
    fuser_config, weights = SYSTEM.fuser_weights(config, objective.state_dict())
    fuser = SYSTEM.build_fuser(fuser_config)
    fuser.load_state_dict(weights)
    return fuser.eval()


def hints(vi: int = 0, ir: int = 0, *, size: int = 2) -> dict[str, torch.Tensor]:
    return {"vi_task": torch.full((size,), vi), "ir_task": torch.full((size,), ir)}


@torch.no_grad()
@pytest.mark.parametrize("config", [STAGE1, STAGE2])
@pytest.mark.parametrize("size", [(32, 40), (17, 30), (16, 16)])
def test_fuses_and_restores_pictures_of_any_size(config, size: tuple[int, int]):
    vi, ir = torch.rand(2, 3, *size), torch.rand(2, 1, *size)
    fused = fuser_of(config)(vi, ir, hints())
    assert [picture.shape for picture in fused] == [(2, 3, *size), (2, 3, *size), (2, 1, *size)]
    assert all(0 < picture.min() <= picture.max() < 1 for picture in fused)


@torch.no_grad()
def test_a_prompt_changes_its_own_camera():
    fuser, batch = fuser_of(STAGE2), pairs()
    clean, dark = (fuser(batch["vi_gt"], batch["ir_gt"], hints(vi=task)) for task in (0, 4))
    assert not torch.equal(clean.fused, dark.fused)
    assert not torch.equal(clean.vi, dark.vi)
    assert torch.equal(clean.ir, dark.ir)


@torch.no_grad()
def test_pairs_of_a_batch_do_not_see_each_other():
    fuser, batch = fuser_of(STAGE2), pairs()
    told = hints() | {"vi_task": torch.tensor([1, 4])}
    together = fuser(batch["vi_lq"], batch["ir_lq"], told)
    for i in range(2):
        alone = fuser(
            *(batch[name][i : i + 1] for name in ("vi_lq", "ir_lq")),
            {name: value[i : i + 1] for name, value in told.items()},
        )
        torch.testing.assert_close(alone.fused[0], together.fused[i], atol=1e-5, rtol=0)


def test_the_fuser_of_stage1_takes_the_mean_latent():
    fuser, batch = fuser_of(STAGE1), pairs()
    with torch.no_grad():
        fused = fuser(batch["vi_gt"], batch["ir_gt"], hints())
        z_vi = fuser.encoders["vi"](batch["vi_gt"], fuser.prompts.vi[:1, 0].expand(2, -1))
        grey = batch["ir_gt"].expand(-1, 3, -1, -1)
        z_ir = fuser.encoders["ir"](grey, fuser.prompts.ir[:1, 0].expand(2, -1))
        means = [(a + b) / 2 for a, b in zip(z_vi, z_ir, strict=True)]
        torch.testing.assert_close(fused.fused, fuser.decoders["vi"](means), atol=1e-5, rtol=0)


def test_hints_are_needed():
    with pytest.raises(ValueError, match="pass vi_task and ir_task"):
        fuser_of(STAGE1)(torch.rand(1, 3, 16, 16), torch.rand(1, 1, 16, 16))


@pytest.mark.parametrize(
    ("vi", "ir"), [((1, 3, 8, 8), (1, 1, 8, 8)), ((1, 3, 16, 16), (1, 3, 16, 16))]
)
def test_pairs_that_do_not_fit_are_refused(vi: tuple[int, ...], ir: tuple[int, ...]):
    with pytest.raises(ValueError, match="got"):
        fuser_of(STAGE1)(torch.rand(vi), torch.rand(ir), hints(size=1))


def test_prepare_offers_to_compile_alone():
    fuser = fuser_of(STAGE2)
    assert SYSTEM.prepare(fuser, FuseOptions()) is fuser
    with pytest.raises(ValueError, match="tile_px=64"):
        SYSTEM.prepare(fuser, FuseOptions(tile_px=64))


@pytest.mark.parametrize("config", [STAGE1, STAGE2, Stage1Config(), Stage2Config(mix_degraded=0.5)])
def test_configs_survive_json(config):
    assert read_stage_config(config.model_dump(mode="json")) == config
    fuser = config.model
    assert read_fuser_config(fuser.model_dump(mode="json")) == fuser


def test_shrink_keeps_what_is_no_size():
    shrunk = SYSTEM.shrink(Stage2Config(model=full(), mix_degraded=0.25))
    assert shrunk.model == tiny()
    assert shrunk.mix_degraded == 0.25


def test_full_fuser_has_the_specified_size():
    fuser = LUREFuser(full())
    count = sum(p.numel() for p in fuser.parameters())
    # Encoders, fusion and fusion decoder, 13.75 M; and the two restoration decoders.
    assert count == 2 * 4_952_402 + 1_256_941 + 2_584_939 + 2 * 2_584_939


def fuser_that_knows_two_tasks() -> LUREFuser:
    """Task 2 looks as the degraded pictures of `pairs`, 4 as they do when they are darker."""
    fuser, batch = fuser_of(STAGE2), pairs()
    for camera, picture in (("ir", to_rgb(batch["ir_lq"])), ("vi", batch["vi_lq"])):
        seen = fuser.encoders[camera].embed(picture)
        for task, maps in ((2, seen), (4, seen / 9)):
            fuser.routers.of(camera).observe(maps, torch.tensor([task, task]))
    return fuser


@pytest.mark.slow
@torch.no_grad()
def test_the_exported_program_reads_prompts_and_finds_out_what_is_not_told(
    bundle_of: Callable[[str], Path],
):
    fuser, batch = fuser_that_knows_two_tasks(), pairs()
    program = load_program(bundle_of("lure") / "program.pt2")
    # To export takes a minute; what a bundle's program computes with is not part of it.
    program.load_state_dict(SYSTEM.program(fuser).state_dict())
    vi, ir = batch["vi_lq"], batch["ir_lq"] / 9
    for told in (
        {"vi_task": torch.tensor([9, 0]), "ir_task": torch.tensor([3, 6])},
        {"vi_task": torch.tensor([-1, 1]), "ir_task": torch.tensor([-1, -1])},
    ):
        expected = fuser(vi, ir, told)
        for ours, theirs in zip(expected, program(vi, ir, *told.values()), strict=True):
            torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
    known = fuser(vi, ir, {"vi_task": torch.tensor([2, 1]), "ir_task": torch.tensor([4, 4])})
    assert torch.equal(expected.fused, known.fused)


def test_what_has_no_statistics_cannot_find_out():
    batch = pairs()
    with pytest.raises(ValueError, match="no statistics of tasks"):
        fuser_of(STAGE2)(batch["vi_lq"], batch["ir_lq"], hints(vi=-1))


@torch.no_grad()
def test_the_probe_looks_at_the_middle_under_each_prompt():
    fuser, picture = fuser_of(STAGE2), torch.rand(1, 3, 210, 300)
    found = SYSTEM.probe.embed(fuser, picture, "vi", "low_light")
    middle = picture[..., 9:201, 54:246]
    for name, task in (("latents", 4), ("latents_unprompted", 0)):
        expected = fuser.latents("vi", middle, torch.tensor([task]))[-1].mean(dim=(2, 3))
        torch.testing.assert_close(found[name], expected)
    untold = SYSTEM.probe.embed(fuser, picture, "vi", "blur+random_noise")
    assert torch.equal(untold["latents"], untold["latents_unprompted"])
