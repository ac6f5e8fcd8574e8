"""Learning rates by step; steps count from 0."""

import math
from collections.abc import Sequence


def constant_then_cosine(
    step: int, *, num_steps: int, constant_steps: int, rate: float, least: float
) -> float:
    """Constant, then a cosine to `least` (DSPFusion spec 2.3, the same shape at any budget)."""
    if step < constant_steps:
        return rate
    progress = (step - constant_steps) / max(num_steps - constant_steps, 1)
    return least + 0.5 * (rate - least) * (1 + math.cos(math.pi * progress))


def multi_step(step: int, *, milestones: Sequence[int], factor: float, rate: float) -> float:
    """The rate times `factor` for every milestone that is reached."""
    return rate * factor ** sum(step >= milestone for milestone in milestones)
