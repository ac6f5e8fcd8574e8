"""Previews of a training: the same few degraded pairs, fused with its current weights.

Validation (`validation.py`) measures more of such pairs.

Legend: H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from degradations.catalogue import CLEAN
from degradations.own import parts_of
from models import system_of
from models.system import Weights
from pipelines.datasets.plan import ShardConfig
from pipelines.datasets.shards.reading import open_shard
from pipelines.datasets.versions import DatasetVersion
from pipelines.scenarios.degraded_pairs import degrade
from pipelines.scenarios.hints import Chain, hints_of
from pipelines.scenarios.table import Scenario
from pipelines.sources.pictures import encode_png, to_tensor, to_uint8
from pipelines.sources.scenes import Read, Scene, load_pair, read_file
from pipelines.store.folders import Folder

_T = TypeVar("_T")

NUM_PAIRS = 4
# The middle of a picture is enough to judge by, and what a preview costs is bounded.
_WINDOW_PX = 192
_GAP_PX, _CAPTION_PX = 4, 16
_COLUMNS = ("VI", "IR", "fused", "VI reference", "IR reference")


@dataclass(frozen=True)
class PreviewPair:
    """A degraded pair and its references, uint8: VI H×W×3 RGB, IR H×W×1. `label` is its caption.

    The chains are the degradations of the two cameras.
    """

    label: str
    vi: np.ndarray
    ir: np.ndarray
    vi_gt: np.ndarray
    ir_gt: np.ndarray
    vi_chain: Chain = ()
    ir_chain: Chain = ()


def pairs_of_scenes(
    scenes: Sequence[Scene],
    config: ShardConfig,
    *,
    count: int = NUM_PAIRS,
    read: Read = read_file,
) -> list[PreviewPair]:
    """Degrade `count` of the scenes, spread over all, each by the dataset's next degradations.

    Strengths are drawn from the dataset's ranges, the same for the same scene.
    """
    pairs = []
    for place, scene in enumerate(_spread(scenes, count)):
        vi_name, ir_name = _turn(config.vi, place), _turn(config.ir, place)
        scenario = Scenario(
            name=f"{vi_name}+{ir_name}",
            vi=parts_of(vi_name),
            ir=parts_of(ir_name),
            vi_ranges=config.vi_ranges,
            ir_ranges=config.ir_ranges,
            own=config.own,
        )
        vi, ir = load_pair(scene, read)
        degraded = degrade(vi, ir, scenario, seed=config.seed, scene_key=scene.digest)
        cut = _cut(_label(scene.id, vi_name, ir_name), degraded.vi, degraded.ir, vi, ir)
        pairs.append(replace(cut, vi_chain=degraded.vi_chain, ir_chain=degraded.ir_chain))
    return pairs


def pairs_of_shards(version: DatasetVersion, root: Folder) -> list[PreviewPair]:
    """A few of a dataset's own scenes with the variants that are stored: where no unseen ones are known."""
    pairs = []
    shards = list(_spread(version.shards, NUM_PAIRS))
    for place in range(NUM_PAIRS):
        with closing(open_shard(root, shards[place % len(shards)])) as reader:
            scenes = sorted(reader.metas)
            scene = scenes[place // len(shards) % len(scenes)]
            groups = reader.metas[scene].groups
            group = groups[place % len(groups)]
            members = (f"vi_{group.vi}", f"ir_{group.ir}", "vi_gt", "ir_gt")
            pictures = [reader.image(scene, member) for member in members]
            chains = [reader.metas[scene].variants.get(member, ()) for member in members[:2]]
        label = _label(f"{scene} (trained on)", group.vi, group.ir)
        pairs.append(replace(_cut(label, *pictures), vi_chain=chains[0], ir_chain=chains[1]))
    return pairs


def current_fuser(stage_config: BaseModel, state: Weights) -> nn.Module:
    """The fuser of an objective's state, on its device; it draws nothing from training's generators."""
    system = system_of(stage_config)
    config, weights = system.fuser_weights(stage_config, state)
    with torch.random.fork_rng(devices=[]):
        fuser = system.build_fuser(config)
    fuser.load_state_dict(weights)
    return fuser.to(next(iter(weights.values())).device).eval()


def draw_preview(
    fuser: nn.Module, pairs: Sequence[PreviewPair], hint_names: Sequence[str] = ()
) -> bytes:
    """Fuse the pairs, with the hints that the fuser takes, and draw them as one PNG, a row a pair."""
    pictures = [to_uint8(fuse_pair(fuser, pair, hint_names)) for pair in pairs]
    return encode_png(preview_grid(pairs, pictures))


@torch.inference_mode()
def fuse_pair(fuser: nn.Module, pair: PreviewPair, hint_names: Sequence[str] = ()) -> Tensor:
    """Fuse a pair on the fuser's device, with the hints that it takes; 1×3×H×W on the CPU."""
    device = next(fuser.parameters()).device
    vi, ir = (to_tensor(image).to(device) for image in (pair.vi, pair.ir))
    known = hints_of(hint_names, vi=pair.vi_chain, ir=pair.ir_chain)
    hints = {name: value.to(device) for name, value in known.items()}
    fused: Tensor = fuser(vi, ir, hints).fused
    return fused.to("cpu", torch.float32)


def preview_grid(pairs: Sequence[PreviewPair], fused: Sequence[np.ndarray]) -> np.ndarray:
    """Degraded, fused and reference pictures side by side, uint8 H×W×3 RGB, with captions."""
    rows = [_captions(_COLUMNS, max(pair.vi.shape[1] for pair in pairs))]
    for pair, picture in zip(pairs, fused, strict=True):
        cells = [_rgb(cell) for cell in (pair.vi, pair.ir, picture, pair.vi_gt, pair.ir_gt)]
        gap = np.full((cells[0].shape[0], _GAP_PX, 3), 255, np.uint8)
        strip = np.hstack([part for cell in cells for part in (cell, gap)][:-1])
        rows += [_caption(pair.label, strip.shape[1]), strip]
    width = max(row.shape[1] for row in rows)
    return np.vstack(
        [
            np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255)
            for row in rows
        ]
    )


def _spread(items: Sequence[_T], count: int) -> list[_T]:
    """At most `count` of the items, evenly spread."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _turn(names: Sequence[str], place: int) -> str:
    return names[place % len(names)] if names else CLEAN


def _label(scene: str, vi_name: str, ir_name: str) -> str:
    suffered = f"VI {vi_name}, IR {ir_name}".replace("_", " ")
    return f"{scene}: {suffered}"


def _cut(
    label: str, vi: np.ndarray, ir: np.ndarray, vi_gt: np.ndarray, ir_gt: np.ndarray
) -> PreviewPair:
    height, width = vi.shape[:2]
    top, left = (max(side - _WINDOW_PX, 0) // 2 for side in (height, width))
    window = slice(top, top + _WINDOW_PX), slice(left, left + _WINDOW_PX)
    vi, ir, vi_gt, ir_gt = (np.ascontiguousarray(x[window]) for x in (vi, ir, vi_gt, ir_gt))
    return PreviewPair(label, vi, ir, vi_gt, ir_gt)


def _rgb(picture: np.ndarray) -> np.ndarray:
    return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture


def _captions(texts: Sequence[str], width_px: int) -> np.ndarray:
    gap = np.full((_CAPTION_PX, _GAP_PX, 3), 255, np.uint8)
    return np.hstack([part for text in texts for part in (_caption(text, width_px), gap)][:-1])


def _caption(text: str, width_px: int) -> np.ndarray:
    line = np.full((_CAPTION_PX, width_px, 3), 255, np.uint8)
    place = (2, _CAPTION_PX - 5)
    return cv2.putText(line, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.38, (40, 40, 40), 1, 16)
