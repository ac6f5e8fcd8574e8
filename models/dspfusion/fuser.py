"""DSPFusion as it is used: a degraded pair in, a fused image out (spec 1.5).

Shapes: B batch, H W pixels, N prior tokens, D semantic prior width.
"""

from functools import partial
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.color import to_rgb
from models.dspfusion.config import SIZE_MULTIPLE_PX, DSPFusionConfig
from models.dspfusion.denoiser import (
    Denoiser,
    PriorBlend,
    join_condition,
    num_noises,
    prior_schedule,
    restore_prior,
    split_noises,
)
from models.dspfusion.fusion import FusionNetwork
from models.dspfusion.priors import degradation_encoder, semantic_encoder
from models.layers.tiles import Tiling, fuse_tiles
from models.system import Fused, FuseOptions, Fuser, Hints, Precision, check_pair

MIN_SIZE_PX = 16
MIN_TILE_PX = 64
# Three are 47 to 53 dB from the whole picture for trained weights, at twice the time (README, Tiles).
TILE_PASSES = 3


class DSPFusionFuser(nn.Module):
    """Fuse `vi` B×3×H×W and `ir` B×1×H×W in [0, 1] to B×3×H×W in (0, 1), any H, W >= 16.

    With `prior="diffusion"` the semantic prior is restored from one fixed noise, drawn from
    `noise_seed` and shared by all images, so that a result depends on nothing but its pair; with
    `prior="low_quality"` the prior of the degraded pair is used and there is no denoiser. With
    `stretch` each result fills [0, 1].
    """

    noise: Tensor
    step_noise: Tensor | None

    def __init__(self, config: DSPFusionConfig) -> None:
        super().__init__()
        self.config = config
        self.fusion = FusionNetwork(config)
        self.degradation = degradation_encoder(config)
        self.semantic = semantic_encoder(config)
        self.denoiser = Denoiser(config) if config.restores_prior else None
        self.blend = PriorBlend(config) if config.prior_blend == "learned" else None
        self.stretch = config.stretch
        self.set_num_steps(config.num_steps)
        self.precision: Precision = "float32"

    def set_num_steps(self, num_steps: int) -> None:
        """Sample in so many steps from now on, which need not be as many as in training."""
        config = self.config.model_copy(update={"num_steps": num_steps})
        self.schedule = prior_schedule(config)
        device = self.fusion.patch_embed.weight.device
        noise, step_noise = split_noises(_fixed_noises(config).to(device))
        self.register_buffer("noise", noise, persistent=False)
        self.register_buffer("step_noise", step_noise, persistent=False)

    def speed_up(self, *, precision: Precision = "float32", compiled: bool = False) -> Self:
        """Choose how the fusion network computes from now on, and return the fuser.

        "bf16" rounds the products of its wide layers; `compiled` hands it to `torch.compile`, which
        works at the first picture of a size. The priors stay as they are (README, Precision).
        """
        self.precision = precision
        if compiled:
            self.fusion.compile()
        return self

    def forward(
        self, vi: Tensor, ir: Tensor, hints: Hints | None = None, *, noise: Tensor | None = None
    ) -> Fused:
        """Return the fused image; `noise` B×N×D or 1×N×D replaces the fixed one that x_T is.

        The fuser is blind: it takes no hints.
        """
        check_pair(vi, ir, least_px=MIN_SIZE_PX)
        height, width = vi.shape[-2:]
        noise = self._noise_of(vi.shape[0], noise)
        fused = self.fuse_padded(pad_to_multiple(vi), to_rgb(pad_to_multiple(ir)), noise)
        return Fused(self.finish(fused[..., :height, :width]))

    def fuse_tiled(
        self,
        vi: Tensor,
        ir: Tensor,
        hints: Hints | None = None,
        *,
        tile_px: int,
        num_passes: int = TILE_PASSES,
        noise: Tensor | None = None,
    ) -> Fused:
        """Return what `forward` does, nearly, in the memory of one tile of `tile_px` a side.

        The priors are those of the whole pair. The means over all pixels in DPMM and in channel
        attention are those of the passes over all tiles before the last (README, Tiles); with one
        pass each tile has its own. `tile_px` is a multiple of 8 and at least 64; a quarter overlaps.
        """
        check_pair(vi, ir, least_px=MIN_SIZE_PX)
        if tile_px % SIZE_MULTIPLE_PX or tile_px < MIN_TILE_PX:
            raise ValueError(
                f"tile_px is {tile_px}; it must be a multiple of {SIZE_MULTIPLE_PX} and at least "
                f"{MIN_TILE_PX}"
            )
        height, width = vi.shape[-2:]
        vi, ir = pad_to_multiple(vi), to_rgb(pad_to_multiple(ir))
        degradation, semantic = self.priors(vi, ir, self._noise_of(vi.shape[0], noise))

        def fuse(vi: Tensor, ir: Tensor) -> Tensor:
            return self._run_network(ir, vi, degradation, semantic)

        tiling = Tiling(tile_px, overlap_px=tile_px // 4, multiple_px=SIZE_MULTIPLE_PX)
        fused = fuse_tiles(vi, ir, fuse, tiling, network=self.fusion, num_passes=num_passes)
        return Fused(self.finish(fused[..., :height, :width]))

    def finish(self, fused: Tensor) -> Tensor:
        """Stretch the cropped results B×3×H×W, if the configuration says so."""
        return stretch_extremes(fused) if self.stretch else fused

    def _noise_of(self, size: int, noise: Tensor | None) -> Tensor:
        if noise is not None and self.denoiser is None:
            raise ValueError("noise is given, but this fuser has prior='low_quality' and uses none")
        return (self.noise if noise is None else noise).expand(size, -1, -1)

    def fuse_padded(self, vi: Tensor, ir: Tensor, noise: Tensor) -> Tensor:
        """Fuse a pair of three channels each, H and W multiples of 8, with noise B×N×D.

        This is the part to export. A fuser without diffusion does not read the noise.
        """
        return self._run_network(ir, vi, *self.priors(vi, ir, noise))

    def _run_network(self, ir: Tensor, vi: Tensor, degradation: Tensor, semantic: Tensor) -> Tensor:
        if self.precision == "float32":
            return self.fusion(ir, vi, degradation, semantic)
        with torch.autocast(vi.device.type, torch.bfloat16):
            return self.fusion(ir, vi, degradation, semantic).to(vi.dtype)

    def priors(self, vi: Tensor, ir: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the dual prior of three-channel images: degradation 2B×N×., semantic B×N×D."""
        degradation_prior = self.degradation(torch.cat([ir, vi]))  # 2B N .
        semantic_prior = self.semantic(torch.cat([ir, vi], dim=1))  # B N D
        if self.denoiser is not None:
            condition = join_condition(semantic_prior, degradation_prior)
            semantic_prior = restore_prior(
                self.denoiser,
                noise,
                condition,
                schedule=self.schedule,
                step_noise=self.step_noise,
            )
            if self.blend is not None:
                semantic_prior = self.blend(semantic_prior, condition)
        return degradation_prior, semantic_prior


class PaddedFuser(nn.Module):
    """`fuse_padded` with the fixed noise as a module's forward, which is what `torch.export` takes.

    Batch, H and W are dynamic: `H = 8 * Dim("rows")` and the same for W.
    """

    def __init__(self, fuser: DSPFusionFuser) -> None:
        super().__init__()
        self.fuser = fuser

    def forward(self, vi: Tensor, ir: Tensor) -> Tensor:
        """Fuse vi B×3×H×W and ir B×1×H×W to B×3×H×W."""
        noise = self.fuser.noise.expand(vi.shape[0], -1, -1)  # B N D
        return self.fuser.finish(self.fuser.fuse_padded(vi, to_rgb(ir), noise))


def prepare(fuser: DSPFusionFuser, options: FuseOptions) -> Fuser:
    """Make a fuser ready by options, all of which DSPFusion offers."""
    fuser.speed_up(precision=options.precision, compiled=options.compiled)
    fuser.stretch |= options.stretch
    if options.tile_px is None:
        return fuser
    passes = options.tile_passes or TILE_PASSES
    return partial(fuser.fuse_tiled, tile_px=options.tile_px, num_passes=passes)


def pad_to_multiple(image: Tensor) -> Tensor:
    """Reflect-pad B×C×H×W at the bottom and right to multiples of 8 (spec 1, size rule)."""
    height, width = image.shape[-2:]
    padding = (0, -width % SIZE_MULTIPLE_PX, 0, -height % SIZE_MULTIPLE_PX)
    return F.pad(image, padding, mode="reflect")


def stretch_extremes(images: Tensor) -> Tensor:
    """Map each image of B×3×H×W from its own extremes to [0, 1]; one without contrast becomes 0.

    The authors stretch before the crop and after it, which is the same: each is an affine map, and the
    second undoes the first (spec 1.5).
    """
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp(min=torch.finfo(images.dtype).tiny)


def _fixed_noises(config: DSPFusionConfig) -> Tensor:
    generator = torch.Generator().manual_seed(config.noise_seed)
    shape = (num_noises(config), 1, config.num_tokens, config.semantic_prior_width)
    return torch.randn(shape, generator=generator, device="cpu")
