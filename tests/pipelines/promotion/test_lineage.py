import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel

from infra.storage.s3_folder import S3Folder
from pipelines.datasets.plan import DatasetConfig
from pipelines.datasets.versions import DatasetVersion
from pipelines.promotion.lineage import (
    CHECKPOINT,
    Link,
    broken,
    bundle_link,
    checkpoint_link,
    dataset_link,
    inputs_problems,
    read_inputs,
    run_inputs,
    scenes_of_version,
    tree_lines,
)
from pipelines.sources.scenes import Scene, SceneTable, read_file
from pipelines.store.files import sha256_of_file
from pipelines.store.folders import Folder, LocalFolder
from pipelines.store.seeding import digest_of
from pipelines.training.checkpoints import TrainingState, save_checkpoint
from tests.conftest import make_version
from tests.s3_servers import make_bucket

Version = tuple[DatasetVersion, Folder]


def link_of(version_root: Version, scenes: list[Scene] | None) -> Link:
    version, root = version_root
    return dataset_link(version, root, version.digest, scenes, read=read_file)


def test_the_tree_shows_every_link_and_names_the_way_to_a_broken_one() -> None:
    leaf = Link("scene s1", "vi ab", ("it is gone",))
    tree = Link("models:/m/1", "", (), (Link("bundle"), Link("dataset d", "", (), (leaf,))))
    assert tree_lines(tree) == [
        "models:/m/1",
        "├─ bundle",
        "└─ dataset d",
        "   └─ scene s1  vi ab  BROKEN",
        "      !  it is gone",
    ]
    assert broken(tree) == ["models:/m/1 > dataset d > scene s1: it is gone"]


def test_a_dataset_holds_down_to_its_source_files(
    version_root: Version, scenes: list[Scene], scene_folder: Path
) -> None:
    link = link_of(version_root, scenes)
    assert broken(link) == []
    text = "\n".join(tree_lines(link))
    assert f"sources below {scene_folder}/train/" in text
    assert "scenes  16, 32 source files" in text
    version, root = version_root
    every = dataset_link(
        version, root, version.digest, scenes, read=read_file, each_scene=True
    ).children[-1]
    assert [child.title for child in every.children[:-1]] == [f"scene {s.id}" for s in scenes]
    assert scenes[0].vi_uri in every.children[0].detail


def test_what_changed_in_a_dataset_is_named(
    version_root: tuple[DatasetVersion, LocalFolder], scenes: list[Scene]
) -> None:
    version, root = version_root
    more_groups = version.config.model_copy(update={"split": "val"})
    edited = version.model_copy(update={"config": more_groups})
    assert "its manifest was changed" in broken(link_of((edited, root), scenes))[0]
    (problem,) = broken(dataset_link(version, root, "0" * 64, scenes, read=read_file))
    assert "the run read 000000000000" in problem
    tar = next(root.path.glob("shards/*.tar"))
    tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    (problem,) = broken(link_of(version_root, scenes))
    assert f"> shards: {tar}" in problem
    tar.unlink()
    (problem,) = broken(link_of(version_root, scenes))
    assert str(tar) in problem


def test_what_changed_in_its_sources_is_named(version_root: Version, scenes: list[Scene]) -> None:
    def read(uri: str) -> bytes:
        if uri == scenes[3].ir_uri:
            return b"another picture"
        if uri == scenes[5].vi_uri:
            raise ValueError(f"{uri}: no such file")
        return read_file(uri)

    version, root = version_root
    changed, gone = broken(dataset_link(version, root, version.digest, scenes, read=read))
    assert f"scenes > scene {scenes[3].id}: {scenes[3].ir_uri}: is " in changed
    assert f"scenes > scene {scenes[5].id}: {scenes[5].vi_uri}: no such file" in gone
    problems = broken(link_of(version_root, scenes[1:]))
    assert "are not the ones that the manifest was made of" in problems[0]
    assert f"the shards hold 1 others, {scenes[0].id} first" in problems[1]
    (problem,) = broken(link_of(version_root, None))
    assert "the run has no lineage/scenes.parquet" in problem


def test_a_dataset_on_s3_is_read_there(
    moto_url: str, config: DatasetConfig, scenes: list[Scene]
) -> None:
    root = S3Folder(f"{make_bucket(moto_url, 'lineage')}/data", moto_url, None)
    version = make_version(root, config, scenes)
    assert broken(link_of((version, root), scenes)) == []
    tar = f"shards/{version.shards[0].name}.tar"
    root.replace(tar, root.read(tar)[:-1] + b"x")
    (problem,) = broken(link_of((version, root), scenes))
    assert f"s3://lineage/data/{tar}: damaged" in problem


def test_the_scenes_of_a_version_are_found_again(
    version_root: Version, scenes: list[Scene]
) -> None:
    version, _ = version_root
    other = scenes[0].model_copy(update={"split": "val", "id": "v"})
    found = scenes_of_version(version, SceneTable.of([other, *scenes]))
    assert found is not None
    assert list(found) == scenes
    assert scenes_of_version(version, SceneTable.of(scenes[1:])) is None
    assert scenes_of_version(version, SceneTable.of([other])) is None


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    model = torch.nn.Linear(2, 2)
    averaged = AveragedModel(model)
    torch.nn.init.zeros_(averaged.module.weight)
    state = TrainingState(model, torch.optim.AdamW(model.parameters()), (1.0,), averaged)
    save_checkpoint(folder, state, step=3, config_json="{}")
    return folder


def test_a_checkpoint_and_the_bundle_made_of_it(checkpoint: Path, tmp_path: Path) -> None:
    tags = {CHECKPOINT: sha256_of_file(checkpoint / "state.json")}
    # Where an average was kept, it is what stands for the model.
    weights = load_file(checkpoint / "average.safetensors")
    save_file(weights, tmp_path / "model.safetensors")
    assert checkpoint_link(checkpoint, tags, bundle=tmp_path).problems == ()
    shutil.copy(checkpoint / "model.safetensors", tmp_path)
    (problem,) = checkpoint_link(checkpoint, tags, bundle=tmp_path).problems
    assert "not those of the registered bundle" in problem
    (problem,) = checkpoint_link(checkpoint, {CHECKPOINT: "0" * 64}).problems
    assert problem.startswith("state.json is ")
    (problem,) = checkpoint_link(checkpoint, {}).problems
    assert "no digest of" in problem
    (checkpoint / "optimizer.safetensors").unlink()
    assert checkpoint_link(checkpoint, tags).problems == ("optimizer.safetensors is missing",)
    (checkpoint / "state.json").unlink()
    assert "not a checkpoint" in checkpoint_link(checkpoint, tags).problems[0]


def test_a_bundle_against_its_tags(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"w")
    (tmp_path / "program.pt2").write_bytes(b"p")
    (tmp_path / "config.json").write_text('{"origin": {"run_id": "r"}}')
    tags = {
        "model_sha256": sha256_of_file(tmp_path / "model.safetensors"),
        "program_sha256": sha256_of_file(tmp_path / "program.pt2"),
        "run_id": "r",
    }
    assert bundle_link(tmp_path, tags).problems == ()
    (problem,) = bundle_link(tmp_path, tags | {"run_id": "another"}).problems
    assert problem == "its tag run_id is 'another', its config.json has 'r'"
    (tmp_path / "program.pt2").write_bytes(b"q")
    assert bundle_link(tmp_path, tags).problems[0].startswith("program.pt2 is ")


def test_the_inputs_of_a_run(tmp_path: Path) -> None:
    inputs = run_inputs({"lr": 1}, "d", None)
    tags = {"config_digest": digest_of([{"lr": 1}, "d", None, None]), "dataset_digest": "d"}
    assert inputs_problems(inputs, tags) == []
    assert "is not what config_digest" in inputs_problems(run_inputs({"lr": 2}, "d", None), tags)[0]
    assert "its tag names another" in inputs_problems(inputs, tags | {"dataset_digest": "e"})[0]
    for text in (None, "no JSON", "[]", '{"recipe": {}}'):
        if text is not None:
            (tmp_path / "inputs.json").write_text(text)
        with pytest.raises(ValueError, match=r"inputs\.json is missing or damaged"):
            read_inputs(tmp_path)
