"""The gate: which newly trained version becomes champion, and what the reason says."""

import math

import numpy as np
import pyarrow as pa
import pytest

from pipeline.features.columns import fixed_width_from
from pipeline.registry import promotion
from pipeline.store import Store
from schemas.registry import Measured, RegistryConfig
from schemas.tables import INTERACTIONS, features
from tests.support.published import publish

CHAMPION = Measured(validation_ndcg=0.2, validation_set="3 aa", items=20, coverage={"clip": 1.0, "caption": 0.0})
GATE = RegistryConfig(max_metric_loss=0.05, max_coverage_loss=0.1)


def judged(**changes: object) -> tuple[str, str]:
    return promotion.choose(CHAMPION.model_copy(update=changes), CHAMPION, GATE)


@pytest.mark.parametrize(
    ("ndcg", "alias"),
    [(0.3, "champion"), (0.2, "champion"), (0.191, "champion"), (0.189, "challenger"), (math.nan, "challenger")],
)
def test_a_version_may_lose_the_stated_share_of_the_metric_and_no_more(ndcg: float, alias: str) -> None:
    chosen, reason = judged(validation_ndcg=ndcg)
    assert chosen == alias
    assert f"validation NDCG@20 {ndcg:.4f} against the champion's 0.2000" in reason
    assert ("of validation NDCG@20, where 5.0% is allowed" in reason) == (alias == "challenger")


@pytest.mark.parametrize(("items", "alias"), [(18, "champion"), (17, "challenger"), (40, "champion")])
def test_a_better_version_may_lose_the_stated_share_of_the_items_and_no_more(items: int, alias: str) -> None:
    chosen, reason = judged(validation_ndcg=0.4, items=items)
    assert chosen == alias
    assert ("covers 15.0% fewer items than the champion, where 10.0% is allowed" in reason) == (alias == "challenger")


def test_a_better_version_whose_pictures_went_missing_is_not_promoted() -> None:
    chosen, reason = judged(validation_ndcg=0.4, coverage={"clip": 0.75, "caption": 0.0})
    assert chosen == "challenger"
    assert "clip covers 75.0% of the items, 25.0% less than the champion's, where 10.0% is allowed" in reason
    assert judged(coverage={})[0] == "champion", "a feature nobody asked for is not lost"


def test_a_version_of_the_champions_training_is_judged_by_its_items_alone() -> None:
    strict = RegistryConfig(max_metric_loss=0, max_coverage_loss=0.1)
    same, fewer = (CHAMPION.model_copy(update={"items": items, "validation_ndcg": 0.19}) for items in (22, 10))
    assert promotion.choose(same, CHAMPION, strict, same_training=True) == (
        "champion",
        "the champion's model, validation NDCG@20 0.2000, applied to newer data",
    )
    alias, reason = promotion.choose(fewer, CHAMPION, strict, same_training=True)
    assert alias == "challenger"
    assert "it covers 50.0% fewer items than the champion" in reason


def test_the_reason_names_every_loss() -> None:
    _, reason = judged(validation_ndcg=0.1, items=10)
    assert "loses 50.0% of validation NDCG@20" in reason
    assert "covers 50.0% fewer items" in reason


def test_the_reason_says_where_two_versions_were_not_judged_on_the_same_interactions() -> None:
    assert "differ" not in judged(validation_set="3 aa")[1]
    assert "validation sets differ: 1,204 interactions against the champion's 3" in judged(validation_set="1204 bb")[1]
    assert "differ" not in judged(validation_set="")[1], "of a version registered without one nothing is known"


def test_coverage_is_the_share_of_items_that_have_the_feature(store: Store) -> None:
    hashes = ["h0", None, "h2", "h3"]
    vectors = fixed_width_from(np.ones((4, 2), np.float32), missing=np.array([h is None for h in hashes]))
    columns = [pa.array(list("abcd")), pa.array(hashes), vectors, pa.nulls(4, pa.string())]
    clip = publish(store, "features/clip", pa.table(columns, schema=features(2)))
    assert promotion.coverage(store, {"features/clip": clip, "items": clip}) == {"clip": 0.75}


def test_the_validation_set_is_identified_by_its_interactions_alone(store: Store) -> None:
    def exam(splits: str, seed: int, order: int = 1) -> str:
        names = {"v": "valid", "t": "train"}
        rows = [{"user_id": f"u{i}", "item_id": "i", "split": names[split]} for i, split in enumerate(splits)][::order]
        version = publish(store, "interactions", pa.Table.from_pylist(rows, schema=INTERACTIONS), config={"seed": seed})
        return promotion.validation_set(store, version)

    assert exam("vtvt", 0) == exam("vtvtt", 1), "more training interactions are no other exam"
    assert exam("vtvt", 2) != exam("vttv", 3)
    assert exam("vtvt", 4).startswith("2 ")
    assert exam("vtvt", 5, order=-1) == exam("vtvt", 6), "nor are the same ones in another order"
