"""Ranked lists that somebody else made, judged as our own are."""

import hashlib
import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import UserError
from schemas.training import EvaluationConfig
from trainers.data import Dataset, read_table
from trainers.evaluation import Lists, Ranking, Rows, judge

logger = logging.getLogger(__name__)

COLUMNS = ("user_id", "item_id", "rank")


def digest(uri: str) -> str:
    """SHA-256 (hex) of the lists as they lie there. Raises: UserError: unreadable, or a column is missing."""
    table, sink = read_table(uri, COLUMNS), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()


class GivenLists:
    """The lists of a Parquet file or folder with the columns of `recommendations`: user_id, item_id, rank (from 1).

    What cannot stand in a list of ours is left out and the items below move up: items that nobody chose, and those that
    the user chose in training. A user without a list has an empty one.

    Args:
        label: what the lists are called in messages.
    Raises: UserError: unreadable, a column is missing or has nulls, an item comes twice in a list, or no user or no
        item of the data set is in them.
    """

    def __init__(self, uri: str, dataset: Dataset, label: str) -> None:
        table = read_table(uri, COLUMNS)
        _refuse_nulls(table, uri)
        self.dataset, self.label = dataset, label
        users, items = (
            _rows(table[name], ids) for name, ids in (("user_id", dataset.users), ("item_id", dataset.items))
        )
        for name, rows in (("user_id", users), ("item_id", items)):
            if not (rows >= 0).any():
                raise UserError(f"lists at {uri}: expected each {name} as in the interactions, found none of them")
        known = (users >= 0) & (items >= 0)
        order = np.lexsort((table["rank"].to_numpy()[known], users[known]))
        self.users, self.items = users[known][order], items[known][order]
        keys = self.users * len(dataset.items) + self.items
        if len(repeated := np.flatnonzero(np.diff(np.sort(keys)) == 0)):
            user, item = divmod(int(np.sort(keys)[repeated[0]]), len(dataset.items))
            raise UserError(
                f"lists at {uri}: expected each item once in a user's list, found {dataset.items[item]!r} twice in "
                f"that of {dataset.users[user]!r}"
            )
        if left := int((~known).sum()):
            logger.warning("%s: %d of %d rows name no user or item of the comparison", label, left, len(known))

    def judged(self, split: str, rule: EvaluationConfig) -> Ranking:
        """The metrics on "valid" or "test"."""
        count, deepest = len(self.dataset.items), max(rule.cutoffs)
        splits = ("train", "valid") if split == "test" and rule.mask_validation else ("train",)
        left_out = np.concatenate([self.dataset.pairs(name) for name in splits])
        kept = ~np.isin(self.users * count + self.items, left_out[:, 0] * count + left_out[:, 1])
        wanted = np.unique(self.dataset.pairs(split)[:, 0])
        kept &= np.isin(self.users, wanted)
        users, items = self.users[kept], self.items[kept]
        place = np.arange(len(users)) - np.searchsorted(users, users)
        first = place < deepest
        ranked = np.full((len(wanted), min(deepest, count)), -1)
        ranked[np.searchsorted(wanted, users[first]), place[first]] = items[first]
        return judge(Lists(wanted, ranked, np.zeros(ranked.shape, np.float32)), self.dataset, split, rule)


def _rows(column: pa.ChunkedArray, ids: list[str]) -> Rows:
    """Row number of each id, -1 where it is not among `ids`."""
    rows = pc.index_in(column.cast(pa.string()), pa.array(ids, pa.string()))
    return np.asarray(rows.fill_null(-1)).astype(np.int64)


def _refuse_nulls(table: pa.Table, uri: str) -> None:
    for name in COLUMNS:
        if table[name].null_count:
            raise UserError(f"lists at {uri}: expected {name} in every row, found {table[name].null_count} without")
    if not pa.types.is_integer(table["rank"].type):
        raise UserError(f"lists at {uri}: expected rank to be whole numbers from 1, found {table['rank'].type}")
