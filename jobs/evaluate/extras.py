"""What `jobs.evaluate` measures on request: read, and checked before the work begins."""

from __future__ import annotations

from collections.abc import Sequence

from infra.learned_scores import load_scores
from jobs.console import print_line
from jobs.recipes.kinds import EvaluateRecipe
from pipelines.detection.detector import Detector, DetectorFile, read_detector
from pipelines.detection.labels import Labels, find_labels
from pipelines.evaluation.extras import Extras, frames_before
from pipelines.sources.scenes import Scene


def extras_of(recipe: EvaluateRecipe, scenes: Sequence[Scene]) -> Extras:
    """What a recipe asks for; prints on how many scenes it can be measured.

    Raises ValueError for a package, weights, a detector, labels or frames that are not there.
    """
    load_scores(recipe.scores)
    detector = read_detector(recipe.detector) if recipe.detector else None
    before = frames_before(scenes) if recipe.sequence else {}
    if recipe.sequence:
        print_line(f"  flicker: {len(before)} of {len(scenes)} scenes follow another frame")
    return Extras(
        scores=recipe.scores,
        sequence=recipe.sequence,
        before=before,
        detector=detector,
        labels=_labels(recipe, scenes, detector) if detector else {},
    )


def _labels(
    recipe: EvaluateRecipe, scenes: Sequence[Scene], detector: DetectorFile
) -> dict[str, Labels]:
    labels, unknown = find_labels(scenes, recipe.labels, Detector(detector).names)
    where = str(recipe.labels or "the folders of the visible pictures")
    num_boxes = sum(len(each.classes) for each in labels.values())
    if recipe.labels and not num_boxes:
        raise ValueError(
            f"labels {where}: no box of a class of {detector.name} for {len(scenes)} scenes; name "
            "SCENE.txt (YOLO) or SCENE.xml (VOC) as the scene or its visible picture"
        )
    if unknown:
        names = ", ".join(f"{name} ({count})" for name, count in sorted(unknown.items()))
        print_line(f"  labels left out, {detector.name} knows no such classes: {names}")
    if not num_boxes:
        print_line(f"  no labelled boxes in {where}: the detector's agreement is measured, no AP")
        return {}
    print_line(f"  AP over {num_boxes} boxes in {len(labels)} of {len(scenes)} scenes")
    return labels
