import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from pipelines.promotion.evidence import (
    bundle_evidence,
    missing_evidence,
    off_protocol,
    seen_in_training,
)
from pipelines.sources.scenes import Scene
from pipelines.store.files import sha256_of_file

TAGS = {
    "system": "dspfusion",
    "stage": "stage2",
    "dataset_version": "d-1",
    "dataset_digest": "d",
    "git_commit": "c",
    "init_from": "runs:/x",
    "model_sha256": "w",
    "program_sha256": "p",
    "parity_max_abs": "1.2e-07",
    "evaluation_run_id": "e",
}
RELEASED = {"origin": "released", "sha256_net_g.pth": "g"}


def missing(
    tags: dict[str, str], evaluation: dict[str, str] | None = None, *, tolerance: float = 1e-4
) -> tuple[str, ...]:
    return missing_evidence(tags, evaluation or {"model_sha256": "w"}, parity_tolerance=tolerance)


def test_everything_there() -> None:
    assert missing(TAGS) == ()
    kept = ("model_sha256", "program_sha256", "parity_max_abs", "evaluation_run_id")
    released = {key: TAGS[key] for key in kept}
    assert missing(released | RELEASED) == ()
    assert "released files" in missing(released | {"origin": "released"})[0]


@pytest.mark.parametrize("tag", [tag for tag in TAGS if tag != "stage"])
def test_what_is_missing_is_named(tag: str) -> None:
    lacking = {key: value for key, value in TAGS.items() if key != tag}
    (first, *_) = missing(lacking)
    remedy = {
        "evaluation_run_id": "not evaluated: run python -m jobs.evaluate",
        "model_sha256": "run python -m jobs.promote parity",
        "program_sha256": "run python -m jobs.promote parity",
        "parity_max_abs": "run python -m jobs.promote parity",
    }
    assert remedy.get(tag, f"lineage lacks {tag}") in first


def test_an_evaluation_of_other_weights_is_none() -> None:
    (reason,) = missing(TAGS, {"model_sha256": "other"})
    assert "measured other weights" in reason
    (reason,) = missing_evidence(TAGS, None, parity_tolerance=1e-4)
    assert "evaluation run e is gone" in reason


@pytest.mark.parametrize("difference", ["2.0e-03", "nan"])
def test_a_program_that_is_not_what_was_measured(difference: str) -> None:
    (reason,) = missing(TAGS | {"parity_max_abs": difference})
    assert f"by {difference}; 1e-04 is tolerated" in reason


@pytest.mark.slow
def test_the_difference_is_measured(bundle_of: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(bundle_of("dspfusion"), tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    changed = {name: tensor * 1.1 for name, tensor in weights.items()}
    save_file(changed, tmp_path / "model.safetensors")
    evidence = bundle_evidence(tmp_path)
    assert evidence["model_sha256"] == sha256_of_file(tmp_path / "model.safetensors")
    # The program was exported from the weights before the change.
    assert float(evidence["parity_max_abs"]) > 1e-3


def test_an_evaluation_off_the_protocol_is_named() -> None:
    rows = [{"scenario": "clean"}, {"scenario": "vi_blur"}]
    asked = {"split": "val", "scenarios": ("clean", "vi_blur")}
    assert off_protocol({"split": "val"}, rows, **asked) == ()
    (reason,) = off_protocol({"split": "train"}, rows, **asked)
    assert "on split train, not on val" in reason
    (reason,) = off_protocol({"split": "val"}, rows[:1], **asked)
    assert "lacks vi_blur" in reason


def test_scenes_that_it_was_trained_on_are_no_evidence(scenes: list[Scene]) -> None:
    assert seen_in_training(scenes[:3], scenes[3:]) == ()
    # The picture counts, not the scene's name.
    renamed = [scenes[1].model_copy(update={"id": "other"})]
    (reason,) = seen_in_training(scenes[:3], renamed)
    assert "trained on 1 of the scenes" in reason
    assert scenes[1].id in reason
    assert "unknown" in seen_in_training(scenes[:3], None)[0]
