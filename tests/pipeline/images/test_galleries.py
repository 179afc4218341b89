"""Many pictures of an item: fetched only where a run asks for them, and one vector that is theirs."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.contents import Extraction
from pipeline.features import stage as features
from pipeline.images import stage as images
from pipeline.store import Store
from schemas.encoders import EncoderSpec
from schemas.errors import UserError
from schemas.images import ImagesConfig
from schemas.lineage import Lineage, TableVersion
from schemas.tables import GALLERY, ITEMS
from tests.pipeline.images.test_stage import config, publish_items
from tests.support.chaos_server import ChaosServer
from tests.support.published import (
    DIM,
    CountingImageEncoder,
    jpeg,
    publish_gallery,
    publish_images,
    vector_of,
)

EYES = EncoderSpec(kind="timm", model="/counted", batch_size=4)
RED, BLUE, GREEN, BROKEN = jpeg((200, 0, 0)), jpeg((0, 0, 200)), jpeg((0, 200, 0)), jpeg((9, 9, 9))[:40]
Shop = Sequence[tuple[str, Sequence[bytes | None]]]
"""Items and their pictures, the main one first; None is a download that failed."""


@pytest.fixture
def server() -> Iterator[ChaosServer]:
    with ChaosServer() as server:
        yield server


def publish_shop(store: Store, server: ChaosServer) -> TableVersion:
    """Five items: two further pictures, one of them another's main; a gallery of broken ones; none; one; no picture."""
    pictures = [[1, 2, 3], [4, "/404", "/html"], [3], [5, 6], [None]]
    urls = [[server.url(p if isinstance(p, str) else f"/good/{p}") if p else None for p in each] for each in pictures]
    return publish_items(store, [each[0] for each in urls], [each[1:] for each in urls])  # type: ignore[misc]


def test_by_default_a_gallery_is_not_asked_for(store: Store, server: ChaosServer) -> None:
    tables = images.fetch(store=store, items=publish_shop(store, server), config=config()).tables
    assert list(tables) == ["images"]
    assert server.counts == {"/good/1": 1, "/good/4": 1, "/good/3": 1, "/good/5": 1}


def test_every_further_picture_is_a_row_in_the_items_order_and_none_is_asked_for_twice(
    store: Store, server: ChaosServer
) -> None:
    items = publish_shop(store, server)
    before = images.run(store=store, items=items, config=config())
    tables = images.fetch(store=store, items=items, config=config(pictures="mean")).tables
    assert (tables["images"].version, tables["images"].reused) == (before.version, True)
    rows = store.read(tables["gallery"]).to_pylist()
    assert [(row["item_id"], row["position"], row["status"]) for row in rows] == [
        ("item 0", 1, "ok"), ("item 0", 2, "ok"), ("item 1", 1, "not_found"), ("item 1", 2, "not_an_image"),
        ("item 3", 1, "ok"),
    ]  # fmt: skip
    assert store.read(tables["gallery"]).schema.names == GALLERY.names
    (third,) = (row for row in store.read(before).to_pylist() if row["item_id"] == "item 2")
    assert rows[1]["image"] == third["image"]
    assert {path for path, asked in server.counts.items() if asked > 1} == set()
    again = images.fetch(store=store, items=items, config=config(pictures="mean")).tables
    assert again["gallery"].reused
    assert server.counts.total() == 8


@pytest.mark.parametrize(("policy", "asked", "rows"), [("max-2", 7, 3), ("max-3", 8, 5), ("max-12", 8, 5)])
def test_no_more_pictures_of_an_item_are_asked_for_than_the_policy_says(
    store: Store, server: ChaosServer, policy: str, asked: int, rows: int
) -> None:
    tables = images.fetch(store=store, items=publish_shop(store, server), config=config(pictures=policy)).tables
    assert (server.counts.total(), tables["gallery"].rows) == (asked, rows)


@pytest.mark.parametrize("policy", ["max-1", "max-0", "max-", "all", "max-2.5", ""])
def test_other_policies_are_refused(policy: str) -> None:
    with pytest.raises(ValueError, match="pictures"):
        ImagesConfig(pictures=policy)


def test_a_catalogue_from_before_galleries_has_an_empty_one(store: Store, server: ChaosServer) -> None:
    old = ITEMS.remove(ITEMS.get_field_index("gallery_urls"))
    lineage = Lineage(dataset="d", table="items", stage="test", stage_version=1, config={})
    with store.writer(old, lineage) as writer:
        writer.write(
            pa.Table.from_pylist([{"item_id": "a", "categories": [], "image_url": server.url("/good/1")}], schema=old)
        )
    tables = images.fetch(store=store, items=writer.version, config=config(pictures="mean")).tables
    assert (tables["images"].rows, tables["gallery"].rows) == (1, 0)


# Vectors


def extract(store: Store, shop: Shop, encoder: CountingImageEncoder | None = None, **spec: object) -> Extraction:  # type: ignore[type-arg]
    return features.extract(
        store=store, source=publish_images(store, [(i, pictures[0]) for i, pictures in shop]),
        gallery=publish_gallery(store, [(i, pictures[1:]) for i, pictures in shop]), name="vision",
        spec=EYES.model_copy(update=spec), encoder=encoder or CountingImageEncoder(),
    )  # fmt: skip


def mean_of(pictures: Sequence[bytes | None], *, normalize: bool = True) -> np.ndarray | None:
    """By the definition: every distinct picture that can be read counts once."""
    readable = [vector_of(p).astype(np.float64) for p in dict.fromkeys(pictures) if p is not None and p != BROKEN]
    if not readable:
        return None
    mean = np.mean(readable, axis=0)
    return mean / np.linalg.norm(mean) if normalize and len(readable) > 1 else mean


def test_the_vector_of_several_pictures_is_their_mean_of_length_one(store: Store) -> None:
    done = extract(store, [("a", [RED, BLUE, GREEN]), ("b", [BLUE]), ("c", [RED, RED])])
    a, b, c = store.read(done.version)["embedding"].to_pylist()
    np.testing.assert_allclose(a, mean_of([RED, BLUE, GREEN]), rtol=1e-6)
    assert np.linalg.norm(a) == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(np.float32(b), vector_of(BLUE), "one picture: its own vector, to the bit")
    np.testing.assert_array_equal(np.float32(c), vector_of(RED), "the same picture twice counts once")
    assert done.counts == features.Counts(encoded=3, reused=2, pooled=1)


def test_without_normalisation_the_mean_stays_as_it_is(store: Store) -> None:
    (row,) = store.read(extract(store, [("a", [RED, BLUE])], normalize=False).version)["embedding"].to_pylist()
    np.testing.assert_allclose(row, mean_of([RED, BLUE], normalize=False), rtol=1e-6)


def test_pictures_that_are_missing_or_cannot_be_read_are_left_out(store: Store) -> None:
    shop: Shop = [("a", [None, RED]), ("b", [BLUE, None, BROKEN, GREEN]), ("c", [None, BROKEN]), ("d", [None, None])]
    done = extract(store, shop)
    a, b, c, d = store.read(done.version).to_pylist()
    np.testing.assert_allclose(a["embedding"], vector_of(RED))
    np.testing.assert_allclose(b["embedding"], mean_of([BLUE, GREEN]), rtol=1e-6)
    assert c["embedding"] is c["content_hash"] is d["embedding"] is d["error"] is None
    assert b["error"] == c["error"] is not None
    assert done.counts == features.Counts(encoded=3, missing=1, unreadable=2, pooled=1)


def test_the_content_hash_tells_which_pictures_made_the_vector(store: Store) -> None:
    rows = store.read(extract(store, [("a", [RED, BLUE]), ("b", [RED]), ("c", [RED, BROKEN])]).version).to_pylist()
    red, blue = (hashlib.sha256(picture).hexdigest() for picture in (RED, BLUE))
    assert [row["content_hash"] for row in rows] == [hashlib.sha256(f"{red}\n{blue}".encode()).hexdigest(), red, red]


def test_one_changed_picture_of_a_gallery_encodes_one(store: Store) -> None:
    shop: Shop = [("a", [RED, BLUE]), ("b", [BLUE, RED])]
    extract(store, shop)
    eyes = CountingImageEncoder()
    done = extract(store, [("a", [RED, GREEN]), ("b", [BLUE, RED])], eyes)
    assert eyes.seen == [GREEN]
    a, b = store.read(done.version)["embedding"].to_pylist()
    np.testing.assert_allclose(a, mean_of([RED, GREEN]), rtol=1e-6)
    np.testing.assert_allclose(b, mean_of([BLUE, RED]), rtol=1e-6)


def test_another_policy_is_another_version_and_encodes_only_pictures_that_are_new(store: Store) -> None:
    pictures = publish_images(store, [("a", RED), ("b", BLUE)])
    eyes = CountingImageEncoder()
    main = features.extract(store=store, source=pictures, name="vision", spec=EYES, encoder=eyes)
    assert "pictures" not in main.version.lineage["cm3.config"]
    found = extract(store, [("a", [RED, GREEN]), ("b", [BLUE, RED])], eyes)
    assert '"pictures":"mean"' in found.version.lineage["cm3.config"]
    assert eyes.seen == [RED, BLUE, GREEN]
    assert found.version.version != main.version.version
    assert extract(store, [("a", [RED, GREEN]), ("b", [BLUE, RED])], eyes).version.reused


def test_a_gallery_of_other_items_is_refused_and_nothing_published(store: Store) -> None:
    source = publish_images(store, [("a", RED), ("b", BLUE)])
    for gallery in ([("b", [RED]), ("a", [RED])], [("x", [RED])]):
        with pytest.raises(UserError, match="not at its place"):
            features.extract(
                store=store, source=source, gallery=publish_gallery(store, gallery), name="vision", spec=EYES,
                encoder=CountingImageEncoder(),
            )  # fmt: skip
    assert not store.versions("shop", "features/vision")


def test_only_a_gallery_adds_to_images(store: Store) -> None:
    source = publish_images(store, [("a", RED)])
    with pytest.raises(UserError, match="was given 'images' beside 'images'"):
        features.extract(
            store=store, source=source, gallery=source, name="vision", spec=EYES, encoder=CountingImageEncoder()
        )


PICTURES = [RED, BLUE, GREEN, BROKEN, *(jpeg((0, 0, 8 * n), 9) for n in range(6))]
shops = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.lists(st.sampled_from([None, *PICTURES]), min_size=1, max_size=6),
    max_size=25,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=shops, second=shops, dropped=st.sets(st.text("abcdef", min_size=1, max_size=1)), seed=st.randoms())
def test_whatever_is_shuffled_dropped_doubled_or_broken_every_vector_is_of_its_items_pictures(
    tmp_path_factory: pytest.TempPathFactory,
    first: dict[str, list[bytes | None]],
    second: dict[str, list[bytes | None]],
    dropped: set[str],
    seed: object,
) -> None:
    """Two versions of a catalogue share one cache: the second is shuffled, with items gone, new and changed."""
    store = Store(tmp_path_factory.mktemp("store"))
    mixed = [(i, pictures) for i, pictures in (first | second).items() if i[0] not in dropped]
    seed.shuffle(mixed)  # type: ignore[attr-defined]
    eyes = CountingImageEncoder()
    for shop in ([*first.items()], mixed):
        whole, features.IMAGE_SHARD = features.IMAGE_SHARD, 7
        try:
            rows = store.read(extract(store, shop, eyes).version).to_pylist()
        finally:
            features.IMAGE_SHARD = whole
        assert [row["item_id"] for row in rows] == [i for i, _ in shop]
        for (_, pictures), row in zip(shop, rows, strict=True):
            expected = mean_of(pictures)
            assert (row["embedding"] is None) == (row["content_hash"] is None) == (expected is None)
            assert (row["error"] is not None) == (BROKEN in pictures)
            np.testing.assert_allclose(
                row["embedding"] or np.zeros(DIM), np.zeros(DIM) if expected is None else expected, atol=1e-6
            )
    assert len(eyes.seen) == len(set(eyes.seen))
