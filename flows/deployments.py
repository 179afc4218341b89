"""The deployments that prefect.yaml lists; `python -m flows.deployments` serves all of them from one process."""

import importlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ruamel.yaml import YAML

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.deployments.runner import RunnerDeployment

FILE = Path(__file__).with_name("prefect.yaml")


@dataclass(frozen=True)
class Deployment:
    """One entry of prefect.yaml. `entrypoint` is FILE:FUNCTION; pool and queue are where a worker finds its runs;
    `schedules` are as written there."""

    name: str
    entrypoint: str
    pool: str
    queue: str
    schedules: tuple[Mapping[str, Any], ...] = ()

    @property
    def full_name(self) -> str:
        """As `prefect deployment run` takes it, e.g. `re-extract/demo`: a flow is called like its file."""
        return f"{Path(self.entrypoint.split(':')[0]).stem.replace('_', '-')}/{self.name}"

    def flow(self) -> "Flow[..., Any]":
        """The flow, imported."""
        file, function = self.entrypoint.split(":")
        module = importlib.import_module(".".join(Path(file).with_suffix("").parts))
        return cast("Flow[..., Any]", getattr(module, function))


def listed() -> list[Deployment]:
    """Every deployment, in the order of prefect.yaml."""
    entries = YAML(typ="safe", pure=True).load(FILE)["deployments"]
    return [
        Deployment(
            name=entry["name"],
            entrypoint=entry["entrypoint"],
            pool=entry["work_pool"]["name"],
            queue=entry["work_pool"]["work_queue_name"],
            schedules=tuple(entry.get("schedules", ())),
        )
        for entry in entries
    ]


def main() -> None:
    """Register the deployments with the server that PREFECT_API_URL names, and run what is asked of them.

    One run at a time for each, because two runs must not write one data set at once. Schedules, the pool and the store
    are left to `prefect deploy`.
    """
    from prefect import serve  # takes seconds to import; `listed` does without

    deployments = [each.flow().to_deployment(each.name, concurrency_limit=1) for each in listed()]
    warnings.filterwarnings("ignore", "coroutine 'Runner.astop'")  # Prefect forgets to await it at SIGTERM
    serve(*cast("list[RunnerDeployment]", deployments))  # to_deployment is async only where a loop runs


if __name__ == "__main__":
    main()
