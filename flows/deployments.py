"""Serve every deployment of this repository from one process: `python -m flows.deployments`."""

import warnings
from typing import cast

from prefect import serve
from prefect.deployments.runner import RunnerDeployment

from flows import ingest_and_train, re_extract


def main() -> None:
    """Register the deployments with the server that PREFECT_API_URL names, and run what is asked of them."""
    flows = (
        ingest_and_train.amazon,
        ingest_and_train.catalogue,
        ingest_and_train.movielens,
        ingest_and_train.microlens,
        ingest_and_train.mmrec,
        re_extract.amazon,
        re_extract.catalogue,
        re_extract.movielens,
        re_extract.microlens,
        re_extract.mmrec,
        re_extract.demo,
        ingest_and_train.demo,
    )
    # One run at a time for each: two runs must not write one data set at once. `ingest-and-train/demo` comes last:
    # who waits for it finds all the others.
    deployments = [flow.to_deployment(flow.fn.__name__, concurrency_limit=1) for flow in flows]
    warnings.filterwarnings("ignore", "coroutine 'Runner.astop'")  # Prefect forgets to await it at SIGTERM
    serve(*cast(list[RunnerDeployment], deployments))  # to_deployment is async only where a loop runs


if __name__ == "__main__":
    main()
