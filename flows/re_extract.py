"""The flow `re-extract`, one function per source: bring the features up to date, and train again only if it pays.

New and changed items are encoded, vanished ones leave the tables, the similarity graph is updated. Where it does not
train, the champion's model gives new items and users their vectors. Stages find their own finished work by content, so
an unchanged catalogue only has its raw files read, and no encoder is called.
"""

import contextlib
import logging
import re
import warnings
from itertools import islice
from typing import Any

from prefect import runtime
from prefect.artifacts import create_markdown_artifact
from rich.console import Group, RenderableType
from rich.text import Text

from flows import alarms, allowed, blocks, embedding, figures, training
from flows.exclusive import alone
from flows.ingest_and_train import as_task, one_per_source, refusal_shown
from flows.job import (
    check_interactions,
    conclude,
    kept_because,
    named,
    previous_tables,
    put_report,
    recorded,
    refresh,
    register,
    train,
)
from flows.recorder import Call, Recorder, Tables, plain
from flows.summary import contract_rows, contracts, doubts, last, overview, work
from flows.summary import tables as table_rows
from pipeline import log_fields
from pipeline.ingest.sources import in_place
from pipeline.registry import changes, client, versions
from pipeline.run_records import record as run_record
from pipeline.store import Store
from schemas.errors import UserError
from schemas.model import MODEL
from schemas.re_extract import PARAMETERS, Changes, ReExtractParameters, ReExtractSummary, RetrainThreshold
from schemas.run import Figures, RunParameters, RunSummary

FLOW = "re-extract"
RECORD = "_runs/re-extract.json"
"""Relative to the data set's folder: the record of its last re-extraction."""

logger = logging.getLogger(__name__)
warnings.filterwarnings("ignore", f"A flow named '{FLOW}'")  # several functions of one flow, on purpose


def run(*, parameters: RunParameters, retrain: RetrainThreshold, call: Call = plain) -> ReExtractSummary:
    """Refresh every table up to the similarity graph; train where `retrain` says so, else apply the model that is
    served to what is new; report and register.

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
        last_run, last_training = _last_run(store, dataset), previous_tables(store, dataset)
        tables = refresh(store, source, parameters, record)
        check_interactions(store, tables, parameters)
        since_run = _compared(store, last_run, tables)
        since_training = _compared(store, last_training, tables)
        pays, decision = decide(store, last_training, tables, since_training, retrain)
        logger.info("%s: %s. %s", dataset, since_run or "the first run", decision)
        if pays or last_training is None:
            tables |= train(store, tables, parameters, record)
            ended = conclude(store, tables, parameters, record)
            quality = ended.model_dump(include={*Figures.model_fields, "registered", "champion_kept"})
        else:
            base = served(store, last_training, tables, parameters)
            tables |= embed(store, tables, base, parameters, record)
            decision += f" {new_rows(record)}"
            address = put_report(store, tables, parameters, record, base)
            version = register(store, tables, parameters, record, address)
            quality = figures.measured(store, tables).model_dump()
            quality |= {"registered": named(version), "champion_kept": kept_because(version)}
        summary = ReExtractSummary(
            **record.described(),
            **quality,
            since_last_run=since_run,
            since_training=since_training,
            trained=pays,
            decision=decision,
        )
        # Where it trained, the training has left the record of this start.
        for path in (RECORD,) if pays else (RECORD, f"_runs/{record.started}.json"):
            store.put(f"{dataset}/{path}", summary.model_dump_json(indent=2).encode())
    return summary


def decide(
    store: Store,
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
    if MODEL not in before:
        return True, "Trained: the last training left no model that could be applied."
    if encoders(store, before) != encoders(store, now):
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


def served(store: Store, last_training: Tables, now: Tables, parameters: RunParameters) -> Tables:
    """The tables of the version whose model is applied: the champion's, which consumers read.

    The last training's where no version is champion, or it has no model, or other encoders or imported vectors than
    today's.
    """
    dataset = now["items"].dataset
    if not client.has_registry(store, parameters.registry):
        return last_training
    registered = versions.registered(store, dataset, parameters.registry)
    champion = next((version for version in registered if version.alias == "champion"), None)
    if champion is None or MODEL not in champion.tables:
        return last_training
    tables = {name: store.get(dataset, name, version) for name, version in champion.tables.items()}
    same = encoders(store, tables) == encoders(store, now)
    return tables if same and not _has_other_vectors(store, tables, now) else last_training


def _has_other_vectors(store: Store, before: Tables, now: Tables) -> bool:
    """Whether vectors are imported and those of most items have changed, as if they were another encoder's."""
    if not any(name.startswith("features/") and changes.is_imported(version) for name, version in now.items()):
        return False
    since = changes.run(store=store, before=before, after=now)
    return since.changed > since.unchanged


def embed(store: Store, tables: Tables, base: Tables, parameters: RunParameters, record: Recorder) -> Tables:
    """The tables that the model of `base` makes of today's."""
    made = record(
        "embed",
        embedding.run,
        store=store,
        tables=training.inputs(tables),
        base=base,
        device=parameters.trainer.device,
    )
    record.release()
    return made


def new_rows(record: Recorder) -> str:
    """One sentence: what got its vectors from the model."""
    counts = next(stage.counts for stage in record.stages if stage.stage == "embed")
    items, users = counts["new_items"], counts["new_users"]
    return f"{items:,.0f} items and {users:,.0f} users that came after training have their vectors from its model."


def encoders(store: Store, tables: Tables) -> dict[str, tuple[str, ...]]:
    """Feature table → what identifies its encoder. Of imported vectors no file tells: those of another width are
    another one's, and otherwise an item whose vector changed counts as changed."""
    identity = ("cm3.encoder", "cm3.revision", "cm3.config")
    return {
        name: (
            "imported",
            *(str(batch["embedding"].type) for batch in islice(store.batches(version, ["embedding"]), 1)),
        )
        if changes.is_imported(version)
        else tuple(version.lineage[key] for key in identity)
        for name, version in tables.items()
        if name.startswith("features/")
    }


def _compared(store: Store, before: Tables | None, after: Tables) -> Changes | None:
    return None if before is None else changes.run(store=store, before=before, after=after)


def _last_run(store: Store, dataset: str) -> Tables | None:
    """The tables of the last re-extraction or whole run, whichever is newer; None if there was none, or garbage
    collection took one of them. A damaged record counts as none."""
    records: list[ReExtractSummary | RunSummary] = []
    with contextlib.suppress(UserError):
        records.append(last(store, dataset))
    path = f"{store.root}/{dataset}/{RECORD}"
    with contextlib.suppress(UserError, FileNotFoundError):
        records.append(run_record(store, path, ReExtractSummary))
    if not records:
        return None
    newest = max(records, key=lambda entry: entry.started)
    try:
        return recorded(store, dataset, newest.stages)
    except UserError:
        return None


def terminal(summary: ReExtractSummary) -> RenderableType:
    """The last page of a re-extraction: what changed, whether it trained, its tables."""
    changed = f"since the last run: {summary.since_last_run or 'this is the first'}"
    registered = [f"registered: {summary.dataset} version {summary.registered}"] if summary.registered else []
    said = [changed, summary.decision, *registered, *doubts(summary.stages)]
    return Group(overview(summary), contracts(summary.verdicts), work(summary.encoded), *map(Text, said))


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
            contract_rows(summary.verdicts),
            *doubts(summary.stages),
        )
    )


def body(parameters: ReExtractParameters) -> dict[str, Any]:
    """Body of every flow here; returns the record."""
    allowed.check(parameters)
    with log_fields.about(flow_run=runtime.flow_run.name), refusal_shown(parameters):
        summary = run(parameters=blocks.opened(parameters), retrain=parameters.retrain, call=as_task)
    create_markdown_artifact(markdown(summary), key=f"{re.sub('[^a-z0-9]', '-', summary.dataset)}-re-extract")
    alarms.tell_if_kept(summary.dataset, summary.champion_kept)
    return summary.model_dump()


__getattr__ = one_per_source(
    FLOW, PARAMETERS, body, "encode what changed; train again if it pays, else apply the model."
)
