"""Decode pictures on other threads while the model works, a bounded number ahead, in order."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar


class HasFresh(Protocol):
    """A shard: its `fresh` contents are what must be decoded."""

    fresh: dict[str, Any]


S = TypeVar("S", bound=HasFresh)


def decoded_ahead(
    shards: Iterator[S], decode: Callable[[bytes], Any], *, workers: int, ahead: int
) -> Iterator[tuple[S, str | None, Any]]:
    """Each shard's pictures as (shard, key, what `decode` returned), then (shard, None, None) at the shard's end.

    At most `ahead` decoded pictures wait, whatever the shard's size. A picture that cannot be read arrives as its
    `OSError`; any other exception is raised here.
    """
    waiting: deque[tuple[S, str | None, Future[Any] | None]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            for shard in shards:
                for key, content in shard.fresh.items():
                    waiting.append((shard, key, pool.submit(_attempt, decode, content)))
                    while len(waiting) > ahead:
                        yield _arrived(waiting.popleft())
                waiting.append((shard, None, None))
                while len(waiting) > ahead:  # where nothing is new, shards are all that waits
                    yield _arrived(waiting.popleft())
            while waiting:
                yield _arrived(waiting.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _attempt(decode: Callable[[bytes], Any], content: bytes) -> Any:
    try:
        return decode(content)
    except OSError as error:
        return error


def _arrived(entry: tuple[S, str | None, "Future[Any] | None"]) -> tuple[S, str | None, Any]:
    shard, key, future = entry
    return shard, key, None if future is None else future.result()
