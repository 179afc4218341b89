"""The flow `re-extract`, one function per source: bring the features up to date, and train again only if it pays.

New and changed items are encoded, vanished ones leave the tables, the similarity graph is updated. Stages find their
own finished work by content, so an unchanged catalogue only has its raw files read, and no encoder is called.
"""

import json
import logging
import re
import time
import warnings
from typing import Any

from prefect import runtime
from prefect.artifacts import create_markdown_artifact

from flows import allowed
from flows.exclusive import alone
from flows.ingest_and_train import as_task, one_per_source
from flows.job import check_interactions, conclude, previous_tables, recorded, refresh, train
from flows.recorder import Call, Recorder, Tables, plain
from flows.summary import tables as table_rows
from pipeline import log_fields
from pipeline.ingest.sources import in_place
from pipeline.registry import changes
from pipeline.store import Store
from schemas.errors import UserError
from schemas.re_extract import PARAMETERS, Changes, ReExtractParameters, ReExtractSummary, RetrainThreshold
from schemas.run import RunParameters, StageRecord

FLOW = "re-extract"
RECORD = "_runs/re-extract.json"
"""Relative to the data set's folder: the record of its last re-extraction."""

logger = logging.getLogger(__name__)
warnings.filterwarnings("ignore", f"A flow named '{FLOW}'")  # several functions of one flow, on purpose


def run(*, parameters: RunParameters, retrain: RetrainThreshold, call: Call = plain) -> ReExtractSummary:
    """Refresh every table up to the similarity graph; train, report and register where `retrain` says so.

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
        last_run, last_training = _last_run(store, dataset), previous_tables(store, dataset)
        tables = refresh(store, source, parameters, record)
        check_interactions(store, tables, parameters)
        since_run = _compared(store, last_run, tables)
        since_training = _compared(store, last_training, tables)
        pays, decision = decide(last_training, tables, since_training, retrain)
        logger.info("%s: %s. %s", dataset, since_run or "the first run", decision)
        registered = ""
        if pays:
            tables |= train(store, tables, parameters, record)
            registered = conclude(store, tables, parameters, record).registered
        summary = ReExtractSummary(
            dataset=dataset,
            started=record.started,
            seconds=time.monotonic() - record.clock,
            since_last_run=since_run,
            since_training=since_training,
            encoded=record.encoded,
            trained=pays,
            decision=decision,
            registered=registered,
            stages=tuple(record.stages),
        )
        store.put(f"{dataset}/{RECORD}", summary.model_dump_json(indent=2).encode())
    return summary


def decide(
    before: Tables | None,
    now: Tables,
    since: Changes | None,
    threshold: RetrainThreshold,
) -> tuple[bool, str]:
    """Whether to train again, and one sentence that says why.

    Args:
        before: the tables of the last training; None if there was none, or garbage collection took one of them.
        since: what changed since then; None if `before` is.
    """
    if before is None or since is None:
        return True, "Trained: there is no earlier training to compare with."
    if encoders(before) != encoders(now):
        return True, "Trained: other features or encoders than in the last training."
    for what, share, limit in (
        ("items", since.item_share, threshold.items),
        ("interactions", since.interaction_share, threshold.interactions),
    ):
        if share > 0 and share >= limit:
            moved = f"Trained: {share:.2%} of the {what} moved since the last training; it pays from {limit:.2%} on."
            return True, moved
    return False, (
        f"Not trained: {since.item_share:.2%} of the items and {since.interaction_share:.2%} of the interactions moved "
        f"since the last training; it pays from {threshold.items:.2%} and {threshold.interactions:.2%} on."
    )


def encoders(tables: Tables) -> dict[str, tuple[str, ...]]:
    """Feature table → what identifies its encoder."""
    identity = ("cm3.encoder", "cm3.revision", "cm3.config")
    return {
        name: tuple(version.lineage[key] for key in identity)
        for name, version in tables.items()
        if name.startswith("features/")
    }


def _compared(store: Store, before: Tables | None, after: Tables) -> Changes | None:
    return None if before is None else changes.run(store=store, before=before, after=after)


def _last_run(store: Store, dataset: str) -> Tables | None:
    """The tables of the last re-extraction or whole run, whichever is newer; None if there was none, or garbage
    collection took one of them."""
    path = f"{store.root}/{dataset}/{RECORD}"
    latest = f"{store.root}/{dataset}/_runs/latest.json"
    records = [json.loads(store.fs.cat_file(p)) for p in (path, latest) if store.fs.exists(p)]
    if not records:
        return None
    newest = max(records, key=lambda entry: entry["started"])
    try:
        return recorded(store, dataset, [StageRecord.model_validate(stage) for stage in newest["stages"]])
    except UserError:
        return None


def markdown(summary: ReExtractSummary) -> str:
    """The record for Prefect's page of the run."""
    encoded = ", ".join(f"{name}: {count:,}" for name, count in summary.encoded.items()) or "nothing"
    return "\n\n".join(
        (
            f"# {summary.dataset}: re-extraction",
            f"Since the last run: {summary.since_last_run or 'this is the first'}.",
            f"Since the last training: {summary.since_training or 'there was none'}.",
            f"Contents that went through a model: {encoded}.",
            summary.decision + (f" Registered as version {summary.registered}." if summary.registered else ""),
            table_rows(summary.stages),
        )
    )


def body(parameters: ReExtractParameters) -> dict[str, Any]:
    """Body of every flow here; returns the record."""
    allowed.check(parameters)
    with log_fields.about(flow_run=runtime.flow_run.name):
        summary = run(parameters=parameters, retrain=parameters.retrain, call=as_task)
    create_markdown_artifact(markdown(summary), key=f"{re.sub('[^a-z0-9]', '-', summary.dataset)}-re-extract")
    return summary.model_dump()


globals().update(one_per_source(FLOW, PARAMETERS, body, "encode what changed, train again if it pays."))
