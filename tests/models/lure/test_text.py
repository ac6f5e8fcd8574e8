import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from degradations.operators import task_names
from models.lure.config import TEXT_WIDTH, TextConfig
from models.lure.text import (
    CAMERAS,
    NUM_PARAPHRASES,
    PSEUDO_TASK,
    TASKS,
    PromptTable,
    hash_vectors,
    prompts_digest,
    prompts_of,
    read_vectors,
    write_table,
)
from pipelines.batches import samplers


def test_tasks_are_those_of_the_catalogue():
    assert CAMERAS == samplers.CAMERAS
    for camera in CAMERAS:
        assert tuple(TASKS[camera]) == task_names(camera)
        assert task_names(camera)[PSEUDO_TASK] == "clean"


def test_every_prompt_is_its_own():
    prompts = [each for c in CAMERAS for paraphrases in prompts_of(c) for each in paraphrases]
    assert len(set(prompts)) == len(prompts)
    assert NUM_PARAPHRASES >= 8
    assert prompts_of("vi")[1][0] == "visible image degraded by blur"
    assert prompts_of("ir")[PSEUDO_TASK][0] == "infrared image without degradation"


def test_hash_vectors_are_deterministic_and_apart():
    first, second = hash_vectors(), hash_vectors()
    for camera in CAMERAS:
        assert torch.equal(first[camera], second[camera])
        assert first[camera].shape == (len(TASKS[camera]), NUM_PARAPHRASES, TEXT_WIDTH)
    every = torch.cat([first[camera].flatten(0, 1) for camera in CAMERAS])
    likeness = torch.corrcoef(every) - torch.eye(len(every))
    assert likeness.abs().max() < 0.3


def test_a_stored_table_comes_back(tmp_path: Path):
    path = tmp_path / "prompts.npz"
    vectors = {camera: value + 1 for camera, value in hash_vectors().items()}
    digest = write_table(path, vectors)
    read = read_vectors(TextConfig(source="table", path=path, digest=digest))
    assert all(torch.equal(read[camera], vectors[camera]) for camera in CAMERAS)
    with pytest.raises(ValueError, match="has digest"):
        read_vectors(TextConfig(source="table", path=path, digest="0" * 64))


def test_a_table_of_other_prompts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "prompts.npz"
    digest = write_table(path, hash_vectors())
    before = prompts_digest()
    monkeypatch.setitem(TASKS["vi"], "blur", "a shaken hand")
    assert prompts_digest() != before
    with pytest.raises(ValueError, match="other prompts"):
        read_vectors(TextConfig(source="table", path=path, digest=digest))


def test_a_table_of_other_shapes_is_refused(tmp_path: Path):
    path = tmp_path / "prompts.npz"
    digest = write_table(path, {camera: value[:2] for camera, value in hash_vectors().items()})
    with pytest.raises(ValueError, match="the vectors of ir are"):
        read_vectors(TextConfig(source="table", path=path, digest=digest))


def test_clip_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match="needs the package transformers"):
        read_vectors(TextConfig(source="clip", path=tmp_path))


def fake_transformers(width: int, folder: Path) -> SimpleNamespace:
    """The two classes in use, with a model that knows a prompt by the lengths of its words."""

    class Tokenizer:
        def __call__(self, prompts: list[str], **options: object) -> dict[str, torch.Tensor]:
            lengths = [[len(word) for word in prompt.split()] for prompt in prompts]
            rows = [torch.tensor(row + [0] * (16 - len(row))) for row in lengths]
            return {"input_ids": torch.stack(rows)}

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Linear(16, width, dtype=torch.float16)

        def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(text_embeds=self.table(input_ids.float()))

    def load(kind: type):
        def from_pretrained(path: Path, *, local_files_only: bool):
            if path != folder:
                raise OSError("no such folder")
            assert local_files_only
            return kind()

        return SimpleNamespace(from_pretrained=from_pretrained)

    return SimpleNamespace(
        CLIPTokenizerFast=load(Tokenizer), CLIPTextModelWithProjection=load(Model)
    )


def test_clip_encodes_every_prompt_without_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "transformers", fake_transformers(TEXT_WIDTH, tmp_path))
    vectors = read_vectors(TextConfig(source="clip", path=tmp_path))
    assert vectors["vi"].shape == (10, NUM_PARAPHRASES, TEXT_WIDTH)
    assert vectors["vi"].dtype == torch.float32
    assert not vectors["vi"].requires_grad
    assert not torch.equal(vectors["vi"][1], vectors["vi"][3])
    with pytest.raises(ValueError, match="holds no CLIP text encoder"):
        read_vectors(TextConfig(source="clip", path=tmp_path / "other"))


def test_clip_of_another_width_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transformers", fake_transformers(768, tmp_path))
    with pytest.raises(ValueError, match=r"768\), not"):
        read_vectors(TextConfig(source="clip", path=tmp_path))


@pytest.mark.parametrize(
    "settings",
    [{"source": "table", "path": "x.npz"}, {"source": "clip"}, {"path": "x.npz"}, {"digest": "0"}],
)
def test_a_text_config_is_complete_and_has_nothing_without_effect(settings: dict[str, str]):
    with pytest.raises(ValueError, match=r"text\.source"):
        TextConfig.model_validate(settings)


def test_paraphrases_come_from_torchs_generator():
    table = PromptTable(hash_vectors())
    task = torch.full((64,), 3)
    torch.manual_seed(0)
    first = table.draw("vi", task)
    other = table.draw("vi", task)
    torch.manual_seed(0)
    assert torch.equal(first, table.draw("vi", task))
    assert not torch.equal(first, other)
    assert len({tuple(row.tolist()) for row in first}) == NUM_PARAPHRASES
    assert torch.equal(table.plainest("vi", task), table.vi[3, 0].expand(64, -1))
