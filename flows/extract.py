"""The flow `extract`, one function per source: features and the similarity graph of a catalogue, without interactions,
training or registry. Run again, it encodes only what is new; a later training on the same store encodes nothing again.
"""

import re
import warnings
from typing import Any

from prefect import runtime
from prefect.artifacts import create_markdown_artifact
from rich.console import Group, RenderableType
from rich.text import Text

from flows import allowed, blocks, figures, summary
from flows.exclusive import alone
from flows.ingest_and_train import as_task, one_per_source, refusal_shown
from flows.job import put_report, recorded, refresh
from flows.recorder import Call, Recorder, Tables, plain
from pipeline import log_fields
from pipeline.ingest.sources import in_place
from pipeline.run_records import record as run_record
from pipeline.store import Store
from schemas.errors import UserError
from schemas.extract import PARAMETERS, ExtractParameters, ExtractSummary

FLOW = "extract"
RECORD = "_runs/extract.json"
"""Relative to the data set's folder: the record of its last extraction."""

warnings.filterwarnings("ignore", f"A flow named '{FLOW}'")  # several functions of one flow, on purpose


def run(*, parameters: ExtractParameters, call: Call = plain) -> ExtractSummary:
    """Publish items, pictures, features, similarity and a report of them.

    Raises:
        UserError: anything the user can mend; earlier versions stay readable, finished work is kept.
    """
    dataset = parameters.dataset
    record = Recorder(call, parameters)
    store = record.store
    with (
        record.running(),
        alone(store, dataset),
        in_place(parameters.source, store) as source,
    ):
        tables = refresh(store, source, parameters, record, items_only=True)
        address = put_report(store, tables, parameters, record, _last_run(store, dataset))
        done = ExtractSummary(
            **record.described(), **figures.measured(store, tables).model_dump(), report=f"{store.uri}/{address}"
        )
        for path in (RECORD, f"_runs/{record.started}.json"):
            store.put(f"{dataset}/{path}", done.model_dump_json(indent=2).encode())
    return done


def _last_run(store: Store, dataset: str) -> Tables | None:
    """The tables of the last extraction; None if there was none, its record is damaged, or garbage collection took one
    of them."""
    path = f"{store.root}/{dataset}/{RECORD}"
    if not store.fs.exists(path):
        return None
    try:
        return recorded(store, dataset, run_record(store, path, ExtractSummary).stages)
    except UserError:
        return None


def terminal(extracted: ExtractSummary) -> RenderableType:
    """The last page of an extraction: its tables, what was encoded, the report."""
    end = summary.unbroken(f"report: {extracted.report}")
    said = summary.contracts(extracted.verdicts)
    doubts = map(Text, summary.doubts(extracted.stages))
    return Group(summary.overview(extracted), said, summary.work(extracted.encoded), *doubts, end)


def markdown(extracted: ExtractSummary) -> str:
    """The record for Prefect's page of the run."""
    report = f"Report: [{extracted.report}]({extracted.report})"
    rows = summary.tables(extracted.stages), summary.contract_rows(extracted.verdicts)
    parts = (f"# {extracted.dataset}: features", report, *rows)
    return "\n\n".join((*parts, *summary.doubts(extracted.stages)))


def body(parameters: ExtractParameters) -> dict[str, Any]:
    """Body of every flow here; returns the record."""
    allowed.check(parameters)
    with log_fields.about(flow_run=runtime.flow_run.name), refusal_shown(parameters):
        extracted = run(parameters=blocks.opened(parameters), call=as_task)
    create_markdown_artifact(markdown(extracted), key=f"{re.sub('[^a-z0-9]', '-', extracted.dataset)}-extract")
    return extracted.model_dump()


__getattr__ = one_per_source(FLOW, PARAMETERS, body, "features and similarity alone, from the items.")
