"""What a picture seems to suffer: the task whose running statistics are nearest (ours; spec 6, P.6).

Shapes: B batch, C channels of the first maps, F numbers of a picture, T tasks, H W pixels.

The numbers are of the encoder's first maps, which no prompt has touched yet. They are the same for a
picture that is turned or flipped, because Stage I turns and flips its pictures.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.lure.config import LUREConfig
from models.lure.text import TASKS, Camera

# Of the running statistics. The encoder's first layer changes slowly, and a task is in few batches.
_DECAY = 0.998
# Share of each number's own variance that is added to it: two numbers may say the same.
_RIDGE = 0.01
# Below the logarithm: far less than a grey level.
_LEAST = 1e-4
_NUMBERS_OF_A_MAP = 7


class Router(nn.Module):
    """Running statistics of a camera's tasks, and the nearest of them to a picture.

    `mean` T×F are the tasks' means, `covariance` F×F is of pictures about the mean of their own task.
    """

    mean: Tensor
    covariance: Tensor
    num_seen: Tensor

    def __init__(self, channels: int, num_tasks: int) -> None:
        super().__init__()
        size = _NUMBERS_OF_A_MAP * channels
        self.register_buffer("mean", torch.zeros(num_tasks, size))
        self.register_buffer("covariance", torch.zeros(size, size))
        self.register_buffer("num_seen", torch.zeros(num_tasks, dtype=torch.long))

    @torch.no_grad()
    def observe(self, maps: Tensor, task: Tensor) -> None:
        """Move the statistics by pictures' first maps B×C×H×W, which suffer tasks B."""
        seen = _numbers(maps)  # B F
        member = F.one_hot(task, len(self.mean)).to(seen.dtype).t()  # T B
        count = member.sum(dim=1)  # T
        own = member @ seen / count.clamp_min(1)[:, None]  # T F
        self.num_seen += count.long()
        # At first a plain mean, which forgets later; a task that is not there stays as it is.
        weight = (count / self.num_seen.clamp_min(1)).clamp_min(1 - _DECAY) * (count > 0)
        self.mean.lerp_(own, weight[:, None])
        rest = seen - self.mean[task]
        share = (len(seen) / self.num_seen.sum()).clamp_min(1 - _DECAY)
        self.covariance.lerp_(rest.t() @ rest / len(seen), share)

    def nearest(self, maps: Tensor) -> Tensor:
        """Task numbers B of pictures' first maps B×C×H×W, by Mahalanobis' distance."""
        # Not under `no_grad`, which an exported program would hold as a call of its own.
        maps = maps.detach()
        covariance = self.covariance.double()
        covariance = covariance + torch.diag(_RIDGE * covariance.diagonal() + _LEAST**2)
        gaps = _numbers(maps)[:, None].double() - self.mean.double()  # B T F
        distances = (gaps @ covariance.inverse() * gaps).sum(dim=2)  # B T
        return distances.masked_fill(self.num_seen == 0, torch.inf).argmin(dim=1)

    def check(self) -> None:
        """Raise ValueError where Stage I has not seen two tasks to choose from."""
        if (self.num_seen > 0).sum() < 2:
            raise ValueError(
                "these weights have no statistics of tasks, so that they cannot tell what a picture "
                "suffers; train Stage I, or say what it is"
            )


class Routers(nn.Module):
    """One router a camera."""

    def __init__(self, config: LUREConfig) -> None:
        super().__init__()
        self.ir = Router(config.width, len(TASKS["ir"]))
        self.vi = Router(config.width, len(TASKS["vi"]))

    def of(self, camera: Camera) -> Router:
        """The router of a camera."""
        return self.ir if camera == "ir" else self.vi


def _numbers(maps: Tensor) -> Tensor:
    """Level, contrast, and how fine and how striped each of the maps B×C×H×W is, as B×F."""
    maps = maps.float()
    fine, coarse = _differences(maps), _differences(F.avg_pool2d(maps, 2))
    return torch.cat(
        [
            maps.mean(dim=(2, 3)),
            _log(maps.std(dim=(2, 3))),
            *_size_and_direction(fine),
            *_size_and_direction(coarse),
            # A mean of logarithms: noise lifts it in smooth places, edges hardly do.
            torch.stack([_log(d).mean(dim=(2, 3)) for d in fine]).mean(dim=0),
        ],
        dim=1,
    )


def _differences(maps: Tensor) -> tuple[Tensor, Tensor]:
    return maps.diff(dim=3).abs(), maps.diff(dim=2).abs()


def _size_and_direction(differences: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    across, down = (_log(each.mean(dim=(2, 3))) for each in differences)
    return (across + down) / 2, (across - down).abs()


def _log(x: Tensor) -> Tensor:
    return x.clamp_min(_LEAST).log()
