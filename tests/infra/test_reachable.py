"""Settings that point nowhere: one line that names the setting, in seconds."""

import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import requests

from infra.cluster.connect import check_address
from infra.registry import tracking
from infra.settings import Settings, read_settings
from tests.ray_head import free_port
from tests.settings import embedded_settings, tracked_settings


@pytest.fixture
def other_server() -> Iterator[int]:
    """The port of a server that is no Ray head: it answers as HTTP/1.1 servers do."""

    def serve() -> None:
        connection = listening.accept()[0]
        with connection:
            connection.recv(64)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(timeout=10)


def test_a_ray_cluster_that_is_not_there() -> None:
    port = free_port()
    with pytest.raises(ConnectionError, match=rf"at 127\.0\.0\.1:{port} .*refused.*RAY_ADDRESS"):
        check_address(f"127.0.0.1:{port}")


def test_a_server_that_is_no_ray_head(other_server: int) -> None:
    with pytest.raises(ConnectionError, match=r"another server listens.*RAY_ADDRESS"):
        check_address(f"127.0.0.1:{other_server}")


@pytest.mark.parametrize("address", ["nonsense", "host:", "host:99999", "host:" + "9" * 5000])
def test_an_address_of_ray_that_is_none(address: str) -> None:
    with pytest.raises(ValueError, match="is a head's HOST:PORT"):
        check_address(address)


def of_store(uri: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return read_settings(work=work)


@pytest.mark.parametrize("uri", ["nonsense", "file:///tmp/mlruns", "./mlruns", "sqlite://"])
def test_a_store_without_a_registry(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"MLFLOW_TRACKING_URI=.*: give a"):
        of_store(uri, tmp_path, monkeypatch)


def test_databases_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, text = tmp_path / "loop", tmp_path / "text.db"
    loop.symlink_to(loop)
    text.write_text("no database" * 100)
    port = free_port()
    for uri, reason in (
        (f"postgresql://mlflow:secret@127.0.0.1:{port}/mlflow", "refused"),
        (f"sqlite:///{text}", "file is not a database"),
        (f"sqlite:///{text}/mlflow.db", "(Not a directory|exists)"),
        (f"sqlite:///{loop}/mlflow.db", "levels of symbolic links|exists"),
        (f"sqlite:///{tmp_path}", "unable to open"),
    ):
        with pytest.raises(ValueError, match=rf"{reason}.*set MLFLOW_TRACKING_URI") as caught:
            tracking.connect(of_store(uri, tmp_path, monkeypatch))
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_relative_store_is_one_file_for_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = of_store("sqlite:///here/mlflow.db?timeout=60", tmp_path / "work", monkeypatch)
    assert settings.tracking_uri == f"sqlite:///{tmp_path}/here/mlflow.db?timeout=60"
    assert settings.artifact_root == f"{tmp_path}/here/mlflow-artifacts"


def test_a_work_folder_that_is_a_loop_or_below_a_file(tmp_path: Path) -> None:
    loop, file = tmp_path / "loop", tmp_path / "file"
    loop.symlink_to(loop)
    file.touch()
    for work in (loop, loop / "work", file, file / "work"):
        with pytest.raises(ValueError, match=r"FUSION_WORK \(--work\) .*; name a folder"):
            read_settings(work=work)


@pytest.mark.parametrize(
    ("status", "is_there"), [(200, True), (401, True), (404, True), (502, False)]
)
def test_a_server_behind_a_proxy(status: int, is_there: bool) -> None:
    """It may ask for a password, or know no /health; what it has behind it must be there."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/mlflow/health" else 500)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        expected = nullcontext() if is_there else pytest.raises(requests.HTTPError)
        with expected:
            tracking.check_reachable(f"http://127.0.0.1:{server.server_port}/mlflow/")


def test_a_work_folder_that_was_moved_is_said_with_the_remedy(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    client = tracking.connect(embedded_settings(before))
    run = tracking.open_run(client, name="a", config={}, tags={})
    client.log_dict(run.info.run_id, {"x": 1}, "x.json")
    before.rename(after)
    with pytest.raises(ValueError, match=rf"link it: ln -s {after} {before}"):
        tracking.connect(embedded_settings(after))
    before.symlink_to(after)
    client = tracking.connect(embedded_settings(after))
    fetched = tracking.fetch_folder(run.info.run_id, "x.json", tmp_path)
    assert fetched.read_text()


def test_an_experiment_that_was_deleted_is_said_with_the_remedy(tmp_path: Path) -> None:
    settings = tracked_settings(tmp_path)
    client = tracking.connect(settings)
    client.delete_experiment(tracking.experiment_id(client))
    with pytest.raises(
        ValueError, match="restore it: mlflow experiments restore --experiment-id 1"
    ):
        tracking.connect(settings)
