"""The report as a file: complete, self-contained, within its size, and deaf to what catalogue text would have it do."""

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import pipeline.report
from pipeline.report.selection import select
from pipeline.report.spaces import nearest
from pipeline.report.wording import percent
from pipeline.similarity.duplicates import duplicates
from pipeline.similarity.quality import assess
from pipeline.store import Store
from schemas import tables as contract
from schemas.lineage import Lineage
from schemas.report import ReportConfig
from tests.pipeline.report.conftest import Run
from tests.support.small_run import publish

SMALL = ReportConfig(thumbnail=48, users=2, captions=4)


class Page(HTMLParser):
    """Start tags with their attributes, the text of scripts, and the visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        self.text += " "
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data


@pytest.fixture(scope="session")
def html(report: Path) -> str:
    return report.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def page(html: str) -> Page:
    return Page(html)


@pytest.fixture(scope="session")
def data(page: Page) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(page.scripts[0])
    return loaded


def test_every_section_is_there_under_its_heading(page: Page) -> None:
    sections = [a["id"] for tag, a in page.tags if tag == "section"]
    assert sections == ["summary", "quality", "coverage", "graph", "items", "captions", "map", "metrics", "cold",
                        "users", "training", "lineage"]  # fmt: skip
    assert [a.get("href") for tag, a in page.tags if tag == "a"][1:13] == [f"#{name}" for name in sections]
    labels = {a["aria-labelledby"] for tag, a in page.tags if tag == "section"}
    assert labels <= {a.get("id") for _, a in page.tags}


def test_nothing_in_the_file_points_outside_it(page: Page) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action", "poster"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), (tag, name, value)


def test_the_policy_lets_the_reports_own_script_run_and_nothing_else(page: Page) -> None:
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert policy is not None
    assert f"script-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy
    assert len(page.scripts) == 2


def test_hostile_text_stays_text(page: Page, html: str, data: dict[str, Any]) -> None:
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


def test_neighbours_are_those_of_a_brute_force_search(hostile_run: Run, data: dict[str, Any]) -> None:
    _, tables = hostile_run
    frame = polars.read_parquet(f"{tables['embeddings/items'].path}/*.parquet")
    vectors = dict(zip(frame["item_id"], frame["embedding"].to_numpy().astype(float), strict=True))
    space = data["spaces"][-1]
    assert space["title"] == "CM3"
    for place in (0, 17, 59):
        own = vectors[data["id"][place]]
        cosine = {i: own @ v / np.linalg.norm(own) / np.linalg.norm(v) for i, v in vectors.items()}
        best = sorted(set(cosine) - {data["id"][place]}, key=lambda item: -cosine[item])[:6]
        assert [data["id"][other] for other in space["near"][place]] == best
        assert space["cosine"][place] == [round(cosine[item] * 100) for item in best]


def test_fused_neighbours_are_the_published_ones_in_their_order(hostile_run: Run, data: dict[str, Any]) -> None:
    store, tables = hostile_run
    rows = store.read(tables["similarity"]).to_pylist()
    space = next(space for space in data["spaces"] if space["title"] == "Fused similarity")
    published = [row["neighbor_id"] for row in rows if row["item_id"] == data["id"][3]]
    assert [data["id"][other] for other in space["near"][3]] == published[:6]


def test_an_item_without_a_modality_has_no_neighbours_there(hostile_run: Run, data: dict[str, Any]) -> None:
    store, tables = hostile_run
    clip = next(space for space in data["spaces"] if space["title"] == "CLIP")
    without = {row["item_id"] for row in store.read(tables["images"], ["item_id", "status"]).to_pylist()
               if row["status"] == "no_url"}  # fmt: skip
    assert without
    for place, item in enumerate(data["id"]):
        assert bool(clip["near"][place]) == (item not in without)
        assert (clip["map"][place] is None) == (item in without)


def test_nearest_leaves_out_the_row_itself_and_copes_with_zero_vectors() -> None:
    places, cosine = nearest(np.array([[1, 0], [2, 0], [0, 1], [0, 0]], np.float32), k=9)
    assert places.shape == (4, 3)
    assert places[0, 0] == 1
    assert cosine[0, 0] == pytest.approx(1)
    assert all(row not in places[row] for row in range(4))
    assert np.isfinite(cosine).all()


@pytest.mark.parametrize("kept", [(), ("items",), ("items", "embeddings/items"), ("metrics",), ("epochs", "images")])
def test_sections_whose_tables_are_absent_say_so(hostile_run: Run, tmp_path: Path, kept: tuple[str, ...]) -> None:
    store, tables = hostile_run
    output = tmp_path / "report.html"
    pipeline.report.run(store=store, tables={name: tables[name] for name in kept}, output=output, config=SMALL)
    text = Page(output.read_text(encoding="utf-8")).text
    for name in ("items", "quality", "images", "captions", "metrics", "epochs", "recommendations"):
        assert (f"This run has no {name} table" in text) == (name not in kept)


def test_what_changed_since_the_previous_version(store: Store, tmp_path: Path) -> None:
    before = publish(store, items=20, users=20, side=48)
    after = publish(store, items=24, users=20, side=48)
    before["features/old"] = before["features/clip"]
    after["quality"] = before["quality"]
    output = tmp_path / "report.html"
    pipeline.report.run(store=store, tables=after, output=output, config=SMALL, previous=before)
    text = Page(output.read_text(encoding="utf-8")).text
    assert "items changed 4 added 20 24 +4" in text
    assert "quality same" in text
    assert "features/old gone" in text
    assert "NDCG@20 went from" in text


def test_the_same_tables_give_the_same_bytes(hostile_run: Run, report: Path, tmp_path: Path) -> None:
    store, tables = hostile_run
    again = tmp_path / "again.html"
    pipeline.report.run(store=store, tables=tables, output=again, config=ReportConfig(thumbnail=64))
    assert again.read_bytes() == report.read_bytes()


def test_a_large_catalogue_shows_its_most_chosen_items(hostile_run: Run, tmp_path: Path) -> None:
    store, tables = hostile_run
    output = tmp_path / "report.html"
    config = SMALL.model_copy(update={"max_items": 30, "users": 1})
    pipeline.report.run(store=store, tables=tables, output=output, config=config)
    page = Page(output.read_text(encoding="utf-8"))
    shown = json.loads(page.scripts[0])
    assert len(shown["id"]) == 30
    assert shown["chosen"] == sorted(shown["chosen"], reverse=True)
    assert "Shown are the 30 most chosen of 60 items" in page.text
    for space in shown["spaces"]:
        assert all(0 <= other < 30 for near in space["near"] for other in near)


def test_users_lists_are_theirs_and_hits_are_marked(hostile_run: Run, page: Page) -> None:
    store, tables = hostile_run
    users = re.findall(r"User (U\d+)", page.text)
    assert len(users) == 6
    events = store.read(tables["interactions"]).to_pylist()
    lists = store.read(tables["recommendations"]).to_pylist()
    hits = 0
    for user in users:
        later = {e["item_id"] for e in events if e["user_id"] == user and e["split"] == "test"}
        hits += len(later & {r["item_id"] for r in lists if r["user_id"] == user and r["rank"] <= 10})
    assert page.text.count("✓ chosen") == hits


def test_a_split_that_holds_out_nothing_has_no_users_to_show(store: Store) -> None:
    run = publish(store, items=40, users=20)
    interactions = store.read(run["interactions"])
    trained = interactions.filter(pc.field("split") == "train")
    lineage = Lineage(dataset="demo", table="interactions", stage="interactions", stage_version=1, config={"own": True})
    with store.writer(trained.schema, lineage) as writer:
        writer.write(trained)
    assert writer.version is not None
    assert select(store, run | {"interactions": writer.version}, ReportConfig(thumbnail=64)).users == []


def test_a_users_story_is_history_first_recommendations_and_what_was_held_out(hostile_run: Run) -> None:
    store, tables = hostile_run
    events = store.read(tables["interactions"]).sort_by("timestamp").to_pylist()
    lists = store.read(tables["recommendations"]).sort_by("rank").to_pylist()
    users = select(store, tables, ReportConfig(history=3, recommendations=5)).users
    assert len(users) == 6
    for user in users:
        own = {split: [e["item_id"] for e in events if e["user_id"] == user.user_id and e["split"] == split]
               for split in ("train", "test")}  # fmt: skip
        assert user.history == own["train"][-3:]
        assert user.later == own["test"]
        assert user.recommended == [r["item_id"] for r in lists if r["user_id"] == user.user_id][:5]


def test_metrics_are_means_with_the_sample_deviation_over_seeds(hostile_run: Run, page: Page) -> None:
    store, tables = hostile_run
    frame = polars.from_arrow(store.read(tables["metrics"]))
    assert isinstance(frame, polars.DataFrame)
    values = frame.filter(model="cm3", split="test", metric="ndcg", k=20)["value"]
    assert f"{values.mean():.4f} ± {values.std():.4f}" in page.text
    assert "over 3 seeds" in page.text
    assert "LightGCN" in page.text


def test_the_graph_is_measured_by_feature_and_says_how_exact_it_is(hostile_run: Run, page: Page) -> None:
    store, tables = hostile_run
    assert "compared with the items of 9 of 1,000 clusters" in page.text
    assert "on a sample: clip 98.1%, fused 97.5%." in page.text
    features = {name: tables[f"features/{name}"] for name in ("caption", "clip", "sentence")}
    interactions = tables["interactions"]
    found = assess(store=store, graph=tables["similarity"], features=features, interactions=interactions)
    values = {(row["measure"], row["feature"], row["other"]): row["value"] for row in found.to_pylist()}
    assert f"{values['lift', 'clip', None]:.1f}" in page.text
    agreement = f"clip and sentence {percent(values['agreement', 'clip', 'sentence'])} in common"
    assert agreement in page.text
    twice = duplicates(store=store, graph=tables["similarity"], features=features).to_pylist()
    first = twice[0]
    alike = [row for row in twice if (row["feature"], row["kind"]) == (first["feature"], first["kind"])]
    said = f"{first['feature']} {first['kind']} {len(alike)} {first['item_id']} = {first['duplicate_id']}"
    assert said in page.text


def test_numbers_that_are_none_leave_a_gap_and_not_a_broken_page(store: Store, tmp_path: Path) -> None:
    prices = [math.nan, math.inf, 2.5, None, None, None, None]
    rows = [{"item_id": i, "categories": [], "price": price} for i, price in zip("abcdefg", prices, strict=True)]
    vectors = [{"item_id": i, "embedding": [math.nan if i == "c" else ord(i) / 100, 1.0]} for i in "abcdefg"]
    near = [
        {"item_id": "a", "neighbor_id": n, "rank": r, "similarity": s}
        for n, r, s in (("b", 1, math.nan), ("c", 2, 0.5))
    ]
    tables = {}
    for name, schema, records in (
        ("items", contract.ITEMS, rows),
        ("embeddings/items", contract.item_embeddings(2), vectors),
        ("similarity", contract.similarity(()), near),
    ):
        lineage = Lineage(dataset="gaps", table=name, stage="x", stage_version=1, config={})
        with store.writer(schema, lineage) as out:
            out.write(pa.Table.from_pylist(records, schema=schema))
        assert out.version is not None
        tables[name] = out.version
    output = pipeline.report.run(store=store, tables=tables, output=tmp_path / "report.html", config=SMALL)
    page = json.loads(Page(output.read_text(encoding="utf-8")).scripts[0], parse_constant=pytest.fail)
    assert page["price"] == [None, None, 2.5, None, None, None, None]
    fused, trained = page["spaces"]
    assert fused["near"][0] == [2]
    assert trained["near"][2] == []
    assert all(2 not in near for near in trained["near"])
