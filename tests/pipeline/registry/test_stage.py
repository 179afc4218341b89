"""The registry: a real MLflow on SQLite, one registered model a data set, aliases that resolve to Parquet."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from mlflow import MlflowClient

from pipeline import registry
from pipeline.registry import client, versions
from pipeline.store import Store
from schemas.errors import StoreError, UserError
from schemas.lineage import Lineage, TableVersion
from schemas.registry import Registered, RegistryConfig
from schemas.tables import EPOCHS, INTERACTIONS, METRICS, features, item_embeddings

Shop = tuple[Store, list[Registered], list[dict[str, TableVersion]]]


def publish(store: Store, table: str, schema: pa.Schema, rows: list[dict[str, object]], seed: int) -> TableVersion:
    lineage = Lineage(dataset="shop", table=table, stage="train", stage_version=1, config={"seed": seed})
    with store.writer(schema, lineage) as writer:
        writer.write(pa.Table.from_pylist(rows, schema=schema))
    return writer.version


def trained(store: Store, *, seed: int, ndcg: float, items: int = 20) -> dict[str, TableVersion]:
    """Tables such as a training run leaves."""
    row = {"model": "cm3", "seed": seed, "metric": "ndcg", "k": 20, "users": 5}
    metrics = [row | {"split": "valid", "value": ndcg}, row | {"split": "test", "value": ndcg / 2}]
    curve = [{"model": "cm3", "seed": seed, "epoch": e, "metric": "loss", "value": 1 / e} for e in (1, 2, 3)]
    vectors = [{"item_id": f"i{i}", "embedding": [float(i), 1.0]} for i in range(items)]
    held_out = [{"user_id": "u", "item_id": f"i{i}", "split": "valid"} for i in range(5 + seed // 2)]
    clip = [{"item_id": row["item_id"], "content_hash": "h", "embedding": [1.0]} for row in vectors]
    return {
        "interactions": publish(store, "interactions", INTERACTIONS, held_out, seed),
        "features/clip": publish(store, "features/clip", features(1), clip, seed),
        "embeddings/items": publish(store, "embeddings/items", item_embeddings(2), vectors, seed),
        "metrics": publish(store, "metrics", METRICS, metrics, seed),
        "epochs": publish(store, "epochs", EPOCHS, curve, seed),
    }


def register(store: Store, tables: dict[str, TableVersion], **config: object) -> Registered:
    return registry.run(store=store, tables=tables, parameters={"gamma": 0.5}, config=RegistryConfig(**config))


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Three versions: the first, a worse one, a better one."""
    store = Store(tmp_path_factory.mktemp("registry"))
    tables = [trained(store, seed=s, ndcg=n) for s, n in ((0, 0.20), (1, 0.15), (2, 0.25))]
    return store, [register(store, t) for t in tables], tables


def test_the_first_version_is_champion_a_worse_one_challenger_a_better_one_champion(registered: Shop) -> None:
    store, (first, worse, better), _ = registered
    assert (first.alias, first.number) == ("champion", 1)
    assert (worse.alias, worse.number) == ("challenger", 2)
    assert "0.1500 against the champion's 0.2000" in worse.reason
    assert (better.alias, better.number) == ("champion", 3)
    assert [v.alias for v in versions.registered(store, "shop")] == ["", "challenger", "champion"]


def test_a_version_remembers_what_it_was_judged_by(registered: Shop) -> None:
    first, worse, better = versions.registered(registered[0], "shop")
    assert first.coverage == {"clip": 1.0}
    assert first.validation_set == worse.validation_set
    assert "differ" not in worse.reason
    assert "validation sets differ: 6 interactions against the champion's 5" in better.reason


def test_references_resolve_by_alias_number_version_and_latest(registered: Shop) -> None:
    store, _, tables = registered
    items = [t["embeddings/items"].version for t in tables]
    for at, expected in (("@champion", items[2]), ("@challenger", items[1]), ("@1", items[0]), ("", items[2])):
        assert versions.resolve(store, f"shop/embeddings/items{at}").version == expected
    assert versions.resolve(store, f"shop/embeddings/items@{items[0][:8]}").version == items[0]
    assert versions.resolve(store, "shop/metrics@champion").version == tables[2]["metrics"].version


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("shop", "is not DATASET/TABLE"),
        ("shop/embeddings/items@best", r"no registered version 'best'; registered: 1, 2 \(challenger\), 3 \(champ"),
        ("shop/captions@champion", "was made without 'captions'"),
        ("nowhere/items", "Published data sets: shop"),
    ],
)
def test_a_reference_to_nothing_says_what_there_is(registered: Shop, reference: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        versions.resolve(registered[0], reference)


def test_the_run_keeps_parameters_curves_and_test_metrics(registered: Shop) -> None:
    store, (first, *_), _ = registered
    mlflow = client.connect(store)
    run = mlflow.get_run(first.run_id)
    assert run.data.params == {"gamma": "0.5"}
    assert run.data.metrics["cm3_test_ndcg_20"] == pytest.approx(0.10)
    assert [m.value for m in mlflow.get_metric_history(first.run_id, "loss")] == [1, 1 / 2, 1 / 3]


def test_registering_the_same_embeddings_again_changes_nothing(registered: Shop) -> None:
    store, (_, worse, _), tables = registered
    again = register(store, tables[1])
    assert again.reused
    assert again.number == worse.number
    assert len(versions.registered(store, "shop")) == 3


def test_a_better_version_that_lost_items_is_not_promoted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    register(store, trained(store, seed=0, ndcg=0.2, items=20))
    smaller = register(store, trained(store, seed=1, ndcg=0.4, items=10), max_coverage_loss=0.1)
    assert smaller.alias == "challenger"
    assert "covers 50.0% fewer items" in smaller.reason


def test_a_remote_store_without_a_server_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="set MLFLOW_TRACKING_URI"):
        client.connect(Store("memory://bucket"))


def test_a_folder_that_no_address_can_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("why?", "50%41"):
        with pytest.raises(UserError, match="Choose another folder"):
            client.check(Store(tmp_path / name))


def test_promote_and_rollback_move_the_alias_and_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = register(store, trained(store, seed=0, ndcg=0.3))
    second = register(store, trained(store, seed=1, ndcg=0.2))
    assert versions.promote(store, "shop", "challenger").number == second.number
    assert versions.promote(store, "shop", "champion").number == second.number  # once more changes nothing
    assert [v.alias for v in versions.registered(store, "shop")] == ["", "champion"]
    assert versions.rollback(store, "shop").number == first.number
    assert versions.resolve(store, "shop/embeddings/items@champion").version == first.tables["embeddings/items"]
    with pytest.raises(UserError, match="no champion before"):
        versions.rollback(store, "shop")


@pytest.mark.parametrize("call", ["create_model_version", "set_registered_model_tag", "set_registered_model_alias"])
def test_a_run_killed_while_it_registers_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    store = Store(tmp_path)
    tables = trained(store, seed=0, ndcg=0.3)
    whole = getattr(MlflowClient, call)

    def killed(*arguments: Any, **named: Any) -> None:
        whole(*arguments, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, call, killed)
        with pytest.raises(KeyboardInterrupt):
            register(store, tables)
    assert register(store, tables).alias == "champion"
    second = register(store, trained(store, seed=1, ndcg=0.4))
    assert second.alias == "champion"
    assert versions.rollback(store, "shop").number == 1
    assert register(store, trained(store, seed=1, ndcg=0.4)).alias == ""  # what was rolled back stays so


def test_a_database_half_made_by_a_killed_run_is_never_the_registrys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "search_registered_models", killed)
        with pytest.raises(KeyboardInterrupt):
            versions.registered(store, "shop")
    assert list((tmp_path / "_mlflow").iterdir()) == []
    assert versions.registered(store, "shop") == []


def test_a_registry_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "_mlflow").mkdir()
    (tmp_path / "_mlflow" / "mlflow.db").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match=r"The registry of .* failed: .*not a database"):
        versions.registered(Store(tmp_path), "shop")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StoreError, match="Is MLFLOW_TRACKING_URI right") as caught:
        versions.registered(Store(tmp_path), "shop")
    assert "secret" not in str(caught.value)


def test_a_damaged_version_is_not_promoted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    register(store, trained(store, seed=0, ndcg=0.3))
    register(store, trained(store, seed=1, ndcg=0.2))
    path = Path(versions.resolve(store, "shop/embeddings/items@challenger").path) / "part-00000.parquet"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(UserError, match="does not match its manifest"):
        versions.promote(store, "shop", "2")
    assert versions.resolve(store, "shop/embeddings/items@champion").version != path.parent.stem
