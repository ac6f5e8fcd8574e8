"""The default metrics as one writes them down: one picture at a time, NumPy and SciPy.

The measure of the fast ones, in numbers and in seconds. `f`, `a`, `b` are H×W float64 levels;
`blur` filters with a Gaussian window where it fits, in 2-D as the definitions have it, or by lines.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import correlate, correlate1d

Blur = Callable[[np.ndarray, int, float], np.ndarray]


def blur_by_planes(x: np.ndarray, size: int, sigma: float) -> np.ndarray:
    line = taps(size, sigma)
    return convolve(x, np.outer(line, line))


def convolve(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    from scipy.signal import convolve2d  # a second, which every process of the tests would spend

    return convolve2d(x, kernel, "valid")


def blur_by_lines(x: np.ndarray, size: int, sigma: float) -> np.ndarray:
    line, inner = taps(size, sigma), slice(size // 2, -(size // 2))
    return correlate1d(correlate1d(x, line, axis=0)[inner], line, axis=1)[:, inner]


def taps(size: int, sigma: float) -> np.ndarray:
    line = np.exp(-((np.arange(size) - (size - 1) / 2) ** 2) / (2 * sigma**2))
    return line / line.sum()


def plain_metrics(
    f: np.ndarray, a: np.ndarray, b: np.ndarray, blur: Blur = blur_by_planes
) -> dict[str, float]:
    mse = (np.mean((f - a) ** 2) + np.mean((f - b) ** 2)) / 2
    gy, gx = np.gradient(f)
    frequency = np.mean(np.diff(f, axis=0) ** 2) + np.mean(np.diff(f, axis=1) ** 2)
    return {
        "EN": entropy(f),
        "SD": float(f.std()),
        "SF": math.sqrt(frequency),
        "AG": float(np.sqrt((gx**2 + gy**2) / 2).mean()),
        "MI": mutual(f, a) + mutual(f, b),
        "VIF": vifp(a, f, blur) + vifp(b, f, blur),
        "VIFF": viff(a, b, f, blur),
        "Qabf": qabf(a, b, f),
        "Nabf": nabf(a, b, f),
        "SSIM": (ssim(f, a, blur) + ssim(f, b, blur)) / 2,
        "MS_SSIM": (ms_ssim(f, a, blur) + ms_ssim(f, b, blur)) / 2,
        "SCD": corr(f - b, a) + corr(f - a, b),
        "CC": (corr(f, a) + corr(f, b)) / 2,
        "PSNR": 10 * math.log10(255**2 / mse),
    }


def corr(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x.ravel(), y.ravel())[0, 1])


def entropy(*pictures: np.ndarray) -> float:
    counts = np.histogramdd([x.ravel() for x in pictures], bins=[np.arange(257)] * len(pictures))[0]
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum())


def mutual(x: np.ndarray, y: np.ndarray) -> float:
    return entropy(x) + entropy(y) - entropy(x, y)


def channels(
    ref: np.ndarray, dist: np.ndarray, blur: Blur
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Gain, source variance and residual variance at the four scales of VIFp."""
    found = []
    for scale in range(4):
        size = 2 ** (4 - scale) + 1
        if scale:
            ref = blur(ref, size, size / 5)[::2, ::2]
            dist = blur(dist, size, size / 5)[::2, ::2]
        m1, m2 = blur(ref, size, size / 5), blur(dist, size, size / 5)
        v1 = np.maximum(blur(ref * ref, size, size / 5) - m1 * m1, 0)
        v2 = np.maximum(blur(dist * dist, size, size / 5) - m2 * m2, 0)
        cov = blur(ref * dist, size, size / 5) - m1 * m2
        gain = cov / (v1 + 1e-10)
        rest = v2 - gain * cov
        gain[v1 < 1e-10] = 0
        rest[v1 < 1e-10] = v2[v1 < 1e-10]
        v1[v1 < 1e-10] = 0
        gain[v2 < 1e-10] = 0
        rest[v2 < 1e-10] = 0
        rest[gain < 0] = v2[gain < 0]
        gain[gain < 0] = 0
        found.append((gain, v1, np.maximum(rest, 1e-10)))
    return found


def vifp(ref: np.ndarray, dist: np.ndarray, blur: Blur) -> float:
    kept = whole = 0.0
    for gain, variance, rest in channels(ref, dist, blur):
        kept += np.log10(1 + gain**2 * variance / (rest + 2)).sum()
        whole += np.log10(1 + variance / 2).sum()
    return float(kept / whole)


def viff(a: np.ndarray, b: np.ndarray, f: np.ndarray, blur: Blur) -> float:
    noise, total = 0.005 * 255**2, 0.0
    both = channels(a, f, blur), channels(b, f, blur)
    for weight, one, two in zip((1, 0, 0.15, 1), *both, strict=True):
        gain, variance, rest = (
            np.where(one[0] < two[0], x, y) for x, y in zip(one, two, strict=True)
        )
        kept = np.log10(1 + gain**2 * variance / (rest + noise)) + 1e-7
        total += weight / 2.15 * kept.sum() / (np.log10(1 + variance / noise) + 1e-7).sum()
    return float(total)


SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])


def qabf(a: np.ndarray, b: np.ndarray, f: np.ndarray) -> float:
    def edges(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sx, sy = (correlate(x, k, mode="constant") for k in (SOBEL, -SOBEL.T))
        with np.errstate(all="ignore"):
            return np.hypot(sx, sy), np.where(sx == 0, np.pi / 2, np.arctan(sy / sx))

    (gf, af), kept, whole = edges(f), 0.0, 0.0
    for g, angle in (edges(a), edges(b)):
        with np.errstate(all="ignore"):
            strength = np.where(g > gf, gf / g, np.where(g == gf, gf, g / gf))
        turn = 1 - np.abs(angle - af) / (np.pi / 2)
        quality = 0.9994 / (1 + np.exp(-15 * (strength - 0.5)))
        quality *= 0.9879 / (1 + np.exp(-22 * (turn - 0.8)))
        kept, whole = kept + (quality * g).sum(), whole + g.sum()
    return float(kept / whole)


def nabf(a: np.ndarray, b: np.ndarray, f: np.ndarray) -> float:
    def edges(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sx, sy = (correlate(x, k, mode="mirror") / 8 for k in (SOBEL, SOBEL.T))
        with np.errstate(all="ignore"):
            return np.hypot(sx, sy), np.where((sx == 0) & (sy == 0), 0, np.arctan(sx / sy))

    (ga, aa), (gb, ab), (gf, af) = edges(a), edges(b), edges(f)
    lost = whole = 0.0
    for g, angle in ((ga, aa), (gb, ab)):
        with np.errstate(all="ignore"):
            strength = np.where((g == 0) | (gf == 0), 0, np.minimum(g, gf) / np.maximum(g, gf))
        turn = np.abs(np.abs(angle - af) - np.pi / 2) * 2 / np.pi
        quality = 0.9999 / (1 + np.exp(-19 * (strength - 0.5)))
        quality *= 0.9995 / (1 + np.exp(-22 * (turn - 0.5)))
        weight = np.where(g >= 2, g**1.5, 0.001)
        lost += (((gf > ga) & (gf > gb)) * (1 - np.sqrt(quality)) * weight).sum()
        whole += weight.sum()
    return float(lost / whole)


def ssim_maps(x: np.ndarray, y: np.ndarray, blur: Blur) -> tuple[np.ndarray, np.ndarray]:
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = blur(x, 11, 1.5), blur(y, 11, 1.5)
    vx, vy = (blur(z * z, 11, 1.5) - m * m for z, m in ((x, mx), (y, my)))
    cov = blur(x * y, 11, 1.5) - mx * my
    return (2 * mx * my + c1) / (mx**2 + my**2 + c1), (2 * cov + c2) / (vx + vy + c2)


def ssim(x: np.ndarray, y: np.ndarray, blur: Blur) -> float:
    luminance, structure = ssim_maps(np.pad(x, 5, "edge"), np.pad(y, 5, "edge"), blur)
    return float((luminance * structure).mean())


def ms_ssim(x: np.ndarray, y: np.ndarray, blur: Blur) -> float:
    product, weights = 1.0, (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    for scale, weight in enumerate(weights):
        luminance, structure = ssim_maps(x, y, blur)
        product *= (luminance * structure if scale == 4 else structure).mean() ** weight
        pad = ((0, 1), (0, 1))
        x, y = (convolve(np.pad(z, pad, "symmetric"), np.ones((2, 2)) / 4) for z in (x, y))
        x, y = x[::2, ::2], y[::2, ::2]
    return float(product)


def plain_quality(f: np.ndarray, a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """DRFusion's Q_MI, Q_NCIE (of pictures that span 0..255) and Q_W."""
    h_f, h_a, h_b = entropy(f), entropy(a), entropy(b)
    i_fa, i_fb, i_ab = mutual(f, a), mutual(f, b), mutual(a, b)
    matrix = np.eye(3) + np.array([[0, i_ab, i_fa], [i_ab, 0, i_fb], [i_fa, i_fb, 0]]) / 8
    share = np.linalg.eigvalsh(matrix) / 3
    return {
        "Q_MI": 2 * (i_fa / (h_f + h_a) + i_fb / (h_f + h_b)),
        "Q_NCIE": float(1 + (share * np.log2(share)).sum() / 8),
        "Q_W": weighted_index(f, a, b),
    }


def weighted_index(f: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    f, a, b = (sliding_window_view(x, (8, 8)).reshape(-1, 64) for x in (f, a, b))
    share = a.var(axis=1) / (a.var(axis=1) + b.var(axis=1))
    saliency = np.maximum(a.var(axis=1), b.var(axis=1))
    quality = share * index(f, a) + (1 - share) * index(f, b)
    return float((saliency * quality).sum() / saliency.sum())


def index(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    mx, my = x.mean(axis=1), y.mean(axis=1)
    cov = (x * y).mean(axis=1) - mx * my
    return 4 * cov * mx * my / ((x.var(axis=1) + y.var(axis=1)) * (mx**2 + my**2))
