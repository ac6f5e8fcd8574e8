"""Videos on disk: their frames in order, and frames written as one. Needs PyAV, the extra `video`.

Legend: H W pixels.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.checks.damage import MOST_PIXELS

_SUFFIXES = frozenset({".avi", ".mkv", ".mov", ".mp4", ".webm"})
# Of frames with more than 8 bits, so many at most are kept for the window of their levels.
_NUM_KEPT = 32
# Constant rate factor of libx264: fused detail stays, at about a tenth of the bytes of PNGs.
_H264 = {"crf": "18"}


class Survey(NamedTuple):
    """What a video holds: how many frames, how many a second, and deep ones to measure, by name."""

    num_frames: int
    rate: Fraction
    deep: dict[str, np.ndarray]


def is_video(uri: str) -> bool:
    """Whether a name ends as a video's does."""
    return Path(uri).suffix.lower() in _SUFFIXES


def frame_name(path: str, place: int) -> str:
    """What people are told of a frame, from 0."""
    return f"{path}, frame {place}"


def read_frames(path: str) -> Iterator[np.ndarray]:
    """The frames in order, one at a time, as `decode` returns pictures: H×W×3 BGR, or H×W grey.

    Grey frames of more than 8 bits are uint16, on that scale; others uint8. Raises ValueError for what is
    damaged, no video, too large, or to be turned.
    """
    av = _av()
    try:
        with av.open(path) as container:
            for frame in container.decode(_stream(container, path)):
                if frame.rotation:
                    raise ValueError(f"{path}: is to be turned by {frame.rotation}°; turn it first")
                yield frame.to_ndarray(format=_form_of(frame.format))
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as a video ({error})") from error


def _stream(container: Any, path: str) -> Any:
    if not container.streams.video:
        raise ValueError(f"{path}: holds no video")
    stream = container.streams.video[0]
    if stream.width * stream.height > MOST_PIXELS:
        raise ValueError(f"{path}: {stream.width}×{stream.height} pixels, more than {MOST_PIXELS}")
    return stream


def _form_of(stored: Any) -> str:
    if not stored.name.startswith("gray"):
        return "bgr24"
    return "gray16le" if stored.components[0].bits > 8 else "gray"


def survey(path: str) -> Survey:
    """Count a video's frames by decoding them all. Raises ValueError as `read_frames` does."""
    av = _av()
    num_frames, step, deep = 0, 1, dict[str, np.ndarray]()
    for frame in read_frames(path):
        if frame.dtype == np.uint16 and num_frames % step == 0:
            deep[frame_name(path, num_frames)] = frame
        if len(deep) == 2 * _NUM_KEPT:  # every second goes, so that they stay evenly spaced
            deep, step = dict(list(deep.items())[::2]), 2 * step
        num_frames += 1
    if not num_frames:
        raise ValueError(f"{path}: holds no frames")
    with av.open(path) as container:
        rate = container.streams.video[0].average_rate
    return Survey(num_frames, Fraction(rate or 25), deep)


@contextmanager
def video_writer(path: Path, rate: Fraction) -> Iterator[Callable[[np.ndarray], None]]:
    """What writes frames, uint8 H×W×3 RGB of one size, as H.264; the file is there when all are.

    Chroma has half the resolution, as every player takes it, where height and width are even.
    """
    av = _av()
    unfinished = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with av.open(str(unfinished), "w") as container:
            stream = container.add_stream("libx264", rate=rate, options=_H264)

            def write(frame: np.ndarray) -> None:
                height, width = frame.shape[:2]
                if not stream.codec_context.is_open:
                    stream.height, stream.width = height, width
                    stream.pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"
                if (height, width) != (stream.height, stream.width):
                    raise ValueError(
                        f"{path}: a frame of {width}×{height} after others of {stream.width}×"
                        f"{stream.height}; a video has one size"
                    )
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

            yield write
            container.mux(stream.encode())
        unfinished.replace(path)
    except av.FFmpegError as error:
        raise ValueError(f"{path}: cannot be written as a video ({error})") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _av() -> Any:
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise ValueError("videos need PyAV: pip install '.[video]'") from error
