"""What comes from outside is data: nothing in it runs, nothing in it is believed about its own size."""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from infra.settings import REPOSITORY, Settings
from jobs.evaluate import __main__ as evaluate
from jobs.generate import __main__ as generate
from jobs.scan import __main__ as scan
from jobs.train import __main__ as train
from models.dspfusion.config import tiny
from pipelines.bundles.export import read_bundle
from pipelines.datasets.shards.markers import ShardInfo, tar_of
from pipelines.datasets.shards.reading import ShardReader
from pipelines.datasets.shards.row_strips import encode_strips
from pipelines.datasets.versions import DatasetVersion, read_version
from pipelines.sources.pictures import decode_vi, encode_png
from pipelines.store.files import sha256_of_file
from pipelines.store.folders import LocalFolder
from pipelines.training.checkpoints import (
    TrainingState,
    load_checkpoint,
    read_config,
    save_checkpoint,
)
from pipelines.training.process_memory import own_peak_mib, restart_peak

HEIGHT, WIDTH = 32, 48


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_the_evil_one_is_evil(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Evil(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


# --- shards


def meta(**changes: Any) -> bytes:
    values: dict[str, Any] = {
        "id": "a",
        "dataset": "d",
        "split": "train",
        "width": WIDTH,
        "height": HEIGHT,
        "vi_sha256": "0" * 64,
        "ir_sha256": "0" * 64,
        "variants": {},
        "groups": (),
    }
    return json.dumps({**values, **changes}).encode()


def picture(channels: int = 3) -> np.ndarray:
    shape = (HEIGHT, WIDTH, channels)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def write_tar(path: Path, members: dict[str, bytes], *extra: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in extra:
            tar.addfile(info)
    return path


def entry(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def good() -> dict[str, bytes]:
    return {"a.json": meta(), "a.vi_gt.npy.zst": encode_strips(picture())}


def test_the_good_one_is_read(tmp_path: Path) -> None:
    reader = ShardReader.open(write_tar(tmp_path / "s.tar", good()))
    assert np.array_equal(reader.image("a", "vi_gt"), picture())
    assert np.array_equal(reader.image("a", "vi_gt", rows=(3, 9)), picture()[3:9])


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (entry("../../escaped.json", tarfile.REGTYPE), r"'../../escaped.json' is not a member"),
        (entry("/etc/cron.d/a.json", tarfile.REGTYPE), "is not a member of a sample"),
        (entry("a.vi_x.png", tarfile.SYMTYPE, "/etc/passwd"), "is a link or a device"),
        (entry("a.vi_x.png", tarfile.LNKTYPE, "a.json"), "is a link or a device"),
        (entry("a.vi_x.png", tarfile.FIFOTYPE), "is a link or a device"),
        (entry("a.vi_x.png", tarfile.GNUTYPE_SPARSE), "not a"),
        (entry("a.json", tarfile.REGTYPE), "it has a.json twice"),
        (entry("b.vi_gt.png", tarfile.REGTYPE), "json"),
    ],
)
def test_members_that_are_not_a_sample_s(
    extra: tarfile.TarInfo, message: str, tmp_path: Path
) -> None:
    path = write_tar(tmp_path / "s.tar", good(), extra)
    with pytest.raises(ValueError, match=rf"s.tar: not a readable shard \(.*{message}"):
        ShardReader.open(path)


@pytest.mark.parametrize("size", [2**33 - 1, 2**60])
def test_a_member_that_claims_more_than_there_is(size: int, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", good())
    info = tarfile.TarInfo("b.json")
    info.size = size
    data = path.read_bytes().rstrip(b"\0")
    data += b"\0" * (-len(data) % 512) + info.tobuf(tarfile.GNU_FORMAT) + b"{}".ljust(512, b"\0")
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"b.json claims {size} bytes|not a readable shard"):
        ShardReader.open(path)


def test_headers_without_end(tmp_path: Path) -> None:
    """A chain of extended headers, which Python's reader follows by recursion."""
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 12
    block = header.tobuf(tarfile.USTAR_FORMAT) + b"12 path=abc\n".ljust(512, b"\0")
    path = tmp_path / "s.tar"
    path.write_bytes(block * 5000)
    with pytest.raises(ValueError, match="not a readable shard"):
        ShardReader.open(path)


@pytest.mark.parametrize(
    "changes",
    [{"id": "b"}, {"width": 2**20, "height": 2**20}, {"width": -1}, {"variants": {"vi_x": "code"}}],
)
def test_a_sample_that_lies_about_itself(changes: dict[str, Any], tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", {**good(), "a.json": meta(**changes)})
    with pytest.raises(ValueError, match="not a readable shard"):
        ShardReader.open(path)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return pa.Codec("zstd").compress(stream.getvalue(), asbytes=True)


def claims(shape: tuple[int, ...]) -> bytes:
    """An .npy of a few bytes that claims a shape."""
    stream = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, described)
    return pa.Codec("zstd").compress(stream.getvalue() + b"12", asbytes=True)


def bomb(num_mib: int) -> bytes:
    """Zeros as zstd: some KB that become `num_mib` MiB."""
    sink = io.BytesIO()
    with pa.CompressedOutputStream(pa.PythonFile(sink, "w"), "zstd") as stream:
        for _ in range(num_mib // 16):
            stream.write(bytes(2**24))
        stream.flush()
        return sink.getvalue()


def strips_that_claim(height: int, width: int, rows: int) -> bytes:
    data = bytearray(encode_strips(picture()))
    at = data.rindex(struct.pack("<IIII", 32, HEIGHT, WIDTH, 3))
    struct.pack_into("<IIII", data, at, rows, height, width, 3)
    return bytes(data)


BAD_PICTURES: dict[str, Callable[[], bytes]] = {
    "npy.zst that is a bomb": lambda: bomb(2048),
    "npy.zst that claims 1 TB": lambda: claims((2**20, 2**20, 1)),
    "npy.zst of another size": lambda: npy(np.zeros((8, 8, 3), np.uint8)),
    "npy.zst that is not zstd": lambda: b"no zstd at all",
    "npy.zst that is empty": lambda: b"",
    "npy.zst with a header of code": lambda: pa.Codec("zstd").compress(
        b"\x93NUMPY\x01\x00\x20\x00__import__('os').abort()         ", asbytes=True
    ),
    "npy.zst with strips of no rows": lambda: strips_that_claim(HEIGHT, WIDTH, 0),
    "npy.zst with strips of 1 TB": lambda: strips_that_claim(2**31, 2**31, 2**31),
    "png that is a bomb": lambda: png_that_claims(60_000, 60_000),
    "png of another size": lambda: encode_png(np.zeros((8, 8, 3), np.uint8)),
    "png that is none": lambda: b"\x89PNG",
}


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        (name, rows)
        for name in BAD_PICTURES
        for rows in (None, (0, 4))
        # Who reads the whole does not look at the index of its strips.
        if rows or "strips" not in name
    ],
)
def test_pictures_that_are_not_what_they_claim(
    name: str, rows: tuple[int, int] | None, tmp_path: Path
) -> None:
    suffix = name.split()[0]
    path = write_tar(
        tmp_path / "s.tar", {"a.json": meta(), f"a.vi_gt.{suffix}": BAD_PICTURES[name]()}
    )
    reader = ShardReader.open(path)
    before_mib = restart_peak()
    if before_mib is None:
        pytest.skip("the peak of memory cannot be restarted here: no /proc/self/clear_refs")
    with pytest.raises(ValueError, match=r"'a': vi_gt.* is not a picture of"):
        reader.image("a", "vi_gt", rows=rows)
    assert own_peak_mib() - before_mib < 64


def test_no_pickle_in_a_shard_runs(tmp_path: Path) -> None:
    evil = Evil(tmp_path / "ran")
    objects = np.array([evil], dtype=object)
    members = {**good(), "a.pyd": pickle.dumps(evil), "a.pickle": pickle.dumps(evil)}
    members |= {"a.pth": pickle.dumps(evil), "a.vi_blur.npy.zst": npy(objects)}
    reader = ShardReader.open(write_tar(tmp_path / "s.tar", members))
    assert np.array_equal(reader.image("a", "vi_gt"), picture())
    with pytest.raises(ValueError, match="is not a picture of"):
        reader.image("a", "vi_blur")
    assert not (tmp_path / "ran").exists()


def test_names_that_lead_out_of_the_root(
    version_root: tuple[DatasetVersion, LocalFolder],
) -> None:
    version, root = version_root
    for bad in ({"name": "../../etc/passwd"}, {"sha256": "../../x"}, {"name": "a/b"}):
        with pytest.raises(ValidationError):
            ShardInfo(**{**version.shards[0].model_dump(), **bad})
    manifest = root.path / "versions" / f"{version.name}.json"
    manifest.write_text(manifest.read_text().replace(version.shards[0].name, "../../../x"))
    with pytest.raises(ValueError, match="not a dataset manifest"):
        read_version(root, version.name)
    assert not list(root.path.parent.glob("*.tar"))
    assert tar_of("x") == "shards/x.tar"


# --- pictures


def chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png_that_claims(width: int, height: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(2**20), 9))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


def jpeg_that_claims(width: int, height: int) -> bytes:
    data = bytearray(cv2.imencode(".jpg", picture())[1].tobytes())
    at = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, at + 5, height, width)
    return bytes(data)


@pytest.mark.parametrize(
    "data", [png_that_claims(60_000, 60_000), jpeg_that_claims(65_000, 65_000)]
)
def test_a_picture_that_claims_gigabytes(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"bomb: claims \d+ pixels, 67108864 are the most"):
        decode_vi(data, "bomb")
    assert decode_vi(encode_png(picture()), "x").shape == picture().shape
    assert decode_vi(cv2.imencode(".jpg", picture())[1].tobytes(), "x").shape == picture().shape


# --- checkpoints and bundles


def state_of(width: int) -> TrainingState:
    model = nn.Linear(width, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, width)).sum().backward()
    optimizer.step()
    return TrainingState(model, optimizer, (1.0,), averaged=None)


def forge(folder: Path, name: str, data: bytes) -> None:
    """Replace a file and its digest: whoever can write the one can write the other."""
    (folder / name).write_bytes(data)
    saved = json.loads((folder / "state.json").read_text())
    saved["sha256"][name] = sha256_of_file(folder / name)
    (folder / "state.json").write_text(json.dumps(saved))


def test_a_checkpoint_that_is_a_pickle(tmp_path: Path) -> None:
    folder, evil = tmp_path / "checkpoint", Evil(tmp_path / "ran")
    save_checkpoint(folder, state_of(3), step=1, config_json="{}")
    # Beside the others nobody looks at them; torch.load would run them.
    for name in ("optimizer.pt", "pytorch_model.bin", "data.pkl", "rng_state.pth"):
        (folder / name).write_bytes(pickle.dumps(evil))
    assert load_checkpoint(folder, state_of(3)) == 1
    forge(folder, "model.safetensors", pickle.dumps(evil))
    with pytest.raises(ValueError, match=r"model.safetensors: not a safetensors file"):
        load_checkpoint(folder, state_of(3))
    torch.save({"weight": evil}, folder / "zip")
    forge(folder, "optimizer.safetensors", (folder / "zip").read_bytes())
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_checkpoint(folder, state_of(3))
    assert not (tmp_path / "ran").exists()


def header(described: Any, *, length: int | None = None) -> bytes:
    text = json.dumps(described).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(64)


@pytest.mark.parametrize(
    "data",
    [
        header({}, length=2**63),
        header({}, length=2**40),
        header({"weight": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 64]}}),
        header({"weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 2**60]}}),
        header({"weight": {"dtype": "__import__", "shape": [1], "data_offsets": [0, 4]}}),
        b"\0",
        b"",
    ],
)
def test_weights_with_an_absurd_header(data: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, state_of(3), step=1, config_json="{}")
    forge(folder, "model.safetensors", data)
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_checkpoint(folder, state_of(3))


def test_weights_of_another_shape(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, state_of(3), step=1, config_json="{}")
    with pytest.raises(ValueError, match="the weights are not this model's"):
        load_checkpoint(folder, state_of(4))
    save_file({"weight/exp_avg": torch.zeros(9, 9)}, folder / "moments")
    forge(folder, "optimizer.safetensors", (folder / "moments").read_bytes())
    with pytest.raises(ValueError, match=r"weight/exp_avg is not of this model's shape"):
        load_checkpoint(folder, state_of(3))


@pytest.mark.parametrize("text", ["[1]", "no json", "[" * 100_000, ""])
def test_a_config_that_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config.json: (not JSON|holds no configuration)"):
        read_config(tmp_path)


def test_a_bundle_of_another_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model": tiny().model_dump(mode="json")}))
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="the weights are not this model's"):
        read_bundle(tmp_path).fuser()
    (tmp_path / "config.json").write_text('{"origin": {}}')
    with pytest.raises(ValueError, match="describes no model"):
        read_bundle(tmp_path).fuser()


# --- what is typed

CODE = "__import__('pathlib').Path('ran').touch()"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (train.COMMAND.run, ["dspfusion_stage1_small", "--set", f"optim.num_steps={CODE}"]),
        (train.COMMAND.run, ["dspfusion_stage1_small", "--set", f"{CODE}=1"]),
        (train.COMMAND.run, ["dspfusion_stage1_small", "--set", "__class__.__init__=1"]),
        (train.COMMAND.run, ["dspfusion_stage1_small", "--set", "dataset=../../../etc/passwd"]),
        (train.COMMAND.run, ["dspfusion_stage2_small", "--set", "register_as=../../x"]),
        (train.COMMAND.run, [CODE]),
        (train.COMMAND.run, ["../recipes/datasets"]),
        (generate.COMMAND.run, ["small", "--scenes", "../../x"]),
        (generate.COMMAND.run, ["small", "--scenes", "x", "--set", "shard.vi=__import__"]),
        (generate.COMMAND.run, ["verify", "../../x"]),
        (scan.COMMAND.run, [".", "--name", "../../x"]),
        (evaluate.COMMAND.run, ["models:/../../x/1", "--scenes", "x"]),
        (evaluate.COMMAND.run, ["models:/..@challenger", "--scenes", "x"]),
    ],
)
def test_what_is_typed_is_data(
    command: Callable[[], None],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(sys, "argv", ["job", *words, "--work", str(tmp_path / "w" / "work")])
    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert {path.name for path in tmp_path.iterdir()} <= {"w"}
    assert {path.name for path in (tmp_path / "w").glob("*")} <= {"work"}


def test_a_run_id_that_leads_elsewhere(
    version_root: tuple[DatasetVersion, LocalFolder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    version, root = version_root
    monkeypatch.setenv("FUSION_DATASETS", root.uri)
    words = ["dspfusion_stage2_small", "--set", f"dataset={version.name}", "--local"]
    words += ["--set", "init_from=runs:/../../x", "--work", str(tmp_path / "w")]
    monkeypatch.setattr(sys, "argv", ["job", *words])
    with pytest.raises(SystemExit):
        train.COMMAND.run()
    assert "'../../x': a name is letters" in capsys.readouterr().err


# --- what listens


def test_nothing_of_ours_listens_to_everybody() -> None:
    command = ["git", "-C", str(REPOSITORY), "grep", "-nE", r"0\.0\.0\.0|host=(\"\"|'')|\[::\]"]
    told = [*command, "--", "*.py", "*.sh", "*.md", "Makefile", ":!tests", ":!infra/**/*.md"]
    found = subprocess.run(told, capture_output=True, text=True, check=False)
    assert found.returncode == 1, found.stdout


@pytest.mark.ray
def test_an_embedded_cluster_has_no_dashboard_and_wants_a_token(ray_settings: Settings) -> None:
    import ray
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    # Its own ports Ray opens on every interface, embedded or not; the token is what guards them.
    assert is_token_auth_enabled()
    assert not ray._private.worker.global_worker.node.address_info["webui_url"]
    here = psutil.Process()
    names = [" ".join(child.cmdline()) for child in here.children(recursive=True)]
    assert any("raylet" in name for name in names)
    # Ray's head process without its pages, on this machine only.
    [head] = [name for name in names if "dashboard/dashboard.py" in name]
    assert "--host=127.0.0.1" in head
    assert "--disable-frontend" in head
    assert not any("mlflow" in name for name in names)
