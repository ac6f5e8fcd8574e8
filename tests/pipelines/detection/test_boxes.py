import math

import numpy as np
import pytest

from pipelines.detection.boxes import (
    Boxes,
    Judged,
    agreement,
    average_precision,
    judge,
    overlaps,
)


def boxes(*items: tuple[float, float, int, float]) -> Boxes:
    """Squares of 10 pixels by their left upper corner, class and score."""
    corners = np.array([[x, y, x + 10, y + 10] for x, y, _, _ in items]).reshape(-1, 4)
    return Boxes(
        corners, np.array([label for *_, label, _ in items]), np.array([s for *_, s in items])
    )


NONE = boxes()


def test_overlaps_are_shares_of_the_union() -> None:
    found = overlaps(
        boxes((0, 0, 0, 1)).corners, boxes((0, 0, 0, 1), (5, 0, 0, 1), (20, 0, 0, 1)).corners
    )
    assert found.tolist() == [[1, pytest.approx(50 / 150), 0]]


def test_a_wanted_box_is_found_once_and_by_its_class() -> None:
    wanted = boxes((0, 0, 0, 1), (40, 0, 1, 1))
    found = boxes((1, 0, 0, 0.5), (0, 0, 0, 0.9), (40, 0, 0, 0.8), (40, 1, 1, 0.7))
    judged = judge(found, wanted)
    hits = [(each["label"], each["score"], each["hit"]) for each in judged["found"]]
    assert hits == [(0, 0.9, True), (0, 0.8, False), (1, 0.7, True), (0, 0.5, False)]
    assert judged["labelled"] == [0, 1]


def test_agreement_is_the_share_that_both_have() -> None:
    two = boxes((0, 0, 0, 0.9), (40, 0, 1, 0.8))
    assert agreement(two, two) == 1
    assert agreement(boxes((0, 0, 0, 0.9)), two) == pytest.approx(2 / 3)
    assert agreement(NONE, two) == agreement(two, NONE) == 0
    assert math.isnan(agreement(NONE, NONE))


def test_average_precision_is_the_area_that_one_reckons_by_hand() -> None:
    # Of 4 labels: found, missed place, found, found. Precisions 1, 2/3, 3/4 at recalls 1/4, 2/4, 3/4;
    # the second is raised to the third's.
    first = judge(
        boxes((0, 0, 0, 0.9), (90, 0, 0, 0.8), (20, 0, 0, 0.7)), boxes((0, 0, 0, 1), (20, 0, 0, 1))
    )
    second = judge(boxes((0, 0, 0, 0.6)), boxes((0, 0, 0, 1), (40, 0, 0, 1)))
    assert average_precision([first, second]) == pytest.approx((1 + 0.75 + 0.75) / 4)
    # Another class, never found, halves it; one that nobody labelled does not count.
    missed = judge(boxes((0, 0, 7, 0.9)), boxes((0, 0, 3, 1)))
    assert average_precision([first, second, missed]) == pytest.approx(2.5 / 8)
    assert math.isnan(average_precision([judge(NONE, NONE)]))
    assert math.isnan(average_precision([]))


def test_average_precision_pools_pictures() -> None:
    """A sure mistake in one picture costs what is found in another."""
    good: Judged = judge(boxes((0, 0, 0, 0.5)), boxes((0, 0, 0, 1)))
    bad: Judged = judge(boxes((0, 0, 0, 0.9)), NONE)
    assert average_precision([good]) == 1
    assert average_precision([good, bad]) == 0.5
