"""Random generators with an address: the same (seed, names) gives the same stream on any machine.

Neither retry, nor order, nor cluster size can then change a pixel or a group.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

import numpy as np
from pydantic import Field

# What a configuration takes as a seed: torch's generators and numpy's take it too.
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def rng_at(seed: int, *address: str) -> np.random.Generator:
    """Return the generator that belongs to `address` (scene digest, variant name, …) under `seed`."""
    words = np.frombuffer(hashlib.sha256("\0".join(address).encode()).digest(), dtype="<u4")
    return np.random.default_rng([seed, *words.tolist()])


def digest_of(value: Any) -> str:
    """Return the sha256 of a JSON-able value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
