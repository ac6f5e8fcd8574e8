from pipelines.reports.charts import Bar, Dot, bar_chart, dot_map


def test_bars_show_labels_numbers_and_whiskers() -> None:
    bars = [
        Bar(label="<model>", mean=0.5, low=0.4, high=0.6),
        Bar(label="b", mean=-0.2, low=-0.3, high=-0.1),
    ]
    chart = bar_chart("VIF", bars, signed=True)
    assert chart.count("<rect") == chart.count('class="whisker"') == 2
    assert "&lt;model&gt;" in chart
    assert "+0.500" in chart
    assert "\u22120.200" in chart
    assert 'class="loss"' in chart


def test_a_bar_of_zero_is_drawn() -> None:
    assert "nan" not in bar_chart("VIF", [Bar(label="b", mean=0, low=0, high=0)])


def test_map_has_a_mark_a_point_and_a_legend_a_group() -> None:
    dots = [
        Dot(x=0, y=0, group="vi_blur", ring=False),
        Dot(x=1, y=1, group="ir_noise", ring=True),
        Dot(x=2, y=1, group="ir_noise", ring=True),
    ]
    drawn = dot_map("priors", dots)
    assert drawn.count("<circle") == 3 + 2
    assert "ir noise" in drawn
    assert "nan" not in dot_map("priors", dots[:1])
