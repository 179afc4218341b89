"""The flow `ingest-and-train`, one function a catalogue: the main job with each stage as a Prefect task."""

import re
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import flow, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from flows import logs, progress_artifacts
from flows.job import run
from flows.parameters import flat
from flows.summary import markdown
from pipeline import log_fields
from schemas.errors import ClusterError, StoreError, UserError
from schemas.run import (
    AmazonParameters,
    CatalogueParameters,
    DemoParameters,
    MicroLensParameters,
    MMRecParameters,
    MovieLensParameters,
    RunParameters,
)

P = ParamSpec("P")
R = TypeVar("R")

FLOW = "ingest-and-train"
RETRIES = 2
RETRY_SECONDS = [10.0, 60.0]

logs.prepare()
warnings.filterwarnings("ignore", "A flow named 'ingest-and-train'")  # several functions, one flow: meant


def as_task(name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a stage as a Prefect task. Every stage is idempotent and resumes, so it may be retried."""

    def body() -> R:
        with progress_artifacts.shown():
            return function(*args, **kwargs)

    stage = task(
        name=name,
        retries=RETRIES,
        retry_delay_seconds=RETRY_SECONDS,
        retry_condition_fn=may_pass,
        cache_policy=NO_CACHE,  # stages find their own finished work by content, across runs too
        persist_result=False,
    )(body)
    return stage()


def may_pass(_: Any, __: TaskRun, state: State[Any]) -> bool:
    """Whether trying again could help: not where the user must mend something."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, StoreError | ClusterError) or not isinstance(error, UserError)


def main_job(parameters: RunParameters) -> dict[str, Any]:
    """Body of every flow here; returns the run's summary."""
    with log_fields.about(flow_run=runtime.flow_run.name):
        summary = run(parameters=parameters, call=as_task)
    create_markdown_artifact(markdown(summary), key=f"{re.sub('[^a-z0-9]', '-', summary.dataset)}-run")
    return summary.model_dump()


@flow(name=FLOW)
@flat(AmazonParameters)
def amazon(parameters: AmazonParameters) -> dict[str, Any]:
    """Amazon Reviews of one category, from raw files to registered embeddings."""
    return main_job(parameters)


@flow(name=FLOW)
@flat(CatalogueParameters)
def catalogue(parameters: CatalogueParameters) -> dict[str, Any]:
    """Your own catalogue, from two files to registered embeddings."""
    return main_job(parameters)


@flow(name=FLOW)
@flat(MovieLensParameters)
def movielens(parameters: MovieLensParameters) -> dict[str, Any]:
    """MovieLens with posters and plots."""
    return main_job(parameters)


@flow(name=FLOW)
@flat(MicroLensParameters)
def microlens(parameters: MicroLensParameters) -> dict[str, Any]:
    """MicroLens, with its titles and covers."""
    return main_job(parameters)


@flow(name=FLOW)
@flat(MMRecParameters)
def mmrec(parameters: MMRecParameters) -> dict[str, Any]:
    """A folder in the MMRec format, with its published split."""
    return main_job(parameters)


@flow(name=FLOW)
@flat(DemoParameters)
def demo(parameters: DemoParameters) -> dict[str, Any]:
    """A catalogue of drawn products: needs no network, no hub and no data."""
    return main_job(parameters)
