"""Where tensors are computed: chosen once, at the edge of a command, and handed down."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

# What a person may ask for; "auto" is CUDA where there is some.
DeviceName = Literal["auto", "cpu", "cuda"]


def use_device(name: str) -> torch.device:
    """Make the device that a name means this process's own: "auto", "cpu", "cuda" or "cuda:1".

    On CUDA, float32 means float32: TF32, which torch lets convolutions have, would drown the variances of
    SSIM and part what is measured here from what a CPU measures. Raises ValueError for CUDA where torch
    finds none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(
                f"device {name}: torch finds no CUDA device here (nvidia-smi; "
                "`make setup TORCH=cuda`); take --device cpu"
            )
        torch.cuda.set_device(device)  # NCCL and the generators of kernels follow it
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return device


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on a device; a copy to CUDA goes by pinned memory, so that this process does not wait."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor if tensor.is_pinned() else tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def all_sent(tensors: Mapping[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    """What `sent` gives of each."""
    return {name: sent(tensor, device) for name, tensor in tensors.items()}


def unrounded(like: Tensor) -> AbstractContextManager[None]:
    """No autocast inside the block, for what is computed beside `like`.

    Nothing at all where autocast is off: an exported program would keep a region of its own for it.
    """
    kind = like.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def at_least_float32(x: Tensor) -> Tensor:
    """Return x, as float32 where autocast has rounded it: what residuals and sums over pixels need."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def rounding(like: Tensor) -> AbstractContextManager[None]:
    """The autocast that is on now, if any, to enter again inside of `unrounded`, as often as need be."""
    kind = like.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, torch.get_autocast_dtype(kind))
