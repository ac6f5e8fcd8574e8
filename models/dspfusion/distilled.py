"""After Stage II: a lighter fusion network learns from clean pairs, and from the trained one.

Shapes: B batch, N prior tokens, D semantic prior width, H W pixels.
"""

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.color import to_rgb
from models.devices import unrounded
from models.dspfusion.config import DistilledConfig
from models.dspfusion.fuser import DSPFusionFuser
from models.dspfusion.fusion import FusionNetwork
from models.dspfusion.loss import fusion_loss
from models.dspfusion.stage2 import lightened
from models.losses import Ssim
from models.system import Batch, Weights

# Of 1 - SSIM beside the L1 distance of a restored source: so they weigh about the same.
_STRUCTURE_SHARE = 0.1
_FIRST, _LAST = "patch_embed.weight", "head.output.weight"


class Distilled(nn.Module):
    """The objective L = L_fus + w_t · mean |F_teacher - F| + w_r · (d(VI, VI_gt) + d(IR, IR_gt)).

    F are the fused pictures of the same priors; VI and IR the restored sources, of a network that joins
    them, and d(x, y) = mean |x - y| + (1 - SSIM(x, y)) / 10.

    Both networks fuse with the priors that inference has: restored, from the one fixed noise. All but
    the lighter fusion network is frozen and in eval mode. Images are [0, 1], H and W multiples of 8 and at
    least 16; `vi_*` B×3×H×W, `ir_*` B×1×H×W, `seed` B int64.
    """

    FIELDS: tuple[str, ...] = ("vi_lq", "vi_gt", "ir_lq", "ir_gt", "seed")
    # Generators of the CPU read it: from a GPU, every step would wait for it.
    ON_CPU: tuple[str, ...] = ("seed",)

    def __init__(self, config: DistilledConfig) -> None:
        super().__init__()
        self.student = DSPFusionFuser(config.model)
        self.teacher = FusionNetwork(config.teacher)
        self.teacher_weight, self.taught_share = config.teacher_weight, config.taught_share
        self.lightened_share = config.lightened_share
        self.restoration_weight = config.restoration_weight
        self.similarity = Ssim()
        self.fusion_loss = fusion_loss(config.fusion_weights, config.content_target)
        self.requires_grad_(False)
        self.student.fusion.requires_grad_(True)
        self.train()

    def parameter_groups(self) -> list[tuple[float, list[nn.Parameter]]]:
        """What is trained, and at which share of the learning rate: the lighter network."""
        return [(1.0, [*self.student.fusion.parameters()])]

    def load_trained(self, state_dict: Weights) -> None:
        """Load the weights of a Stage II objective: its fusion network teaches, its priors are both's.

        It starts from all weights of the same shape: where only the fold differs, as what the teacher is on
        a picture of that fraction of the size. Of wider feed-forwards it keeps what weighs most.
        """
        taught = {
            name.removeprefix("fusion."): tensor
            for name, tensor in state_dict.items()
            if name.startswith("fusion.")
        }
        self.teacher.load_state_dict(taught)
        own = self.student.fusion.state_dict()
        finer = self.student.fusion.fold // self.teacher.fold
        starts = _pruned(taught, own) | _spread(taught, finer)
        starts[_LAST] = _and_nothing(starts[_LAST], len(own[_LAST]))
        same = {name for name in starts if name in own and starts[name].shape == own[name].shape}
        own |= {name: starts[name] for name in same}
        own = {f"fusion.{name}": value for name, value in own.items()}
        priors = {key: value for key, value in state_dict.items() if not key.startswith("fusion.")}
        self.student.load_state_dict(priors | own)

    def train(self, mode: bool = True) -> Self:
        """Switch the lighter network's mode; the frozen networks stay in eval mode."""
        super().train(False)
        self.training = mode
        self.student.fusion.train(mode)
        return self

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Return "loss" with its graph, and every weighted term detached; all steps are alike."""
        batch = {**batch, **{name: to_rgb(batch[name]) for name in ("ir_lq", "ir_gt")}}
        if self.lightened_share:
            batch |= lightened(batch, self.lightened_share)
        ir, vi = batch["ir_lq"], batch["vi_lq"]
        with torch.no_grad():
            noise = self.student.noise.expand(len(vi), -1, -1)  # B N D
            priors = self.student.priors(vi, ir, noise)
        if self.restoration_weight:
            fused, *sources = self.student.fusion.restore(ir, vi, *priors)
        else:
            fused, sources = self.student.fusion(ir, vi, *priors), []
        terms = self.fusion_loss(fused, batch["vi_gt"], batch["ir_gt"])
        terms["fusion"] = torch.stack(list(terms.values())).sum()
        loss = terms["fusion"]
        if sources:
            terms["restoration"] = self.restoration_weight * self._distance(sources, batch)
            loss = loss + terms["restoration"]
        if num_taught := math.ceil(self.taught_share * len(vi)):
            taught = self._taught(ir, vi, priors, num_taught)
            terms["teacher"] = self.teacher_weight * F.l1_loss(fused[:num_taught], taught)
            loss = loss + terms["teacher"]
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}

    def _distance(self, sources: Sequence[Tensor], batch: Batch) -> Tensor:
        """Of the restored sources B×3×H×W, infrared first, from the clean ones."""
        restored, clean = torch.cat([*sources]), torch.cat([batch["ir_gt"], batch["vi_gt"]])
        with unrounded(restored):
            restored, clean = restored.float(), clean.float()
            unlike = 1 - self.similarity(restored, clean)
            # Twice the means over both are the sum of each one's.
            return 2 * (F.l1_loss(restored, clean) + _STRUCTURE_SHARE * unlike)

    @torch.no_grad()
    def _taught(
        self, ir: Tensor, vi: Tensor, priors: tuple[Tensor, Tensor], num_pairs: int
    ) -> Tensor:
        """Fuse the first pairs of a batch B×3×H×W with its priors 2B×N×E, infrared first, and B×N×D."""
        degradation, semantic = priors
        first = degradation.unflatten(0, (2, -1))[:, :num_pairs].flatten(0, 1)
        fused: Tensor = self.teacher(ir[:num_pairs], vi[:num_pairs], first, semantic[:num_pairs])
        return fused


def _spread(taught: Weights, fold: int) -> dict[str, Tensor]:
    """The first and the last convolution: a square's mean in, and the same for each of its pixels out."""
    return {
        _FIRST: taught[_FIRST].repeat_interleave(fold**2, dim=1) / fold**2,
        _LAST: taught[_LAST].repeat_interleave(fold**2, dim=0),
    }


def _and_nothing(weight: Tensor, num_channels: int) -> Tensor:
    """A convolution of as many more channels, which are 0: what joins the sources, after what draws."""
    more = max(num_channels - len(weight), 0)
    return torch.cat([weight, weight.new_zeros((more, *weight.shape[1:]))])


def _pruned(taught: Weights, own: Weights) -> dict[str, Tensor]:
    """The taught weights, but of feed-forwards only as many hidden channels as `own` has."""
    pruned = dict(taught)
    for name in taught:
        if not name.endswith("feed_forward.project_out.weight") or name not in own:
            continue
        hidden = own[name].shape[1]
        if hidden >= taught[name].shape[1]:
            continue
        kept = taught[name].flatten(2).norm(dim=(0, 2)).topk(hidden).indices.sort().values
        pruned[name] = taught[name][:, kept]
        for other in ("project_in.weight", "context.weight"):
            of_both = name.replace("project_out.weight", other)
            # The gates lie first, then what they gate.
            pruned[of_both] = torch.cat([half[kept] for half in taught[of_both].chunk(2)])
    return pruned


def without_teacher(weights: Weights) -> Weights:
    """The fuser's weights of a distilled run's."""
    return {
        name.removeprefix("student."): tensor
        for name, tensor in weights.items()
        if name.startswith("student.")
    }
