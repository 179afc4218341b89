"""CM3 from tables to tables: it learns, it is deterministic, and no item or user is too poor for it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
import torch

from schemas.errors import UserError
from schemas.tables import EPOCHS, ITEM_WEIGHTS, METRICS, RECOMMENDATIONS, conform, item_embeddings, user_embeddings
from schemas.training import CM3Config, EvaluationConfig, ItemWeightsConfig, TrainingResult, TrainingTables
from tests.support.gpu import needs_cuda
from tests.support.world import World, draw_world
from trainers import cm3
from trainers.data import Dataset, load
from trainers.evaluation import Rows, evaluate
from trainers.fit import refit
from trainers.graphs import Graph, exact_neighbors
from trainers.item_weights import fit as fit_module

CONFIG = CM3Config(dim=8, max_epochs=30, batch_size=256, patience=30, learning_rate=5e-3, neighbors=5, device="cpu")


def train(world: World, output: Path, never_shown: Sequence[str] = (), **changes: Any) -> TrainingResult:
    config = CONFIG.model_copy(update=changes)
    return cm3.run(tables=world.tables, output=output, config=config, never_shown=never_shown)


def test_a_run_leaves_every_table_as_promised_and_beats_popularity(world: World, tmp_path: Path) -> None:
    result = train(world, tmp_path / "out")
    assert result.dim == 3 * CONFIG.dim + 1 + 39  # three blocks, the popularity prior, the graph filter of 40 items
    schemas = {
        "items": item_embeddings(result.dim),
        "users": user_embeddings(result.dim),
        "item_weights": ITEM_WEIGHTS,
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
    assert tables["item_weights"].num_rows > 0
    curve = [row["value"] for row in tables["epochs"].to_pylist() if row["metric"] == "loss"]
    assert len(curve) == result.epochs
    assert curve[-1] < curve[0]
    assert not list((tmp_path / "out").glob(".*"))


def test_recommendations_are_the_published_vectors_dot_products_plus_the_weights_of_what_was_chosen(
    world: World, tmp_path: Path
) -> None:
    chosen: dict[str, set[str]] = {}
    for user, item, _ in world.events:
        chosen.setdefault(user, set()).add(item)
    for score, prior, part in (("dot", 0.0, 0.0), ("cosine", 0.0, 0.0), ("cosine", 0.2, 0.0), ("cosine", 0.2, 3.0)):
        changes = {"score": score, "popularity_prior": prior, "filter_weight": part}
        files = train(world, tmp_path / f"{score}-{prior}-{part}", max_epochs=2, **changes).files
        users = dict(pl.read_parquet(files["users"]).iter_rows())
        items = dict(pl.read_parquet(files["items"]).iter_rows())
        weights = {(i, j): weight for i, j, weight in pl.read_parquet(files["item_weights"]).iter_rows()}
        for user, item, _, value, because in pl.read_parquet(files["recommendations"]).head(200).iter_rows():
            terms = {j: weights.get((item, j), 0.0) for j in chosen[user]}
            assert np.dot(users[user], items[item]) + sum(terms.values()) == pytest.approx(value, abs=1e-5)
            best = sorted((j for j in terms if terms[j] > 0), key=lambda j: (-terms[j], j))[:3]
            assert (because or []) == best


@pytest.mark.parametrize(
    ("exclude", "shown"), [("all", set()), ("train", {"valid", "test"}), ("none", {"train", "valid", "test"})]
)
def test_recommendations_leave_out_what_the_user_chose(
    world: World, tmp_path: Path, exclude: str, shown: set[str]
) -> None:
    files = train(world, tmp_path / "out", max_epochs=2, exclude=exclude, refit=False, top_k=40).files
    lists = pl.read_parquet(files["recommendations"])
    pairs = set(lists.select("user_id", "item_id").iter_rows())
    assert {split for user, item, split in world.events if (user, item) in pairs} == shown
    for ranks in lists.group_by("user_id").agg("rank")["rank"]:
        assert ranks.to_list() == list(range(1, len(ranks) + 1))


def test_what_is_never_shown_is_in_no_list_and_changes_nothing_else(world: World, tmp_path: Path) -> None:
    whole, fewer = (
        train(world, tmp_path / str(len(hidden)), hidden, max_epochs=2, top_k=10)
        for hidden in ([], ["i003", "i007", "no-such-item"])
    )
    for name in ("metrics", "items", "users", "item_weights"):
        assert Path(whole.files[name]).read_bytes() == Path(fewer.files[name]).read_bytes(), name
    lists = pl.read_parquet(fewer.files["recommendations"])
    assert not {"i003", "i007"} & set(lists["item_id"])
    assert lists.group_by("user_id").len()["len"].unique().to_list() == [10], "others take their place"
    before = pl.read_parquet(whole.files["recommendations"]).filter(~pl.col("item_id").is_in(["i003", "i007"]))
    kept = before.join(lists, on=["user_id", "item_id"], how="anti")
    assert kept.is_empty()


def test_what_is_delivered_is_trained_on_everything_and_what_is_measured_is_not(world: World, tmp_path: Path) -> None:
    refitted, measured = (train(world, tmp_path / str(refit), max_epochs=4, refit=refit) for refit in (True, False))
    assert refitted.test == measured.test
    assert Path(refitted.files["metrics"]).read_bytes() == Path(measured.files["metrics"]).read_bytes()
    unsplit = draw_world()
    unsplit.events = [(user, item, "train") for user, item, _ in unsplit.events]
    everything = load(unsplit.write(tmp_path / "unsplit").tables)
    config = CONFIG.model_copy(update={"max_epochs": 4})
    expected = refit(cm3.train.build(everything, config), everything, config, refitted.best_epoch).items
    vectors = torch.from_numpy(pl.read_parquet(refitted.files["items"])["embedding"].to_numpy())
    width = expected.shape[1]
    torch.testing.assert_close(vectors[:, :width], torch.nn.functional.normalize(expected, dim=-1))


@pytest.mark.parametrize(("refit", "solved"), [(True, 2), (False, 1)])
def test_without_a_second_training_the_weights_are_solved_once(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refit: bool, solved: int
) -> None:
    calls, solve = [], fit_module._warm_columns
    monkeypatch.setattr(fit_module, "_warm_columns", lambda *args: calls.append(args) or solve(*args))
    files = train(world, tmp_path / "out", max_epochs=1, refit=refit).files
    assert len(calls) == solved
    assert pl.read_parquet(files["item_weights"]).height


def test_items_that_nobody_chose_get_vectors_and_weights_and_change_nothing_for_the_others(
    world: World, tmp_path: Path
) -> None:
    wider = draw_world()
    for name, vectors in wider.vectors.items():
        twin = next(v for v in vectors.values() if v is not None)
        wider.vectors[name] = vectors | {"new-twin": twin.copy(), "new-bare": None}
    wider.write(tmp_path / "wider")
    before, after = (train(w, tmp_path / str(n), max_epochs=4) for n, w in enumerate((world, wider)))
    assert before.test == after.test
    old, new = (dict(pl.read_parquet(result.files["items"]).iter_rows()) for result in (before, after))
    assert {item: new[item] for item in old} == old
    assert set(new) - set(old) == {"new-twin"}  # without content there is nothing to make a vector of
    assert np.isfinite(new["new-twin"]).all()
    weights = [pl.read_parquet(result.files["item_weights"]) for result in (before, after)]
    assert weights[1].filter(pl.col("item_id") != "new-twin").equals(weights[0])
    assert weights[1].filter(item_id="new-twin").height > 0


def test_the_lenders_own_weight_is_chosen_on_what_was_held_out_also_where_training_holds_nothing_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wider = draw_world()
    for name, vectors in wider.vectors.items():
        wider.vectors[name] = vectors | {"new": next(v for v in vectors.values() if v is not None).copy()}
    wider.write(tmp_path / "wider")
    held_out: list[int] = []
    judged: list[np.ndarray] = []
    choose = fit_module._choose_themselves

    def watched(dataset: Dataset, weights: sp.csr_matrix, *arguments: Any) -> float:
        held_out.append(len(dataset.valid))
        judged.append(weights.toarray())
        return choose(dataset, weights, *arguments)

    monkeypatch.setattr(fit_module, "_choose_themselves", watched)
    train(wider, tmp_path / "measured", max_epochs=2, refit=False)
    measured = judged[-1]
    train(wider, tmp_path / "out", max_epochs=2)
    assert held_out[-1] == len(load(wider.tables).valid) > 0
    np.testing.assert_array_equal(judged[-1], measured, "the weights have not seen what was held out")


@pytest.mark.slow
def test_the_less_must_be_left_of_the_others_the_more_often_new_items_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wider = draw_world(users=120, items=100)
    for name, vectors in wider.vectors.items():
        wider.vectors[name] = vectors | {"new": next(v for v in vectors.values() if v is not None).copy()}
    wider.write(tmp_path / "wider")
    chosen: list[float] = []
    delivered: list[float] = []
    choose = fit_module._choose_themselves
    monkeypatch.setattr(fit_module, "_choose_themselves", lambda *given: chosen.append(choose(*given)) or chosen[-1])
    for kept in (1.0, 0.0):
        train(wider, tmp_path / f"{kept}", max_epochs=2, item_weights=ItemWeightsConfig(warm_kept=kept))
        delivered.append(chosen[-1])
    assert delivered[1] > delivered[0]


@pytest.mark.parametrize("mask_validation", [False, True])
def test_metrics_are_those_of_the_published_vectors(world: World, tmp_path: Path, mask_validation: bool) -> None:
    rule = EvaluationConfig(mask_validation=mask_validation)
    result = train(world, tmp_path / "out", max_epochs=3, evaluation=rule, refit=False)
    dataset = load(world.tables)
    chosen = torch.from_numpy(dataset.matrix("train").toarray())
    weights = torch.zeros(len(dataset.items), len(dataset.items))
    for item, other, weight in pl.read_parquet(result.files["item_weights"]).iter_rows():
        weights[dataset.items.index(other), dataset.items.index(item)] = weight
    users, items = (
        torch.tensor(pl.read_parquet(result.files[name])["embedding"].to_numpy()) for name in ("users", "items")
    )
    metrics = pl.read_parquet(result.files["metrics"]).filter(model="cm3")

    def scorer(rows: Rows) -> torch.Tensor:
        return users[torch.from_numpy(rows)] @ items.T + chosen[rows] @ weights

    for split in ("valid", "test"):
        expected = evaluate(scorer, dataset, split, rule)
        mine = metrics.filter(split=split)
        values = {f"{row['metric']}@{row['k']}": row["value"] for row in mine.iter_rows(named=True)}
        assert values == pytest.approx(expected.flat())


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


def poor_worlds() -> dict[str, World]:
    """Shops of which the item weights have little to say, by what they lack."""
    worlds = {name: draw_world() for name in ("alone", "no content", "half", "constant", "one constant", "few")}
    worlds["alone"].events += [("hermit", "hermitage", "train")]
    for name, vectors in worlds["no content"].vectors.items():
        worlds["no content"].vectors[name] = dict.fromkeys(vectors)
    for name, vectors in worlds["half"].vectors.items():
        worlds["half"].vectors[name] = {item: vector if item < "i020" else None for item, vector in vectors.items()}
    for world, names in (("constant", ("image", "text")), ("one constant", ("image",))):
        for name in names:
            worlds[world].vectors[name] = dict.fromkeys(worlds[world].vectors[name], np.full(6, 0.3, np.float32))
    events = [event for event in worlds["few"].events if event[1] < "i008"]
    worlds["few"].events = [*events, ("u000", "i000", "train"), ("u001", "i001", "train")]
    worlds["few"].vectors = {
        name: {item: vector for item, vector in vectors.items() if item < "i008"}
        for name, vectors in worlds["few"].vectors.items()
    }
    return worlds


@pytest.mark.parametrize("lack", poor_worlds())
def test_a_shop_that_says_little_gets_weights_without_a_nan(tmp_path: Path, lack: str) -> None:
    world = poor_worlds()[lack].write(tmp_path / "world")
    result = train(world, tmp_path / "out", max_epochs=1)
    weights = pl.read_parquet(result.files["item_weights"])
    assert np.isfinite(weights["weight"].to_numpy()).all()
    assert "hermitage" not in {*weights["item_id"], *weights["chosen_id"]}
    assert (weights["item_id"] != weights["chosen_id"]).all()
    for name in ("items", "users"):
        assert np.isfinite(pl.read_parquet(result.files[name])["embedding"].to_numpy()).all()
    lists = pl.read_parquet(result.files["recommendations"])
    assert np.isfinite(lists["score"].to_numpy()).all()
    assert np.isfinite(pl.read_parquet(result.files["metrics"])["value"].to_numpy()).all()


def test_one_user_is_no_shop_to_train_on(tmp_path: Path) -> None:
    world = draw_world()
    world.events = [event for event in world.events if event[0] == "u000"]
    with pytest.raises(UserError, match=r"at least 2 users, found 1\. Loosen"):
        train(world.write(tmp_path / "world"), tmp_path / "out")


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
