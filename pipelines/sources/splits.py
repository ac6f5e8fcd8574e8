"""Which split a pair belongs to, where its folders do not say: by lists of names, or held out."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from pipelines.sources.names import PICTURE_SUFFIXES, Role, composed, role_of, same_name, split_of
from pipelines.sources.pairing import Found, Listed, Refused, SourcePair


def held_out(pairs: Sequence[SourcePair], share: float) -> list[SourcePair]:
    """Pairs of which each data set without a val split has one: of whole sequences, where it has some.

    Which they are is drawn by their names, so that another scan of the same pairs draws the same.
    """
    sets: dict[str, list[SourcePair]] = defaultdict(list)
    for pair in pairs:
        sets[pair.dataset].append(pair)
    held: set[tuple[str, str]] = set()
    for dataset, those in sets.items():
        if share and not any(pair.split == "val" for pair in those):
            held |= {(dataset, name) for name in _drawn([*map(_unit, those)], share)}
    return [
        replace(pair, split="val")
        if pair.split == "train" and (pair.dataset, _unit(pair)) in held
        else pair
        for pair in pairs
    ]


def _unit(pair: SourcePair) -> str:
    """What is held out as one: neighbours in time look alike."""
    return pair.sequence or pair.stem


def _drawn(units: Sequence[str], share: float) -> list[str]:
    """Units drawn at random until they are `share` of all, at least one and never all."""
    counts = Counter(units)
    order = sorted(counts, key=lambda unit: hashlib.sha256(unit.encode()).digest())
    drawn: list[str] = []
    number = 0
    for unit in order[: len(order) - 1]:
        if drawn and number >= share * len(units):
            break
        drawn.append(unit)
        number += counts[unit]
    return drawn


def lists_in(files: Sequence[Listed], read: Callable[[str], bytes]) -> dict[str, str]:
    """Lists of splits that a data set brings: `train.txt` in its root, in `meta/` or elsewhere."""
    lists: dict[str, str] = {}
    for file in files:
        split = split_of(file.path.name) if file.path.suffix.lower() == ".txt" else None
        if split:
            lists[split] = (
                lists.get(split, "") + "\n" + read(str(file.path)).decode(errors="replace")
            )
    return lists


def split_by_lists(pairs: Sequence[SourcePair], lists: Mapping[str, str], *, given: bool) -> Found:
    """Pairs with the split whose list names them; pairs that folders put into a split stay there.

    Of lists that are `given` the others are left out. Raises ValueError where those contradict each
    other; lists that only lie in the folder are then not used.
    """
    if not lists or all(pair.split for pair in pairs):
        return list(pairs), []
    splits, twice = _listed_splits(lists)
    if twice and given:
        raise ValueError(f"--split-list: {twice} is in two lists; leave it in one")
    if twice:
        reason = f"not used: {twice} is in two of these lists of splits"
        return list(pairs), [Refused(path=", ".join(lists), reason=reason, pairs=0)]
    listed, refused = [], []
    for pair in pairs:
        names = [_listed_name(name) for name in _names_of(pair)]
        split = pair.split or next((splits[name] for name in names if name in splits), "")
        if given and not split:
            reason = "in no --split-list, left out"
            refused.append(Refused(path=str(next(pair.files())), reason=reason, pairs=0))
        else:
            listed.append(replace(pair, split=split))
    unlisted = [pair for pair in listed if not pair.split]
    if unlisted:
        reason = f"name all but {len(unlisted)} pairs, which are of the default split (--split)"
        refused.append(Refused(path=f"lists of {', '.join(lists)}", reason=reason, pairs=0))
    return listed, refused


def _listed_splits(lists: Mapping[str, str]) -> tuple[dict[str, str], str | None]:
    """The split of each listed name, and a name that two lists have."""
    splits: dict[str, str] = {}
    for split, text in lists.items():
        for line in filter(str.strip, text.splitlines()):
            if splits.setdefault(_listed_name(line), split) != split:
                return splits, line.strip()
    return splits, None


def _names_of(pair: SourcePair) -> Iterator[str]:
    """What a list may call a pair, the longest name first."""
    for stem in (pair.stem, *(path.stem for path in pair.files())):
        folders = pair.sequence.split("/") if pair.sequence else []
        for start in range(len(folders) + 1):
            yield "/".join((*folders[start:], stem))


def _listed_name(line: str) -> str:
    name = PurePosixPath(composed(line.strip().lstrip("./")))
    stem = name.with_suffix("") if name.suffix.lower() in PICTURE_SUFFIXES else name
    folders = (part for part in stem.parts[:-1] if role_of(part) == Role())
    return same_name("/".join((*folders, stem.name)))
