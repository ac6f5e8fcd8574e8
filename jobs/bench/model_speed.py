"""Our DSPFusion against a plain build of the same mathematics.

Seconds are CPU time of one thread, both sides in turn in one process, the median of the repeats
after a warm-up; peak memory is a process of its own for each side. Both sides hold the same weights.
The row of bf16 is followed by its PSNR against float32 on real pairs, where some are given.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from jobs.console import print_line
from models.dspfusion.config import DSPFusionConfig, Stage1Config, Stage2Config
from models.dspfusion.fuser import DSPFusionFuser
from models.dspfusion.released import OFFICIAL_FILES, official_name
from models.dspfusion.stage1 import Stage1
from models.dspfusion.stage2 import Stage2
from pipelines.bundles.fusing import find_fusable
from pipelines.parity.golden import Constants
from pipelines.parity.networks import fill_network
from pipelines.sources.pictures import to_tensor
from pipelines.sources.scenes import read_pair
from pipelines.training.config import OptimConfig
from pipelines.training.optimiser import train_step
from pipelines.training.process_memory import own_peak_mib
from tests.models.dspfusion.reference import Reference, stage1_losses, stage2_losses

Part = Literal["inference", "bf16", "compiled", "stage1", "stage2"]
Side = Literal["ours", "plain"]
# Takes one step or fuses one pair; returns what both sides have to agree in.
Work = Callable[[], Tensor]

HEIGHT_PX, WIDTH_PX = 480, 640
REAL_PAIRS = Path(__file__).resolve().parents[3] / "shared" / "data" / "ivif" / "msrs" / "val"
NUM_REAL_PAIRS = 3

# The fill rule's public constants (spec 5.2): fresh weights leave the visible picture nearly as it
# is, so that bf16 would look better than it is.
PUBLIC = Constants(
    seed=0,
    gain=1,
    out_gain=0.25,
    temp_base=4,
    temp_amp=1,
    time_base=0.1,
    time_amp=0.02,
    bias_amp=0.1,
    norm_amp=0.2,
    img={},
)
BATCH_SIZE = 2


def make_work(part: Part, side: Side, *, crop_px: int) -> Work:
    """Build one side of a comparison, with the same weights and inputs as the other."""
    torch.manual_seed(0)
    fuser = DSPFusionFuser(DSPFusionConfig()).eval()
    match part, side:
        case "inference" | "bf16" | "compiled", "plain":
            return _fuse_plain(fuser)
        case "inference", _:
            return _fuse_ours(fuser)
        case "bf16", _:
            return _fuse_ours(fuser.speed_up(precision="bf16"))
        case "compiled", _:
            return _fuse_ours(fuser.speed_up(compiled=True))
        case _, "ours":
            return _step_ours(fuser, part, crop_px)
        case _:
            return _step_plain(fuser, part, crop_px)


def plain_of(fuser: DSPFusionFuser) -> Reference:
    """The plain build with a fuser's weights."""
    plain = Reference().eval()
    for network, file in OFFICIAL_FILES.items():
        state = getattr(fuser, network).state_dict()
        weights = {official_name(network, key): tensor for key, tensor in state.items()}
        getattr(plain, file).load_state_dict(weights)
    return plain


def _fuse_ours(fuser: DSPFusionFuser) -> Work:
    ir, vi = _images(1, HEIGHT_PX, WIDTH_PX)
    return _without_gradients(lambda: fuser.fuse_three_channel(vi, ir, fuser.noise))


def _fuse_plain(fuser: DSPFusionFuser) -> Work:
    plain, (ir, vi) = plain_of(fuser), _images(1, HEIGHT_PX, WIDTH_PX)
    return _without_gradients(lambda: plain(ir, vi, fuser.noise))


def _without_gradients(fuse: Work) -> Work:
    def work() -> Tensor:
        with torch.inference_mode():
            return fuse()

    return work


def _images(size: int, height: int, width: int, *, channels: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    first, second = torch.rand(2, size, channels, height, width, generator=generator)
    return first, second


def _batch(crop_px: int) -> dict[str, Tensor]:
    """A training batch under the plain build's names: groups are packed as channels."""
    ir, vi = _images(BATCH_SIZE, crop_px, crop_px)
    gt_ir, gt_vi = _images(BATCH_SIZE, crop_px, crop_px)
    pos_ir, pos_vi = _images(BATCH_SIZE, crop_px, crop_px, channels=9)
    neg, _ = _images(BATCH_SIZE, crop_px, crop_px, channels=18)
    images = {"ir": ir, "vi": vi, "gt_ir": gt_ir, "gt_vi": gt_vi}
    return {**images, "pos_ir": pos_ir, "pos_vi": pos_vi, "neg": neg}


def _step_ours(fuser: DSPFusionFuser, part: Part, crop_px: int) -> Work:
    plain = _batch(crop_px)
    names = {"ir_lq": "ir", "vi_lq": "vi", "ir_gt": "gt_ir", "vi_gt": "gt_vi"}
    groups = {"ir_pos": "pos_ir", "vi_pos": "pos_vi", "neg": "neg"}
    batch = {ours: plain[theirs] for ours, theirs in names.items()}
    batch |= {ours: plain[theirs].unflatten(1, (-1, 3)) for ours, theirs in groups.items()}
    noise = fuser.noise.expand(BATCH_SIZE, -1, -1)
    if part == "stage1":
        stage1 = Stage1(Stage1Config())
        _load_known(stage1, fuser)
        return _step(stage1, lambda: stage1.losses(batch))
    stage2 = Stage2(Stage2Config())
    _load_known(stage2, fuser)
    return _step(stage2, lambda: stage2.losses(batch, noise))


def _load_known(objective: nn.Module, fuser: DSPFusionFuser) -> None:
    """Load what the objective has of the fuser: Stage I has no denoiser."""
    known = objective.state_dict()
    objective.load_state_dict({k: v for k, v in fuser.state_dict().items() if k in known})


def _step_plain(fuser: DSPFusionFuser, part: Part, crop_px: int) -> Work:
    plain, batch = plain_of(fuser), _batch(crop_px)
    noise = fuser.noise.expand(BATCH_SIZE, -1, -1)
    if part == "stage1":
        plain.net_dm.requires_grad_(False)
        return _step(plain, lambda: stage1_losses(plain, batch))
    plain.requires_grad_(False)
    plain.net_dm.requires_grad_(True)
    return _step(plain, lambda: stage2_losses(plain, batch, noise))


def _step(module: nn.Module, losses: Callable[[], dict[str, Tensor]]) -> Work:
    """A whole training step: forward, backward, clip, AdamW."""
    optim = OptimConfig(num_steps=1)
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=optim.lr, weight_decay=optim.weight_decay)
    forward = _Forward(module, losses)
    return lambda: train_step(forward, optimizer, [{}], [optim.lr], optim.clip_norm)["loss"]


class _Forward(nn.Module):
    """A loss function as the module that a training step calls; its weights are the objective's."""

    def __init__(self, objective: nn.Module, losses: Callable[[], dict[str, Tensor]]) -> None:
        super().__init__()
        self.objective = objective
        self._losses = losses

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses of the one batch they were made for."""
        return self._losses()


def compare(part: Part, *, repeats: int, crop_px: int) -> str:
    """Measure both sides of a part; return its line of the table."""
    works = {side: make_work(part, side, crop_px=crop_px) for side in get_args(Side)}
    first = {side: work() for side, work in works.items()}
    difference = first["ours"] - first["plain"]
    # An image is worth its PSNR, too; a loss is one number.
    psnr = f"{-10 * float(difference.square().mean().log10()):8.1f}" if difference.dim() else ""
    seconds: dict[str, list[float]] = {side: [] for side in works}
    for _ in range(repeats):
        for side, work in works.items():
            started = time.process_time()
            work()
            seconds[side].append(time.process_time() - started)
    ours, plain = (statistics.median(seconds[side]) for side in get_args(Side))
    largest = float(difference.abs().max())
    ours_mib, plain_mib = (peak_mib(part, side, crop_px=crop_px) for side in get_args(Side))
    return (
        f"{part:<10} {plain:8.2f} {ours:8.2f} {plain / ours:7.2f}x "
        f"{plain_mib:9.0f} {ours_mib:9.0f} {ours_mib / plain_mib:7.2f} {largest:12.1e} {psnr}"
    )


def peak_mib(part: Part, side: Side, *, crop_px: int) -> float:
    """Peak resident memory of a process that does the work once, weights included."""
    command = [sys.executable, "-m", "jobs.bench", "model", "--peak", part, side]
    command += ["--crop", str(crop_px)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"measuring {part} {side} failed: {done.stderr.strip()[-300:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["peak_mib"])


def describe_bf16(fuser: DSPFusionFuser, folder: Path) -> str:
    """Say the PSNR of a fuser in bf16 against itself in float32 on the first pairs of a folder.

    `folder` holds vi/ and ir/; where it does not exist a random picture serves, and the line says so.
    """
    if folder.is_dir():
        found = find_fusable(folder / "vi", folder / "ir")[:NUM_REAL_PAIRS]
        pairs = {
            Path(pair.name).stem: tuple(map(to_tensor, read_pair(pair.vi_uri, pair.ir_uri)))
            for pair in found
        }
        where = f"real pairs of {folder.parent.name}/{folder.name}"
    else:
        ir, vi = _images(1, HEIGHT_PX, WIDTH_PX)
        pairs = {"random": (vi, ir[:, :1])}
        where = f"a random picture, for want of {folder}"
    each = [f"{name} {_bf16_psnr_db(fuser, *pair):.1f}" for name, pair in pairs.items()]
    return f"           bf16 against float32, PSNR in dB on {where}: {', '.join(each)}"


@torch.inference_mode()
def _bf16_psnr_db(fuser: DSPFusionFuser, vi: Tensor, ir: Tensor) -> float:
    precise = fuser.speed_up(precision="float32")(vi, ir)
    rounded = fuser.speed_up(precision="bf16")(vi, ir)
    return -10 * float((rounded - precise).square().mean().log10())


def filled_fuser() -> DSPFusionFuser:
    """The full-size fuser with the weights of the fill rule."""
    fuser = DSPFusionFuser(DSPFusionConfig()).eval()
    for network in OFFICIAL_FILES:
        fill_network(network, getattr(fuser, network), PUBLIC)
    return fuser


def bench_model(
    parts: Sequence[Part], *, repeats: int, crop_px: int, pairs: Path = REAL_PAIRS
) -> None:
    """Print a line for each part, and for bf16 a second one, on `pairs`."""
    torch.set_num_threads(1)
    print_line(
        f"{WIDTH_PX}x{HEIGHT_PX} pair, float32, 1 thread; steps: batch {BATCH_SIZE}, "
        f"crop {crop_px}; torch {torch.__version__}"
    )
    print_line(
        "part        plain s   ours s  faster plain MiB  ours MiB   share   difference  PSNR dB"
    )
    for part in parts:
        print_line(compare(part, repeats=repeats, crop_px=crop_px))
        if part == "bf16":
            print_line(describe_bf16(filled_fuser(), pairs))


def print_own_peak(part: Part, side: Side, *, crop_px: int) -> None:
    """Do one side's work once in this process and print the memory that it took."""
    torch.set_num_threads(1)
    make_work(part, side, crop_px=crop_px)()
    print_line(json.dumps({"peak_mib": own_peak_mib()}))
