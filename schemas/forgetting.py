"""The record of forgotten users, which holds none of their ids, and what `cm3 forget` reports."""

import hashlib
from functools import cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.lineage import canonical_json

ARROW = " → "
"""Between user and item in an example of the table `quality`."""


class Change(BaseModel):
    """One call that changed who is forgotten.

    Attributes:
        at: UTC, ISO 8601.
        users: how many users it added or took back.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: str
    action: Literal["forgotten", "taken back"]
    users: int


class Forgotten(BaseModel):
    """Who is forgotten in a data set: `<store>/<data set>/_forgotten.json`.

    Attributes:
        salt: hex; drawn once per data set, so that two data sets' records cannot be compared.
        users: keyed BLAKE2b (128 bits, hex) of each id under the salt, ascending. Who has the salt can check a
            guess, as any means of refusing an id must allow.
        unfinished: a removal was begun and did not end.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    salt: str
    users: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    unfinished: bool = False

    @cached_property
    def _hashes(self) -> frozenset[str]:
        return frozenset(self.users)

    def hash(self, user: str) -> str:
        """What stands for a user's id in the record."""
        return hashlib.blake2b(user.encode(errors="replace"), digest_size=16, key=bytes.fromhex(self.salt)).hexdigest()

    def __contains__(self, user: str) -> bool:
        return bool(self._hashes) and self.hash(user) in self._hashes

    def names(self, example: str) -> bool:
        """Whether an example of the table `quality` is a forgotten user, or one of their interactions."""
        parts = example.split(ARROW)
        return any(ARROW.join(parts[:end]) in self for end in range(1, len(parts) + 1))

    def identity(self) -> dict[str, str]:
        """What it adds to the inputs of a table that leaves these users out; nothing where nobody ever was."""
        if not self.changes:
            return {}
        record = canonical_json([self.salt, self.users, len(self.changes)])
        return {"forgotten": hashlib.sha256(record.encode()).hexdigest()[:16]}


class Forgetting(BaseModel):
    """What `cm3 forget` found, or did.

    Attributes:
        users: ids given, each once.
        unknown: those of them that no version of a table holds.
        versions: DATASET/TABLE@VERSION of what holds forgotten users or was made from it → rows of theirs in it.
        registered: numbers of the registered versions with such a table.
        reports, records: how many reports, and records of runs, go or lose examples.
        champion: what becomes of the champion.
        elsewhere: other data sets of the store that hold some of the users.
        done: whether it was done, or is only listed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    users: int
    unknown: tuple[str, ...] = ()
    versions: dict[str, int] = Field({}, description="reference → rows")
    bytes: int = 0
    registered: tuple[int, ...] = ()
    reports: int = 0
    records: int = 0
    champion: str = ""
    elsewhere: tuple[str, ...] = ()
    done: bool = False
