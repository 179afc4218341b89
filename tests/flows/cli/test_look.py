"""show, resolve, export and recommend on the tables of a finished run."""

import json
from pathlib import Path

import duckdb
import numpy as np
import polars as pl

from pipeline.registry import versions
from pipeline.store import Store
from schemas.run import RunSummary
from tests.support.command_line import cm3, cm3_process

Finished = tuple[Store, RunSummary]


def test_resolve_prints_a_path_that_duckdb_reads(finished: Finished) -> None:
    store, _ = finished
    path = cm3_process("resolve", "demo/embeddings/items@champion", store=store.uri).stdout.strip()
    assert duckdb.sql(f"select count(*) from '{path}'").fetchall()[0][0] > 0


def test_show_lists_data_sets_and_the_last_run(finished: Finished) -> None:
    store, _ = finished
    assert "demo" in cm3("show", store=store.uri).stdout
    shown = cm3("show", "demo", store=store.uri).stdout
    assert "features/clip" in shown
    assert "NDCG@20" in shown
    assert RunSummary.model_validate_json(cm3("show", "demo", "--json", store=store.uri).stdout) is not None


def test_a_path_is_never_broken_over_lines(finished: Finished) -> None:
    shown = cm3("show", "demo", store=finished[0].uri).stdout
    report = next(line for line in shown.splitlines() if line.startswith("report:"))
    assert Path(report.split()[1]).is_file()


def test_similar_prints_a_row_per_neighbour_with_each_features_similarity(finished: Finished) -> None:
    shown = cm3("similar", "demo", "D0001", "--k", "3", store=finished[0].uri).stdout
    neighbors = json.loads(cm3("similar", "demo", "D0001", "--k", "3", "--json", store=finished[0].uri).stdout)
    assert shown.startswith("D0001 ")
    assert "clip" in shown
    assert len(neighbors) == 3
    assert all(row["neighbor_id"] in shown and row["title"][:12] in shown for row in neighbors)


def test_recommend_prints_what_the_table_says_and_why(finished: Finished) -> None:
    store, _ = finished
    table = pl.read_parquet(versions.resolve(store, "demo/recommendations@champion").path)
    user = table["user_id"][0]
    expected = table.filter(pl.col("user_id") == user)["item_id"].to_list()[:4]
    document = json.loads(cm3("recommend", "demo", user, "--k", "4", "--json", store=store.uri).stdout)
    champion = next(v for v in versions.registered(store, "demo") if v.alias == "champion")
    assert document["version"] == str(champion.number)
    assert [row["item_id"] for row in document["answers"][0]["items"]] == expected
    shown = cm3("recommend", "demo", user, "--k", "4", store=store.uri).stdout
    assert all(item in shown for item in expected)
    assert f"from version {champion.number} of demo" in shown


def test_exported_vectors_and_item_weights_give_the_published_scores(finished: Finished, tmp_path: Path) -> None:
    store, _ = finished
    paths = {name: versions.resolve(store, f"demo/{name}@champion").path for name in ("interactions", "item_weights")}
    recommended = pl.read_parquet(versions.resolve(store, "demo/recommendations@champion").path)
    vectors = {}
    for kind in ("users", "items"):
        assert cm3("export", f"demo/embeddings/{kind}@champion", str(tmp_path / kind), store=store.uri).returncode == 0
        ids, rows = (np.load(tmp_path / kind / f"{name}.npy") for name in ("ids", "vectors"))
        vectors[kind] = dict(zip(ids.tolist(), rows, strict=True))
    spoken = (
        pl.read_parquet(paths["interactions"])
        .select("user_id", chosen_id="item_id")
        .unique()
        .join(pl.read_parquet(paths["item_weights"]), on="chosen_id")
        .group_by("user_id", "item_id")
        .agg(pl.col("weight").sum())
    )
    rows = recommended.join(spoken, on=["user_id", "item_id"], how="left").with_columns(pl.col("weight").fill_null(0))
    dots = [float(vectors["users"][u] @ vectors["items"][i]) for u, i in rows.select("user_id", "item_id").iter_rows()]
    np.testing.assert_allclose(np.array(dots) + rows["weight"].to_numpy(), rows["score"].to_numpy(), atol=1e-4)


def test_export_writes_vectors_ids_and_an_index(finished: Finished, tmp_path: Path) -> None:
    answer = cm3("export", "demo/embeddings/items@champion", str(tmp_path / "vectors"), store=finished[0].uri)
    assert answer.returncode == 0, answer.stderr
    assert {path.name for path in (tmp_path / "vectors").iterdir()} == {"vectors.npy", "ids.npy", "index.faiss"}
