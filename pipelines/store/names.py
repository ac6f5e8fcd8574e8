"""Names that people give: which are allowed, and which a misspelt one was probably meant to be."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def check_name(name: str, what: str) -> str:
    """Return a name that becomes part of a path. Raises ValueError when it could lead elsewhere."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{what} {name!r}: a name is letters, digits and . _ + -, beginning with one of the first two"
        )
    return name


def nearest(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """ ", did you mean 'NAME'?" for the nearest of the names (shown behind `prefix`), else nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {prefix + near[0]!r}?" if near else ""
