"""jobs.fuse of videos, and of frames that become one: order, one window, refusals, flicker."""

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from jobs.fuse.__main__ import COMMAND
from jobs.fuse.call import load_model
from pipelines.sources.pictures import encode_png
from pipelines.sources.video import read_frames, survey, video_writer
from pipelines.synthetic.pairs import render_scene
from tests.conftest import needs_small

pytestmark = needs_small

H, W, N = 48, 64, 3


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, np.ndarray]:
    """A scene that is wider than a frame: frames are cut from it, each further to the right."""
    return render_scene(3, height=H, width=W + 8)


def cut(picture: np.ndarray, place: int) -> np.ndarray:
    return np.ascontiguousarray(picture[:, 2 * place : 2 * place + W])


def write_video(path: Path, picture: np.ndarray, num: int = N) -> str:
    with video_writer(path, Fraction(10)) as write:
        for place in range(num):
            write(np.broadcast_to(cut(picture, place), (H, W, 3)).copy())
    return str(path)


def write_deep(path: Path, picture: np.ndarray) -> str:
    """Frames of a radiometric camera, each a little warmer, in levels from 28000 on."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = W, H, "gray16le"
        for place in range(N):
            levels = 28000 + cut(picture, place)[..., 0].astype(np.uint16) * 8 + 100 * place
            frame = av.VideoFrame.from_ndarray(levels.astype(np.uint16), format="gray16le")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def fuse(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fuse", "small", *words, "--device", "cpu"])
    with pytest.raises(SystemExit) as ended:
        COMMAND.run()
    return int(ended.value.code or 0)


def test_two_videos_become_one(
    scene: tuple[np.ndarray, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    vi, ir = (write_video(tmp_path / f"{i}.mp4", picture) for i, picture in enumerate(scene))
    out = tmp_path / "out" / "fused.mp4"
    assert fuse(monkeypatch, "--vi", vi, "--ir", ir, "--out", str(out)) == 0
    said = capsys.readouterr().out
    assert f"{N} frames in {out}" in said
    assert "squared levels (visible" in said
    assert survey(str(out)).num_frames == N
    assert survey(str(out)).rate == 10
    assert [path.name for path in out.parent.iterdir()] == ["fused.mp4"]
    # In order: each frame is that of the same two frames, but for what H.264 costs.
    model = load_model("small", device="cpu")
    pairs = zip(read_frames(vi), read_frames(ir), read_frames(str(out)), strict=True)
    for one, other, fused in pairs:
        expected = model(one[..., ::-1], other).astype(float)
        assert np.abs(fused[..., ::-1] - expected).mean() < 4


def test_deep_frames_share_a_window_and_stay_deep(
    scene: tuple[np.ndarray, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    vi = write_video(tmp_path / "vi.mp4", scene[0])
    ir = write_deep(tmp_path / "ir.mkv", scene[1])
    out = tmp_path / "frames"
    words = ("--vi", vi, "--ir", ir, "--out", str(out), "--ir-window", "28000:30500")
    assert fuse(monkeypatch, *words) == 0
    assert "levels 28000 to 30500" in capsys.readouterr().out
    written = sorted(out.iterdir())
    assert [path.name for path in written] == [f"{place:06d}.png" for place in range(N)]
    model = load_model("small", device="cpu")
    for path, one, other in zip(written, read_frames(vi), read_frames(ir), strict=True):
        share = (other.astype(float) - 28000) / 2500
        levels = np.rint(np.clip(share, 0, 1) * 65535).astype(np.uint16)
        assert path.read_bytes() == encode_png(model(one[..., ::-1], levels))
    assert fuse(monkeypatch, *words) == 2
    assert "is not empty" in capsys.readouterr().err


def test_frames_of_folders_become_a_video(
    scene: tuple[np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for camera, picture in zip(("vi", "ir"), scene, strict=True):
        (tmp_path / camera).mkdir()
        for place in range(N):
            (tmp_path / camera / f"{place}.png").write_bytes(encode_png(cut(picture, place)))
    folders = ("--vi", str(tmp_path / "vi"), "--ir", str(tmp_path / "ir"))
    assert fuse(monkeypatch, *folders, "--out", str(tmp_path / "o.mp4")) == 0
    assert survey(str(tmp_path / "o.mp4")).num_frames == N


def test_what_cannot_be_fused_is_named(
    scene: tuple[np.ndarray, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    vi = write_video(tmp_path / "vi.mp4", scene[0])
    short = write_video(tmp_path / "short.mp4", scene[1], num=2)
    small = tmp_path / "small.mp4"
    with video_writer(small, Fraction(10)) as write:
        for _ in range(N):
            write(np.zeros((32, 32, 3), np.uint8))
    with video_writer(tmp_path / "two_sizes.mp4", Fraction(10)) as write:
        write(np.zeros((32, 32, 3), np.uint8))
        with pytest.raises(
            ValueError, match=r"a frame of 32×16 after others of 32×32; a video has"
        ):
            write(np.zeros((16, 32, 3), np.uint8))
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    out = str(tmp_path / "o.mp4")
    for ir, message in (
        (short, "vi.mp4 has 3 frames, "),
        (str(small), "frame 0"),
        (str(text), "cannot be read as a video"),
        (str(tmp_path), "give two videos or two folders"),
        ("s3://bucket/ir.mp4", "videos are read and written on disk"),
    ):
        assert fuse(monkeypatch, "--vi", vi, "--ir", ir, "--out", out) == 2
        assert message in capsys.readouterr().err.replace("\n", " ")
    assert fuse(monkeypatch, "--vi", vi, "--ir", short, "--out", vi) == 2
    assert "is one of the sources" in capsys.readouterr().err
    left = [path.name for path in tmp_path.iterdir()]
    assert "o.mp4" not in left
    assert not [name for name in left if "unfinished" in name]
