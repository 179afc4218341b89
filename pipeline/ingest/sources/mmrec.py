"""Folders in MMRec's format: published splits and id mappings, used as they are.

<name>.inter is tab-separated: userID, itemID, x_label (0 train, 1 valid, 2 test) and perhaps rating and timestamp.
If i_id_mapping.csv and u_id_mapping.csv exist, they turn the numbers back into the original source's ids. Row i of a
feature file (.npy) belongs to item number i; `item_ids` gives its id.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from pipeline.ingest.files.delimited import header_of, tables
from pipeline.ingest.files.interaction_columns import Columns, Reading, raw_interactions
from pipeline.ingest.raw import RawFile, RawFiles
from pipeline.ingest.sources.base import RawItem
from pipeline.ingest.tally import Quality
from schemas.errors import UserError
from schemas.sources import MMRecSource

MAPPINGS = {"item_ids": ("i_id_mapping.csv", "itemID"), "user_ids": ("u_id_mapping.csv", "userID")}
"""Role → file, and its column of numbers; the other column is the original id."""
SPARSE = 1000
"""An item number above this many times the rows is no row number of a feature file."""


class MMRec:
    """One folder: ids, splits and ready-made features, without texts or pictures."""

    def __init__(self, config: MMRecSource, cache: Path) -> None:
        self.config = config
        self.raw = RawFiles(config.raw, cache)
        self.relative_images = bool(config.image_url)

    @property
    def image_base(self) -> str | None:
        """The folder."""
        return self.raw.base

    def check(self, *, items_only: bool = False) -> None:  # noqa: ARG002 - one file has both
        """The .inter file exists."""
        self.raw.find("the interactions (name)", [f"{self.config.name}.inter"])

    def fetch(self, *, items_only: bool = False) -> dict[str, RawFile]:  # noqa: ARG002
        """The roles `items` and `interactions` (one file), and the mappings that exist."""
        inter = self.raw.fetch(f"{self.config.name}.inter")
        files = {"items": inter, "interactions": inter}
        for role, (name, _) in MAPPINGS.items():
            if self.raw.exists(name):
                files[role] = self.raw.fetch(name)
        return files

    def has_split(self, files: dict[str, RawFile]) -> bool:  # noqa: ARG002
        """Always."""
        return True

    def interactions(
        self, files: dict[str, RawFile], quality: Quality, max_bad: float, *, published_split: bool
    ) -> Iterator[pl.DataFrame]:
        """Rows of the .inter file, with original ids where there are mappings."""
        file = files["interactions"]
        present = header_of(file, "\t")
        optional = {name: name for name in ("rating", "timestamp") if name in present}
        columns = Columns("userID", "itemID", split="x_label" if published_split else None, **optional)
        mappings = {
            column: (files[role], _mapping(files[role], role))
            for role, column in (("item_ids", "item_id"), ("user_ids", "user_id"))
            if role in files
        }
        batches = tables(file, quality, max_bad, separator="\t")
        for batch in raw_interactions(batches, columns, file, quality, Reading(self.config.missing, mapped=())):
            yield batch.with_columns(_original(batch[column], *mapping) for column, mapping in mappings.items())

    def items(self, files: dict[str, RawFile], quality: Quality, max_bad: float) -> Iterator[RawItem]:  # noqa: ARG002
        """One bare item per number."""
        for item_id in self.item_ids(files):
            yield RawItem(item_id)

    def item_ids(self, files: dict[str, RawFile]) -> list[str]:
        """The id of each item number from 0 on, which is the id of each row of a feature file."""
        if "item_ids" in files:
            mapping = _mapping(files["item_ids"], "item_ids")
            return [mapping[number] for number in sorted(mapping, key=int)]
        file = files["interactions"]
        rows, last = 0, -1
        for batch in tables(file, Quality(), 1.0, separator="\t"):
            if "itemID" not in batch.columns:
                raise UserError(f"{file.name}: column itemID is missing; found {', '.join(batch.columns)}.")
            rows += len(batch)
            last = max(last, *batch["itemID"].cast(pl.Int64, strict=False).drop_nulls().top_k(1), -1)
        if last > SPARSE * rows:
            raise UserError(
                f"{file.name}: itemID {last:,} in {rows:,} rows is no number of a row of a feature file. Put the "
                "mapping of numbers to ids beside it as i_id_mapping.csv, or mend the file."
            )
        return [str(number) for number in range(last + 1)]


def _mapping(file: RawFile, role: str) -> dict[str, str]:
    """Number (as text) → original id."""
    separator = "\t" if len(header_of(file, "\t")) > 1 else ","
    present = header_of(file, separator)
    number = MAPPINGS[role][1]
    others = [name for name in present if name != number]
    if number not in present or len(others) != 1:
        raise UserError(
            f"{file.name}: expected two columns, {number} and the original id; found {', '.join(present)}. Leave out "
            "the others."
        )
    mapping: dict[str, str] = {}
    for batch in tables(file, Quality(), 0.0, separator=separator):
        pairs = batch.filter(batch[number].str.contains(r"^\d+$") & batch[others[0]].is_not_null())
        mapping.update(zip(pairs[number], pairs[others[0]], strict=True))
    return mapping


def _original(numbers: pl.Series, file: RawFile, mapping: dict[str, str]) -> pl.Series:
    ids = numbers.replace_strict(mapping, default=None, return_dtype=pl.String)
    if (absent := numbers.filter(ids.is_null())).len():
        raise UserError(
            f"{file.name} has no original id for number {absent[0]} ({absent.n_unique():,} numbers are absent). "
            "The mapping belongs to another .inter file; remove it to use the numbers as ids."
        )
    return ids
