"""Single pictures and a fuser that takes prompts: what does it restore, and does the prompt matter?

Legend: P prompts that are tried, H W pixels of the window that is measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from degradations.catalogue import CLEAN, Modality
from degradations.operators import task_names
from models.metrics import measure_restored
from models.system import Prompted
from pipelines.datasets.plan import ShardConfig
from pipelines.probes.known_pictures import single_scenarios
from pipelines.scenarios.degraded_pairs import degrade
from pipelines.sources.pictures import to_tensor
from pipelines.sources.scenes import Read, Scene, load_native, load_picture, read_file

# In the middle: what the networks cost is bounded, and all pictures are of one size.
WINDOW_PX = 192
_MOST_AT_ONCE = 16
# The picture as it came, and restored under its own prompt, the clean one's, another's, the one found out.
TRIED = ("input", "own", "clean", "wrong", "auto")


@dataclass(frozen=True)
class Single:
    """A picture of one camera and its clean one, uint8 H×W×C; `captured` ones are files of the scene."""

    scene: str
    camera: Modality
    suffers: str
    captured: bool
    lq: np.ndarray
    gt: np.ndarray

    @property
    def kind(self) -> tuple[str, str]:
        """What it is compared with: its camera, and what it suffers, and whether really."""
        return self.camera, self.suffers + " (own files)" * self.captured


@dataclass(frozen=True)
class Restored:
    """What became of a picture: PSNR and SSIM by name ("PSNR_own"), and what it seemed to suffer."""

    single: Single
    values: Mapping[str, float]
    seen: str


def is_large_enough(scene: Scene) -> bool:
    """Whether the window fits into a scene's pictures."""
    return min(scene.height, scene.width) >= WINDOW_PX


def single_pictures(
    scenes: Iterable[Scene], config: ShardConfig, *, seed: int, read: Read = read_file
) -> Iterator[Single]:
    """Clean and degraded pictures of every camera of scenes, each a window of it.

    A scene's own degraded files where it has some of a camera; else one of each degradation of the
    recipe, at its strengths. Scenes that are smaller than the window are left out.
    """
    for scene in scenes:
        if not is_large_enough(scene):
            continue
        for camera in scene.cameras:
            gt = _window(load_picture(scene, camera, read))
            own = [each.member for each in scene.natives if each.member.startswith(f"{camera}_")]
            found = {member: _window(load_native(scene, member, read)) for member in own}
            pictures = found or _degraded(scene, camera, gt, config, seed)
            for member, lq in {f"{camera}_{CLEAN}": gt, **pictures}.items():
                suffers = member.removeprefix(f"{camera}_")
                yield Single(scene.id, camera, suffers, member in own, lq, gt)


def _window(picture: np.ndarray) -> np.ndarray:
    top, left = ((side - WINDOW_PX) // 2 for side in picture.shape[:2])
    return picture[top : top + WINDOW_PX, left : left + WINDOW_PX]


def _degraded(
    scene: Scene, camera: Modality, gt: np.ndarray, config: ShardConfig, seed: int
) -> dict[str, np.ndarray]:
    blank = {"vi": np.zeros((*gt.shape[:2], 3), np.uint8), "ir": np.zeros_like(gt[..., :1])}
    pair = blank | {camera: gt}
    found = {}
    for scenario in single_scenarios(config):
        if scenario.vi if camera == "vi" else scenario.ir:
            both = degrade(**pair, scenario=scenario, seed=seed, scene_key=scene.digest)
            found[scenario.name] = both.vi if camera == "vi" else both.ir
    return found


@torch.inference_mode()
def restore_single(
    prompted: Prompted, fuser: Any, single: Single, trained: Sequence[str]
) -> Restored:
    """Restore one picture under several prompts, and measure each against the clean one, in grey.

    The wrong prompt is that of the next of the degradations that were `trained`. Raises ValueError for a
    degradation that has no prompt, and where tasks cannot be told.
    """
    known = task_names(single.camera)
    if single.suffers not in known:
        raise ValueError(
            f"{single.camera} {single.suffers!r} has no prompt, only: {', '.join(known)}"
        )
    lq, gt = to_tensor(single.lq), to_tensor(single.gt)  # 1 C H W
    task = known.index(single.suffers)
    seen = int(prompted.sees(fuser, lq, single.camera))
    tasks = torch.tensor(
        [task, 0, known.index(_another(single.suffers, trained, known)), seen]
    )  # P
    pictures = lq.expand(len(tasks), -1, -1, -1)  # P C H W
    restored = prompted.restore(fuser, pictures, single.camera, tasks).clamp(0, 1)
    return Restored(single, _measured(torch.cat([lq, restored]), gt), known[seen])


def _another(suffers: str, trained: Sequence[str], known: Sequence[str]) -> str:
    """The trained degradation after a picture's own; where that is the only one, any other but clean."""
    others = [name for name in trained if name != suffers]
    others = others or [name for name in known if name not in (CLEAN, suffers)]
    place = trained.index(suffers) if suffers in trained else 0
    return others[place % len(others)]


def _measured(pictures: Tensor, gt: Tensor) -> dict[str, float]:
    """Each of the pictures of `TRIED`, P×C×H×W, against the clean one."""
    return {
        f"{metric}_{name}": float(value)
        for metric, values in measure_restored(pictures, gt.expand_as(pictures)).items()
        for name, value in zip(TRIED, values, strict=True)
    }


@torch.inference_mode()
def latent_gaps(
    prompted: Prompted, fuser: Any, singles: Iterable[Single]
) -> dict[tuple[str, str], float]:
    """The latent gap ratio of each kind of degraded picture of which there are two or more.

    Of the first ones: they go through the encoder at once.
    """
    kinds = defaultdict[tuple[str, str], list[Single]](list)
    for single in singles:
        if single.suffers != CLEAN:
            kinds[single.kind].append(single)
    return {
        kind: _latent_gap(prompted, fuser, some[:_MOST_AT_ONCE])
        for kind, some in kinds.items()
        if len(some) > 1
    }


def _latent_gap(prompted: Prompted, fuser: Any, singles: Sequence[Single]) -> float:
    camera = singles[0].camera
    lq, gt = (
        torch.cat([to_tensor(picture) for picture in pictures])
        for pictures in zip(*((single.lq, single.gt) for single in singles), strict=True)
    )
    task = torch.full((len(singles),), task_names(camera).index(singles[0].suffers))
    return prompted.latent_gap(fuser, lq, gt, camera, task)


def means_by_kind(restored: Iterable[Restored]) -> dict[tuple[str, str], dict[str, float]]:
    """Means of each kind of picture; "found" is how often its task was told, "pictures" their number."""
    kinds = defaultdict[tuple[str, str], list[Restored]](list)
    for each in restored:
        kinds[each.single.kind].append(each)
    return {kind: _means(some) for kind, some in sorted(kinds.items())}


def _means(some: Sequence[Restored]) -> dict[str, float]:
    means = {name: float(np.mean([each.values[name] for each in some])) for name in some[0].values}
    found = np.mean([each.seen == each.single.suffers for each in some])
    return {"pictures": len(some), "found": float(found)} | means


def heeded(
    prompted: Prompted, fuser: Any, scenes: Iterable[Scene], config: ShardConfig, *, read: Read
) -> dict[str, float]:
    """Whether prompts are heeded, in numbers of all degraded pictures of scenes; nothing without any.

    The mean latent gap ratio, how often the task is found out, and the means of PSNR in dB of the
    pictures as they came and restored under their own, the clean, a wrong and the found prompt.
    """
    singles = list(single_pictures(scenes, config, seed=config.seed, read=read))
    degraded = [single for single in singles if single.suffers != CLEAN]
    if not degraded:
        return {}
    restored = [
        restore_single(prompted, fuser, single, config.names(single.camera)) for single in degraded
    ]
    means = _means(restored)
    gaps = latent_gaps(prompted, fuser, degraded).values()
    return {
        "latent_gap": float(np.mean([*gaps])),
        "task_found": means["found"],
        **{f"PSNR_{name}": means[f"PSNR_{name}"] for name in TRIED},
    }


def heeded_in_words(found: Mapping[str, float]) -> dict[str, str]:
    """What `heeded` found, for a page; nothing where it found nothing."""
    if "latent_gap" not in found:
        return {}
    decibels = ", ".join(f"{name} {found[f'PSNR_{name}']:.1f}" for name in TRIED)
    return {
        "latent gap ratio": f"{found['latent_gap']:.2f}",
        "degradation found out": f"{100 * found['task_found']:.0f} %",
        "PSNR in dB by prompt": decibels,
    }
