"""Where a command computes: its device, and what share of a GPU a Ray worker takes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any

from jobs.command_line import whole_number

if TYPE_CHECKING:
    from infra.settings import Settings

# Those of models.devices, which imports torch; a test holds them equal.
DEVICES = ("auto", "cpu", "cuda")
# Those of models.system, likewise.
PRECISIONS = ("float32", "bf16")


@dataclass(frozen=True)
class Placement:
    """A device by name, and the share of a GPU that each Ray worker takes where there are GPUs.

    `local` is in this process, without Ray.
    """

    device: str = "auto"
    gpu_share: float = 1.0
    local: bool = False


ANYWHERE = Placement()


@dataclass(frozen=True)
class Workers:
    """Where items are worked on, `count` at a time, on a `device` each.

    `map(function, items, *arguments)` calls `function(item, *arguments)` for each item, and yields results
    as they come.
    """

    count: int
    device: str
    map: Callable[..., Iterator[Any]]


@contextmanager
def workers(placement: Placement, settings: Settings) -> Iterator[Workers]:
    """Connect to Ray's workers or, of a local placement, to none: then this process works.

    Raises ValueError where the device that is asked for does not exist.
    """
    if placement.local:
        from models.devices import use_device

        yield Workers(1, str(use_device(placement.device)), _map_here)
        return
    from infra.cluster.connect import connected
    from infra.cluster.nodes import Capacity, gpus_of_worker
    from infra.cluster.tasks import map_tasks

    with connected(settings):
        num_gpus = gpus_of_worker(placement.device, placement.gpu_share)
        device, there = "cuda" if num_gpus else "cpu", partial(map_tasks, num_gpus=num_gpus)
        yield Workers(Capacity(num_gpus).num_places, device, there)


def _map_here(function: Any, items: Iterable[Any], *arguments: Any) -> Iterator[Any]:
    return map(function, items, *map(repeat, arguments))


def add_device(
    parser: argparse.ArgumentParser, *, auto: str = "auto takes a GPU where there is one"
) -> None:
    """Add `--device`; `auto` says what that means."""
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="auto",
        help=f"where to compute; {auto} (default: %(default)s)",
    )


def add_placement(parser: argparse.ArgumentParser) -> None:
    """Add `--device` and `--gpu-share`."""
    add_device(parser)
    parser.add_argument(
        "--gpu-share",
        type=_share,
        default=1.0,
        metavar="SHARE",
        help="of a GPU that each Ray worker takes: 0.25 lets four share one (default: %(default)s)",
    )


def add_computing(parser: argparse.ArgumentParser) -> None:
    """Add `--batch`, `--tile` and `--precision`: how pictures are fused, by files or by requests."""
    parser.add_argument(
        "--batch",
        type=whole_number(1, 4096),
        metavar="N",
        help="pairs of one size to fuse at once (default: 1 on a CPU, 8 on a GPU)",
    )
    parser.add_argument(
        "--tile",
        type=whole_number(1, 2**20),
        metavar="PX",
        help="fuse in overlapping tiles of PX a side: bounded memory for large pictures (4K: 512)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="bf16 is faster and a little off, see models/dspfusion/README.md (default: %(default)s)",
    )


def placement_of(arguments: argparse.Namespace, *, local: bool = False) -> Placement:
    """What `add_placement` has parsed."""
    return Placement(arguments.device, arguments.gpu_share, local)


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share of a GPU; give one above 0, up to 1")
    return share
