import base64
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from models.dspfusion.config import Stage1Config, Stage2Config, small, tiny
from models.dspfusion.stage1 import Stage1
from models.layers import cpu_strips
from pipelines.batches.stream import Batching, ShardBatches
from pipelines.bundles.export import fuser_of_checkpoint
from pipelines.datasets.versions import DatasetVersion
from pipelines.store.folders import LocalFolder
from pipelines.training.checkpoints import read_state, read_weights, save_checkpoint
from pipelines.training.config import (
    CosineSchedule,
    MultiStepSchedule,
    OptimConfig,
    TrainingConfig,
    share_of_step,
)
from pipelines.training.loop import PREVIEW, Metrics, TrainingTask, run_training
from pipelines.training.objectives import make_objective, read_initial
from pipelines.training.optimiser import start_state
from pipelines.training.previews import PreviewPair, draw_preview, pairs_of_shards

Published = tuple[DatasetVersion, LocalFolder]


def stage1_config(published: Published, **optim: object) -> TrainingConfig:
    version, _ = published
    settings = {"num_steps": 6, "batch_size": 2, "crop_px": 32, "lr": 1e-3, "clip_norm": 1.0}
    settings |= {"log_every": 2, "checkpoint_every": 3}
    if "constant_share" in optim:
        settings["schedule"] = CosineSchedule(constant_share=optim.pop("constant_share"))
    return TrainingConfig(
        objective=Stage1Config(model=tiny()),
        optim=OptimConfig(**{**settings, **optim}),
        dataset=version.name,
    )


def start_objective(config: TrainingConfig) -> Any:
    """The objective with its first weights, read from the folder that `config` names."""
    initial = read_initial(Path(config.init_from)) if config.init_from else None
    return make_objective(config, initial)


def run(
    config: TrainingConfig,
    folder: Path,
    *,
    resume: Sequence[Path] = (),
    stop_at: int | None = None,
    pairs: Sequence[PreviewPair] = (),
    unseen: Sequence[PreviewPair] = (),
    slow_report_s: float = 0.0,
) -> list[Metrics]:
    """Run in this process; checkpoints go to `folder/<step>`. `stop_at` ends it like a kill."""

    class KilledError(Exception):
        pass

    reports = []

    def report(metrics: Metrics, scratch: Path | None) -> None:
        reports.append(metrics)
        time.sleep(slow_report_s)
        if scratch:
            scratch.rename(folder / str(int(metrics["step"])))
            scratch.mkdir()
        if metrics["step"] == stop_at:
            raise KilledError

    folder.mkdir(exist_ok=True)
    initial = read_initial(Path(config.init_from)) if config.init_from else None
    try:
        run_training(
            # version_root lies there
            TrainingTask(config, LocalFolder(folder.parent), initial, pairs, unseen),
            rank=0,
            world_size=1,
            device="cpu",
            resume=resume,
            report=report,
        )
    except KilledError:
        assert stop_at is not None
    return reports


def test_reports_steps_and_finite_losses(version_root: Published, tmp_path: Path) -> None:
    reports = run(stage1_config(version_root), tmp_path / "run")
    # A checkpoint's step is reported before it, and with it.
    assert [report["step"] for report in reports] == [2, 3, 3, 4, 6, 6]
    for report in reports:
        assert all(math.isfinite(value) for value in report.values())
        assert report["samples_per_s"] > 0
        assert 0 <= report["data_wait_share"] <= 1
        assert 50 < report["host_peak_mib"] < 50_000
        assert "cuda_peak_mib" not in report


@pytest.mark.slow
def test_the_time_of_a_report_is_no_waiting_for_data(
    version_root: Published, tmp_path: Path
) -> None:
    """It counts for the pace: a checkpoint that takes long is seen there."""
    reports = run(
        stage1_config(version_root, num_steps=2, log_every=1, checkpoint_every=2),
        tmp_path / "run",
        slow_report_s=2.0,
    )
    for report in reports[1:]:
        assert report["samples_per_s"] < 2 / 2.0
        assert report["data_wait_share"] < 0.5


@pytest.mark.slow
def test_previews_come_with_their_steps(version_root: Published, tmp_path: Path) -> None:
    config = stage1_config(version_root).model_copy(update={"preview_every": 4})
    pairs = pairs_of_shards(*version_root)
    reports = run(config, tmp_path / "run", pairs=pairs)
    # Where a checkpoint is due, too, the preview goes ahead of it.
    assert [report["step"] for report in reports] == [2, 3, 3, 4, 6, 6]
    assert [report["step"] for report in reports if PREVIEW in report] == [4, 6]
    reports = [report for report in reports if PREVIEW in report]
    # The last is what the checkpoint's fuser makes of the same pairs.
    _, fuser = fuser_of_checkpoint(tmp_path / "run" / "6")
    assert base64.b64decode(reports[-1][PREVIEW]) == draw_preview(fuser, pairs)
    # Looking changes nothing.
    run(stage1_config(version_root), tmp_path / "unseen")
    weights = [load_file(tmp_path / run / "6" / "model.safetensors") for run in ("run", "unseen")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.slow
def test_late_batches_are_smaller_and_show_more(version_root: Published, tmp_path: Path) -> None:
    config = stage1_config(
        version_root, constant_share=0.5, num_accumulated=2, late_batch_size=1, late_crop_px=48
    )
    late = config.optim.late
    assert late is not None
    assert late.from_step == 6
    version, root = version_root
    batching = Batching(("vi_lq", "vi_gt"), batch_size=2, crop_px=32, seed=1, late=late)
    batches = ShardBatches(version, root, batching, world_size=2)
    shapes = [tuple(batches.batch(step)["vi_lq"].shape) for step in (5, 6)]
    assert shapes == [(2, 3, 32, 32), (1, 3, 48, 48)]
    # The samples that are left out keep their places at the end of a step: nobody else takes them.
    assert [list(batches.positions(step)) for step in (5, 6, 7, 8)] == [[20, 22], [24], [26], [32]]
    later = replace(late, from_step=12, num_accumulated=4)
    alone = ShardBatches(version, root, replace(batching, late=later))
    assert [alone.positions(step)[0] for step in range(12, 17)] == [24, 25, 26, 27, 32]
    assert [report["step"] for report in run(config, tmp_path / "run")] == [2, 3, 3, 4, 6, 6]
    with pytest.raises(ValueError, match="late_batch_size takes 1 samples"):
        share_of_step(config.optim, 1, 4)
    assert share_of_step(config.optim, 1, 2).late == replace(late, from_step=3, num_accumulated=1)
    with pytest.raises(ValueError, match="late_batch_size is 3"):
        stage1_config(version_root, late_batch_size=3)
    with pytest.raises(ValueError, match="no late steps"):
        stage1_config(version_root, late_crop_px=48, constant_share=1)


def test_workers_and_accumulation_share_a_batch_the_same_way(version_root: Published) -> None:
    """4 samples a step: of one worker, one by one, or of four workers."""
    version, root = version_root

    def positions(batch_size: int, world_size: int, step: int) -> list[int]:
        batching = Batching(("vi_lq",), batch_size, crop_px=32, seed=1)
        shared = [
            ShardBatches(version, root, batching, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        num_accumulated = 4 // (batch_size * world_size)
        steps = range(step * num_accumulated, (step + 1) * num_accumulated)
        return sorted(p for step in steps for batches in shared for p in batches.positions(step))

    for step in (0, 7):
        whole = positions(4, 1, step)
        assert whole == positions(1, 1, step) == positions(1, 4, step) == positions(2, 2, step)


def test_resumed_equals_uninterrupted_bit_for_bit(version_root: Published, tmp_path: Path) -> None:
    config = stage1_config(version_root)
    run(config, tmp_path / "whole")
    run(config, tmp_path / "cut", stop_at=4)
    assert not (tmp_path / "cut" / "6").exists()
    run(config, tmp_path / "cut", resume=[tmp_path / "cut" / "3"])
    for name in ("model.safetensors", "optimizer.safetensors"):
        whole = load_file(tmp_path / "whole" / "6" / name)
        resumed = load_file(tmp_path / "cut" / "6" / name)
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)


@pytest.mark.slow
def test_the_fusion_loss_falls(version_root: Published, tmp_path: Path) -> None:
    config = stage1_config(version_root, num_steps=40, log_every=5, checkpoint_every=40, lr=3e-3)
    reports = run(config, tmp_path / "run")
    assert reports[-1]["fusion"] < 0.9 * reports[0]["fusion"]


def test_stage2_starts_from_stage1_and_trains_the_denoiser(
    version_root: Published, tmp_path: Path
) -> None:
    first = stage1_config(version_root, num_steps=2, checkpoint_every=2)
    run(first, tmp_path / "stage1")
    stage1 = tmp_path / "stage1" / "2"
    second = first.model_copy(
        update={"objective": Stage2Config(model=tiny()), "init_from": str(stage1)}
    )
    run(second, tmp_path / "stage2")
    before, after = read_weights(stage1), read_weights(tmp_path / "stage2" / "2")
    assert all(torch.equal(before[name], after[name]) for name in before)
    started = start_objective(second).state_dict()
    changed = {name for name in after if not torch.equal(after[name], started[name])}
    assert changed
    assert all(name.startswith("denoiser.") for name in changed)


def test_stage2_takes_a_stage1_of_another_denoiser(version_root: Published, tmp_path: Path) -> None:
    """What is Stage II's alone may be another; what both have may not."""
    first = stage1_config(version_root, num_steps=2, checkpoint_every=2)
    run(first, tmp_path / "stage1")
    stage1 = tmp_path / "stage1" / "2"
    fuser_of_checkpoint(stage1)
    for changes in ({}, {"num_steps": 5, "denoiser_width": 8}):
        stage2 = Stage2Config(model=tiny().model_copy(update=changes))
        start_objective(first.model_copy(update={"objective": stage2, "init_from": str(stage1)}))
    ablated = Stage2Config(model=tiny().model_copy(update={"degradation_prior": False}))
    with pytest.raises(ValueError, match="degradation_prior was True, is False here"):
        start_objective(first.model_copy(update={"objective": ablated, "init_from": str(stage1)}))


def test_stage2_takes_weights_that_are_handed_in(version_root: Published, tmp_path: Path) -> None:
    """A worker on another node does not see the folder that the driver read them from."""
    first = stage1_config(version_root, num_steps=1, checkpoint_every=1)
    run(first, tmp_path / "stage1")
    folder = tmp_path / "stage1" / "1"
    second = first.model_copy(
        update={"objective": Stage2Config(model=tiny()), "init_from": str(folder)}
    )
    initial = read_initial(folder)
    expected = start_objective(second).state_dict()
    elsewhere = second.model_copy(update={"init_from": str(tmp_path / "not here")})
    started = make_objective(elsewhere, initial).state_dict()
    assert all(torch.equal(expected[name], started[name]) for name in expected)
    with pytest.raises(ValueError, match=r"not here.*no config\.json"):
        start_objective(elsewhere)


def test_stage1_goes_on_from_a_stage1(version_root: Published, tmp_path: Path) -> None:
    first = stage1_config(version_root, num_steps=2, checkpoint_every=2)
    run(first, tmp_path / "stage1")
    stage1 = tmp_path / "stage1" / "2"
    again = first.model_copy(update={"init_from": str(stage1)})
    before, started = read_weights(stage1), start_objective(again).state_dict()
    assert started.keys() == before.keys()
    assert all(torch.equal(before[name], started[name]) for name in before)
    run(again, tmp_path / "again")
    after = read_weights(tmp_path / "again" / "2")
    assert not all(torch.equal(before[name], after[name]) for name in before)
    wider = Stage1Config(model=tiny().model_copy(update={"width": 8}))
    with pytest.raises(ValueError, match="width was 4, is 8 here"):
        start_objective(again.model_copy(update={"objective": wider}))


def test_stage2_goes_on_from_a_stage2(version_root: Published, tmp_path: Path) -> None:
    first = stage1_config(version_root, num_steps=1, checkpoint_every=1)
    run(first, tmp_path / "stage1")
    alone = Stage2Config(model=tiny(), fusion_weights=None)
    stage1 = str(tmp_path / "stage1" / "1")
    run(first.model_copy(update={"objective": alone, "init_from": stage1}), tmp_path / "alone")
    stage2 = tmp_path / "alone" / "1"
    whole = Stage2Config(model=tiny())
    again = first.model_copy(update={"objective": whole, "init_from": str(stage2)})
    before, started = read_weights(stage2), start_objective(again).state_dict()
    assert started.keys() == before.keys()
    assert all(torch.equal(before[name], started[name]) for name in before)
    other = Stage2Config(model=tiny().model_copy(update={"num_steps": 5}))
    with pytest.raises(ValueError, match="num_steps was 3, is 5 here"):
        start_objective(again.model_copy(update={"objective": other}))
    back = start_objective(first.model_copy(update={"init_from": str(stage2)})).state_dict()
    assert back.keys() < before.keys()
    assert all(torch.equal(before[name], back[name]) for name in back)


def test_stage2_refuses_what_does_not_fit(version_root: Published, tmp_path: Path) -> None:
    first = stage1_config(version_root, num_steps=2, checkpoint_every=2)
    run(first, tmp_path / "stage1")
    stage2 = Stage2Config(model=tiny())
    with pytest.raises(ValueError, match="set init_from"):
        start_objective(first.model_copy(update={"objective": stage2}))
    wider = Stage2Config(model=tiny().model_copy(update={"width": 8}))
    with pytest.raises(ValueError, match="width was 4, is 8 here"):
        start_objective(
            first.model_copy(
                update={"objective": wider, "init_from": str(tmp_path / "stage1" / "2")}
            )
        )


def test_a_truncated_checkpoint_is_refused(version_root: Published, tmp_path: Path) -> None:
    config = stage1_config(version_root, num_steps=2, checkpoint_every=2)
    run(config, tmp_path / "run")
    folder = tmp_path / "run" / "2"
    assert read_state(folder).step == 2
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"no checkpoint is whole: .*truncated"):
        run(config, tmp_path / "again", resume=[folder])


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_the_checkpoint_before_a_truncated_one_is_used(
    version_root: Published, tmp_path: Path, name: str
) -> None:
    config = stage1_config(version_root, num_steps=3, checkpoint_every=1)
    run(config, tmp_path / "run")
    damaged = tmp_path / "run" / "2" / name
    damaged.write_bytes(damaged.read_bytes()[:-10])
    with pytest.warns(UserWarning, match=rf"(?s)2.*{name}.*resuming from step 1"):
        run(config, tmp_path / "again", resume=[tmp_path / "run" / str(step) for step in (2, 1)])
    whole, resumed = (
        load_file(tmp_path / run / "3" / "model.safetensors") for run in ("run", "again")
    )
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_accumulated_batches_are_one_large_batch(version_root: Published, tmp_path: Path) -> None:
    whole = stage1_config(version_root, batch_size=4, num_steps=2, checkpoint_every=2)
    parts = stage1_config(
        version_root, batch_size=2, num_accumulated=2, num_steps=2, checkpoint_every=2
    )
    first, second = run(whole, tmp_path / "whole"), run(parts, tmp_path / "parts")
    assert second[0]["loss"] == pytest.approx(first[0]["loss"], rel=1e-5)
    assert second[0]["grad_norm"] == pytest.approx(first[0]["grad_norm"], rel=1e-4)
    one, two = (read_weights(tmp_path / name / "2") for name in ("whole", "parts"))
    assert all(torch.allclose(one[key], two[key], atol=1e-5) for key in one)


@pytest.mark.slow
def test_the_average_stands_for_the_model_and_survives_a_resume(
    version_root: Published, tmp_path: Path
) -> None:
    config = stage1_config(version_root, ema_decay=0.5)
    run(config, tmp_path / "whole")
    run(config, tmp_path / "cut", stop_at=4)
    run(config, tmp_path / "cut", resume=[tmp_path / "cut" / "3"])
    weights = load_file(tmp_path / "whole" / "6" / "model.safetensors")
    average = read_weights(tmp_path / "whole" / "6")
    resumed = read_weights(tmp_path / "cut" / "6")
    assert any(not torch.equal(weights[key], average[key]) for key in weights)
    assert all(torch.equal(average[key], resumed[key]) for key in average)
    # One step of it by hand: half of the average before, half of the new weights.
    one = stage1_config(version_root, num_steps=2, checkpoint_every=1, ema_decay=0.5)
    run(one, tmp_path / "one")
    before, after = (read_weights(tmp_path / "one" / str(step)) for step in (1, 2))
    new = load_file(tmp_path / "one" / "2" / "model.safetensors")
    assert all(torch.allclose(after[key], (before[key] + new[key]) / 2, atol=1e-6) for key in after)


def test_bf16_is_near_fp32(version_root: Published, tmp_path: Path) -> None:
    reports = [
        run(stage1_config(version_root, num_steps=2, precision=precision), tmp_path / precision)
        for precision in ("fp32", "bf16")
    ]
    assert reports[1][0]["loss"] != reports[0][0]["loss"]
    assert reports[1][0]["loss"] == pytest.approx(reports[0][0]["loss"], rel=0.02)
    weights = read_weights(tmp_path / "bf16" / "2")
    assert {value.dtype for value in weights.values()} == {torch.float32}


def test_a_loss_that_is_not_finite_stops_the_run(version_root: Published, tmp_path: Path) -> None:
    config = stage1_config(version_root, lr=1e30, clip_norm=1e30)
    with pytest.raises(
        ValueError, match=r"the loss is (nan|inf) at step \d+; the batch held rendered"
    ):
        run(config, tmp_path / "run")
    # The next step already, though it is not one that is logged; so no checkpoint holds a NaN.
    assert not list((tmp_path / "run").iterdir())
    with pytest.raises(ValueError, match=r"the loss is \d+.* at step 1;"):
        run(stage1_config(version_root, max_loss=1.0), tmp_path / "exploded")


@pytest.mark.parametrize(
    ("num_workers", "world_size", "expected"),
    [(2, 2, (4, 3)), (2, 1, (4, 6)), (2, 3, (4, 2)), (1, 3, (4, 1)), (1, 6, (2, 1))],
)
def test_a_step_is_shared_by_any_number_of_workers(
    num_workers: int, world_size: int, expected: tuple[int, int]
) -> None:
    optim = OptimConfig(num_steps=1, batch_size=4, num_accumulated=3)
    share = share_of_step(optim, num_workers, world_size)
    assert (share.batch_size, share.num_accumulated) == expected
    assert share.batch_size * share.num_accumulated * world_size == 12 * num_workers


def test_a_step_that_cannot_be_shared_evenly_is_refused() -> None:
    optim = OptimConfig(num_steps=1, batch_size=4)
    for world_size in (3, 6, 16):
        with pytest.raises(
            ValueError, match=f"{world_size} workers cannot share a step of 2 batch"
        ):
            share_of_step(optim, 2, world_size)


def test_a_full_disk_is_named(tmp_path: Path, small_disk: Callable[[int], Path]) -> None:
    large = Stage1(Stage1Config(model=small()))  # 1.6 MB of weights
    state = start_state(large, OptimConfig(num_steps=1))
    with pytest.raises(OSError, match=rf"disk is full; make room.*{tmp_path}/disk/model"):
        save_checkpoint(small_disk(1), state, step=1, config_json="{}")


@pytest.mark.slow
def test_compiled_is_near_plain(
    version_root: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced only: inductor took 12 minutes for tiny networks (README of the model)."""
    real = nn.Module.compile
    compiled_of: list[nn.Module] = []

    def traced(module: nn.Module) -> None:
        compiled_of.append(module)
        real(module, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", traced)
    config = stage1_config(version_root, num_steps=2, checkpoint_every=2)
    plain = run(config, tmp_path / "plain")
    compiled = run(config.model_copy(update={"compiled": True}), tmp_path / "compiled")
    assert len(compiled_of) == 1
    assert compiled[0]["loss"] == pytest.approx(plain[0]["loss"], rel=1e-4)
    one, two = (read_weights(tmp_path / name / "2") for name in ("plain", "compiled"))
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[key], two[key], atol=1e-4) for key in one)


def test_schedule_has_the_published_values() -> None:
    published = OptimConfig(num_steps=500_000)

    def rate(step: int) -> float:
        return published.schedule.rate(step, num_steps=500_000, lr=published.lr)

    assert rate(0) == rate(300_000) == 2e-4
    assert rate(350_000) == pytest.approx(1.70857e-4, rel=1e-5)
    assert rate(400_000) == pytest.approx(1.005e-4, rel=1e-5)
    assert rate(450_000) == pytest.approx(3.01429e-5, rel=1e-5)
    assert rate(499_999) == pytest.approx(1.00000001e-6, rel=1e-8)


def test_recomputed_blocks_give_the_same_steps(
    version_root: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over whole maps, as on a GPU: strips would make it do nothing."""
    monkeypatch.setattr(cpu_strips, "use_strips", lambda *_, **__: False)
    config = stage1_config(version_root, num_steps=2, checkpoint_every=2, ema_decay=0.5)
    plain = run(config, tmp_path / "plain")
    saving = config.optim.model_copy(update={"recompute_blocks": True})
    again = run(config.model_copy(update={"optim": saving}), tmp_path / "again")
    assert again[0]["loss"] == plain[0]["loss"]
    one, two = (
        load_file(tmp_path / name / "2" / "model.safetensors") for name in ("plain", "again")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_multi_step_schedule_falls_at_its_milestones(
    version_root: Published, tmp_path: Path
) -> None:
    schedule = MultiStepSchedule(milestones=(0.5, 0.8), factor=0.1)
    rates = [schedule.rate(step, num_steps=10, lr=1.0) for step in range(10)]
    assert rates == pytest.approx([1.0] * 5 + [0.1] * 3 + [0.01] * 2)
    config = stage1_config(version_root, schedule=schedule, optimizer="adam", log_every=1)
    reports = run(config, tmp_path / "run")
    assert [report["lr"] for report in reports] == pytest.approx(
        [1e-3] * 4 + [1e-4, 1e-4, 1e-5, 1e-5]
    )
    with pytest.raises(ValueError, match="rising order"):
        MultiStepSchedule(milestones=(0.8, 0.5))


def test_frozen_parameters_stay_as_they_were(version_root: Published, tmp_path: Path) -> None:
    config = stage1_config(version_root).model_copy(update={"freeze": ("fusion.encoders.*",)})
    before = {name: x.clone() for name, x in start_objective(config).state_dict().items()}
    run(config, tmp_path / "run")
    after = read_weights(tmp_path / "run" / "6")
    frozen = {name for name in before if name.startswith("fusion.encoders.")}
    assert frozen
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert any(not torch.equal(before[name], after[name]) for name in before.keys() - frozen)
    with pytest.raises(
        ValueError, match=r"freeze 'fusion.encoder.x' names no parameter; they begin"
    ):
        start_objective(config.model_copy(update={"freeze": ("fusion.encoder.x",)}))


def test_the_degradation_encoder_may_learn_at_a_rate_of_its_own(
    version_root: Published, tmp_path: Path
) -> None:
    """A share of almost nothing leaves it where it was, and the others move."""
    config = stage1_config(version_root, weight_decay=0.0)
    slow = config.objective.model_copy(update={"degradation_rate": 1e-9})
    config = config.model_copy(update={"objective": slow})
    before = {name: x.clone() for name, x in start_objective(config).state_dict().items()}
    run(config, tmp_path / "run")
    after = read_weights(tmp_path / "run" / "6")
    moved = {name for name in before if (after[name] - before[name]).abs().max() > 1e-6}
    assert moved
    assert not any(name.startswith("degradation.") for name in moved)
