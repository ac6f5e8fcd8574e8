"""What is compared with a folder of golden vectors; what kind a file is shows in what it holds.

Every array of a file is compared, is an input, or is an error: nothing is left out in silence.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from models.drfusion.config import DRFusionConfig
from models.drfusion.fuser import DRFusionFuser
from models.drfusion.parity.fill import Index
from models.drfusion.parity.networks import (
    check_forward,
    check_operators,
    check_reference,
    check_sampling,
)
from models.drfusion.parity.steps import check_train_step
from models.drfusion.released import official_name
from models.golden import GoldenFolder, TensorComparison

# What a file of each kind holds and no other.
_KINDS = {
    "grad_l2": check_train_step,
    "t_order": check_sampling,
    "lambda_table": check_operators,
    "otf2d": check_reference,
    "mask": check_forward,
}


def check_golden_vectors(folder: GoldenFolder[Index]) -> Iterator[TensorComparison]:
    """Compare everything that a folder holds. Raises ValueError on what it lacks or is unknown."""
    names = sorted({*folder.names, *folder.index.names})
    if not names:
        raise ValueError("no drfusion_*.npz in the folder")
    _check_listing(folder)
    for name in names:
        arrays = folder.load(name)
        check = next((_KINDS[key] for key in _KINDS if key in arrays), None)
        if check is None:
            raise ValueError(f"drfusion_{name}.npz: no check is known for this file")
        try:
            yield from check(name, arrays)
        except KeyError as error:
            raise ValueError(f"drfusion_{name}.npz: lacks the array {error}") from error


def _check_listing(folder: GoldenFolder[Index]) -> None:
    """Where the folder lists the official keys and shapes, ours are exactly those."""
    listing = folder.listing()
    if listing is None:
        return
    with torch.device("meta"):
        fuser = DRFusionFuser(DRFusionConfig())
    ours = {official_name(key): tuple(x.shape) for key, x in fuser.state_dict().items()}
    theirs = {key: tuple(entry["shape"]) for key, entry in listing["state_dict"].items()}
    odd = sorted(ours.items() ^ theirs.items())
    if odd:
        raise ValueError(f"the folder's list of keys and our model differ in {odd[0][0]!r}")
