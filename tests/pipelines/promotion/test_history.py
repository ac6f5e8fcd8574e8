import pytest

from pipelines.promotion.history import Event, below, champions, read_history, shortened


def event(action: str, version: str, over: str | None = None, *, finished: bool = True) -> Event:
    fields = {"action": action, "version": version, "over": over, "finished": finished}
    return Event.model_validate(fields | {"by": "me", "at": "now", "commit": "c"})


def test_rollbacks_undo_one_promotion_after_another() -> None:
    events = [event("promote", "1"), event("promote", "2", "1"), event("force", "1", "2")]
    assert champions(events) == ["1", "2", "1"]
    assert below(champions(events), "1") == "2"
    events.append(event("rollback", "2", "1"))
    assert champions(events) == ["1", "2"]
    assert below(champions(events), "2") == "1"
    events.append(event("rollback", "1", "2"))
    assert champions(events) == ["1"]
    assert below(champions(events), "1") is None


def test_what_died_on_the_way_made_no_champion() -> None:
    assert champions([event("promote", "1"), event("promote", "2", "1", finished=False)]) == ["1"]


def test_an_alias_that_was_set_by_hand_is_gone_back_to() -> None:
    assert champions([event("promote", "1"), event("promote", "3", "2")]) == ["1", "2", "3"]
    assert champions([event("rollback", "5", "6")]) == ["6", "5"]
    assert below([], "5") is None


@pytest.mark.parametrize(
    "value", [None, [], "promote", {"action": "promote"}, {"action": "steal"}, {"x": 1}]
)
def test_an_event_that_was_edited_is_named(value: object) -> None:
    good = event("promote", "1").model_dump(mode="json")
    assert read_history("m", {1: good}) == {1: event("promote", "1")}
    with pytest.raises(ValueError, match=r"promotion event 2 of 'm' is not ours \(.*in MLflow"):
        read_history("m", {1: good, 2: value})


@pytest.mark.parametrize(("count", "kept"), [(0, 0), (5, 5), (7, 6)])
def test_reasons_are_cut_but_counted(count: int, kept: int) -> None:
    short = shortened(["x" * 1000] * count)
    assert len(short) == kept
    assert all(len(reason) <= 300 for reason in short)
    assert count <= 5 or short[-1] == f"and {count - 5} more"
