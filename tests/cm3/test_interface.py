"""The Python interface on a finished run's store."""

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import cm3
from pipeline.store import Store
from schemas.run import RunSummary

Finished = tuple[Store, RunSummary]


def test_importing_it_imports_nothing_heavy() -> None:
    heavy = {"torch", "pyarrow", "polars", "numpy", "mlflow", "prefect", "typer", "transformers"}
    script = f"import cm3, sys; print(sorted({heavy!r} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_a_table_is_read_by_name_version_and_alias(finished: Finished) -> None:
    store = finished[0].uri
    items = cm3.read("demo/items", store=store)
    assert items.num_rows == 60
    vectors = cm3.read("demo/embeddings/items@champion", store=store, columns=["item_id"])
    assert vectors.column_names == ["item_id"]
    assert pl.read_parquet(f"{cm3.resolve('demo/items', store=store)}/*.parquet").height == 60


def test_recommendations_are_those_of_the_table(finished: Finished) -> None:
    store = finished[0].uri
    table = pl.from_arrow(cm3.read("demo/recommendations@champion", store=store))
    assert isinstance(table, pl.DataFrame)
    users = table["user_id"].unique().sort().head(3).to_list()
    lists = pl.from_arrow(cm3.recommend("demo", users, k=5, store=store))
    assert isinstance(lists, pl.DataFrame)
    expected = table.filter(pl.col("user_id").is_in(users), pl.col("rank") <= 5).sort("user_id", "rank")
    assert lists.sort("user_id", "rank").equals(expected)


def test_an_unknown_user_gets_what_their_items_speak_for_and_a_warning_of_unknown_items(finished: Finished) -> None:
    store = finished[0].uri
    chosen = cm3.read("demo/item_weights@champion", store=store)["chosen_id"][0].as_py()
    with pytest.warns(UserWarning, match="'no such item'"):
        table = cm3.recommend("demo", items=[chosen, "no such item"], store=store)
    assert table.num_rows
    assert chosen not in table["item_id"].to_pylist()


def test_neighbours_come_by_rank(finished: Finished) -> None:
    table = cm3.similar("demo", "D0001", 3, store=finished[0].uri)
    assert table["rank"].to_pylist() == [1, 2, 3]


def test_a_run_takes_its_parameters_as_keywords(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title\n" + "".join(f"{i},A cup of sort {i}\n" for i in range(20)))
    summary = cm3.extract(
        "catalogue", store=tmp_path / "store", raw=str(tmp_path), items="items.csv", interactions="", models="offline",
        features=("sentence",),
    )  # fmt: skip
    assert summary.dataset == "catalogue"
    assert cm3.read("catalogue/features/sentence", store=tmp_path / "store").num_rows == 20


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda store: cm3.read("demo/nothing", store=store), "demo has no table 'nothing'"),
        (lambda store: cm3.read("demo/items", store=store, columns=["sku"]), "no column 'sku'; its columns: item_id"),
        (lambda store: cm3.recommend("demo", ["nobody"], store=store), "demo has no user 'nobody'"),
        (lambda store: cm3.recommend("demo", store=store), "Give users, or the items"),
        (lambda store: cm3.run("demmo", store=store), "expected one of amazon"),
        (lambda store: cm3.run("demo", store=store, feature=["sentence"]), "did you mean features"),
    ],
)  # fmt: skip
def test_a_mistake_says_what_to_do(finished: Finished, call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(cm3.UserError, match=message):
        call(finished[0].uri)
