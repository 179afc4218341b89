"""Charts as inline SVG by matplotlib: no script and about 15 kB each, where plotly.js alone would take 4.5 of 5 MB.

Colours and fonts are left to the page's style sheet, so one chart serves light and dark.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

SERIES = 8
_TEXT, _GRID, _GROUND = "#010203", "#010204", "#010205"
_PLACEHOLDERS = {f"#0102{16 + i:02x}": f"var(--series-{i + 1})" for i in range(SERIES)} | {
    _TEXT: "var(--muted)",
    _GRID: "var(--rule)",
    _GROUND: "var(--surface)",
}
"""Colours in matplotlib's output → the page's own."""
_MARKERS = "osD^vPX*"
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a name is not the start of a formula
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _TEXT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": _TEXT,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "savefig.transparent": True,
}


def curves(
    series: Mapping[str, Sequence[tuple[int, float]]], *, best: int | None = None, over: str = "epoch"
) -> Markup:
    """Lines over epochs or runs. Args: series: name → (epoch, value) pairs; best: epoch to mark with a line."""
    with _figure("curves" + "".join(series), 2.7) as (figure, axes, svg):
        for number, (name, points) in enumerate(series.items()):
            xs, ys = zip(*points, strict=True)
            marks: dict[str, Any] = {
                "marker": _MARKERS[number % 8],
                "markersize": 3.5,
                "markevery": max(1, len(xs) // 8),
            }
            axes.plot(xs, ys, color=colour(number), label=name, **marks)
        if best is not None:
            axes.axvline(best, color=_TEXT, linewidth=1, linestyle=(0, (3, 3)))
        axes.set_xlabel(over)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="x", visible=False)
        axes.margins(x=0.02)
        if len(series) > 1:
            _legend(figure, axes, len(series))
    return svg.markup


def bars(groups: Sequence[str], series: Mapping[str, Sequence[tuple[float, float]]]) -> Markup:
    """Bars side by side for each group. Args: series: name → (value, deviation) for each group; 0: no error bar."""
    with _figure("bars" + "".join(series), 2.7) as (figure, axes, svg):
        width = 0.8 / max(1, len(series))
        for number, (name, values) in enumerate(series.items()):
            at = [place - 0.4 + width * (number + 0.5) for place in range(len(groups))]
            heights, deviations = [value for value, _ in values], [deviation for _, deviation in values]
            axes.bar(at, heights, width * 0.92, color=colour(number), label=name)
            if any(deviations):
                axes.errorbar(at, heights, deviations, fmt="none", ecolor=_TEXT, elinewidth=1.2, capsize=2)
        axes.set_xticks(range(len(groups)), groups)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="x", visible=False)
        axes.set_ylim(bottom=0)
        _legend(figure, axes, len(series))
    return svg.markup


def colour(number: int) -> str:
    """The placeholder that becomes the page's colour of series `number`, from 0."""
    return f"#0102{16 + number % SERIES:02x}"


class _Drawing:
    markup = Markup("")


@contextmanager
def _figure(salt: str, height: float) -> Iterator[tuple[Figure, Axes, _Drawing]]:
    """A small figure; the block draws into it, and it becomes SVG when the block ends."""
    drawing = _Drawing()
    style: Any = _STYLE | {"svg.hashsalt": salt}
    with mpl.rc_context(style):
        figure = Figure(figsize=(4.2, height), dpi=72)  # SVG's points
        FigureCanvasSVG(figure)  # which measures texts as they are drawn
        axes = figure.add_subplot()
        yield figure, axes, drawing
        # Not the figure's own layout, for whose sake matplotlib would draw everything twice.
        ConstrainedLayoutEngine().execute(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawing.markup = _inline(buffer.getvalue())


def _legend(figure: Figure, axes: Axes, entries: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = min(entries, 3 if sum(map(len, labels)) < 34 else 2)
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=1.4, columnspacing=1.2)


def _inline(svg: str) -> Markup:
    """The SVG element alone, in the page's colours and font, without ids that nothing refers to."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    for placeholder, variable in _PLACEHOLDERS.items():
        svg = svg.replace(placeholder, variable)
    svg = re.sub(r"(font: [^;\"]*?px) [^;\"]+", r"\1 var(--font)", svg)
    referred = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([\w-]+)"', lambda m: m.group(0) if m.group(1) in referred else "", svg)
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" class="chart" aria-hidden="true">', svg, count=1
    )
    return Markup(re.sub(r"\n\s*", "\n", svg))  # noqa: S704 - matplotlib escapes every text it draws
