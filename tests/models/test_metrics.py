import csv
import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models.metrics import (
    DEFAULT,
    DIRECTION,
    METRICS,
    MIN_SIDE_PX,
    VARIANTS,
    measurable,
    measure,
    to_grey,
)
from tests.models.plain_metrics import blur_by_lines, plain_metrics, plain_quality

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
TNO = SHARED / "data" / "ivif" / "tno" / "test"
PARITY = SHARED / "parity" / "metrics"

# Our name -> key in the reference file where it is another (spec, table).
REFERENCE_KEYS = {
    "AG": "AG_py",
    "MI": "MI_bits",
    "VIF": "VIF_sum",
    "VIFF": "VIFF_han2013",
    "SSIM": "SSIM_mean_L255",
    "MS_SSIM": "MS_SSIM_mean_wang",
    "PSNR": "PSNR_255",
}
# DRFusion's, and those against the target, of which the reference files have no values.
UNREFERENCED = {
    "Q_CB", "Q_MI", "Q_NCIE", "Q_P", "Q_W", "PSNR_target", "SSIM_target", "PSNR_target_affine"
}  # fmt: skip
# Its equal strengths hang on the last bit of square roots; the others hold the reference's 1e-9.
TOLERANCES = {"Qabf_ml2022": 1e-4}
SMALLEST = "07.png"
needs_reference = pytest.mark.skipif(
    not (TNO.is_dir() and PARITY.is_dir()),
    reason="reference values and TNO pictures lie in ../shared, which is absent here",
)
FUSE = {"mean": lambda ir, vi: ((ir + vi) / 2).round(), "max": torch.maximum}


def picture(levels: object) -> torch.Tensor:
    """Levels 0..255, H×W, as the 1×1×H×W in [0, 1] that `measure` takes."""
    return torch.as_tensor(np.asarray(levels), dtype=torch.float64)[None, None] / 255


def noise(seed: int, height: int = 48, width: int = 56, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (1, channels, height, width), generator=generator) / 255


# All that 48x56 pictures are large enough for.
SMALL = measurable(48, 56, METRICS)


def one(name: str, fused: torch.Tensor, vi: torch.Tensor, ir: torch.Tensor) -> float:
    return float(measure(fused, vi, ir, [name])[name])


def read_grey(path: Path) -> torch.Tensor:
    return torch.from_numpy(cv2.imread(str(path))[:, :, 0].astype(np.float64))


def reference_values(rule: str) -> dict[tuple[str, str], float]:
    with (PARITY / f"tno10_{rule}.csv").open() as stream:
        return {
            (row["image"], row["metric"]): float(row["value"]) for row in csv.DictReader(stream)
        }


@needs_reference
def test_equals_the_reference_values() -> None:
    # Two of the ten pairs, or it would take seconds; `slow` below has all.
    assert_reference(["03.png", "07.png"], DEFAULT)


@needs_reference
def test_variants_equal_the_reference_values() -> None:
    assert_reference([SMALLEST], sorted(set(VARIANTS) - UNREFERENCED))


@needs_reference
@pytest.mark.slow
def test_every_reference_value_of_ten_tno_pairs_is_met() -> None:
    names = sorted({image for image, _ in reference_values("mean")})
    assert assert_reference(names, sorted(set(METRICS) - UNREFERENCED)) == sum(
        len(reference_values(rule)) for rule in FUSE
    )


def assert_reference(images: list[str], metrics: Sequence[str]) -> int:
    """Compare the metrics of pictures fused by both rules; how many values were compared."""
    expected = {rule: reference_values(rule) for rule in FUSE}
    compared = 0
    for image in images:
        ir, vi = read_grey(TNO / "ir" / image), read_grey(TNO / "vi" / image)
        fused = torch.cat([picture(fuse(ir, vi)) for fuse in FUSE.values()])
        both = (picture(x).expand(len(FUSE), -1, -1, -1) for x in (vi, ir))
        values = measure(fused, *both, metrics)
        for (i, rule), metric in product(enumerate(FUSE), metrics):
            value = expected[rule][image, REFERENCE_KEYS.get(metric, metric)]
            rel = TOLERANCES.get(metric, 1e-9)
            assert float(values[metric][i]) == pytest.approx(value, rel=rel), (rule, image, metric)
            compared += 1
    return compared


@needs_reference
def test_every_value_of_the_reference_files_is_ours() -> None:
    keys = {metric for _, metric in reference_values("mean")}
    assert keys == {REFERENCE_KEYS.get(name, name) for name in set(METRICS) - UNREFERENCED}


def test_every_metric_has_a_direction_and_a_least_size() -> None:
    assert set(METRICS) == set(DIRECTION) == set(MIN_SIDE_PX)
    assert DIRECTION["Nabf"] == -1


def test_the_plain_build_gives_the_same_numbers() -> None:
    fused, vi, ir = noise(0, 176, 180), noise(1, 176, 180), noise(2, 176, 180)
    levels = [to_grey(x)[0].numpy() for x in (fused, ir, vi)]
    ours = {name: float(value) for name, value in measure(fused, vi, ir).items()}
    assert plain_metrics(*levels) == pytest.approx(ours, rel=1e-9)
    assert plain_metrics(*levels, blur_by_lines) == pytest.approx(ours, rel=1e-9)
    for name, value in plain_quality(*levels).items():
        assert one(name, fused, vi, ir) == pytest.approx(value, rel=1e-9), name


def test_one_value_per_picture_independent_of_the_batch() -> None:
    fused, vi, ir = (torch.cat([noise(3 * k + i) for k in range(3)]) for i in range(3))
    together = measure(fused, vi, ir, SMALL)
    for k in range(3):
        alone = measure(fused[k : k + 1], vi[k : k + 1], ir[k : k + 1], SMALL)
        for name in SMALL:
            assert together[name].shape == (3,)
            assert together[name].dtype == torch.float64
            torch.testing.assert_close(together[name][k], alone[name][0], rtol=1e-9, atol=1e-15)


def test_grey_weighs_saved_levels_and_rounds_half_to_even() -> None:
    rgb = torch.tensor([[10, 20, 30], [0, 0, 250], [2, 0, 43]], dtype=torch.float64)
    grey = to_grey(rgb.T[None, :, None] / 255)
    assert grey.flatten().tolist() == [18.0, 28.0, 6.0]  # of 18.15, 28.5 and 5.5


def test_statistics_of_a_tiny_picture() -> None:
    fused = picture([[0, 4], [0, 4]])
    assert one("EN", fused, fused, fused) == 1.0
    assert one("SD", fused, fused, fused) == 2.0
    assert one("SF", fused, fused, fused) == 4.0
    assert one("AG", fused, fused, fused) == pytest.approx(4 / math.sqrt(2))


def test_mutual_information_is_twice_the_entropy_for_a_copy_of_both() -> None:
    fused = picture([[0, 1], [2, 3]])
    assert one("MI", fused, fused, fused) == pytest.approx(4.0)
    assert one("MI", fused, fused, picture([[7, 7], [7, 7]])) == pytest.approx(2.0)


def test_psnr_of_a_known_error() -> None:
    fused, vi, ir = picture([[10, 10]]), picture([[13, 13]]), picture([[9, 9]])
    assert one("PSNR", fused, vi, ir) == pytest.approx(10 * math.log10(255**2 / 5))
    assert one("PSNR", fused, fused, fused) == math.inf


def test_a_copy_of_both_sources_is_perfect() -> None:
    fused = noise(0)
    assert one("VIF", fused, fused, fused) == pytest.approx(2.0)
    for name in ("SSIM", "Q_W", "Qcb"):
        assert one(name, fused, fused, fused) == pytest.approx(1.0), name
    assert one("VIFF", fused, fused, fused) == pytest.approx(1.0)
    # The sources are masked where they have no feature, the fused picture is not.
    assert 0.5 < one("Q_P", fused, fused, fused) < 1
    assert one("Q_MI", fused, fused, fused) == pytest.approx(2.0)
    assert one("CC", fused, fused, fused) == pytest.approx(1.0)
    kept = 0.9994 / (1 + math.exp(-7.5)) * 0.9879 / (1 + math.exp(-4.4))
    assert one("Qabf", fused, fused, fused) == pytest.approx(kept, rel=1e-3)


def test_scd_of_a_sum_of_sources() -> None:
    vi, ir = picture([[0, 50], [0, 50]]), picture([[30, 30], [90, 90]])
    assert one("SCD", (vi + ir), vi, ir) == pytest.approx(2.0)


def test_more_noise_lowers_what_is_kept() -> None:
    vi, ir = noise(1), noise(2)
    sharp = (vi + ir) / 2
    noisy = (sharp + 0.3 * (noise(3) - 0.5)).clamp(0, 1)
    names = ("VIF", "VIFF", "Qabf", "SSIM", "CC", "SCD", "PSNR", "Q_W", "Qcb")
    better, worse = measure(sharp, vi, ir, names), measure(noisy, vi, ir, names)
    for name in names:
        assert better[name] > worse[name], name


def test_a_flat_picture_keeps_nothing_and_is_finite() -> None:
    flat, vi, ir = torch.full((1, 1, 48, 48), 0.5), noise(1, 48, 48), noise(2, 48, 48)
    names = [name for name in SMALL if name != "Nabf_ml_asCalled"]
    values = measure(flat, vi, ir, names)
    assert all(torch.isfinite(value).all() for value in values.values())
    assert values["VIF"] == values["CC"] == values["EN"] == 0
    assert all(torch.isfinite(value).all() for value in measure(vi, flat, flat, names).values())


def test_colour_and_grey_of_equal_channels_agree() -> None:
    fused, vi, ir = noise(1), noise(2), noise(3)
    grey = measure(fused, vi, ir, SMALL)
    colour = measure(fused.expand(-1, 3, -1, -1), vi.expand(-1, 3, -1, -1), ir, SMALL)
    assert {name: float(v) for name, v in grey.items()} == {n: float(v) for n, v in colour.items()}


def test_inputs_stay_as_they_were() -> None:
    pictures = [noise(i, channels=3) for i in range(2)] + [noise(2)]
    copies = [x.clone() for x in pictures]
    measure(*pictures, SMALL)
    assert all(torch.equal(x, y) for x, y in zip(pictures, copies, strict=True))


@pytest.mark.parametrize(
    ("fused", "message"),
    [
        (noise(0, 48, 48), "differ in"),
        (noise(0) + 0.1, "levels"),
        (noise(0) * float("nan"), "NaN"),
        (noise(0, channels=2), r"B×3×H×W"),
    ],
)
def test_refuses_what_it_cannot_measure(fused: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(fused, noise(1), noise(2), SMALL)


def test_refuses_unknown_names_and_pictures_too_small_for_vif() -> None:
    with pytest.raises(ValueError, match=r"VISION.*known: EN"):
        measure(noise(0), noise(1), noise(2), ["VISION"])
    side = MIN_SIDE_PX["VIF"]
    assert math.isfinite(
        one("VIF", noise(0, side, side), noise(1, side, side), noise(2, side, side))
    )
    with pytest.raises(ValueError, match=f"needs {side} pixels a side, got {side - 1}x{side}"):
        one("VIF", noise(0, side, side - 1), noise(1, side, side - 1), noise(2, side, side - 1))


def test_against_the_target_is_against_two_sources_that_are_the_target() -> None:
    generator = torch.Generator().manual_seed(0)
    fused, vi, ir = torch.rand(3, 2, 1, 40, 36, generator=generator)
    target = torch.maximum(vi, ir)
    ours = measure(fused, vi, ir, ["PSNR_target", "SSIM_target"])
    alike = measure(fused, target, target, ["PSNR", "SSIM"])
    torch.testing.assert_close(list(ours.values()), list(alike.values()))
    best = measure(target, vi, ir, ["PSNR_target", "SSIM_target"])
    assert best["PSNR_target"].isinf().all()
    torch.testing.assert_close(best["SSIM_target"], torch.ones(2, dtype=torch.float64))


def test_another_exposure_is_no_error() -> None:
    levels = torch.randint(40, 200, (1, 1, 20, 24), generator=torch.Generator().manual_seed(0))
    target = picture(levels[0, 0])
    errors = torch.where(torch.arange(24) % 2 == 0, 2, -2).expand(20, 24)
    names = ["PSNR_target", "PSNR_target_affine"]
    # Half the gain and an offset of 10 levels, and errors of two levels that this makes twice as large.
    exposed = picture(levels[0, 0] // 2 * 2 / 2 + 10 + errors)
    strict, fair = (float(x) for x in measure(exposed, target, target, names).values())
    grid = [
        float((gain * (exposed - exposed.mean()) + offset - target).mul(255).square().mean())
        for gain in np.linspace(1.5, 2.5, 41)
        for offset in [float(target.mean())]
    ]
    assert strict < 15 < 34 < fair
    assert fair == pytest.approx(10 * math.log10(255**2 / min(grid)), abs=0.05)
    assert float(measure(target, target, target, names)["PSNR_target_affine"]) == math.inf
    # Turned into its negative it is no picture of the target, whatever the gain.
    spread = float((target * 255).var(correction=0))
    negative = float(measure(1 - target, target, target, names)["PSNR_target_affine"])
    assert negative == pytest.approx(10 * math.log10(255**2 / spread))
    # A flat picture has no gain; 0 / 0 counts as 0.
    flat = torch.full_like(target, 0.2)
    assert float(measure(flat, target, target, names)["PSNR_target_affine"]) == pytest.approx(
        negative
    )
