"""What runs that were killed left behind is repaired, on disk and on S3."""

import itertools
import json
from pathlib import Path

import pyarrow.fs as fs
import pytest

from infra.cluster.run_folder import RunFolder
from infra.settings import read_settings
from infra.storage import client
from infra.storage.client import s3_client
from tests.s3_servers import KEYS, RadosGateway, make_bucket

_LIST = "checkpoint_manager_snapshot.json"
_numbers = itertools.count()


def test_checkpoints_go_where_boto3_goes(
    moto_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The endpoint and the region are those of a profile in ~/.aws/config, for both clients."""
    bucket, config = make_bucket(moto_url, f"profile-{next(_numbers)}"), tmp_path / "config"
    config.write_text(f"[profile team]\nregion = eu-west-9\nendpoint_url = {moto_url}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "team")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "")
    assert read_settings(work=tmp_path).s3_endpoint_url is None
    client.s3_client.cache_clear()
    try:
        assert client.connection_of(None)[:2] == (moto_url, "eu-west-9")
        system, path = RunFolder(f"{bucket}/runs", "run", None).open()
        with system.open_output_stream(f"{path}/x") as stream:
            stream.write(b"checkpoint")
        assert client.read_object(f"{bucket}/runs/x", None) == b"checkpoint"
    finally:
        client.s3_client.cache_clear()


@pytest.fixture(params=["disk", "moto", pytest.param("gateway", marks=pytest.mark.s3real)])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    """A run with three checkpoints, of which Ray Train lists two."""
    if request.param == "disk":
        folder = RunFolder(str(tmp_path / "runs"), "run", None)
    else:
        url = (
            request.getfixturevalue("moto_url")
            if request.param == "moto"
            else request.getfixturevalue("gateway").url
        )
        bucket = make_bucket(url, f"runs-{next(_numbers)}-{request.param}")
        folder = RunFolder(f"{bucket}/a", "run", url)
    for number in (1, 2, 3):
        write(folder, f"checkpoint_{number}/state.json", b"{}")
    write(folder, _LIST, listing(1, 2))
    return folder


@pytest.fixture(autouse=True)
def without_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `worker_environment` sets it."""
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")


def listing(*numbers: int) -> bytes:
    """What Ray Train writes, as far as it matters here."""
    results = [{"checkpoint_dir_name": f"checkpoint_{number}"} for number in numbers]
    return json.dumps({"checkpoint_results": results}).encode()


def write(run: RunFolder, name: str, data: bytes) -> None:
    system, path = run.open()
    system.create_dir(f"{path}/run/{name}".rpartition("/")[0])
    with system.open_output_stream(f"{path}/run/{name}") as stream:
        stream.write(data)


def read(run: RunFolder, name: str) -> bytes:
    system, path = run.open()
    with system.open_input_stream(f"{path}/run/{name}") as stream:
        return bytes(stream.read())


def names(run: RunFolder) -> set[str]:
    system, path = run.open()
    return {info.base_name for info in system.get_file_info(fs.FileSelector(f"{path}/run"))}


def test_what_no_list_names_is_deleted(run: RunFolder) -> None:
    run.check_reachable()
    assert run.repair() == ["checkpoint_3"]
    assert names(run) == {"checkpoint_1", "checkpoint_2", _LIST}
    assert run.repair() == []


def test_a_checkpoint_that_is_gone_is_named(run: RunFolder) -> None:
    write(run, _LIST, listing(2, 4))
    with pytest.raises(ValueError, match=f"{run.uri}/checkpoint_4: this run's checkpoint is gone"):
        run.repair()
    assert "checkpoint_3" in names(run)


@pytest.mark.parametrize("left", [b"", b'{"checkpoint_results": [{"check'])
def test_a_list_that_was_cut_short_comes_back(tmp_path: Path, left: bytes) -> None:
    run = RunFolder(str(tmp_path), "run", None)
    for number in (1, 2, 3):
        write(run, f"checkpoint_{number}/state.json", b"{}")
    write(run, _LIST, listing(1, 2))
    run.back_up_list()
    write(run, _LIST, left)
    assert run.repair() == ["checkpoint_3"]
    assert read(run, _LIST) == listing(1, 2)
    # Without a copy nothing was ever listed, so the run starts anew.
    for name in ("checkpoint_list_before.json", _LIST):
        (tmp_path / "run" / name).write_bytes(left)
    assert run.repair() == ["checkpoint_1", "checkpoint_2"]
    assert _LIST not in names(run)


def test_a_missing_bucket_is_named(moto_url: str) -> None:
    with pytest.raises(OSError, match=r"s3://absent-bucket/.*: no such bucket; create it first"):
        RunFolder("s3://absent-bucket/runs", "run", moto_url).check_reachable()


@pytest.mark.slow
@pytest.mark.s3real
def test_keys_that_only_boto3_finds_are_said(
    gateway: RadosGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(f"{make_bucket(gateway.url, 'keys-of-boto')}/runs", "run", gateway.url)
    access, secret = (monkeypatch.delenv(name) or KEYS[name] for name in KEYS)
    (tmp_path / "boto.cfg").write_text(
        f"[Credentials]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n"
    )
    monkeypatch.setenv("BOTO_CONFIG", str(tmp_path / "boto.cfg"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3_client.cache_clear()
    try:
        with pytest.raises(OSError, match="pyarrow, which keeps checkpoints, may not"):
            run.check_reachable()
    finally:
        s3_client.cache_clear()


def test_a_run_that_never_was_needs_no_repair(tmp_path: Path) -> None:
    assert RunFolder(str(tmp_path / "absent"), "run", None).repair() == []
