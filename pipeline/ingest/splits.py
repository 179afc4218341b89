"""Which interactions are for training, validation and test: seeded, independent of the order of rows."""

import logging
from hashlib import blake2b

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.ingest.interactions import Codes, codes, examples
from pipeline.ingest.sources.base import SPLIT
from pipeline.ingest.tally import Quality
from schemas.errors import UserError
from schemas.ingest import IngestConfig

logger = logging.getLogger(__name__)

TRAIN, VALID, TEST = range(3)
"""Labels: the codes of `sources.base.SPLIT`."""
DROPPED = 3
FEW = 10
"""A user with fewer interactions holds out the last two by time; one with as many or more, a random fifth."""
HELD_OUT_FROM = 3
"""All interactions of a user who has fewer are for training."""


def method(choice: str, *, has_split: bool) -> str:
    """The method that `IngestConfig.split` names, "auto" resolved.

    Args:
        has_split: whether the source has a published split.

    Raises:
        UserError: "published", and the source has none.
    """
    if choice == "published" and not has_split:
        raise UserError("ingest.split: published, but the source has no split. Use per_user or map a split column.")
    if choice == "auto":
        return "published" if has_split else "per_user"
    return choice


def apply(frame: pl.DataFrame, method: str, config: IngestConfig, file: str, quality: Quality) -> pl.DataFrame:
    """The interactions with their `split`, without those that have no place in it, which are counted.

    Args:
        method: "published", or a method of `labels`.
        file: name of the file, for the tally and for errors.

    Raises:
        UserError: see `labels`; or no interaction is left for training.
    """
    of_row = frame["split"].to_physical().to_numpy() if method == "published" else labels(frame, method, config)
    if not (of_row == TRAIN).any():
        raise UserError(
            f"ingest.split: {method} leaves none of {len(frame):,} interactions of {file} for training. Are all times "
            "equal, or is the split's column the right one? Choose per_user, or mend the file."
        )
    if not (of_row == VALID).any():
        logger.warning("%s: the split %s leaves nothing for validation, without which nothing trains", file, method)
    ok = of_row != DROPPED
    lost = np.flatnonzero(~ok)
    quality.add(file, "held_out_of_untrained_user", "dropped", len(lost), examples(frame, lost))
    if len(lost):
        frame, of_row = frame.filter(ok), of_row[ok]
    return frame.with_columns(SPLIT.categories.cast(SPLIT).gather(of_row).alias("split"))


def labels(frame: pl.DataFrame, method: str, config: IngestConfig) -> NDArray[np.uint8]:
    """The label of each row: `TRAIN`, `VALID`, `TEST`, or `DROPPED`.

    Args:
        frame: user_id and item_id (categorical, one row per pair), timestamp (milliseconds, may be null).
        method: "per_user", "leave_one_out" or "global_time".

    Raises:
        UserError: the method goes by time and a row has none.
    """
    times = frame["timestamp"]
    if method != "per_user" and (absent := times.null_count()):
        raise UserError(
            f"ingest.split: {method} goes by time, but {absent:,} of {len(times):,} interactions have none. Use "
            "per_user, or give a timestamp column."
        )
    ties = row_hashes(frame, config.seed)
    if method == "global_time":
        return global_time(codes(frame)[0], times.to_numpy(), config.valid_share, config.test_share)
    by_time = times.fill_null(0).to_numpy()  # no time is before every time
    few = np.iinfo(np.int64).max if method == "leave_one_out" else FEW
    return per_user(codes(frame)[0], by_time, ties, few=few)


def per_user(users: Codes, times: NDArray[np.int64], ties: NDArray[np.uint64], *, few: int = FEW) -> NDArray[np.uint8]:
    """Labels by user. With 3 to `few` - 1 interactions, the last is test and the one before valid. With n >= `few`,
    ⌊n/10⌋ random ones are valid and ⌊n/5⌋ - ⌊n/10⌋ test.

    Source: the sizes in CM3's table of data sets (Clothing: 197,338 train, 40,150 valid, 41,189 test).
    """
    counts = np.bincount(users)
    many = (counts >= few)[users]
    order = _sorted_by(users, np.where(many, ties, _by_time(times, ties)))
    tested = np.where(counts < HELD_OUT_FROM, 0, np.where(counts < few, 1, counts // 5 - counts // 10))
    held_out = np.where(counts < HELD_OUT_FROM, 0, np.where(counts < few, 2, counts // 5))
    sizes = np.stack([counts - held_out, held_out - tested, tested], axis=1)
    of_row = np.empty(len(users), dtype=np.uint8)
    of_row[order] = np.repeat(np.tile(np.array([TRAIN, VALID, TEST], np.uint8), len(counts)), sizes.reshape(-1))
    return of_row


def _by_time(times: NDArray[np.int64], ties: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Keys that sort by time (43 bits), then by tie (its upper 21 bits)."""
    return (times.astype(np.uint64) << np.uint64(21)) | (ties >> np.uint64(43))


def _sorted_by(users: Codes, keys: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """Row numbers sorted by user, then key. One 128-bit number per row sorts in a third of the time of two columns."""
    wide = pl.UInt128
    number = (
        pl.col("user").cast(wide) * pl.lit(1 << 96, wide)
        + pl.col("key").cast(wide) * pl.lit(1 << 32, wide)
        + pl.col("row").cast(wide)
    )
    row = (pl.col("number") % pl.lit(1 << 32, wide)).cast(pl.UInt32).alias("row")
    rows = pl.LazyFrame({"user": users, "key": keys}).with_row_index("row")
    order: NDArray[np.uint32] = rows.select(number.sort().alias("number")).select(row).collect()["row"].to_numpy()
    return order


def global_time(users: Codes, times: NDArray[np.int64], valid_share: float, test_share: float) -> NDArray[np.uint8]:
    """Labels by time: the last `test_share` of all interactions is test, the `valid_share` before it valid.

    Equal times get one label, so that nothing held out is older than what is trained on. A held-out row of a user
    without a training row is dropped: no model could predict it.
    """
    of_row = np.full(len(times), TRAIN, dtype=np.uint8)
    ordered = np.sort(times)
    valid_from, test_from = (
        ordered[min(int(len(ordered) * share), len(ordered) - 1)]
        for share in (1 - valid_share - test_share, 1 - test_share)
    )
    of_row[times >= valid_from] = VALID
    of_row[times >= test_from] = TEST
    trained = np.bincount(users[of_row == TRAIN], minlength=int(users.max()) + 1) > 0
    of_row[(of_row != TRAIN) & ~trained[users]] = DROPPED
    return of_row


def row_hashes(frame: pl.DataFrame, seed: int) -> NDArray[np.uint64]:
    """A number per row that depends on the seed and its two ids alone: not on the order of rows, on other rows, or on
    the platform."""
    user_hash, item_hash = (_id_hashes(frame[name], seed) for name in ("user_id", "item_id"))
    with np.errstate(over="ignore"):
        mixed = user_hash ^ (item_hash * np.uint64(0x9E3779B97F4A7C15))
        for multiplier, shift in ((0xBF58476D1CE4E5B9, 30), (0x94D049BB133111EB, 27)):  # SplitMix64's finaliser
            mixed ^= mixed >> np.uint64(shift)
            mixed *= np.uint64(multiplier)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def _id_hashes(ids: pl.Series, seed: int) -> NDArray[np.uint64]:
    unique = ids.unique()
    keyed = blake2b(digest_size=8, key=seed.to_bytes(8, "little"))
    hashes = []
    for text in unique.cast(pl.String).cast(pl.Binary).to_list():
        state = keyed.copy()  # in half the time of a new one
        state.update(text)
        hashes.append(state.digest())
    places = unique.to_physical().to_numpy()
    hash_of = np.zeros(int(places.max()) + 1 if len(places) else 0, dtype=np.uint64)
    hash_of[places] = np.frombuffer(b"".join(hashes), dtype="<u8")
    of_row: NDArray[np.uint64] = hash_of[ids.to_physical().to_numpy()]
    return of_row
