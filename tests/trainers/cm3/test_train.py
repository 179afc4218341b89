"""CM3 from tables to tables: it learns, it is deterministic, and no item or user is too poor for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch

from schemas.errors import UserError
from schemas.tables import EPOCHS, METRICS, RECOMMENDATIONS, conform, item_embeddings, user_embeddings
from schemas.training import CM3Config, EvaluationConfig, TrainingResult, TrainingTables
from tests.support.gpu import needs_cuda
from tests.support.world import World, draw_world
from trainers import cm3
from trainers.data import load
from trainers.evaluation import evaluate
from trainers.graphs import Graph, exact_neighbors

CONFIG = CM3Config(dim=8, max_epochs=30, batch_size=256, patience=30, learning_rate=5e-3, neighbors=5, device="cpu")


def train(world: World, output: Path, **changes: Any) -> TrainingResult:
    return cm3.run(tables=world.tables, output=output, config=CONFIG.model_copy(update=changes))


def test_a_run_leaves_every_table_as_promised_and_beats_popularity(world: World, tmp_path: Path) -> None:
    result = train(world, tmp_path / "out")
    assert result.dim == 3 * CONFIG.dim + 1 + 39  # three blocks, the popularity prior, the graph filter of 40 items
    schemas = {
        "items": item_embeddings(result.dim),
        "users": user_embeddings(result.dim),
        "recommendations": RECOMMENDATIONS,
        "metrics": METRICS,
        "epochs": EPOCHS,
    }
    tables = {name: pq.read_table(path) for name, path in result.files.items()}
    assert {name: conform(table, schemas[name]).num_rows for name, table in tables.items()}.keys() == schemas.keys()
    assert (tables["items"].num_rows, tables["users"].num_rows) == (result.items, result.users) == (40, 60)
    metrics = {(r["model"], r["split"], r["metric"], r["k"]): r["value"] for r in tables["metrics"].to_pylist()}
    for split in ("valid", "test"):
        assert metrics["cm3", split, "ndcg", 20] > metrics["popularity", split, "ndcg", 20]
    assert metrics["cm3", "test", "ndcg", 20] == result.test["ndcg@20"]
    assert metrics["cm3", "valid", "ndcg", 20] == result.validation
    curve = [row["value"] for row in tables["epochs"].to_pylist() if row["metric"] == "loss"]
    assert len(curve) == result.epochs
    assert curve[-1] < curve[0]
    assert not list((tmp_path / "out").glob(".*"))


def test_recommendations_are_the_published_vectors_dot_products(world: World, tmp_path: Path) -> None:
    for score, prior, part in (("dot", 0.0, 0.0), ("cosine", 0.0, 0.0), ("cosine", 0.2, 0.0), ("cosine", 0.2, 3.0)):
        changes = {"score": score, "popularity_prior": prior, "filter_weight": part}
        files = train(world, tmp_path / f"{score}-{prior}-{part}", max_epochs=2, **changes).files
        users = dict(pl.read_parquet(files["users"]).iter_rows())
        items = dict(pl.read_parquet(files["items"]).iter_rows())
        for user, item, _, value in pl.read_parquet(files["recommendations"]).head(200).iter_rows():
            assert np.dot(users[user], items[item]) == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("mask_validation", [False, True])
def test_metrics_are_those_of_the_published_vectors(world: World, tmp_path: Path, mask_validation: bool) -> None:
    rule = EvaluationConfig(mask_validation=mask_validation)
    result = train(world, tmp_path / "out", max_epochs=3, evaluation=rule)
    dataset = load(world.tables)
    users, items = (
        torch.tensor(pl.read_parquet(result.files[name])["embedding"].to_numpy()) for name in ("users", "items")
    )
    metrics = pl.read_parquet(result.files["metrics"]).filter(model="cm3")
    for split in ("valid", "test"):
        expected = evaluate(lambda rows: users[torch.from_numpy(rows)] @ items.T, dataset, split, rule).flat()
        mine = metrics.filter(split=split)
        values = {f"{row['metric']}@{row['k']}": row["value"] for row in mine.iter_rows(named=True)}
        assert values == pytest.approx(expected)


def test_one_seed_gives_the_same_bytes_and_another_seed_other_ones(world: World, tmp_path: Path) -> None:
    runs = [train(world, tmp_path / str(n), max_epochs=3, seed=seed).files for n, seed in enumerate((4, 4, 5))]
    content = [Path(files["items"]).read_bytes() for files in runs]
    assert content[0] == content[1]
    assert content[0] != content[2]


@needs_cuda
def test_a_gpu_trains_as_well_and_one_seed_gives_the_same_bytes_there(world: World, tmp_path: Path) -> None:
    gpu = [train(world, tmp_path / f"gpu{n}", device="cuda") for n in range(2)]
    assert Path(gpu[0].files["items"]).read_bytes() == Path(gpu[1].files["items"]).read_bytes()
    cpu = train(world, tmp_path / "cpu", device="cpu", precision="float32")
    assert gpu[0].test["ndcg@20"] == pytest.approx(cpu.test["ndcg@20"], abs=0.05)


def test_the_order_of_the_rows_does_not_change_a_byte(world: World, tmp_path: Path) -> None:
    shuffled = draw_world()
    np.random.default_rng(1).shuffle(shuffled.events)
    shuffled.vectors = {name: dict(reversed(v.items())) for name, v in shuffled.vectors.items()}
    shuffled.write(tmp_path / "shuffled")
    files = [train(w, tmp_path / str(n), max_epochs=2).files for n, w in enumerate((world, shuffled))]
    for name in files[0]:
        assert Path(files[0][name]).read_bytes() == Path(files[1][name]).read_bytes()


@pytest.mark.parametrize("modalities", [1, 3, 5])
def test_any_number_of_modalities_trains(small_world: Callable[..., World], tmp_path: Path, modalities: int) -> None:
    result = train(small_world(modalities=modalities), tmp_path / "out", max_epochs=2)
    assert result.dim == (modalities + 1) * CONFIG.dim + 1 + 39


def test_items_without_any_modality_train_like_the_others(world: World, tmp_path: Path) -> None:
    files = train(world, tmp_path / "out", max_epochs=3).files
    vectors = dict(pl.read_parquet(files["items"]).iter_rows())
    assert np.isfinite(list(vectors.values())).all()
    assert any(vectors["i017"])  # lacks both image and text


def test_the_similarity_table_gives_the_same_as_neighbours_computed_here(tmp_path: Path) -> None:
    world = draw_world()
    bare = load(world.write(tmp_path / "bare").tables)
    neighbors = exact_neighbors(bare.features, k=8)
    cosine = {name: [None if np.isnan(c) else float(c) for c in values] for name, values in neighbors.cosine.items()}
    world.neighbors = [
        (bare.items[a], bare.items[b], 0.0, {name: cosine[name][n] for name in cosine})
        for n, (a, b) in enumerate(zip(neighbors.item, neighbors.neighbor, strict=True))
    ]
    ours, theirs = (
        cm3.train.build(load(w.tables), CONFIG) for w in (world.write(tmp_path / "with"), bare_world(tmp_path))
    )
    x = torch.randn(40, 3)
    torch.testing.assert_close(ours.item_item.product(x), theirs.item_item.product(x))
    assert isinstance(ours.item_item, Graph)


def bare_world(folder: Path) -> World:
    return draw_world().write(folder / "again")


@pytest.mark.parametrize("batch_size", [1, 7, 39])
def test_short_last_batches_train(small_world: Callable[..., World], tmp_path: Path, batch_size: int) -> None:
    # 40 training pairs: a last batch of 5 with 7, of 1 with 39; batches of one throughout with 1.
    result = train(small_world(users=10, each=6), tmp_path / "out", max_epochs=1, batch_size=batch_size)
    assert np.isfinite(list(result.test.values())).all()


def test_two_users_and_two_items_train(tmp_path: Path) -> None:
    world = draw_world()
    world.events = [("a", "i000", "train"), ("b", "i001", "train"), ("a", "i001", "valid"), ("b", "i000", "test")]
    world.vectors = {"text": {"i000": np.ones(3, np.float32), "i001": None}}
    result = train(world.write(tmp_path / "w"), tmp_path / "out", max_epochs=2)
    assert (result.users, result.items) == (2, 2)


def test_users_and_items_that_only_test_knows_are_ranked(tmp_path: Path) -> None:
    world = draw_world()
    world.events += [("new", "i001", "test"), ("u000", "fresh", "test"), ("u001", "unseen", "valid")]
    files = train(world.write(tmp_path / "w"), tmp_path / "out", max_epochs=2).files
    recommended = pl.read_parquet(files["recommendations"])
    assert recommended.filter(pl.col("user_id") == "new").height > 0
    assert "fresh" in pl.read_parquet(files["items"])["item_id"].to_list()


def test_training_without_features_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 1 feature"):
        cm3.run(tables=TrainingTables(interactions=world.interactions, features={}), output=tmp_path, config=CONFIG)


def test_a_device_that_is_not_here_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="device"):
        train(world, tmp_path / "out", device="cuda:7")


@pytest.mark.parametrize("calibration", ["fused", "frozen", "none"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_ablations_and_precisions_train(world: World, tmp_path: Path, calibration: str, precision: str) -> None:
    result = train(world, tmp_path / "out", max_epochs=3, calibration=calibration, precision=precision)
    assert result.test["ndcg@20"] > 0
