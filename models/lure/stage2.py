"""Stage II: learn to fuse in the latent space of frozen encoders, from clean pairs (spec 4.2).

Shapes: B batch, H W pixels, D numbers of a prompt.
"""

from typing import Self

import torch
from torch import Tensor, nn

from models.color import to_rgb
from models.losses import FusionLoss
from models.lure.blocks import PlainBlock, TextBlock
from models.lure.config import Stage2Config
from models.lure.networks import Decoder, Encoder, Latents, fusion_modules
from models.lure.router import Routers
from models.lure.text import CAMERAS, PSEUDO_TASK, Camera, PromptTable, hash_vectors
from models.system import Batch, Weights, trainable

_CLEAN = ("vi_gt", "ir_gt")
_DEGRADED = ("vi_lq", "ir_lq", "vi_task", "ir_task")


class Stage2(nn.Module):
    """The Stage II objective: the fusion loss of what the frozen latents of a clean pair become.

    Encoders, prompts and restoration decoders are Stage I's, frozen and in eval mode. Pictures are
    [0, 1], `vi_*` B×3×H×W and `ir_*` B×1×H×W with H and W multiples of 8. With `mix_degraded` that share
    of the pairs is encoded degraded, under its own prompts; the targets stay clean.
    """

    FIELDS: tuple[str, ...] = _CLEAN
    RECOMPUTED = (PlainBlock, TextBlock)

    def __init__(self, config: Stage2Config) -> None:
        super().__init__()
        if config.mix_degraded:
            self.FIELDS = (*_CLEAN, *_DEGRADED)
        self.mix_degraded = config.mix_degraded
        self.prompts = PromptTable(hash_vectors())  # Stage I's replace them
        self.encoders = nn.ModuleDict({camera: Encoder(config.model) for camera in CAMERAS})
        self.decoders = nn.ModuleDict({camera: Decoder(config.model) for camera in CAMERAS})
        self.routers = Routers(config.model)
        self.fusion = fusion_modules(config.model)
        self.fused_decoder = Decoder(config.model)
        weights = dict(config.fusion_weights)
        self.fusion_loss = FusionLoss(**weights, intensity_consistency=0, intensity_by_element=True)
        for network in self._frozen():
            network.requires_grad_(False)
        self.train()

    def parameter_groups(self) -> list[tuple[float, list[nn.Parameter]]]:
        """What is trained: fusion modules and fusion decoder."""
        return trainable(self)

    def load_stage1(self, weights: Weights) -> None:
        """Load what a Stage I objective learned; the fusion decoder starts as the visible one's copy."""
        for name, network in (
            ("prompts", self.prompts),
            ("routers", self.routers),
            ("encoders", self.encoders),
            ("decoders", self.decoders),
            ("decoders.vi", self.fused_decoder),
        ):
            prefix = f"{name}."
            network.load_state_dict(
                {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
            )

    def train(self, mode: bool = True) -> Self:
        """Switch the mode of what is trained; the frozen networks stay in eval mode."""
        super().train(mode)
        for network in self._frozen():
            network.eval()
        return self

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Return "loss" with its graph, and every weighted term detached."""
        targets = {"vi": batch["vi_gt"], "ir": to_rgb(batch["ir_gt"])}
        degraded = torch.rand(len(batch["vi_gt"]), device=batch["vi_gt"].device) < self.mix_degraded
        ir, vi = (self._encode(camera, targets[camera], batch, degraded) for camera in CAMERAS)
        levels = zip(self.fusion, ir, vi, strict=True)
        fused = self.fused_decoder([fuse(*pair) for fuse, *pair in levels])
        terms = self.fusion_loss(fused, targets["vi"], targets["ir"])
        del terms["intensity_consistency"]  # no term of this loss
        loss = torch.stack(list(terms.values())).sum()
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}

    @torch.no_grad()
    def _encode(self, camera: Camera, clean: Tensor, batch: Batch, degraded: Tensor) -> Latents:
        """Latents of a camera's clean pictures B×3×H×W, or of the degraded ones where B says so."""
        task = torch.full((len(clean),), PSEUDO_TASK, device=clean.device)
        picture = clean
        if self.mix_degraded:
            lq = batch[f"{camera}_lq"].expand_as(clean)
            picture = torch.where(degraded[:, None, None, None], lq, clean)
            task = torch.where(degraded, batch[f"{camera}_task"], task)
        latents: Latents = self.encoders[camera](picture, self.prompts.draw(camera, task))
        return latents

    def _frozen(self) -> tuple[nn.Module, ...]:
        return self.prompts, self.encoders, self.decoders
