"""What to show a user, from the champion's tables: a known user by id, an unknown one by the items that they chose."""

import json
from collections.abc import Collection, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import never_shown
from pipeline.registry import versions
from pipeline.registry.choices import Spoken, ranked
from pipeline.registry.client import has_registry
from pipeline.similarity.lookup import titles
from pipeline.store import Store
from schemas.errors import UserError
from schemas.lineage import TableVersion
from schemas.registry import Registered, RegistryConfig

RECOMMENDATIONS, WEIGHTS, ITEMS, USERS = "recommendations", "item_weights", "items", "embeddings/users"


class Served:
    """The tables of the version that is served: the champion's, or the latest ones where no version is champion."""

    def __init__(self, store: Store, dataset: str, config: RegistryConfig | None = None) -> None:
        self.store, self.dataset = store, dataset
        self.champion: Registered | None = (
            versions.champion(store, dataset, config) if has_registry(store, config) else None
        )

    @property
    def version(self) -> str:
        """The champion's number in the registry, or "latest"."""
        return str(self.champion.number) if self.champion else "latest"

    def table(self, name: str) -> TableVersion:
        """One of its tables.

        Raises:
            UserError: it was made without that table, or the table is gone.
        """
        if self.champion is None:
            return self.store.latest(self.dataset, name)
        if name not in self.champion.tables:
            raise UserError(
                f"Version {self.version} of {self.dataset}, the champion, was made without {name!r}. Run again, and "
                "promote the version that the run registers."
            )
        return self.store.get(self.dataset, name, self.champion.tables[name])

    def rows(self, name: str, column: str, values: Collection[str]) -> pa.Table:
        """The rows of a table whose `column` is one of `values`; only the row groups that may hold them are read."""
        return self.store.read(self.table(name), filters=[(column, "in", list(values))])

    @cached_property
    def never_shown(self) -> frozenset[str]:
        """Ids of items that are never shown, as the list in the store says now."""
        return never_shown.read(self.store, self.dataset)

    def titles(self, ids: Collection[str]) -> dict[str, str | None]:
        """Titles of items, as they were for this version."""
        return titles(self.store, self.table(ITEMS), ids)


def for_users(served: Served, users: Sequence[str], k: int) -> dict[str, pa.Table]:
    """The first `k` rows of each user in `recommendations`, by rank, without items that are never shown.

    Fewer where the table holds no more for the user: none for a user who chose every item.

    Raises:
        UserError: no such user, or the table holds fewer than `k` for each user.
    """
    config = json.loads(served.table(RECOMMENDATIONS).lineage.get("cm3.config", "{}"))
    if k > (held := config.get("top_k", k)):
        raise UserError(
            f"k: {served.dataset} holds the first {held} recommendations of each user, {k} were asked for. Ask for at "
            f"most {held}, or run again with --trainer '{{\"top_k\": {k}}}'."
        )
    rows = served.rows(RECOMMENDATIONS, "user_id", users)
    if empty := sorted(set(users) - set(rows["user_id"].to_pylist())):
        members = set(served.rows(USERS, "user_id", empty)["user_id"].to_pylist())
        if unknown := [user for user in empty if user not in members]:
            raise UserError(
                f"{served.dataset} has no user {', '.join(map(repr, unknown))} in version {served.version}. Give the "
                "items that an unknown user chose: --items A,B,C."
            )
    rows = rows.filter(~pc.is_in(pc.field("item_id"), pa.array(sorted(served.never_shown), pa.string())))
    return {user: _first(rows.filter(pc.field("user_id") == user).sort_by("rank"), k) for user in users}


def _first(rows: pa.Table, k: int) -> pa.Table:
    """The first `k` rows, with ranks from 1."""
    first = rows.slice(0, k)
    place = first.schema.get_field_index("rank")
    return first.set_column(place, "rank", pa.array(range(1, len(first) + 1), pa.int32()))


def for_items(served: Served, chosen: Sequence[str], k: int) -> tuple[pa.Table, list[str]]:
    """What speaks for an unknown user who chose these items: the sum of their `item_weights`, largest first.

    Returns: rows as in `recommendations` without `user_id`, fewer than `k` where no more items have a weight, and those
        of `chosen` that are no items of the catalogue.
    Raises:
        UserError: none of them is an item, or the weights' files were damaged.
    """
    chosen = list(dict.fromkeys(chosen))
    present = served.titles(chosen)
    unknown = [item for item in chosen if item not in present]
    if len(unknown) == len(chosen):
        raise UserError(
            f"{served.dataset} has none of the items {', '.join(map(repr, unknown))} in version {served.version}; "
            "item_id is the source's own id."
        )
    # Every row group is read anyway, and damaged numbers would be shown as scores.
    served.store.verify(served.table(WEIGHTS))
    rows = served.rows(WEIGHTS, "chosen_id", chosen)
    ids = np.array(sorted({*chosen, *rows["item_id"].to_pylist()}))
    numbers = pa.array(ids, pa.string())
    items, chosen_items, left_out = (
        np.asarray(pc.index_in(column, value_set=numbers)).astype(np.int64)
        for column in (rows["item_id"], rows["chosen_id"], pa.array(chosen, pa.string()))
    )
    hidden = np.flatnonzero(np.isin(ids, sorted(served.never_shown)))
    spoken = Spoken(items, chosen_items, np.asarray(rows["weight"]))
    best = ranked(spoken, k, np.concatenate([left_out, hidden]))
    table = pa.table(
        {
            "item_id": pa.array(ids[best.items], pa.string()),
            "rank": pa.array(range(1, len(best.items) + 1), pa.int32()),
            "score": pa.array(best.scores, pa.float32()),
            "because": pa.array([ids[row[row >= 0]].tolist() or None for row in best.because], pa.list_(pa.string())),
        }
    )
    return table, unknown


def described(served: Served, table: pa.Table) -> list[dict[str, object]]:
    """Rows with titles beside ids: rank, item_id, title, score, because as a list of `item_id` and `title`."""
    rows = table.to_pylist()
    words = served.titles({item for row in rows for item in (row["item_id"], *(row["because"] or ()))})
    return [
        {
            "rank": row["rank"],
            "item_id": row["item_id"],
            "title": words.get(row["item_id"]),
            "score": row["score"],
            "because": [{"item_id": item, "title": words.get(item)} for item in row["because"] or ()],
        }
        for row in rows
    ]
