"""The flow `extract`, one function per source: features and the similarity graph of a catalogue, without interactions,
training or registry. Run again, it encodes only what is new; a later training on the same store encodes nothing again.
"""

import json
import re
import time
import warnings
from typing import Any

from prefect import runtime
from prefect.artifacts import create_markdown_artifact
from rich.console import Group, RenderableType

from flows import summary
from flows.exclusive import alone
from flows.ingest_and_train import as_task, one_per_source
from flows.job import put_report, recorded, refresh
from flows.recorder import Call, Recorder, Tables, plain
from pipeline import log_fields
from pipeline.ingest.sources import in_place
from pipeline.registry import promotion
from pipeline.store import Store
from schemas.errors import UserError
from schemas.extract import PARAMETERS, ExtractParameters, ExtractSummary
from schemas.run import StageRecord

FLOW = "extract"
RECORD = "_runs/extract.json"
"""Relative to the data set's folder: the record of its last extraction."""

warnings.filterwarnings("ignore", f"A flow named '{FLOW}'")  # several functions of one flow, on purpose


def run(*, parameters: ExtractParameters, call: Call = plain) -> ExtractSummary:
    """Publish items, pictures, features, similarity and a report of them.

    Raises:
        UserError: anything the user can mend; earlier versions stay readable, finished work is kept.
    """
    store = Store(parameters.store)
    record = Recorder(call)
    dataset = parameters.source.dataset
    with (
        log_fields.about(run=record.started, dataset=dataset),
        alone(store, dataset),
        in_place(parameters.source, store) as source,
    ):
        tables = refresh(store, source, parameters, record, items_only=True)
        address = put_report(store, tables, parameters, record, _last_run(store, dataset))
        done = ExtractSummary(
            dataset=dataset,
            started=record.started,
            seconds=time.monotonic() - record.clock,
            stages=tuple(record.stages),
            encoded=record.encoded,
            coverage=promotion.coverage(store, tables),
            report=f"{store.uri}/{address}",
        )
        store.put(f"{dataset}/{RECORD}", done.model_dump_json(indent=2).encode())
    return done


def _last_run(store: Store, dataset: str) -> Tables | None:
    """The tables of the last extraction; None if there was none, or garbage collection took one of them."""
    path = f"{store.root}/{dataset}/{RECORD}"
    if not store.fs.exists(path):
        return None
    stages = json.loads(store.fs.cat_file(path))["stages"]
    try:
        return recorded(store, dataset, [StageRecord.model_validate(stage) for stage in stages])
    except UserError:
        return None


def terminal(extracted: ExtractSummary) -> RenderableType:
    """The last page of an extraction: its tables, what was encoded, the report."""
    end = summary.unbroken(f"report: {extracted.report}")
    return Group(summary.overview(extracted), summary.work(extracted.encoded), end)


def markdown(extracted: ExtractSummary) -> str:
    """The record for Prefect's page of the run."""
    report = f"Report: [{extracted.report}]({extracted.report})"
    return "\n\n".join((f"# {extracted.dataset}: features", report, summary.tables(extracted.stages)))


def body(parameters: ExtractParameters) -> dict[str, Any]:
    """Body of every flow here; returns the record."""
    with log_fields.about(flow_run=runtime.flow_run.name):
        extracted = run(parameters=parameters, call=as_task)
    create_markdown_artifact(markdown(extracted), key=f"{re.sub('[^a-z0-9]', '-', extracted.dataset)}-extract")
    return extracted.model_dump()


globals().update(one_per_source(FLOW, PARAMETERS, body, "features and similarity alone, from the items."))
