"""The reconstruction as it is used: a pair and what each picture suffers in, fused and restored out.

Shapes: B batch, H W pixels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.color import to_rgb
from models.lure.config import MIN_SIZE_PX, SIZE_MULTIPLE_PX, LUREConfig
from models.lure.networks import Decoder, Encoder, Latents, fusion_modules
from models.lure.router import Routers
from models.lure.text import CAMERAS, Camera, PromptTable, hash_vectors
from models.system import Fused, Hints, check_pair


class LUREFuser(nn.Module):
    """Fuse `vi` B×3×H×W and `ir` B×1×H×W in [0, 1], told by `vi_task` and `ir_task` B int64.

    Returns fused and restored pictures in (0, 1), for any H, W >= 16 (spec 6). One forward pass, nothing
    is drawn: each task speaks by its plainest prompt. A negative task is found out from the picture.
    """

    def __init__(self, config: LUREConfig) -> None:
        super().__init__()
        self.config = config
        self.prompts = PromptTable(hash_vectors())  # weights bring their own
        self.encoders = nn.ModuleDict({camera: Encoder(config) for camera in CAMERAS})
        self.decoders = nn.ModuleDict({camera: Decoder(config) for camera in CAMERAS})
        self.routers = Routers(config)
        if config.fusion == "learned":
            self.fusion = fusion_modules(config)
            self.fused_decoder = Decoder(config)

    def forward(self, vi: Tensor, ir: Tensor, hints: Hints | None = None) -> Fused:
        """Return the fused picture and the restored sources. Raises ValueError without hints."""
        check_pair(vi, ir, least_px=MIN_SIZE_PX)
        if hints is None:
            raise ValueError("hints are missing: pass vi_task and ir_task, 0 for a clean picture")
        height, width = vi.shape[-2:]
        padding = (0, -width % SIZE_MULTIPLE_PX, 0, -height % SIZE_MULTIPLE_PX)
        vi, ir = (F.pad(picture, padding, mode="reflect") for picture in (vi, ir))
        vi_task = self._told_or_found("vi", vi, hints["vi_task"])
        ir_task = self._told_or_found("ir", ir, hints["ir_task"])
        pictures = self.fuse_padded(vi, ir, vi_task, ir_task)
        return Fused(*(picture[..., :height, :width] for picture in pictures))

    def told(self, camera: Camera, picture: Tensor, task: Tensor) -> Tensor:
        """Tasks B int64, in the place of negative ones what pictures of a camera seem to suffer."""
        picture = to_rgb(picture) if camera == "ir" else picture
        maps = self.encoders[camera].get_submodule("embed")(picture)  # B C H W
        return torch.where(task < 0, self.routers.of(camera).nearest(maps), task)

    def latents(self, camera: Camera, picture: Tensor, task: Tensor) -> Latents:
        """The latents of pictures B×3×H×W or B×1×H×W under tasks B, H and W multiples of 8."""
        picture = to_rgb(picture) if camera == "ir" else picture
        latents: Latents = self.encoders[camera](picture, self.prompts.plainest(camera, task))
        return latents

    def restore(self, camera: Camera, picture: Tensor, task: Tensor) -> Tensor:
        """Restored pictures of one camera, B×3×H×W or B×1×H×W as they came, H and W multiples of 8."""
        restored: Tensor = self.decoders[camera](self.latents(camera, picture, task))
        return restored.mean(dim=1, keepdim=True) if camera == "ir" else restored

    def sees(self, camera: Camera, picture: Tensor) -> Tensor:
        """Tasks B that pictures B×3×H×W or B×1×H×W seem to suffer. ValueError without statistics."""
        unknown = torch.full((len(picture),), -1, device=picture.device)
        return self._told_or_found(camera, picture, unknown)

    def _told_or_found(self, camera: Camera, picture: Tensor, task: Tensor) -> Tensor:
        # Without the work of looking; of a meta tensor nothing can be asked.
        if task.is_meta or not (task < 0).any():
            return task
        self.routers.of(camera).check()
        return self.told(camera, picture, task)

    def fuse_padded(
        self, vi: Tensor, ir: Tensor, vi_task: Tensor, ir_task: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return fused, vi and ir of a pair whose H and W are multiples of 8: the part to export."""
        z_ir, z_vi = self.latents("ir", ir, ir_task), self.latents("vi", vi, vi_task)
        restored_ir = self.decoders["ir"](z_ir).mean(dim=1, keepdim=True)  # B 1 H W
        return self._fuse(z_ir, z_vi), self.decoders["vi"](z_vi), restored_ir

    def _fuse(self, z_ir: Latents, z_vi: Latents) -> Tensor:
        if self.config.fusion == "mean":
            means = [(ir + vi) / 2 for ir, vi in zip(z_ir, z_vi, strict=True)]
            return self.decoders["vi"](means)
        levels = zip(self.fusion, z_ir, z_vi, strict=True)
        return self.fused_decoder([fuse(ir, vi) for fuse, ir, vi in levels])


class PaddedFuser(nn.Module):
    """`fuse_padded` as a module's forward, which is what `torch.export` takes."""

    def __init__(self, fuser: LUREFuser) -> None:
        super().__init__()
        self.fuser = fuser

    def forward(self, vi: Tensor, ir: Tensor, *hints: Tensor) -> tuple[Tensor, ...]:
        """Fuse vi B×3×H×W and ir B×1×H×W, H and W multiples of 8, told by vi_task and ir_task B int64."""
        vi_task, ir_task = hints
        vi_task = self.fuser.told("vi", vi, vi_task)
        ir_task = self.fuser.told("ir", ir, ir_task)
        # A plain tuple: an exported program cannot be saved with a named one.
        return self.fuser.fuse_padded(vi, ir, vi_task, ir_task)
