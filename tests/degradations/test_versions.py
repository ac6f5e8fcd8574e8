"""The pixels of every kernel, held: who changes them must raise the kernel's version in the catalogue.

The version is part of a shard's address. Without it, shards with the old pixels would be reused.
"""

import hashlib
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from degradations.blur import BlurRanges
from degradations.catalogue import Degradation, Modality, Suite, find, names

ENTRIES = [
    pytest.param(find(modality, name), id=f"{modality}-{name}")
    for modality in get_args(Modality)
    for suite in get_args(Suite)
    for name in names(modality, suite=suite)
]

# Of three draws with the default ranges, and of their pixels in 8 bits. A new version adds its line
# and deletes the old one's.
PIXELS: dict[tuple[str, str, int], str] = {
    ("vi", "blur", 1): "25dbf29ed02e90c4",
    ("vi", "rain", 1): "0182131b0f7bdcdb",
    ("vi", "random_noise", 1): "a28645ff4e091f6b",
    ("vi", "low_light", 1): "a9018132ce50717f",
    ("vi", "over_exposure", 1): "c916b3060d3e4d77",
    ("vi", "haze", 1): "9da0d655a4690348",
    ("vi", "gaussian_blur", 1): "ceb908b0029fb693",
    ("vi", "gaussian_noise", 1): "78429908bf45067b",
    ("vi", "low_resolution", 1): "92fa16c56a27b962",
    ("ir", "low_contrast", 1): "27b02b79c06939ac",
    ("ir", "random_noise", 1): "79ef060797a164e8",
    ("ir", "stripe_noise", 1): "f3ec3817c86a7936",
    ("ir", "gaussian_blur", 1): "9cf18c8d0a536349",
    ("ir", "gaussian_noise", 1): "61e44d2dec2a4f20",
    ("ir", "low_resolution", 1): "94a278f1ea20b146",
}


def digest_of_pixels(entry: Degradation) -> str:
    """Digest of what a kernel draws, and makes of one picture of 40x56."""
    shape = (40, 56, 3 if entry.modality == "vi" else 1)
    rng = np.random.default_rng(5)
    image = (rng.integers(0, 256, shape) / np.float32(255)).astype(np.float32)  # H W C
    digest = hashlib.sha256()
    for _ in range(3):
        params = entry.draw(entry.ranges, rng)
        pixels = np.rint(entry.apply(image, params) * np.float32(255)).astype(np.uint8)
        digest.update(params.model_dump_json().encode() + pixels.tobytes())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize("entry", ENTRIES)
def test_other_pixels_have_another_version(entry: Degradation) -> None:
    key = (entry.modality, entry.name, entry.version)
    assert digest_of_pixels(entry) == PIXELS.get(key), (
        f"the pixels of {entry.modality} {entry.name} are not those of version {entry.version}: "
        "raise `version` in its line of degradations/catalogue.py, and write the digest here"
    )


def test_a_changed_kernel_is_noticed() -> None:
    entry = find("vi", "blur")
    halved = replace(entry, apply=lambda image, params: entry.apply(image, params) / 2)
    shifted = replace(entry, ranges=BlurRanges(sigma_range_px=(0.2, 3.0)))
    held = PIXELS["vi", "blur", entry.version]
    assert held not in (digest_of_pixels(halved), digest_of_pixels(shifted))
