"""One vector per item from its text and all its pictures: once per content, and from whatever an item has."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from pipeline import features
from pipeline.encoders import load
from pipeline.encoders.base import Item
from pipeline.features import stage
from pipeline.store import Store
from schemas.encoders import EncoderSpec
from schemas.errors import UserError
from schemas.lineage import TableVersion
from tests.support.published import jpeg, publish_gallery, publish_images, publish_items
from tests.support.real_models import tiny_clip, tiny_reader

RED, BLUE, GREEN, BROKEN = jpeg((200, 0, 0)), jpeg((0, 0, 200)), jpeg((0, 200, 0)), jpeg((9, 9, 9))[:40]
Shop = Mapping[str, tuple[str | None, list[bytes | None]]]
"""Item id → its text and its pictures, the main one first; None is a download that failed."""
SHOP: Shop = {
    "mug": ("a red mug", [RED, BLUE]),
    "lamp": ("a lamp", [GREEN]),
    "text": ("a book", [None, None]),
    "picture": (None, [BLUE, None, RED]),
    "none": (None, [None]),
    "again": ("a lamp", [GREEN, GREEN]),
}


@pytest.fixture(scope="module", params=[tiny_reader, tiny_clip], ids=["messages", "towers"])
def spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EncoderSpec:
    folder = tmp_path_factory.mktemp("model")
    request.param(folder)
    return EncoderSpec(kind="multimodal", model=str(folder / "model"), dtype="float32", batch_size=2)


def publish(store: Store, shop: Shop) -> dict[str, TableVersion]:
    return {
        "source": publish_items(store, [(i, text) for i, (text, _) in shop.items()]),
        "images": publish_images(store, [(i, pictures[0]) for i, (_, pictures) in shop.items()]),
        "gallery": publish_gallery(store, [(i, pictures[1:]) for i, (_, pictures) in shop.items()]),
    }


def run(store: Store, spec: EncoderSpec, shop: Shop) -> tuple[TableVersion, dict[str, float]]:
    published = features.run(store=store, **publish(store, shop), name="unified", spec=spec)
    return published.tables["features/unified"], dict(published.counts)


def rows(store: Store, version: TableVersion) -> dict[str, dict[str, object]]:
    return {row["item_id"]: row for row in store.read(version).to_pylist()}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_every_item_is_encoded_from_what_it_has_and_is_null_if_it_has_nothing(store: Store, spec: EncoderSpec) -> None:
    version, counts = run(store, spec, SHOP)
    made = rows(store, version)
    assert list(made) == list(SHOP)
    assert [i for i, row in made.items() if row["embedding"] is None] == ["none"]
    assert (counts["encoded"], counts["missing"], counts["reused"], counts["pooled"]) == (4, 1, 1, 0)
    assert version.lineage["cm3.inputs"].count(":") == 3, "items, images and gallery"


def test_the_content_hash_is_that_of_the_parts_in_order(store: Store, spec: EncoderSpec) -> None:
    made = rows(store, run(store, spec, SHOP)[0])
    parts = "\n".join(map(sha256, (b"a red mug", RED, BLUE)))
    assert made["mug"]["content_hash"] == sha256(parts.encode())
    assert made["text"]["content_hash"] == sha256(b"a book")
    assert made["none"]["content_hash"] is None
    assert made["lamp"]["content_hash"] == made["again"]["content_hash"], "the same picture twice counts once"


def test_one_changed_picture_encodes_exactly_one_item_and_a_second_run_none(store: Store, spec: EncoderSpec) -> None:
    run(store, spec, SHOP)
    assert run(store, spec, SHOP)[0].reused
    changed = {**SHOP, "mug": ("a red mug", [RED, GREEN])}
    assert run(store, spec, changed)[1]["encoded"] == 1
    reordered = {**SHOP, "mug": ("a red mug", [BLUE, RED])}
    assert run(store, spec, reordered)[1]["encoded"] == 1, "the order of the parts counts"
    assert run(store, spec, dict(reversed(SHOP.items())))[1]["encoded"] == 0


def test_vectors_are_those_of_the_encoder_whatever_the_shards(
    store: Store, spec: EncoderSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "IMAGE_SHARD", 3)
    made = rows(store, run(store, spec, SHOP)[0])
    encoder = load.load(spec)
    from pipeline.encoders.transforms import read_picture

    items = {"mug": Item("a red mug", (read_picture(RED), read_picture(BLUE))), "text": Item("a book", ())}
    for item_id, item in items.items():
        expected = encoder.encode(encoder.preprocess([item]))[0]  # type: ignore[union-attr, arg-type, list-item]
        np.testing.assert_allclose(made[item_id]["embedding"], expected, atol=1e-5)


def test_a_picture_that_cannot_be_read_is_left_out_with_a_reason(store: Store, spec: EncoderSpec) -> None:
    shop: Shop = {"whole": ("a mug", [RED]), "part": ("a mug", [RED, BROKEN]), "broken": (None, [BROKEN])}
    version, counts = run(store, spec, shop)
    made = rows(store, version)
    np.testing.assert_allclose(made["part"]["embedding"], made["whole"]["embedding"], atol=1e-5)
    assert made["part"]["content_hash"] == made["whole"]["content_hash"]
    assert made["broken"]["embedding"] is made["broken"]["content_hash"] is None
    assert "truncated" in str(made["part"]["error"]).lower()
    assert made["part"]["error"] == made["broken"]["error"]
    assert counts["unreadable"] == 2


def test_an_item_that_the_model_does_not_take_is_a_row_with_a_reason(store: Store, tmp_path: Path) -> None:
    tiny_reader(tmp_path)
    spec = EncoderSpec(kind="multimodal", model=str(tmp_path / "model"), dtype="float32")
    shop: Shop = {"a": ("a mug", [RED]), "b": ("its mark: <image>", [BLUE]), "c": ("a lamp", [GREEN])}
    version, counts = run(store, spec, shop)
    made = rows(store, version)
    assert [made[i]["embedding"] is None for i in "abc"] == [False, True, False]
    assert str(made["b"]["error"]).startswith("the model does not take it: ")
    assert (counts["encoded"], counts["unreadable"], counts["missing"]) == (2, 1, 0)


def test_a_text_that_is_refused_alone_is_still_a_part_of_other_items(store: Store, tmp_path: Path) -> None:
    tiny_reader(tmp_path)
    spec = EncoderSpec(kind="multimodal", model=str(tmp_path / "model"), dtype="float32")
    shop: Shop = {"a": ("its mark: <image>", [None]), "b": ("its mark: <image>", [BLUE])}
    version, counts = run(store, spec, shop)
    made = rows(store, version)
    assert made["a"]["embedding"] is made["a"]["content_hash"] is None
    assert str(made["a"]["error"]).startswith("the model does not take it: ")
    assert counts["encoded"] + counts["unreadable"] == 2


def test_an_item_with_an_unreadable_picture_is_not_encoded_again(store: Store, spec: EncoderSpec) -> None:
    shop: Shop = {"part": ("a mug", [RED, BROKEN]), "broken": (None, [BROKEN])}
    first = rows(store, run(store, spec, shop)[0])
    version, counts = run(store, spec, {**shop, "new": ("a lamp", [GREEN])})
    assert (counts["encoded"], counts["reused"]) == (1, 1)
    again = rows(store, version)
    assert {i: again[i] for i in shop} == first


def test_items_with_a_longer_text_than_the_model_reads_are_marked_and_counted(store: Store, spec: EncoderSpec) -> None:
    spec = spec.model_copy(update={"max_tokens": 120})
    shop: Shop = {"short": ("a mug", [RED]), "long": ("a mug " * 100, [RED, BROKEN]), "text": ("a lamp " * 100, [None])}
    version, counts = run(store, spec, shop | {"picture": (None, [BLUE]), "none": (None, [None])})
    marks = {i: row["cut"] for i, row in rows(store, version).items()}
    assert marks == {"short": False, "long": True, "text": True, "picture": False, "none": None}
    assert counts["cut"] == 2


def test_a_sentence_model_that_reads_pictures_too_leaves_out_a_text_with_its_mark(store: Store, tmp_path: Path) -> None:
    tiny_reader(tmp_path)
    spec = EncoderSpec(kind="sentence", model=str(tmp_path / "model"), dtype="float32")
    texts = [("a", "a mug"), ("b", "its mark: <image>"), ("c", "a lamp"), ("d", None), ("e", "<image> again")]
    published = features.run(store=store, source=publish_items(store, texts), name="sentence", spec=spec)
    made = rows(store, published.tables["features/sentence"])
    assert [made[i]["embedding"] is None for i in "abcde"] == [False, True, False, True, True]
    assert str(made["b"]["error"]).startswith("the model does not take it: Found 1 <image>")
    assert made["a"]["error"] is made["d"]["error"] is None
    counts = published.counts
    assert (counts["encoded"], counts["unreadable"], counts["missing"], counts["cut"]) == (2, 2, 1, 0)


def test_tables_of_other_items_or_kinds_are_refused(store: Store, spec: EncoderSpec) -> None:
    tables = publish(store, SHOP)
    other = publish_images(store, [("mug", RED), ("other", BLUE)])
    with pytest.raises(UserError, match=r"Where the items have 'lamp', images version \w+ has 'other'"):
        features.run(store=store, **tables | {"images": other}, name="unified", spec=spec)
    with pytest.raises(UserError, match="'multimodal' was given 'no table'"):
        features.run(store=store, source=tables["source"], name="unified", spec=spec)
    words = EncoderSpec(kind="sentence", model="offline:minilm")
    with pytest.raises(UserError, match="'sentence' was given 'images'"):
        features.run(store=store, source=tables["source"], images=tables["images"], name="sentence", spec=words)
