"""The report as a file: complete, self-contained, within its size, and inert whatever catalogue text it holds."""

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline import report
from pipeline.store import Store
from schemas import tables as contract
from schemas.report import ReportConfig
from tests.pipeline.report.conftest import Run
from tests.support.html_page import HtmlPage
from tests.support.published import publish

SMALL = ReportConfig(thumbnail=48, users=2, captions=4)
ITEMS = 2000
"""For which the report's size is promised."""


def test_every_section_is_there_under_its_heading(page: HtmlPage) -> None:
    sections = [a["id"] for tag, a in page.tags if tag == "section"]
    assert sections == [
        "summary",
        "quality",
        "coverage",
        "graph",
        "items",
        "captions",
        "map",
        "metrics",
        "cold",
        "users",
        "training",
        "lineage",
    ]
    assert [a.get("href") for tag, a in page.tags if tag == "a"][1:13] == [f"#{name}" for name in sections]
    labels = {a["aria-labelledby"] for tag, a in page.tags if tag == "section"}
    assert labels <= {a.get("id") for _, a in page.tags}


def test_nothing_in_the_file_points_outside_it(page: HtmlPage) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action", "poster"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), (tag, name, value)


def test_hostile_text_stays_text(page: HtmlPage, html: str, data: dict[str, Any]) -> None:
    assert not any(tag == "img" for tag, _ in page.tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert html.count("</script>") == 2
    assert "{{ 7 * 7 }}" in page.text + " ".join(data["title"])
    assert "</script><script>window.hacked = 1</script>" in data["title"]
    assert "<script>window.hacked" not in html


def test_bidirectional_marks_and_controls_are_taken_out_but_other_scripts_stay(html: str, data: dict[str, Any]) -> None:
    assert not re.search("[\u200e\u200f\u202a-\u202e\u2066-\u2069\x00-\x08]", html)
    assert "Left right and isolated <!--" in data["title"]
    assert "\u05d7\u05d5\u05dc\u05e6\u05d4 \u05d0\u05d3\u05d5\u05de\u05d4" in data["title"]
    assert "\ud55c\uae00 \U0001f600 tab here line break nul" in data["title"]


@pytest.mark.parametrize(
    ("kept", "sections"),
    [
        ((), ()),
        (("items",), ("coverage", "items", "lineage")),
        (("items", "embeddings/items"), ("coverage", "items", "map", "lineage")),
        (("metrics",), ("metrics", "cold", "lineage")),
        (("epochs", "images"), ("quality", "coverage", "training", "lineage")),
    ],
)
def test_a_report_has_the_sections_that_its_tables_fill(
    hostile_run: Run, tmp_path: Path, kept: tuple[str, ...], sections: tuple[str, ...]
) -> None:
    store, tables = hostile_run
    output = tmp_path / "report.html"
    report.run(store=store, tables={name: tables[name] for name in kept}, output=output, config=SMALL)
    page = HtmlPage(output.read_text(encoding="utf-8"))
    assert [a["id"] for tag, a in page.tags if tag == "section"] == ["summary", *sections]
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    assert links[1 : len(sections) + 2] == [f"#{name}" for name in ("summary", *sections)]


def test_the_same_tables_give_the_same_bytes(hostile_run: Run, report_file: Path, tmp_path: Path) -> None:
    store, tables = hostile_run
    again = tmp_path / "again.html"
    report.run(store=store, tables=tables, output=again, config=ReportConfig(thumbnail=64))
    assert again.read_bytes() == report_file.read_bytes()


def test_a_large_catalogue_shows_a_sample_and_says_how_to_see_all(hostile_run: Run, tmp_path: Path) -> None:
    store, tables = hostile_run
    output = tmp_path / "report.html"
    config = SMALL.model_copy(update={"max_items": 30, "users": 1})
    report.run(store=store, tables=tables, output=output, config=config)
    page = HtmlPage(output.read_text(encoding="utf-8"))
    shown = json.loads(page.scripts[0])
    assert len(shown["id"]) == 30
    assert shown["chosen"] == sorted(shown["chosen"], reverse=True)
    sample = "Shown are 30 of 60 items, those of the users below and others chosen by a hash of the id"
    assert page.text.count(sample) == 2  # gallery and map
    (reference,) = re.findall(r"cm3 export (\S+) map.parquet --to atlas", page.text)
    assert reference == f"demo/embeddings/items@{tables['embeddings/items'].version[:8]}"
    for space in shown["spaces"]:
        assert all(0 <= other < 30 for near in space["near"] for other in near)


def test_numbers_that_are_none_leave_a_gap_and_not_a_broken_page(store: Store, tmp_path: Path) -> None:
    prices = [math.nan, math.inf, 2.5, None, None, None, None]
    rows = [{"item_id": i, "categories": [], "price": price} for i, price in zip("abcdefg", prices, strict=True)]
    vectors = [{"item_id": i, "embedding": [math.nan if i == "c" else ord(i) / 100, 1.0]} for i in "abcdefg"]
    near = [
        {"item_id": "a", "neighbor_id": n, "rank": r, "similarity": s}
        for n, r, s in (("b", 1, math.nan), ("c", 2, 0.5))
    ]
    contents = {
        "items": pa.Table.from_pylist(rows, schema=contract.ITEMS),
        "embeddings/items": pa.Table.from_pylist(vectors, schema=contract.item_embeddings(2)),
        "similarity": pa.Table.from_pylist(near, schema=contract.similarity(())),
    }
    tables = {name: publish(store, name, table) for name, table in contents.items()}
    output = report.run(store=store, tables=tables, output=tmp_path / "report.html", config=SMALL)
    page = json.loads(HtmlPage(output.read_text(encoding="utf-8")).scripts[0], parse_constant=pytest.fail)
    assert page["price"] == [None, None, 2.5, None, None, None, None]
    fused, trained = page["spaces"]
    assert fused["near"][0] == [2]
    assert trained["near"][2] == []
    assert all(2 not in near for near in trained["near"])


@pytest.mark.slow
def test_two_thousand_items_with_photographs_and_long_texts_stay_under_five_megabytes(
    store: Store, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    ids = [f"B00{number:07d}" for number in range(ITEMS)]
    text = " ".join(f"word{number}" for number in range(80))
    items = [
        {
            "item_id": item,
            "title": f"{item} {text}"[:180],
            "description": text,
            "brand": "A brand of some length",
            "categories": ["All of them", f"Category {n % 30}", "A third level"],
            "price": 12.5,
            "text": text,
        }
        for n, item in enumerate(ids)
    ]
    pictures = []
    for number, item in enumerate(ids):
        rough = random.integers(0, 255, (14, 14, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(rough).resize((160, 160), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=80)
        pictures.append({"item_id": item, "status": "ok", "sha256": str(number), "image": buffer.getvalue()})
    vectors = random.normal(size=(ITEMS, 16)).astype(np.float32)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=contract.vector(16))
    embeddings = pa.table([ids, embedding], schema=contract.item_embeddings(16))
    contents = {
        "items": pa.Table.from_pylist(items, schema=contract.ITEMS),
        "images": pa.Table.from_pylist(pictures, schema=contract.IMAGES),
        "embeddings/items": embeddings,
    }
    tables = {name: publish(store, name, table, config="large") for name, table in contents.items()}
    output = report.run(store=store, tables=tables, output=tmp_path / "report.html", config=ReportConfig())
    assert 3_000_000 < output.stat().st_size <= ReportConfig().max_bytes < 5_000_000


def test_attributes_are_shown_with_their_commonest_values(small_run: Run, tmp_path: Path) -> None:
    source, tables = small_run
    rows = source.read(tables["captions"])
    colours = pa.array(["<b>red</b>" if n % 3 else None for n in range(len(rows))], pa.string())
    said = rows.append_column(contract.captions(("colour",)).field("attribute_colour"), colours)
    there = Store(tmp_path / "store")
    given = {"items": tables["items"], "captions": publish(there, "captions", said, dataset="demo")}
    output = report.run(store=source, tables=given, output=tmp_path / "report.html", config=SMALL)
    page = HtmlPage(output.read_text(encoding="utf-8"))
    count = len(colours) - colours.null_count
    assert f"colour <b>red</b> {count} " in page.text
    assert f"{count} of {len(rows)}" in page.text
