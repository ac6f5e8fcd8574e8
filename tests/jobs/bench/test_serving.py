"""What the bench counts as an error, and what it times, before the real application without Ray."""

from collections.abc import Iterator

import pytest

from infra.cluster.serving import BusyError, UnavailableError
from jobs.bench.serving import SMOKE, in_turn, many_clients, pairs_per_s, rendered_pair
from jobs.serve.limits import Limits
from jobs.serve.messages import Answer, Facts, Refused, Request
from jobs.serve.web import web_app
from pipelines.bundles.fusing import FusablePair
from tests.jobs.serve.in_process import listening


class Befallen:
    """A model that answers each pair with the next of what befalls it, then with a picture."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = [*errors]
        self.num_asked = 0

    async def answer(self, item: Request) -> Answer | Refused:
        self.num_asked += 1
        if self.errors:
            raise self.errors.pop()
        return Answer(item.vi, "small", 0.0)

    async def facts(self) -> Facts:
        raise NotImplementedError

    @property
    def num_ongoing(self) -> int:
        return 0

    async def is_ready(self) -> bool:
        return True


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> FusablePair:
    return rendered_pair(tmp_path_factory.mktemp("pair"), SMOKE)


@pytest.fixture(scope="module")
def model() -> Befallen:
    return Befallen()


@pytest.fixture(scope="module")
def url(model: Befallen) -> Iterator[str]:
    with listening(web_app(model, Limits())) as address:
        yield address


def test_a_full_queue_is_no_error_of_the_clients(
    url: str, model: Befallen, pair: FusablePair
) -> None:
    model.errors = [BusyError(), BusyError()]
    line = many_clients(url, pair, SMOKE)
    assert (line.value, line.holds) == (0, True)
    assert line.detail.endswith("48 × 200, 2 × 429")
    model.errors = [UnavailableError("no replica is up"), BusyError()]
    line = many_clients(url, pair, SMOKE)
    assert (line.value, line.holds) == (1, False)
    assert line.detail.endswith("48 × 200, 1 × 429, 1 × 503")


def test_both_sides_take_the_pair_in_turn(url: str, model: Befallen, pair: FusablePair) -> None:
    asked_before, order = model.num_asked, list[int]()
    line = in_turn(url, lambda: order.append(model.num_asked - asked_before), pair, SMOKE)
    assert order == [1, 2, 3, 4]
    assert line.value > 0
    assert pairs_per_s(url, pair, SMOKE, replicas=2) > 0
    assert model.num_asked - asked_before == 4 + 8 + 8
