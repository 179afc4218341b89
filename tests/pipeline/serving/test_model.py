"""A prepared version's answers, beside what a real training published."""

import numpy as np
import polars as pl
import pytest

from pipeline.registry.recommend import Served
from pipeline.serving import prepare
from pipeline.serving.follower import consistent
from pipeline.serving.model import Model, Wanted
from pipeline.store import Store
from schemas.run import RunSummary

Finished = tuple[Store, RunSummary]


@pytest.fixture(scope="module")
def demo(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, pl.DataFrame]:
    """The champion of a small demo, prepared, and its recommendations."""
    served, folder = Served(finished[0], "demo"), tmp_path_factory.mktemp("prepared")
    prepare.prepare(served.store, consistent(served), served.version, folder)
    return Model(folder), pl.read_parquet(served.table("recommendations").path)


def test_every_list_of_a_trained_run_is_answered_as_published(demo: tuple[Model, pl.DataFrame]) -> None:
    model, table = demo
    for (user,), rows in table.group_by("user_id", maintain_order=True):
        listed, _ = model.listed(model.user(str(user)) or 0, len(rows))
        assert [
            (row["item_id"], row["rank"], row["score"], [b["item_id"] for b in row["because"]])
            for row in model.recommended(listed)
        ] == [(row["item_id"], row["rank"], row["score"], row["because"] or []) for row in rows.to_dicts()]


def test_scores_of_every_user_at_once_rank_as_the_training_did(demo: tuple[Model, pl.DataFrame]) -> None:
    """The same items with the same scores, up to rounding: another place only within a tie."""
    model, table = demo
    lists = {str(user): rows for (user,), rows in table.group_by("user_id", maintain_order=True)}
    wanted = [Wanted(model.user(user) or 0, len(rows)) for user, rows in lists.items()]
    for (_, rows), best in zip(lists.items(), model.best(wanted), strict=True):
        np.testing.assert_allclose(best["score"], rows["score"].to_numpy(), atol=1e-5)
        answered = {row["item_id"]: row["score"] for row in model.recommended(best)}
        last = rows["score"][-1]
        assert all(abs(answered.get(i, last) - s) < 1e-5 for i, s in rows.select("item_id", "score").iter_rows())


def test_a_version_is_loaded_without_a_copy_of_its_vectors(demo: tuple[Model, pl.DataFrame]) -> None:
    model, _ = demo
    for array in (model._item_vectors, model._user_vectors):
        assert not array.flags.owndata
        assert not array.flags.writeable
