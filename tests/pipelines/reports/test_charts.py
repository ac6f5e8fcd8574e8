from pipelines.reports.charts import Bar, BarChart, histogram
from pipelines.reports.page import templates


def draw(macro: str, chart: object) -> str:
    return getattr(templates().get_template("charts.html.j2").module, macro)(chart)


def test_bars_show_labels_numbers_and_whiskers() -> None:
    bars = [
        Bar(label="<model>", mean=0.5, low=0.4, high=0.6),
        Bar(label="b", mean=-0.2, low=-0.3, high=-0.1),
    ]
    chart = draw("bar_chart", BarChart("VIF", bars, signed=True))
    assert chart.count("<rect") == chart.count('class="whisker"') == 2
    assert "&lt;model&gt;" in chart
    assert "+0.500" in chart
    assert "\u22120.200" in chart
    assert 'class="loss"' in chart


def test_a_bar_of_zero_is_drawn() -> None:
    chart = BarChart("VIF", [Bar(label="b", mean=0, low=0, high=0)])
    assert "nan" not in draw("bar_chart", chart)


def test_a_histogram_names_its_range_or_its_only_value() -> None:
    drawn = draw("histogram", histogram("sigma <px>", [1.0, 2.0, 2.0, 4.5]))
    assert "sigma &lt;px&gt;" in drawn
    assert "4 values, mean 2.38" in drawn
    assert ">1</text>" in drawn
    assert ">4.5</text>" in drawn
    assert drawn.count("<rect") == 6
    single = draw("histogram", histogram("width", [640, 640]))
    assert single.count("<text") == 1
    assert ">640</text>" in single
