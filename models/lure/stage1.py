"""Stage I: learn one latent space from single pictures, restored under their prompts (spec 4.1).

Shapes: B batch, b pictures of one camera, C channels of a level, H W pixels.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.devices import sent, unrounded
from models.losses import Ssim
from models.lure.blocks import PlainBlock, TextBlock
from models.lure.config import Stage1Config
from models.lure.networks import Decoder, Encoder, Latents
from models.lure.router import Routers
from models.lure.text import CAMERAS, PSEUDO_TASK, TASKS, Camera, PromptTable, read_vectors
from models.lure.unified import Moments, alignment_loss, moments_by_task, statistics_loss
from models.system import Batch, trainable


class Stage1(nn.Module):
    """The Stage I objective: L_I = L_rec + λ_u L_unified (spec 4.1).

    Pictures are [0, 1], `lq` and `gt` B×3×H×W with H and W multiples of 8; `camera` is 0 for infrared
    and 1 for visible, `task` the place of what the picture suffers in its camera's catalogue, both B
    int64. The clean picture under the pseudo prompt is the pseudo-degradation task, and through the
    teacher, a running average of the encoder, where the degraded one shall lie.
    """

    FIELDS: tuple[str, ...] = ("lq", "gt", "camera", "task")
    # It sorts the batch into two: from a GPU, every step would wait for it.
    ON_CPU: tuple[str, ...] = ("camera",)
    RECOMPUTED = (PlainBlock, TextBlock)
    num_seen: Tensor

    def __init__(self, config: Stage1Config) -> None:
        super().__init__()
        self.config = config
        self.prompts = PromptTable(read_vectors(config.text))
        self.encoders = nn.ModuleDict({camera: Encoder(config.model) for camera in CAMERAS})
        self.decoders = nn.ModuleDict({camera: Decoder(config.model) for camera in CAMERAS})
        self.teachers = deepcopy(self.encoders).requires_grad_(False)
        self.routers = Routers(config.model)
        self.similarity = Ssim()
        # Running moments of clean pictures, a row a camera; nothing is seen of a camera at 0.
        self.register_buffer("num_seen", torch.zeros(len(CAMERAS), dtype=torch.long))
        for level, width in enumerate(config.model.level_widths, start=1):
            self.register_buffer(f"mean{level}", torch.zeros(len(CAMERAS), width))
            self.register_buffer(f"std{level}", torch.zeros(len(CAMERAS), width))
        # Of the batches since the last step.
        self._fresh: dict[Camera, list[list[Moments]]] = {camera: [] for camera in CAMERAS}

    def parameter_groups(self) -> list[tuple[float, list[nn.Parameter]]]:
        """What is trained: encoders and decoders."""
        return trainable(self)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the networks alone.

        What sorts a batch by camera has other shapes in every step, each of which would be compiled.
        """
        for networks in (self.encoders, self.decoders, self.teachers):
            for network in networks.values():
                network.compile(*args, **kwargs)

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Return "loss" with its graph, and every weighted term detached.

        Each camera counts by its share of the batch, which may be nothing.
        """
        sums: dict[str, Tensor] = {}
        for number, camera in enumerate(CAMERAS):
            places = (batch["camera"] == number).nonzero().squeeze(1)  # b, on the CPU
            if not len(places):
                continue
            places = sent(places, batch["gt"].device)
            lq, gt, task = (batch[name][places] for name in ("lq", "gt", "task"))
            share = len(task) / len(batch["camera"])
            for name, term in self._camera_terms(camera, lq, gt, task).items():
                sums[name] = sums.get(name, torch.zeros_like(term)) + share * term
        restoration = sums["restored"] + sums["pseudo"] + sums["ssim"]
        unified = sums["alignment"] + sums["statistics"]
        ramp = min(1.0, step / self.config.ramp_steps) * self.config.unified_weight
        detached = {name: term.detach() for name, term in sums.items()}
        return {"loss": restoration + ramp * unified + self._untouched(), **detached}

    def _camera_terms(
        self, camera: Camera, lq: Tensor, gt: Tensor, task: Tensor
    ) -> dict[str, Tensor]:
        """The weighted terms of b pictures of one camera; L_unified without its ramp."""
        text = self.prompts.draw(camera, task)
        pseudo_text = self.prompts.draw(camera, torch.full_like(task, PSEUDO_TASK))
        noise = self.config.pseudo_noise_level / 255
        pseudo = gt + noise * torch.randn_like(gt) if noise else gt
        encoder, decoder, teacher = (
            networks[camera] for networks in (self.encoders, self.decoders, self.teachers)
        )
        with unrounded(lq):
            self.routers.of(camera).observe(encoder.get_submodule("embed")(lq), task)
        both = encoder(torch.cat([lq, pseudo]), torch.cat([text, pseudo_text]))  # 2b C H W, four
        restored, kept = decoder(both).chunk(2)  # b 3 H W each
        with torch.no_grad():
            target = teacher(gt, pseudo_text)
        with unrounded(gt):
            # Always in float32: under autocast the variances would drown in bfloat16.
            latents, clean = zip(*(z.float().chunk(2) for z in both), strict=True)
            terms = self._unified_terms(camera, latents, [t.float() for t in target], task)
            self._fresh[camera].append(_clean_moments(clean))
            return self._restoration_terms(restored.float(), kept.float(), gt) | terms

    def _restoration_terms(self, restored: Tensor, kept: Tensor, gt: Tensor) -> dict[str, Tensor]:
        """L_rec: of the degraded picture, and of the clean one (the pseudo-degradation task)."""
        return {
            "restored": F.l1_loss(restored, gt),
            "pseudo": self.config.pseudo_weight * F.l1_loss(kept, gt),
            "ssim": self.config.ssim_weight * (1 - self.similarity(restored, gt)),
        }

    def _unified_terms(
        self, camera: Camera, latents: Latents, target: Latents, task: Tensor
    ) -> dict[str, Tensor]:
        """L_unified: latents to the teacher's, moments of each task to those of clean pictures."""
        row = CAMERAS.index(camera)
        running = [Moments(mean[row], std[row]) for mean, std in self._running()]
        # Before the first clean picture of a camera there is nothing to compare with.
        weight = self.config.statistics_weight * (self.num_seen[row] > 0)
        statistics = statistics_loss(latents, task, running, len(TASKS[camera]))
        return {"alignment": alignment_loss(latents, target), "statistics": weight * statistics}

    def _running(self) -> list[Moments]:
        levels = range(1, 5)
        return [Moments(getattr(self, f"mean{k}"), getattr(self, f"std{k}")) for k in levels]

    def _untouched(self) -> Tensor:
        """Zero, with every trained parameter in its graph.

        A batch may lack a camera, and replicas wait for the gradient of every parameter.
        """
        return 0.0 * torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum()

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move the teachers, and the running moments by what the batches of the step had.

        Among replicas the first one's moments count: DDP hands them to the others.
        """
        rate = 1 - self.config.teacher_decay
        for slow, fast in zip(self.teachers.parameters(), self.encoders.parameters(), strict=True):
            slow.lerp_(fast, rate)
        for row, camera in enumerate(CAMERAS):
            for fresh in self._fresh[camera]:
                # On the device, which a number for Python would have to wait for.
                weight = torch.where(self.num_seen[row] == 0, 1.0, 1 - self.config.statistics_decay)
                for running, new in zip(self._running(), fresh, strict=True):
                    running.mean[row].lerp_(new.mean, weight)
                    running.std[row].lerp_(new.std, weight)
                self.num_seen[row] += 1
            self._fresh[camera] = []


@torch.no_grad()
def _clean_moments(clean: Latents) -> list[Moments]:
    """Moments C of a batch of clean latents, at each level."""
    task = torch.zeros(len(clean[0]), dtype=torch.long, device=clean[0].device)
    levels = (moments_by_task(z, task, 1) for z in clean)
    return [Moments(level.mean[0], level.std[0]) for level in levels]
