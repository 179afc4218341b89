"""What a user is shown: the champion's list, or the sum of what speaks for an unknown user's choices."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.registry import recommend, versions
from pipeline.registry.recommend import Served
from pipeline.store import Store
from schemas import tables as contract
from schemas.errors import UserError
from schemas.lineage import TableVersion
from tests.support.command_line import cm3
from tests.support.published import publish
from tests.support.registered import register, trained

WEIGHTS = [("i1", "i0", 0.5), ("i2", "i0", 0.2), ("i2", "i1", 0.4), ("i3", "i1", -0.3), ("i0", "i1", 0.9)]


def shown(store: Store, first: str) -> dict[str, TableVersion]:
    """Tables of a version that recommends `first` to u0, then i2; u1 chose everything."""
    items = [{"item_id": f"i{n}", "title": f"Title {n}", "categories": []} for n in range(4)]
    rows = [
        {"user_id": "u0", "item_id": item, "rank": rank, "score": 1.0 / rank, "because": because}
        for rank, item, because in ((1, first, ["i0"]), (2, "i2", None))
    ]
    users = [{"user_id": user, "embedding": [1.0]} for user in ("u0", "u1")]
    weights = [dict(zip(contract.ITEM_WEIGHTS.names, row, strict=True)) for row in WEIGHTS]
    content = {
        "items": pa.Table.from_pylist(items, schema=contract.ITEMS),
        "recommendations": pa.Table.from_pylist(rows, schema=contract.RECOMMENDATIONS),
        "embeddings/users": pa.Table.from_pylist(users, schema=contract.user_embeddings(1)),
        "item_weights": pa.Table.from_pylist(weights, schema=contract.ITEM_WEIGHTS),
    }
    return {name: publish(store, name, table, config={"top_k": 2, "first": first}) for name, table in content.items()}


def test_a_users_list_is_the_champions_with_titles_and_reasons_not_the_latest(store: Store) -> None:
    assert Served(store, "shop").version == "latest", "without a registry nothing is champion"
    register(store, trained(store, seed=0, ndcg=0.3) | shown(store, "i1"))
    register(store, trained(store, seed=1, ndcg=0.1) | shown(store, "i3"))
    served = Served(store, "shop")
    assert served.version == "1"
    rows = recommend.described(served, recommend.for_users(served, ["u0"], 2)["u0"])
    assert [(row["rank"], row["item_id"], row["title"]) for row in rows] == [(1, "i1", "Title 1"), (2, "i2", "Title 2")]
    assert [row["because"] for row in rows] == [[{"item_id": "i0", "title": "Title 0"}], []]
    versions.promote(store, "shop", "2")
    assert recommend.for_users(Served(store, "shop"), ["u0"], 1)["u0"]["item_id"].to_pylist() == ["i3"]


def test_without_a_champion_the_latest_tables_answer(store: Store) -> None:
    shown(store, "i3")
    served = Served(store, "shop")
    assert recommend.for_users(served, ["u0"], 1)["u0"]["item_id"].to_pylist() == ["i3"]
    assert len(recommend.for_users(served, ["u1"], 1)["u1"]) == 0, "who chose everything gets nothing"


def test_an_unknown_user_is_ranked_by_the_sum_of_weights_of_what_they_chose(store: Store) -> None:
    shown(store, "i1")
    table, unknown = recommend.for_items(Served(store, "shop"), ["i0", "i1", "nothing", "i0"], 10)
    assert unknown == ["nothing"]
    assert table["item_id"].to_pylist() == ["i2", "i3"], "what was chosen is left out"
    assert table["score"].to_pylist() == pytest.approx([0.6, -0.3])
    assert table["because"].to_pylist() == [["i1", "i0"], None]
    assert len(recommend.for_items(Served(store, "shop"), ["i0", "i1"], 1)[0]) == 1


@pytest.mark.parametrize("place", [100, 250, -100, -9], ids=["ids", "weights", "columns", "end"])
def test_damaged_weights_are_said_and_never_become_scores(store: Store, place: int) -> None:
    version = shown(store, "i1")["item_weights"]
    (file,) = Path(version.path).iterdir()
    file.chmod(0o644)
    content = bytearray(file.read_bytes())
    content[place] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(UserError, match="does not match its manifest") as told:
        recommend.for_items(Served(store, "shop"), ["i0", "i1"], 10)
    assert str(file.name) in str(told.value)
    answer = cm3("recommend", "shop", "--items", "i0,i1", store=store.root)
    assert answer.returncode == 1
    assert "does not match its manifest" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_what_cannot_be_answered_is_said_in_one_line(store: Store) -> None:
    shown(store, "i1")
    served = Served(store, "shop")
    with pytest.raises(UserError, match="has no user 'nobody' in version latest"):
        recommend.for_users(served, ["u0", "nobody"], 2)
    with pytest.raises(UserError, match="holds the first 2 recommendations of each user, 3 were asked for"):
        recommend.for_users(served, ["u0"], 3)
    with pytest.raises(UserError, match="none of the items 'x', 'y'"):
        recommend.for_items(served, ["x", "y"], 2)
    with pytest.raises(UserError, match="No data set 'nowhere'"):
        recommend.for_users(Served(store, "nowhere"), ["u0"], 1)
