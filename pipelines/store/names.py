"""Names that people give: which are allowed, and which a misspelt one was probably meant to be."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def check_name(name: str, what: str) -> str:
    """Return a name that becomes part of a path. Raises ValueError when it could lead elsewhere."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{what} {name!r}: a name is letters, digits and . _ + -, beginning with one of the first two"
        )
    return name


def first_few(
    texts: Sequence[str], *, most: int = 3, separator: str = ", ", last: str = " and "
) -> str:
    """The first ones in a line, with "and 4 more" at its end where there are more."""
    more = f"{last}{len(texts) - most} more" if len(texts) > most else ""
    return separator.join(texts[:most]) + more


def nearest(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """ ", did you mean 'NAME'?" for the nearest of the names (shown behind `prefix`), else nothing."""
    known = list(known)
    # "steps" is nearer to "num_steps" than to "eps", whatever letters they share.
    whole = [each for each in known if set(name.split("_")) <= set(each.split("_"))]
    near = difflib.get_close_matches(name, whole or known, n=1, cutoff=0.0 if whole else 0.6)
    return f", did you mean {prefix + near[0]!r}?" if near else ""
