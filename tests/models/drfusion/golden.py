"""The golden vectors of the published network: where they lie, and its official keys."""

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3].parent / "shared" / "parity"

needs_golden = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="golden vectors absent: ../shared/parity is not on this machine"
)


def official_shapes() -> dict[str, list[int]]:
    listing = json.loads((FOLDER / "drfusion_official_state_dict.json").read_text())
    return {key: entry["shape"] for key, entry in listing["state_dict"].items()}
