"""Writes a folder of golden vectors with the plain reference: other constants, other sizes.

The same form as ../shared/parity, without the files that no network makes (losses, schedule) and
the three heads, which the reference does not have.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.dspfusion.parity.fill import Constants, image, noise
from tests.models.dspfusion.golden import filled_reference
from tests.models.dspfusion.reference import (
    Reference,
    sample,
    stage1_losses,
    stage2_losses,
)


def write_folder(
    folder: Path, constants: Constants, cases: dict[str, tuple[int, int, int]], step_px: int
) -> None:
    """`cases` maps "a", "b", … to B, H, W; sides that are no multiples of 8 make a pipeline case."""
    index = {
        "constants": constants.model_dump(),
        "cases": {
            f"case_{name}": dict(zip("BHW", size, strict=True)) for name, size in cases.items()
        },
    }
    (folder / "dspfusion_index.json").write_text(json.dumps(index))
    for name, size in cases.items():
        make = _pipeline if size[1] % 8 or size[2] % 8 else _networks
        _save(folder, f"case_{name}_{size[1]}x{size[2]}", make(constants, size))
    for stage in (1, 2):
        _save(folder, f"stage{stage}_step", _step(constants, stage, step_px))


def _save(folder: Path, name: str, arrays: dict[str, Tensor | np.ndarray]) -> None:
    np.savez(folder / f"dspfusion_{name}.npz", **{k: np.asarray(v) for k, v in arrays.items()})


def _inputs(constants: Constants, size: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    batch, height, width = size
    ir, vi = (image(name, (batch, 3, height, width), constants) for name in ("ir", "vi"))
    return ir, vi, noise("noise", (batch, 16, 256), constants)


@torch.no_grad()
def _networks(constants: Constants, size: tuple[int, int, int]) -> dict[str, Tensor | np.ndarray]:
    model = filled_reference(constants)
    ir, vi, x_T = _inputs(constants, size)
    semantic = model.net_sp(torch.cat([ir, vi], 1))
    (dp_ir, type_ir), (dp_vi, type_vi) = model.net_dp.with_type(ir), model.net_dp.with_type(vi)
    condition = torch.cat([semantic, dp_ir, dp_vi], -1)
    states = sample(model.net_dm, x_T, condition)
    level1 = model.net_g.encoder_level1
    maps: list[Tensor] = []
    handle = level1.register_forward_hook(lambda _m, _i, out: maps.append(out))
    fused = model.net_g(ir, vi, dp_ir, dp_vi, states[-1])
    handle.remove()
    recorded = {f"mid/encoder_level1/{i}": x[..., ::8, ::8] for i, x in enumerate(maps)}
    steps = {f"dm_step_t{t}": model.net_dm(x_T, condition, t) for t in (9, 3)}
    return {
        **{"in_ir": ir, "in_vi": vi, "in_noise": x_T, "sp_lq": semantic},
        **{"dp_ir": dp_ir, "dp_vi": dp_vi, "type_ir": type_ir, "type_vi": type_vi},
        **{"traj": torch.stack(states), "prior": states[-1], "out_fusion": fused},
        **steps,
        **recorded,
    }


@torch.no_grad()
def _pipeline(constants: Constants, size: tuple[int, int, int]) -> dict[str, Tensor | np.ndarray]:
    ir, vi, x_T = _inputs(constants, size)
    bottom, right = -size[1] % 8, -size[2] % 8
    padded_ir, padded_vi = (F.pad(x, (0, right, 0, bottom), mode="reflect") for x in (ir, vi))
    raw = filled_reference(constants)(padded_ir, padded_vi, x_T)
    cropped = ((raw - raw.min()) / (raw.max() - raw.min()))[..., : size[1], : size[2]]
    return {
        **{"in_ir": ir, "in_vi": vi, "in_noise": x_T, "padded_ir": padded_ir},
        **{"raw_padded_fusion": raw, "normalised_cropped": cropped},
    }


def step_batch(constants: Constants, size: int, side: int) -> dict[str, Tensor]:
    """Images of a training step under their golden names."""
    channels = {"ir": 3, "vi": 3, "gt_ir": 3, "gt_vi": 3, "pos_ir": 9, "pos_vi": 9, "neg": 18}
    return {name: image(name, (size, c, side, side), constants) for name, c in channels.items()}


def _step(constants: Constants, stage: int, side: int) -> dict[str, Tensor | np.ndarray]:
    model = filled_reference(constants)
    losses = losses_of(model, step_batch(constants, 1, side), stage, constants)
    losses["loss"].backward()
    gradients = {
        name.replace(".", "/", 1): p.grad
        for name, p in model.named_parameters()
        if p.grad is not None
    }
    norms = np.array([float(x.norm()) for x in gradients.values()])
    shown = list(gradients)[::50]
    return {
        "grad_norm_names": np.array(list(gradients)),
        "grad_norm_preclip": norms,
        "total_grad_norm_preclip": np.array(np.linalg.norm(norms)),
        "clip_max_norm": np.array(0.01),
        "out_fusion": losses["fused"].detach()[..., ::2, ::2],
        **{f"grad/{name}": gradients[name] for name in shown},
        **{
            f"loss/{name}": np.array(float(value.detach()))
            for name, value in losses.items()
            if name not in ("loss", "fused")
        },
    }


def losses_of(
    model: Reference, batch: dict[str, Tensor], stage: int, constants: Constants
) -> dict[str, Tensor]:
    """The reference's losses of a stage; Stage II freezes all but the denoiser."""
    if stage == 1:
        model.net_dm.requires_grad_(False)
        return stage1_losses(model, batch)
    model.requires_grad_(False)
    model.net_dm.requires_grad_(True)
    return stage2_losses(model, batch, noise("noise", (len(batch["ir"]), 16, 256), constants))
