"""The inputs of a training: its recipe with every name resolved, and the digest that names the run."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from infra.settings import Settings, code_commit, code_digest
from jobs.locations import cached_folder, open_datasets
from jobs.recipes import TRAINING
from models import system_of
from models.system import Initial
from pipelines.bundles.pretrained import local_folder, pretrained_folders
from pipelines.datasets.versions import DatasetVersion, find_version
from pipelines.promotion.lineage import run_inputs, scenes_of_version
from pipelines.sources.index import read_index
from pipelines.sources.scenes import SceneTable
from pipelines.store.files import sha256_of_file, whole_folder
from pipelines.store.folders import Folder
from pipelines.store.names import check_name
from pipelines.store.seeding import digest_of
from pipelines.training.checkpoints import read_config, weights_file
from pipelines.training.config import TrainingConfig
from pipelines.training.objectives import make_objective, read_initial

_UNSEEN_SPLITS = ("val", "test")
# What decides the weights beside the configuration.
_TRAINING_CODE = (
    "models",
    "pipelines/batches",
    "pipelines/datasets",
    "pipelines/store",
    "pipelines/training",
)


@dataclass(frozen=True)
class Planned:
    """A training whose names are resolved; `inputs` is everything that decides the weights."""

    name: str
    config: TrainingConfig
    datasets: Folder
    version: DatasetVersion
    sources: Sources
    initial: Initial | None
    inputs: dict[str, Any]

    @property
    def digest(self) -> str:
        """Names the run: the same digest finds it again."""
        return digest_of([*self.inputs.values()])

    @property
    def tags(self) -> dict[str, str]:
        """Where the run comes from; the registered version gets them too."""
        shard = self.version.config.shard
        tags = {
            "recipe": self.name,
            "config_digest": self.digest,
            "system": system_of(self.config.objective).name,
            "stage": self.config.stage.name,
            "dataset_version": self.version.name,
            "dataset_digest": self.version.digest,
            "trained_scenes": str(self.version.num_scenes),
            "degradations": f"VI {', '.join(shard.vi)}; IR {', '.join(shard.ir)}",
            "git_commit": code_commit(),
            "code_sha256": code_digest(_TRAINING_CODE),
        }
        if self.config.init_from:
            tags["init_from"] = self.config.init_from
        return tags


@dataclass(frozen=True)
class Sources:
    """Scenes of the index that a dataset version was made of: those in it, and those it never saw.

    `index` is its name, `unseen_split` the split that the unseen ones are of.
    """

    trained: SceneTable | None = None
    unseen: SceneTable | None = None
    index: str | None = None
    unseen_split: str | None = None


def check_gpus(config: TrainingConfig, name: str, *, here: bool) -> None:
    """Raise ValueError where a recipe for GPUs would train `here` without one; it names one for CPUs."""
    if not (config.use_gpu and here) or torch.cuda.is_available():
        return
    stage, first = type(config.objective), name.partition("_stage")[0]
    others = [each for each in TRAINING if each.startswith(first) and _trains_on_cpus(each, stage)]
    like = re.sub("_(full|code|paper)", "_small", name)
    nearest = difflib.get_close_matches(like, others, n=1, cutoff=0.0)
    instead = f"take {nearest[0]}, " if nearest else ""
    raise ValueError(
        f"recipe {name} needs a GPU a worker, and there is none here; {instead}"
        "--set use_gpu=false, or a cluster that has GPUs (--address)"
    )


def _trains_on_cpus(name: str, stage: type) -> bool:
    recipe = TRAINING[name]()
    return not recipe.use_gpu and isinstance(recipe.objective, stage)


def plan_training(config: TrainingConfig, settings: Settings, *, name: str) -> Planned:
    """Find the dataset version, and read the initial weights; `runs:/ID` is downloaded.

    Raises ValueError when one of them does not exist.
    """
    if config.dataset is None:
        raise ValueError("which dataset? --set dataset=NAME, as jobs.generate named it")
    datasets = open_datasets(settings)
    version = find_version(datasets, config.dataset)
    config = config.model_copy(update={"dataset": version.name})
    folder = _initial_folder(config.init_from, settings) if config.init_from else None
    initial = read_initial(folder) if folder else None
    make_objective(config, initial)  # fails here rather than on the workers
    sha256 = sha256_of_file(weights_file(folder)) if folder else None
    sources = find_sources(version, settings)
    decided_by = _deciding_scenes(config, sources)
    inputs = run_inputs(config.identity(), version.digest, sha256, decided_by)
    return Planned(name, config, datasets, version, sources, initial, inputs)


def _deciding_scenes(config: TrainingConfig, sources: Sources) -> str | None:
    """Digest of the unseen scenes where validation on them decides which weights are the model."""
    if config.validation is None or not config.validation.decides:
        return None
    if sources.unseen is None:
        raise ValueError(
            "validation is to decide which weights are the model, and no index in the work folder has "
            f"unseen scenes of dataset {config.dataset}; scan the sources with a split val "
            "(jobs.scan --hold-out 0.2), or --set validation=null"
        )
    return digest_of([scene.digest for scene in sources.unseen])


def find_sources(version: DatasetVersion, settings: Settings) -> Sources:
    """Find the index of a version in the work folder: the version's name begins with the index's."""
    for path in sorted((settings.work / "scenes").glob("*.parquet")):
        if version.config.name.startswith(f"{path.stem}-"):
            index = read_index(path).scenes
            trained = scenes_of_version(version, index)
            if trained is not None:
                split = _unseen_split(index, version.config.split)
                unseen = index.of_split(split) if split else None
                return Sources(trained, unseen, path.stem, split)
    return Sources()


def _unseen_split(index: SceneTable, trained_split: str) -> str | None:
    known = {split for splits in index.counts().values() for split in splits}
    found = (split for split in _UNSEEN_SPLITS if split in known and split != trained_split)
    return next(found, None)


def _initial_folder(source: str, settings: Settings) -> Path:
    if not source.startswith("runs:/"):
        folder = local_folder(source)
        if not folder.is_dir():
            known = "".join(f" or {name}" for name in pretrained_folders())
            raise ValueError(
                f"init_from={source}: no such folder; a run's id is written runs:/{source}{known}"
            )
        read_config(folder)
        return folder.resolve()
    from infra.registry import tracking

    run_id = check_name(source.removeprefix("runs:/"), "init_from=runs:/ with the run")
    target = cached_folder(f"checkpoint-{run_id}", settings)
    if not target.is_dir():
        with whole_folder(target) as folder:
            fetched = tracking.fetch_folder(run_id, "checkpoint", folder)
            for file in fetched.iterdir():
                file.rename(folder / file.name)
    return target
