import numpy as np
import pytest

from degradations.noise import (
    GaussianNoiseParams,
    GaussianNoiseRanges,
    IrRandomNoiseRanges,
    RandomNoiseParams,
    StripeNoiseParams,
    StripeNoiseRanges,
    ViRandomNoiseRanges,
    apply_gaussian_noise,
    apply_random_noise,
    apply_stripe_noise,
    draw_gaussian_noise,
    draw_random_noise,
    draw_stripe_noise,
    estimate_noise_level,
)

RANDOM = RandomNoiseParams(
    sigma_level=14.0, peak=80, salt_fraction=0.01, pepper_fraction=0.01, seed=7
)
STRIPE = StripeNoiseParams(sigma_level=8.0, column_sigma_level=7.0, seed=7)
GAUSSIAN = GaussianNoiseParams(sigma_level=14.0, seed=7)
KERNELS = [
    pytest.param(apply_gaussian_noise, GAUSSIAN, id="gaussian_noise"),
    pytest.param(apply_random_noise, RANDOM, id="random_noise"),
    pytest.param(apply_stripe_noise, STRIPE, id="stripe_noise"),
]


def picture(channels: int = 3) -> np.ndarray:
    levels = np.random.default_rng(1).integers(0, 256, (24, 32, channels))
    return levels.astype(np.float32) / np.float32(255)


def flat(level: float, channels: int = 1, size: int = 256) -> np.ndarray:
    return np.full((size, size, channels), level / 255, dtype=np.float32)


def random_noise(*, sigma_level: float = 0, peak: int = 0, salt: float = 0, pepper: float = 0):
    return RandomNoiseParams(
        sigma_level=sigma_level, peak=peak, salt_fraction=salt, pepper_fraction=pepper, seed=3
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("apply", "params"), KERNELS)
def test_shape(apply, params, channels):
    noisy = apply(picture(channels), params)
    assert noisy.shape == (24, 32, channels)
    assert noisy.dtype == np.float32


@pytest.mark.parametrize(("apply", "params"), KERNELS)
def test_range(apply, params):
    extremes = (picture() > 0.5).astype(np.float32)
    noisy = apply(extremes, params)
    assert noisy.min() == 0
    assert noisy.max() == 1


@pytest.mark.parametrize("level", [60, 120, 180])
def test_known_values_random_noise(level):
    noisy = apply_random_noise(flat(level), random_noise(sigma_level=10, peak=80)) * 255
    # Spec 3.5, VI RN: variance 10^2 + (255 / peak) x level, mean lowered by two truncations.
    # The grid of 255 / peak = 3.19 levels between counts is cut with the second one.
    assert noisy.var() == pytest.approx(100 + 255 / 80 * level, rel=0.03)
    assert noisy.mean() - level == pytest.approx(-1.0, abs=0.35)
    np.testing.assert_array_equal(noisy, np.round(noisy))


def test_known_values_salt_and_pepper():
    noisy = apply_random_noise(flat(100), random_noise(salt=0.02, pepper=0.05))
    assert (noisy == 1).mean() == pytest.approx(0.02 * 0.95, abs=0.003)
    assert (noisy == 0).mean() == pytest.approx(0.05, abs=0.004)


def test_known_values_gaussian_noise():
    residual = apply_gaussian_noise(flat(128, channels=3), GAUSSIAN) * 255 - 128
    assert residual.std() == pytest.approx(14.0, rel=0.01)
    assert residual.mean() == pytest.approx(0, abs=0.15)
    # White: neighbours and channels know nothing of each other.
    products = (
        residual[:, 1:] * residual[:, :-1],
        residual[1:] * residual[:-1],
        residual[..., 1:] * residual[..., :-1],
    )
    assert all(abs(product.mean()) < 0.02 * 14.0**2 for product in products)


def test_known_values_stripe_noise():
    residual = (apply_stripe_noise(flat(128), STRIPE) * 255 - 128)[..., 0]
    columns = residual.mean(axis=0)
    assert columns.std() == pytest.approx(7.0, rel=0.15)
    assert (residual - columns).std() == pytest.approx(8.0, rel=0.02)
    assert residual.mean(axis=1).std() < 1.0


@pytest.mark.parametrize(("apply", "params"), KERNELS)
def test_deterministic(apply, params):
    image = picture()
    before = image.copy()
    first = apply(image, params)
    assert first.tobytes() == apply(image, params).tobytes()
    assert image.tobytes() == before.tobytes()
    other = apply(image, params.model_copy(update={"seed": 8}))
    assert first.tobytes() != other.tobytes()


@pytest.mark.parametrize(
    ("apply", "params"),
    [
        pytest.param(apply_random_noise, random_noise(), id="random_noise"),
        pytest.param(
            apply_gaussian_noise, GaussianNoiseParams(sigma_level=0, seed=7), id="gaussian_noise"
        ),
        pytest.param(
            apply_stripe_noise,
            StripeNoiseParams(sigma_level=0, column_sigma_level=0, seed=7),
            id="stripe_noise",
        ),
    ],
)
def test_identity_at_zero(apply, params):
    image = picture()
    same = apply(image, params)
    np.testing.assert_array_equal(same, image)
    assert not np.shares_memory(same, image)


def test_random_noise_is_independent_and_stripes_are_equal_between_channels():
    grey = flat(128, channels=3, size=32)
    noisy = apply_random_noise(grey, random_noise(sigma_level=10))
    assert not np.array_equal(noisy[..., 0], noisy[..., 1])
    striped = apply_stripe_noise(grey, STRIPE)
    np.testing.assert_array_equal(striped[..., 0], striped[..., 1])


def test_draws_stay_in_the_ranges():
    rng = np.random.default_rng(0)
    draws = [draw_random_noise(ViRandomNoiseRanges(), rng) for _ in range(300)]
    assert {draw.peak for draw in draws} == set(range(70, 91))
    assert {draw.sigma_level for draw in draws} == {10.0}
    assert len({draw.seed for draw in draws}) == 300
    white = [draw_gaussian_noise(GaussianNoiseRanges(), rng) for _ in range(20)]
    assert {draw.sigma_level for draw in white} == {14.0}
    assert len({draw.seed for draw in white}) == 20
    stripes = [draw_stripe_noise(StripeNoiseRanges(), rng) for _ in range(200)]
    assert all(5 <= stripe.sigma_level <= 10 for stripe in stripes)
    assert all(5 <= stripe.column_sigma_level <= 8.5 for stripe in stripes)


def test_naming_one_infrared_field_keeps_the_other_infrared_defaults():
    ranges = IrRandomNoiseRanges(peak_range=(50, 60))
    assert ranges.sigma_range_level == (14.0, 14.0)
    assert ranges.pepper_fraction > 0


def test_a_fractional_peak_is_refused():
    with pytest.raises(ValueError, match="peak_range"):
        ViRandomNoiseRanges.model_validate({"peak_range": (70.5, 90)})


@pytest.mark.parametrize("level", [0.0, 5.0, 14.0, 25.0])
@pytest.mark.parametrize("background", [0.0, 0.4])
def test_the_noise_of_a_picture_is_estimated(level: float, background: float):
    """On a scene with edges and slopes, and where half of the pictures is clipped at black."""
    rows, columns = np.mgrid[:96, :128].astype(np.float32)
    scene = np.stack([0.2 + columns / 256, 0.3 + 0.3 * (rows > 40), 0.5 + rows / 300], axis=2)
    scene[:, :64] = background
    noisy = apply_gaussian_noise(scene, GaussianNoiseParams(sigma_level=level, seed=3))
    seen = np.rint(noisy * 255).astype(np.float32) / np.float32(255)
    assert estimate_noise_level(seen) == pytest.approx(level, rel=0.06, abs=0.5)


def test_a_black_picture_has_no_noise():
    assert estimate_noise_level(np.zeros((16, 16, 1), np.float32)) == 0
