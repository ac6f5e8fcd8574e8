"""From a model version back to its source files: a tree of links, each checked against a digest.

A training logs what a trace needs: `lineage/inputs.json` is what its `config_digest` is the
digest of, `lineage/scenes.parquet` the scenes of its dataset with the URIs of
their files. This module checks files; `jobs.promote.trace` fetches them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from pipelines.datasets.shards.reading import open_shard
from pipelines.datasets.versions import DatasetVersion, digest_of_contents
from pipelines.promotion.evidence import PROGRAM, WEIGHTS
from pipelines.sources.scenes import Scene, SceneTable
from pipelines.store.files import sha256_of_file
from pipelines.store.folders import Folder
from pipelines.store.seeding import digest_of
from pipelines.training.checkpoints import read_config, read_state, read_weights

# Artifacts of a training run that a trace reads.
FOLDER, INPUTS, SCENES = "lineage", "inputs.json", "scenes.parquet"
# Tag of a training run: digest of its checkpoint's state.json, which holds those of its files.
CHECKPOINT = "checkpoint_sha256"

_PARALLEL_READS = 8
# (id, vi digest, ir digest); None for a camera that the scene does not have.
StoredScene = tuple[str, str | None, str | None]


@dataclass(frozen=True)
class Link:
    """One part of a version's lineage: the problems found in it, and the parts that it was made of."""

    title: str
    detail: str = ""
    problems: tuple[str, ...] = ()
    children: tuple[Link, ...] = ()


def broken(link: Link, path: tuple[str, ...] = ()) -> list[str]:
    """Every problem in the tree, a line each, with its path."""
    here = (*path, link.title)
    lines = [f"{' > '.join(here)}: {problem}" for problem in link.problems]
    return lines + [line for child in link.children for line in broken(child, here)]


def tree_lines(link: Link) -> list[str]:
    """The tree for people, a line a link and one for each problem."""
    return [_headline(link), *_branches(link)]


def _headline(link: Link) -> str:
    return f"{link.title}  {link.detail}".rstrip() + ("  BROKEN" if link.problems else "")


def _branches(link: Link) -> Iterator[str]:
    yield from (f"!  {problem}" for problem in link.problems)
    for index, child in enumerate(link.children):
        last = index == len(link.children) - 1
        first, *rest = tree_lines(child)
        yield f"{'└─' if last else '├─'} {first}"
        yield from (f"{'  ' if last else '│ '} {line}" for line in rest)


def bundle_link(bundle: Path, tags: Mapping[str, str]) -> Link:
    """The files that a version serves, against its tags."""
    files = {WEIGHTS: "model.safetensors", PROGRAM: "program.pt2"}
    problems = [
        problem
        for tag, name in files.items()
        for problem in _digest_problems(bundle / name, tags.get(tag))
    ]
    origin: Any = read_config(bundle).get("origin", {})
    problems += _disagreements("its tag", tags, "its config.json", origin)
    return Link("bundle", f"weights {_short(tags.get(WEIGHTS))}", tuple(problems))


def checkpoint_link(folder: Path, tags: Mapping[str, str], *, bundle: Path | None = None) -> Link:
    """A run's checkpoint against the run's tag; with `bundle` its weights must be the bundle's."""
    try:
        state = read_state(folder)
    except ValueError as error:
        return Link("checkpoint", problems=(str(error),))
    problems = _digest_problems(folder / "state.json", tags.get(CHECKPOINT))
    for name, sha256 in state.sha256.items():
        problems += _digest_problems(folder / name, sha256)
    if bundle and not problems and not _same_tensors(folder, bundle):
        problems.append("its weights are not those of the registered bundle")
    detail = f"step {state.step}, weights {_short(state.sha256.get('model.safetensors'))}"
    return Link("checkpoint", detail, tuple(problems))


def inputs_problems(inputs: Mapping[str, Any], tags: Mapping[str, str]) -> list[str]:
    """Problems of a run's inputs: recipe, dataset and initial weights must make up its config_digest."""
    if digest_of([*inputs.values()]) != tags["config_digest"]:
        return [f"{INPUTS} is not what config_digest {_short(tags['config_digest'])} was made of"]
    if inputs["dataset"] != tags["dataset_digest"]:
        return [f"it read dataset {_short(inputs['dataset'])}, but its tag names another"]
    return []


def read_inputs(folder: Path) -> dict[str, Any]:
    """Read what `run_inputs` gave. Raises ValueError when it is missing or not JSON."""
    try:
        inputs = json.loads((folder / INPUTS).read_bytes())
        return {name: inputs[name] for name in ("recipe", "dataset", "init_from", "validation")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{INPUTS} is missing or damaged ({error})") from error


def run_inputs(
    recipe: Mapping[str, Any],
    dataset_digest: str,
    init_sha256: str | None,
    validation: str | None = None,
) -> dict[str, Any]:
    """All that decides a run's weights; `digest_of` its values, in this order, is its `config_digest`.

    `validation` is the digest of the scenes whose validation chose among the weights, if it did.
    """
    return {
        "recipe": dict(recipe),
        "dataset": dataset_digest,
        "init_from": init_sha256,
        "validation": validation,
    }


def scenes_of_version(version: DatasetVersion, index: SceneTable) -> SceneTable | None:
    """The scenes of an index that a version was made of, None when it was made of others."""
    try:
        chosen = index.of_split(version.config.split)
        # A trial run takes the first; a picture that went bad later leaves its scene out.
        scenes = chosen[: version.num_scenes + len(version.quarantined)]
        scenes = scenes.without(version.quarantined)
    except ValueError:  # it has no such split
        return None
    return scenes if _index_digest(scenes) == version.scene_index_digest else None


def dataset_link(
    version: DatasetVersion,
    root: Folder,
    digest: str,
    scenes: Sequence[Scene] | None,
    *,
    read: Callable[[str], bytes],
    each_scene: bool = False,
) -> Link:
    """A dataset version against the `digest` that a run read, its shards, and its scenes' files."""
    problems = []
    if digest_of_contents(version) != version.digest:
        problems.append("its manifest was changed: its digest is not that of its contents")
    if version.digest != digest:
        problems.append(f"it has digest {_short(version.digest)}, the run read {_short(digest)}")
    stored, shards = _shards_link(version, root)
    if scenes is None:
        lost = (
            f"the run has no {FOLDER}/{SCENES}: no index in its work folder's scenes/ matched this "
            "dataset, so its source files are unknown. Before the next training, scan the sources "
            "(python -m jobs.scan) into its work folder"
        )
        sources = Link("scenes", str(version.num_scenes), (lost,))
    else:
        sources = _scenes_link(version, stored, scenes, read, each_scene)
    made = f"made {version.created} by code {version.commit}"
    children = (_recipe_link(version), shards, sources)
    return Link(f"dataset {version.name}", made, tuple(problems), children)


def _recipe_link(version: DatasetVersion) -> Link:
    shard = version.config.shard
    groups = f"{shard.num_positives} positives, {shard.num_negatives} negatives, seed {shard.seed}"
    return Link("recipe", f"vi {', '.join(shard.vi)}; ir {', '.join(shard.ir)}; {groups}")


def _shards_link(version: DatasetVersion, root: Folder) -> tuple[set[StoredScene], Link]:
    """The shards with every byte read, and (id, vi digest, ir digest) of the scenes in them."""
    stored: set[StoredScene] = set()
    problems = []
    for info in version.shards:
        try:
            with closing(open_shard(root, info)) as reader:
                metas = reader.metas.values()
                stored |= {(meta.id, meta.vi_sha256, meta.ir_sha256) for meta in metas}
        except (ValueError, OSError) as error:
            problems.append(str(error))
    size = f"{len(version.shards)}, {version.num_bytes / 2**20:.1f} MiB"
    return stored, Link("shards", size, tuple(problems))


def _scenes_link(
    version: DatasetVersion,
    stored: set[StoredScene],
    scenes: Sequence[Scene],
    read: Callable[[str], bytes],
    each_scene: bool,
) -> Link:
    problems = []
    if _index_digest(scenes) != version.scene_index_digest:
        problems.append(f"those in {SCENES} are not the ones that the manifest was made of")
    known = {(scene.id, scene.vi_sha256, scene.ir_sha256) for scene in scenes}
    unknown = sorted(item[0] for item in stored - known)
    if unknown:
        problems.append(f"the shards hold {len(unknown)} others, {unknown[0]} first")
    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        links = list(pool.map(lambda scene: _scene_link(scene, read), scenes))
    shown = [link for link in links if each_scene or link.problems]
    files = [uri for scene in scenes for uri, _ in _files_of(scene)]
    # Cut at a slash by hand: commonpath would make one of the two in s3://.
    common = os.path.commonprefix(files).rpartition("/")[0]  # noqa: RUF071
    where = Link(f"sources below {common}/")
    detail = f"{len(scenes)}, {len(files)} source files"
    return Link("scenes", detail, tuple(problems), (*shown, where))


def _scene_link(scene: Scene, read: Callable[[str], bytes]) -> Link:
    problems = []
    for uri, sha256 in _files_of(scene):
        try:
            found = hashlib.sha256(read(uri)).hexdigest()
        except (ValueError, OSError) as error:
            problems.append(str(error))
            continue
        if found != sha256:
            problems.append(f"{uri}: is {_short(found)}, was {_short(sha256)}")
    sources = {camera: scene.source(camera) for camera in scene.cameras}
    digests = " ".join(f"{camera} {_short(sha256)}" for camera, (_, sha256) in sources.items())
    uris = "  ".join(uri for uri, _ in sources.values())
    return Link(f"scene {scene.id}", f"{digests}  {uris}", tuple(problems))


def _files_of(scene: Scene) -> list[tuple[str, str]]:
    natives = [(native.uri, native.sha256) for native in scene.natives]
    return [*map(scene.source, scene.cameras), *natives]


def _index_digest(scenes: Sequence[Scene]) -> str:
    return digest_of(sorted(scene.digest for scene in scenes))


def _digest_problems(path: Path, sha256: str | None) -> list[str]:
    if sha256 is None:
        return [f"no digest of {path.name} was recorded"]
    if not path.is_file():
        return [f"{path.name} is missing"]
    found = sha256_of_file(path)
    return [] if found == sha256 else [f"{path.name} is {_short(found)}, was {_short(sha256)}"]


def _disagreements(
    one: str, ours: Mapping[str, str], other: str, theirs: Mapping[str, str]
) -> list[str]:
    return [
        f"{one} {key} is {ours.get(key)!r}, {other} has {value!r}"
        for key, value in theirs.items()
        if ours.get(key) != value
    ]


def _same_tensors(checkpoint: Path, bundle: Path) -> bool:
    ours, theirs = read_weights(checkpoint), load_file(bundle / "model.safetensors")
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) for name in ours
    )


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "unknown"
