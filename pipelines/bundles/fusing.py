"""Fuse many pairs: find them, fuse each to a picture, list those that failed.

Pictures keep their stems, so the frames of a video keep their order.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from degradations.catalogue import CLEAN
from degradations.chain import Applied
from degradations.noise import estimate_noise_level
from models.devices import all_sent, sent, use_device
from models.system import FuseOptions, Hints
from pipelines.bundles.degradation_types import TYPE_VECTOR, Sight
from pipelines.bundles.export import Bundle
from pipelines.checks.depth import Window, WindowRule, find_windows
from pipelines.scenarios.hints import hints_of
from pipelines.sources.pairing import Refused, pair_by_stem
from pipelines.sources.pictures import (
    encode_jpeg,
    encode_png,
    levels_of,
    to_8_bits,
    to_levels,
    to_tensor,
    to_uint8,
)
from pipelines.sources.scenes import Read, read_pair
from pipelines.sources.source_paths import SourcePath
from pipelines.store.folders import Folder

FAILURES = "failures.json"
# What follows the stem of a picture of both sources and the result.
SIDE_BY_SIDE = "_side_by_side.jpg"
_GAP_PX = 4
# The model and options of a folder's pictures, so that no folder mixes two of them.
_SETTINGS = "fusion.json"


class FusablePair(BaseModel):
    """Two sources to fuse, by URI, and the name of the PNG or JPEG that they become."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vi_uri: str
    ir_uri: str
    name: str


class Fusing(BaseModel):
    """The model and options that pairs are fused with, and what each camera is known to suffer.

    None is not known, empty is nothing. With `side_by_side` both sources and the result are written as
    one picture, too. Of a model that takes operators, each picture's noise is then
    estimated, and taken for all that it suffers (DRFusion spec 14: A = I).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Bundle
    options: FuseOptions = FuseOptions()
    vi_chain: tuple[Applied, ...] | None = None
    ir_chain: tuple[Applied, ...] | None = None
    vi_window: Window | None = None
    ir_window: Window | None = None
    side_by_side: bool = False

    @property
    def estimates(self) -> tuple[str, ...]:
        """The cameras whose noise is estimated."""
        if self.bundle.system.hints != "operators":
            return ()
        chains = {"vi": self.vi_chain, "ir": self.ir_chain}
        return tuple(camera for camera, chain in chains.items() if chain is None)

    def hints(self, vi: np.ndarray | None = None, ir: np.ndarray | None = None) -> Hints:
        """The hints that the model takes of a pair, H×W×C uint8 or uint16; without one no estimates.

        Raises ValueError for degradations that it takes no hint for.
        """
        names = self.bundle.system.hint_names
        if not names and (self.vi_chain or self.ir_chain):
            raise ValueError(
                f"{self.bundle.source}: {self.bundle.system.name} takes no hints; leave "
                "--degradation out"
            )
        chains = {"vi": self.vi_chain or (), "ir": self.ir_chain or ()}
        for camera, picture in (("vi", vi), ("ir", ir)):
            if camera in self.estimates and picture is not None:
                chains[camera] = (_estimated_noise(picture),)
        return hints_of(names, **chains)


class Failure(BaseModel):
    """A picture that was not made, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    reason: str


# The pictures of a pair, H×W×C uint8 or uint16: visible, infrared.
Pictures = tuple[np.ndarray, np.ndarray]


class PictureFuser:
    """A loaded model on a device: decoded pairs in, fused pictures out."""

    def __init__(self, fusing: Fusing, device: str = "cpu") -> None:
        self._device = use_device(device)
        self._bundle, self._fuser = fusing.bundle, fusing.bundle.fuser().to(self._device)
        self._fuse = fusing.bundle.system.prepare(self._fuser, fusing.options)

    def __call__(
        self, pairs: Sequence[Pictures], hints: Sequence[Hints]
    ) -> list[Tensor | ValueError]:
        """Fuse pairs with the hints of each, to 1×3×H×W each, or why it could not be; in the pairs' order.

        Those of one size are fused at once, but for what is too much for the device: that one by one.
        """
        of_size = defaultdict[tuple[int, ...], list[int]](list)
        for place, (vi, _) in enumerate(pairs):
            of_size[vi.shape[:2]].append(place)
        fused: dict[int, Tensor | ValueError] = {}
        for places in of_size.values():
            chosen = [pairs[place] for place in places], [hints[place] for place in places]
            fused |= zip(places, self._of_one_size(*chosen), strict=True)
        return [fused[place] for place in range(len(pairs))]

    def sees(self, pictures: Pictures) -> Sight:
        """What the model sees that each camera suffers; empty where its types are not known."""
        probe, types = self._bundle.system.probe, self._bundle.types
        if probe is None or types is None:
            return Sight()
        shares, distances = dict[str, dict[str, float]](), dict[str, float]()
        cameras: tuple[Literal["vi", "ir"], ...] = ("vi", "ir")
        for camera, picture in zip(cameras, pictures, strict=True):
            with torch.inference_mode():
                there = sent(to_tensor(picture), self._device)
                found = probe.embed(self._fuser, there, camera, CLEAN)
            assert found is not None, "a model with types has the vectors that they were learnt of"
            vector = found[TYPE_VECTOR][0].cpu().numpy()
            shares[camera] = types.shares(vector, camera)
            distances[camera] = types.distance(vector, camera)
        return Sight(shares, distances)

    def _of_one_size(
        self, pairs: Sequence[Pictures], hints: Sequence[Hints]
    ) -> list[Tensor | ValueError]:
        vi, ir = (
            torch.cat([to_tensor(pair[camera]) for pair in pairs]) for camera in (0, 1)
        )  # B 3 H W, B 1 H W
        joined = {name: torch.cat([one[name] for one in hints]) for name in hints[0]}
        there = self._device
        try:
            with torch.inference_mode():
                found = self._fuse(sent(vi, there), sent(ir, there), all_sent(joined, there))
                fused = found.fused.to("cpu", torch.float32)  # B 3 H W
        except torch.OutOfMemoryError:
            if len(pairs) > 1:
                each = zip(pairs, hints, strict=True)
                return [result for pair, one in each for result in self._of_one_size([pair], [one])]
            return [ValueError("the GPU's memory is too small for it; try --tile")]
        except ValueError as error:
            return [error] * len(pairs)
        return [
            one if one.isfinite().all() else ValueError("fused, it holds NaN or infinite values")
            for one in fused.split(1)
        ]


# A pair and its pictures.
_Read = tuple[FusablePair, Pictures]


class PairFuser:
    """A loaded model that writes what it fuses, on a device: what an actor holds."""

    def __init__(self, fusing: Fusing, read: Read, folder: Folder, device: str = "cpu") -> None:
        self._fuse = PictureFuser(fusing, device)
        self._hints = fusing.hints
        self._read, self._folder = read, folder
        self._windows = {"vi_window": fusing.vi_window, "ir_window": fusing.ir_window}
        self._side_by_side = fusing.side_by_side

    def __call__(self, pairs: Sequence[FusablePair]) -> list[Failure]:
        """Write a picture a pair, a PNG of 16 bits if a source has them; return what cannot be fused.

        Pairs of one size are fused at once. They are read, and their pictures made, by a thread each.
        """
        with ThreadPoolExecutor(len(pairs)) as threads:
            failures, read = [], list[_Read]()
            for pair, found in zip(pairs, threads.map(self._pictures, pairs), strict=True):
                if isinstance(found, ValueError):
                    failures.append(_failure(pair, found))
                else:
                    read.append((pair, found))
            pictures = [found for _, found in read]
            fused = self._fuse(pictures, [self._hints(*found) for found in pictures])
            failures += [failure for failure in threads.map(self._write, read, fused) if failure]
        return failures

    def sees(self, pair: FusablePair) -> Sight:
        """What the model sees that each camera suffers; empty where its types are not known."""
        pictures = self._pictures(pair)
        return Sight() if isinstance(pictures, ValueError) else self._fuse.sees(pictures)

    def _pictures(self, pair: FusablePair) -> Pictures | ValueError:
        try:
            return read_pair(pair.vi_uri, pair.ir_uri, self._read, **self._windows)
        except ValueError as error:
            return error

    def _write(self, read: _Read, fused: Tensor | ValueError) -> Failure | None:
        pair, pictures = read
        if isinstance(fused, ValueError):
            return _failure(pair, f"{pair.vi_uri}: {fused}")
        if pair.name.lower().endswith(".png"):
            data = encode_png(to_levels(fused, np.result_type(*pictures)))
        else:
            data = encode_jpeg(to_uint8(fused))
        self._folder.replace(pair.name, data)
        if self._side_by_side:
            name = f"{PurePosixPath(pair.name).stem}{SIDE_BY_SIDE}"
            self._folder.replace(name, encode_jpeg(_beside(*pictures, to_uint8(fused))))
        return None


def _beside(*pictures: np.ndarray) -> np.ndarray:
    """Pictures of one height, H×W×3 or H×W×1, uint8 or uint16, as one uint8 H×W×3."""
    shown = [to_8_bits(picture) for picture in pictures]
    gap = np.full((shown[0].shape[0], _GAP_PX, 3), 255, np.uint8)
    columns = [np.broadcast_to(picture, (*picture.shape[:2], 3)) for picture in shown]
    return np.concatenate([part for column in columns for part in (column, gap)][:-1], axis=1)


def _estimated_noise(picture: np.ndarray) -> Applied:
    """The white noise of H×W×C, uint8 or uint16."""
    level = estimate_noise_level(picture / np.float32(np.iinfo(picture.dtype).max))
    return Applied(name="gaussian_noise", params={"sigma_level": level, "seed": 0})


def _failure(pair: FusablePair, reason: object) -> Failure:
    return Failure(name=pair.name, reason=" ".join(str(reason).split()))


def find_fusable(vi: SourcePath, ir: SourcePath) -> tuple[list[FusablePair], list[Failure]]:
    """Pair two folders by stem, in order of name; and the pictures that have no partner, by name.

    The same folder twice holds pictures of both cameras. Raises ValueError where there is no pair.
    """
    for folder in (vi, ir):
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder")
    pairs, refused = pair_by_stem(vi, ir)
    if not pairs:
        raise ValueError(f"{vi} and {ir}: no two pictures of one name in them")
    fusable = [
        FusablePair(vi_uri=str(pair.vi), ir_uri=str(pair.ir), name=f"{pair.stem}.png")
        for pair in pairs
    ]
    return sorted(fusable, key=lambda pair: pair.name), [
        _left_out(item) for item in refused if item.pairs
    ]


def _left_out(refused: Refused) -> Failure:
    name = f"{PurePosixPath(refused.path).stem}.png"
    return Failure(name=name, reason=f"{refused.path}: {refused.reason}")


def with_windows(
    fusing: Fusing,
    pairs: Sequence[FusablePair],
    read: Read,
    rules: Mapping[str, WindowRule | None],
) -> Fusing:
    """Fusing with the window of each camera whose pictures have more than 8 bits, by rule or measured."""
    if all(pair.vi_uri == pair.ir_uri for pair in pairs):
        return fusing
    uris = {"vi": [pair.vi_uri for pair in pairs], "ir": [pair.ir_uri for pair in pairs]}
    found = find_windows(uris, lambda uri: levels_of(read(uri), uri), rules)
    return fusing.model_copy(update=found)


def left_to_fuse(
    pairs: Iterable[FusablePair], folder: Folder, fusing: Fusing, *, overwrite: bool
) -> list[FusablePair]:
    """The pairs whose picture is not in `folder` yet; with `overwrite` it is emptied of them first.

    Raises ValueError when it holds pictures of another model or other options, or of unknown ones.
    """
    pairs = list(pairs)
    made = {entry.name: entry for entry in folder.entries("")}
    done = [made[pair.name] for pair in pairs if pair.name in made]
    settings = _settings_bytes(fusing)
    if overwrite:
        # Before the new settings are written: a run that is stopped here leaves no mixture.
        for entry in done:
            folder.delete(entry)
        done = []
    elif done and (_SETTINGS not in made or folder.read(_SETTINGS) != settings):
        raise ValueError(
            f"{folder.uri}: holds {len(done)} of these pictures, not known to be made with this "
            "model and these options; choose another folder, or --overwrite"
        )
    folder.replace(_SETTINGS, settings)
    skipped = {entry.name for entry in done}
    return [pair for pair in pairs if pair.name not in skipped]


def write_failures(failures: Iterable[Failure], folder: Folder) -> None:
    """Write the list of failures beside the pictures, or delete that of an earlier run."""
    found = [failure.model_dump() for failure in sorted(failures, key=lambda item: item.name)]
    if found:
        folder.replace(FAILURES, (json.dumps(found, indent=2) + "\n").encode())
        return
    for entry in folder.entries(FAILURES):
        folder.delete(entry)


def _settings_bytes(fusing: Fusing) -> bytes:
    left_out: Any = {"bundle": True, "side_by_side": True, "options": {"compiled"}}
    settings = fusing.model_dump(mode="json", exclude=left_out)
    # The weights, not where they lie: a bundle may be moved.
    settings["model_sha256"] = hashlib.sha256(fusing.bundle.weights).hexdigest()
    return (json.dumps(settings, indent=2) + "\n").encode()
