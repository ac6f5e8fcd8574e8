"""Render our HTML pages: one file with everything inside, readable in light and dark.

No script, font or picture is fetched: a page can be mailed, stored as an artifact and opened years
later. Templates escape every value; none marks a value as safe.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipelines.reports.filters import FILTERS
from pipelines.store.files import write_whole

# Pictures are shown about 240 px wide and stored at twice that, for dense screens.
_PICTURE_WIDTH_PX = 480
_JPEG_QUALITY = 88


class Figure(NamedTuple):
    """A picture as a data URI, its label, and short lines below it."""

    uri: str
    label: str
    lines: Sequence[str] = ()


def write_page(path: Path, template: str, **values: Any) -> None:
    """Render a template of this folder's `templates/` and write it whole."""
    write_whole(path, templates().get_template(template).render(values).encode())


@cache
def templates() -> Environment:
    """Load templates from beside this file: Ray workers run from another folder."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    return environment


def data_uri(picture: np.ndarray) -> str:
    """Encode uint8 H×W×3 RGB or H×W×1 as JPEG, shrunk to the stored width (never enlarged)."""
    height, width = picture.shape[:2]
    if width > _PICTURE_WIDTH_PX:
        size = (_PICTURE_WIDTH_PX, max(1, round(height * _PICTURE_WIDTH_PX / width)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    if picture.ndim == 3 and picture.shape[2] == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert done, "OpenCV refused to encode a uint8 picture"
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
