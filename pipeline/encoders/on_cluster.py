"""Work on a cluster's workers, which encode or caption whole shards with the very model of the process that asks."""

import platform
import threading
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


Done = TypeVar("Done")


ONE_AT_A_TIME = threading.Lock()
"""A worker may have several threads; its model and its cores serve one shard."""


def elsewhere(
    cluster: Cluster,
    work: Callable[[Spec, Fingerprint, dict[str, Any]], Done],
    spec: Spec,
    identity: Fingerprint,
    shards: Iterator[S],
    nothing: Callable[[], Done],
) -> Iterator[tuple[S, Done]]:
    """Each shard with what `work(spec, identity, fresh)` made of its fresh contents on a worker.

    Args:
        work: of a module's top level: `encode` here, or a captioner's `ask`.
        nothing: what a shard without fresh contents has.

    Raises:
        UserError: a worker lacks the model or has another one, or the cluster was lost.
    """
    spec = spec.model_copy(update={"dtype": identity.dtype})  # what `auto` means is decided here, for all
    tasks = ((shard, (spec, identity, shard.fresh) if shard.fresh else None) for shard in shards)
    for shard, done in cluster.map(work, tasks):
        yield shard, done or nothing()


def expect(found: Fingerprint, key: str) -> None:
    """Make sure that a worker's model is the one of the process that publishes.

    Raises:
        UserError: it is not.
    """
    if found.key() != key:
        raise UserError(
            f"The worker on {platform.node()} has another {found.model!r} than the process that publishes, or another "
            f"version of this package: it says {found.model_dump_json()}. Give all machines the same."
        )
