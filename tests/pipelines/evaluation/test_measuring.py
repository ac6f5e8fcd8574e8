import math
import time
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models import SYSTEMS
from models.metrics import DEFAULT, METRIC_VERSION, measurable, measure, to_grey
from models.system import Fused, Fuser, Hints
from pipelines.bundles.export import Bundle
from pipelines.evaluation.baselines import source_average
from pipelines.evaluation.measuring import (
    CaseMeasurer,
    Measurement,
    choose_scenes,
    make_example,
    measure_case,
)
from pipelines.results.rows import RESTORED, Row
from pipelines.scenarios.degraded_pairs import Case, degrade
from pipelines.scenarios.table import CLEAN_SCENARIO, Scenario, find_scenario
from pipelines.sources.layouts import Layout
from pipelines.sources.scan import ScanRules, scan
from pipelines.sources.scenes import Scene, load_pair

HEIGHT, WIDTH = 48, 56
VAL = ScanRules(layout=Layout(split="val"))
MEASURED = measurable(HEIGHT, WIDTH, DEFAULT)


@pytest.fixture
def scenes(tmp_path: Path) -> list[Scene]:
    rng = np.random.default_rng(5)
    for folder, channels in (("vi", 3), ("ir", 1)):
        (tmp_path / "pairs" / folder).mkdir(parents=True)
        for name in ("a", "b"):
            image = rng.integers(0, 256, (HEIGHT // 4, WIDTH // 4, channels), dtype=np.uint8)
            large = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
            assert cv2.imwrite(str(tmp_path / "pairs" / folder / f"{name}.png"), large)
    return list(scan(tmp_path / "pairs", dataset="tiny", rules=VAL).scenes)


def take_vi(vi: torch.Tensor, ir: torch.Tensor, hints: Hints | None = None) -> Fused:
    return Fused(vi)


METHODS: dict[str, Fuser] = {"take_vi": take_vi, "source_average": source_average}
# Its weights are not read: every test names the methods that are measured.
# Of a system that takes no hints: any scenario can be measured.
_BLIND = [system for system in SYSTEMS if system.hints == "none"]
if not _BLIND:
    pytest.skip("no system without hints is there", allow_module_level=True)
BUNDLE = Bundle(source="none", model=_BLIND[0].tiny(), weights=b"")


def evaluate_scene(
    scene: Scene, scenario: Scenario, methods: Mapping[str, Fuser], *, seed: int
) -> list[Row]:
    measurement = Measurement(bundle=BUNDLE, scenarios=(scenario,), metrics=MEASURED, seed=seed)
    return measure_case(Case(scene, scenario), CaseMeasurer(measurement, methods))


def as_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def test_source_average_is_the_mean_in_every_channel() -> None:
    vi, ir = torch.full((2, 3, 8, 8), 0.2), torch.full((2, 1, 8, 8), 0.6)
    torch.testing.assert_close(source_average(vi, ir).fused, torch.full((2, 3, 8, 8), 0.4))


def test_one_row_per_method_with_every_column(scenes: list[Scene]) -> None:
    started_s = time.perf_counter()
    rows = evaluate_scene(scenes[0], CLEAN_SCENARIO, METHODS, seed=0)
    took_s = time.perf_counter() - started_s
    assert [item["method"] for item in rows] == list(METHODS)
    for item in rows:
        assert (item["scene"], item["dataset"], item["scenario"]) == ("tiny-val-a", "tiny", "clean")
        assert (item["width"], item["height"], item["reference"]) == (WIDTH, HEIGHT, "hq")
        assert item["metric_version"] == METRIC_VERSION
        assert 0 < item["seconds"] < took_s
        assert all(math.isfinite(item[name]) for name in MEASURED)


def test_methods_get_the_degraded_pair_and_are_measured_on_the_clean_one(
    scenes: list[Scene],
) -> None:
    scenario = find_scenario("low_light+stripe_noise")
    seen = []

    def spy(vi: torch.Tensor, ir: torch.Tensor, hints: Hints | None = None) -> Fused:
        seen.append((vi, ir))
        return source_average(vi, ir)

    (measured,) = evaluate_scene(scenes[0], scenario, {"spy": spy}, seed=3)
    vi, ir = load_pair(scenes[0])
    vi_lq, ir_lq, *_ = degrade(vi, ir, scenario, seed=3, scene_key=scenes[0].digest)
    assert torch.equal(seen[0][0], as_tensor(vi_lq))
    assert torch.equal(seen[0][1], as_tensor(ir_lq))
    expected = measure(source_average(*seen[0]).fused, as_tensor(vi), as_tensor(ir), MEASURED)
    assert {name: measured[name] for name in MEASURED} == {n: float(v) for n, v in expected.items()}


def test_rows_do_not_depend_on_order_or_on_other_methods(scenes: list[Scene]) -> None:
    scenario = find_scenario("vi_random_noise")
    together = [evaluate_scene(scene, scenario, METHODS, seed=1)[1] for scene in scenes]
    alone = [
        evaluate_scene(scene, scenario, {"source_average": source_average}, seed=1)[0]
        for scene in reversed(scenes)
    ][::-1]
    for one, two in zip(together, alone, strict=True):
        assert one | {"seconds": 0} == two | {"seconds": 0}


def test_a_method_that_returns_nan_is_named(scenes: list[Scene]) -> None:
    with pytest.raises(ValueError, match=r"tiny-val-a, clean, method 'broken'.*NaN"):
        evaluate_scene(
            scenes[0],
            CLEAN_SCENARIO,
            {"broken": lambda vi, ir, hints: Fused(vi * float("nan"))},
            seed=0,
        )


def test_example_shows_what_was_measured(scenes: list[Scene]) -> None:
    scenario = find_scenario("vi_blur")
    measurement = Measurement(bundle=BUNDLE, scenarios=(scenario,), seed=2)
    example = make_example(Case(scenes[0], scenario), CaseMeasurer(measurement, METHODS))
    vi, ir = load_pair(scenes[0])
    assert np.array_equal(example.vi, vi)
    assert np.array_equal(example.ir, ir)
    assert np.array_equal(example.ir_lq, ir)
    assert np.array_equal(example.fused["take_vi"], example.vi_lq)
    assert not np.array_equal(example.vi_lq, vi)
    assert example.fused["source_average"].shape == (HEIGHT, WIDTH, 3)
    assert example.fused["source_average"].dtype == np.uint8


def of_dataset(scene: Scene, dataset: str) -> Scene:
    return scene.model_copy(update={"dataset": dataset, "id": f"{dataset}-{scene.id}"})


def test_a_few_scenes_are_of_every_data_set(scenes: list[Scene]) -> None:
    several = [of_dataset(scene, name) for name in ("a", "b") for scene in scenes]
    assert choose_scenes(several, None) == tuple(several)
    assert choose_scenes(several, 2) == (several[0], several[2])
    assert choose_scenes(several, 3) == tuple(several[:3])
    assert choose_scenes(scenes, 1) == (scenes[0],)


def test_restored_sources_are_measured_against_the_clean_ones(scenes: list[Scene]) -> None:
    restoring = [system for system in SYSTEMS if system.restores_sources]
    if not restoring:
        pytest.skip("no system that restores its sources is there")

    def darker(vi: torch.Tensor, ir: torch.Tensor, hints: Hints | None = None) -> Fused:
        return Fused(vi, vi - 0.1 * vi, ir)

    measurement = Measurement(
        bundle=Bundle(source="none", model=restoring[0].tiny(), weights=b""),
        scenarios=(CLEAN_SCENARIO,),
        metrics=("EN",),
    )
    measurer = CaseMeasurer(measurement, {"darker": darker, "take_vi": take_vi})
    row, other = measure_case(Case(scenes[0], CLEAN_SCENARIO), measurer)
    assert row["PSNR_ir"] == math.inf
    assert row["SSIM_ir"] == 1
    vi, _ = load_pair(scenes[0])
    # A tenth less of every level.
    expected = -10 * math.log10(float(np.mean(np.square(to_grey(as_tensor(vi)).numpy() / 2550))))
    assert row["PSNR_vi"] == pytest.approx(expected, abs=0.2)
    assert 0.9 < row["SSIM_vi"] < 1
    assert all(math.isnan(other[name]) for name in RESTORED)
