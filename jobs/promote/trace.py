"""What `jobs.promote trace` does: fetch every link of a version's lineage again, and check it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.settings import Settings
from jobs.evaluate.subject import ROWS
from jobs.locations import open_folder, source_reader
from pipelines.bundles.pretrained import local_folder
from pipelines.datasets.versions import read_version
from pipelines.promotion.evidence import EVALUATION, PRETRAINED, RELEASED, WEIGHTS
from pipelines.promotion.lineage import (
    FOLDER,
    SCENES,
    Link,
    bundle_link,
    checkpoint_link,
    dataset_link,
    inputs_problems,
    read_inputs,
)
from pipelines.sources.index import read_index
from pipelines.sources.scenes import SceneTable
from pipelines.store.files import sha256_of_file
from pipelines.training.checkpoints import weights_file

# Tags that a version has from the run that registered it.
_SHARED = (
    "recipe",
    "config_digest",
    "system",
    "stage",
    "dataset_version",
    "dataset_digest",
    "git_commit",
)


def trace(settings: Settings, *, model: str, each_scene: bool = False) -> Link:
    """Walk from `models:/NAME@ALIAS` (or /VERSION) back to its source files; read and check them all.

    Raises ValueError when the model does not exist; whatever else is missing is a problem of its link.
    """
    from infra.registry import model_versions as registry
    from infra.registry import tracking

    client = tracking.connect(settings)
    version = registry.find_model(client, model)
    with tempfile.TemporaryDirectory(prefix="trace-") as scratch:
        bundle, problems = _fetch_bundle(client, version, Path(scratch) / "bundle")
        walk = _Walk(client, settings, Path(scratch), each_scene)
        children = [bundle_link(bundle, version.tags)] if bundle else []
        children.append(_evaluation_link(walk, version))
        if version.tags.get("origin") in (RELEASED, PRETRAINED):
            children.append(_files_link(version))
        else:
            children.append(walk.run(version.tags.get("run_id"), bundle=bundle, tags=version.tags))
    detail = f"is version {version.version}, by {version.tags.get('recipe', 'another recipe')}"
    return Link(model, detail, tuple(problems), tuple(children))


def _fetch_bundle(client: Any, version: Any, target: Path) -> tuple[Path | None, list[str]]:
    from infra.registry import model_versions as registry

    try:
        # Not from the cache of the work folder: what is registered is what counts.
        return registry.fetch_bundle(client, version, target), []
    except ValueError as error:
        return None, [str(error)]


@dataclass(frozen=True)
class _Walk:
    """A walk back through the runs: what every step of it needs."""

    client: Any
    settings: Settings
    scratch: Path
    each_scene: bool
    # Digests of the datasets that were read already: both stages mostly have one.
    read: dict[str, str] = field(default_factory=dict)

    def run(
        self,
        run_id: str | None,
        *,
        bundle: Path | None = None,
        tags: dict[str, str] | None = None,
        weights: str | None = None,
    ) -> Link:
        """A training run; `tags` are those it must share, `weights` the digest it must have made."""
        from infra.registry import tracking

        title = f"training run {run_id or 'unknown'}"
        found = tracking.run_tags_of(self.client, run_id)
        if run_id is None or found is None:
            return Link(title, problems=("it is gone, or was never recorded",))
        problems = [
            f"its tag {key} is {found.get(key)!r}, the version's {tags.get(key)!r}"
            for key in (_SHARED if tags else ())
            if tags and found.get(key) != tags.get(key)
        ]
        checkpoint, children = self._checkpoint(run_id, found, bundle)
        if weights and checkpoint and weights != sha256_of_file(weights_file(checkpoint)):
            problems.append("its weights are not the initial weights of the run above")
        try:
            folder = self.fetch(run_id, FOLDER)
            inputs = read_inputs(folder)
            problems += inputs_problems(inputs, found)
        except ValueError as error:
            return Link(title, found.get("recipe", ""), (*problems, str(error)), tuple(children))
        children.append(self._dataset(found, folder))
        if found.get("init_from"):
            children.append(self._initial(found["init_from"], inputs["init_from"]))
        detail = f"{found.get('recipe', '')}, code {found.get('git_commit', 'unknown')}"
        return Link(title, detail, tuple(problems), tuple(children))

    def fetch(self, run_id: str, name: str) -> Path:
        """Download an artifact folder of a run. Raises ValueError when there is none."""
        from infra.registry import tracking

        return tracking.fetch_folder(run_id, name, self.scratch / run_id)

    def _checkpoint(
        self, run_id: str, tags: dict[str, str], bundle: Path | None
    ) -> tuple[Path | None, list[Link]]:
        try:
            folder = self.fetch(run_id, "checkpoint")
        except ValueError as error:
            return None, [Link("checkpoint", problems=(str(error),))]
        link = checkpoint_link(folder, tags, bundle=bundle)
        return (None if link.problems else folder), [link]

    def _initial(self, source: str, sha256: str | None) -> Link:
        if source.startswith("runs:/"):
            return self.run(source.removeprefix("runs:/"), weights=sha256)
        try:
            same = sha256_of_file(weights_file(local_folder(source))) == sha256
        except (ValueError, OSError):
            same = False
        problem = () if same else (f"{source} is missing or changed",)
        return Link(f"initial weights {source}", "of no run", problem)

    def _dataset(self, tags: dict[str, str], folder: Path) -> Link:
        name = tags["dataset_version"]
        if self.read.get(name) == tags["dataset_digest"]:
            return Link(f"dataset {name}", "as above")
        # Not through the cache by digest, which would hide what became of the store.
        root = open_folder(self.settings.datasets, self.settings, cached=False)
        try:
            version = read_version(root, name)
            scenes = _scenes_in(folder)
        except (ValueError, OSError) as error:
            return Link(f"dataset {name}", problems=(str(error),))
        self.read[name] = version.digest
        return dataset_link(
            version,
            root,
            tags["dataset_digest"],
            scenes,
            read=source_reader(self.settings),
            each_scene=self.each_scene,
        )


def _scenes_in(folder: Path) -> SceneTable | None:
    path = folder / SCENES
    return read_index(path).scenes if path.exists() else None


def _evaluation_link(walk: _Walk, version: Any) -> Link:
    """The run that measured a version, against its weights and against what it was promoted by."""
    from infra.registry import model_versions as registry
    from infra.registry import tracking

    run_id = version.tags.get(EVALUATION)
    tags = tracking.run_tags_of(walk.client, run_id)
    if run_id is None or tags is None:
        return Link("evaluation", problems=("it was not evaluated, or the run is gone",))
    problems = []
    if tags.get(WEIGHTS) != version.tags.get(WEIGHTS):
        problems.append("it measured other weights")
    try:
        rows = sha256_of_file(walk.fetch(run_id, "evaluation") / ROWS)
    except (ValueError, OSError) as error:
        problems.append(f"its rows are missing ({error})")
    else:
        for event in registry.read_events(walk.client, version.name).values():
            judged = event["evidence"] == run_id and event["version"] == str(version.version)
            if judged and event["rows_sha256"] not in (None, rows):
                problems.append(f"its rows are not those of the promotion of {event['at']}")
    return Link(f"evaluation run {run_id}", f"on {tags.get('scenes', '?')}", tuple(problems))


def _files_link(version: Any) -> Link:
    files = {key: value for key, value in version.tags.items() if key.startswith("sha256_")}
    return Link(
        f"{version.tags['origin']} files",
        "trained elsewhere",
        children=tuple(
            Link(key.removeprefix("sha256_"), value) for key, value in sorted(files.items())
        ),
    )
