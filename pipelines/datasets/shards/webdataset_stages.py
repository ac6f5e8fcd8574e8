"""Shards for any WebDataset reader: a decoder of their pictures, and contrastive groups as a stage.

This file needs numpy, zstandard and OpenCV and nothing of this repository: copy it.

    wds.WebDataset(urls).decode(decode_picture)      scenes: "vi_gt.npy.zst" and so on are uint8 H×W×C
    wds.WebDataset(urls).compose(contrastive_groups) groups, their pictures decoded

C is 3 (RGB) for the visible camera and 1 for the infrared one.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

import cv2
import numpy as np
import zstandard

Sample = Mapping[str, Any]


def decode_picture(field: str, data: bytes) -> np.ndarray | None:
    """A member as uint8 H×W×C; None for one that is no picture, as WebDataset's `decode` wants it."""
    if field.endswith(".npy.zst"):
        return np.load(io.BytesIO(zstandard.decompress(data)), allow_pickle=False)
    if not field.endswith(".png"):
        return None
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise ValueError(f"{field}: not a PNG")
    return picture[..., None] if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def contrastive_groups(samples: Iterable[Sample]) -> Iterator[dict[str, Any]]:
    """Yield the contrastive groups of samples that come shard by shard; a shard is held in memory.

    A group has `__key__` (the anchors' scene) and `__url__`, the degradations `vi` and `ir`, the pictures
    `vi_lq ir_lq vi_gt ir_gt`, and lists of pictures: `vi_pos` and `ir_pos` of other scenes in the same
    degradation, `neg` of the same scene in others. Raises ValueError for a picture that is absent.
    """
    for url, shard in groupby(samples, lambda sample: sample["__url__"]):
        scenes = {sample["__key__"]: sample for sample in shard}
        for scene in sorted(scenes):
            for group in _meta(scenes[scene])["groups"]:
                yield {"__key__": scene, "__url__": url} | _group(scenes, scene, group)


def _group(scenes: Mapping[str, Sample], scene: str, group: Mapping[str, Any]) -> dict[str, Any]:
    vi, ir = f"vi_{group['vi']}", f"ir_{group['ir']}"
    return {
        "vi": group["vi"],
        "ir": group["ir"],
        "vi_lq": _picture(scenes, scene, vi),
        "ir_lq": _picture(scenes, scene, ir),
        "vi_gt": _picture(scenes, scene, "vi_gt"),
        "ir_gt": _picture(scenes, scene, "ir_gt"),
        "vi_pos": [_picture(scenes, other, vi) for other in group["vi_positives"]],
        "ir_pos": [_picture(scenes, other, ir) for other in group["ir_positives"]],
        "neg": [_picture(scenes, scene, member) for member in group["negatives"]],
    }


def _picture(scenes: Mapping[str, Sample], scene: str, member: str) -> np.ndarray:
    camera, _, name = member.partition("_")
    sample = scenes.get(scene, {})
    # The undegraded input is the target, but where a source brought an input of its own.
    for stem in (member, f"{camera}_gt") if name == "clean" else (member,):
        for field in (f"{stem}.npy.zst", f"{stem}.png"):
            if field in sample:
                value = sample[field]
                decoded = decode_picture(field, value) if isinstance(value, bytes) else value
                assert decoded is not None
                return decoded
    raise ValueError(f"a group refers to {scene}.{member}, which is not in its shard")


def _meta(sample: Sample) -> Mapping[str, Any]:
    value = sample["json"]
    meta: Mapping[str, Any] = json.loads(value) if isinstance(value, bytes) else value
    return meta
