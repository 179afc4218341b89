"""A catalogue that two SQL queries give: their rows as JSON Lines on this machine, which are then read as files are.

Through SQLAlchemy, so from any database that it has a driver for; the extra `postgresql` has psycopg.
"""

import datetime
import hashlib
import json
import math
import os
import sqlite3
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import stamina
from sqlalchemy import URL, Connection, create_engine, event, exc, make_url
from sqlalchemy.pool import NullPool

from pipeline import locks
from pipeline.ingest.downloads import RawFile, TryAgain, sha256
from pipeline.postgresql import with_driver
from pipeline.progress import track
from pipeline.store import digest
from schemas.errors import UserError
from schemas.sql import FROM_BLOCK, FROM_ENVIRONMENT, SqlQueries

FETCHED = 2000
"""Rows that the database sends at a time: bounds memory."""
SHOWN = 120
"""Characters shown of a query."""
PASSING = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR", "SQLITE_CANTOPEN")
"""Beginnings of the names of SQLite's errors that may pass."""
T = TypeVar("T")


class Queries:
    """The queries of a source.

    Args:
        cache: folder of their rows.
        item_id: the column of the items' query that holds the id, which must come once per item.
        attempts: connections before giving up.
        wait: seconds before the second attempt; doubled for each further one.
    """

    def __init__(self, config: SqlQueries, cache: Path, item_id: str, *, attempts: int = 3, wait: float = 1.0) -> None:
        self.config = config
        self._folder = cache / "sql" / digest(config.model_dump_json() + item_id)
        self._item_id = item_id
        self._attempts, self._wait = attempts, wait

    def check(self) -> None:
        """Reach the database.

        Raises:
            UserError: it cannot be reached, or lets nobody in with that address.
        """
        self._patiently(lambda: self._with_connection(lambda _: None))

    def fetch(self, roles: Sequence[str]) -> dict[str, RawFile]:
        """Role (`items`, `interactions`) → the rows of its query. In PostgreSQL both queries see the same moment.

        Raises:
            UserError: a query is refused, gives no item, or one twice, or has a column that cannot be read; or the
                connection was lost, at every attempt.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with locks.held(self._folder / "lock"):
                return self._patiently(
                    lambda: self._with_connection(
                        lambda connection: {role: self._rows(connection, role) for role in roles}
                    )
                )
        except OSError as error:
            raise UserError(
                f"sql: could not keep the rows of the queries in {self._folder}: {error}. Free space or mend the "
                "folder, then run again."
            ) from error

    def _patiently(self, ask: Callable[[], T]) -> T:
        retries = stamina.retry_context(
            on=TryAgain, attempts=self._attempts, timeout=None, wait_initial=self._wait, wait_jitter=self._wait
        )
        try:
            for attempt in retries:
                with attempt:
                    return ask()
        except TryAgain as error:
            raise UserError(
                f"sql: {error}. Check the address ({self.config.url}), the database and the network; then run again: "
                "the queries are asked anew."
            ) from error
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _with_connection(self, ask: Callable[[Connection], T]) -> T:
        """Ask in one transaction that only reads."""
        url = address(self.config.url)
        try:
            engine = create_engine(url, poolclass=NullPool)
            if engine.dialect.name == "postgresql":
                engine = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            if engine.dialect.name == "sqlite":
                event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA query_only = ON"))
            with engine.connect() as connection:
                return ask(connection)
        except (exc.NoSuchModuleError, ModuleNotFoundError, exc.ArgumentError) as error:
            raise UserError(
                f"sql.url: {_line(error, url)}. Expected an address as SQLAlchemy reads it, e.g. "
                "postgresql://USER:PASSWORD@HOST/DATABASE, and its driver installed (extra postgresql)."
            ) from error
        except exc.DBAPIError as error:
            if _may_pass(error):
                raise TryAgain(f"the database cannot be reached, or was lost: {_line(error, url)}") from error
            raise UserError(f"sql: the database refuses a query: {_line(error, url)}. Mend the query.") from error
        except exc.SQLAlchemyError as error:
            raise UserError(f"sql: {_line(error, url)}. Mend the query; it must be one that gives rows.") from error

    def _rows(self, connection: Connection, role: str) -> RawFile:
        """The rows of one query, as a file that is whole or not there."""
        query = getattr(self.config, role)
        name, path, draft = f"sql-{role}.jsonl", self._folder / f"{role}.jsonl", self._folder / f"{role}.draft"
        ids = array("Q")
        with connection.execution_options(stream_results=True, no_parameters=True).exec_driver_sql(query) as result:
            names = list(result.keys())
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise UserError(f"sql.{role}: the query gives the column {', '.join(twice)} twice. Name them apart.")
            with draft.open("w", encoding="utf-8") as file, track(f"sql.{role}", total=0, unit="rows") as advance:
                for rows in result.partitions(FETCHED):
                    for row in rows:
                        values = {
                            name: _plain(value, f"sql.{role}: {name}") for name, value in zip(names, row, strict=True)
                        }
                        file.write(json.dumps(values, ensure_ascii=False) + "\n")
                        if role == "items" and _is_id(item_id := values.get(self._item_id)):
                            ids.append(_number(item_id))
                    advance(len(rows))
        if not draft.stat().st_size and role == "items":
            raise UserError(f"sql.items: the query gives no row: {query[:SHOWN]}. Check its conditions.")
        self._refuse_repeated(ids, draft)
        draft.replace(path)
        return RawFile(name, path, sha256(path, name), f"sql.{role}")

    def _refuse_repeated(self, ids: "array[int]", draft: Path) -> None:
        numbers, counts = np.unique(np.frombuffer(ids, np.uint64), return_counts=True)
        if len(numbers) == len(ids):
            return
        repeated = set(numbers[counts > 1].tolist())
        with draft.open(encoding="utf-8") as file:
            values = (json.loads(line)[self._item_id] for line in file)
            example = next(value for value in values if _is_id(value) and _number(value) in repeated)
        raise UserError(
            f"sql.items: the query gives {len(ids):,} rows for {len(numbers):,} items: {self._item_id} {example!r} "
            "comes more than once. Give one row per item; a join may have multiplied them."
        )


def address(reference: str) -> URL:
    """The database's address, from the environment if the reference names a variable.

    Raises:
        UserError: the variable is not set, or what it holds is no address.
    """
    if reference.startswith(FROM_BLOCK):
        raise UserError(f"sql.url: only runs through Prefect read {reference}. Here, give env:CM3_…_URL.")
    variable = reference.removeprefix(FROM_ENVIRONMENT) if reference.startswith(FROM_ENVIRONMENT) else ""
    text = os.environ.get(variable, "") if variable else reference
    if not text:
        raise UserError(f"sql.url: the environment variable {variable} is not set where the flow runs. Set it there.")
    try:
        return make_url(with_driver(text))
    except exc.ArgumentError:
        # SQLAlchemy's own message shows the text, and with it a password.
        raise UserError(
            f"sql.url: {variable or 'it'} holds no address as SQLAlchemy reads it: expected "
            "postgresql://USER:PASSWORD@HOST/DATABASE."
        ) from None


def _plain(value: Any, column: str) -> Any:
    """The value as JSON has it: exact numbers of other types, dates and ids as texts; NaN and infinity as nothing.

    Raises:
        UserError: it is binary.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [_plain(part, column) for part in value]
    if isinstance(value, dict):
        return {str(name): _plain(part, column) for name, part in value.items()}
    if isinstance(value, bytes | memoryview):
        raise UserError(f"{column} is binary, which is not read here. Leave the column out, or give an address.")
    return str(value)


def _may_pass(error: exc.DBAPIError) -> bool:
    """Whether the database is out of reach, rather than refusing the query; SQLite says both with one class."""
    if isinstance(error.orig, sqlite3.OperationalError):
        return getattr(error.orig, "sqlite_errorname", "").startswith(PASSING)
    return isinstance(error, exc.OperationalError | exc.InterfaceError) or error.connection_invalidated


def _is_id(value: Any) -> bool:
    """Whether a value is more than blanks; rows without an id are dropped later, and counted."""
    return value is not None and bool(str(value).strip())


def _number(value: Any) -> int:
    """64 bits that stand for an id, as text."""
    return int.from_bytes(hashlib.blake2b(str(value).encode(), digest_size=8).digest())


def _line(error: Exception, url: URL) -> str:
    """What the driver says, in one line and without the password."""
    cause = error.orig if isinstance(error, exc.DBAPIError) and error.orig is not None else error
    text = " ".join(str(cause).split())[:300]
    return text.replace(str(url.password), "***") if url.password else text
