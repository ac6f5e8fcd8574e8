"""Random batches of Stage I and Stage II, and both stages' objectives in tiny size."""

import torch
from torch import Tensor, nn

from models.lure import SYSTEM
from models.lure.config import Stage1Config, Stage2Config, tiny


def singles(size: int = 4, side: int = 32, *, seed: int = 0) -> dict[str, Tensor]:
    """Clean and noisy pictures, infrared and visible in turn, of tasks 1, 2, 0, 1, 2, 0, …"""
    generator = torch.Generator().manual_seed(seed)
    gt = torch.rand(size, 3, side, side, generator=generator)
    noise = 0.2 * torch.randn(gt.shape, generator=generator)
    task = torch.arange(1, size + 1) % 3
    lq = torch.where((task > 0)[:, None, None, None], (gt + noise).clamp(0, 1), gt)
    return {"lq": lq, "gt": gt, "camera": torch.arange(size) % 2, "task": task}


def pairs(size: int = 2, side: int = 32, *, seed: int = 0) -> dict[str, Tensor]:
    """Pairs of noise and their tasks."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"vi_lq": 3, "vi_gt": 3, "ir_lq": 1, "ir_gt": 1}
    pictures = {
        name: torch.rand(size, channels, side, side, generator=generator)
        for name, channels in shapes.items()
    }
    task = torch.arange(1, size + 1) % 7
    return pictures | {"vi_task": task, "ir_task": (task + 1) % 7}


def objective_of(config: Stage1Config | Stage2Config, *, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return SYSTEM.build_objective(config)


def open_text(networks: nn.Module, *, std: float = 0.1) -> None:
    """Let the prompts act: text-guided attention starts as the identity."""
    for name, parameter in networks.named_parameters():
        if name.endswith("guidance.project_out.weight"):
            nn.init.normal_(parameter, std=std)


STAGE1, STAGE2 = Stage1Config(model=tiny()), Stage2Config(model=tiny())
