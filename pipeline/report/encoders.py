"""The last comparison of encoders on the data set's own interactions, and the sentence that says which one pays."""

import json
import logging
from collections.abc import Sequence
from typing import Any

from pipeline.report.wording import metric_title, shown
from pipeline.store import Store
from schemas.encoder_comparison import EncoderPair, EncoderRow
from schemas.errors import UserError
from schemas.lineage import TableVersion

logger = logging.getLogger(__name__)

TABLE = "encoder_comparison"
SIGNIFICANT = 0.05


def latest(store: Store, dataset: str) -> TableVersion | None:
    """The last comparison; None if there is none, or it is damaged, which the log says."""
    try:
        return store.latest(dataset, TABLE) if store.has_latest(dataset, TABLE) else None
    except UserError as error:
        logger.warning("the report is without the comparison of encoders: %s", error)
        return None


def section(store: Store, version: TableVersion | None) -> dict[str, Any] | None:
    """The comparison as values for the template, or the `reason` why it cannot be read; None without one."""
    if version is None:
        return None
    try:
        records = store.read(version).to_pylist()
    except UserError as error:
        return {"reason": shown(error, 400), "version": version.version}
    pairs = [EncoderPair(encoder=row["encoder"], **pair) for row in records for pair in row.pop("pairs")]
    rows = [EncoderRow(**row) for row in records]
    rule = json.loads(version.lineage["cm3.config"])["cm3"]["evaluation"]
    return {
        "reason": "",
        "version": version.version,
        "rows": rows,
        "pairs": pairs,
        "verdict": shown(verdict(rows, pairs), 600),
        "created": version.created,
        "warm": metric_title(rule["selection_metric"], rule["selection_k"]),
        "cold": metric_title("recall", rule["selection_k"]),
        "priced": any(row.price != 0 for row in rows),
    }


def verdict(rows: Sequence[EncoderRow], pairs: Sequence[EncoderPair]) -> str:
    """One sentence that says which encoder pays.

    An encoder pays if it is ahead of the cheapest by one measure and behind by none, beyond chance; of several the
    cheapest, unless a dearer one is ahead of it in the same way. The cheapest has the least price, of several the least
    seconds, then bytes; where one of these is not known, no encoder is named.
    """
    if unknown := [row.encoder for row in rows if row.seconds is None or row.price is None]:
        return f"Which encoder pays is not known, because no figure says what {', '.join(unknown)} costs."
    cheapest, *others = sorted(rows, key=lambda row: (row.price, row.seconds, row.bytes))
    best = cheapest
    for row in others:
        if _gains(row, cheapest, pairs) and _gains(row, best, pairs):
            best = row
    if best is cheapest:
        return (
            f"{cheapest.encoder} pays: it is the cheapest, and none of the others is ahead of it beyond chance without "
            "being behind elsewhere."
        )
    figures = " and ".join(
        f"{'on items that train' if measure == 'warm' else 'on hidden items'} {getattr(best, measure) or 0:.4f} "
        f"against {getattr(cheapest, measure) or 0:.4f} (p {p_holm:.2g} after Holm)"
        for measure, p_holm in sorted(_gains(best, cheapest, pairs).items(), reverse=True)
    )
    times = best.seconds / cheapest.seconds if best.seconds and cheapest.seconds else None
    cost = f", at {times:.2g} times the seconds per content" if times else ""
    cost += f", for {best.price:.2g} per content" if best.price else ""
    return f"{best.encoder} pays over {cheapest.encoder}, the cheapest: {figures}{cost}."


def _gains(row: EncoderRow, over: EncoderRow, pairs: Sequence[EncoderPair]) -> dict[str, float]:
    """The measures by which a row is ahead of another beyond chance, each with its p; none if it is behind by one."""
    gains: dict[str, float] = {}
    for pair in pairs:
        is_theirs = {pair.encoder, pair.other} == {row.encoder, over.encoder}
        if not is_theirs or pair.p_holm is None or pair.p_holm >= SIGNIFICANT:
            continue
        if (getattr(row, pair.measure) or 0) <= (getattr(over, pair.measure) or 0):
            return {}
        gains[pair.measure] = pair.p_holm
    return gains
