"""The stage of semantic ids: a feature's vectors in, each item's codes and the codebooks out.

Vectors are quantised level by level, each level what is left of the one before (residual quantisation), and streamed;
only ids and codes of the whole catalogue are held.
"""

import itertools
import json

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.machine import use_threads
from pipeline.progress import track
from pipeline.published import Counts, Published
from pipeline.semantic_ids import codebooks
from pipeline.store import Store
from schemas.lineage import Lineage, TableVersion
from schemas.semantic_ids import SEMANTIC_IDS, SemanticIdsConfig

STAGE_VERSION = 1
ROW, ITEM, NUMBER = "_row", "item_id", "_number"
"""Columns beside the codes, which are named after their levels."""


def run(*, store: Store, feature: TableVersion, config: SemanticIdsConfig) -> Published:
    """Publish `semantic_ids/<feature>` and `semantic_codebooks/<feature>`.

    An item whose codes are what they were in the latest table made with the same codebooks keeps its whole id.

    Counts items: `coded`, `missing` (they have no vector) and `told_apart` (another item had their codes already).

    Args:
        feature: the version of `features/<name>`.

    Raises:
        UserError: the feature has fewer vectors than its codebooks would have.
    """
    books = codebooks.published(store, feature, config)
    name = feature.table.removeprefix("features/")
    inputs = {feature.table: feature.version, books.table: books.version}
    before = _before(store, feature.dataset, f"semantic_ids/{name}", books)
    if before is not None and inputs.items() <= _inputs(before).items():
        return Published({before.table: store.again(before), books.table: books}, _counts(store.read(before)))
    if before is not None:
        inputs[before.table] = before.version
    lineage = Lineage(
        dataset=feature.dataset,
        table=f"semantic_ids/{name}",
        stage="semantic_ids",
        stage_version=STAGE_VERSION,
        config={},  # all of it is in the codebooks'
        inputs=inputs,
        encoder=books.lineage["cm3.encoder"],
        revision=books.lineage["cm3.revision"],
    )
    version = store.find(lineage)
    if version is None:
        use_threads()
        coded = _coded(store, feature, books, config)
        rows = tell_apart(coded, None if before is None else store.read(before))
        with store.writer(SEMANTIC_IDS, lineage) as writer:
            writer.write(rows)
        version = writer.version
    return Published({version.table: version, books.table: books}, _counts(store.read(version)))


def tell_apart(coded: pl.DataFrame, before: pa.Table | None) -> pa.Table:
    """Rows of `semantic_ids`: the codes with a last number that makes each unique.

    Args:
        coded: item_id and a column of int32 per level, null where the item has no vector.
        before: earlier rows; an item with the same codes as there keeps its number, and others take the least free.
    """
    levels = coded.columns[1:]
    frame = coded.with_row_index(ROW)
    if before is None:
        frame = frame.with_columns(pl.lit(None, pl.Int32).alias(NUMBER))
    else:
        earlier = pl.DataFrame(before).select(
            ITEM,
            *(pl.col("codes").list.get(i, null_on_oob=True).alias(level) for i, level in enumerate([*levels, NUMBER])),
        )
        frame = frame.join(earlier, on=[ITEM, *levels], how="left", maintain_order="left")
    is_new = pl.col(NUMBER).is_null()
    alone = is_new.all().over(levels)
    frame = frame.with_columns(
        pl.when(alone).then(pl.int_range(pl.len(), dtype=pl.Int32).over(levels)).otherwise(NUMBER).alias(NUMBER)
    )
    numbers: dict[int, int] = {}
    for group in frame.filter(is_new.any().over(levels)).partition_by(levels):
        taken = set(group[NUMBER].drop_nulls())
        free = (number for number in itertools.count() if number not in taken)
        numbers.update(zip(group.filter(is_new)[ROW], free, strict=False))
    given = pl.DataFrame({ROW: list(numbers), "_given": list(numbers.values())}, {ROW: pl.UInt32, "_given": pl.Int32})
    whole = frame.join(given, on=ROW, how="left", maintain_order="left")
    codes = pl.concat_list(*levels, pl.coalesce(NUMBER, "_given"))
    codes = pl.when(pl.col(levels[0]).is_not_null()).then(codes).alias("codes")
    return whole.select(ITEM, codes).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(SEMANTIC_IDS)


def _coded(store: Store, feature: TableVersion, books: TableVersion, config: SemanticIdsConfig) -> pl.DataFrame:
    quantizer = codebooks.read(store, books, config)
    levels = [str(level) for level in range(config.levels)]
    frames = []
    with track("semantic ids", total=feature.rows, part="batch") as advance:
        for ids, vectors, present in codebooks.batches(store, feature):
            codes = np.full((len(ids), config.levels), -1, np.int32)
            codes[present] = codebooks.codes(quantizer, np.ascontiguousarray(vectors[present]))
            frame = pl.DataFrame(codes, schema=dict.fromkeys(levels, pl.Int32)).with_columns(pl.all().replace(-1, None))
            frames.append(frame.insert_column(0, pl.Series(ITEM, ids, pl.String)))
            advance(len(ids))
    empty = pl.DataFrame(schema={ITEM: pl.String} | dict.fromkeys(levels, pl.Int32))
    return pl.concat([empty, *frames])


def _before(store: Store, dataset: str, table: str, books: TableVersion) -> TableVersion | None:
    """The latest table, if it was made with these codebooks."""
    latest = codebooks.latest(store, dataset, table)
    return latest if latest is not None and _inputs(latest).get(books.table) == books.version else None


def _inputs(version: TableVersion) -> dict[str, str]:
    inputs: dict[str, str] = json.loads(version.lineage["cm3.inputs"])
    return inputs


def _counts(rows: pa.Table) -> Counts:
    codes = pl.DataFrame(rows)["codes"]
    told_apart = int((codes.list.last() > 0).sum())
    return {"coded": len(codes) - codes.null_count(), "missing": codes.null_count(), "told_apart": told_apart}
