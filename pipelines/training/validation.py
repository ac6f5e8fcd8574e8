"""Validation of a training: the same degraded pairs of unseen scenes, fused and measured.

The system's fuser is measured, not its losses: whatever a stage minimises, this is what is registered, and
the numbers are those that an evaluation has of the same pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import distributed, nn

from models.metrics import measure
from pipelines.sources.pictures import to_tensor
from pipelines.store.seeding import digest_of
from pipelines.training.checkpoints import Best, TrainingState
from pipelines.training.config import ValidationConfig
from pipelines.training.optimiser import seeded
from pipelines.training.previews import PreviewPair, fuse_pair

VALIDATED = ("PSNR_target", "SSIM_target")


def subject_of(pairs: Sequence[PreviewPair], config: ValidationConfig) -> str:
    """Digest of what is measured by what: values of two subjects are not compared."""
    return digest_of([config.best_by, [pair.label for pair in pairs]])


def validate(
    fuser: nn.Module,
    pairs: Sequence[PreviewPair],
    hint_names: Sequence[str],
    *,
    rank: int = 0,
    world_size: int = 1,
) -> dict[str, float]:
    """Mean of each metric over the pairs, of which every rank fuses its share; the same on all ranks.

    The number of ranks does not change a value. Training's random numbers are not drawn from. Raises
    ValueError for a fused picture that cannot be measured.
    """
    device = next(fuser.parameters()).device
    values = torch.zeros(len(pairs), len(VALIDATED), dtype=torch.float64)
    for place in range(rank, len(pairs), world_size):
        pair = pairs[place]
        with seeded(0, 0, place):
            fused = fuse_pair(fuser, pair, hint_names)
        found = measure(fused, to_tensor(pair.vi_gt), to_tensor(pair.ir_gt), VALIDATED)
        values[place] = torch.cat([found[name] for name in VALIDATED])
    if world_size > 1:
        shared = values.to(device)
        distributed.all_reduce(shared)  # of zeros and one value each: exact
        values = shared.cpu()
    return dict(zip(VALIDATED, values.mean(dim=0).tolist(), strict=True))


def note_validation(state: TrainingState, value: float, step: int) -> None:
    """Keep the current weights if they are better than the best so far, else count one more that is not."""
    best = state.best
    if best.found is None or value > best.found.value:
        best.found = Best(subject=best.subject, step=step, value=value)
        best.weights = {name: x.detach().to("cpu", copy=True) for name, x in state.shown.items()}
    else:
        best.found = best.found.model_copy(update={"num_since": best.found.num_since + 1})


def has_stopped(state: TrainingState, config: ValidationConfig | None) -> bool:
    """Whether the last validations were no better, as many in a row as the patience allows."""
    if config is None or config.patience is None or state.best.found is None:
        return False
    return state.best.found.num_since >= config.patience
