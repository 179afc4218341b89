"""The flow `ingest-and-train`, one function per source: the main job with each stage as a Prefect task."""

import functools
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from prefect import Flow, flow, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from flows import alarms, allowed, blocks, logs, progress_artifacts
from flows.job import run
from flows.parameters import documented, flat
from flows.summary import contract_rows, markdown
from pipeline import log_fields
from schemas.errors import ClusterError, ContractError, StoreError, UserError
from schemas.run import PARAMETERS, FeatureParameters, RunParameters

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound=FeatureParameters)

FLOW = "ingest-and-train"
RETRIES = 2
RETRY_SECONDS = [10.0, 60.0]

logs.prepare()
warnings.filterwarnings("ignore", f"A flow named '{FLOW}'")  # several functions of one flow, on purpose


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
    allowed.check(parameters)
    with log_fields.about(flow_run=runtime.flow_run.name), refusal_shown(parameters):
        summary = run(parameters=blocks.opened(parameters), call=as_task)
    create_markdown_artifact(markdown(summary), key=f"{re.sub('[^a-z0-9]', '-', summary.dataset)}-run")
    alarms.tell_if_kept(summary.dataset, summary.champion_kept)
    return summary.model_dump()


@contextmanager
def refusal_shown(parameters: FeatureParameters) -> Iterator[None]:
    """Where a contract stops the run in the block, its verdicts are an artifact on the run's page too."""
    try:
        yield
    except ContractError as error:
        text = f"# {parameters.dataset}: refused\n\n{error}\n\n{contract_rows(error.verdicts)}"
        create_markdown_artifact(text, key=f"{re.sub('[^a-z0-9]', '-', parameters.dataset)}-refused")
        raise


def one_per_source(
    name: str, models: Mapping[str, type[M]], body: Callable[[M], dict[str, Any]], purpose: str
) -> Callable[[str], Flow[..., dict[str, Any]]]:
    """The `__getattr__` of a module: its attributes are the functions of one flow, one per kind of source.

    Each takes the fields of its model, and calls `body`. It is made when it is asked for: Prefect takes tenths of a
    second for the schema of its parameters.
    """

    @functools.cache
    def function(kind: str) -> Flow[..., dict[str, Any]]:
        if kind not in models:
            raise AttributeError(f"there is no flow {name} for {kind!r}")
        model = models[kind]
        doc = documented(f"{model.source_type.title}: {purpose}", model)
        return flow(name=name)(flat(model, body, name=kind, doc=doc))

    return function


# An entrypoint names a function in a file: flows/ingest_and_train.py:amazon.
__getattr__ = one_per_source(FLOW, PARAMETERS, main_job, "from raw files to registered embeddings.")
