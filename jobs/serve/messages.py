"""What the web application and the replicas send each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipelines.bundles.degradation_types import Seen


@dataclass(frozen=True)
class Request:
    """A pair to fuse: two files, how to make the picture, and what is known of them.

    `degradation` is in the words of `jobs.fuse --degradation`, a window in those of `--ir-window`.
    """

    vi: bytes = field(repr=False)
    ir: bytes = field(repr=False)
    form: Literal["png", "jpeg"] = "png"
    degradation: tuple[str, ...] = ()
    vi_window: str | None = None
    ir_window: str | None = None


@dataclass(frozen=True)
class Answer:
    """A fused picture's file, the model that made it, the seconds that its batch took, and what it sees."""

    picture: bytes = field(repr=False)
    model: str
    seconds: float
    seen: Seen = field(default_factory=dict)


@dataclass(frozen=True)
class Refused:
    """Why a pair could not be fused, in words for who sent it."""

    reason: str


@dataclass(frozen=True)
class Facts:
    """What is served: the model as it was asked for and as it is, and the kind of hints that it takes."""

    asked: str
    model: str
    system: str
    hints: str
    device: str
