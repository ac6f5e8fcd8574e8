"""Which scenes a command measures: `--scenes INDEX --split SPLIT --dataset DATASET`."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from infra.settings import Settings
from jobs.scan.run import load_index
from pipelines.evaluation.measuring import choose_scenes
from pipelines.sources.scenes import Scene


@dataclass(frozen=True)
class SceneChoice:
    """A split of the index of that name or path, and of one of its data sets if one is named."""

    index: str
    split: str = "val"
    dataset: str | None = None

    @property
    def name(self) -> str:
        """What reports and folders call it, "roadscene-val"."""
        return "-".join(filter(None, (Path(self.index).stem, self.dataset, self.split)))

    @property
    def options(self) -> str:
        """The options of a command that choose the same."""
        named = f" --dataset {self.dataset}" if self.dataset else ""
        return f"--scenes {shlex.quote(self.index)} --split {self.split}{named}"

    def load(self, settings: Settings, count: int | None) -> tuple[Scene, ...]:
        """The first `count` scenes, or all. Raises ValueError, saying what to do, without any."""
        table = load_index(settings, self.index).scenes
        there: Counter[str] = Counter()
        for splits in table.counts().values():
            there.update(splits)
        if self.split not in there:
            shown = ", ".join(f"{name} ({count} scenes)" for name, count in sorted(there.items()))
            raise ValueError(
                f"--scenes {self.index} has no split {self.split!r}, it has {shown or 'none'}; name one of "
                "them with --split, or hold some scenes out: python -m jobs.scan FOLDER --hold-out 0.2"
            )
        return choose_scenes(table.of_split(self.split, dataset=self.dataset), count)
