"""Charts as inline SVG."""

from pipeline.report import charts


def test_charts_take_the_pages_colours_and_draw_untrusted_names_as_text() -> None:
    name = "$\\frac{1}{</svg><script>"
    svg = str(charts.curves({name: [(1, 0.5), (2, 0.7)], "b": [(1, 1.0), (2, 0.1)]}, best=2))
    assert "var(--series-1)" in svg
    assert "var(--series-2)" in svg
    assert "#0102" not in svg
    assert "<script>" not in svg
    assert "&lt;script&gt;" in svg
    assert svg == str(charts.curves({name: [(1, 0.5), (2, 0.7)], "b": [(1, 1.0), (2, 0.1)]}, best=2))
