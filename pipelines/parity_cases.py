"""What is compared with a folder of golden vectors, file by file (spec 5.4, 5.6).

Every array of a file is compared, is an input, or is an error: nothing is left out in silence.

Shapes: B batch, C channels, H W pixels, N prior tokens, D prior width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.color import to_gray
from models.diffusion import reverse_step
from models.dspfusion.config import DSPFusionConfig, FusionWeights, Stage1Config, Stage2Config
from models.dspfusion.denoiser import join_condition, prior_schedule
from models.dspfusion.fuser import DSPFusionFuser, pad_to_multiple
from models.dspfusion.fusion import FusionNetwork
from models.dspfusion.released import OFFICIAL_FILES, Network, official_name
from models.dspfusion.stage1 import Stage1
from models.dspfusion.stage2 import Stage2
from models.layers import split_pair
from models.losses import FusionLoss, Ssim, group_contrastive_loss
from pipelines.parity import (
    Arrays,
    Case,
    Comparison,
    Constants,
    GoldenFolder,
    compare_tensor,
    compare_values,
    fill,
    image,
    noise,
)
from pipelines.training import OptimConfig, learning_rate

# Spec 5.6. Absolute ones hold up to the magnitude that the published constants reach.
INPUT_TOLERANCE = 1e-6
TOLERANCE = 5e-5
LATENT_TOLERANCE = 1e-4
LARGEST_MAGNITUDE = 11.0
LOSS_TOLERANCE = 1e-4
NORM_TOLERANCE = 1e-3
CONSTANT_TOLERANCE = 1e-6
# The first step of AdamW moves each weight by nearly lr = 2e-4 whatever its gradient; only vanishing
# gradients, whose sign is rounding, may differ by a part of that.
STEP_TOLERANCE = 1e-5

_PAPER_STEPS = 500_000

# Our names of the loss terms → the golden files'.
_TERMS = {
    "intensity_max": "loss_intensity_max",
    "intensity_consistency": "loss_intensity_consist",
    "color": "loss_color",
    "gradient": "loss_grad",
    "ssim": "loss_ssim",
    "fusion": "loss_fusion",
    "contrastive": "l_contra",
    "diffusion": "l_pix_diff",
}


def check_folder(folder: GoldenFolder) -> Iterator[Comparison]:
    """Compare everything that a folder holds. Raises ValueError on what it lacks or is unknown."""
    cases = folder.case_files()
    if not folder.names:
        raise ValueError(f"{folder.path}: no dspfusion_*.npz in it")
    subject = Subject(folder.index.constants)
    _check_listing(folder)
    for name in folder.names:
        arrays = folder.load(name)
        match name:
            case "fill_check":
                yield from check_fill(subject, arrays)
            case "diffusion_constants":
                yield from check_diffusion_constants(arrays)
            case "losses":
                yield from check_losses(subject, arrays)
            case "stage1_step":
                yield from check_stage1(subject, arrays)
            case "stage2_step":
                yield from check_stage2(subject, arrays)
            case _ if name in cases:
                yield from check_case(subject, name, arrays, cases[name])
            case _:
                raise ValueError(f"dspfusion_{name}.npz: no check is known for this file")


class Subject:
    """The full-size model under test, with every weight by the rule."""

    def __init__(self, constants: Constants) -> None:
        self.constants = constants
        self.config = DSPFusionConfig()
        self.fuser = DSPFusionFuser(self.config)
        for network in OFFICIAL_FILES:
            fill_network(network, getattr(self.fuser, network), constants)
        self.fuser.eval().requires_grad_(False)

    def image(self, name: str, shape: tuple[int, int, int, int]) -> Tensor:
        """A test image of the folder."""
        return image(name, shape, self.constants)

    def noise(self, name: str, size: int) -> Tensor:
        """Test noise for `size` semantic priors, B×N×D."""
        return noise(name, (size, *self.fuser.noise.shape[1:]), self.constants)

    def pair(self, shape: tuple[int, int, int, int]) -> dict[str, Tensor]:
        """The inputs of a case under the names of its arrays."""
        images = {f"in_{name}": self.image(name, shape) for name in ("ir", "vi")}
        return {**images, "in_noise": self.noise("noise", shape[0])}


def fill_network(network: Network, module: nn.Module, constants: Constants) -> None:
    """Fill a network's weights by the rule, under their official names."""
    module.load_state_dict(
        {
            key: fill(official_name(network, key), tuple(tensor.shape), constants)
            for key, tensor in module.state_dict().items()
        }
    )


def check_fill(subject: Subject, arrays: Arrays) -> Iterator[Comparison]:
    """First and last value, sum and sum of squares of every weight, one line for each file."""
    ours = {
        f"{file}/{official_name(network, key)}": tensor.double().flatten()
        for network, file in OFFICIAL_FILES.items()
        for key, tensor in getattr(subject.fuser, network).state_dict().items()
    }
    if ours.keys() != arrays.keys():
        odd = sorted(ours.keys() ^ arrays.keys())[0]
        raise ValueError(f"fill_check: {odd!r} is in only one of the folder and the model")
    for file in OFFICIAL_FILES.values():
        keys = [key for key in arrays if key.startswith(f"{file}/")]
        found = torch.stack([_moments(ours[key]) for key in keys])
        expected = np.stack([arrays[key] for key in keys])
        yield compare_values(
            "fill_check", file, found.numpy(), expected, CONSTANT_TOLERANCE, floor=1
        )


def _moments(flat: Tensor) -> Tensor:
    return torch.stack([flat[0], flat[-1], flat.sum(), (flat**2).sum()])


def check_diffusion_constants(arrays: Arrays) -> Iterator[Comparison]:
    """The schedule's constants, from ours and what follows from them."""
    schedule = prior_schedule(DSPFusionConfig())
    beta, bar = np.array(schedule.betas), np.array(schedule.alpha_bars)
    before = np.concatenate([[1.0], bar[:-1]])
    variance = beta * (1 - before) / (1 - bar)
    ours = {
        "betas": beta,
        "alphas_cumprod": bar,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": np.sqrt(bar),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - bar),
        "posterior_mean_coef1": np.array(schedule.k1),
        "posterior_mean_coef2": np.array(schedule.k2),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
    }
    for key, expected in _known("diffusion_constants", arrays, ours):
        yield compare_values(
            "diffusion_constants", key, ours[key], expected, CONSTANT_TOLERANCE, floor=0.1
        )


def check_case(
    subject: Subject, name: str, arrays: Arrays, case: Case | None
) -> Iterator[Comparison]:
    """One forward case; what kind it is shows in what it holds."""
    if "in_ir" not in arrays:
        raise ValueError(f"{name}: lacks the array 'in_ir'")
    shape = (case.B, 3, case.H, case.W) if case else _shape4(arrays["in_ir"])
    if "sfp_fusion" in arrays:
        return check_three_heads(subject, name, arrays, shape)
    if "raw_padded_fusion" in arrays:
        return check_pipeline(subject, name, arrays, shape)
    return check_networks(subject, name, arrays, shape)


@torch.no_grad()
def check_networks(
    subject: Subject, name: str, arrays: Arrays, shape: tuple[int, int, int, int]
) -> Iterator[Comparison]:
    """The four networks, the chain and the fused image; intermediates if there are some."""
    given = subject.pair(shape)
    ours = given | _network_outputs(subject, given)
    recorded = {key: value for key, value in arrays.items() if key.startswith("mid/")}
    others = {key: value for key, value in arrays.items() if key not in recorded}
    known = ours | {f"{key}_f64": value for key, value in ours.items()}
    for key, expected in _known(name, others, known):
        base = INPUT_TOLERANCE if key in given else TOLERANCE
        yield compare_tensor(name, key, known[key], expected, _scaled(base, expected))
    if recorded:
        yield from _check_intermediates(subject, name, arrays, given, recorded)


def _network_outputs(subject: Subject, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our outputs under the names of the golden arrays."""
    fuser, denoiser, (ir, vi, x_t) = subject.fuser, subject.fuser.denoiser, given.values()
    assert denoiser is not None, "the subject has diffusion"
    priors = fuser.degradation(torch.cat([ir, vi]))  # 2B N .
    semantic = fuser.semantic(torch.cat([ir, vi], dim=1))  # B N D
    encoded = denoiser.encode_condition(join_condition(semantic, priors))
    last = fuser.schedule.num_steps - 1
    steps = {f"dm_step_t{t}": denoiser(x_t, encoded, t) for t in range(last + 1)}
    states = []
    for t in range(last, -1, -1):
        x_t = reverse_step(denoiser(x_t, encoded, t), x_t, t, fuser.schedule)
        states.append(x_t)
    fused = fuser.fuse_three_channel(vi, ir, given["in_noise"])
    return {
        "sp_lq": semantic,
        **_by_modality("dp", priors),
        **_by_modality("type", fuser.degradation.type_vector(priors)),
        **steps,
        "traj": torch.stack(states),
        "prior": x_t,
        # Without three heads the published network returns one image under three names.
        **dict.fromkeys(("out_fusion", "out_ir", "out_vi"), fused),
        "out_fusion_with_lq_prior": fuser.fusion(ir, vi, priors, semantic),
    }


def _by_modality(name: str, stacked: Tensor) -> dict[str, Tensor]:
    return dict(zip((f"{name}_ir", f"{name}_vi"), split_pair(stacked), strict=True))


def _check_intermediates(
    subject: Subject,
    name: str,
    arrays: Arrays,
    given: Mapping[str, Tensor],
    recorded: Arrays,
) -> Iterator[Comparison]:
    """Every recorded map, from the golden priors: so only the fusion network's rounding counts."""
    dp_ir, dp_vi, prior = (torch.from_numpy(arrays[key]) for key in ("dp_ir", "dp_vi", "prior"))
    ir, vi = given["in_ir"], given["in_vi"]
    network = subject.fuser.fusion
    outputs, handles = _record_outputs(network)
    network(ir, vi, torch.cat([dp_ir, dp_vi]), prior)
    for handle in handles:
        handle.remove()
    size, height = len(ir), ir.shape[2]
    for key, expected in recorded.items():
        _, module, call = key.split("/")
        if module not in outputs:
            raise ValueError(f"{name}: {key!r} is a map of no module of the fusion network")
        ours = outputs[module][int(call) * size : (int(call) + 1) * size]
        if ours.dim() == 4:
            stride = 8 * ours.shape[2] // height  # spec 5.4
            ours = ours[..., ::stride, ::stride]
        base = LATENT_TOLERANCE if "latent" in module else TOLERANCE
        yield compare_tensor(name, key, ours, expected, _scaled(base, expected))


def _record_outputs(network: nn.Module) -> tuple[dict[str, Tensor], list[Any]]:
    """Record each module's output under its official name."""
    outputs: dict[str, Tensor] = {}
    handles = []
    for name, module in network.named_modules():
        try:
            official = official_name("fusion", name).removesuffix(".proj")
        except ValueError:
            continue  # A container that the official network does not have.

        def keep(_module: nn.Module, _inputs: Any, output: Any, *, official: str) -> None:
            # A copy: without gradients the residual is added in the output's memory.
            outputs[official] = output.clone() if isinstance(output, Tensor) else output

        handles.append(module.register_forward_hook(partial(keep, official=official)))
    return outputs, handles


@torch.no_grad()
def check_pipeline(
    subject: Subject, name: str, arrays: Arrays, shape: tuple[int, int, int, int]
) -> Iterator[Comparison]:
    """Any size: reflect padding, the fused image, and the authors' stretch and saving (spec 1.5)."""
    given = subject.pair(shape)
    height, width = shape[2:]
    padded = {key: pad_to_multiple(given[f"in_{key}"]) for key in ("ir", "vi")}
    fused = subject.fuser.fuse_three_channel(padded["vi"], padded["ir"], given["in_noise"])
    cropped = _stretch(fused)[..., :height, :width]
    saved = (255 * _stretch(cropped)).round()[0].flip(0).permute(1, 2, 0)  # H W 3, BGR
    ours = given | {
        "padded_ir": padded["ir"],
        "padded_vi": padded["vi"],
        "raw_padded_fusion": fused,
        "normalised_cropped": cropped,
        "saved_bgr_uint8": saved,
    }
    # The stretch multiplies the error by one over the range, and the extremes bring theirs.
    stretched = 2 * TOLERANCE / float(np.ptp(arrays["raw_padded_fusion"]))
    tolerances = {"raw_padded_fusion": TOLERANCE, "normalised_cropped": stretched}
    tolerances["saved_bgr_uint8"] = 1
    for key, expected in _known(name, arrays, ours):
        tolerance = tolerances.get(key, INPUT_TOLERANCE)
        yield compare_tensor(name, key, ours[key], expected, tolerance)


def _stretch(images: Tensor) -> Tensor:
    """Stretch each image by its own extremes, as the authors save it."""
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low)


@torch.no_grad()
def check_three_heads(
    subject: Subject, name: str, arrays: Arrays, shape: tuple[int, int, int, int]
) -> Iterator[Comparison]:
    """The optional three-head network, fed with the given priors."""
    network = FusionNetwork(subject.config.model_copy(update={"three_heads": True})).eval()
    fill_network("fusion", network, subject.constants)
    given = subject.pair(shape)
    priors = {key: torch.from_numpy(arrays[key]) for key in ("dp_ir", "dp_vi", "prior")}
    degradation = torch.cat([priors["dp_ir"], priors["dp_vi"]])
    restored = network.restore(given["in_ir"], given["in_vi"], degradation, priors["prior"])
    ours = given | _by_modality("dp", subject.fuser.degradation(torch.cat(_images(given))))
    ours |= {"prior": given["in_noise"]}  # spec 5.4: the noise serves as the prior
    ours |= {"sfp_fusion": restored.fused, "sfp_ir": restored.ir, "sfp_vi": restored.vi}
    keys = {str(key) for key in arrays.get("sfp_keys", np.array([], str))}
    _check_header_keys(network, keys, name)
    others = {key: value for key, value in arrays.items() if key != "sfp_keys"}
    for key, expected in _known(name, others, ours):
        tolerance = INPUT_TOLERANCE if key in given or key == "prior" else TOLERANCE
        yield compare_tensor(name, key, ours[key], expected, _scaled(tolerance, expected))


def _images(given: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    return given["in_ir"], given["in_vi"]


def _check_header_keys(network: nn.Module, theirs: set[str], name: str) -> None:
    """The heads' keys are the official ones, less the SPIM that the published heads never use."""
    ours = {official_name("fusion", key) for key in network.state_dict()}
    odd = [key for key in theirs - ours if ".refinement.spmm." not in key]
    if odd:
        raise ValueError(f"{name}: the header key {sorted(odd)[0]!r} has no place in our network")


def check_losses(subject: Subject, arrays: Arrays) -> Iterator[Comparison]:
    """Every loss term and the learning rate; the batch's size is that of the golden gradient."""
    if "grad_wrt_fused" not in arrays:
        raise ValueError("losses: lacks the array 'grad_wrt_fused'")
    shape = _shape4(arrays["grad_wrt_fused"])
    fused = subject.image("fused", shape).requires_grad_()
    vi, ir = subject.image("gt_vi", shape), subject.image("gt_ir", shape)
    terms = FusionLoss(**dict(FusionWeights()))(fused, vi, ir)
    terms["fusion"] = torch.stack(list(terms.values())).sum()
    (gradient,) = torch.autograd.grad(terms["fusion"], fused)
    ssim = Ssim()
    rates = OptimConfig(num_steps=_PAPER_STEPS)
    values: dict[str, Any] = {f"fusion/{_TERMS[k]}": float(v.detach()) for k, v in terms.items()}
    values |= {
        "raw/ssim_loss_rgb_w13": float(1 - ssim(vi, fused.detach())),
        "raw/ssim_loss_gray_w13": float(1 - ssim(to_gray(ir), to_gray(fused.detach()))),
        "contrastive": _contrastive(subject, shape[0]),
        "diff_l1_times10": float(10 * F.l1_loss(*_two_noises(subject, shape[0]))),
        "lr_iters": arrays.get("lr_iters", np.array([], np.int64)),
        "lr_values": [learning_rate(int(i), rates) for i in arrays.get("lr_iters", ())],
    }
    for key, expected in _known("losses", arrays, {**values, "grad_wrt_fused": gradient}):
        if key == "grad_wrt_fused":
            tolerance = NORM_TOLERANCE * float(np.abs(expected).max())
            yield compare_tensor("losses", key, gradient, expected, tolerance)
        else:
            yield compare_values("losses", key, values[key], expected, LOSS_TOLERANCE)


def _two_noises(subject: Subject, size: int) -> tuple[Tensor, Tensor]:
    return subject.noise("noise", size), subject.noise("noise2", size)


def _contrastive(subject: Subject, size: int) -> float:
    """The contrastive loss of the embeddings that spec 5.4 names."""
    width = subject.config.degradation_prior_width

    def embedding(name: str) -> Tensor:
        return noise(f"emb:{name}", (size, width), subject.constants)

    def group(name: str, count: int) -> Tensor:
        return torch.stack([embedding(f"{name}{k}") for k in range(count)], dim=1)  # B K D

    anchors = embedding("anchor_ir"), embedding("anchor_vi")
    positives = group("pos_ir", 3), group("pos_vi", 3)
    return float(group_contrastive_loss(anchors, positives, group("neg", 6), temperature=0.1))


def check_stage1(subject: Subject, arrays: Arrays) -> Iterator[Comparison]:
    """One Stage I step: losses, gradients, and the weights after it."""
    shape = _step_shape("stage1_step", arrays)
    objective = Stage1(Stage1Config(model=subject.config))
    weights = subject.fuser.state_dict()
    objective.load_state_dict({k: v for k, v in weights.items() if not k.startswith("denoiser.")})
    groups = {
        "ir_pos": _packed(subject, "pos_ir", 3, shape),
        "vi_pos": _packed(subject, "pos_vi", 3, shape),
        "neg": _packed(subject, "neg", 6, shape),
    }
    batch = {**_step_images(subject, shape), **groups}
    networks: tuple[Network, ...] = ("fusion", "degradation", "semantic")
    step = Step("stage1_step", arrays, objective, networks)
    return step.check(lambda: objective.losses(batch))


def check_stage2(subject: Subject, arrays: Arrays) -> Iterator[Comparison]:
    """One Stage II step: only the denoiser has gradients."""
    shape = _step_shape("stage2_step", arrays)
    objective = Stage2(Stage2Config(model=subject.config))
    objective.load_state_dict(subject.fuser.state_dict())
    batch, given = _step_images(subject, shape), subject.noise("noise", shape[0])
    step = Step("stage2_step", arrays, objective, ("denoiser",))
    return step.check(lambda: objective.losses(batch, given))


def _step_shape(name: str, arrays: Arrays) -> tuple[int, int, int, int]:
    """Shape of a step's images: its `out_fusion` keeps every second pixel (spec 5.4)."""
    if "out_fusion" not in arrays:
        raise ValueError(f"{name}: lacks the array 'out_fusion', which tells the images' size")
    size, channels, height, width = _shape4(arrays["out_fusion"])
    return size, channels, 2 * height, 2 * width


def _step_images(subject: Subject, shape: tuple[int, int, int, int]) -> dict[str, Tensor]:
    """The degraded and clean pair of a step; infrared has three different channels there."""
    names = {"ir_lq": "ir", "vi_lq": "vi", "ir_gt": "gt_ir", "vi_gt": "gt_vi"}
    return {ours: subject.image(theirs, shape) for ours, theirs in names.items()}


def _packed(subject: Subject, name: str, count: int, shape: tuple[int, int, int, int]) -> Tensor:
    """A group of images, which the rule draws as channels: B×count×3×H×W."""
    size, _, height, width = shape
    return subject.image(name, (size, 3 * count, height, width)).unflatten(1, (count, 3))


@dataclass(frozen=True)
class Step:
    """One training step of an objective, whose `networks` learn."""

    name: str
    arrays: Arrays
    objective: nn.Module
    networks: tuple[Network, ...]

    def check(self, losses: Callable[[], dict[str, Tensor]]) -> Iterator[Comparison]:
        """Take the step with `losses`; compare the terms, the gradients and the new weights."""
        seen: dict[str, Tensor] = {}
        handle = self.objective.get_submodule("fusion").register_forward_hook(
            lambda _module, _inputs, fused: seen.update(fused=fused)
        )
        terms = losses()
        handle.remove()
        terms["loss"].backward()
        parameters = self._parameters()
        gradients = {key: p.grad.clone() for key, p in parameters.items() if p.grad is not None}
        total = nn.utils.clip_grad_norm_(parameters.values(), self._value("clip_max_norm"))
        _update(parameters)
        ours: dict[str, Any] = {
            "out_fusion": seen["fused"][..., ::2, ::2],
            "total_grad_norm_preclip": float(total),
            "grad_norm_names": None,
            "grad_norm_preclip": None,
            "clip_max_norm": None,
            **{f"loss/{_TERMS[k]}": float(v) for k, v in terms.items() if k in _TERMS},
            **{f"grad/{key}": gradient for key, gradient in gradients.items()},
            **{f"after_step/{key}": parameter for key, parameter in parameters.items()},
        }
        yield self._norms(gradients)
        for key, expected in _known(self.name, self.arrays, ours):
            if ours[key] is not None:
                yield self._compare(key, ours[key], expected)

    def _parameters(self) -> dict[str, nn.Parameter]:
        """What learns, under its official file and key."""
        return {
            f"{OFFICIAL_FILES[network]}/{official_name(network, key)}": parameter
            for network in self.networks
            for key, parameter in self.objective.get_submodule(network).named_parameters()
        }

    def _norms(self, gradients: Mapping[str, Tensor]) -> Comparison:
        """Norms of all gradients; a vanishing one is compared on the scale of the whole."""
        names = [str(name) for name in self.arrays["grad_norm_names"]]
        if set(names) != gradients.keys():
            odd = sorted(set(names) ^ gradients.keys())[0]
            raise ValueError(f"{self.name}: only one side has a gradient of {odd!r}")
        found = [float(gradients[name].norm()) for name in names]
        expected = self.arrays["grad_norm_preclip"]
        floor = 1e-3 * self._value("total_grad_norm_preclip")
        return compare_values(
            self.name, "grad_norm_preclip", found, expected, NORM_TOLERANCE, floor=floor
        )

    def _value(self, key: str) -> float:
        if key not in self.arrays:
            raise ValueError(f"{self.name}: lacks the array {key!r}")
        return float(self.arrays[key])

    def _compare(self, key: str, ours: Any, expected: np.ndarray) -> Comparison:
        match key.split("/")[0]:
            case "loss":
                return compare_values(self.name, key, ours, expected, LOSS_TOLERANCE)
            case "total_grad_norm_preclip":
                return compare_values(self.name, key, ours, expected, NORM_TOLERANCE)
            case "grad":
                tolerance = NORM_TOLERANCE * float(np.abs(expected).max())
                return compare_tensor(self.name, key, ours, expected, tolerance)
            case "after_step":
                return compare_tensor(self.name, key, ours, expected, STEP_TOLERANCE)
            case _:
                return compare_tensor(self.name, key, ours, expected, TOLERANCE)


def _update(parameters: Mapping[str, nn.Parameter]) -> None:
    """One step of the training's own optimiser with its default settings."""
    optim = OptimConfig(num_steps=_PAPER_STEPS)
    torch.optim.AdamW(
        parameters.values(),
        lr=learning_rate(0, optim),
        betas=optim.betas,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
    ).step()


def _check_listing(folder: GoldenFolder) -> None:
    """Where the folder lists the official keys and shapes, ours are exactly those."""
    listing = folder.listing()
    if listing is None:
        return
    with torch.device("meta"):
        fuser = DSPFusionFuser(DSPFusionConfig())
    for network, file in OFFICIAL_FILES.items():
        ours = {
            official_name(network, key): tuple(tensor.shape)
            for key, tensor in getattr(fuser, network).state_dict().items()
        }
        odd = sorted(ours.items() ^ listing.get(file, {}).items())
        if odd:
            raise ValueError(f"{file}: the folder's list and our model differ in {odd[0][0]!r}")


def _known(case: str, arrays: Arrays, ours: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Go through a file's arrays. Raises ValueError for one that we have no value for."""
    for key, expected in arrays.items():
        if key not in ours:
            raise ValueError(f"{case}: nothing of ours is known for its array {key!r}")
        yield key, expected


def _scaled(tolerance: float, golden: np.ndarray) -> float:
    """A tolerance that grows with maps larger than the published constants make."""
    return tolerance * max(1.0, float(np.abs(golden).max(initial=0)) / LARGEST_MAGNITUDE)


def _shape4(array: np.ndarray) -> tuple[int, int, int, int]:
    size, channels, height, width = array.shape
    return size, channels, height, width
