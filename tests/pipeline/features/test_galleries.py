"""Several pictures per item: the vector is the mean of theirs, and each picture is encoded once."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import features
from pipeline.features import stage
from pipeline.store import Store
from schemas.encoders import EncoderSpec
from schemas.errors import UserError
from schemas.lineage import TableVersion
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
NONE = {"encoded": 0, "reused": 0, "missing": 0, "unreadable": 0, "pooled": 0}
Shop = Sequence[tuple[str, Sequence[bytes | None]]]
"""Items and their pictures, the main one first; None is a download that failed."""


def publish_pictures(store: Store, shop: Shop) -> dict[str, TableVersion]:
    """The tables of all pictures, as the stage takes them."""
    return {
        "source": publish_images(store, [(i, pictures[0]) for i, pictures in shop]),
        "gallery": publish_gallery(store, [(i, pictures[1:]) for i, pictures in shop]),
    }


def vision(
    store: Store, tables: dict[str, TableVersion], encoder: CountingImageEncoder | None = None, **spec: object
) -> tuple[TableVersion, dict[str, float]]:
    """The published vectors, and what the stage counted."""
    published = features.run(
        store=store,
        **tables,
        name="vision",
        spec=EYES.model_copy(update=spec),
        encoder=encoder or CountingImageEncoder(),
    )
    return published.tables["features/vision"], dict(published.counts)


def mean_of(pictures: Sequence[bytes | None], *, normalize: bool = True) -> np.ndarray | None:
    """By the definition: every distinct picture that can be read counts once."""
    readable = [vector_of(p).astype(np.float64) for p in dict.fromkeys(pictures) if p is not None and p != BROKEN]
    if not readable:
        return None
    mean = np.mean(readable, axis=0)
    return mean / np.linalg.norm(mean) if normalize and len(readable) > 1 else mean


def test_the_vector_of_several_pictures_is_their_mean_of_length_one(store: Store) -> None:
    shop: Shop = [("a", [RED, BLUE, GREEN]), ("b", [BLUE]), ("c", [RED, RED])]
    version, counts = vision(store, publish_pictures(store, shop))
    a, b, c = store.read(version)["embedding"].to_pylist()
    np.testing.assert_allclose(a, mean_of([RED, BLUE, GREEN]), rtol=1e-6)
    assert np.linalg.norm(a) == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(np.float32(b), vector_of(BLUE), "one picture: its own vector, to the bit")
    np.testing.assert_array_equal(np.float32(c), vector_of(RED), "the same picture twice counts once")
    assert counts == NONE | {"encoded": 3, "reused": 2, "pooled": 1}


def test_without_normalisation_the_mean_stays_as_it_is(store: Store) -> None:
    version, _ = vision(store, publish_pictures(store, [("a", [RED, BLUE])]), normalize=False)
    (row,) = store.read(version)["embedding"].to_pylist()
    np.testing.assert_allclose(row, mean_of([RED, BLUE], normalize=False), rtol=1e-6)


def test_pictures_that_are_missing_or_cannot_be_read_are_left_out(store: Store) -> None:
    shop: Shop = [("a", [None, RED]), ("b", [BLUE, None, BROKEN, GREEN]), ("c", [None, BROKEN]), ("d", [None, None])]
    version, counts = vision(store, publish_pictures(store, shop))
    a, b, c, d = store.read(version).to_pylist()
    np.testing.assert_allclose(a["embedding"], vector_of(RED))
    np.testing.assert_allclose(b["embedding"], mean_of([BLUE, GREEN]), rtol=1e-6)
    assert c["embedding"] is c["content_hash"] is d["embedding"] is d["error"] is None
    assert b["error"] == c["error"] is not None
    assert counts == NONE | {"encoded": 3, "missing": 1, "unreadable": 2, "pooled": 1}


def test_the_content_hash_tells_which_pictures_made_the_vector(store: Store) -> None:
    shop: Shop = [("a", [RED, BLUE]), ("b", [RED]), ("c", [RED, BROKEN])]
    rows = store.read(vision(store, publish_pictures(store, shop))[0]).to_pylist()
    red, blue = (hashlib.sha256(picture).hexdigest() for picture in (RED, BLUE))
    assert [row["content_hash"] for row in rows] == [hashlib.sha256(f"{red}\n{blue}".encode()).hexdigest(), red, red]


def test_one_changed_picture_of_a_gallery_encodes_one(store: Store) -> None:
    vision(store, publish_pictures(store, [("a", [RED, BLUE]), ("b", [BLUE, RED])]))
    eyes = CountingImageEncoder()
    version, _ = vision(store, publish_pictures(store, [("a", [RED, GREEN]), ("b", [BLUE, RED])]), eyes)
    assert eyes.seen == [GREEN]
    a, b = store.read(version)["embedding"].to_pylist()
    np.testing.assert_allclose(a, mean_of([RED, GREEN]), rtol=1e-6)
    np.testing.assert_allclose(b, mean_of([BLUE, RED]), rtol=1e-6)


def test_another_policy_is_another_version_and_encodes_only_pictures_that_are_new(store: Store) -> None:
    pictures = publish_images(store, [("a", RED), ("b", BLUE)])
    eyes = CountingImageEncoder()
    main, _ = vision(store, {"source": pictures}, eyes)
    assert "pictures" not in main.lineage["cm3.config"]
    galleries = publish_pictures(store, [("a", [RED, GREEN]), ("b", [BLUE, RED])])
    mean, _ = vision(store, galleries, eyes)
    assert '"pictures":"mean"' in mean.lineage["cm3.config"]
    assert eyes.seen == [RED, BLUE, GREEN]
    assert mean.version != main.version
    assert vision(store, galleries, eyes)[0].reused


def test_a_gallery_of_other_items_is_refused_and_nothing_published(store: Store) -> None:
    source = publish_images(store, [("a", RED), ("b", BLUE)])
    for gallery in ([("b", [RED]), ("a", [RED])], [("x", [RED])]):
        with pytest.raises(UserError, match="or in another order there"):
            vision(store, {"source": source, "gallery": publish_gallery(store, gallery)})
    assert not store.versions("shop", "features/vision")


def test_only_a_gallery_adds_to_images(store: Store) -> None:
    source = publish_images(store, [("a", RED)])
    with pytest.raises(UserError, match="was given 'images' beside 'images'"):
        vision(store, {"source": source, "gallery": source})


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
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stage, "IMAGE_SHARD", 7)
            rows = store.read(vision(store, publish_pictures(store, shop), eyes)[0]).to_pylist()
        assert [row["item_id"] for row in rows] == [i for i, _ in shop]
        for (_, pictures), row in zip(shop, rows, strict=True):
            expected = mean_of(pictures)
            assert (row["embedding"] is None) == (row["content_hash"] is None) == (expected is None)
            assert (row["error"] is not None) == (BROKEN in pictures)
            np.testing.assert_allclose(
                row["embedding"] or np.zeros(DIM), np.zeros(DIM) if expected is None else expected, atol=1e-6
            )
    assert len(eyes.seen) == len(set(eyes.seen))
