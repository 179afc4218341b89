"""Registration in a real MLflow on SQLite: what a version remembers, which alias it gets, and a killed run's rest."""

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipeline.registry import client, versions
from pipeline.store import Store
from tests.pipeline.registry.conftest import Shop
from tests.support.registered import register, trained


def test_the_first_version_is_champion_a_worse_one_challenger_a_better_one_champion(shop: Shop) -> None:
    store, (first, worse, better), _ = shop
    assert (first.alias, first.number) == ("champion", 1)
    assert (worse.alias, worse.number) == ("challenger", 2)
    assert "0.1500 against the champion's 0.2000" in worse.reason
    assert (better.alias, better.number) == ("champion", 3)
    assert [v.alias for v in versions.registered(store, "shop")] == ["", "challenger", "champion"]


def test_a_version_remembers_what_it_was_judged_by(shop: Shop) -> None:
    first, worse, better = versions.registered(shop[0], "shop")
    assert first.coverage == {"clip": 1.0}
    assert first.validation_set == worse.validation_set
    assert "differ" not in worse.reason
    assert "validation sets differ: 6 interactions against the champion's 5" in better.reason


def test_the_run_keeps_parameters_curves_and_test_metrics(shop: Shop) -> None:
    store, (first, *_), _ = shop
    mlflow = client.connect(store)
    run = mlflow.get_run(first.run_id)
    assert run.data.params == {"gamma": "0.5"}
    assert run.data.metrics["cm3_test_ndcg_20"] == pytest.approx(0.10)
    assert [m.value for m in mlflow.get_metric_history(first.run_id, "loss")] == [1, 1 / 2, 1 / 3]


def test_registering_the_same_embeddings_again_changes_nothing(shop: Shop) -> None:
    store, (_, worse, _), tables = shop
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


def test_small_losses_do_not_add_up_unseen_until_somebody_accepts_them(tmp_path: Path) -> None:
    store = Store(tmp_path)
    figures = (0.300, 0.298, 0.296)
    aliases = [register(store, trained(store, seed=seed, ndcg=ndcg)).alias for seed, ndcg in enumerate(figures)]
    assert aliases == ["champion", "champion", "challenger"]
    refused = versions.registered(store, "shop")[-1]
    assert (
        "loses 1.3% of the validation NDCG@20 of version 1, 0.3000, the best of the last 7 champions" in refused.reason
    )
    versions.promote(store, "shop", "challenger")
    assert register(store, trained(store, seed=3, ndcg=0.294)).alias == "champion", "the accepted figure is the measure"
    assert register(store, trained(store, seed=4, ndcg=0.2915), champions_compared=1).alias == "champion"


def test_versions_that_a_model_made_of_newer_data_belong_to_its_training_and_count_as_one_champion(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    training = trained(store, seed=0, ndcg=0.300)
    first = register(store, training)
    register(store, trained(store, seed=1, ndcg=0.298))
    newer = trained(store, seed=1, ndcg=0.298)
    for items in (21, 22, 23):
        more = trained(store, seed=items, ndcg=0.298, items=items)
        newer |= {"embeddings/items": more["embeddings/items"]}
        version = register(store, newer)
        assert version.alias == "champion"
        before = versions.registered(store, "shop")[-2]
        assert (version.run_id, version.validation_set) == (before.run_id, before.validation_set)
    assert version.run_id != first.run_id
    refused = register(store, trained(store, seed=2, ndcg=0.296, items=23), champions_compared=2)
    assert refused.alias == "challenger", "the best of the last two trainings is the first"
