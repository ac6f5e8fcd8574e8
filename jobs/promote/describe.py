"""The descriptions of versions and models in MLflow: a model card, made anew from their lineage."""

from __future__ import annotations

from typing import Any

from pipelines.promotion.evidence import EVALUATION
from pipelines.promotion.model_card import Lineage, model_card


def describe_version(client: Any, name: str, number: str) -> None:
    """Write the card of a version as its description, and as an artifact of the run that trained it.

    The card of the champion, or of a first version, is the description of the model, too.
    """
    from infra.registry import model_versions as registry
    from infra.registry import tracking

    version = registry.find_model(client, f"models:/{name}/{number}")
    run_id, evaluated = version.tags.get("run_id"), version.tags.get(EVALUATION)
    lineage = Lineage(
        tags=version.tags,
        means=tracking.run_metrics_of(client, evaluated, prefix=""),
        evaluation=tracking.run_tags_of(client, evaluated) or {},
        picture=tracking.last_picture_of(client, run_id, "previews"),
    )
    card = model_card(f"{name}, version {number}", lineage)
    registry.describe_version(client, version, card)
    if tracking.run_tags_of(client, run_id) is not None:
        client.log_text(str(run_id), card, f"model_card/{name}-{number}.md")
    champion = registry.find_alias(client, name, registry.CHAMPION)
    if champion is None or str(champion.version) == number:
        state = "champion" if champion else "no champion yet; the newest version"
        registry.describe_model(client, name, model_card(f"{name}: {state}, {number}", lineage))
