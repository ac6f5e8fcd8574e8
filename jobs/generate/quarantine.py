"""Scenes that a generation leaves out, because their pictures went bad after the scan."""

from __future__ import annotations

from jobs.console import print_line
from pipelines.datasets.shards.writing import BadSourcesError
from pipelines.sources.pairing import Refused
from pipelines.sources.scan import ScanResult, check_refused_share


class Quarantine:
    """What was left out so far, by file and by scene; with what the scan refused, within a share."""

    def __init__(self, index: ScanResult, max_share: float) -> None:
        """Raise ValueError when the scan refused more than `max_share` already."""
        self._index, self._max_share = index, max_share
        self._bad: dict[str, Refused] = {}
        self.scene_ids: set[str] = set()
        self._check()

    @property
    def refused(self) -> tuple[Refused, ...]:
        """Every file that was left out, those of the scan first."""
        return (*self._index.refused, *self._bad.values())

    def add(self, bad: BadSourcesError) -> None:
        """Leave out the scenes of a shard's bad sources. Raises ValueError when that is too many."""
        self.scene_ids |= {*bad.scene_ids}
        for item in bad.refused:
            self._bad[item.path] = item
            print_line(f"  left out: {item.path}: {item.reason}")
        self._check()

    def _check(self) -> None:
        scenes = self._index.scenes.without(self.scene_ids)
        check_refused_share(
            ScanResult(scenes=scenes, refused=self.refused),
            max_share=self._max_share,
            setting="--set max_refused_share=…",
        )
