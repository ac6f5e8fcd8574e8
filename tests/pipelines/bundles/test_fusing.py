"""What the fuser is told of pictures."""

import numpy as np
import pytest

from degradations.chain import Applied
from models.drfusion import config as drfusion
from models.dspfusion import config as dspfusion
from models.lure.config import LUREConfig
from pipelines.bundles.export import Bundle
from pipelines.bundles.fusing import Fusing

BLUR = Applied(name="gaussian_blur", params={"size_px": 21, "sigma_px": 2.0})


def fusing(model=None, **chains) -> Fusing:
    model = drfusion.tiny() if model is None else model
    return Fusing(bundle=Bundle(source="x", model=model, weights=b""), **chains)


def noisy(level: float, dtype: type, channels: int) -> np.ndarray:
    most = np.iinfo(dtype).max
    noise = np.random.default_rng(1).normal(0.5, level / 255, (64, 64, channels))
    return np.rint(noise * most).astype(dtype)


def test_noise_is_estimated_where_nothing_is_told() -> None:
    told = fusing(ir_chain=(BLUR,))
    assert told.estimates == ("vi",)
    for dtype in (np.uint8, np.uint16):
        hints = told.hints(noisy(10, dtype, 3), noisy(10, dtype, 1))
        assert hints["vi_op"][0].tolist() == pytest.approx([10 / 255, 0, 1], rel=0.05)
        assert hints["ir_op"][0].tolist() == [0, 2, 1]


def test_clean_is_told_by_an_empty_chain() -> None:
    clean = fusing(vi_chain=(), ir_chain=())
    assert clean.estimates == ()
    hints = clean.hints(noisy(10, np.uint8, 3), noisy(10, np.uint8, 1))
    assert hints["vi_op"].tolist() == hints["ir_op"].tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("model", [dspfusion.tiny(), LUREConfig()])
def test_only_operators_are_estimated(model) -> None:
    told = fusing(model)
    assert told.estimates == ()
    hints = told.hints(noisy(10, np.uint8, 3), noisy(10, np.uint8, 1))
    assert all(value.tolist() == [0] for value in hints.values())
