"""Watch what comes: what cameras suffer, how far it is from the training's pictures, what to train on next.

A replica watches the pairs that it answers. Its alarm looks back on the last pictures of each camera; the
folder of the farthest pairs is shared by all replicas, and bounded.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict, deque

from infra.logs import log_warning
from infra.prometheus import count_seen, export_drift
from jobs.serve.messages import Request
from pipelines.bundles.degradation_types import Sight
from pipelines.checks.damage import read_header
from pipelines.store.folders import Entry, Folder

# Of the training's pictures 1 in 20 is beyond distance 1, and of a camera that suffers one type alone, of
# those that it was trained on, up to 1 in 4: above that.
_LOOKED_BACK, _FEWEST = 200, 50
_ALARM_SHARE, _CALM_SHARE = 0.4, 0.2
_MOST_PAIRS, _MOST_BYTES = 100, 2**28
_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}
# Distance in thousandths, so that names are in order of it, and the files' digest.
_OURS = re.compile(r"(?:vi|ir)/(\d{6}-[0-9a-f]{12})\.\w+")


class Watch:
    """Counts what a replica sees, and warns of drift; `kept` takes the farthest pairs."""

    def __init__(self, kept: Folder | None = None) -> None:
        self._kept = kept
        self._are_far = defaultdict[str, deque[bool]](lambda: deque(maxlen=_LOOKED_BACK))
        self._drifts = defaultdict[str, bool](bool)

    def see(self, item: Request, sight: Sight) -> None:
        """Count an answered pair. That it cannot be kept is a warning: who sent it has his answer."""
        for camera, distance in sight.distances.items():
            count_seen(camera, next(iter(sight.shares[camera])), distance)
            self._are_far[camera].append(distance > 1)
            self._look_back(camera)
        farthest = max(sight.distances.values(), default=0.0)
        if self._kept and farthest > 1:
            try:
                keep_pair(self._kept, item, farthest)
            except OSError as error:
                reason = " ".join(str(error).split())
                log_warning(f"{self._kept.uri}: a pair to train on is not kept ({reason})")

    def _look_back(self, camera: str) -> None:
        far = self._are_far[camera]
        share = sum(far) / len(far)
        if len(far) >= _FEWEST and share > _ALARM_SHARE and not self._drifts[camera]:
            self._drifts[camera] = True
            log_warning(
                f"drift: {share:.0%} of the last {len(far)} pictures of {camera} are farther from the "
                "training's than 95% of those; train on such pairs (--keep-far keeps them)"
            )
        elif share < _CALM_SHARE and self._drifts[camera]:
            self._drifts[camera] = False
            log_warning(f"drift: over, {share:.0%} of the last {len(far)} pictures of {camera}")
        export_drift(camera, drifts=self._drifts[camera])


def keep_pair(
    folder: Folder,
    item: Request,
    distance: float,
    *,
    most_pairs: int = _MOST_PAIRS,
    most_bytes: int = _MOST_BYTES,
) -> None:
    """Write a pair's files to `folder`, below vi/ and ir/, if it is among the farthest that fit there.

    What then no longer fits is deleted, the nearest first; files of other names are left alone, and not
    counted. A pair that lies there already is not written twice. Replicas that write in one moment may be
    over the limits until the next pair.
    """
    files = {"vi": item.vi, "ir": item.ir}
    digest = hashlib.sha256(item.vi + item.ir).hexdigest()[:12]
    name = f"{min(round(1000 * distance), 999_999):06d}-{digest}"
    lying = defaultdict[str, list[Entry]](list)
    for entry in folder.entries(""):
        if ours := _OURS.fullmatch(entry.name):
            lying[ours[1]].append(entry)
    if any(len(entries) > 1 for other, entries in lying.items() if other.endswith(digest)):
        return
    num_bytes = {other: sum(entry.num_bytes for entry in lying[other]) for other in lying}
    num_bytes[name] = sum(map(len, files.values()))
    fit = _farthest(num_bytes, most_pairs, most_bytes)
    if name not in fit:
        return
    for other in lying.keys() - fit:
        for entry in lying[other]:
            folder.delete(entry)
    for camera, data in files.items():
        form = read_header(data, camera).format
        folder.replace(f"{camera}/{name}.{_SUFFIXES.get(form, form.lower())}", data)


def _farthest(num_bytes: dict[str, int], most_pairs: int, most_bytes: int) -> set[str]:
    """The last names that are together within both limits."""
    fit, total = set[str](), 0
    for name in sorted(num_bytes, reverse=True)[:most_pairs]:
        total += num_bytes[name]
        if total > most_bytes:
            break
        fit.add(name)
    return fit
