"""Users of a data set who asked to be forgotten: a record without their ids, which later runs obey."""

import secrets
from collections.abc import Iterable, Iterator
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ingest.tally import Quality
from pipeline.store import Store
from schemas.errors import UserError
from schemas.forgetting import Change, Forgotten
from schemas.lineage import now

FILE = "_forgotten.json"
RULE = "forgotten_user"
"""In the table `quality`: interactions of forgotten users, which are dropped. It has no examples."""


def read(store: Store, dataset: str) -> Forgotten:
    """The record; of nobody, with a salt of its own, where there is none.

    Raises:
        UserError: it is damaged. Nothing may run then: forgotten users could come back.
    """
    path = f"{store.folder(dataset)}/{FILE}"
    try:
        return Forgotten.model_validate_json(store.fs.cat_file(path))
    except FileNotFoundError:
        return Forgotten(salt=secrets.token_hex(16))
    except ValueError as error:
        raise UserError(
            f"{path} is damaged: expected the record of forgotten users, without which they could come back from the "
            "source. Restore it from a backup; or delete it and forget the users again, before the next run."
        ) from error


def write(store: Store, dataset: str, record: Forgotten) -> None:
    """Replace the record.

    Raises:
        StoreError: it could not be written.
    """
    store.put(f"{dataset}/{FILE}", record.model_dump_json(indent=1).encode())


def with_users(record: Forgotten, users: Iterable[str]) -> Forgotten:
    """The record with these users too; as it is where it has them all."""
    more = {record.hash(user) for user in users}.difference(record.users)
    return _changed(record, more.union(record.users), Change(at=now(), action="forgotten", users=len(more)))


def without_users(record: Forgotten, users: Iterable[str]) -> Forgotten:
    """The record without these users, whom the next run takes from the source again."""
    gone = {record.hash(user) for user in users}.intersection(record.users)
    return _changed(record, set(record.users) - gone, Change(at=now(), action="taken back", users=len(gone)))


def _changed(record: Forgotten, users: set[str], change: Change) -> Forgotten:
    if not change.users:
        return record
    return Forgotten(
        salt=record.salt,
        users=tuple(sorted(users)),
        changes=(*record.changes, change),
        unfinished=record.unfinished,
    )


def among(record: Forgotten, ids: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Which of these ids are forgotten, each once."""
    return pa.array([user for user in pc.unique(ids).to_pylist() if user in record], pa.string())


def left_out(batches: Iterable[pl.DataFrame], record: Forgotten, file: str, quality: Quality) -> Iterator[pl.DataFrame]:
    """Raw interactions without those of forgotten users, which are counted."""
    if not record.users:
        yield from batches
        return
    for batch in batches:
        gone = [user for user in batch["user_id"].unique().to_list() if user in record]
        kept = batch.filter(~pl.col("user_id").is_in(gone))
        quality.add(file, RULE, "dropped", len(batch) - len(kept))
        yield kept


def cleaned(quality: pa.Table, record: Forgotten) -> pa.Table:
    """Rows of the table `quality` without the examples that name a forgotten user."""
    examples = [[e for e in row if not record.names(e)] for row in quality["examples"].to_pylist()]
    place = quality.schema.get_field_index("examples")
    return quality.set_column(place, quality.schema.field(place), pa.array(examples, pa.list_(pa.string())))


def without_examples(document: Any, record: Forgotten) -> Any:
    """A JSON document without the strings that name a forgotten user, in any list within it."""
    if isinstance(document, dict):
        return {name: without_examples(part, record) for name, part in document.items()}
    if isinstance(document, list):
        kept = [part for part in document if not (isinstance(part, str) and record.names(part))]
        return [without_examples(part, record) for part in kept]
    return document
