"""Scene indexes: made of a folder of registered pairs, and found again by name."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from degradations.catalogue import find
from infra.settings import Settings
from jobs.console import print_facts, print_line, progress
from jobs.locations import open_sources, source_reader
from pipelines.checks.leaks import Leak, find_leaks
from pipelines.checks.targets import Bounds
from pipelines.sources.index import read_index, write_index
from pipelines.sources.layouts import Layout
from pipelines.sources.names import split_of
from pipelines.sources.pairing import Refused
from pipelines.sources.scan import (
    Candidate,
    CheckAll,
    Checked,
    ScanResult,
    ScanRules,
    check_batch,
    check_refused_share,
    describe_refused,
    poor_targets,
    scan,
)
from pipelines.sources.scenes import Read, SceneTable
from pipelines.store.files import write_whole
from pipelines.store.names import check_name, first_few, nearest

# A report is read by people.
_MOST_LEAKS = 10_000
# Pairs a task: half a second of work and more.
_BATCH = 64


def scan_folder(
    folder: Path | str,
    settings: Settings,
    *,
    name: str,
    rules: ScanRules | None = None,
    max_refused_share: float = 0.01,
) -> ScanResult:
    """Index a folder, or a prefix on S3, under `name`; a single data set in it has that name, too.

    Files that an index of that name knows unchanged are not read again. Pictures are checked by tasks
    of the Ray cluster where the settings name one, else in this process. Raises ValueError when too
    many of the pairs are bad.
    """
    path = index_path(settings, name)  # refuses the name before hours of reading
    rules = rules or ScanRules()
    if path.is_file() and not rules.full:
        rules = replace(rules, known=_known(path))
    with progress("pairs") as advance:
        result = scan(
            open_sources(str(folder), settings),
            read=source_reader(settings),
            dataset=name,
            rules=rules,
            check_all=_on_ray(settings) if settings.ray_address or settings.in_ray_job else None,
            on_progress=lambda done, total: advance(done, total=total),
        )
    leaks = _search_leaks(result.scenes) if rules.search_leaks else []
    # Before anything can fail: a scan that refuses too much is the one whose report is read.
    report = path.with_suffix(".report.json")
    poor = poor_targets(result.scenes, rules.bounds)
    write_whole(report, _report(result, leaks, poor, rules.bounds))
    check_refused_share(result, max_share=max_refused_share, setting="--max-refused-share")
    write_index(result, path)
    shown = _describe_counts(result.scenes.counts())
    shown |= _describe_refused(result.refused)
    shown |= _describe_windows(result.scenes)
    shown |= _describe_poor(poor, len(result.scenes))
    if leaks:
        shown["leaks"] = _describe_leaks(leaks)
    print_facts({**shown, "index": str(path), "report": str(report)})
    return result


def read_bounds(texts: Sequence[str]) -> tuple[Bounds, frozenset[str]]:
    """The bounds that `--refuse NAME=BOUND` sets, and the names. Raises ValueError for an unknown one."""
    given = {}
    for text in texts:
        name, _, bound = text.partition("=")
        if name not in Bounds.model_fields:
            known = ", ".join(Bounds.model_fields)
            hint = nearest(name, Bounds.model_fields)
            raise ValueError(f"--refuse {text}: no such measure{hint}; there are {known}")
        try:
            given[name] = float(bound) if bound else Bounds.model_fields[name].default
        except ValueError:
            raise ValueError(f"--refuse {text}: write {name}=NUMBER") from None
    return Bounds(**given), frozenset(given)


def read_layout(arguments: argparse.Namespace, settings: Settings) -> Layout:
    """The layout that the command's words name. Raises ValueError where they contradict each other."""
    if bool(arguments.vi) != bool(arguments.ir) or (arguments.vi and arguments.pairs):
        raise ValueError(
            "--vi and --ir go together, and not with --pairs; give the one or the other"
        )
    lists: dict[str, str] = {}
    for item in arguments.split_list:
        split, _, uri = item.rpartition("=")
        split = split or split_of(uri)
        if not split:
            raise ValueError(f"--split-list {item}: write SPLIT=FILE, such as train=lists/a.txt")
        lists[split] = lists.get(split, "") + "\n" + _text(uri, settings)
    pairs = (_text(arguments.pairs, settings), arguments.pairs) if arguments.pairs else None
    if arguments.lq:
        find(arguments.camera or "vi", arguments.lq)  # refuses a name that no dataset could ask for
    if not 0 <= arguments.hold_out < 1:
        raise ValueError(f"--hold-out {arguments.hold_out:g}: give a share from 0 to less than 1")
    return Layout(
        split=arguments.split,
        hold_out=arguments.hold_out,
        camera=arguments.camera,
        lq=arguments.lq,
        vi=arguments.vi,
        ir=arguments.ir,
        pairs=pairs,
        split_lists=lists,
    )


def _text(uri: str, settings: Settings) -> str:
    return source_reader(settings)(uri).decode("utf-8-sig", errors="replace")


def _known(path: Path) -> SceneTable | None:
    """The scenes of an earlier scan, unless it was another version's."""
    try:
        return read_index(path).scenes
    except ValueError:
        print_line(f"  {path}: is no index of this version; all files are read")
        return None


def _on_ray(settings: Settings) -> CheckAll:
    """Check by tasks of the cluster, a batch of pairs each; results come in the candidates' order."""

    def check_all(candidates: Sequence[Candidate], read: Read) -> Iterator[Checked]:
        from infra.cluster.connect import connected
        from infra.cluster.tasks import map_tasks

        starts = range(0, len(candidates), _BATCH)
        batches = [(start, candidates[start : start + _BATCH]) for start in starts]
        early: dict[int, list[Checked]] = {}
        with connected(settings):
            waiting = map_tasks(check_batch, batches, read) if batches else iter(())
            for start in starts:
                while start not in early:
                    number, checked = next(waiting)
                    early[number] = checked
                yield from early.pop(start)

    return check_all


def _search_leaks(scenes: SceneTable) -> list[Leak]:
    with progress("leaks") as advance:
        return find_leaks(scenes, on_progress=lambda done, total: advance(done, total=total))


def _report(
    result: ScanResult, leaks: list[Leak], poor: dict[str, dict[str, float]], bounds: Bounds
) -> bytes:
    parts = {
        "num_scenes": len(result.scenes),
        "datasets": result.scenes.counts(),
        "refused": [item.model_dump() for item in result.refused],
        "bounds": bounds.model_dump(),
        "poor_targets": poor,
        "num_leaks": len(leaks),
        "leaks": [leak.model_dump() for leak in leaks[:_MOST_LEAKS]],
    }
    return json.dumps(parts, indent=1).encode()


def _describe_counts(counts: dict[str, dict[str, int]]) -> dict[str, str]:
    """Scenes by split of a single data set, or of each."""
    if len(counts) == 1:
        [splits] = counts.values()
        return {split: f"{count} scenes" for split, count in splits.items()}
    return {
        dataset: f"{sum(splits.values())} scenes: "
        + ", ".join(f"{split} {count}" for split, count in splits.items())
        for dataset, splits in counts.items()
    }


def _describe_refused(refused: Sequence[Refused]) -> dict[str, str]:
    bad, notes = ([item for item in refused if bool(item.pairs) == lost] for lost in (True, False))
    shown = {"refused": describe_refused(bad), "left out": describe_refused(notes)}
    return {name: text for name, text in shown.items() if text}


def _describe_windows(scenes: SceneTable) -> dict[str, str]:
    """Windows of the cameras with more than 8 bits, one line for each that occurs."""
    shown = {}
    for camera in ("vi", "ir"):
        for number, window in enumerate(scenes.windows(camera)):
            title = f"window {camera}" + (f" {number + 1}" if number else "")
            shown[title] = window.described(camera)
    return shown


def _describe_poor(poor: dict[str, dict[str, float]], num_scenes: int) -> dict[str, str]:
    """How many scenes are poor targets for which reason; many that disagree are paired wrongly."""
    counts = Counter(name for reasons in poor.values() for name in reasons)
    shown = {}
    if counts:
        shown["poor targets"] = ", ".join(f"{name} {count}" for name, count in counts.most_common())
    if counts["agreement"] > num_scenes / 3:
        shown["pairing"] = (
            f"the cameras of {counts['agreement']} of {num_scenes} scenes show no common edges: are the "
            "right pictures paired, and registered?"
        )
    return shown


def _describe_leaks(leaks: list[Leak]) -> str:
    shown = first_few([f"{leak.first} and {leak.second}" for leak in leaks], last=", and ")
    scenes = len({name for leak in leaks for name in (leak.first, leak.second)})
    return f"{scenes} scenes look like one of another split: {shown}"


def index_path(settings: Settings, name: str) -> Path:
    """Where the index called `name` lies; a path to a Parquet file stands for itself."""
    if name.endswith(".parquet"):
        return Path(name)
    return settings.work / "scenes" / f"{check_name(name, 'scene index')}.parquet"


def load_index(settings: Settings, name: str) -> ScanResult:
    """Read the index called `name`. Raises ValueError when there is none."""
    path = index_path(settings, name)
    there = [other.stem for other in sorted(path.parent.glob("*.parquet"))]
    if there and not path.is_file():
        hint = nearest(path.stem, there)
        raise ValueError(f"{path}: no such scene index{hint}; there are: {', '.join(there)}")
    return read_index(path)
