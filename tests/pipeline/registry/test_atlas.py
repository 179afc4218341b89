"""What `cm3 export --to atlas` writes is opened by Embedding Atlas itself."""

import io
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from pipeline.registry import atlas
from pipeline.store import Store
from schemas.run import RunSummary
from tests.support.command_line import cm3


def exported(store: Store, reference: str, file: Path) -> pl.DataFrame:
    """The file's rows, after the command wrote it."""
    answer = cm3("export", reference, str(file), "--to", "atlas", "--json", store=store.root)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["command"].endswith("--x x --y y --text text --vector vector --image image")
    return pl.read_parquet(file)


def test_every_item_with_a_vector_has_a_place_its_words_and_a_thumbnail(
    finished: tuple[Store, RunSummary], tmp_path: Path
) -> None:
    store, _ = finished
    rows = exported(store, "demo/features/sentence", tmp_path / "demo.parquet")
    vectors = pl.read_parquet(store.latest("demo", "features/sentence").path).drop_nulls("embedding")
    assert sorted(rows["item_id"]) == sorted(vectors["item_id"])
    both = rows.join(vectors, on="item_id")
    assert np.array_equal(both["vector"].to_numpy(), both["embedding"].to_numpy())
    picture = next(cell["bytes"] for cell in rows["image"] if cell)
    assert max(Image.open(io.BytesIO(picture)).size) == atlas.SIDE
    words = pl.read_parquet(store.latest("demo", "items").path)
    assert rows.join(words, on="item_id").select((pl.col("title") == pl.col("title_right")).all()).item()
    again = exported(store, "demo/features/sentence", tmp_path / "again.parquet")
    assert [name for name in rows.columns if not again[name].equals(rows[name])] == [], "the same in every run"


@pytest.mark.slow
def test_neighbours_lie_together_on_the_map() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5, 32))
    matrix = np.repeat(centres, 20, axis=0) + 0.1 * rng.normal(size=(100, 32))
    places = atlas.project(matrix.astype(np.float32))
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (distance.argmin(axis=1) // 20 == np.arange(100) // 20).all()


@pytest.mark.slow
def test_the_map_is_the_same_again_where_the_graph_falls_apart() -> None:
    matrix = np.repeat(np.random.default_rng(0).normal(size=(7, 32)), 16, axis=0).astype(np.float32)
    first, *others = (atlas.project(matrix) for _ in range(4))
    assert all(np.array_equal(first, other) for other in others)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 3, 4, 20])
def test_equal_vectors_have_places(rows: int) -> None:
    assert np.isfinite(atlas.project(np.ones((rows, 8), np.float32))).all()


def test_embedding_atlas_loads_and_answers_from_it(finished: tuple[Store, RunSummary], tmp_path: Path) -> None:
    server = pytest.importorskip("embedding_atlas.server", reason="pip install --no-deps embedding-atlas inquirer")
    from embedding_atlas.data_source import DataSource
    from embedding_atlas.options import make_embedding_atlas_props
    from embedding_atlas.utils import load_pandas_data
    from fastapi.testclient import TestClient

    exported(finished[0], "demo/features/sentence", tmp_path / "demo.parquet")
    frame = load_pandas_data(str(tmp_path / "demo.parquet"))
    frame["row"] = range(len(frame))
    columns = {"row_id": "row", "x": "x", "y": "y", "text": "text", "image": "image"}
    source = DataSource("demo", frame, {"props": make_embedding_atlas_props(**columns)})
    with TestClient(server.make_server(source, static_path=str(tmp_path))) as client:
        served = client.get("/data/dataset.parquet")
    assert served.status_code == 200
    assert pl.read_parquet(served.content).height == len(frame)


@pytest.mark.parametrize(
    ("reference", "file", "message"),
    [
        ("demo/embeddings/users", "x.parquet", "'atlas' shows items"),
        ("demo/items", "x.parquet", "holds no vectors"),
        ("demo/features/sentence", "x.csv", "expected a name that ends in .parquet"),
        ("demo/features/sentence", "taken.parquet", "exists already"),
    ],
)
def test_bad_input_is_said(
    finished: tuple[Store, RunSummary], tmp_path: Path, reference: str, file: str, message: str
) -> None:
    (tmp_path / "taken.parquet").touch()
    answer = cm3("export", reference, str(tmp_path / file), "--to", "atlas", store=finished[0].root)
    assert answer.returncode == 1
    assert message in answer.stderr
