"""What a log line is about, for machines that read it: run, data set, stage, shard."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

_CURRENT: ContextVar[Mapping[str, object]] = ContextVar("log_fields", default=MappingProxyType({}))


@contextmanager
def about(**fields: object) -> Iterator[None]:
    """Lines logged within the block carry these fields, and those of the blocks around it."""
    before = _CURRENT.get()
    _CURRENT.set({**before, **fields})
    try:
        yield
    finally:
        _CURRENT.set(before)


def change(**fields: object) -> None:
    """As `about`, from here to the end of the innermost block."""
    _CURRENT.set({**_CURRENT.get(), **fields})


def current() -> Mapping[str, object]:
    """The fields of a line logged here."""
    return _CURRENT.get()
