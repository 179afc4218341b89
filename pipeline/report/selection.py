"""Which items and users a report shows."""

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import pyarrow.compute as pc

from pipeline.report.delivery import Delivery, delivery
from pipeline.report.wording import shown
from pipeline.store import Store
from schemas.lineage import TableVersion
from schemas.report import ReportConfig

Tables = Mapping[str, TableVersion]
MAX_CATEGORIES = 8
"""Colours of the map; if there are more categories, the small ones share the last colour."""
OTHER, NONE = "other", "no category"


class Recommended(NamedTuple):
    """One place of a user's list.

    Attributes:
        because: the chosen items that weigh most in its score.
        chosen: "later" if the user chose it and training had not seen that, "before" if it had, else "".
    """

    item_id: str
    because: list[str]
    chosen: str


@dataclass(frozen=True)
class User:
    """One user. `history` and `later` hold item ids.

    Attributes:
        history: the latest choices of all splits; those of training alone where the list may hold other ones.
        later: the choices that training has not seen, where the list may hold them; else empty.
    """

    user_id: str
    history: list[str]
    later: list[str]
    recommended: list[Recommended]


@dataclass(frozen=True)
class Selection:
    """The items shown, in order of `ids`; every other list is aligned with it.

    Attributes:
        total: items in the catalogue.
        number: item id → place in `ids`.
        category: place in `categories` of each item's category.
        chosen: interactions of each item.
    """

    total: int = 0
    ids: list[str] = field(default_factory=list)
    number: dict[str, int] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    category: list[int] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)
    users: list[User] = field(default_factory=list)


def select(store: Store, tables: Tables, config: ReportConfig) -> Selection:
    """The items of the users shown and then others, by a hash of their id: `config.max_items` at most.

    So a map shows the catalogue rather than its best sellers, and the next report mostly the same items.
    """
    if "items" not in tables:
        return Selection()
    counts = _choices(store, tables)
    users = _users(store, tables, config)
    needed = [item for user in users for item in (*user.history, *user.later)]
    needed += [item for user in users for place in user.recommended for item in (place.item_id, *place.because)]
    ids_of = (batch["item_id"].to_pylist() for batch in store.batches(tables["items"], ["item_id"], 65536))
    wanted = list(dict.fromkeys((*needed, *pick(chain.from_iterable(ids_of), config.max_items, config.seed))))
    row_of = {
        row["item_id"]: row
        for batch in store.batches(tables["items"])
        for row in batch.filter(pc.field("item_id").isin(wanted)).to_pylist()
    }
    rows = [row_of[item] for item in wanted if item in row_of][: config.max_items]
    rows.sort(key=lambda row: (-counts[row["item_id"]], row["item_id"]))
    ids = [row["item_id"] for row in rows]
    categories, category = _colours([row["categories"] for row in rows])
    return Selection(
        total=tables["items"].rows,
        ids=ids,
        number={item: number for number, item in enumerate(ids)},
        rows=rows,
        categories=categories,
        category=category,
        chosen=[counts[item] for item in ids],
        users=users,
    )


def pick(keys: Iterable[str], count: int, seed: int) -> list[str]:
    """`count` keys at random, determined by the keys and the seed alone."""
    return heapq.nsmallest(count, keys, key=lambda key: hashlib.sha256(f"{seed} {key}".encode()).digest())


def _choices(store: Store, tables: Tables) -> Counter[str]:
    counts: Counter[str] = Counter()
    if "interactions" in tables:
        for batch in store.batches(tables["interactions"], ["item_id"], 65536):
            for entry in pc.value_counts(batch["item_id"]).to_pylist():
                counts[entry["values"]] += entry["counts"]
    return counts


def _users(store: Store, tables: Tables, config: ReportConfig) -> list[User]:
    """Users picked by the seed, whatever was recommended to them; with a held-out choice where lists may hold one."""
    made = delivery(tables)
    if "interactions" not in tables or made is None or not config.users:
        return []
    candidates: set[str] = set()
    for batch in store.batches(tables["interactions"], ["user_id", "split"], 65536):
        rows = batch.filter(pc.field("split") == "test") if made.has_held_out else batch
        candidates.update(pc.unique(rows["user_id"]).to_pylist())
    if not candidates:  # a published split may have no test part
        return []
    picked = pick(sorted(candidates), config.users, config.seed)
    wanted = pc.field("user_id").isin(picked)
    events: dict[str, list[dict[str, Any]]] = {user: [] for user in picked}
    for batch in store.batches(tables["interactions"], None, 65536):
        for row in batch.filter(wanted).to_pylist():
            events[row["user_id"]].append(row)
    lists: dict[str, list[dict[str, Any]]] = {user: [] for user in picked}
    for batch in store.batches(tables["recommendations"], ["user_id", "item_id", "rank", "because"], 65536):
        for row in batch.filter(wanted & (pc.field("rank") <= config.recommendations)).to_pylist():
            lists[row["user_id"]].append(row)
    return [_user(user, events[user], lists[user], made, config) for user in picked if lists[user]]


def _user(
    user: str, events: list[dict[str, Any]], ranked: list[dict[str, Any]], made: Delivery, config: ReportConfig
) -> User:
    events = sorted(events, key=lambda e: (e["timestamp"] is not None, e["timestamp"]) if e["timestamp"] else (False,))
    later = [event["item_id"] for event in events if made.has_held_out and event["split"] != "train"]
    history = [event["item_id"] for event in events if event["item_id"] not in later]
    chosen = dict.fromkeys(history, "before") | dict.fromkeys(later, "later")
    return User(
        user_id=user,
        history=history[-config.history :],
        later=later,
        recommended=[
            Recommended(row["item_id"], row["because"] or [], chosen.get(row["item_id"], ""))
            for row in sorted(ranked, key=lambda row: row["rank"])
        ],
    )


def _colours(paths: list[list[str]]) -> tuple[list[str], list[int]]:
    """The largest categories of the first level of the tree that tells items apart, and each item's place among them.

    Args: paths: each item's categories, from the root.
    """
    depth = max((len(path) for path in paths), default=0)
    level = 0
    for level in range(depth):
        sizes = Counter(path[level] for path in paths if len(path) > level)
        if max(sizes.values()) < 0.8 * len(paths):
            break
    names = [path[level] if len(path) > level else NONE for path in paths]
    largest = [name for name, _ in Counter(n for n in names if n != NONE).most_common(MAX_CATEGORIES + 1)]
    if len(largest) > MAX_CATEGORIES:
        largest = largest[: MAX_CATEGORIES - 1]
    place = {name: number for number, name in enumerate(largest)}
    rest = [n if n == NONE else OTHER for n in names if n not in place]
    legend = largest + sorted(set(rest))
    index = {name: number for number, name in enumerate(legend)}
    return [shown(name, 40) for name in legend], [index[n if n in place or n == NONE else OTHER] for n in names]
