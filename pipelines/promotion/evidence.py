"""What a gate needs to know of a version before it judges it: digests, parity, lineage.

Parity here is between what was measured and what is served: evaluations run the bundle's module, the
registry serves its exported program. Their largest difference on seeded inputs, of sizes that the
export did not see, is taken when a bundle is registered and kept with the digests of both files.
Whether the networks are the paper's is a question for `jobs.parity` and the tests of the code.

Legend: B batch, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from models import find_system
from pipelines.bundles.export import checked_sizes, read_bundle, seeded_inputs
from pipelines.bundles.programs import load_program
from pipelines.promotion.paired_rows import Rows
from pipelines.sources.scenes import Scene
from pipelines.store.files import sha256_of_file

PARITY, WEIGHTS, PROGRAM = "parity_max_abs", "model_sha256", "program_sha256"
EVALUATION = "evaluation_run_id"
# Origins of weights that no run of ours has trained: the authors' files, and those of this repository.
RELEASED, PRETRAINED = "released", "pretrained"


def bundle_evidence(bundle: Path) -> dict[str, str]:
    """Tags of a bundle: digests of weights and program, and the largest difference between both."""
    return {
        WEIGHTS: sha256_of_file(bundle / "model.safetensors"),
        PROGRAM: sha256_of_file(bundle / "program.pt2"),
        PARITY: f"{program_difference(bundle):.3e}",
    }


def program_difference(bundle: Path) -> float:
    """Largest absolute difference of a bundle's program from its module, on pictures in [0, 1]."""
    read = read_bundle(bundle)
    module, program = read.fuser(), load_program(bundle / "program.pt2")
    generator = torch.Generator().manual_seed(0)
    differences = []
    for size in checked_sizes(read.system):
        vi, ir, hints = seeded_inputs(read.system, size, generator)
        with torch.inference_mode():
            served = program(vi, ir, *hints.values())
            outputs = served if isinstance(served, tuple) else (served,)
            for ours, theirs in zip(module(vi, ir, hints), outputs, strict=False):
                differences.append((theirs - ours).abs().max())
    return float(torch.stack(differences).max())


def missing_evidence(
    tags: Mapping[str, str], evaluation: Mapping[str, str] | None, *, parity_tolerance: float
) -> tuple[str, ...]:
    """Sentences about what a version's tags lack; empty when a gate may judge it by its rows.

    `evaluation` holds the tags of its evaluation run, None when it has none or the run is gone.
    """
    reasons = [*_missing_lineage(tags), *_missing_parity(tags, parity_tolerance)]
    if not tags.get(EVALUATION):
        reasons.append("It was not evaluated: run python -m jobs.evaluate on it.")
    elif evaluation is None:
        reasons.append(f"Its evaluation run {tags[EVALUATION]} is gone: evaluate it again.")
    elif evaluation.get(WEIGHTS) != tags.get(WEIGHTS):
        reasons.append(
            f"Its evaluation run {tags[EVALUATION]} measured other weights "
            f"({_short(evaluation.get(WEIGHTS))}, these are {_short(tags.get(WEIGHTS))}): "
            "evaluate it again."
        )
    return tuple(reasons)


def off_protocol(
    evaluation: Mapping[str, str], rows: Rows, *, split: str, scenarios: Sequence[str]
) -> tuple[str, ...]:
    """Sentences about an evaluation that is not the one that the gate asks for."""
    found = evaluation.get("split", "unknown")
    reasons = [] if found == split else [f"It was evaluated on split {found}, not on {split}."]
    missing = [name for name in scenarios if name not in {row["scenario"] for row in rows}]
    if missing:
        reasons.append(f"Its evaluation lacks {', '.join(missing)}.")
    return tuple(f"{reason[:-1]}: evaluate it as the recipe asks." for reason in reasons)


def seen_in_training(
    evaluated: Iterable[Scene], trained: Iterable[Scene] | None
) -> tuple[str, ...]:
    """Sentences about scenes that a version was measured on after it was trained on them.

    Scenes are compared by the digests of their pictures. `trained` is None where they are unknown.
    """
    if trained is None:
        return (
            "The scenes that it was trained on are unknown, so they may be those it was measured on: "
            "scan the sources into the work folder before it is trained.",
        )
    known = {scene.source(camera)[1] for scene in trained for camera in scene.cameras}
    both = [
        scene.id
        for scene in evaluated
        if known.intersection(scene.source(camera)[1] for camera in scene.cameras)
    ]
    if not both:
        return ()
    return (
        f"It was trained on {len(both)} of the scenes that it was measured on, {both[0]} first: "
        "evaluate it on others.",
    )


def _missing_lineage(tags: Mapping[str, str]) -> list[str]:
    # They were trained elsewhere; what is known are the digests of their files.
    if tags.get("origin") in (RELEASED, PRETRAINED):
        complete = any(key.startswith("sha256_") for key in tags)
        return [] if complete else [f"Its lineage lacks the digests of the {tags['origin']} files."]
    lacking = [
        tag
        for tag in ("system", "dataset_version", "dataset_digest", "git_commit")
        if not tags.get(tag)
    ]
    if _needs_init(tags) and not tags.get("init_from"):
        lacking.append("init_from")
    if not lacking:
        return []
    return [f"Its lineage lacks {', '.join(lacking)}: train it with python -m jobs.train."]


def _needs_init(tags: Mapping[str, str]) -> bool:
    """Whether the stage that a version is of cannot start from random weights."""
    system, stage = tags.get("system"), tags.get("stage")
    return bool(system and stage and find_system(system).stage(stage).needs_init)


def _missing_parity(tags: Mapping[str, str], tolerance: float) -> list[str]:
    measure = "run python -m jobs.promote parity on it."
    if not all(tags.get(tag) for tag in (PARITY, WEIGHTS, PROGRAM)):
        return [f"The difference between its program and its module was never measured: {measure}"]
    # `not <=` instead of `>`: NaN must not pass.
    if not float(tags[PARITY]) <= tolerance:
        return [
            f"The program it serves differs from the module that was measured by {tags[PARITY]}; "
            f"{tolerance:.0e} is tolerated. Export it again with the torch it is served by."
        ]
    return []


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "unknown"
