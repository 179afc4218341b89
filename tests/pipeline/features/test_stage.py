"""The features stage: once per content, aligned by id, null where a modality is missing, idle if nothing changed."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import features
from pipeline.encoders import load
from pipeline.encoders.base import Vectors
from pipeline.features import shards, stage
from pipeline.store import Store
from schemas.encoders import EncoderSpec
from schemas.errors import UserError
from schemas.lineage import TableVersion
from tests.support.published import (
    CountingImageEncoder,
    CountingTextEncoder,
    jpeg,
    publish_images,
    publish_items,
    vector_of,
    vectors,
)

WORDS = EncoderSpec(kind="sentence", model="/counted")
EYES = EncoderSpec(kind="timm", model="/counted", batch_size=4)
RED, BLUE, GREEN = jpeg((200, 0, 0)), jpeg((0, 0, 200)), jpeg((0, 200, 0))


Result = tuple[TableVersion, Mapping[str, float]]


def extract_words(store: Store, texts: Sequence[tuple[str, str | None]], **options: object) -> Result:
    encoder = options.pop("encoder", None) or CountingTextEncoder()
    source = publish_items(store, texts, **options)  # type: ignore[arg-type]
    published = features.run(store=store, source=source, name="sentence", spec=WORDS, encoder=encoder)  # type: ignore[arg-type]
    return published.tables["features/sentence"], published.counts


def extract_eyes(
    store: Store, pictures: Sequence[tuple[str, bytes | None]], encoder: CountingImageEncoder, dataset: str = "shop"
) -> Result:
    source = publish_images(store, pictures, dataset)
    published = features.run(store=store, source=source, name="vision", spec=EYES, encoder=encoder)
    return published.tables["features/vision"], published.counts


def test_every_item_gets_its_own_vector_in_the_order_of_the_source(store: Store) -> None:
    texts = [("c", "a cup"), ("a", "a lamp"), ("b", "a bowl")]
    table = pl.read_parquet(extract_words(store, texts)[0].path)
    assert table["item_id"].to_list() == ["c", "a", "b"]
    for (_, text), row in zip(texts, table["embedding"], strict=True):
        np.testing.assert_array_equal(row.to_numpy(), vector_of(text))


def test_an_item_without_words_has_a_null_and_is_counted(store: Store) -> None:
    version, counts = extract_words(store, [("a", "a cup"), ("b", None), ("c", "")])
    assert vectors(version)["b"] == [None]
    assert vectors(version)["c"] != [None]
    assert (counts["encoded"], counts["missing"]) == (2, 1)


def test_the_content_hash_is_the_sha256_of_the_text(store: Store) -> None:
    version, _ = extract_words(store, [("a", "abc"), ("b", None)])
    assert pl.read_parquet(version.path)["content_hash"].to_list() == [
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        None,
    ]


def test_equal_contents_are_encoded_once(store: Store) -> None:
    eyes = CountingImageEncoder()
    version, counts = extract_eyes(store, [("a", RED), ("b", BLUE), ("c", RED)], eyes)
    assert sorted(eyes.seen) == sorted([RED, BLUE])
    assert vectors(version)["a"] == vectors(version)["c"]
    assert (counts["encoded"], counts["reused"]) == (2, 1)


def test_a_second_run_is_reused_and_asks_the_encoder_nothing(store: Store) -> None:
    words = CountingTextEncoder()
    first, _ = extract_words(store, [("a", "a cup")], encoder=words)
    second, _ = extract_words(store, [("a", "a cup")], encoder=words)
    assert second.reused
    assert second.path == first.path
    assert words.seen == ["a cup"]


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "renamed"},
        {"price": 2.0},
        {"texts": [("b", "a lamp"), ("a", "a cup")]},
        {"texts": [("x", "a cup"), ("y", "a lamp")]},
        {"texts": [("a", "a cup")]},
    ],
    ids=["rename", "price", "reorder", "new ids", "fewer items"],
)
def test_a_change_that_leaves_the_words_alone_encodes_nothing(store: Store, change: dict[str, object]) -> None:
    words = CountingTextEncoder()
    extract_words(store, [("a", "a cup"), ("b", "a lamp")], encoder=words)
    words.seen.clear()
    options = {"texts": [("a", "a cup"), ("b", "a lamp")]} | change
    version, counts = extract_words(store, encoder=words, **options)  # type: ignore[arg-type]
    assert words.seen == []
    assert counts["encoded"] == 0
    assert not version.reused


def test_one_changed_picture_encodes_one(store: Store) -> None:
    eyes = CountingImageEncoder()
    extract_eyes(store, [("a", RED), ("b", BLUE)], eyes)
    eyes.seen.clear()
    extract_eyes(store, [("a", RED), ("b", GREEN)], eyes)
    assert eyes.seen == [GREEN]


def test_a_changed_encoder_encodes_everything_again_and_the_other_feature_keeps_its_vectors(store: Store) -> None:
    texts = [("a", "a cup"), ("b", "a lamp")]
    old, new = CountingTextEncoder("old"), CountingTextEncoder("new")
    eyes = CountingImageEncoder()
    extract_words(store, texts, encoder=old)
    extract_eyes(store, [("a", RED)], eyes)
    extract_words(store, texts, encoder=new)
    extract_eyes(store, [("a", RED)], eyes)
    assert sorted(new.seen) == ["a cup", "a lamp"]
    assert eyes.seen == [RED]


def test_with_everything_in_the_cache_the_model_is_not_even_loaded(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = CountingTextEncoder()
    extract_words(store, [("a", "a cup"), ("b", "a lamp")], encoder=words)

    def refuse(spec: EncoderSpec) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(load, "load", refuse)
    monkeypatch.setattr(load, "fingerprint", lambda spec: words.fingerprint)
    for texts in ([("a", "a cup"), ("b", "a lamp")], [("b", "a lamp")]):
        source = publish_items(store, texts)
        features.run(store=store, source=source, name="sentence", spec=WORDS)


def test_a_model_is_loaded_once_however_many_threads_decode(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache knows the vectors' width from an earlier run, so the first new picture is what asks for the model."""
    eyes, loading_threads = CountingImageEncoder(), []
    extract_eyes(store, [("a", RED)], eyes)

    def count_and_load(spec: EncoderSpec) -> CountingImageEncoder:
        loading_threads.append(threading.current_thread())
        return eyes

    monkeypatch.setattr(load, "load", count_and_load)
    monkeypatch.setattr(load, "fingerprint", lambda spec: eyes.fingerprint)
    source = publish_images(store, [("a", RED), ("b", BLUE), ("c", GREEN)], "shop")
    assert features.run(store=store, source=source, name="vision", spec=EYES).counts["encoded"] == 2
    assert loading_threads == [threading.current_thread()]


@pytest.mark.parametrize("shard", [1, 256])
def test_a_picture_that_the_encoder_cannot_read_is_a_null_with_the_reason_wherever_it_stands(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, shard: int
) -> None:
    monkeypatch.setattr(stage, "IMAGE_SHARD", shard)
    pictures = [("a", RED), ("broken", RED[:40]), ("none", None), ("broken too", RED[:40])]
    version, counts = extract_eyes(store, pictures, CountingImageEncoder())
    rows = {row["item_id"]: row for row in store.read(version).to_pylist()}
    for item_id in ("broken", "broken too"):
        assert (rows[item_id]["embedding"], rows[item_id]["content_hash"]) == (None, None)
        assert "Truncated" in rows[item_id]["error"]
    assert rows["none"]["embedding"] is rows["none"]["error"] is rows["a"]["error"] is None
    assert rows["a"]["embedding"] is not None
    assert counts == {"encoded": 1, "reused": 0, "missing": 1, "unreadable": 2, "pooled": 0}
    assert "item broken" in caplog.text


def test_nan_from_an_encoder_names_the_item_and_publishes_nothing(store: Store) -> None:
    class Faulty(CountingTextEncoder):
        def encode(self, texts: Sequence[str]) -> Vectors:
            rows = super().encode(texts)
            rows[[text == "a lamp" for text in texts]] = np.nan
            return rows

    with pytest.raises(UserError, match="NaN or infinity for 1 items, among them the-lamp"):
        extract_words(store, [("the-cup", "a cup"), ("the-lamp", "a lamp")], encoder=Faulty())
    with pytest.raises(UserError, match="no table 'features/sentence'"):
        store.latest("shop", "features/sentence")


def test_an_encoder_of_pictures_refuses_a_table_of_words(store: Store) -> None:
    source = publish_items(store, [("a", "a cup")])
    with pytest.raises(UserError, match="'timm' reads images, but was given the table 'items'"):
        features.run(store=store, source=source, name="vision", spec=EYES, encoder=CountingImageEncoder())


def test_an_empty_catalogue_gives_an_empty_table(store: Store) -> None:
    assert extract_words(store, [])[0].rows == 0


def test_batches_never_hold_more_than_the_batch_size_and_shards_are_kept_one_by_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "IMAGE_SHARD", 10)
    monkeypatch.setattr(shards, "threads", lambda: 1)  # which batch is the one that dies
    pictures = [(str(i), jpeg((5 * i, 90, 90), side=8 + i)) for i in range(37)]

    class Dying(CountingImageEncoder):
        def encode(self, pixels: Sequence[object]) -> Vectors:
            assert len(pixels) <= 4
            if len(self.seen) >= 25:
                raise RuntimeError("killed")
            return super().encode(pixels)  # type: ignore[arg-type]

    dying, healthy = Dying(), CountingImageEncoder()
    with pytest.raises(RuntimeError, match="killed"):
        extract_eyes(store, pictures, dying)
    version, _ = extract_eyes(store, pictures, healthy)
    assert len(healthy.seen) == 17, "two whole shards of ten were kept"
    assert {i: rows[0] for i, rows in vectors(version).items()} == {
        i: pytest.approx(vector_of(picture)) for i, picture in pictures
    }


contents = st.one_of(st.none(), st.text(max_size=6))
catalogues = st.lists(st.tuples(st.text("abcdef", min_size=1, max_size=3), contents), max_size=40)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=catalogues, second=catalogues, broken=st.sets(st.integers(0, 39)), seed=st.randoms(use_true_random=False))
def test_whatever_is_shuffled_dropped_doubled_or_broken_every_vector_belongs_to_its_item(
    tmp_path_factory: pytest.TempPathFactory,
    first: list[tuple[str, str | None]],
    second: list[tuple[str, str | None]],
    broken: set[int],
    seed: object,
) -> None:
    """Two versions of a catalogue share one cache; the second is the first shuffled, with items added and damaged."""
    store = Store(tmp_path_factory.mktemp("store"))
    mixed = [*first, *second]
    seed.shuffle(mixed)  # type: ignore[attr-defined]
    mixed = [(i, None if place in broken else text) for place, (i, text) in enumerate(mixed)]
    for catalogue in (first, mixed):
        old_shard, stage.TEXT_SHARD = stage.TEXT_SHARD, 7
        try:
            version, _ = extract_words(store, catalogue)
        finally:
            stage.TEXT_SHARD = old_shard
        table = pl.read_parquet(version.path)
        assert table["item_id"].to_list() == [i for i, _ in catalogue]
        for (_, text), row in zip(catalogue, table["embedding"], strict=True):
            if text is None:
                assert row is None
            else:
                np.testing.assert_array_equal(row.to_numpy(), vector_of(text))


def test_a_store_reads_back_a_table_with_nulls(store: Store) -> None:
    version, _ = extract_words(store, [("a", "a cup"), ("b", None)])
    assert store.read(version)["embedding"].null_count == 1


def test_texts_longer_than_the_model_reads_are_marked_and_counted_in_every_later_run_too(store: Store) -> None:
    texts = [
        ("long", "a very long text " * 20),
        ("short", "a cup"),
        ("none", None),
        ("again", "a very long text " * 20),
    ]
    for more in ([], [("new", "a lamp")]):
        version, counts = extract_words(store, [*texts, *more])
        marked = dict(zip(*(store.read(version)[name].to_pylist() for name in ("item_id", "cut")), strict=True))
        assert marked == {"long": True, "short": False, "none": None, "again": True} | {i: False for i, _ in more}
        assert counts["cut"] == 2


def test_of_texts_that_a_release_without_the_mark_encoded_it_is_not_known(store: Store) -> None:
    extract_words(store, [("a", "a cup")])
    (kept,) = Path(store.root).glob("_cache/features/*/*.parquet")
    pq.write_table(pq.read_table(kept).drop_columns("cut"), kept, write_page_checksum=True)
    words = CountingTextEncoder()
    version, _ = extract_words(store, [("a", "a cup"), ("b", "a lamp")], encoder=words)
    assert words.seen == ["a lamp"]
    assert store.read(version)["cut"].to_pylist() == [None, False]
