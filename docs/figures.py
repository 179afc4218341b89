"""The figures of docs/explanation/cm3.md, drawn with our own trainers: `python docs/figures.py docs/images`.

Each is an SVG with its own colours for light and dark, in a font of the reader's system.
"""

import io
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from schemas.training import CM3Config
from trainers.cm3.bezier import spherical_bezier
from trainers.cm3.build import build
from trainers.cm3.losses import calibrated_uniformity
from trainers.cm3.sphere import unit
from trainers.data import Dataset, Modality
from trainers.fit import fit

COLOURS = {  # placeholder → light, dark; as in pipeline/report/templates/style.css
    "#010200": ("#ffffff", "#1d1d1b"),
    "#010201": ("#1c1b1a", "#f0eeea"),
    "#010202": ("#dedad3", "#383632"),
    "#010203": ("#0b6e67", "#56c2b6"),
    "#010204": ("#c2570c", "#f0954f"),
    "#010205": ("#5a4fcf", "#a79df5"),
    "#010206": ("#b3246b", "#f07db1"),
}
GROUND, TEXT, RULE, GREEN, ORANGE, VIOLET, RED = COLOURS
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cm3",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": RULE,
    "axes.labelcolor": TEXT,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "figure.facecolor": GROUND,
    "axes.facecolor": GROUND,
}


def main(folder: Path) -> None:
    """Write both figures."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name, draw in (("cm3-fusion", fusion), ("cm3-calibration", calibration)):
        with mpl.rc_context(STYLE):
            figure = Figure(figsize=(9.2, 4.1), layout="constrained")
            draw(*figure.subplots(1, 2))
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        (folder / f"{name}.svg").write_text(themed(buffer.getvalue()), encoding="utf-8")


def themed(svg: str) -> str:
    """Replace the drawing's fixed colours by a style sheet for light and dark."""
    light = "".join(f"--c{number}:{pair[0]};" for number, pair in enumerate(COLOURS.values()))
    dark = "".join(f"--c{number}:{pair[1]};" for number, pair in enumerate(COLOURS.values()))
    for number, placeholder in enumerate(COLOURS):
        svg = svg.replace(placeholder, f"var(--c{number})")
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"(font: [^;\"]*?px) [^;\"]+", r"\1 system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif", svg)
    svg = re.sub(r"(\d\.\d)\d+(?=[ \"L\n])", r"\1", svg)  # a tenth of a point is enough
    style = f"<style>:root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    return re.sub(r"(<svg [^>]*>)", rf"\1{style}", re.sub(r"\n\s*", "\n", svg), count=1)


def fusion(sphere: Axes, lengths: Axes) -> None:
    """The fusion of three modalities on the sphere in three dimensions, and the length of the straight mean."""
    points = unit(torch.tensor([[-0.85, -0.35, 0.5], [0.05, 0.9, 0.5], [0.85, -0.45, 0.45]]))
    draws = np.random.default_rng(0).beta(0.5, 0.5, (2, 300))
    along = np.linspace(0, 1, 101).repeat(2).reshape(-1, 2).T
    _globe(sphere)
    landed, curve, middle = fused(points, draws), fused(points, along), fused(points, np.full((2, 1), 0.5))
    mean = points.mean(0)
    sphere.scatter(landed[:, 0], landed[:, 1], s=7, color=GREEN, alpha=0.45, linewidths=0, label="draws in training")
    sphere.plot(curve[:, 0], curve[:, 1], color=GREEN, linewidth=1.8, label="the curve, one λ for all steps")
    sphere.plot(*middle[0, :2], "o", color=GREEN, markersize=9, label="λ = 0.5: the embedding, length 1")
    sphere.plot(*mean[:2], "X", color=ORANGE, markersize=9, label=f"straight mean: length {mean.norm():.2f}")
    sphere.plot(points[:, 0], points[:, 1], "s", color=VIOLET, markersize=7, linestyle="", label="the three modalities")
    sphere.legend(loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=1, handlelength=1.2)
    sphere.set_title("Spherical Bézier fusion of three modalities")
    _lengths(lengths)


def fused(points: torch.Tensor, positions: np.ndarray) -> torch.Tensor:
    """The fusion of the same points for each column of `positions`."""
    many = points[:, None].expand(-1, positions.shape[1], -1)
    present = torch.ones(many.shape[:2], dtype=torch.bool)
    return spherical_bezier(many, present, torch.from_numpy(positions).float())


def _globe(axes: Axes) -> None:
    """Draw the unit sphere, seen along its z axis."""
    axes.add_patch(Circle((0, 0), 1, fill=False, edgecolor=RULE, linewidth=1.5))
    angle = np.linspace(0, np.pi, 60)
    for share in (-0.66, -0.33, 0, 0.33, 0.66):
        axes.plot(share * np.sin(angle), np.cos(angle), color=RULE, linewidth=0.8)
        axes.plot(np.cos(angle), share * np.sin(angle), color=RULE, linewidth=0.8)
    axes.set_aspect("equal")
    axes.set_axis_off()


def _lengths(axes: Axes) -> None:
    generator = torch.Generator().manual_seed(0)
    counts = range(1, 7)
    drawn = [unit(torch.randn(m, 2000, 64, generator=generator)) for m in counts]
    straight = [points.mean(0).norm(dim=-1).mean() for points in drawn]
    bezier = [spherical_bezier(p, torch.ones(p.shape[:2], dtype=torch.bool)).norm(dim=-1).mean() for p in drawn]
    axes.plot(counts, bezier, "o-", color=GREEN, label="spherical Bézier")
    axes.plot(counts, straight, "X--", color=ORANGE, label="straight mean")
    axes.set(ylim=(0, 1.08), xlabel="modalities M", ylabel="length of the fused vector")
    axes.set_title("Unrelated directions in 64 dimensions")
    axes.legend(loc="lower left")


def calibration(push: Axes, histogram: Axes) -> None:
    """The push between two items by their distance and content similarity, and its effect in training."""
    angle = np.linspace(0.02, np.pi, 120)
    strongest = max(repulsion(a, 0.0) for a in angle)
    for likeness, line, colour in ((0.0, "-", ORANGE), (0.3, "-.", RED), (0.6, "--", VIOLET), (1.0, ":", GREEN)):
        values = [repulsion(a, likeness) / strongest for a in angle]
        push.plot(2 * np.sin(angle / 2), values, linestyle=line, color=colour, linewidth=2, label=f"s = {likeness:g}")
    push.set(xlabel="distance ||a − b|| of two items", ylabel="push apart", ylim=(0, 1.05))
    push.set_title("Gradient of calibrated uniformity")
    push.legend(title="content similarity", loc="upper right")
    edges = np.linspace(-0.6, 1, 41).tolist()
    for source, label, colour, line in (("none", "plain", ORANGE, "--"), ("fused", "calibrated", GREEN, "-")):
        alike, others = learned_cosines(source)
        shape = {"bins": edges, "density": True, "histtype": "step", "linewidth": 1.9, "linestyle": line}
        histogram.hist(alike, color=colour, label=f"{label}: look-alikes, mean {alike.mean():.2f}", **shape)
        histogram.hist(
            others, color=colour, alpha=0.55, label=f"{label}: all others, mean {others.mean():.2f}", **shape
        )
    histogram.set(xlabel="cosine of two items' trained vectors", ylabel="density, each kind of pair")
    histogram.set(yticks=[], ylim=(0, 9.5))
    histogram.set_title("After 30 epochs on a drawn catalogue")
    histogram.legend(loc="upper left")


def repulsion(angle: float, likeness: float) -> float:
    """|d loss / d angle| of one pair in its own plane, among 254 unrelated items with s = 0."""
    others = unit(torch.randn(254, 62, generator=torch.Generator().manual_seed(0)))
    theta = torch.tensor(angle, requires_grad=True)
    pair = torch.stack([torch.stack([torch.cos(theta), torch.sin(theta)]), torch.tensor([1.0, 0.0])])
    x = torch.block_diag(pair, others)  # type: ignore[no-untyped-call]
    s = torch.zeros(len(x), len(x))
    s[0, 1] = s[1, 0] = likeness
    (slope,) = torch.autograd.grad(calibrated_uniformity(x, s), theta)
    return abs(float(slope))


def learned_cosines(source: str) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of look-alike pairs and of all other pairs of items, after training with `calibration=source`."""
    dataset, kind = catalogue()
    config = CM3Config(
        calibration=source,
        max_epochs=30,
        patience=30,
        dim=32,
        batch_size=1024,
        smoothing=0,
        device="cpu",
        precision="float32",
    )
    model = build(dataset, config)
    fit(model, dataset, config)
    items = unit(model.embeddings().items)
    cosine = (items @ items.T).numpy()[np.triu_indices(len(kind), 1)]
    alike = (kind[:, None] == kind)[np.triu_indices(len(kind), 1)]
    return cosine[alike], cosine[~alike]


def catalogue() -> tuple[Dataset, np.ndarray]:
    """24 kinds of ten look-alike items with two modalities; 300 users who like three kinds each, with exceptions."""
    rng = np.random.default_rng(0)
    kind = np.repeat(np.arange(24), 10)
    features = {}
    for name, width in (("image", 48), ("text", 32)):
        matrix = rng.normal(size=(24, width))[kind] + 0.6 * rng.normal(size=(len(kind), width))
        features[name] = Modality(name, matrix.astype(np.float32), np.ones(len(kind), bool))
    train, held_out = [], []
    for user in range(300):
        weight = np.where(np.isin(kind, rng.choice(24, 3, replace=False)), 12.0, 1.0)
        *chosen, last = rng.choice(len(kind), 20, replace=False, p=weight / weight.sum())
        train += [(user, item) for item in sorted(chosen)]
        held_out.append((user, last))
    users, items = [f"u{row:03d}" for row in range(300)], [f"i{row:03d}" for row in range(len(kind))]
    return Dataset(users, items, np.array(train), np.array(held_out), np.array(held_out), features, None), kind


if __name__ == "__main__":
    main(Path(sys.argv[1]))
