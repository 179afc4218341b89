"""One prepared version, mapped into memory, and the answers that it gives."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.registry.choices import Rows, Spoken, ranked, reasons
from pipeline.serving.grouped import Grouped, Records, mapped
from pipeline.serving.prepare import ABOUT, LISTED, WEIGHT, column
from schemas.serving import Prepared

NONE = np.zeros(0, np.int64)


class Wanted(NamedTuple):
    """The best `k` items of a user, without `left_out` (item rows), what the user chose, and what is never shown."""

    user: int
    k: int
    left_out: Rows = NONE


class Model:
    """Users and items are rows, numbered in the order of their ids. Never changed once it is loaded.

    Attributes:
        about: what was prepared.
        never_shown: rows of items that stand in no answer, ascending.
    """

    def __init__(self, folder: Path, never_shown: str = "") -> None:
        self.about = Prepared.model_validate_json((folder / ABOUT).read_text())
        self._items, self._titles = (column(folder / "items.arrow", name) for name in ("item_id", "title"))
        self._users = column(folder / "users.arrow", "user_id")
        self._item_vectors, self._user_vectors = (mapped(folder / f"{of}_vectors.npy") for of in ("item", "user"))
        self._lists, self._chosen, self._left_out, self._weights, self._neighbors = (
            Grouped(folder, name) for name in ("lists", "chosen", "left_out", "weights", "neighbors")
        )
        self.never_shown: Rows = np.load(folder / never_shown) if never_shown else NONE
        self._may_be_shown = np.ones(len(self._items), np.bool_)
        self._may_be_shown[self.never_shown] = False
        self._unscored: Rows = np.load(folder / "unscored.npy")
        self._item_vectors.sum()  # reads every page once, so that the first request does not wait for it

    @property
    def size(self) -> int:
        """Number of items."""
        return len(self._items)

    def user(self, user_id: str) -> int | None:
        """A user's row; None for an unknown one."""
        return _row(self._users, user_id)

    def item(self, item_id: str) -> int | None:
        """An item's row; None for an unknown one."""
        return _row(self._items, item_id)

    def listed(self, user: int, k: int) -> tuple[Records, bool]:
        """The first `k` of the published list that may be shown, and whether more items may follow them."""
        whole = self._lists[user]
        shown = whole[self._may_be_shown[whole["item"]]]
        return shown[:k], len(shown) < k and len(whole) >= self.about.top_k

    def best(self, wanted: Sequence[Wanted]) -> list[Records]:
        """The best items of several users by their score: one product for all. Records are as in `listed`.

        Memory: a score for each user and item.
        """
        scores = self._user_vectors[[one.user for one in wanted]] @ self._item_vectors.T
        return [self._best(one, row) for one, row in zip(wanted, scores, strict=True)]

    def _best(self, wanted: Wanted, scores: NDArray[np.float32]) -> Records:
        spoken = self._spoken(self._chosen[wanted.user]["item"])
        np.add.at(scores, spoken.items, spoken.weights)
        for rows in (self._left_out[wanted.user]["item"], self.never_shown, self._unscored, wanted.left_out):
            scores[rows] = -np.inf
        start = max(0, len(scores) - wanted.k)
        top = np.argpartition(scores, start)[start:] if start else np.arange(len(scores))
        top = top[scores[top] > -np.inf]
        top = top[np.lexsort((top, -scores[top]))]
        return _records(top, scores[top], reasons(spoken, top))

    def for_choices(self, chosen: Rows, k: int, left_out: Rows = NONE) -> Records:
        """What speaks for an unknown user who chose these items, largest first, as in `listed`."""
        found = ranked(self._spoken(chosen), k, np.concatenate([chosen, left_out, self.never_shown]))
        return _records(found.items, found.scores, found.because)

    def _spoken(self, chosen: NDArray[Any]) -> Spoken:
        said = [self._weights[item] for item in chosen.tolist()]
        rows = np.concatenate(said) if said else np.zeros(0, WEIGHT)
        speakers = np.repeat(chosen.astype(np.int64), [len(each) for each in said])
        return Spoken(rows["item"].astype(np.int64), speakers, rows["weight"])

    def recommended(self, rows: Records) -> list[dict[str, Any]]:
        """Records as rows of an answer: `RecommendedItem`."""
        return [
            self._named(item)
            | {"rank": rank, "score": score, "because": [self._named(reason) for reason in because if reason >= 0]}
            for rank, (item, score, because) in enumerate(_columns(rows, ("item", "score", "because")), 1)
        ]

    def similar(self, item: int, k: int) -> list[dict[str, Any]]:
        """The nearest `k` neighbours that may be shown: `Neighbor`."""
        rows = self._neighbors[item]
        rows = rows[np.argsort(rows["rank"], kind="stable")]
        rows = rows[self._may_be_shown[rows["item"]]][:k]
        names = [f"similarity_{name}" for name in self.about.features]
        return [
            self._named(neighbor)
            | {"rank": rank, "similarity": similarity}
            | {"by_feature": {n: None if c != c else c for n, c in zip(self.about.features, cosines, strict=True)}}
            for rank, (neighbor, similarity, *cosines) in enumerate(_columns(rows, ("item", "similarity", *names)), 1)
        ]

    def _named(self, item: int) -> dict[str, Any]:
        return {"item_id": self._items[item].as_py(), "title": self._titles[item].as_py()}


def _row(ids: pa.Array, wanted: str) -> int | None:
    row = bisect_left(range(len(ids)), wanted, key=lambda number: str(ids[number]))
    return row if row < len(ids) and str(ids[row]) == wanted else None


def _records(items: Rows, scores: NDArray[Any], because: Rows) -> Records:
    rows = np.zeros(len(items), LISTED)
    rows["item"], rows["score"], rows["because"] = items, scores, because
    return rows


def _columns(rows: Records, names: Iterable[str]) -> Iterable[tuple[Any, ...]]:
    return zip(*(rows[name].tolist() for name in names), strict=True)
