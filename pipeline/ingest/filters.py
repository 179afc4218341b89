"""Which interactions are kept: rules over ids as dictionary codes, each counted."""

import logging
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.ingest.interactions import codes, examples
from pipeline.ingest.sample import of_interactions
from pipeline.ingest.tally import EXAMPLES, Quality
from schemas.errors import UserError

logger = logging.getLogger(__name__)


def apply(
    frame: pl.DataFrame,
    catalogue: set[str],
    quality: Quality,
    *,
    min_rating: float | None,
    core_k: int,
    items_file: str,
    file: str,
    sample: set[str] | None = None,
) -> pl.DataFrame:
    """The interactions that pass every rule. The order of the rules is documented in `schemas.ingest.IngestConfig`.

    Args:
        frame: as `interactions.collect` returns it.
        catalogue: ids of the published items.
        items_file, file: names of the two files, for the tally and for errors.
        sample: ids of the items of a sample; None: all of the catalogue.

    Returns:
        An empty frame if nothing is left, which is logged.

    Raises:
        UserError: no item of the interactions is in the catalogue.
    """
    rows_read = len(frame)
    frame = in_catalogue(frame, catalogue, file, quality)
    if rows_read and frame.is_empty():
        raise UserError(
            f"None of the {rows_read:,} interactions of {file} is with an item of {items_file} "
            f"({quality.count('unknown_item'):,} unknown). Do the two files belong together, and is the right "
            "column mapped to the item's id?"
        )
    if sample is not None:
        frame = of_interactions(frame, sample, file, quality)
    frame = latest_only(frame, file, quality)
    before_core = at_least(frame, min_rating, file, quality)
    frame = core(before_core, core_k, file, quality)
    if frame.is_empty():
        users, items = before_core["user_id"].n_unique(), before_core["item_id"].n_unique()
        limits = {"core_k": core_k if core_k > 1 else None, "min_rating": min_rating}
        advice = " or ".join(f"{name} (now {limit:g})" for name, limit in limits.items() if limit is not None)
        logger.warning(
            f"Nothing is left of {file}: {rows_read:,} interactions were read, {len(before_core):,} remained before "
            f"the {core_k}-core ({users:,} users, {items:,} items), 0 after it."
            + (f" Lower {advice}, or use a larger category." if rows_read else "")
        )
    return frame


def in_catalogue(frame: pl.DataFrame, catalogue: set[str], file: str, quality: Quality) -> pl.DataFrame:
    """Without the interactions whose item is not in the catalogue; the examples are of different items."""
    items = frame["item_id"].unique()
    unknown = items.filter(~items.cast(pl.String).is_in(list(catalogue)))
    if unknown.is_empty():
        return frame
    ok = ~frame["item_id"].to_physical().is_in(unknown.to_physical().implode())
    lost = frame.filter(~ok)["item_id"]
    ids = tuple(lost.unique(maintain_order=True).head(EXAMPLES).cast(pl.String))
    quality.add(file, "unknown_item", "dropped", len(lost), ids)
    return frame.filter(ok)


def latest_only(frame: pl.DataFrame, file: str, quality: Quality) -> pl.DataFrame:
    """One row per user and item: the latest. Of equal times the later row counts; no time is earlier than any."""
    users, items = codes(frame)
    pairs = pl.Series((users.astype(np.uint64) << np.uint64(32)) | items)
    ordered = pairs.sort().to_numpy()
    repeated_pairs = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(repeated_pairs):
        return frame
    repeated = (
        pl.DataFrame({"pair": pairs, "time": frame["timestamp"]})
        .with_row_index("row")
        .filter(pairs.is_in(pl.Series(repeated_pairs).unique().implode()))
    )
    latest = repeated.sort("time", "row", nulls_last=False).unique("pair", keep="last", maintain_order=True)
    lost = np.setdiff1d(repeated["row"].to_numpy(), latest["row"].to_numpy(), assume_unique=True)
    quality.add(file, "repeated_interaction", "dropped", len(lost), examples(frame, lost))
    ok = np.ones(len(frame), dtype=bool)
    ok[lost] = False
    return frame.filter(ok)


def at_least(frame: pl.DataFrame, min_rating: float | None, file: str, quality: Quality) -> pl.DataFrame:
    """Ratings of at least `min_rating`; a row without a rating is dropped too. None keeps every row.

    Raises:
        UserError: no row has a rating.
    """
    if min_rating is None:
        return frame
    if frame["rating"].null_count() == len(frame):
        raise UserError(
            f"ingest.min_rating is {min_rating:g}, but none of the {len(frame):,} interactions of {file} has a rating "
            "that can be read. Name the column of the ratings in the source's mapping, give `rating_values` if they "
            "are words, or leave out min_rating."
        )
    ok = (frame["rating"] >= min_rating).fill_null(value=False)
    lost = (~ok).arg_true()
    quality.add(file, "rating_below_threshold", "dropped", len(lost), examples(frame, lost))
    return frame.filter(ok)


def core(frame: pl.DataFrame, k: int, file: str, quality: Quality) -> pl.DataFrame:
    """The `k`-core; interactions and users outside it are counted."""
    rows = k_core(*codes(frame), k)
    if len(rows) == len(frame):
        return frame
    rule = f"outside_{k}_core"
    outside = np.ones(len(frame), dtype=bool)
    outside[rows] = False
    lost = np.flatnonzero(outside)
    quality.add(file, f"interaction_{rule}", "dropped", len(lost), examples(frame, lost))
    users = codes(frame)[0]
    stays = np.zeros(int(users.max()) + 1, dtype=bool)
    stays[users[rows]] = True
    gone = frame["user_id"].gather(lost[~stays[users[lost]]]).unique(maintain_order=True)
    quality.add(file, f"user_{rule}", "dropped", len(gone), tuple(gone.head(EXAMPLES).cast(pl.String)))
    return frame[rows]


def k_core(users: NDArray[Any], items: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Row numbers of the largest subset in which every user and every item has at least `k` rows."""
    users, items = users.astype(np.intp), items.astype(np.intp)  # else bincount and indexing would convert each time
    of_user, of_item = np.bincount(users), np.bincount(items)
    kept = np.ones(len(users), dtype=bool)
    while True:
        ok = (of_user >= k)[users] & (of_item >= k)[items]
        lost = np.flatnonzero(kept & ~ok)
        if not len(lost):
            return np.flatnonzero(kept)
        kept[lost] = False
        of_user -= np.bincount(users[lost], minlength=len(of_user))
        of_item -= np.bincount(items[lost], minlength=len(of_item))
