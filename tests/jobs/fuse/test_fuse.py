"""Files of any depth, colour and size go in; PNG of the inputs' depth comes out."""

import json
import math
import os
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from infra.settings import Settings
from jobs.fuse import __main__ as command
from jobs.fuse.run import FolderOutcome, FuseTask, fuse_folders, fuse_one
from jobs.locations import open_folder
from jobs.placement import Placement
from models.system import FuseOptions
from pipelines.bundles.export import read_bundle
from pipelines.bundles.fusing import FAILURES, Fusing
from tests.s3_servers import make_bucket

HERE = Placement(local=True)


def write_noise(path: Path, shape: tuple[int, ...], dtype: type) -> Path:
    levels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)
    assert cv2.imwrite(str(path), levels)
    return path


def fuse_files(bundle: Path, vi: Path, ir: Path, out: Path) -> None:
    settings = Settings(work=out.parent, tracking_uri="", artifact_root=None, ray_address=None)
    fuse_one(Fusing(bundle=read_bundle(bundle)), settings, FuseTask(str(vi), str(ir), str(out)))


@pytest.mark.parametrize(
    ("vi", "ir", "depth"),
    [
        (("vi.png", (16, 16, 3), np.uint8), ("ir.png", (16, 16), np.uint8), np.uint8),
        (("vi.tiff", (17, 23, 3), np.uint16), ("ir.png", (17, 23), np.uint16), np.uint16),
        (("vi.jpg", (19, 16), np.uint8), ("ir.tiff", (19, 16), np.uint16), np.uint16),
    ],
)
def test_depths_greys_and_sizes(
    tiny_bundle: Path, tmp_path: Path, vi: tuple, ir: tuple, depth: type
) -> None:
    paths = [write_noise(tmp_path / name, shape, dtype) for name, shape, dtype in (vi, ir)]
    fuse_files(tiny_bundle, *paths, tmp_path / "out.png")
    fused = cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_UNCHANGED)
    assert fused.dtype == depth
    assert fused.shape == (*vi[1][:2], 3)
    assert fused.max() > 255 or depth == np.uint8


def test_depths_agree(tiny_bundle: Path, tmp_path: Path) -> None:
    """The same levels at 8 and at 16 bits (times 257) make the same picture."""
    levels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    fused = []
    for name, image in (("8", levels), ("16", levels.astype(np.uint16) * 257)):
        vi, ir, out = (tmp_path / f"{part}{name}.png" for part in ("vi", "ir", "out"))
        assert cv2.imwrite(str(vi), image)
        assert cv2.imwrite(str(ir), image[:, :, 0])
        fuse_files(tiny_bundle, vi, ir, out)
        fused.append(cv2.imread(str(out), cv2.IMREAD_UNCHANGED))
    assert np.array_equal((fused[1] / 257).round().astype(np.uint8), fused[0])


def test_the_command_stretches_on_request(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vi = write_noise(tmp_path / "vi.png", (16, 16, 3), np.uint8)
    ir = write_noise(tmp_path / "ir.png", (16, 16), np.uint8)
    fused = []
    for name, options in (("plain", []), ("stretched", ["--stretch"])):
        out = tmp_path / f"{name}.png"
        paths = ["--vi", str(vi), "--ir", str(ir), "--out", str(out), "--work", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["fuse", str(tiny_bundle), *paths, *options])
        with pytest.raises(SystemExit) as ended:
            command.COMMAND.run()
        assert not ended.value.code
        fused.append(cv2.imread(str(out)))
    plain, stretched = fused
    assert 0 < plain.min() < plain.max() < 255
    assert (stretched.min(), stretched.max()) == (0, 255)


def test_too_small_is_named(tiny_bundle: Path, tmp_path: Path) -> None:
    vi = write_noise(tmp_path / "vi.png", (15, 20, 3), np.uint8)
    ir = write_noise(tmp_path / "ir.png", (15, 20), np.uint8)
    with pytest.raises(ValueError, match=r"vi\.png: images must be at least 16"):
        fuse_files(tiny_bundle, vi, ir, tmp_path / "out.png")


def write_frames(folder: Path, *, num_frames: int) -> dict[str, str]:
    """Frames of 16 bits, the second of them broken; the arguments that name the folders."""
    for camera, shape in (("vi", (32, 32, 3)), ("ir", (32, 32))):
        (folder / camera).mkdir(parents=True)
        for index in range(num_frames):
            write_noise(folder / camera / f"frame_{index}.png", shape, np.uint16)
    (folder / "vi" / "frame_1.png").write_bytes(b"no picture")
    return {"vi": str(folder / "vi"), "ir": str(folder / "ir")}


@pytest.mark.ray
@pytest.mark.slow
def test_prefixes_on_ray_go_on_and_list_what_failed(
    ray_settings: Settings, tiny_bundle: Path, moto_url: str, tmp_path: Path
) -> None:
    local = write_frames(tmp_path, num_frames=3)
    bucket = make_bucket(moto_url, "fuse")
    settings = ray_settings.model_copy(update={"s3_endpoint_url": moto_url})
    for camera in ("vi", "ir"):
        folder = open_folder(f"{bucket}/{camera}", settings)
        for path in (tmp_path / camera).iterdir():
            folder.replace(path.name, path.read_bytes())
    places = {"vi": f"{bucket}/vi", "ir": f"{bucket}/ir", "out": f"{bucket}/out"}
    fusing = Fusing(bundle=read_bundle(tiny_bundle))
    fused = fuse_folders(fusing, settings, FuseTask(**places))
    assert (fused.made, fused.skipped) == (2, 0)
    out = open_folder(places["out"], settings)
    assert [entry.name for entry in out.entries("frame")] == ["frame_0.png", "frame_2.png"]
    [failure] = json.loads(out.read(FAILURES))
    assert failure["name"] == "frame_1.png"
    assert "vi/frame_1.png: not an image" in failure["reason"]
    # The same bytes as in this process, and of 16 bits.
    fuse_folders(fusing, settings, FuseTask(**local, out=str(tmp_path / "out"), placement=HERE))
    expected = (tmp_path / "out" / "frame_2.png").read_bytes()
    assert out.read("frame_2.png") == expected
    assert (
        cv2.imread(str(tmp_path / "out" / "frame_2.png"), cv2.IMREAD_UNCHANGED).dtype == np.uint16
    )
    stamps = [entry.modified_s for entry in out.entries("frame")]
    mended = (tmp_path / "vi" / "frame_0.png").read_bytes()
    open_folder(places["vi"], settings).replace("frame_1.png", mended)
    again = fuse_folders(
        fusing, settings, FuseTask(**places, placement=HERE)
    )  # starting actors takes seconds
    assert again == FolderOutcome(made=1, skipped=2, failures=())
    assert out.size_of(FAILURES) is None
    names = [entry.name for entry in out.entries("frame")]
    assert names == ["frame_0.png", "frame_1.png", "frame_2.png"]
    left = {entry.name: entry.modified_s for entry in out.entries("frame")}
    assert [left["frame_0.png"], left["frame_2.png"]] == stamps


def infrared(folder: Path, name: str, low: int, dtype: type = np.uint16) -> None:
    ramp = np.linspace(0, 1000, 32 * 32).reshape(32, 32)
    levels = (low + ramp).astype(dtype) if dtype == np.uint16 else (ramp / 4).astype(dtype)
    assert cv2.imwrite(str(folder / "ir" / name), levels)


def test_what_a_folder_lacks_or_mixes_does_not_end_the_rest(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for camera in ("vi", "ir"):
        (tmp_path / camera).mkdir()
        (tmp_path / camera / "Thumbs.db").write_bytes(b"left by a system")
    long = "n" * 245
    for name in ("0", "1", "2", "3", long):
        write_noise(tmp_path / "vi" / f"{name}.png", (32, 32, 3), np.uint8)
    infrared(tmp_path, "0.tiff", 28000)
    infrared(tmp_path, "1.tiff", 29000)
    infrared(tmp_path, f"{long}.tiff", 30000)
    infrared(tmp_path, "3.tiff", 0, np.uint8)
    settings = Settings(work=tmp_path, tracking_uri="", artifact_root=None, ray_address=None)
    places = {name: str(tmp_path / name) for name in ("vi", "ir", "out")}
    fused = fuse_folders(
        Fusing(bundle=read_bundle(tiny_bundle)), settings, FuseTask(**places, placement=HERE)
    )
    assert fused.made == 3
    reasons = {failure.name: failure.reason for failure in fused.failures}
    assert set(reasons) == {"2.png", "3.png"}
    assert "has no IR picture" in reasons["2.png"]
    assert "uint8 picture in a folder of uint16 ones" in reasons["3.png"]
    assert "ir pictures are uint16: levels 280" in capsys.readouterr().out
    # A warmer frame is a brighter one: the frames share a window.
    settings_used = json.loads((tmp_path / "out" / "fusion.json").read_text())
    assert settings_used["ir_window"]["low"] == pytest.approx(28000, abs=10)
    assert settings_used["ir_window"]["high"] == pytest.approx(31000, abs=10)


def test_a_batch_fuses_pairs_of_one_size_at_once_and_names_the_others(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    settings = Settings(work=tmp_path, tracking_uri="", artifact_root=None, ray_address=None)
    places = write_frames(tmp_path, num_frames=6)
    for camera in ("vi", "ir"):
        # Of another size, between the others; and one below what the model takes.
        for index, side in ((3, 24), (4, 8)):
            shape = (side, side, 3) if camera == "vi" else (side, side)
            write_noise(tmp_path / camera / f"frame_{index}.png", shape, np.uint16)
    fusing = Fusing(bundle=read_bundle(tiny_bundle))
    pictures = []
    for batch_size in (1, 4):
        out = tmp_path / f"out-{batch_size}"
        fused = fuse_folders(
            fusing,
            settings,
            FuseTask(**places, out=str(out), placement=HERE, batch_size=batch_size),
        )
        assert sorted(failure.name for failure in fused.failures) == ["frame_1.png", "frame_4.png"]
        assert fused.made == 4
        pictures.append({path.name: cv2.imread(str(path), -1) for path in out.glob("*.png")})
    assert pictures[0].keys() == pictures[1].keys()
    for name, alone in pictures[0].items():
        # A level of 65535, by which sums of a batch may round otherwise.
        assert np.abs(alone.astype(int) - pictures[1][name].astype(int)).max() <= 1


def test_a_gpu_that_is_not_there_is_named(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    settings = Settings(work=tmp_path, tracking_uri="", artifact_root=None, ray_address=None)
    fusing, places = Fusing(bundle=read_bundle(tiny_bundle)), write_frames(tmp_path, num_frames=2)
    with pytest.raises(ValueError, match=r"finds no CUDA device here.*--device cpu"):
        fuse_folders(
            fusing,
            settings,
            FuseTask(**places, out=str(tmp_path / "out"), placement=Placement("cuda", local=True)),
        )


def test_pictures_of_other_options_are_not_mixed(tiny_bundle: Path, tmp_path: Path) -> None:
    settings = Settings(work=tmp_path, tracking_uri="", artifact_root=None, ray_address=None)
    places = write_frames(tmp_path, num_frames=2) | {"out": str(tmp_path / "out")}
    whole = Fusing(bundle=read_bundle(tiny_bundle))
    fuse_folders(whole, settings, FuseTask(**places, placement=HERE))
    tiled = whole.model_copy(update={"options": FuseOptions(tile_px=64)})
    with pytest.raises(ValueError, match="holds 1 of these pictures, not known to be made with"):
        fuse_folders(tiled, settings, FuseTask(**places, placement=HERE))
    assert (
        fuse_folders(tiled, settings, FuseTask(**places, placement=HERE, overwrite=True)).made == 1
    )
    with pytest.raises(ValueError, match="is where sources lie"):
        fuse_folders(whole, settings, FuseTask(**places | {"out": places["vi"]}, placement=HERE))


def test_a_source_is_never_written_over(tiny_bundle: Path, tmp_path: Path) -> None:
    places = write_frames(tmp_path, num_frames=1)
    vi, ir = (Path(places[camera]) / "frame_0.png" for camera in ("vi", "ir"))
    before = vi.read_bytes()
    (tmp_path / "link").symlink_to(vi.parent)
    for out in (vi, ir, tmp_path / "link" / "frame_0.png"):
        with pytest.raises(ValueError, match=r"--out: .*frame_0\.png is one of the sources"):
            fuse_files(tiny_bundle, vi, ir, out)
    assert vi.read_bytes() == before


@pytest.mark.parametrize("kind", ["link", "device or pipe", "folder"])
def test_what_is_no_plain_file_is_not_replaced(
    kind: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    places, out = write_frames(tmp_path, num_frames=1), tmp_path / "out.png"
    make = {"link": lambda: out.symlink_to(tmp_path / "other"), "folder": out.mkdir}
    make.get(kind, lambda: os.mkfifo(out))()
    pair = [Path(places[camera]) / "frame_0.png" for camera in ("vi", "ir")]
    with pytest.raises(ValueError, match=f"is a {kind}, which is not replaced"):
        fuse_files(tiny_bundle, *pair, out)
    assert not out.is_file()


def test_weights_and_pictures_that_are_not_finite(tiny_bundle: Path, tmp_path: Path) -> None:
    places = write_frames(tmp_path, num_frames=1)
    pair = [Path(places[camera]) / "frame_0.png" for camera in ("vi", "ir")]
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    weights = load_file(bundle / "model.safetensors")
    name = next(name for name, tensor in weights.items() if tensor.is_floating_point())
    for value in (math.nan, math.inf, 3e38):
        weights[name].view(-1)[0] = value
        save_file(weights, bundle / "model.safetensors")
        reason = "holds NaN or infinite values"
        with pytest.raises(ValueError, match=reason):
            fuse_files(bundle, *pair, tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_the_command_says_what_failed(
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = write_frames(tmp_path, num_frames=2)
    words = [str(tiny_bundle), "--local", "--out", str(tmp_path / "out")]
    words += ["--vi", places["vi"], "--ir", places["ir"], "--work", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", ["fuse", *words])
    for skipped in (0, 1):
        with pytest.raises(SystemExit) as ended:
            command.COMMAND.run()
        assert ended.value.code == 1
        said = capsys.readouterr().out
        assert f"{skipped} existed already" in said
        assert said.splitlines()[-1].endswith(str(tmp_path / "out" / FAILURES))
    pair = [f"{places[camera]}/frame_0.png" for camera in ("vi", "ir")]
    words = [str(tiny_bundle), "--vi", pair[0], "--ir", pair[1], "--out", str(tmp_path / "a.png")]
    monkeypatch.setattr(sys, "argv", ["fuse", *words, "--work", str(tmp_path / "work")])
    with pytest.raises(SystemExit) as ended:
        command.COMMAND.run()
    assert ended.value.code == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "out" / "frame_0.png").read_bytes()
