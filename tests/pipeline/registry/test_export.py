"""An export holds the table's vectors in one order in all three files, and nothing half-written."""

from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pytest

from pipeline.features.columns import fixed_width_from
from pipeline.registry import export
from pipeline.store import Store
from schemas import tables
from schemas.errors import UserError
from schemas.export import ExportConfig
from schemas.lineage import TableVersion
from tests.support.published import publish, publish_items

VECTORS = np.random.default_rng(1).normal(size=(30, 8)).astype(np.float32)
MISSING = np.arange(30) % 7 == 3
IDS = [f"Ø{n:02d}" for n in range(30)]
PRESENT = [i for i, missing in zip(IDS, MISSING, strict=True) if not missing]


@pytest.fixture
def version(store: Store) -> TableVersion:
    hashes = pa.array([None if missing else "h" for missing in MISSING], pa.string())
    columns = [pa.array(IDS), hashes, fixed_width_from(VECTORS, missing=MISSING), pa.nulls(len(IDS), pa.string())]
    rows = pa.table(columns, schema=tables.features(8))
    return publish(store, "features/x", rows)


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_ids_vectors_and_index_are_in_one_order(
    store: Store, version: TableVersion, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "BATCH_ROWS", 4)
    exported = export.run(store=store, version=version, folder=tmp_path / "out", config=ExportConfig(index=kind))
    assert (exported.rows, exported.dim, exported.missing) == (26, 8, 4)
    assert np.load(exported.ids).tolist() == PRESENT
    vectors = np.load(exported.vectors)
    expected = VECTORS[~MISSING] / np.linalg.norm(VECTORS[~MISSING], axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, expected, rtol=1e-6)
    similarity, nearest = faiss.read_index(exported.index).search(vectors, 1)
    assert nearest[:, 0].tolist() == list(range(26))
    np.testing.assert_allclose(similarity[:, 0], 1, rtol=1e-5)


def test_a_folder_may_have_a_name_of_255_bytes(store: Store, version: TableVersion, tmp_path: Path) -> None:
    folder = tmp_path / ("ü" * 127 + "x")
    export.run(store=store, version=version, folder=folder, config=ExportConfig())
    assert (folder / "index.faiss").exists()
    assert set(tmp_path.iterdir()) == {folder, Path(store.root)}


@pytest.fixture
def embeddings(store: Store) -> dict[str, TableVersion]:
    """CM3's items and users: 4 trained numbers of each of two blocks, then 2 of the score's further terms."""
    numbers = np.random.default_rng(2).normal(size=(2, 300, 10)).astype(np.float32)
    numbers[0, 150:] = numbers[0, 150]  # many equal items
    made = {}
    for kind, schema, rows in (("item", tables.item_embeddings(10), 0), ("user", tables.user_embeddings(10), 1)):
        ids = pa.array([f"{kind}{n:03d}" for n in range(300)])
        table = pa.table([ids, fixed_width_from(numbers[rows])], schema=schema)
        inputs = {"features/text": "0" * 16}
        made[kind] = publish(
            store, f"embeddings/{kind}s", table, config={"dim": 4}, inputs=inputs, encoder="cm3", stage="train"
        )
    return made


def test_embeddings_come_out_as_published_so_that_inner_products_are_scores(
    store: Store, embeddings: dict[str, TableVersion], tmp_path: Path
) -> None:
    items, users = (
        export.run(store=store, version=version, folder=tmp_path / kind, config=ExportConfig())
        for kind, version in embeddings.items()
    )
    raw, queries = (np.stack(store.read(v)["embedding"].to_numpy()) for v in embeddings.values())
    np.testing.assert_array_equal(np.load(items.vectors), raw)
    scores, _ = faiss.read_index(items.index).search(np.load(users.vectors), 7)
    np.testing.assert_allclose(scores, -np.sort(-queries @ raw.T, axis=1)[:, :7], rtol=1e-4, atol=1e-5)


def test_the_item_part_is_the_trained_one_scaled_to_length_1(
    store: Store, embeddings: dict[str, TableVersion], tmp_path: Path
) -> None:
    config = ExportConfig(part="item", index="none")
    exported = export.run(store=store, version=embeddings["item"], folder=tmp_path / "out", config=config)
    trained = np.stack(store.read(embeddings["item"])["embedding"].to_numpy())[:, :8]
    assert exported.dim == 8
    expected = trained / np.linalg.norm(trained, axis=1, keepdims=True)
    np.testing.assert_allclose(np.load(exported.vectors), expected, rtol=1e-6)


@pytest.mark.parametrize("part", ["score", "item"])
def test_an_approximate_index_over_equal_vectors_says_its_recall(
    store: Store, embeddings: dict[str, TableVersion], tmp_path: Path, part: str
) -> None:
    config = ExportConfig(part=part, index="hnsw")
    exported = export.run(store=store, version=embeddings["item"], folder=tmp_path / "out", config=config)
    queries = np.load(exported.vectors)
    if part == "score":
        queries = np.stack(store.read(embeddings["user"])["embedding"].to_numpy())[: export.SAMPLE]
    exact = np.sort(queries @ np.load(exported.vectors).T, axis=1)[:, -10, None]
    scores, _ = faiss.read_index(exported.index).search(queries[: export.SAMPLE], 10)
    assert exported.recall == pytest.approx((scores >= exact[: export.SAMPLE] - 1e-4).mean(), abs=0.01)


def test_tables_without_vectors_and_folders_that_exist_are_refused_and_nothing_is_left(
    store: Store, version: TableVersion, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="shop/items holds no vectors"):
        export.run(
            store=store, version=publish_items(store, [("a", "b")]), folder=tmp_path / "out", config=ExportConfig()
        )
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="taken exists already"):
        export.run(store=store, version=version, folder=tmp_path / "taken", config=ExportConfig())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "taken"]


def test_a_lance_data_set_holds_the_same_vectors_and_searches_them(
    store: Store, version: TableVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lance = pytest.importorskip("lance", reason="Lance is not installed: pip install 'cm3-features[lance]'")
    monkeypatch.setattr(export, "BATCH_ROWS", 4)
    exported = export.run(store=store, version=version, folder=tmp_path / "out", config=ExportConfig(index="lance"))
    data = lance.dataset(exported.index)
    rows = data.to_table()
    assert rows["id"].to_pylist() == PRESENT
    vectors = np.load(exported.vectors)
    np.testing.assert_array_equal(np.stack(rows["vector"].to_numpy()), vectors)
    nearest = data.to_table(nearest={"column": "vector", "q": vectors[5], "k": 1})
    assert nearest["id"].to_pylist() == [PRESENT[5]]


def test_lance_that_is_not_installed_is_named_before_any_work(
    store: Store, version: TableVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'cm3-features\[lance\]'"):
        export.run(store=store, version=version, folder=tmp_path / "out", config=ExportConfig(index="lance"))
    assert list(tmp_path.iterdir()) == [Path(store.root)]
