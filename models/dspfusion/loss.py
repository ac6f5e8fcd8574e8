"""The fusion loss as both stages configure it."""

from models.dspfusion.config import ContentTarget, FusionWeights
from models.losses import FusionLoss


def fusion_loss(weights: FusionWeights, content_target: ContentTarget) -> FusionLoss:
    """Build the fusion loss of a stage's settings (spec 2.1)."""
    return FusionLoss(**dict(weights), intensity_by_element=content_target == "element_maximum")
