"""Generations and collections of garbage see each other, on disk and on S3."""

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.storage.s3_folder import S3Folder
from pipelines.datasets import under_way
from pipelines.datasets.under_way import Announcement, announced
from pipelines.store.folders import Folder, LocalFolder
from tests.s3_servers import make_bucket

_numbers = itertools.count()


@pytest.fixture(params=["disk", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path, moto_url: str) -> Iterator[Folder]:
    if request.param == "disk":
        yield LocalFolder(tmp_path)
    else:
        yield S3Folder(
            make_bucket(
                moto_url, f"way-{tmp_path.name[-20:].strip('_').replace('_', '-').lower()}"
            ),
            moto_url,
            None,
        )


def records(root: Folder) -> list[str]:
    return [entry.name for entry in root.entries("underway/")]


def test_a_collection_learns_what_generations_need(root: Folder) -> None:
    with announced(root, "generate", "a") as first, announced(root, "generate", "b") as second:
        first.need(["s2", "s1"])
        first.need(["s3"])
        second.need(["s4"])
        with announced(root, "gc", "c") as collection:
            found = {record.who: record.shards for record in collection.generations()}
            assert found == {"a": ("s1", "s2", "s3"), "b": ("s4",)}
            assert second.collection().who == "c"
            with announced(root, "gc", "d"):
                assert second.collection().who == "d"
            # Another collection ended, this one goes on.
            assert second.collection() is not None
        assert second.collection() is None
    assert records(root) == []


def test_a_generation_waits_for_a_collection(root: Folder) -> None:
    lines: list[str] = []
    is_waiting = threading.Event()

    def log(line: str) -> None:
        lines.append(line)
        is_waiting.set()

    with announced(root, "generate", "a") as generation:
        with announced(root, "gc", "the collector"):
            waiting = threading.Thread(
                target=generation.wait_for_collections, args=(log,), kwargs={"poll_s": 0.02}
            )
            waiting.start()
            assert is_waiting.wait(60)
            assert waiting.is_alive()
        waiting.join(60)
        assert not waiting.is_alive()
    assert lines == ["  waiting for the collection of garbage by the collector"]


def test_what_sends_no_heartbeat_is_dead(root: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    left = Announcement(root, "generate", "killed")
    left.need(["s1"])
    collector = Announcement(root, "gc", "killed, too")
    collector.renew()
    with announced(root, "gc", "c") as collection:
        monkeypatch.setattr(under_way, "LIFE_S", 0.0)
        assert collection.generations() == []
        assert {entry.name for entry in collection.dead()} == {left._name, collector._name}
        collection.wait_for_collections(pytest.fail)
        # Whoever was away so long must not delete either.
        with pytest.raises(ValueError, match="no heartbeat for"):
            collection.check_alive()
        monkeypatch.undo()
        collection.check_alive()


class Away(LocalFolder):
    """A store that does not answer."""

    def replace(self, name: str, data: bytes) -> None:
        raise ConnectionError("no answer")

    def remove(self, name: str) -> None:
        raise ConnectionError("no answer")


def test_a_store_that_is_away_stops_no_heartbeat(tmp_path: Path) -> None:
    announcement = Announcement(Away(tmp_path), "generate", "a")
    with pytest.warns(UserWarning, match="no heartbeat"):
        announcement.send_heartbeat()
    with pytest.warns(UserWarning, match="is left"):
        announcement.end()
