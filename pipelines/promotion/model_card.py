"""The model card of a registered version, from what the registry and its runs hold of it.

Markdown, as MLflow shows it on the pages of the version and of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from models import find_system
from pipelines.promotion.evidence import EVALUATION, PRETRAINED, RELEASED
from pipelines.results.rows import MODEL

# What the card shows of an evaluation, in this order, where it was measured.
_METRICS = ("PSNR_target", "SSIM_target", "VIF", "Qabf", "SSIM", "MI")


@dataclass(frozen=True)
class Lineage:
    """What a card is made of: a version's tags, and the runs that trained and measured it.

    `means` are those of the evaluation over all its scenarios, `METHOD.METRIC` by name; `evaluation` are
    the tags of its run, `picture` is the address of one that the model made.
    """

    tags: Mapping[str, str]
    means: Mapping[str, float] = field(default_factory=dict)
    evaluation: Mapping[str, str] = field(default_factory=dict)
    picture: str | None = None


def model_card(title: str, lineage: Lineage) -> str:
    """What the model is, a picture, its results, what it was trained on, its limits and its licence."""
    tags = lineage.tags
    system, stage = tags.get("system", "unknown"), tags.get("stage", "")
    parts = [
        f"# {title}",
        "Fuses a registered pair, a visible and an infrared picture of one scene, into one picture; the "
        f"cameras may have suffered. System `{system}`{f', {stage}' if stage else ''}.",
        f"![fused pictures]({lineage.picture})" if lineage.picture else "",
        f"## Results\n\n{_results(lineage)}",
        f"## Data\n\n{_data(tags)}",
        f"## Training\n\n{_training(tags)}",
        f"## Limits\n\n{_limits(tags)}",
        f"## Licence\n\n{_licence(tags)}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _results(lineage: Lineage) -> str:
    """The means of every method as a table, and on which scenes."""
    found = dict.fromkeys(key.partition(".")[0] for key in sorted(lineage.means) if "." in key)
    methods = sorted(found, key=lambda name: (name != MODEL, name))
    metrics = [name for name in _METRICS if f"{MODEL}.{name}" in lineage.means]
    if not metrics:
        return "Not evaluated yet: `python -m jobs.evaluate`."
    lines = [["method", *metrics], ["---"] * (len(metrics) + 1)]
    for method in methods:
        values = [lineage.means.get(f"{method}.{name}") for name in metrics]
        lines.append([method, *("" if value is None else f"{value:.3f}" for value in values)])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    where = lineage.evaluation.get("scenes", "unknown scenes")
    run = lineage.tags.get(EVALUATION, "unknown")
    return f"{table}\n\nMeans over all scenarios, on `{where}` (run `{run}`, report.html)."


def _data(tags: Mapping[str, str]) -> str:
    if tags.get("origin") == RELEASED:
        return "The authors' published weights; what they were trained on is in their paper."
    if tags.get("origin") == PRETRAINED:
        return "Weights that come with the code; the README beside them says what they were trained on."
    return (
        f"Dataset `{tags.get('dataset_version', 'unknown')}`, {tags.get('trained_scenes', '?')} scenes. "
        f"Degradations: {tags.get('degradations', 'unknown')}."
    )


def _training(tags: Mapping[str, str]) -> str:
    facts = {
        "recipe": tags.get("recipe"),
        "run": tags.get("run_id"),
        "initial weights": tags.get("init_from"),
        "code": tags.get("git_commit"),
        "weights of step": tags.get("model_step"),
        "sha256 of the weights": tags.get("model_sha256"),
    }
    return "\n".join(f"- {name}: `{value}`" for name, value in facts.items() if value)


def _limits(tags: Mapping[str, str]) -> str:
    system = tags.get("system")
    limits = [
        "Pairs must be registered and of one size; a shift shows as a double edge.",
        "Pictures are fused one by one: nothing keeps a video from flickering.",
        "Degradations other than those above, and scenes unlike those of the data, were not tried.",
        "A fused picture is for looking at. Intensities are no temperatures.",
    ]
    if system and find_system(system).only_linear:
        limits.append("It inverts linear degradations only: noise, blur, low resolution.")
    if system and find_system(system).hints != "none":
        limits.append("It has to be told what the pictures suffer.")
    return "\n".join(f"- {limit}" for limit in limits)


def _licence(tags: Mapping[str, str]) -> str:
    if tags.get("origin") == RELEASED:
        return "The authors' own terms apply to the weights."
    return (
        "The code is under Apache-2.0. Whether the weights may be used is also a question of the terms of "
        "the pictures that they were trained on."
    )
