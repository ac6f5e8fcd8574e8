"""Forward passes, chains and operators of a folder of golden vectors (spec 13).

Shapes: B batch, T steps, H W pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from models.drfusion.fuser import DRFusionFuser
from models.drfusion.observation import (
    Observation,
    StepScale,
    corrected,
    correction_scale,
    observe,
    step_scale,
)
from models.drfusion.operators import Operators, operators_of
from models.drfusion.parity.fill import fill, filled_fuser
from models.drfusion.unet import UNet, sinusoid
from models.golden import Arrays, TensorComparison, compare_tensor, compare_values, known_arrays
from models.layers import cpu_strips

# Spec 13, absolute; a long chain amplifies errors, for its ᾱ is small.
FORWARD_TOLERANCE = 2e-5
_SHORT_STEPS, _SHORT_TOLERANCE, _LONG_TOLERANCE = 3, 2e-4, 2e-3
# Numbers of the schedule: float32 rounding.
_NUMBER_TOLERANCE = 1e-5
# Our float64 against another's.
_REFERENCE_TOLERANCE = 1e-9
_SIGMA = re.compile(r"_sigma(\d+)(?:p(\d+))?")


def chain_tolerance(num_steps: int) -> float:
    """Of a chain's states and end."""
    return _SHORT_TOLERANCE if num_steps <= _SHORT_STEPS else _LONG_TOLERANCE


@torch.no_grad()
def check_forward(name: str, arrays: Arrays) -> Iterator[TensorComparison]:
    """The network alone, with every recorded map where there are some."""
    x, timestep = torch.from_numpy(arrays["x"]), int(arrays["t"][0])
    network = filled_fuser(_SHORT_STEPS).chain.unet
    outputs = _run_recorded(network, x, timestep)
    stats = {f"stat_{key}": _stats(value) for key, value in outputs.items()}
    given = {"x": x, "t": torch.tensor([timestep])}
    ours = outputs | stats
    for key, expected in known_arrays(name, arrays, ours | given):
        if key not in given:
            yield compare_tensor(name, key, ours[key], expected, FORWARD_TOLERANCE)


@cpu_strips.whole_maps()
def _run_recorded(network: UNet, x: Tensor, timestep: int) -> dict[str, Tensor]:
    """Our maps under the names of the golden arrays."""
    maps: dict[str, Tensor] = {"sinusoid": sinusoid(timestep, network.stem.out_channels, x)}
    handles = []
    for name, module in _recorded_modules(network).items():

        def keep(module: nn.Module, inputs: Any, output: Tensor, *, name: str) -> None:
            maps[name] = output

        handles.append(module.register_forward_hook(partial(keep, name=name)))
    maps["noise"], maps["mask"] = network(x, timestep)
    for handle in handles:
        handle.remove()
    return maps


def _recorded_modules(network: UNet) -> dict[str, nn.Module]:
    modules: dict[str, nn.Module] = {"time_embedding": network.time_embed, "inBlock": network.stem}
    for prefix, blocks in (
        ("down", network.encoder),
        ("up", network.noise_decoder.blocks),
        ("fus", network.weight_decoder.blocks),
    ):
        modules |= {f"{prefix}{place:02}": block for place, block in enumerate(blocks)}
    for prefix, blocks in (
        ("mid", network.bottleneck),
        ("attA", network.noise_decoder.gates),
        ("attB", network.weight_decoder.gates),
    ):
        modules |= {f"{prefix}{place}": block for place, block in enumerate(blocks)}
    return modules


def _stats(x: Tensor) -> Tensor:
    return torch.stack([x.mean(), x.std(correction=0), x.abs().max()])


@torch.no_grad()
def check_sampling(name: str, arrays: Arrays) -> Iterator[TensorComparison]:
    """The released chain: every step's tensors, the schedule, the end."""
    num_steps, sigma_y = len(arrays["alpha"]), _sigma_y(name)
    fuser = filled_fuser(num_steps, sigma_y=sigma_y)
    observation = observe_plain(
        fuser, torch.from_numpy(arrays["x1"]), torch.from_numpy(arrays["x2"])
    )
    ours = _schedule(fuser, sigma_y)
    with cpu_strips.whole_maps():
        steps = list(fuser.chain.steps(observation))
    for place, step in enumerate(steps):
        fields = zip(("x_in", "noise", "mask", "x0", "out"), step, strict=True)
        ours |= {f"s{place}_{field}": tensor for field, tensor in fields}
    ours |= {"output": steps[-1].out, "t_order": torch.arange(num_steps, 0, -1)}
    for key, expected in known_arrays(name, arrays, {**ours, "x1": None, "x2": None}):
        if key in ("alpha", "alpha_bar", "lam_gamma_sigma_a", "t_order"):
            yield compare_values(name, key, ours[key], expected, _NUMBER_TOLERANCE, floor=1e-3)
        elif key not in ("x1", "x2"):
            yield compare_tensor(name, key, ours[key], expected, chain_tolerance(num_steps))


def _sigma_y(name: str) -> float:
    """The noise that a file's name tells: `_sigma1p5` is 1.5, none 0.03."""
    found = _SIGMA.search(name)
    return float(f"{found[1]}.{found[2] or 0}") if found else 0.03


def observe_plain(fuser: DRFusionFuser, ir: Tensor, luma: Tensor) -> Observation:
    """Two grey pictures B×1×H×W that suffer noise alone."""
    pictures = torch.cat([ir, luma], dim=1)
    numbers = pictures.new_tensor([0, 0, 1]).expand(len(ir), 2, 3)
    threshold = fuser.config.inverse_threshold
    operators = operators_of(numbers, pictures.shape, inverse_threshold=threshold)
    return observe(pictures, numbers, operators, sigma_y=fuser.config.sigma_y)


def _schedule(fuser: DRFusionFuser, sigma_y: float) -> dict[str, Tensor]:
    bars = fuser.chain.alpha_bars()
    rows = _scale_rows(bars[1:], bars[:-1], torch.tensor(sigma_y))
    alpha = fill("alpha", (len(bars) - 1,))
    return {"alpha": alpha, "alpha_bar": bars, "lam_gamma_sigma_a": rows.flip(0)}


def _scale_rows(alpha_bar: Tensor, previous: Tensor, sigma_y: Tensor) -> Tensor:
    """λ, γ, σ_t and a_t, N×4; γ (spec 4.4) is of no use to the chain."""
    scale = step_scale(alpha_bar, previous)
    lambdas = correction_scale(scale, sigma_y)
    gamma = (scale.sigma**2 - (scale.weight * lambdas * sigma_y) ** 2).clamp(min=0)
    return torch.stack([lambdas, gamma, *scale], dim=1)


def check_operators(name: str, arrays: Arrays) -> Iterator[TensorComparison]:
    """λ of many schedules; block means and their replication."""
    x, coarse = torch.from_numpy(arrays["sr_in"]), arrays["sr_A"]
    side = x.shape[-1] // coarse.shape[-1]
    numbers = torch.tensor([[[0.0, 0.0, side]]])
    means = operators_of(numbers, x.shape, inverse_threshold=0.03).apply(x)
    table = torch.from_numpy(arrays["lambda_table"]).float()
    rows = torch.cat([table[:, :3], _scale_rows(*table[:, :3].unbind(1))], dim=1)
    ours = {"lambda_table": rows, "sr_A": means[..., ::side, ::side], "sr_ApA": means}
    known = {**ours, "lambda_columns": None, "sr_in": None}
    for key, expected in known_arrays(name, arrays, known):
        if key == "lambda_table":
            yield compare_values(name, key, ours[key], expected, _NUMBER_TOLERANCE, floor=1e-3)
        elif key in ours:
            yield compare_tensor(name, key, ours[key], expected, FORWARD_TOLERANCE)


def check_reference(name: str, arrays: Arrays) -> Iterator[TensorComparison]:
    """Circular blur, block means and joint corrections, in float64; not the authors'."""
    side = int(arrays["q"])
    blur, both = (_reference_operators(arrays, [each]) for each in (1, side))
    x1 = torch.from_numpy(arrays["x1"])[None, None]
    sigma, weight, noise = torch.from_numpy(arrays["spectral_args"])
    amplified = noise / blur.restorable_response().abs()
    spectral = correction_scale(StepScale(sigma, weight), amplified)
    ours = {
        "otf2d": blur.response[0, 0],
        "Bx1": blur.apply(x1)[0, 0],
        "BpBx1": blur.invert(blur.apply(x1))[0, 0],
        "A1x1": both.apply(x1)[0, 0, ::side, ::side],
        "A1pA1x1": both.invert(both.apply(x1))[0, 0],
        "joint_blur_lam1": _joint(arrays, [1, 1], 1.0),
        "joint_comp_lam0p7": _joint(arrays, [side, 1], 0.7),
        "spectral_lambda": spectral[0, 0],
    }
    given = (
        "N",
        "sigma",
        "radius",
        "tau",
        "q",
        "x1",
        "x2",
        "xh1",
        "xh2",
        "xf",
        "W",
        "spectral_args",
    )
    for key, expected in known_arrays(name, arrays, ours | dict.fromkeys(given)):
        if key in ours:
            # Real pictures need half the spectrum.
            half = key in ("otf2d", "spectral_lambda")
            golden = expected[:, : blur.response.shape[-1]] if half else expected
            yield compare_tensor(name, key, ours[key], golden, _REFERENCE_TOLERANCE)


def _reference_operators(arrays: Arrays, sides: list[int]) -> Operators:
    """Blurred pictures of one scene with blocks of these sides."""
    size, sigma = int(arrays["N"]), float(arrays["sigma"])
    numbers = torch.tensor([[[0, sigma, side] for side in sides]], dtype=torch.float64)
    return operators_of(
        numbers,
        torch.Size([size, size]),
        inverse_threshold=float(arrays["tau"]),
        radius_px=int(arrays["radius"]),
        mirrored=False,
    )


def _joint(arrays: Arrays, sides: list[int], scale: float) -> Tensor:
    """The paper's correction 3×H×W with one λ for everything.

    Spec 13 says that both pictures have the same operators; in the composite case of the file only
    the first has blocks, as in the published composite scenario.
    """
    operators = _reference_operators(arrays, sides)
    x1, x2, xh1, xh2, xf, weight = (
        torch.from_numpy(arrays[key]) for key in ("x1", "x2", "xh1", "xh2", "xf", "W")
    )
    seen = operators.apply(torch.stack([x1, x2])[None])
    observation = observe(seen, torch.zeros(1, 2, 3), operators, sigma_y=None)
    lambdas = torch.tensor(scale, dtype=torch.float64)
    estimate = torch.stack([xh1, xh2, xf])[None]
    return corrected(estimate, weight[None, None], observation, (lambdas, lambdas), form="paper")[0]
