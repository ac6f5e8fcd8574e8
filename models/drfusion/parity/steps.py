"""A training step of a folder of golden vectors: losses, gradients, Adam (spec 13).

Shapes: B batch, T steps, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from models.drfusion.config import Stage1Config
from models.drfusion.loss import ChainLoss
from models.drfusion.observation import Observation
from models.drfusion.parity.fill import filled_fuser
from models.drfusion.parity.networks import chain_tolerance, observe_plain
from models.drfusion.released import official_name
from models.drfusion.stage1 import Stage1
from models.golden import Arrays, TensorComparison, compare_tensor, compare_values, known_arrays
from models.layers import cpu_strips

# Spec 13, relative.
_LOSS_TOLERANCE = 1e-4
_NORM_TOLERANCE = 1e-3
_LOSS_AFTER_TOLERANCE = 1e-3
# Absolute.
_OUTPUT_AFTER_TOLERANCE = 2e-3
_ALPHA_AFTER_TOLERANCE = 1e-6

_RATE = 1e-4
_TERMS = {"intensity": "loss_int", "gradient": "loss_grad", "reconstruction": "loss_source"}


def check_train_step(name: str, arrays: Arrays) -> Iterator[TensorComparison]:
    """The chain's end, losses and gradients; the same after a step of Adam; losses without a network."""
    ir, luma, ir_gt, luma_gt = (torch.from_numpy(arrays[f"x{i}"]) for i in (1, 2, 3, 4))
    num_steps = len(arrays["grad_alpha"])
    fuser = filled_fuser(num_steps)
    objective = Stage1(Stage1Config(model=fuser.config)).eval()
    objective.load_state_dict(fuser.state_dict())
    observation, clean = observe_plain(fuser, ir, luma), torch.cat([ir_gt, luma_gt], dim=1)
    output = objective.chain(observation)
    found = objective.losses(output, clean)
    found["loss"].backward()
    gradients = {official_name(n): p.grad for n, p in objective.named_parameters()}
    ours: dict[str, object] = {
        "output": output,
        "loss_total": float(found["loss"].detach()),
        **_unweighted(found, objective.loss),
        "grad_alpha": gradients["alpha"],
        "grad_conv_in_w": gradients["unet.inBlock.weight"],
        "grad_l2": [_norm(gradients.get(str(key))) for key in arrays["param_keys"]],
        **_after_adam(objective, observation, clean),
        **_fixed(objective.loss, torch.cat([ir, luma], dim=1), clean),
    }
    given = ("x1", "x2", "x3", "x4", "param_keys")
    for key, expected in known_arrays(name, arrays, ours | dict.fromkeys(given)):
        if key not in given:
            yield _compare(name, key, ours[key], expected, num_steps)


def _compare(
    name: str, key: str, ours: object, expected: np.ndarray, num_steps: int
) -> TensorComparison:
    absolute = {
        "output": chain_tolerance(num_steps),
        "output_after": _OUTPUT_AFTER_TOLERANCE,
        "alpha_after": _ALPHA_AFTER_TOLERANCE,
        "grad_conv_in_w": _NORM_TOLERANCE * float(np.abs(expected).max()),
    }
    if key in absolute:
        assert isinstance(ours, Tensor), "it is an array"
        return compare_tensor(name, key, ours, expected, absolute[key])
    relative = {"loss_after": _LOSS_AFTER_TOLERANCE, "grad_l2": _NORM_TOLERANCE}
    tolerance = relative.get(key, _NORM_TOLERANCE if key == "grad_alpha" else _LOSS_TOLERANCE)
    return compare_values(name, key, ours, expected, tolerance)


def _norm(gradient: Tensor | None) -> float:
    return -1.0 if gradient is None else float(gradient.norm())


def _unweighted(found: dict[str, Tensor], loss: ChainLoss) -> dict[str, float]:
    return {theirs: float(found[term] / loss.weights[term]) for term, theirs in _TERMS.items()}


def _after_adam(objective: Stage1, observation: Observation, clean: Tensor) -> dict[str, object]:
    torch.optim.Adam(objective.parameters(), lr=_RATE).step()
    with torch.no_grad(), cpu_strips.whole_maps():
        output = objective.chain(observation)
        loss = float(objective.losses(output, clean)["loss"])
    return {
        "alpha_after": objective.chain.alpha.detach().clone(),
        "output_after": output,
        "loss_after": loss,
    }


def _fixed(loss: ChainLoss, sources: Tensor, clean: Tensor) -> dict[str, float]:
    """Losses of the clean infrared as the fused picture of the two inputs, and similarities."""
    terms = loss(torch.cat([sources, clean[:, :1]], dim=1), clean)
    values = _unweighted(terms, loss)
    pairs = zip(sources.split(1, dim=1), clean.split(1, dim=1), (1, 2), strict=True)
    similar = {f"fixed_ssim_x{i}_x{i + 2}": float(loss.padded_ssim(x, y)) for x, y, i in pairs}
    return {f"fixed_{key}": values[key] for key in ("loss_int", "loss_grad")} | similar
