"""The Dask cluster that a run's shards go to, through prefect-dask; none if the run names none.

Of prefect-dask's task runner only the client is used: it connects, logs the dashboard's address, and closes. Shards are
not Prefect tasks, so that a run has about ten of those, however many shards it has.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.cluster import Cluster
from schemas.errors import ClusterError, UserError

CONNECT_SECONDS = 30


@contextmanager
def connection(address: str) -> Iterator[Cluster | None]:
    """The cluster whose scheduler listens at `address`, e.g. tcp://scheduler:8786; None for an empty address.

    Raises:
        UserError: Dask is not installed, no scheduler answers, or it has no worker with this code.
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
    except RuntimeError as error:  # distributed raises it if a client is closed while it still tries to reconnect
        if lost is None:
            raise
        raise lost from error
