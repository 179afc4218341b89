"""A data set's last runs in a row, from their records: nothing is computed, so no table has to be there any more."""

from itertools import islice

from pipeline.run_records import newest_first, readable
from pipeline.store import Store
from schemas.contracts import Refusal
from schemas.errors import UserError
from schemas.history import Entry
from schemas.run import RunRecord
from schemas.tables import ImageStatus

NOT_FAILED = (ImageStatus.OK, ImageStatus.NO_URL, ImageStatus.PLACEHOLDER)
"""Placeholders were fetched, and left out on purpose."""


def read(store: Store, dataset: str, last: int) -> list[Entry]:
    """The last runs, the oldest first; those that a contract stopped among them. Damaged records are left out.

    Raises:
        UserError: there is none.
    """
    folder = store.folder(dataset)[len(store.root) + 1 :]
    runs = [_run(record) for record in islice(newest_first(store, folder), last)]
    refusals = islice(readable(store, f"{folder}/_refused/*.json", Refusal), last)
    entries = sorted([*runs, *map(_stopped, refusals)], key=lambda entry: entry.started)[-last:]
    if not entries:
        names = ", ".join(store.datasets()) or "none yet; `cm3 run demo` makes one"
        raise UserError(f"No record of a run of {dataset!r} in {store}. Data sets with tables: {names}.")
    return entries


def _run(record: RunRecord) -> Entry:
    rows = {stage.table: stage.rows for stage in record.stages}
    stages = {stage.stage for stage in record.stages}
    pictures = next((stage.counts for stage in record.stages if stage.table == "images"), None)
    failed = [status for status in ImageStatus if status not in NOT_FAILED]
    why = f"not champion: {record.champion_kept}" if record.champion_kept else ""
    return Entry(
        started=record.started,
        state="trained" if "train" in stages else "embedded" if "embed" in stages else "extracted",
        note=", ".join(filter(None, (record.registered and f"version {record.registered}", why))),
        items=rows.get("items"),
        interactions=rows.get("interactions"),
        coverage=record.coverage,
        pictures_failed=sum(int(pictures.get(status, 0)) for status in failed) if pictures else None,
        encoded=sum(record.encoded.values()),
        ndcg=record.test.get("ndcg@20"),
        cold_recall=record.cold_recall,
        neighbor_overlap=record.neighbor_overlap,
        seconds=record.seconds,
        cost=sum(stage.counts.get("cost", 0.0) for stage in record.stages),
    )


def _stopped(refusal: Refusal) -> Entry:
    broken = [str(verdict) for verdict in refusal.verdicts if verdict.state == "stopped"]
    return Entry(started=refusal.started, state="stopped", note=f"after {refusal.stage}: {'; '.join(broken)}")
