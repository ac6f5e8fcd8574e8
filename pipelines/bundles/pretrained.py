"""Weights that come with this repository, to fuse with and to start from.

Each is a folder `models/<system>/pretrained/<name>`, which is a bundle without its program (that is
exported where the weights are registered) and a checkpoint's weights:

config.json         configurations of the fuser and of its last stage, and where the weights come from
model.safetensors   the weights, float16
state.json          the last stage's steps, and digests of the two
scenes.parquet      the pictures that it was trained on, so that it is not measured on them
types.json          what each degradation looks like to the model (`degradation_types.py`)
README.md           the model card
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import torch
from safetensors.torch import save_file

import models
from models import system_of
from pipelines.bundles.degradation_types import TYPES, types_of_pictures
from pipelines.bundles.export import contract_of, read_bundle
from pipelines.datasets.plan import ShardConfig
from pipelines.probes.known_pictures import degraded_pictures, single_scenarios
from pipelines.sources.index import write_index
from pipelines.sources.scan import ScanResult
from pipelines.sources.scenes import Read, Scene, SceneTable
from pipelines.store.files import sha256_of_file, write_whole
from pipelines.training.checkpoints import CheckpointState, read_config, read_state, read_weights
from pipelines.training.config import TrainingConfig

SCENES = "scenes.parquet"
_FILES = ("config.json", "model.safetensors")
# Scenes whose pictures in every degradation make the mean vectors of types.json.
_NUM_TYPED = 24


def pretrained_folders() -> dict[str, Path]:
    """The folders by name, in order; of two systems that use one name, SYSTEM-NAME instead."""
    found = sorted(Path(models.__file__).parent.glob("*/pretrained/*/config.json"))
    folders = [path.parent for path in found]
    names = [folder.name for folder in folders]
    return {
        folder.name
        if names.count(folder.name) == 1
        else f"{folder.parents[1].name}-{folder.name}": folder
        for folder in folders
    }


def find_pretrained(name: str) -> Path:
    """The folder of a name. Raises ValueError that lists the others."""
    folders = pretrained_folders()
    if name not in folders:
        known = ", ".join(folders) or "none"
        raise ValueError(f"no pretrained weights {name!r}; there are: {known}")
    return folders[name]


def local_folder(source: str) -> Path:
    """The folder of pretrained weights of that name, else the path that `source` is (`./small`, too)."""
    return pretrained_folders().get(source, Path(source))


def write_pretrained(
    folder: Path, checkpoint: Path, *, origin: Mapping[str, str], scenes: SceneTable
) -> None:
    """Write the fuser's weights of a training's last checkpoint as float16; `scenes` are its training's.

    Raises ValueError where the fuser leaves weights out that a training would start from.
    """
    trained = TrainingConfig.model_validate(read_config(checkpoint)).objective
    system = system_of(trained)
    model, of_fuser = system.fuser_weights(trained, read_weights(checkpoint))
    objective = system.fused_stage(trained)
    with torch.device("meta"):
        startable = system.build_objective(objective).state_dict()
    if of_fuser.keys() != startable.keys():
        raise ValueError(
            f"{checkpoint}: the fuser of this stage leaves out what a training needs to start from "
            "it; give the last stage's checkpoint"
        )
    folder.mkdir(parents=True, exist_ok=True)
    halved = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in of_fuser.items()
    }
    save_file(halved, folder / "model.safetensors")
    described = {
        "model": model.model_dump(mode="json"),
        "objective": objective.model_dump(mode="json"),
        "contract": contract_of(system),
        "origin": dict(origin),
    }
    write_whole(folder / "config.json", (json.dumps(described, indent=1) + "\n").encode())
    published = SceneTable.of(_published(scene) for scene in scenes)
    write_index(ScanResult(scenes=published, refused=()), folder / SCENES)
    digests = {name: sha256_of_file(folder / name) for name in _FILES}
    state = CheckpointState(step=read_state(checkpoint).step, sha256=digests)
    write_whole(folder / "state.json", (state.model_dump_json() + "\n").encode())


def write_types(folder: Path, scenes: SceneTable, shard: ShardConfig, read: Read) -> None:
    """Write what the degradations of `shard` look like to pretrained weights, on scenes of their training.

    Of a model without such vectors nothing is written.
    """
    bundle, step = read_bundle(folder), max(1, len(scenes) // _NUM_TYPED)
    chosen = [*scenes][::step][:_NUM_TYPED]
    pictures = degraded_pictures(chosen, single_scenarios(shard), seed=shard.seed, read=read)
    types = types_of_pictures(bundle.system, bundle.fuser(), pictures)
    if types:
        write_whole(folder / TYPES, types.as_bytes())


def _published(scene: Scene) -> Scene:
    """A scene with the places of its pictures in its data set, not on this machine."""
    places = {
        f"{camera}_uri": f"{scene.dataset}/{scene.split}/{camera}/{PurePosixPath(uri).name}"
        for camera in scene.cameras
        for uri, _ in [scene.source(camera)]
    }
    return scene.model_copy(update={**places, "stamp": "", "natives": ()})
