"""One contract for disk and S3, and what S3 alone can do wrong."""

import hashlib
import itertools
import os
import pickle
import random
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from infra.storage import client
from infra.storage.client import read_object, split_uri
from infra.storage.s3_folder import S3Folder
from pipelines.store.folders import Folder, LocalFolder
from tests.faulty_proxy import FaultyProxy, proxied
from tests.s3_servers import KEYS, RadosGateway, make_bucket

ROOT = Path(__file__).resolve().parents[2]
_MIB = 2**20
_numbers = itertools.count()
Open = Callable[..., S3Folder]


@pytest.fixture(params=["moto", pytest.param("gateway", marks=pytest.mark.s3real)])
def s3(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Open an S3 folder in a bucket of the test's own, through a proxy or with another cache."""
    if request.param == "moto":
        url = request.getfixturevalue("moto_url")
    else:
        url = request.getfixturevalue("gateway").url
    bucket = make_bucket(url, f"test-{next(_numbers)}-{request.param}")

    def open_s3(through: str = url, cache: Path | None = tmp_path / "cache") -> S3Folder:
        return S3Folder(f"{bucket}/a/b", through, cache)

    open_s3.url = url  # type: ignore[attr-defined]
    return open_s3


@pytest.fixture(params=["disk", "moto", pytest.param("gateway", marks=pytest.mark.s3real)])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """The three of them."""
    if request.param == "disk":
        return LocalFolder(tmp_path / "root")
    url = (
        request.getfixturevalue("moto_url")
        if request.param == "moto"
        else request.getfixturevalue("gateway").url
    )
    bucket = make_bucket(url, f"contract-{next(_numbers)}-{request.param}")
    return S3Folder(f"{bucket}/prefix", url, None)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_files_appear_whole_and_are_listed_in_order(folder: Folder) -> None:
    for name in ("s/b.tar", "s/a.json", "t/c"):
        with folder.create(name) as stream:
            stream.write(name.encode())
            stream.seek(0)
            assert stream.read() == name.encode()
            assert folder.size_of(name) is None
    assert folder.read("s/b.tar") == b"s/b.tar"
    assert [(entry.name, entry.num_bytes) for entry in folder.entries("s/")] == [
        ("s/a.json", 8),
        ("s/b.tar", 7),
    ]
    assert all(abs(entry.modified_s - time.time()) < 900 for entry in folder.entries("s/"))
    assert [entry.name for entry in folder.entries("")] == ["s/a.json", "s/b.tar", "t/c"]
    assert [entry.name for entry in folder.entries("s/b")] == ["s/b.tar"]
    assert list(folder.entries("absent/")) == []
    with folder.checked("t/c", sha256(b"t/c")) as path:
        opened = path.open("rb")
    with opened:
        assert opened.read() == b"t/c"


def test_a_block_that_fails_writes_nothing(folder: Folder) -> None:
    def fail() -> None:
        with folder.create("s/a") as stream:
            stream.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert folder.size_of("s/a") is None
    assert [*folder.entries("s/"), *folder.unfinished("s/")] == []
    with pytest.raises(FileNotFoundError):
        folder.read("s/a")


def test_what_is_written_once_stays(folder: Folder) -> None:
    folder.write_once("v/a.json", b"first")
    folder.write_once("v/a.json", b"first")
    with pytest.raises(ValueError, match="another content"):
        folder.write_once("v/a.json", b"second")
    assert folder.read("v/a.json") == b"first"
    folder.replace("v/a.newest", b"1")
    folder.replace("v/a.newest", b"2")
    assert folder.read("v/a.newest") == b"2"


def test_deleting_twice_is_no_error(folder: Folder) -> None:
    folder.replace("v/a", b"1")
    [entry] = folder.entries("v/")
    folder.delete(entry)
    folder.delete(entry)
    assert folder.size_of("v/a") is None


def test_damaged_and_missing_files_are_refused(folder: Folder) -> None:
    folder.replace("s/a.tar", b"other bytes")
    for name, word in (("s/a.tar", "damaged"), ("s/b.tar", "missing")):
        with pytest.raises(ValueError, match=word), folder.checked(name, sha256(b"bytes")):
            pass


def test_one_of_many_writers_wins(s3: Open) -> None:
    folder = s3()

    def write(index: int) -> bool:
        try:
            folder.write_once("v/a", str(index).encode())
        except ValueError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(write, range(16)))
    assert won.count(True) == 1
    assert folder.read("v/a") == str(won.index(True)).encode()


def test_a_large_file_goes_up_in_parts_and_a_dead_upload_is_seen_and_swept(
    s3: Open, tmp_path: Path
) -> None:
    folder = s3()
    data = bytes(range(256)) * (9 * _MIB // 256)
    with folder.create("s/large.tar") as stream:
        stream.write(data)
    assert folder._client.head_object(**folder._at("s/large.tar"))["ETag"].endswith('-2"')
    # kill -9 in the middle of an upload: nothing has the name, the parts are found and swept.
    script = (
        "import os, signal, sys, threading\n"
        "from pathlib import Path\n"
        "from infra.storage.s3_folder import S3Folder\n"
        "folder = S3Folder(sys.argv[1], sys.argv[2], None)\n"
        "at = folder._at('s/half.tar')\n"
        "upload = folder._client.create_multipart_upload(**at)['UploadId']\n"
        "folder._client.upload_part(**at, UploadId=upload, PartNumber=1, Body=bytes(6 * 2**20))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", script, folder.uri, str(folder.endpoint_url)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -9
    assert folder.size_of("s/half.tar") is None
    [left] = folder.unfinished("s/")
    assert (left.name, left.num_bytes) == ("s/half.tar", 6 * _MIB)
    folder.delete(left)
    folder.delete(left)
    assert list(folder.unfinished("s/")) == []


def test_an_upload_that_arrives_short_is_an_error(
    s3: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = s3()
    whole = folder._client.upload_file

    def cut(path: str, *where: object, **how: object) -> None:
        Path(path).write_bytes(Path(path).read_bytes()[:-1])
        whole(path, *where, **how)

    monkeypatch.setattr(folder._client, "upload_file", cut)
    with pytest.raises(OSError, match="2 of 3 bytes arrived"), folder.create("s/a") as stream:
        stream.write(b"abc")


def test_a_store_that_puts_off_requests_is_waited_for(s3: Open) -> None:
    with proxied(FaultyProxy(s3.url, slow_down=1)) as url:  # type: ignore[attr-defined]
        folder = s3(through=url)
        data = bytes(9 * _MIB)
        with folder.create("s/a.tar") as stream:
            stream.write(data)
        folder.write_once("s/a.json", b"{}")
        assert [entry.name for entry in folder.entries("s/")] == ["s/a.json", "s/a.tar"]
        with folder.checked("s/a.tar", sha256(data)) as path:
            assert path.stat().st_size == len(data)


def test_cut_connections_are_resumed_and_the_cache_spares_the_next(s3: Open) -> None:
    data = bytes(range(251)) * (4 * _MIB // 251)
    with s3().create("s/a.tar") as stream:
        stream.write(data)
    proxy = FaultyProxy(s3.url, cut_after=_MIB + 17)  # type: ignore[attr-defined]
    with proxied(proxy) as url:
        folder = s3(through=url)
        with folder.checked("s/a.tar", sha256(data)) as path:
            assert path.read_bytes() == data
        assert proxy.num_cut == 3
        requests = len(proxy.requests)
        with folder.checked("s/a.tar", sha256(data)) as path:
            assert path.read_bytes() == data
        assert len(proxy.requests) == requests
        # A cached file that was damaged since is fetched again.
        path.write_bytes(b"damaged")
        with folder.checked("s/a.tar", sha256(data)) as path:
            assert path.read_bytes() == data
        assert len(proxy.requests) > requests


def test_the_cache_keeps_what_was_used_last(s3: Open, tmp_path: Path) -> None:
    cache = tmp_path / "small"
    whole = s3(cache=cache)
    folder = replace(whole, cache_bytes=2500)
    contents = {name: name.encode() * 1000 for name in "abcd"}
    for name, data in contents.items():
        folder.replace(name, data)

    def use(name: str) -> None:
        with folder.checked(name, sha256(contents[name])) as path:
            assert path.read_bytes() == contents[name]
        time.sleep(0.02)  # a clock tick of the file system

    def kept() -> set[str]:
        files = [path for path in cache.iterdir() if not path.name.startswith(".lock-")]
        return {path.read_bytes()[:1].decode() for path in files}

    for name in "aba":
        use(name)
    use("c")
    assert kept() == {"a", "c"}
    # What a block holds is not deleted, though it is older, and others may hold it, too.
    with folder.checked("a", sha256(contents["a"])) as path:
        use("a")
        os.utime(path, (0, 0))
        use("d")
        assert kept() == {"a", "d"}
        opened = path.open("rb")
    os.utime(path, (0, 0))
    use("b")
    assert kept() == {"b", "d"}
    with opened:
        assert opened.read() == contents["a"]
    # A limit that not even one file fits into costs requests and nothing else.
    folder = replace(whole, cache_bytes=0)
    for name in "abcd":
        use(name)


def test_workers_share_a_cache_that_is_too_small(s3: Open, tmp_path: Path) -> None:
    folder = replace(s3(cache=tmp_path / "small"), cache_bytes=25_000)
    contents = {f"n{index}": bytes([index]) * 10_000 for index in range(6)}
    for name, data in contents.items():
        folder.replace(name, data)

    def work(seed: int) -> None:
        for name in random.Random(seed).choices(sorted(contents), k=20):
            with folder.checked(name, sha256(contents[name])) as path:
                assert path.read_bytes() == contents[name]

    # Threads, but each with locks of its own, as processes have them.
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    with folder.checked("n0", sha256(contents["n0"])):
        pass
    sizes = [path.stat().st_size for path in (tmp_path / "small").iterdir()]
    assert sum(sizes) <= 30_000


def test_a_file_that_changes_while_it_is_read_is_an_error(
    s3: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = s3()
    with folder.create("s/a.tar") as stream:
        stream.write(bytes(3 * _MIB))
    monkeypatch.setattr(client, "pause", lambda _: folder.replace("s/a.tar", b"x" * 3 * _MIB))
    proxy = FaultyProxy(s3.url, cut_after=_MIB)  # type: ignore[attr-defined]
    with proxied(proxy) as url, pytest.raises(OSError, match="changed while it was read"):
        s3(through=url).read("s/a.tar")


def test_a_folder_travels_without_its_connection(s3: Open) -> None:
    folder = s3()
    folder.replace("s/a", b"1")
    copy = pickle.loads(pickle.dumps(folder))
    assert copy.read("s/a") == b"1"
    assert KEYS["AWS_SECRET_ACCESS_KEY"].encode() not in pickle.dumps(folder)


def test_mistakes_are_explained(s3: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = s3()
    with pytest.raises(OSError, match="s3://absent-bucket/p/x: no such bucket; create it first"):
        S3Folder("s3://absent-bucket/p", folder.endpoint_url, None).replace("x", b"")
    with pytest.raises(FileNotFoundError, match="no such object"):
        read_object(f"{folder.uri}/absent", folder.endpoint_url)
    with pytest.raises(ValueError, match="write s3://bucket/prefix"):
        split_uri("s3:///a")
    client.s3_client.cache_clear()
    monkeypatch.setattr(client, "_RETRIES", {"mode": "standard", "total_max_attempts": 1})
    with pytest.raises(ConnectionError, match="AWS_ENDPOINT_URL"):
        S3Folder("s3://b/p", "http://127.0.0.1:9", None).read("x")
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    client.s3_client.cache_clear()
    with pytest.raises(PermissionError, match="AWS_ACCESS_KEY_ID"):
        folder.read("x")
    client.s3_client.cache_clear()


@pytest.mark.s3real
def test_wrong_keys_are_refused_by_name(
    gateway: RadosGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = make_bucket(gateway.url, "guarded")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    client.s3_client.cache_clear()
    with pytest.raises(PermissionError, match="SignatureDoesNotMatch"):
        S3Folder(f"{bucket}/p", gateway.url, None).replace("x", b"")
    client.s3_client.cache_clear()


@pytest.mark.s3real
def test_a_server_that_restarts_is_waited_for(gateway: RadosGateway) -> None:
    bucket = make_bucket(gateway.url, "restarts")
    folder = S3Folder(f"{bucket}/p", gateway.url, None)
    gateway.kill_gateway()
    with ThreadPoolExecutor() as pool:
        writing = pool.submit(folder.replace, "a", b"1")
        time.sleep(2)
        assert not writing.done()
        gateway.start_gateway()
        writing.result(timeout=300)
    assert folder.read("a") == b"1"
