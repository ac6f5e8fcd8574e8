from pipelines.probes.latents import Point
from pipelines.reports.evaluation_charts import map_of_points
from pipelines.reports.page import templates


def test_map_has_a_mark_a_point_and_a_legend_a_group() -> None:
    draw = templates().get_template("charts.html.j2").module.point_map
    points = [
        Point(x=0, y=0, camera="vi", condition="vi_blur"),
        Point(x=1, y=1, camera="ir", condition="ir_noise"),
        Point(x=2, y=1, camera="ir", condition="ir_noise"),
    ]
    drawn = draw(map_of_points(points))
    assert drawn.count("<circle") == 3 + 2
    assert drawn.count("fill:none") == 2 + 1
    assert "ir noise" in drawn
    assert "nan" not in draw(map_of_points(points[:1]))
