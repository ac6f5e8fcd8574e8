"""Batches made ahead of their step."""

import pytest

from pipelines.batches.prefetch import prefetch


def test_prefetch_keeps_order_and_passes_errors_on() -> None:
    for threads in (1, 3):
        made = prefetch(lambda step: step * step, range(10), depth=3, threads=threads)
        assert list(made) == [n * n for n in range(10)]

    def fail(step: int) -> int:
        if step == 2:
            raise ValueError("step 2 is bad")
        return step

    stream = prefetch(fail, range(5), depth=2)
    assert next(stream) == 0
    assert next(stream) == 1
    with pytest.raises(ValueError, match="step 2 is bad"):
        next(stream)
