"""The golden vectors of the published model: where they lie, and models filled by their rule."""

import functools
from pathlib import Path

import pytest

from models.dspfusion.parity.fill import Constants, Index, fill
from models.dspfusion.parity.networks import FilledModel
from pipelines.parity.folder import FolderOnDisk, open_golden_folder
from tests.models.dspfusion.reference import Reference

FOLDER = Path(__file__).resolve().parents[3].parent / "shared" / "parity"

needs_golden = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="golden vectors absent: ../shared/parity is not on this machine"
)


@functools.cache
def folder() -> FolderOnDisk[Index]:
    return open_golden_folder(FOLDER, "dspfusion", Index)


@functools.cache
def filled() -> FilledModel:
    return FilledModel(folder().index.constants)


def filled_reference(constants: Constants) -> Reference:
    """The plain reference with every weight by the rule; its keys are the official ones."""
    reference = Reference()
    for network in (reference.net_g, reference.net_dp, reference.net_sp, reference.net_dm):
        network.load_state_dict(
            {key: fill(key, tuple(x.shape), constants) for key, x in network.state_dict().items()}
        )
    return reference.eval()
