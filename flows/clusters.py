"""The Dask cluster that a run's shards go to, through prefect-dask; none where the run names none.

prefect-dask's task runner is the client and its life: it connects, names the dashboard in the run's log, and closes.
Its own way of working, a Prefect task for each piece, is left alone: Prefect keeps ten tasks a run, not one a shard.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.cluster import Cluster
from schemas.errors import ClusterError, UserError

CONNECT_SECONDS = 30


@contextmanager
def opened(address: str) -> Iterator[Cluster | None]:
    """The cluster whose scheduler listens at `address`, e.g. tcp://scheduler:8786; None for an empty address.

    Raises:
        UserError: Dask is not installed, nobody listens there, or no worker with our code is there.
        ClusterError: as raised by the block.
    """
    if not address:
        yield None
        return
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise UserError(
            f"cluster: {address!r} needs Dask, which is not installed here: pip install 'cm3-features[dask]'."
        ) from error
    lost: ClusterError | None = None
    try:
        with DaskTaskRunner(address=address, client_kwargs={"timeout": CONNECT_SECONDS}) as runner:
            try:
                client = runner.client
            except (OSError, ValueError) as error:
                raise UserError(
                    f"cluster: no Dask scheduler answers at {address!r} ({error}); expected an address such as "
                    "tcp://scheduler:8786. Start one: dask scheduler."
                ) from error
            cluster = Cluster(client)
            cluster.check()
            try:
                yield cluster
            except ClusterError as error:
                lost = error
                raise
    except RuntimeError as error:  # distributed's own, where a client is closed while it still tries to reconnect
        if lost is None:
            raise
        raise lost from error
