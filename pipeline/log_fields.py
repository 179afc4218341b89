"""Fields of log lines for programs that read them: run, data set, stage, shard."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

_CURRENT: ContextVar[Mapping[str, object]] = ContextVar("log_fields", default=MappingProxyType({}))


@contextmanager
def about(**fields: object) -> Iterator[None]:
    """Lines logged in the block carry these fields, besides those of the enclosing blocks."""
    before = _CURRENT.get()
    _CURRENT.set({**before, **fields})
    try:
        yield
    finally:
        _CURRENT.set(before)


def change(**fields: object) -> None:
    """Set fields from here to the end of the innermost `about` block."""
    _CURRENT.set({**_CURRENT.get(), **fields})


def current() -> Mapping[str, object]:
    """Fields of a line logged here."""
    return _CURRENT.get()
