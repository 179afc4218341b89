"""What the sections of a report say."""

import base64
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from pipeline import features, report
from pipeline.ingest.tally import Quality
from pipeline.report.sections import host
from pipeline.report.wording import percent
from pipeline.similarity.duplicates import duplicates
from pipeline.similarity.quality import assess
from pipeline.store import Store
from schemas.encoders import EncoderSpec
from schemas.report import ReportConfig
from tests.pipeline.report.conftest import Run
from tests.support.html_page import HtmlPage
from tests.support.published import CountingTextEncoder, jpeg, publish, publish_images, publish_items


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


def test_what_changed_since_the_previous_version(small_run: Run, store: Store, tmp_path: Path) -> None:
    run, after = small_run
    items = run.read(after["items"])
    fewer = publish(store, "items", items.slice(4), dataset="demo")
    before = {**after, "items": fewer, "features/old": after["features/clip"]}
    output = report.run(
        store=run,
        tables=after,
        output=tmp_path / "report.html",
        config=ReportConfig(thumbnail=48, users=2, captions=4),
        previous=before,
    )
    text = HtmlPage(output.read_text(encoding="utf-8")).text
    assert "items changed 4 added 56 60 +4" in text
    assert "quality same" in text
    assert "features/old gone" in text
    assert "NDCG@20 went from" in text


def test_rules_about_pictures_show_the_pictures_of_their_examples(store: Store, tmp_path: Path) -> None:
    tally = Quality()
    tally.add("items.csv", "title_html", "repaired", 1, ("A",))
    tally.add("images", "picture_shared_by_many", "dropped", 12, ("B", "gone"))
    tables = {
        "items": publish_items(store, [("A", "a"), ("B", "b")]),
        "images": publish_images(store, [("A", jpeg((9, 99, 9))), ("B", jpeg((200, 0, 0)))]),
        "quality": publish(store, "quality", tally.table()),
    }
    output = report.run(
        store=store, tables=tables, output=tmp_path / "r.html", config=ReportConfig(max_items=1, thumbnail=48)
    )
    page = HtmlPage(output.read_text(encoding="utf-8"))
    data = json.loads(page.scripts[0])
    (example,) = [attributes["data-thumb"] for tag, attributes in page.tags if attributes.get("class") == "example"]
    picture = Image.open(io.BytesIO(base64.b64decode(data["thumbs"][int(example)])))
    red, green, _ = picture.convert("RGB").getpixel((5, 5))
    assert (red > 150, green < 60) == (True, True)
    assert data["id"] == ["A"]


def test_the_graph_is_measured_by_feature_and_says_how_exact_it_is(hostile_run: Run, page: HtmlPage) -> None:
    store, tables = hostile_run
    assert "compared with the items of 9 of 1,000 clusters" in page.text
    assert "on a sample: clip 98.1%, fused 97.5%." in page.text
    features = {name: tables[f"features/{name}"] for name in ("caption", "clip", "sentence")}
    interactions = tables["interactions"]
    measures = assess(store=store, graph=tables["similarity"], features=features, interactions=interactions)
    values = {(row["measure"], row["feature"], row["other"]): row["value"] for row in measures.to_pylist()}
    assert f"{values['lift', 'clip', None]:.1f}" in page.text
    agreement = f"clip and sentence {percent(values['agreement', 'clip', 'sentence'])} in common"
    assert agreement in page.text
    pairs = duplicates(store=store, graph=tables["similarity"], features=features).to_pylist()
    first = pairs[0]
    alike = [row for row in pairs if (row["feature"], row["kind"]) == (first["feature"], first["kind"])]
    line = f"{first['feature']} {first['kind']} {len(alike)} {first['item_id']} = {first['duplicate_id']}"
    assert line in page.text


def test_the_page_says_which_training_a_figure_comes_from_and_lists_the_item_weights(page: HtmlPage) -> None:
    assert "(tables metrics, epochs) come from a first training, on the training split" in page.text
    assert "item_weights, recommendations) come from a second one, on all interactions" in page.text
    assert re.search(r"demo/embeddings/users@\w+ .*demo/item_weights@\w+ .*demo/recommendations@", page.text)


def test_texts_longer_than_their_model_reads_are_counted(store: Store, tmp_path: Path) -> None:
    items = publish_items(store, [("a", "mug " * 200), ("b", "a lamp"), ("c", "cup " * 200), ("d", None)])
    spec = EncoderSpec(kind="sentence", model="/counted")
    words = features.run(store=store, source=items, name="words", spec=spec, encoder=CountingTextEncoder()).tables
    page = report.run(store=store, tables={"items": items, **words}, output=tmp_path / "r.html", config=ReportConfig())
    assert "3 of 4, 2 longer than the model reads" in HtmlPage(page.read_text()).text
