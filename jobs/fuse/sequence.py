"""Videos, and frames that become one, fused in order in this process; and how much they flicker.

However long a sequence is, a few of its frames are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np

from infra.settings import Settings
from jobs.console import print_line, progress
from jobs.fuse.run import FuseTask
from jobs.locations import open_folder, open_sources, source_reader
from models.devices import use_device
from pipelines.bundles.fusing import Fusing, PictureFuser, Pictures, find_fusable, with_windows
from pipelines.checks.depth import apply_window, find_windows
from pipelines.evaluation.flicker import flicker
from pipelines.sources.pictures import as_ir, as_vi, check_sizes, encode_png, to_8_bits, to_levels
from pipelines.sources.scenes import read_pair
from pipelines.sources.video import frame_name, is_video, read_frames, survey, video_writer

# Of frames that lie in a folder.
_RATE = Fraction(25)
_Write = Callable[[np.ndarray], None]


@dataclass(frozen=True)
class _Frames:
    """Pairs of frames in order, read anew by each `read()`; `fusing` has the windows of their levels."""

    num: int
    rate: Fraction
    fusing: Fusing
    read: Callable[[], Iterator[Pictures]]


def is_sequence(task: FuseTask) -> bool:
    """Whether a video is read or written; of frames that lie and stay in folders each is by itself."""
    return any(is_video(uri) for uri in (task.vi, task.ir, task.out))


def fuse_sequence(fusing: Fusing, settings: Settings, task: FuseTask) -> dict[str, str]:
    """Fuse two videos, or two folders, to a video or a folder of numbered PNGs; return facts for people.

    Flicker is that of `pipelines.evaluation.flicker`, of the result and of both sources, as means. Raises
    ValueError where the sources differ in frames or size, or for a frame that cannot be fused.
    """
    if fusing.side_by_side:
        raise ValueError("--side-by-side is for pictures; leave it out for a video")
    frames = _opened(fusing, settings, task)
    for camera, window in (("vi", frames.fusing.vi_window), ("ir", frames.fusing.ir_window)):
        if window:
            print_line(f"  {window.described(camera)}")
    meter = _Flicker()
    with _written(settings, task, frames.rate) as write, progress("frames", frames.num) as advance:
        for done, (pictures, fused) in enumerate(_fused(frames, task), start=1):
            write(fused)
            meter.add(*pictures, fused)
            advance(done, f"frame {done - 1}")
    return {"fused": f"{frames.num} frames in {task.out}", "flicker": meter.described()}


def _opened(fusing: Fusing, settings: Settings, task: FuseTask) -> _Frames:
    kinds = [is_video(uri) for uri in (task.vi, task.ir)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"{task.vi} and {task.ir}: give two videos or two folders of frames")
    for uri in (task.vi, task.ir, task.out):
        if is_video(uri) and "://" in uri:
            raise ValueError(f"{uri}: videos are read and written on disk; fetch it first")
    if Path(task.out).resolve() in (Path(task.vi).resolve(), Path(task.ir).resolve()):
        raise ValueError(f"--out {task.out}: is one of the sources; choose another place")
    return _of_videos(fusing, task) if kinds[0] else _of_folders(fusing, settings, task)


def _of_videos(fusing: Fusing, task: FuseTask) -> _Frames:
    vi, ir = survey(task.vi), survey(task.ir)
    if vi.num_frames != ir.num_frames:
        raise ValueError(
            f"{task.vi} has {vi.num_frames} frames, {task.ir} {ir.num_frames}; cut them to the same ones"
        )
    uris, pictures = {"vi": list(vi.deep), "ir": list(ir.deep)}, {**vi.deep, **ir.deep}
    windows = find_windows(uris, pictures.__getitem__, task.windows)
    windowed = fusing.model_copy(update=windows)

    def read() -> Iterator[Pictures]:
        both = zip(read_frames(task.vi), read_frames(task.ir), strict=True)
        for place, (one, other) in enumerate(both):
            names = [frame_name(uri, place) for uri in (task.vi, task.ir)]
            one = apply_window(one, windowed.vi_window, names[0], deep=True)
            other = apply_window(other, windowed.ir_window, names[1], deep=True)
            check_sizes(one, other, names[0])
            yield as_vi(one), as_ir(other, names[1])

    return _Frames(vi.num_frames, vi.rate, windowed, read)


def _of_folders(fusing: Fusing, settings: Settings, task: FuseTask) -> _Frames:
    pairs, alone = find_fusable(open_sources(task.vi, settings), open_sources(task.ir, settings))
    if alone:
        raise ValueError(f"{len(alone)} frames have no partner, first {alone[0].reason}")
    load = source_reader(settings)
    windowed = with_windows(fusing, pairs, load, task.windows)

    def read() -> Iterator[Pictures]:
        for pair in pairs:
            yield read_pair(
                pair.vi_uri,
                pair.ir_uri,
                load,
                vi_window=windowed.vi_window,
                ir_window=windowed.ir_window,
            )

    return _Frames(len(pairs), _RATE, windowed, read)


def _fused(frames: _Frames, task: FuseTask) -> Iterator[tuple[Pictures, np.ndarray]]:
    """The pictures of each frame with what they become, H×W×3, uint16 if one of them is."""
    device = use_device(task.placement.device)
    fuse = PictureFuser(frames.fusing, str(device))
    size = task.batch_size_on(device.type)
    source, done = frames.read(), 0
    while batch := list(islice(source, size)):
        results = fuse(batch, [frames.fusing.hints(*pictures) for pictures in batch])
        for pictures, result in zip(batch, results, strict=True):
            if isinstance(result, ValueError):
                raise ValueError(f"{frame_name(task.vi, done)}: {result}") from result
            yield pictures, to_levels(result, np.result_type(*pictures))
            done += 1


def _written(settings: Settings, task: FuseTask, rate: Fraction) -> AbstractContextManager[_Write]:
    if is_video(task.out):
        return _as_video(task, rate)
    return _as_pictures(settings, task)


@contextmanager
def _as_video(task: FuseTask, rate: Fraction) -> Iterator[_Write]:
    with video_writer(Path(task.out), rate) as write:
        yield lambda frame: write(to_8_bits(frame))


@contextmanager
def _as_pictures(settings: Settings, task: FuseTask) -> Iterator[_Write]:
    folder = open_folder(task.out, settings)
    if any(folder.entries("")) and not task.overwrite:
        raise ValueError(f"--out {task.out}: is not empty; choose another folder, or --overwrite")
    written: list[str] = []

    def write(frame: np.ndarray) -> None:
        written.append(f"{len(written):06d}.png")
        folder.replace(written[-1], encode_png(frame))

    yield write


class _Flicker:
    """The mean flicker of both sources and of the result, a frame at a time."""

    def __init__(self) -> None:
        self._before: list[np.ndarray] = []
        self._found: list[list[float]] = []

    def add(self, *frames: np.ndarray) -> None:
        """Take the next visible, infrared and fused frame, H×W×C."""
        now = [to_8_bits(frame) for frame in frames]
        if self._before:
            self._found.append(_between(self._before, now))
        self._before = now

    def described(self) -> str:
        """For people; of one frame there is none."""
        if not self._found:
            return "none, of one frame"
        vi, ir, fused = np.nanmean(self._found, axis=0)
        return f"{fused:.1f} squared levels (visible {vi:.1f}, infrared {ir:.1f})"


def _between(before: Sequence[np.ndarray], now: Sequence[np.ndarray]) -> list[float]:
    """The flicker of each picture along the motion of the first, which is the visible one."""
    return [
        next(flicker([(old, before[0]), (new, now[0])]))
        for old, new in zip(before, now, strict=True)
    ]
