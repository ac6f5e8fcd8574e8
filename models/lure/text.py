"""Prompts: what is said of a picture, and the 512 numbers that stand for it (spec 3.1, 5).

Shapes: B batch, T tasks of a camera, P paraphrases, D numbers of a prompt.

No vector is trained. They come from a stored table, a frozen CLIP text encoder, or a hash.
"""

import hashlib
import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from models.golden import uniform
from models.lure.config import TEXT_WIDTH, TextConfig

Camera = Literal["ir", "vi"]
Vectors = dict[Camera, Tensor]

# In the order of the batch field `camera`.
CAMERAS: tuple[Camera, ...] = ("ir", "vi")
# The pseudo degradation: nothing is wrong with the picture.
PSEUDO_TASK = 0
# In words, by task number: the order of `degradations.operators.task_names`, which a test holds.
_LINEAR = {
    "gaussian_blur": "Gaussian blur",
    "gaussian_noise": "Gaussian noise",
    "low_resolution": "low resolution",
}
TASKS: dict[Camera, dict[str, str]] = {
    "ir": {
        "clean": "",
        "low_contrast": "low contrast",
        "random_noise": "random noise",
        "stripe_noise": "stripe noise",
        **_LINEAR,
    },
    "vi": {
        "clean": "",
        "blur": "blur",
        "rain": "rain",
        "random_noise": "random noise",
        "low_light": "low light",
        "over_exposure": "over-exposure",
        "haze": "haze",
        **_LINEAR,
    },
}
_WORDS = {"ir": "infrared", "vi": "visible"}
_DEGRADED = (
    "{camera} image degraded by {what}",
    "the {camera} picture suffers from {what}",
    "a photo of the {camera} camera with {what}",
    "{what} in the {camera} image",
    "this {camera} image is affected by {what}",
    "restore the {camera} image from {what}",
    "a low-quality {camera} image because of {what}",
    "remove {what} from the {camera} image",
)
_PSEUDO = (
    "{camera} image without degradation",
    "the {camera} picture suffers from nothing",
    "a clean photo of the {camera} camera",
    "no degradation in the {camera} image",
    "this {camera} image is not degraded",
    "keep the {camera} image as it is",
    "a high-quality {camera} image",
    "there is nothing to remove from the {camera} image",
)
NUM_PARAPHRASES = len(_DEGRADED)


def prompts_of(camera: Camera) -> list[list[str]]:
    """Prompts of a camera, T lists of P; the first of each is the plainest."""
    return [
        [pattern.format(camera=_WORDS[camera], what=what) for pattern in patterns]
        for what in TASKS[camera].values()
        for patterns in (_DEGRADED if what else _PSEUDO,)
    ]


def prompts_digest() -> str:
    """SHA-256 of all prompts in their order: the version of the table."""
    shown = json.dumps([[camera, prompts_of(camera)] for camera in CAMERAS])
    return hashlib.sha256(shown.encode()).hexdigest()


def vectors_digest(vectors: Vectors) -> str:
    """SHA-256 of the prompts and of their vectors."""
    digest = hashlib.sha256(prompts_digest().encode())
    for camera in CAMERAS:
        digest.update(vectors[camera].numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def hash_vectors() -> Vectors:
    """Deterministic numbers in (-1, 1) for every prompt: no meaning, but none is like another."""

    def vector(camera: Camera, task: str, paraphrase: int) -> np.ndarray:
        key = f"prompt:{camera}/{task}/{paraphrase}"
        return uniform(key, TEXT_WIDTH, seed=0).astype(np.float32)

    return {
        camera: torch.from_numpy(
            np.array(
                [
                    [vector(camera, task, i) for i in range(NUM_PARAPHRASES)]
                    for task in TASKS[camera]
                ]
            )
        )
        for camera in CAMERAS
    }


def write_table(path: Path, vectors: Vectors) -> str:
    """Write an npz of vectors T×P×D float32 by camera; return the digest that a recipe gives."""
    arrays = {str(camera): vectors[camera].numpy() for camera in CAMERAS}
    np.savez(path, prompts=np.array(prompts_digest()), **arrays)  # type: ignore[arg-type]
    return vectors_digest(vectors)


def read_table(path: Path, digest: str) -> Vectors:
    """Read what `write_table` wrote. Raises ValueError for other prompts, shapes or vectors."""
    with np.load(path, allow_pickle=False) as table:
        missing = {"prompts", *CAMERAS} - set(table.files)
        if missing:
            raise ValueError(f"{path} has no {sorted(missing)}; write it with text.write_table")
        if str(table["prompts"]) != prompts_digest():
            raise ValueError(f"{path} was made of other prompts; write it again")
        vectors: Vectors = {c: torch.from_numpy(table[c].astype(np.float32)) for c in CAMERAS}
    _check_shapes(vectors, str(path))
    if vectors_digest(vectors) != digest:
        raise ValueError(f"{path} has digest {vectors_digest(vectors)}, not text.digest {digest}")
    return vectors


def clip_vectors(folder: Path) -> Vectors:
    """Encode all prompts by a frozen CLIP ViT-B/32 text encoder: float32, not normalised.

    `folder` is what `save_pretrained` wrote of model and tokeniser; nothing is downloaded. Raises
    ValueError without the package, the weights, or 512 numbers.
    """
    try:
        transformers: Any = importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise ValueError(
            "text.source 'clip' needs the package transformers: pip install '.[clip]'; or store the "
            "vectors where it is (text.write_table) and set text.source to 'table'"
        ) from error
    try:
        tokenizer = transformers.CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
        model = transformers.CLIPTextModelWithProjection.from_pretrained(
            folder, local_files_only=True
        )
    except OSError as error:
        raise ValueError(
            f"text.path {folder} holds no CLIP text encoder; copy the folder of "
            "openai/clip-vit-base-patch32 (weights, config and tokeniser) there"
        ) from error
    model = model.float().eval()

    @torch.no_grad()
    def encode(prompts: Sequence[str]) -> Tensor:
        tokens = tokenizer(list(prompts), padding=True, truncation=True, return_tensors="pt")
        return model(**tokens).text_embeds  # P D

    return _encode_all(encode, str(folder))


def _encode_all(encode: Callable[[Sequence[str]], Tensor], source: str) -> Vectors:
    vectors: Vectors = {c: torch.stack([encode(each) for each in prompts_of(c)]) for c in CAMERAS}
    _check_shapes(vectors, source)
    return vectors


def _check_shapes(vectors: Vectors, source: str) -> None:
    for camera in CAMERAS:
        shape = (len(TASKS[camera]), NUM_PARAPHRASES, TEXT_WIDTH)
        if vectors[camera].shape != shape:
            raise ValueError(
                f"{source}: the vectors of {camera} are {tuple(vectors[camera].shape)}, not {shape}"
            )


def read_vectors(config: TextConfig) -> Vectors:
    """The vectors of a configuration. Raises ValueError where its source does not give them."""
    match config:
        case TextConfig(source="table", path=Path() as path, digest=str() as digest):
            return read_table(path, digest)
        case TextConfig(source="clip", path=Path() as path):
            return clip_vectors(path)
        case _:
            return hash_vectors()


class PromptTable(nn.Module):
    """Vectors of all prompts as buffers T×P×D a camera, so that they travel with the weights."""

    ir: Tensor
    vi: Tensor

    def __init__(self, vectors: Vectors) -> None:
        super().__init__()
        self.register_buffer("ir", vectors["ir"])
        self.register_buffer("vi", vectors["vi"])

    def plainest(self, camera: Camera, task: Tensor) -> Tensor:
        """The first prompt of task numbers B int64, as B×D."""
        return getattr(self, camera)[task, 0]

    def draw(self, camera: Camera, task: Tensor) -> Tensor:
        """A paraphrase for each of task numbers B int64, drawn from torch's generator, as B×D."""
        paraphrase = torch.randint(NUM_PARAPHRASES, task.shape, device=task.device)
        return getattr(self, camera)[task, paraphrase]
