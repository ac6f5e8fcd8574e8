from pathlib import Path

import pytest
from jinja2 import UndefinedError

from pipelines.reports import page
from pipelines.reports.filters import count, fixed, number, sentence, signed, words
from pipelines.reports.page import templates, write_page

TEMPLATES = templates().list_templates()


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_compile_and_never_switch_escaping_off(name: str) -> None:
    templates().get_template(name)
    text = Path(page.__file__).with_name("templates").joinpath(name).read_text()
    assert "safe" not in text
    assert "autoescape" not in text


def test_pages_are_written_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    templates.cache_clear()
    with pytest.raises(UndefinedError, match="title"):
        write_page(tmp_path / "page.html", "probe.html.j2")
    assert list(tmp_path.iterdir()) == []


def test_names_and_numbers_as_people_write_them() -> None:
    assert words("vi_low_light@weak") == "VI low light, weak"
    assert words("ir_gt") == "IR reference"
    assert sentence("low_light+rain") == "Low light + rain"
    assert [number(value) for value in (0.1234, -23.456, None)] == ["0.123", "\u221223.46", "–"]
    assert [signed(value) for value in (0.5, -0.5)] == ["+0.500", "\u22120.500"]
    assert fixed(1.0, 1, "+") == "+1.0"
    assert [count(value) for value in (12, 1_234_567, None)] == ["12", "1.23\u202fM", "–"]
