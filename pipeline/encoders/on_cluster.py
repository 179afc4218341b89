"""Whole shards encoded or captioned by a cluster's workers, with the very model of the process that publishes."""

import platform
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel

from pipeline.cluster import Cluster
from pipeline.encoders.base import Fingerprint
from schemas.errors import UserError


class HasFresh(Protocol):
    """A shard: its `fresh` contents are what must be encoded."""

    fresh: dict[str, Any]


S = TypeVar("S", bound=HasFresh)
Spec = TypeVar("Spec", bound=BaseModel)
Result = TypeVar("Result")


def map_shards(
    cluster: Cluster,
    work: Callable[[Spec, Fingerprint, dict[str, Any]], Result],
    spec: Spec,
    identity: Fingerprint,
    shards: Iterator[S],
    empty: Callable[[], Result],
) -> Iterator[tuple[S, Result]]:
    """Each shard with what `work(spec, identity, fresh)` made of its fresh contents on a worker.

    Args:
        work: a function of a module's top level: `encode` of features/shards.py, or `ask` of captions/shards.py.
        empty: makes the result of a shard without fresh contents.

    Raises:
        UserError: a worker lacks the model or has another one.
        ClusterError: the cluster was lost.
    """
    spec = spec.model_copy(update={"dtype": identity.dtype})  # what `auto` means is decided here, for all
    tasks = ((shard, (spec, identity, shard.fresh) if shard.fresh else None) for shard in shards)
    for shard, result in cluster.map(work, tasks):
        yield shard, result or empty()


def check_same_model(identity: Fingerprint, key: str) -> None:
    """Make sure that a worker's model (`identity`) is the one of the process that publishes (`key`).

    Raises:
        UserError: it is not.
    """
    if identity.key() != key:
        raise UserError(
            f"The worker on {platform.node()} has another {identity.model!r} than the process that publishes, or "
            f"another version of this package: it says {identity.model_dump_json()}. Give all machines the same."
        )
