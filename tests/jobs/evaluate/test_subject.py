"""What the parts of a stopped evaluation hang on."""

from pathlib import Path

import pytest

from infra.settings import REPOSITORY
from jobs.evaluate import subject as evaluate_rows
from jobs.evaluate.subject import PROTOCOL, code_of, inputs_digest
from models.dspfusion.config import tiny
from pipelines.bundles.export import Bundle
from pipelines.detection.detector import DetectorFile
from pipelines.detection.labels import Labels
from pipelines.evaluation.extras import Extras
from pipelines.evaluation.measuring import Measurement
from pipelines.scenarios.table import CLEAN_SCENARIO, find_scenario
from tests.contracts.test_architecture import imports_of

ONE = Bundle(source="one", model=tiny(), weights=b"")
MEASUREMENT = Measurement(bundle=ONE, scenarios=(CLEAN_SCENARIO, find_scenario("vi_blur")))


def test_parts_hang_on_what_is_measured_and_not_on_where_it_lies() -> None:
    moved = MEASUREMENT.model_copy(update={"bundle": ONE.model_copy(update={"source": "other"})})
    assert inputs_digest(moved) == inputs_digest(MEASUREMENT)
    strong = find_scenario("vi_blur@strong").model_copy(update={"name": "vi_blur"})
    changes = (
        {"baselines": ("average", "maximum")},
        {"scenarios": (CLEAN_SCENARIO, strong)},
        {"metrics": ("VIF",)},
        {"seed": 1},
        {"extras": Extras(scores=("PI",))},
        {"extras": Extras(labels={"a": Labels(corners=((0, 0, 1, 1),), classes=(0,))})},
        {"extras": Extras(detector=DetectorFile(name="d", sha256="1", data=b""))},
    )
    digests = {inputs_digest(MEASUREMENT.model_copy(update=change)) for change in changes}
    assert len(digests | {inputs_digest(MEASUREMENT)}) == 1 + len(changes)


def test_parts_hang_on_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_rows, "REPOSITORY", tmp_path)
    digests = set()
    for text in ("x = 1", "x = 2"):
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / "a.py").write_text(text)
        digests.add(inputs_digest(MEASUREMENT))
    assert len(digests) == 2


def test_the_protocol_names_all_code_that_decides_a_figure() -> None:
    """What measuring imports, and what that imports, but for the model itself."""
    left, seen = [REPOSITORY / "pipelines" / "evaluation" / "measuring.py"], set[Path]()
    while left:
        path = left.pop()
        seen.add(path)
        for name, _ in imports_of(path):
            left += [found for found in files_of(name) if found not in seen]
        left = [found for found in left if not is_of_the_model(found)]
    named = {REPOSITORY / name for name in code_of(PROTOCOL)}
    assert len(seen) > 30
    assert sorted(seen - named) == []


def files_of(name: str) -> list[Path]:
    """The modules of ours that an import of `package.module.thing` loads."""
    place = REPOSITORY.joinpath(*name.split("."))
    rooms = [place / "__init__.py", place.with_suffix(".py")]
    return [path for path in (*rooms, place.parent.with_suffix(".py")) if path.is_file()]


def is_of_the_model(path: Path) -> bool:
    room = path.relative_to(REPOSITORY).parts[:2]
    return (room[0] == "models" and room[1] != "metrics") or room == ("pipelines", "bundles")
