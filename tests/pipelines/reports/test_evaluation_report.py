import base64
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines.evaluation.measuring import Example
from pipelines.reports.evaluation_report import EvaluationPage, write_report

METHODS = {"model": 0.61, "source_average": 0.42}
VOID = {"meta", "img", "line", "circle", "polyline", "wbr"}


class Checker(HTMLParser):
    """Collects tags and addresses, and fails on tags that do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append(data)


def picture(level: int, channels: int, width: int = 64) -> np.ndarray:
    return np.full((48, width, channels), level, np.uint8)


def make_rows() -> list[dict[str, Any]]:
    return [
        {"scene": "s1", "scenario": "low_light+stripe_noise", "method": method, "reference": "hq"}
        | {
            "dataset": "tno",
            "metric_version": "1",
            "VIF": value,
            "Qabf": 0.5,
            "SSIM": 0.7,
            "EN": 7.0,
        }
        for method, value in METHODS.items()
    ]


def make_example(**changes: Any) -> Example:
    pictures: dict[str, Any] = {
        "vi": picture(200, 3),
        "ir": picture(90, 1),
        "vi_lq": picture(50, 3),
        "ir_lq": picture(90, 1),
        "fused": {method: picture(120, 3) for method in METHODS},
    }
    return Example(scene="s1", scenario="low_light+stripe_noise", **(pictures | changes))


def write(path: Path, **changes: Any) -> tuple[str, Checker]:
    arguments: dict[str, Any] = {
        "title": "Evaluation",
        "facts": {"Seed": "0"},
        "rows": make_rows(),
        "examples": [make_example()],
        "curves": {"loss": [(i, 2.0 / (i + 1)) for i in range(30)]},
    }
    write_report(path, EvaluationPage(**(arguments | changes)))
    page = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    return page, checker


def jpegs(checker: Checker) -> list[np.ndarray]:
    found = []
    for address in checker.addresses:
        assert address.startswith("data:image/jpeg;base64,")
        data = np.frombuffer(base64.b64decode(address.partition(",")[2]), np.uint8)
        found.append(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))
    return found


def test_page_is_self_contained_and_without_script(tmp_path: Path) -> None:
    page, checker = write(tmp_path / "report.html")
    assert "script" not in checker.tags
    assert "link" not in checker.tags
    assert re.search(r"https?://|url\(|@import", page) is None
    assert "prefers-color-scheme: dark" in page


def test_strip_holds_sources_degraded_and_every_method(tmp_path: Path) -> None:
    _, checker = write(tmp_path / "report.html")
    levels = [int(image[10, 10, 0]) for image in jpegs(checker)]
    assert levels == pytest.approx([200, 90, 50, 90, 120, 120], abs=2)
    text = " ".join(checker.text)
    assert "Source VI" in text
    assert "Degraded IR not degraded" in text
    assert "Fused: model VIF 0.610 Qabf 0.500 SSIM 0.700" in text


def test_colours_keep_their_order_and_large_pictures_shrink(tmp_path: Path) -> None:
    red = picture(0, 3, width=1200)
    red[..., 0] = 220
    _, checker = write(tmp_path / "report.html", examples=[make_example(vi=red)])
    shown = jpegs(checker)[0]
    assert shown.shape == (19, 480, 3)
    assert shown[5, 100].tolist() == pytest.approx([220, 0, 0], abs=6)


def test_the_best_method_of_a_line_is_marked_and_a_tie_is_not(tmp_path: Path) -> None:
    page, _ = write(tmp_path / "report.html")
    assert page.count("<strong>0.610</strong>") == 2  # overall and the scenario
    assert "<strong>0.420</strong>" not in page
    assert "<strong>0.500</strong>" not in page
    assert "Low light + stripe noise" in page


def test_data_sets_have_a_line_each_when_there_are_two(tmp_path: Path) -> None:
    page, _ = write(tmp_path / "one.html")
    assert "By data set" not in page
    better = {"scene": "s2", "dataset": "ms<rs", "VIF": 0.9}
    rows = make_rows() + [row | better for row in make_rows()]
    page, checker = write(tmp_path / "two.html", rows=rows)
    section = page.partition("By data set")[2].partition("</section>")[0]
    assert re.findall(r'<th scope="row">(.*?)</th>', section) == 3 * [
        "ms&lt;rs (1)",
        "tno (1)",
    ]
    assert "<strong>0.610</strong>" in section
    assert "Data set" in checker.text


def test_text_from_outside_is_escaped(tmp_path: Path) -> None:
    evil = '<img src="https://evil.example/x.png">&'
    rows = [row | {"method": row["method"] + evil, "scene": evil} for row in make_rows()]
    example = make_example(fused={"m" + evil: picture(9, 3)})
    _, checker = write(
        tmp_path / "report.html",
        title=evil,
        facts={evil: evil},
        rows=rows,
        examples=[example],
        curves={evil: [(0, 1.0), (1, 0.5)]},
    )
    assert all(address.startswith("data:") for address in checker.addresses)
    assert checker.text.count(evil) >= 5


def test_curve_has_axes_labels_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    curve = [(i * 100, 1.5 + 0.5 * math.cos(i)) for i in range(2000)] + [(200_000, math.nan)]
    curve[777] = (77_700, 4.0)  # a spike, which the thinned curve still has to show
    page, checker = write(tmp_path / "report.html", curves={"loss": curve})
    assert page.count('<polyline class="raw"') == 1
    assert page.count('class="axis"') == 2
    assert "step" in checker.text
    assert "100k" in checker.text
    assert "3" in checker.text
    assert any("not finite and not drawn: 1" in text for text in checker.text)
    raw, smooth = (line.split() for line in re.findall(r'points="([^"]*)"', page))
    assert max(len(raw), len(smooth)) <= 402
    assert min(float(point.partition(",")[2]) for point in raw) < 20


@pytest.mark.parametrize(
    ("curve", "said"),
    [
        ([(1, 100.0), (2, 1.0)], "log scale"),
        ([(5, 0.25)], "last 0.25"),
        ([(1, 3.0), (2, 3.0)], "last 3"),
        ([(1, 0.0), (2, -1.0)], "last -1"),
        ([], "no values"),
    ],
)
def test_odd_curves_are_drawn(tmp_path: Path, curve: list[tuple[int, float]], said: str) -> None:
    page, checker = write(tmp_path / "report.html", curves={"loss": curve})
    assert any(said in text for text in checker.text)
    assert "nan" not in page.lower().partition("<svg")[2].partition("</svg>")[0]


def test_empty_parts_are_left_out(tmp_path: Path) -> None:
    page, checker = write(tmp_path / "report.html", facts={}, rows=[], examples=[], curves={})
    assert "section" not in checker.tags
    assert "<h1>Evaluation</h1>" in page
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_the_page_opens_with_a_verdict_and_ends_with_its_command(tmp_path: Path) -> None:
    values = {"model": (0.61, 0.62, 0.6), "average": (0.4, 0.45, 0.41), "other": (0.7, 0.71, 0.72)}
    rows = [
        make_rows()[0]
        | {"method": method, "scene": f"s{scene}", "scenario": scenario, "VIF": value}
        | {
            "Qabf": 0.4 if method == "model" else 0.5,
            "SSIM": 0.5 + 0.1 * (scene - 1) * (method == "model"),
        }
        for method, each in values.items()
        for scene, value in enumerate(each)
        for scenario in ("clean", "vi_blur")
    ]
    command = "python -m jobs.evaluate models:/x/3 --scenes <s>"
    link = "http://mlflow:5000/#/experiments/1/runs/2"
    page, checker = write(
        tmp_path / "r.html", rows=rows, examples=[], command=command, run_url=link
    )
    said = next(text for text in checker.text if text.startswith("Against the average"))
    assert said == (
        "Against the average of the sources the model is better on VIF, worse on Qabf and not told apart "
        "on SSIM (2 scenarios; 95 % intervals over 3 scenes). Of 3 methods measured in every scenario "
        "it is first on none; other on VIF."
    )
    assert page.index("Against the average") < page.index("<table")
    assert checker.text[-1] == command
    assert checker.addresses == [link]


def test_what_is_above_the_scenarios_has_the_strongest_methods_and_the_extras(
    tmp_path: Path,
) -> None:
    values = {"model": 0.5, "maximum": 0.4, "average": 0.3, "weak": 0.1, "weaker": 0.2, "best": 0.9}
    rows = [
        make_rows()[0] | {"method": method, "VIF": value, "flicker": 10 * value, "MUSIQ": math.nan}
        for method, value in values.items()
    ]
    page, _ = write(tmp_path / "r.html", rows=rows, examples=[])
    tile = page.partition("VIF, all scenarios")[2].partition("</div>")[0]
    assert re.findall(r"against (\S+)<", tile) == ["average", "best", "maximum", "weaker"]
    table = page.partition("<h2>All scenarios</h2>")[2].partition("</section>")[0]
    line = re.search(r'<tr><th scope="row">weak</th>(.*?)</tr>', table, re.DOTALL)
    assert line
    # VIF, Qabf, SSIM, then what was asked for; flicker is better when it is low.
    cells = re.findall(r"<td>(.*?)</td>", line[1])
    assert cells == ["0.100", "0.500", "0.700", "<strong>1.000</strong>", "–"]
    assert "flicker: lower is better" in table


def test_a_metric_has_a_table_with_a_column_a_method(tmp_path: Path) -> None:
    page, _ = write(tmp_path / "r.html")
    tables = re.findall(r"<h3>(\w+)</h3>\s*<div class=\"wide\">(.*?)</table>", page, re.DOTALL)
    assert [name for name, _ in tables] == ["VIF", "Qabf", "SSIM", "EN"]
    for _, table in tables:
        assert re.findall(r'<th scope="col">(.*?)</th>', table.replace("<wbr>", "")) == [
            "Scenario",
            *METHODS,
        ]
        assert [len(re.findall("<td", line)) for line in table.split("<tr")[2:]] == [2, 2]
