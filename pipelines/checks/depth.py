"""Pictures of more than 8 bits: the window of levels that becomes black to white, one for a whole folder.

A radiometric camera fills a few thousand of 65536 levels. A window of one picture's own would let a video
flicker, so that one is given, or measured over the folder, and kept with what is made of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

_SCALE = 65535
# A folder is measured by this many of its pictures, evenly spaced, and by this many pixels of each.
_MEASURED_PICTURES = 32
_MEASURED_PIXELS = 2**16
_MEASURED_PERCENT = (0.1, 99.9)
# A picture that fills this share of the 16 bits was stretched by who wrote it: full scale is white.
_FILLED_SHARE = 0.5

Depth = Literal["uint16", "float32"]


class Window(BaseModel):
    """Levels of pictures stored as `dtype` that become black (`low`) and white (`high`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Depth
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"window {self.low:g}:{self.high:g}: the first must be less")
        return self

    def described(self, camera: str) -> str:
        """A sentence for people, who may want another."""
        scale = f"of {_SCALE} " if self.dtype == "uint16" else ""
        return (
            f"{camera} pictures are {self.dtype}: levels {self.low:g} to {self.high:g} {scale}become black "
            f"to white; --{camera}-window LOW:HIGH chooses others"
        )


FULL_SCALE = Window(dtype="uint16", low=0, high=_SCALE)


class WindowRule(BaseModel):
    """How a window is found: levels, or percentiles of a folder's levels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float
    high: float
    percent: bool = False

    @classmethod
    def parse(cls, text: str | None, option: str) -> WindowRule | None:
        """Read "28000:31000", "1%:99%" or "full"; None stays None. Raises ValueError, naming the option."""
        if text is None:
            return None
        if text == "full":
            return cls(low=0, high=_SCALE)
        found = re.fullmatch(r"(-?[\d.]+)(%?):(-?[\d.]+)(%?)", text)
        if not found or found[2] != found[4] or not float(found[1]) < float(found[3]):
            raise ValueError(f"{option} {text}: write LOW:HIGH in levels, LOW%:HIGH%, or full")
        return cls(low=float(found[1]), high=float(found[3]), percent=bool(found[2]))


def apply_window(
    image: np.ndarray, window: Window | None, name: str, *, deep: bool = False
) -> np.ndarray:
    """Bring a decoded picture to uint8, or with `deep` to uint16 where it is of more than 8 bits.

    Raises ValueError for a picture of another depth than its folder's: the same scene would be of two
    brightnesses.
    """
    dtype = "uint8" if window is None else window.dtype
    if image.dtype != dtype:
        raise ValueError(
            f"{name}: {image.dtype} picture in a folder of {dtype} ones; keep the depths apart"
        )
    if window is None:
        return image
    if deep and window == FULL_SCALE:
        return image
    target: type[np.unsignedinteger] = np.uint16 if deep else np.uint8
    if dtype == "uint16":
        return _levels(np.arange(_SCALE + 1), window, target)[image]
    if not np.isfinite(image).all():
        raise ValueError(f"{name}: holds values that are no numbers")
    return _levels(image, window, target)


def _levels(values: np.ndarray, window: Window, dtype: type[np.unsignedinteger]) -> np.ndarray:
    share = (values - np.float64(window.low)) / (window.high - window.low)
    return np.rint(np.clip(share, 0, 1) * np.iinfo(dtype).max).astype(dtype)


def find_window(
    uris: Sequence[str],
    decode: Callable[[str], np.ndarray],
    rule: WindowRule | None,
    *,
    from_zero: bool,
) -> Window | None:
    """The window of a folder's pictures; None where most have 8 bits.

    `decode` returns a picture as it is stored. Without a rule, 16 bits that fill half of their scale are
    taken at full scale, and others measured, visible ones `from_zero`, because there dark is dark. A
    picture that cannot be decoded tells nothing here: who reads it names it.
    """
    step = max(1, -(-len(uris) // _MEASURED_PICTURES))
    levels: dict[str, list[np.ndarray]] = {}
    for uri in uris[::step]:
        try:
            values = decode(uri).ravel()
        except ValueError:
            continue
        levels.setdefault(str(values.dtype), []).append(
            values[:: max(1, values.size // _MEASURED_PIXELS)]
        )
    if not levels:
        return None
    counts = Counter({name: len(found) for name, found in levels.items()})
    [(most, _)] = counts.most_common(1)
    if most == "uint8":
        return None
    dtype: Depth = "uint16" if most == "uint16" else "float32"
    found = _window_of(np.concatenate(levels[dtype]), dtype, rule)
    measured_from_zero = from_zero and rule is None and found.low > 0
    return found.model_copy(update={"low": 0.0}) if measured_from_zero else found


def find_windows(
    uris: Mapping[str, Sequence[str]],
    decode: Callable[[str], np.ndarray],
    rules: Mapping[str, WindowRule | None],
) -> dict[str, Window | None]:
    """The windows of both cameras' pictures, under "vi_window" and "ir_window"; see `find_window`."""
    return {
        f"{camera}_window": find_window(there, decode, rules.get(camera), from_zero=camera == "vi")
        for camera, there in uris.items()
    }


def _window_of(values: np.ndarray, dtype: Depth, rule: WindowRule | None) -> Window:
    if rule and not rule.percent:
        return Window(dtype=dtype, low=rule.low, high=rule.high)
    percent = (rule.low, rule.high) if rule else _MEASURED_PERCENT
    low, high = np.percentile(values[np.isfinite(values)], percent)
    filled = dtype == "uint16" and (high - low) >= _FILLED_SHARE * _SCALE
    if rule is None and filled:
        return FULL_SCALE
    return Window(dtype=dtype, low=float(low), high=float(high if high > low else low + 1))
