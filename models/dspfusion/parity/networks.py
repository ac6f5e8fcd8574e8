"""The networks of a folder of golden vectors: weights, constants, forward cases (spec 5.4, 5.6).

Shapes: B batch, C channels, H W pixels, N prior tokens, D prior width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.diffusion import reverse_step
from models.dspfusion.config import DSPFusionConfig
from models.dspfusion.denoiser import join_condition, prior_schedule
from models.dspfusion.fuser import DSPFusionFuser, pad_to_multiple, stretch_extremes
from models.dspfusion.fusion import FusionNetwork
from models.dspfusion.parity.fill import TOLERANCE, Case, Constants, fill, image, noise
from models.dspfusion.priors import DegradationEncoder
from models.dspfusion.released import OFFICIAL_FILES, Network, official_name
from models.golden import (
    Arrays,
    TensorComparison,
    compare_tensor,
    compare_values,
    known_arrays,
    shape4,
)
from models.layers.blocks import SelfAttention, split_pair

# Spec 5.6. Absolute ones hold up to the magnitude that the published constants reach.
INPUT_TOLERANCE = 1e-6
LATENT_TOLERANCE = 1e-4
LARGEST_MAGNITUDE = 11.0
CONSTANT_TOLERANCE = 1e-6


class FilledModel:
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


def check_fill(filled: FilledModel, arrays: Arrays) -> Iterator[TensorComparison]:
    """First and last value, sum and sum of squares of every weight, one line for each file."""
    ours = {
        f"{file}/{official_name(network, key)}": tensor.double().flatten()
        for network, file in OFFICIAL_FILES.items()
        for key, tensor in getattr(filled.fuser, network).state_dict().items()
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


def check_diffusion_constants(arrays: Arrays) -> Iterator[TensorComparison]:
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
    for key, expected in known_arrays("diffusion_constants", arrays, ours):
        yield compare_values(
            "diffusion_constants", key, ours[key], expected, CONSTANT_TOLERANCE, floor=0.1
        )


def check_case(
    filled: FilledModel, name: str, arrays: Arrays, case: Case | None
) -> Iterator[TensorComparison]:
    """One forward case; what kind it is shows in what it holds."""
    if "in_ir" not in arrays:
        raise ValueError(f"{name}: lacks the array 'in_ir'")
    shape = (case.B, 3, case.H, case.W) if case else shape4(arrays["in_ir"])
    if "sfp_fusion" in arrays:
        return check_three_heads(filled, name, arrays, shape)
    if "raw_padded_fusion" in arrays:
        return check_pipeline(filled, name, arrays, shape)
    return check_networks(filled, name, arrays, shape)


@torch.no_grad()
def check_networks(
    filled: FilledModel, name: str, arrays: Arrays, shape: tuple[int, int, int, int]
) -> Iterator[TensorComparison]:
    """The four networks, the chain and the fused image; intermediates if there are some."""
    given = filled.pair(shape)
    ours = given | _network_outputs(filled, given)
    recorded = {key: value for key, value in arrays.items() if key.startswith("mid/")}
    others = {key: value for key, value in arrays.items() if key not in recorded}
    known = ours | {f"{key}_f64": value for key, value in ours.items()}
    for key, expected in known_arrays(name, others, known):
        base = INPUT_TOLERANCE if key in given else TOLERANCE
        yield compare_tensor(name, key, known[key], expected, _scaled(base, expected))
    if recorded:
        yield from _check_intermediates(filled, name, arrays, given, recorded)


def _network_outputs(filled: FilledModel, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our outputs under the names of the golden arrays."""
    fuser, denoiser, (ir, vi, x_t) = filled.fuser, filled.fuser.denoiser, given.values()
    assert denoiser is not None, "the filled has diffusion"
    assert isinstance(fuser.degradation, DegradationEncoder), "the published model has it"
    priors = fuser.degradation(torch.cat([ir, vi]))  # 2B N .
    semantic = fuser.semantic(torch.cat([ir, vi], dim=1))  # B N D
    encoded = denoiser.encode_condition(join_condition(semantic, priors))
    last = fuser.schedule.num_steps - 1
    steps = {f"dm_step_t{t}": denoiser(x_t, encoded, t) for t in range(last + 1)}
    states = []
    for t in range(last, -1, -1):
        x_t = reverse_step(denoiser(x_t, encoded, t), x_t, t, fuser.schedule)
        states.append(x_t)
    fused = fuser.fuse_padded(vi, ir, given["in_noise"])
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
    filled: FilledModel,
    name: str,
    arrays: Arrays,
    given: Mapping[str, Tensor],
    recorded: Arrays,
) -> Iterator[TensorComparison]:
    """Every recorded map, from the golden priors: so only the fusion network's rounding counts."""
    dp_ir, dp_vi, prior = (torch.from_numpy(arrays[key]) for key in ("dp_ir", "dp_vi", "prior"))
    ir, vi = given["in_ir"], given["in_vi"]
    network = filled.fuser.fusion
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

        def keep(module: nn.Module, inputs: Any, output: Any, *, official: str) -> None:
            # Our attention adds its residual; in the authors' code the block does.
            adds = isinstance(module, SelfAttention)
            outputs[official] = output - inputs[0] if adds else output

        handles.append(module.register_forward_hook(partial(keep, official=official)))
    return outputs, handles


@torch.no_grad()
def check_pipeline(
    filled: FilledModel, name: str, arrays: Arrays, shape: tuple[int, int, int, int]
) -> Iterator[TensorComparison]:
    """Any size: reflect padding, the fused image, and the authors' stretch and saving (spec 1.5)."""
    given = filled.pair(shape)
    height, width = shape[2:]
    padded = {key: pad_to_multiple(given[f"in_{key}"]) for key in ("ir", "vi")}
    fused = filled.fuser.fuse_padded(padded["vi"], padded["ir"], given["in_noise"])
    cropped = stretch_extremes(fused)[..., :height, :width]
    # The authors stretch the crop a second time; once is the same (`stretch_extremes`).
    stretched = stretch_extremes(fused[..., :height, :width])
    saved = (255 * stretched).round()[0].flip(0).permute(1, 2, 0)  # H W 3, BGR
    ours = given | {
        "padded_ir": padded["ir"],
        "padded_vi": padded["vi"],
        "raw_padded_fusion": fused,
        "normalised_cropped": cropped,
        "saved_bgr_uint8": saved,
    }
    # The stretch multiplies the error by one over the range, and the extremes bring theirs.
    widened = 2 * TOLERANCE / float(np.ptp(arrays["raw_padded_fusion"]))
    tolerances = {"raw_padded_fusion": TOLERANCE, "normalised_cropped": widened}
    tolerances["saved_bgr_uint8"] = 1
    for key, expected in known_arrays(name, arrays, ours):
        tolerance = tolerances.get(key, INPUT_TOLERANCE)
        yield compare_tensor(name, key, ours[key], expected, tolerance)


@torch.no_grad()
def check_three_heads(
    filled: FilledModel, name: str, arrays: Arrays, shape: tuple[int, int, int, int]
) -> Iterator[TensorComparison]:
    """The optional three-head network, fed with the given priors."""
    network = FusionNetwork(filled.config.model_copy(update={"three_heads": True})).eval()
    fill_network("fusion", network, filled.constants)
    given = filled.pair(shape)
    priors = {key: torch.from_numpy(arrays[key]) for key in ("dp_ir", "dp_vi", "prior")}
    degradation = torch.cat([priors["dp_ir"], priors["dp_vi"]])
    restored = network.restore(given["in_ir"], given["in_vi"], degradation, priors["prior"])
    ours = given | _by_modality("dp", filled.fuser.degradation(torch.cat(_images(given))))
    ours |= {"prior": given["in_noise"]}  # spec 5.4: the noise serves as the prior
    ours |= {"sfp_fusion": restored.fused, "sfp_ir": restored.ir, "sfp_vi": restored.vi}
    keys = {str(key) for key in arrays.get("sfp_keys", np.array([], str))}
    _check_header_keys(network, keys, name)
    others = {key: value for key, value in arrays.items() if key != "sfp_keys"}
    for key, expected in known_arrays(name, others, ours):
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


def _scaled(tolerance: float, golden: np.ndarray) -> float:
    """A tolerance that grows with maps larger than the published constants make."""
    return tolerance * max(1.0, float(np.abs(golden).max(initial=0)) / LARGEST_MAGNITUDE)
