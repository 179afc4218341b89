"""Semantic ids are unique, say what is alike, and stay as they are while the codebooks do."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import semantic_ids
from pipeline.features import imported
from pipeline.features.columns import fixed_width_from
from pipeline.semantic_ids import codebooks
from pipeline.store import Store, digest
from schemas import tables
from schemas.encoders import VectorsConfig
from schemas.errors import UserError
from schemas.lineage import TableVersion
from schemas.semantic_ids import SemanticIdsConfig
from tests.support.published import publish, publish_items

SMALL = SemanticIdsConfig(features=("text",), levels=3, bits=3)
Ids = dict[str, tuple[int, ...] | None]


def clustered(count: int, seed: int = 0) -> dict[str, Sequence[float] | None]:
    """Vectors of length 1 around 12 directions; every 10th item has that of the one before it, every 17th none."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(12, 16))[rng.integers(12, size=count)] + rng.normal(size=(count, 16)) / 4
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[10::10] = rows[9:-1:10]
    return {f"i{n:04}": None if n % 17 == 16 else row.tolist() for n, row in enumerate(rows)}


def published(
    store: Store,
    vectors: Mapping[str, Sequence[float] | None],
    encoder: str = "words",
    revision: str = "",
    **config: object,
) -> TableVersion:
    present = np.array([row is not None for row in vectors.values()])
    rows = fixed_width_from(np.array([row or [0.0] * 16 for row in vectors.values()], np.float32), missing=~present)
    none = pa.nulls(len(rows), pa.string())
    table = pa.table([list(vectors), list(vectors), rows, none], schema=tables.features(16))
    inputs = {"items": digest(repr(vectors))}
    said = {"config": {"kind": "fake"} | config, "encoder": encoder, "revision": revision, "inputs": inputs}
    return publish(store, "features/text", table, **said)


def run(store: Store, vectors: Mapping[str, Sequence[float] | None], **changes: object) -> dict[str, TableVersion]:
    config = SMALL.model_copy(update=changes)
    return dict(semantic_ids.run(store=store, feature=published(store, vectors), config=config).tables)


def ids(store: Store, made: Mapping[str, TableVersion]) -> Ids:
    rows = store.read(made["semantic_ids/text"]).to_pylist()
    return {row["item_id"]: None if row["codes"] is None else tuple(row["codes"]) for row in rows}


def test_every_item_with_a_vector_has_an_id_of_its_own_and_the_others_none(store: Store) -> None:
    vectors = clustered(600)
    published_ids = ids(store, run(store, vectors))
    assert list(published_ids) == list(vectors)
    assert {item for item, codes in published_ids.items() if codes is None} == {
        item for item, row in vectors.items() if row is None
    }
    present = [codes for codes in published_ids.values() if codes is not None]
    assert len(set(present)) == len(present)
    assert {len(codes) for codes in present} == {4}
    assert all(0 <= code < 8 for codes in present for code in codes[:3])
    first, twin = published_ids["i0009"], published_ids["i0010"]
    assert first is not None
    assert twin is not None
    assert first[:3] == twin[:3]
    assert first[3] < twin[3]


def test_a_second_run_finds_them_and_another_store_gets_the_same_bytes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    first, again = run(store, clustered(300)), run(store, clustered(300))
    assert all(version.reused for version in again.values())
    elsewhere = run(Store(f"{store.uri}-elsewhere"), clustered(300))
    for name, version in first.items():
        assert version.files == elsewhere[name].files == again[name].files


def test_items_with_the_same_first_code_are_nearer_than_chance(store: Store) -> None:
    vectors = {item: row for item, row in clustered(400).items() if row is not None}
    published_ids = ids(store, run(store, vectors))
    rows = np.array(list(vectors.values()))
    first = np.array([codes[0] for codes in published_ids.values() if codes is not None])
    cosines, alike = rows @ rows.T, first[:, None] == first[None, :]
    other = ~np.eye(len(rows), dtype=bool)
    assert cosines[alike & other].mean() > cosines[other].mean() + 0.3


def test_the_centroids_of_an_items_codes_add_up_to_about_its_vector(store: Store) -> None:
    vectors = clustered(600)
    made = run(store, vectors)
    books = store.read(made["semantic_codebooks/text"])
    centroids = {(r["level"], r["code"]): np.array(r["centroid"]) for r in books.to_pylist()}
    assert len(centroids) == 3 * 8
    errors = [
        np.square(sum(centroids[level, code] for level, code in enumerate(codes[:3])) - np.array(vectors[item])).sum()
        for item, codes in ids(store, made).items()
        if codes is not None
    ]
    assert np.mean(errors) < 0.5, "of a vector of length 1"


def test_new_items_are_coded_with_the_published_codebooks_and_no_other_id_changes(store: Store) -> None:
    vectors = clustered(300)
    before = run(store, vectors)
    old = ids(store, before)
    gone = next(item for item, codes in old.items() if codes is not None and codes[3] == 0 and item > "i0100")
    more = (
        {"a-twin": vectors["i0009"]}
        | {i: row for i, row in vectors.items() if i != gone}
        | {"new": clustered(9)["i0008"]}
    )
    after = run(store, more)
    new = ids(store, after)
    assert after["semantic_codebooks/text"].version == before["semantic_codebooks/text"].version
    assert {item: codes for item, codes in new.items() if item in old} == {i: c for i, c in old.items() if i != gone}
    twin = new["a-twin"]
    assert twin is not None
    assert twin[:3] == old["i0009"][:3]  # type: ignore[index]
    present = [codes for codes in new.values() if codes is not None]
    assert len(set(present)) == len(present)
    back = run(store, more)
    assert all(version.reused for version in back.values()), "what was made from an earlier table is found again"


def test_another_generation_or_encoder_trains_codebooks_anew(store: Store) -> None:
    vectors = clustered(300)
    first = run(store, vectors)
    moved = vectors | {f"n{n}": row for n, row in enumerate(clustered(200, seed=1).values())}
    kept = run(store, moved)
    anew = run(store, moved, generation=2)
    book = "semantic_codebooks/text"
    assert kept[book].version == first[book].version != anew[book].version
    assert not store.read(anew[book]).equals(store.read(kept[book]))
    other = published(store, moved, encoder="other words")
    made = semantic_ids.run(store=store, feature=other, config=SMALL.model_copy(update={"generation": 2})).tables
    assert made[book].version != anew[book].version


def test_what_an_endpoint_left_unanswered_changes_no_id(store: Store) -> None:
    vectors = clustered(300)
    books = [
        semantic_ids.run(store=store, feature=feature, config=SMALL).tables["semantic_codebooks/text"].version
        for feature in (published(store, vectors), published(store, vectors | {"i0001": None}, unanswered="1f"))
    ]
    assert books[0] == books[1]


def test_a_longer_file_of_imported_vectors_changes_no_id_but_another_width_does(store: Store, tmp_path: Path) -> None:
    def imported_from(count: int, width: int) -> TableVersion:
        ids, rows = [f"i{n}" for n in range(count)], np.random.default_rng(0).normal(size=(count, width))
        path = tmp_path / "theirs.parquet"
        pq.write_table(pa.table({"item_id": ids, "embedding": list(rows)}), path)
        config = VectorsConfig(path=str(path), format="parquet")
        items = publish_items(store, [(item, "") for item in ids])
        feature = imported.run(store=store, items=items, name="text", config=config).tables["features/text"]
        return semantic_ids.run(store=store, feature=feature, config=SMALL).tables["semantic_codebooks/text"]

    first = imported_from(200, 16)
    assert imported_from(201, 16).version == first.version
    assert imported_from(201, 8).version != first.version


def test_training_reads_a_bounded_number_of_vectors_the_same_ones_each_time(store: Store) -> None:
    vectors = clustered(600)
    drawn = codebooks.sample(store, published(store, vectors), 100)
    assert 80 < len(drawn) <= 100, "a row without a vector is none"
    assert (drawn == codebooks.sample(store, published(store, vectors), 100)).all()
    assert len(codebooks.sample(store, published(store, vectors), 600)) == sum(map(bool, vectors.values()))


def test_fewer_vectors_than_codes_is_an_error_that_says_what_to_lower(store: Store) -> None:
    with pytest.raises(UserError, match=r"has 22 vectors, fewer than its codebooks would have: 24. Lower .*bits"):
        run(store, clustered(23))
    assert run(store, clustered(25)), "24 have a vector"


def test_a_table_whose_last_version_is_gone_is_made_anew(store: Store) -> None:
    made = run(store, clustered(300))
    store.fs.rm_file(f"{store.root}/shop/semantic_ids/text/{made['semantic_ids/text'].version}.json")
    assert ids(store, run(store, clustered(300)))
