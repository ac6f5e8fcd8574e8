"""Files as people send them, of noise."""

from typing import Any

import cv2
import numpy as np


def noise(shape: tuple[int, ...], dtype: Any = np.uint8, *, suffix: str = ".png") -> bytes:
    levels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)
    done, data = cv2.imencode(suffix, levels)
    assert done
    return data.tobytes()


def pair(height: int = 24, width: int = 32) -> dict[str, bytes]:
    return {"vi": noise((height, width, 3)), "ir": noise((height, width))}


def decoded(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
