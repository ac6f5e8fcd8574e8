"""Stage I: train both prior encoders and the fusion network together (spec 2.1).

Shapes: B batch, K positives, M negatives, N prior tokens, D prior width, H W pixels.
"""

import torch
from torch import Tensor, nn

from models.color import to_rgb
from models.dspfusion.config import Stage1Config
from models.dspfusion.fusion import FusionNetwork
from models.dspfusion.loss import fusion_loss
from models.dspfusion.priors import DegradationEncoder, degradation_encoder, semantic_encoder
from models.losses import group_contrastive_loss
from models.system import Batch

_PAIRS = ("vi_lq", "vi_gt", "ir_lq", "ir_gt")


class Stage1(nn.Module):
    """The Stage I objective: L_I = L_fus + L_cl (spec 2.1); L_fus alone without degradation prior.

    The semantic prior comes from the clean pair, the degradation priors from the degraded one.
    Images are [0, 1], H and W multiples of 8 and at least 16; shapes are those of the contract:
    `vi_*` B×3×H×W, `ir_*` B×1×H×W, `vi_pos` B×K×3×H×W, `ir_pos` B×K×1×H×W, `neg` B×M×3×H×W.
    """

    FIELDS: tuple[str, ...] = (*_PAIRS, "vi_pos", "ir_pos", "neg")

    def __init__(self, config: Stage1Config) -> None:
        super().__init__()
        self.fusion = FusionNetwork(config.model)
        self.degradation = degradation_encoder(config.model)
        self.semantic = semantic_encoder(config.model)
        if not config.model.degradation_prior:
            self.FIELDS = _PAIRS  # of the groups nothing would be read
        self.fusion_loss = fusion_loss(config.fusion_weights, config.content_target)
        if config.degradation_start == "contrast":
            assert isinstance(self.degradation, DegradationEncoder), "the config has seen to it"
            self.degradation.start_for_contrast()
        self.degradation_rate = config.degradation_rate
        self.contrastive_weight = config.contrastive_weight
        self.contrastive_temperature = config.contrastive_temperature
        self.positive_in_denominator = config.positive_in_denominator

    def parameter_groups(self) -> list[tuple[float, list[nn.Parameter]]]:
        """What is trained, and at which share of the learning rate."""
        others = [*self.fusion.parameters(), *self.semantic.parameters()]
        return [(1.0, others), (self.degradation_rate, list(self.degradation.parameters()))]

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Return "loss" with its graph, and every weighted term detached; all steps are alike."""
        infrared = {name: to_rgb(batch[name]) for name in self.FIELDS if name.startswith("ir_")}
        return self.losses({**batch, **infrared})

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return what `forward` does, for infrared images that have three channels already."""
        degradation_prior, contrast = self._degradation(batch)
        semantic_prior = self.semantic(torch.cat([batch["ir_gt"], batch["vi_gt"]], dim=1))
        fused = self.fusion(batch["ir_lq"], batch["vi_lq"], degradation_prior, semantic_prior)
        terms = self.fusion_loss(fused, batch["vi_gt"], batch["ir_gt"])
        fusion = torch.stack(list(terms.values())).sum()
        loss = torch.stack([fusion, *contrast.values()]).sum()
        terms |= {"fusion": fusion, **contrast}
        detached = {name: term.detach() for name, term in terms.items()}
        return {"loss": loss, **detached}

    def _degradation(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the anchors' priors 2B×N×D and the contrastive loss, from one encoder call."""
        if not isinstance(self.degradation, DegradationEncoder):
            return self.degradation(torch.cat([batch["ir_lq"], batch["vi_lq"]])), {}
        positives = (batch["ir_pos"], batch["vi_pos"])
        groups = [group.flatten(0, 1) for group in (*positives, batch["neg"])]
        priors = self.degradation(torch.cat([batch["ir_lq"], batch["vi_lq"], *groups]))
        embeddings = self.degradation.type_vector(priors)
        size, num_positives = positives[0].shape[:2]
        ir, vi, ir_pos, vi_pos, neg = embeddings.split([size, size, *map(len, groups)])
        loss = group_contrastive_loss(
            (ir, vi),
            (ir_pos.unflatten(0, (size, num_positives)), vi_pos.unflatten(0, (size, -1))),
            neg.unflatten(0, (size, -1)),
            temperature=self.contrastive_temperature,
            positive_in_denominator=self.positive_in_denominator,
        )
        return priors[: 2 * size], {"contrastive": self.contrastive_weight * loss}
