"""What to show a user, from the champion's tables: a known user by id, an unknown one by the items that they chose."""

import json
from collections.abc import Collection, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.registry import versions
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
        registered = versions.registered(store, dataset, config) if has_registry(store, config) else []
        self.champion: Registered | None = next((v for v in registered if v.alias == "champion"), None)

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
        version = self.table(name)
        folder, filters = self.store.inside(version.path), [(column, "in", list(values))]
        parts = [
            pq.read_table(f"{folder}/{part}", filters=filters, filesystem=self.store.fs)
            for part in sorted(version.files)
        ]
        return pa.concat_tables(parts).replace_schema_metadata(None)

    def titles(self, ids: Collection[str]) -> dict[str, str | None]:
        """Titles of items, as they were for this version."""
        return titles(self.store, self.table(ITEMS), ids)


def for_users(served: Served, users: Sequence[str], k: int) -> dict[str, pa.Table]:
    """The first `k` rows of each user in `recommendations`, by rank; none for a user who chose every item.

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
    lists = {user: rows.filter(pc.field("user_id") == user).sort_by("rank").slice(0, k) for user in users}
    if empty := [user for user, table in lists.items() if not len(table)]:
        members = set(served.rows(USERS, "user_id", empty)["user_id"].to_pylist())
        if unknown := [user for user in empty if user not in members]:
            raise UserError(
                f"{served.dataset} has no user {', '.join(map(repr, unknown))} in version {served.version}. Give the "
                "items that an unknown user chose: --items A,B,C."
            )
    return lists


def for_items(served: Served, chosen: Sequence[str], k: int) -> tuple[pa.Table, list[str]]:
    """What speaks for an unknown user who chose these items: the sum of their `item_weights`, largest first.

    Returns: rows as in `recommendations` without `user_id`, fewer than `k` where no more items have a weight, and those
        of `chosen` that are no items of the catalogue.
    Raises:
        UserError: none of them is an item.
    """
    chosen = list(dict.fromkeys(chosen))
    present = served.titles(chosen)
    unknown = [item for item in chosen if item not in present]
    if len(unknown) == len(chosen):
        raise UserError(
            f"{served.dataset} has none of the items {', '.join(map(repr, unknown))} in version {served.version}; "
            "item_id is the source's own id."
        )
    rows = served.rows(WEIGHTS, "chosen_id", chosen)
    rows = rows.filter(~pc.is_in(pc.field("item_id"), pa.array(chosen)))
    reasons: dict[str, list[tuple[float, str]]] = {}
    for item, because, weight in zip(*(rows[name].to_pylist() for name in rows.column_names), strict=True):
        reasons.setdefault(item, []).append((weight, because))
    scores = {item: sum(weight for weight, _ in pairs) for item, pairs in reasons.items()}
    best = sorted(scores, key=lambda item: (-scores[item], item))[:k]
    table = pa.table(
        {
            "item_id": pa.array(best, pa.string()),
            "rank": pa.array(range(1, len(best) + 1), pa.int32()),
            "score": pa.array([scores[item] for item in best], pa.float32()),
            "because": pa.array([_strongest(reasons[item]) for item in best], pa.list_(pa.string())),
        }
    )
    return table, unknown


def _strongest(reasons: list[tuple[float, str]]) -> list[str] | None:
    """Up to three chosen items that speak for an item, the strongest first; null where none does."""
    return [item for weight, item in sorted(reasons, key=lambda pair: (-pair[0], pair[1]))[:3] if weight > 0] or None


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
