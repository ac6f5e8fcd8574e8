"""The model of a replica: it answers pairs, and follows its alias."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from infra.logs import log_warning
from infra.prometheus import count_batch, export_served
from infra.settings import Settings
from jobs.fuse.run import bundle_of, resolve_model
from jobs.fuse.told import read_chains
from jobs.locations import open_folder
from jobs.serve.messages import Answer, Facts, Refused, Request
from jobs.serve.watch import Watch
from models.system import FuseOptions, Hints
from pipelines.bundles.export import read_bundle
from pipelines.bundles.fusing import FusablePair, Fusing, PictureFuser, Pictures, with_windows
from pipelines.checks.depth import WindowRule
from pipelines.sources.pictures import encode_jpeg, encode_png, to_levels
from pipelines.sources.scenes import read_pair

# A version that does not load is tried again after so long: a store may have been out of reach.
_RETRY_S = 300.0
# A new version fuses a grey pair of this size before it is served.
_TRIED_PX = 64
_PAIR = FusablePair(vi_uri="vi", ir_uri="ir", name="fused")


@dataclass(frozen=True)
class _Loaded:
    """A version in memory; `name` is models:/NAME/VERSION, or a bundle's folder."""

    name: str
    fusing: Fusing
    fuse: PictureFuser

    @property
    def shown(self) -> str:
        """What clients are told: of a bundle its name, not where it lies."""
        return _shown(self.name)

    @property
    def version(self) -> str:
        """The version's number, or a bundle's name."""
        return self.name.rpartition("/")[2]


class ServedModel:
    """A model on a device. It answers with the version that its alias points at, since the last look.

    Pairs that are far from what it was trained on are kept at the URI `keep_far`, if there is one.
    """

    def __init__(
        self,
        model: str,
        options: FuseOptions,
        settings: Settings,
        device: str = "cpu",
        keep_far: str | None = None,
    ) -> None:
        self._asked, self._options, self._settings = model, options, settings
        self._device = device
        self._failed, self._retry_s = "", 0.0
        self._watch = Watch(open_folder(keep_far, settings) if keep_far else None)
        self._current = self._load(resolve_model(model, settings))

    def _load(self, name: str) -> _Loaded:
        """Load a version and try it. Raises ValueError where it cannot be loaded or does not fuse."""
        bundle = read_bundle(bundle_of(name, self._settings))
        fusing = Fusing(bundle=bundle, options=self._options)
        loaded = _Loaded(name, fusing, PictureFuser(fusing, self._device))
        size = _TRIED_PX, _TRIED_PX
        grey = np.full((*size, 3), 128, np.uint8), np.full((*size, 1), 128, np.uint8)
        [found] = loaded.fuse([grey], [fusing.hints(*grey)])
        if isinstance(found, ValueError):
            raise ValueError(f"{name}: {found}") from found
        if name.startswith("models:/"):
            export_served(name.split("/")[1], int(loaded.version))
        return loaded

    def refresh(self) -> None:
        """Take the version that the alias points at now; without it, what is served stays."""
        try:
            name = resolve_model(self._asked, self._settings)
            is_retried = name == self._failed and time.monotonic() < self._retry_s
            if name != self._current.name and not is_retried:
                # A batch that is under way keeps the version that it began with.
                self._failed, self._retry_s = name, time.monotonic() + _RETRY_S
                self._current = self._load(name)
                self._failed = ""
        except Exception as error:  # the registry's and the network's, of all kinds
            reason = " ".join(str(error).split())
            log_warning(f"{self._asked}: {reason}; {self._current.name} is served meanwhile")

    def facts(self) -> Facts:
        """What is served now."""
        system = self._current.fusing.bundle.system
        names = _shown(self._asked), self._current.shown
        return Facts(*names, system.name, system.hints, self._device)

    def answer(self, items: Sequence[Request]) -> list[Answer | Refused]:
        """Fuse pairs, those of one size at once; what cannot be fused is refused by itself."""
        current, started = self._current, time.perf_counter()
        answers: dict[int, Answer | Refused] = {}
        of_size: dict[Any, list[tuple[int, Pictures, Hints]]] = defaultdict(list)
        for place, item in enumerate(items):
            try:
                pictures, hints = _read(current.fusing, item)
            except ValueError as error:
                answers[place] = Refused(_in_words_of_the_form(error))
            else:
                of_size[pictures[0].shape[:2]].append((place, pictures, hints))
        for batch in of_size.values():
            count_batch(current.version, len(batch))
            fused = current.fuse([pair for _, pair, _ in batch], [hints for *_, hints in batch])
            for (place, pair, _), one in zip(batch, fused, strict=True):
                seconds = time.perf_counter() - started
                made = _encoded(items[place].form, pair, one)
                if isinstance(made, Refused):
                    answers[place] = made
                    continue
                sight = current.fuse.sees(pair)
                self._watch.see(items[place], sight)
                answers[place] = Answer(made, current.shown, seconds, sight.shares)
        return [answers[place] for place in range(len(items))]


def _shown(name: str) -> str:
    return name if name.startswith("models:/") else Path(name).name


def _encoded(
    form: Literal["png", "jpeg"], pair: Pictures, fused: Tensor | ValueError
) -> bytes | Refused:
    """The file of a fused picture 1×3×H×W: a PNG has 16 bits if a source of the pair has them."""
    if isinstance(fused, ValueError):
        return Refused(_in_words_of_the_form(fused))
    if form == "jpeg":
        return encode_jpeg(to_levels(fused, np.uint8))
    return encode_png(to_levels(fused, np.result_type(*pair)))


def _read(fusing: Fusing, item: Request) -> tuple[Pictures, Hints]:
    """The pictures of a request, and the hints of them. Raises ValueError for what cannot be fused."""
    fusing = fusing.model_copy(
        update={name: tuple(chain) for name, chain in read_chains(item.degradation).items()}
    )
    files = {"vi": item.vi, "ir": item.ir}
    read = files.__getitem__
    rules = {
        camera: WindowRule.parse(text, f"{camera}_window")
        for camera, text in (("vi", item.vi_window), ("ir", item.ir_window))
    }
    fusing = with_windows(fusing, [_PAIR], read, rules)
    pictures = read_pair("vi", "ir", read, vi_window=fusing.vi_window, ir_window=fusing.ir_window)
    return pictures, fusing.hints(*pictures)


def _in_words_of_the_form(error: ValueError) -> str:
    """One line; options of the command line are fields of the form."""
    line = " ".join(str(error).split())
    return re.sub(r"--([a-z]+)(-[a-z]+)?", lambda m: m[0][2:].replace("-", "_"), line)
