"""The two sides of `jobs.bench model` for DSPFusion: our networks, and the plain build."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from jobs.bench.model_speed import HEIGHT_PX, WIDTH_PX, Setup, Side, Work
from models.dspfusion.config import DSPFusionConfig, Stage1Config, Stage2Config
from models.dspfusion.fuser import DSPFusionFuser
from models.dspfusion.parity.fill import Constants
from models.dspfusion.parity.networks import fill_network
from models.dspfusion.released import OFFICIAL_FILES, official_name
from models.dspfusion.stage1 import Stage1
from models.dspfusion.stage2 import Stage2
from models.system import Batch, trainable
from pipelines.training.config import OptimConfig
from pipelines.training.optimiser import start_state, train_step
from tests.models.dspfusion.reference import Reference, stage1_losses, stage2_losses

# Samples of a step where nothing else is asked for; of inference it is one.
BATCH_SIZE = 2

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


def make_work(part: str, side: Side, setup: Setup) -> Work:
    """Build one side of a comparison, with the same weights and inputs as the other."""
    torch.manual_seed(0)
    fuser = DSPFusionFuser(DSPFusionConfig()).eval().to(setup.device)
    match part, side:
        case (("stage1" | "stage2" | "stage1_bf16" | "stage2_bf16"), "ours"):
            return _step_ours(fuser, part, setup)
        case (("stage1" | "stage2" | "stage1_bf16" | "stage2_bf16"), _):
            return _step_plain(fuser, part, setup)
        case _, "plain":
            return _fuse_plain(fuser, setup)
        case "bf16", _:
            return _fuse_ours(fuser.speed_up(precision="bf16"), setup)
        case "compiled", _:
            return _fuse_ours(fuser.speed_up(compiled=True), setup)
        case "compiled_bf16", _:
            return _fuse_ours(fuser.speed_up(precision="bf16", compiled=True), setup)
        case "channels_first", _:
            fuser.fusion.memory_format = torch.contiguous_format
    return _fuse_ours(fuser, setup)


def plain_of(fuser: DSPFusionFuser) -> Reference:
    """The plain build with a fuser's weights."""
    plain = Reference().eval().to(fuser.noise.device)
    for network, file in OFFICIAL_FILES.items():
        state = getattr(fuser, network).state_dict()
        weights = {official_name(network, key): tensor for key, tensor in state.items()}
        getattr(plain, file).load_state_dict(weights)
    return plain


def _fuse_ours(fuser: DSPFusionFuser, setup: Setup) -> Work:
    ir, vi, noise = _pictures(fuser, setup)
    return _without_gradients(lambda: fuser.fuse_padded(vi, ir, noise))


def _fuse_plain(fuser: DSPFusionFuser, setup: Setup) -> Work:
    plain, (ir, vi, noise) = plain_of(fuser), _pictures(fuser, setup)
    return _without_gradients(lambda: plain(ir, vi, noise))


def _pictures(fuser: DSPFusionFuser, setup: Setup) -> tuple[Tensor, Tensor, Tensor]:
    size = setup.batch_size or 1
    ir, vi = (x.to(setup.device) for x in _images(size, HEIGHT_PX, WIDTH_PX))
    return ir, vi, fuser.noise.expand(size, -1, -1)


def _without_gradients(fuse: Work) -> Work:
    def work() -> Tensor:
        with torch.inference_mode():
            return fuse()

    return work


def _images(size: int, height: int, width: int, *, channels: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    first, second = torch.rand(2, size, channels, height, width, generator=generator)
    return first, second


def _batch(setup: Setup) -> dict[str, Tensor]:
    """A training batch under the plain build's names: groups are packed as channels."""
    size = setup.batch_size or BATCH_SIZE, setup.crop_px, setup.crop_px
    ir, vi = _images(*size)
    gt_ir, gt_vi = _images(*size)
    pos_ir, pos_vi = _images(*size, channels=9)
    neg, _ = _images(*size, channels=18)
    images = {"ir": ir, "vi": vi, "gt_ir": gt_ir, "gt_vi": gt_vi}
    images |= {"pos_ir": pos_ir, "pos_vi": pos_vi, "neg": neg}
    return {name: image.to(setup.device) for name, image in images.items()}


def _step_ours(fuser: DSPFusionFuser, part: str, setup: Setup) -> Work:
    plain = _batch(setup)
    names = {"ir_lq": "ir", "vi_lq": "vi", "ir_gt": "gt_ir", "vi_gt": "gt_vi"}
    groups = {"ir_pos": "pos_ir", "vi_pos": "pos_vi", "neg": "neg"}
    batch = {ours: plain[theirs] for ours, theirs in names.items()}
    batch |= {ours: plain[theirs].unflatten(1, (-1, 3)) for ours, theirs in groups.items()}
    noise = fuser.noise.expand(len(plain["vi"]), -1, -1)
    precision = "bf16" if part.endswith("_bf16") else "fp32"
    if part.startswith("stage1"):
        stage1 = Stage1(Stage1Config()).to(setup.device)
        _load_known(stage1, fuser)
        return _step(stage1, lambda: stage1.losses(batch), precision)
    stage2 = Stage2(Stage2Config()).to(setup.device)
    _load_known(stage2, fuser)
    return _step(stage2, lambda: stage2.losses(batch, noise), precision)


def _load_known(objective: nn.Module, fuser: DSPFusionFuser) -> None:
    """Load what the objective has of the fuser: Stage I has no denoiser."""
    known = objective.state_dict()
    objective.load_state_dict({k: v for k, v in fuser.state_dict().items() if k in known})


def _step_plain(fuser: DSPFusionFuser, part: str, setup: Setup) -> Work:
    plain, batch = plain_of(fuser), _batch(setup)
    noise = fuser.noise.expand(len(batch["vi"]), -1, -1)
    if part.startswith("stage1"):
        plain.net_dm.requires_grad_(False)
        return _step(plain, lambda: stage1_losses(plain, batch))
    plain.requires_grad_(False)
    plain.net_dm.requires_grad_(True)
    return _step(plain, lambda: stage2_losses(plain, batch, noise))


def _step(
    module: nn.Module, losses: Callable[[], dict[str, Tensor]], precision: str = "fp32"
) -> Work:
    """A whole training step: forward, backward, clip, AdamW."""
    optim = OptimConfig.model_validate({"num_steps": 1, "precision": precision})
    objective = _Losses(module, losses)
    state = start_state(objective, optim)
    return lambda: train_step(objective, state, [{}], optim, step=0)["loss"]


class _Losses(nn.Module):
    """A loss function as the objective that a training step calls; its weights are a module's."""

    def __init__(self, module: nn.Module, losses: Callable[[], dict[str, Tensor]]) -> None:
        super().__init__()
        self.module = module
        self._losses = losses

    def parameter_groups(self) -> list[tuple[float, list[nn.Parameter]]]:
        """What is trained, at the whole rate on either side."""
        return trainable(self.module)

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Return the losses of the one batch they were made for."""
        return self._losses()


def filled_fuser() -> DSPFusionFuser:
    """The full-size fuser with the weights of the fill rule."""
    fuser = DSPFusionFuser(DSPFusionConfig()).eval()
    for network in OFFICIAL_FILES:
        fill_network(network, getattr(fuser, network), PUBLIC)
    return fuser
