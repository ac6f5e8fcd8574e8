"""What the platform knows of a system, and nothing else: the contract of `models.<system>.SYSTEM`.

Shapes: B batch, H W pixels, n numbers of a hint. Pictures are float32 in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.golden import Golden

Batch = Mapping[str, Tensor]
Hints = Mapping[str, Tensor]
Weights = Mapping[str, Tensor]
HintKind = Literal["none", "operators", "prompts"]
Sampler = Literal["groups", "pairs", "singles"]
Precision = Literal["float32", "bf16"]

# Hints: what a fuser may know of the degradation of each picture, by kind:
# `operators` are float32 B×3 (noise sigma, blur sigma in px, block side of low resolution),
# `prompts` int64 B (what the picture suffers, by its place in the catalogue; -1: find out). Both come
# from a degradation record, by `degradations.operators`.
HINT_NAMES: Mapping[HintKind, tuple[str, ...]] = {
    "none": (),
    "operators": ("vi_op", "ir_op"),
    "prompts": ("vi_task", "ir_task"),
}


class Fused(NamedTuple):
    """A fused picture B×3×H×W, and the restored sources where the system makes them."""

    fused: Tensor
    vi: Tensor | None = None
    ir: Tensor | None = None


class Fuser(Protocol):
    """`vi` B×3×H×W and `ir` B×1×H×W to a `Fused`; padding is its own business."""

    def __call__(self, vi: Tensor, ir: Tensor, hints: Hints | None = None) -> Fused:
        """Fuse a batch of pairs of one size."""


class FuseOptions(BaseModel):
    """How pictures are fused. A system refuses what it does not offer (`System.prepare`).

    `tile_px` None takes whole pictures; `tile_passes` None is the system's own number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    precision: Precision = "float32"
    compiled: bool = False
    tile_px: int | None = Field(default=None, gt=0)
    tile_passes: int | None = Field(default=None, ge=1)
    stretch: bool = False


class Objective(Protocol):
    """A training objective: an `nn.Module` that also has this.

    `FIELDS` are the batch's fields that it needs. Where it has a method `after_step(step)`, the loop
    calls it after each step of the optimiser (EMA teachers, running statistics; what it keeps must be
    in `state_dict`). Where it has `RECOMPUTED`, `optim.recompute_blocks` recomputes blocks of these
    types instead of `TransformerBlock`. Fields that it names in `ON_CPU` stay there, whatever its device.
    Random numbers inside come from torch's generator, which the loop seeds by (seed, step, rank), so that
    a resumed run continues exactly.
    """

    FIELDS: tuple[str, ...]

    def __call__(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Return "loss" with its graph, and every term detached."""

    def parameter_groups(self) -> list[tuple[float, list[nn.Parameter]]]:
        """What is trained, and at which share of the learning rate."""


class Initial(NamedTuple):
    """Initial weights (`init_from`): the stage that they are of, and an objective's state."""

    config: Any
    weights: Weights


@dataclass(frozen=True)
class Stage:
    """One stage of training; its config has the fields `system` and `stage`, both literals.

    `needs_init` names the weights that it starts from, for a stage that cannot start from random ones.
    """

    config: type[BaseModel]
    sampler: Sampler
    needs_init: str | None = None
    # Whether the probe of the system is worth a picture after this stage.
    is_probed: bool = False

    @property
    def name(self) -> str:
        """The value of the config's field `stage`."""
        return str(self.config.model_fields["stage"].default)


@dataclass(frozen=True)
class Probe:
    """Vectors that a fuser makes of one picture, to see whether degradations form groups.

    `embed(fuser, picture 1×C×H×W, camera, what it suffers)` returns vectors of one picture by name, 1×D
    each; the first is the one that is drawn as a map. None for a model without them.
    """

    title: str
    embed: Callable[[Any, Tensor, Literal["vi", "ir"], str], dict[str, Tensor] | None]


@dataclass(frozen=True)
class Prompted:
    """What a fuser that takes prompts does with pictures of one camera, each told its task.

    Pictures are B×3×H×W, infrared ones B×1×H×W, tasks B int64. `restore` returns restored pictures,
    `sees` the tasks that pictures seem to suffer. `latent_gap` takes degraded pictures, their clean ones,
    camera and tasks: how far the ones lie from the others, over how far clean ones lie apart; B >= 2.
    """

    restore: Callable[[Any, Tensor, Literal["vi", "ir"], Tensor], Tensor]
    sees: Callable[[Any, Tensor, Literal["vi", "ir"]], Tensor]
    latent_gap: Callable[[Any, Tensor, Tensor, Literal["vi", "ir"], Tensor], float]


@dataclass(frozen=True)
class ReleasedWeights:
    """How the authors' published files become a fuser.

    `files` are their names; `convert` takes their state dicts, by name without suffix, and returns
    config and fuser. It raises ValueError naming a key that is missing, unknown or of another shape.
    `state_key` is where a file holds its state dict; None when the file is one.
    """

    files: tuple[str, ...]
    convert: Callable[[Mapping[str, Weights]], tuple[Any, nn.Module]]
    state_key: str | None = "params"


def trainable(objective: nn.Module) -> list[tuple[float, list[nn.Parameter]]]:
    """All parameters that are not frozen, at the whole learning rate: the usual `parameter_groups`."""
    return [(1.0, [p for p in objective.parameters() if p.requires_grad])]


def check_pair(vi: Tensor, ir: Tensor, *, least_px: int) -> None:
    """Raise ValueError unless vi is B×3×H×W and ir B×1×H×W, H and W at least `least_px`."""
    size, channels, height, width = vi.shape
    if channels != 3 or ir.shape != (size, 1, height, width):
        raise ValueError(
            f"vi must be B×3×H×W and ir B×1×H×W of the same size, "
            f"got {tuple(vi.shape)} and {tuple(ir.shape)}"
        )
    if min(height, width) < least_px:
        raise ValueError(f"images must be at least {least_px} pixels a side, got {height}×{width}")


def refuse_options(options: FuseOptions, offered: Sequence[str] = ()) -> None:
    """Raise ValueError for an option that is set and not among those that a system offers."""
    for name, value in options:
        if value != FuseOptions.model_fields[name].default and name not in offered:
            raise ValueError(f"{name}={value}: this system does not offer it; leave it out")


def prepare_plain(fuser: Any, options: FuseOptions) -> Fuser:
    """Make a fuser ready that offers nothing but to be compiled: what most systems do."""
    refuse_options(options, offered=("compiled",))
    if options.compiled:
        fuser.compile()
    ready: Fuser = fuser
    return ready


def _itself(stage: Any) -> Any:
    return stage


@dataclass(frozen=True)
class System:
    """A system: its configs, its networks, what its fuser takes, and what else it can show."""

    name: str
    stages: tuple[Stage, ...]
    fuser_config: type[BaseModel]
    # The objective of a stage's config, freshly initialised.
    build_objective: Callable[[Any], nn.Module]
    # The fuser of a fuser config, freshly initialised.
    build_fuser: Callable[[Any], nn.Module]
    # Config and weights of the fuser that an objective's state makes.
    fuser_weights: Callable[[Any, Weights], tuple[Any, Weights]]
    # Loads initial weights into an objective of a config; raises ValueError where they do not fit.
    load_initial: Callable[[nn.Module, Any, Initial], None]
    # The module to export: `(vi, ir, *hints) -> fused`, or a plain tuple (fused, vi, ir); its sizes are
    # multiples of `multiple_px`. What is random in it is fixed.
    program: Callable[[Any], nn.Module]
    # The stage's config with networks of tiny sizes, for `--smoke` and tests.
    shrink: Callable[[Any], Any]
    # The least fuser config with every part.
    tiny: Callable[[], Any]
    multiple_px: int = 1
    least_px: int = 16
    # What the fuser extends other sizes by: the mirrored picture, or its edge.
    padding: Literal["reflect", "edge"] = "reflect"
    hints: HintKind = "none"
    restores_sources: bool = False
    # Only scenarios whose degradations are linear operators.
    only_linear: bool = False
    # Of a stage whose objective has more weights than its fuser: the one that has the same. A training that
    # starts from a fuser's weights alone takes them as that stage's.
    fused_stage: Callable[[Any], Any] = _itself
    # A fuser made ready by options; raises ValueError for those that the system does not offer.
    prepare: Callable[[Any, FuseOptions], Fuser] = prepare_plain
    # Sampling steps of a fuser config (None: it does not sample), and a setter for a fuser.
    num_steps: Callable[[Any], int | None] = lambda config: None
    set_num_steps: Callable[[Any, int], None] | None = None
    probe: Probe | None = None
    # Of a system whose hints are prompts: what can be measured of single pictures.
    prompted: Prompted | None = None
    released: ReleasedWeights | None = None
    # How the system is compared with a folder of golden vectors (`pipelines.parity`).
    golden: Golden | None = None

    def stage(self, name: str) -> Stage:
        """The stage of that name. Raises ValueError that lists the others."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        known = ", ".join(stage.name for stage in self.stages)
        raise ValueError(f"{self.name} has no stage {name!r}; there are: {known}")

    @property
    def hint_names(self) -> tuple[str, ...]:
        """Names of the hints that the fuser takes, in the program's order."""
        return HINT_NAMES[self.hints]
