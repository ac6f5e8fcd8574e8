from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from mlflow import MlflowClient

from infra.registry import model_versions as registry
from infra.registry import tracking
from infra.settings import Settings
from tests.settings import tracked_settings

NAME = "fuser-under-test"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return tracked_settings(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="module")
def client(settings: Settings, tiny_bundle: Path) -> MlflowClient:
    """A registry with two versions of one model."""
    client = tracking.connect(settings)
    for number in ("1", "2"):
        run_id = tracking.open_run(client, name="train", config={}, tags={}).info.run_id
        version = registry.register_bundle(
            client,
            NAME,
            tiny_bundle,
            run_id=run_id,
            tags={"dataset_digest": "d"},
            requirements=["torch"],
        )
        assert str(version.version) == number
    return client


def test_a_new_version_is_the_challenger_with_its_tags(client: MlflowClient) -> None:
    version = registry.find_model(client, f"models:/{NAME}@challenger")
    assert str(version.version) == "2"
    assert version.tags["dataset_digest"] == "d"
    run = client.get_run(version.run_id).data.tags
    assert version.tags["user"] == run["mlflow.user"]
    # The command, and not where it lies on this machine.
    assert version.tags["source"] == run["mlflow.source.name"]
    assert "/" not in version.tags["source"]
    assert str(registry.find_model(client, f"models:/{NAME}/1").version) == "1"


def test_a_registration_that_was_killed_goes_on(client: MlflowClient, tiny_bundle: Path) -> None:
    """A version without its alias, as a kill between the two calls leaves it: no second one is made."""
    name, tags = "killed", {"dataset_digest": "d"}
    run_id = tracking.open_run(client, name="train", config={}, tags={}).info.run_id
    assert registry.resume_registration(client, name, run_id) is None
    client.create_registered_model(name)
    source = f"{client.get_run(run_id).info.artifact_uri}/fuser"
    client.create_model_version(name, source, run_id=run_id, tags=tags)
    whole = registry.resume_registration(client, name, run_id)
    assert whole is not None
    assert (str(whole.version), whole.aliases, whole.tags) == ("1", ["challenger"], tags)
    # A newer one of another run stays the challenger.
    other = tracking.open_run(client, name="train", config={}, tags={}).info.run_id
    client.create_model_version(name, source, run_id=other)
    found = [registry.resume_registration(client, name, each) for each in (other, run_id)]
    assert [str(each and each.version) for each in found] == ["2", "1"]
    challenger = registry.find_alias(client, name, registry.CHALLENGER)
    assert challenger is not None
    assert str(challenger.version) == "2"


def test_a_bundle_comes_back_whole(client: MlflowClient, tiny_bundle: Path, tmp_path: Path) -> None:
    version = registry.find_model(client, f"models:/{NAME}/2")
    bundle = registry.fetch_bundle(client, version, tmp_path)
    for file in tiny_bundle.iterdir():
        assert (bundle / file.name).read_bytes() == file.read_bytes()


def test_the_champion_moves_and_so_does_the_previous_one(client: MlflowClient) -> None:
    assert registry.find_alias(client, NAME, registry.CHAMPION) is None
    registry.set_champion_aliases(client, NAME, "1", previous=None)
    assert registry.find_alias(client, NAME, registry.PREVIOUS) is None
    registry.set_champion_aliases(client, NAME, "2", previous="1")
    champion = registry.find_alias(client, NAME, registry.CHAMPION)
    previous = registry.find_alias(client, NAME, registry.PREVIOUS)
    assert champion is not None
    assert previous is not None
    assert (str(champion.version), str(previous.version)) == ("2", "1")


def test_events_are_kept_in_order_and_fit_where_postgresql_keeps_them(client: MlflowClient) -> None:
    for number in (2, 1):
        registry.write_event(client, NAME, number, {"version": str(number)})
    assert registry.read_events(client, NAME) == {1: {"version": "1"}, 2: {"version": "2"}}
    with pytest.raises(ValueError, match="5000 fit; give a shorter reason"):
        registry.write_event(client, NAME, 3, {"reason": "x" * 5000})
    with pytest.raises(ValueError, match="no registered model 'absent'"):
        registry.read_events(client, "absent")


def hold(client: MlflowClient, **options: Any) -> AbstractContextManager[registry.Lock]:
    return registry.promotion_lock(client, NAME, holder="me@here", **options)


def test_a_second_promotion_is_told_who_holds_the_lock(client: MlflowClient) -> None:
    with (
        hold(client) as lock,
        pytest.raises(ValueError, match=r"under way, by me@here.*runs out in \d+ s, --break-lock"),
        hold(client),
    ):
        pass
    with pytest.raises(ValueError, match="lost its lock"):
        lock.check()
    with hold(client) as lock:
        lock.check()


def test_of_many_at_once_one_gets_the_lock(client: MlflowClient) -> None:
    together, everyone_tried = Barrier(4), Barrier(4)

    def attempt(_: int) -> str:
        together.wait()
        try:
            with hold(client):
                everyone_tried.wait()
                return "held"
        except ValueError as error:
            everyone_tried.wait()
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(attempt, range(4)))
    assert answers.count("held") == 1
    assert sum("another promotion" in answer for answer in answers) == 3


@pytest.mark.parametrize("how", [{"break_lock": True}, {}])
def test_the_lock_of_a_dead_promotion_is_taken(client: MlflowClient, how: dict[str, bool]) -> None:
    # Without --break-lock only when its lease is over.
    with hold(client, lease_s=600.0 if how else 0.0) as dead:
        with hold(client, **how) as lock:
            lock.check()
            with pytest.raises(ValueError, match="lost its lock"):
                dead.check()
        # Going on with what is left of it does not take a lock from the next one.
        with hold(client) as lock:
            pass


@pytest.mark.parametrize("uri", ["models:/absent/1", f"models:/{NAME}@absent", f"models:/{NAME}/9"])
def test_what_does_not_exist_is_named(client: MlflowClient, uri: str) -> None:
    with pytest.raises(ValueError, match=uri):
        registry.find_model(client, uri)


@pytest.mark.parametrize("uri", ["fuser", "models:/fuser", "models:/fuser/latest"])
def test_what_is_no_model_address(client: MlflowClient, uri: str) -> None:
    with pytest.raises(ValueError, match="models:/NAME@ALIAS"):
        registry.find_model(client, uri)
