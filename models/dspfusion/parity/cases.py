"""What is compared with a folder of golden vectors, file by file (spec 5.4).

Every array of a file is compared, is an input, or is an error: nothing is left out in silence.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from models.dspfusion.config import DSPFusionConfig
from models.dspfusion.fuser import DSPFusionFuser
from models.dspfusion.parity.fill import Case, Index
from models.dspfusion.parity.networks import (
    FilledModel,
    check_case,
    check_diffusion_constants,
    check_fill,
)
from models.dspfusion.parity.steps import check_losses, check_stage1, check_stage2
from models.dspfusion.released import OFFICIAL_FILES, official_name
from models.golden import GoldenFolder, TensorComparison


def check_golden_vectors(folder: GoldenFolder[Index]) -> Iterator[TensorComparison]:
    """Compare everything that a folder holds. Raises ValueError on what it lacks or is unknown."""
    cases = case_files(folder)
    if not folder.names:
        raise ValueError("no dspfusion_*.npz in the folder")
    filled = FilledModel(folder.index.constants)
    _check_listing(folder)
    for name in folder.names:
        arrays = folder.load(name)
        match name:
            case "fill_check":
                yield from check_fill(filled, arrays)
            case "diffusion_constants":
                yield from check_diffusion_constants(arrays)
            case "losses":
                yield from check_losses(filled, arrays)
            case "stage1_step":
                yield from check_stage1(filled, arrays)
            case "stage2_step":
                yield from check_stage2(filled, arrays)
            case _ if name in cases:
                yield from check_case(filled, name, arrays, cases[name])
            case _:
                raise ValueError(f"dspfusion_{name}.npz: no check is known for this file")


def case_files(folder: GoldenFolder[Index]) -> dict[str, Case | None]:
    """Files of the cases with the index's sizes; None for one that the index does not hold.

    Raises ValueError for a case of the index without its file.
    """
    files: dict[str, Case | None] = {n: None for n in folder.names if n.startswith("case_")}
    for name, case in folder.index.cases.items():
        found = [file for file in files if file == name or file.startswith(f"{name}_")]
        if len(found) != 1:
            raise ValueError(
                f"the index names the case {name!r}, which {len(found) or 'no'} files "
                f"dspfusion_{name}*.npz hold"
            )
        files[found[0]] = case
    return files


def _check_listing(folder: GoldenFolder[Index]) -> None:
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
        listed = listing.get(file, {}).get("state_dict", {})
        theirs = {key: tuple(entry["shape"]) for key, entry in listed.items()}
        odd = sorted(ours.items() ^ theirs.items())
        if odd:
            raise ValueError(f"{file}: the folder's list and our model differ in {odd[0][0]!r}")
