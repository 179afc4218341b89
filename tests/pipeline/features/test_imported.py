"""Import of vectors that somebody else made: three formats, aligned by id, and every flaw refused by name."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.features import imported
from pipeline.store import Store
from schemas.encoders import VectorsConfig
from schemas.errors import UserError
from schemas.lineage import TableVersion
from tests.support.published import publish_items

ITEMS = [("a", "x"), ("b", "y"), ("c", "z")]
ROWS = np.array([[3, 4], [0, 2], [5, 12]], np.float32)


def publish_vectors(store: Store, items: TableVersion, config: VectorsConfig) -> TableVersion:
    return imported.run(store=store, items=items, name="theirs", config=config).tables["features/theirs"]


def import_vectors(store: Store, config: VectorsConfig) -> dict[str, list[float] | None]:
    table = pl.read_parquet(publish_vectors(store, publish_items(store, ITEMS), config).path)
    assert table["item_id"].to_list() == ["a", "b", "c"]
    return {i: None if row is None else list(row) for i, row in table.select("item_id", "embedding").iter_rows()}


def npy(folder: Path, rows: np.ndarray, ids: str) -> VectorsConfig:
    np.save(folder / "image_feat.npy", rows)
    (folder / "ids.txt").write_text(ids)
    return VectorsConfig(path=str(folder / "image_feat.npy"), format="npy", ids=str(folder / "ids.txt"))


def amazon(folder: Path, records: list[tuple[str, np.ndarray]]) -> VectorsConfig:
    (folder / "features.b").write_bytes(b"".join(asin.encode() + row.astype("<f4").tobytes() for asin, row in records))
    return VectorsConfig(path=str(folder / "features.b"), format="amazon-2014")


@pytest.mark.parametrize(
    "ids",
    ["c\na\nz\n", "\ufeffc\na\nz\n", "asin\titemID\nz\t2\nc\t0\na\t1\n", "c,0\na,1\nz,2\n"],
    ids=["list", "with a byte order mark", "mmrec mapping", "csv"],
)
def test_an_array_with_ids_lands_on_its_items_and_others_are_null(store: Store, tmp_path: Path, ids: str) -> None:
    vectors = import_vectors(store, npy(tmp_path, ROWS, ids))
    assert vectors["c"] == pytest.approx([0.6, 0.8])
    assert vectors["a"] == pytest.approx([0, 1])
    assert vectors["b"] is None


def test_an_id_may_hold_commas(store: Store, tmp_path: Path) -> None:
    items = publish_items(store, [("52", "x"), ("52,red", "y"), ("52,53", "z")])
    for ids in ("52\n52,red\n52,53", "52\t0\n52,red\t1\n52,53\t2", "52,0\n52,red,1\n52,53,2"):
        version = publish_vectors(store, items, npy(tmp_path, ROWS, ids))
        vectors = dict(pl.read_parquet(version.path).select("item_id", "embedding").iter_rows())
        assert [list(vectors[name]) for name in ("52", "52,red")] == [pytest.approx([0.6, 0.8]), [0, 1]]


@pytest.mark.parametrize("scale", [1e25, 1e-25])
def test_lengths_are_no_float32(store: Store, tmp_path: Path, scale: float) -> None:
    vectors = import_vectors(store, npy(tmp_path, ROWS * np.float32(scale), "a\nb\nc"))
    assert vectors["a"] == pytest.approx([0.6, 0.8])


def test_vectors_too_long_to_multiply_are_refused_unless_they_are_scaled(store: Store, tmp_path: Path) -> None:
    config = npy(tmp_path, ROWS * np.float32(1e30), "a\nb\nc").model_copy(update={"normalize": False})
    with pytest.raises(UserError, match="the vector of a has length 5e"):
        import_vectors(store, config)


def test_vectors_keep_their_length_where_asked(store: Store, tmp_path: Path) -> None:
    config = npy(tmp_path, ROWS.astype(np.float64), "a\nb\nc").model_copy(update={"normalize": False})
    assert import_vectors(store, config) == {"a": [3, 4], "b": [0, 2], "c": [5, 12]}


def test_a_parquet_file_with_columns_of_any_name(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "v.parquet"
    pq.write_table(pa.table({"asin": ["b", "a", "q"], "v": [[0.0, 2.0], None, [1.0, 1.0]]}), path)
    config = VectorsConfig(path=str(path), format="parquet", id_column="asin", vector_column="v")
    assert import_vectors(store, config) == {"a": None, "b": [0, 1], "c": None}


def test_amazons_binary_records(store: Store, tmp_path: Path) -> None:
    vector = np.arange(4096, dtype=np.float32)
    config = amazon(tmp_path, [("B00000000X", np.ones(4096)), ("B00000000A", vector)])
    items = publish_items(store, [("B00000000A", "x"), ("B00000000Q", "y")])
    table = pl.read_parquet(publish_vectors(store, items, config).path)
    np.testing.assert_allclose(table["embedding"][0].to_numpy(), vector / np.linalg.norm(vector), rtol=1e-6)
    assert table["embedding"][1] is None


def test_a_second_import_is_reused_and_a_changed_file_is_not(store: Store, tmp_path: Path) -> None:
    items = publish_items(store, ITEMS)
    config = npy(tmp_path, ROWS, "a\nb\nc")
    publish_vectors(store, items, config)
    assert publish_vectors(store, items, config).reused
    config = npy(tmp_path, ROWS + 1, "a\nb\nc")
    assert not publish_vectors(store, items, config).reused


@pytest.mark.parametrize(
    ("rows", "ids", "message"),
    [
        (ROWS, "a\nb", "3 vectors but .* names 2 ids"),
        (ROWS, "a\nb\na", "id 'a' comes twice"),
        (ROWS, "id,row\na,0\nb,1\nc,1", "names 3 ids for 2 rows"),
        (np.array([[1, 2], [np.nan, 1], [1, 1]]), "a\nb\nc", "NaN or infinity for b"),
        (ROWS, "x\ny\nz", "for none of the 3 items"),
        (np.zeros(3), "a\nb\nc", r"expected an array \(items, width\)"),
        (np.array([["a"]]), "a", "expected an array"),
        (np.zeros((3, 0)), "a\nb\nc", "expected an array"),
        (ROWS, "a\t0\nb\t\u00b2\nc\t2", "line 1: expected an id alone, or in every line"),
    ],
)
def test_a_flaw_is_refused_by_name(store: Store, tmp_path: Path, rows: np.ndarray, ids: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        import_vectors(store, npy(tmp_path, rows, ids))
    with pytest.raises(UserError):
        store.latest("shop", "features/theirs")


def test_a_cut_binary_file_is_refused(store: Store, tmp_path: Path) -> None:
    config = amazon(tmp_path, [("B00000000A", np.ones(4096))])
    with Path(config.path).open("ab") as file:
        file.write(b"B0000")
    with pytest.raises(UserError, match="no multiple of 16,394"):
        import_vectors(store, config)


def test_pickled_objects_are_never_loaded(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a \.npy array of numbers"):
        import_vectors(store, npy(tmp_path, np.array([{"a": 1}], dtype=object), "a"))


def test_a_missing_file_and_vectors_of_several_widths_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*gone"):
        import_vectors(store, VectorsConfig(path=str(tmp_path / "gone"), format="amazon-2014"))
    pq.write_table(pa.table({"item_id": ["a", "b"], "embedding": [[1.0], [1.0, 2.0]]}), tmp_path / "v.parquet")
    with pytest.raises(UserError, match=r"one width, found widths \[1, 2\]"):
        import_vectors(store, VectorsConfig(path=str(tmp_path / "v.parquet"), format="parquet"))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sku": ["a"], "v": [[1.0]]}, "expected the columns item_id, embedding, found sku, v"),
        ({"item_id": ["a"], "embedding": [1.0]}, "expected lists of numbers in embedding, found double"),
        ({"item_id": ["a"], "embedding": [["1.0"]]}, "expected lists of numbers"),
        ({"item_id": ["a"], "embedding": [[[1.0]]]}, "expected lists of numbers"),
        ({"item_id": [["a"]], "embedding": [[1.0]]}, "expected one id per row in item_id"),
        ({"item_id": ["a", None], "embedding": [[1.0], [2.0]]}, "1 rows have no id"),
    ],
)
def test_columns_of_another_kind_are_refused(
    store: Store, tmp_path: Path, columns: dict[str, list[object]], message: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "v.parquet")
    with pytest.raises(UserError, match=message):
        import_vectors(store, VectorsConfig(path=str(tmp_path / "v.parquet"), format="parquet"))


def test_files_of_another_kind_are_refused(store: Store, tmp_path: Path) -> None:
    config = npy(tmp_path, ROWS, "a\nb\nc")
    (tmp_path / "ids.txt").write_bytes("é\nb\nc".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        import_vectors(store, config)
    Path(config.path).write_bytes(b"")
    with pytest.raises(UserError, match=r"not a \.npy array"):
        import_vectors(store, config)
    with Path(config.path).open("wb") as file:
        np.savez(file, one=ROWS, two=ROWS)
    with pytest.raises(UserError, match=r"several arrays \(one, two\)"):
        import_vectors(store, config)
    with pytest.raises(UserError, match="cannot read"):
        imported.read(VectorsConfig(path=str(tmp_path / "gone"), format="amazon-2014"))


@pytest.mark.parametrize("name", ["../x", "", "a b", "a/b"])
def test_a_name_that_would_leave_its_folder_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="table"):
        imported.run(store=store, items=publish_items(store, ITEMS), name=name, config=npy(tmp_path, ROWS, "a\nb\nc"))
