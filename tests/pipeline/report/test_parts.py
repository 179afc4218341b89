"""The report's parts: wording, pictures within a budget, hosts, charts."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.report import charts, wording
from pipeline.report.sections import host
from pipeline.report.selection import _colours
from pipeline.report.spaces import project
from pipeline.report.thumbnails import Thumbnails
from pipeline.store import Store
from schemas import tables as contract
from schemas.lineage import Lineage, TableVersion


def photographs(store: Store, count: int, side: int = 128) -> TableVersion:
    """Pictures as hard to compress as photographs, the last two the same, and one that is no picture."""
    random = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        if number < count - 1:
            rough = random.integers(0, 255, (side // 4, side // 4, 3), dtype=np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(rough).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG")
        rows.append({"item_id": f"i{number}", "status": "ok", "image": buffer.getvalue(), "sha256": None})
        rows[-1]["sha256"] = str(hash(buffer.getvalue()))
    rows.append({"item_id": "broken", "status": "ok", "image": b"not a picture", "sha256": "0"})
    lineage = Lineage(dataset="d", table="images", stage="images", stage_version=1, config={"n": count})
    with store.writer(contract.IMAGES, lineage) as out:
        out.write(pa.Table.from_pylist(rows, schema=contract.IMAGES))
    assert out.version is not None
    return out.version


@pytest.mark.parametrize("budget", [400_000, 80_000, 60_000])
def test_pictures_shrink_until_they_fit_their_budget(store: Store, budget: int) -> None:
    images = photographs(store, 40)
    thumbnails = Thumbnails.read(store, images, {f"i{n}" for n in range(40)} | {"broken"}, 128)
    encoded = thumbnails.encode(budget)
    assert budget / 4 < sum(map(len, encoded)) <= budget


def test_equal_pictures_are_kept_once_and_broken_or_unwanted_ones_left_out(store: Store) -> None:
    thumbnails = Thumbnails.read(store, photographs(store, 10), {"i7", "i8", "i9", "broken"}, 64)
    assert len(thumbnails.encode(1_000_000)) == 2
    assert thumbnails.place == {"i7": 0, "i8": 1, "i9": 1}


def test_numbers_are_written_for_people() -> None:
    assert wording.count(1234567) == "1,234,567"
    assert wording.percent(1) == "100%"
    assert wording.percent(0.99996) == "99.9%"
    assert wording.percent(0.00001) == "0.1%"
    assert wording.size(1_234_567) == "1.2 MB"
    assert wording.change(-0.00123, 4) == "−0.0012"
    assert wording.change(-0.000001, 4) == "±0.0000"
    assert wording.moment("2026-11-04T09:14:07Z") == "4 November 2026, 09:14 UTC"
    assert wording.plural(1, "category", "categories") == "1 category"


def test_long_text_is_cut_and_line_breaks_become_spaces() -> None:
    assert wording.shown("a\n b\tc") == "a b c"
    assert wording.shown("x" * 500, 10) == "x" * 9 + "…"
    assert wording.shown("a\ud800b\u202ec") == "abc"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (None, "no address"),
        ("https://user:secret@Example.com/a.jpg?token=1", "Example.com"),
        ("http://[::1/a.jpg", "unreadable address"),
        ("images/a.jpg", "no host"),
    ],
)
def test_hosts_are_named_without_credentials_or_paths(url: str | None, expected: str) -> None:
    assert host(url) == expected


def test_the_map_is_coloured_by_the_first_level_that_tells_items_apart() -> None:
    paths = [["Shop", "Mugs"], ["Shop", "Mugs"], ["Shop", "Lamps"], ["Shop"]]
    assert _colours(paths) == (["Mugs", "Lamps", "no category"], [0, 0, 1, 2])


def test_many_categories_share_a_last_colour() -> None:
    legend, places = _colours([[f"c{n % 20:02d}"] for n in range(60)])
    assert len(legend) == 8
    assert legend[-1] == "other"
    assert max(places) == 7


def test_vectors_of_one_number_have_a_map() -> None:
    points = project(np.linspace(-1, 1, 12, dtype=np.float32)[:, None], seed=0)
    assert points.shape == (12, 2)
    assert points.min() >= 0
    assert points.max() <= 1000


def test_charts_take_the_pages_colours_and_draw_untrusted_names_as_text() -> None:
    name = "$\\frac{1}{</svg><script>"
    svg = str(charts.curves({name: [(1, 0.5), (2, 0.7)], "b": [(1, 1.0), (2, 0.1)]}, best=2))
    assert "var(--series-1)" in svg
    assert "var(--series-2)" in svg
    assert "#0102" not in svg
    assert "<script>" not in svg
    assert "&lt;script&gt;" in svg
    assert svg == str(charts.curves({name: [(1, 0.5), (2, 0.7)], "b": [(1, 1.0), (2, 0.1)]}, best=2))


def test_the_reports_own_style_and_script_cannot_end_their_element() -> None:
    folder = Path(wording.__file__).parent / "templates"
    assert "</" not in (folder / "script.js").read_text(encoding="utf-8")
    assert "</" not in (folder / "style.css").read_text(encoding="utf-8")
