"""Pictures that many items have: "no photo yet" in a shop's colours is a picture of none of them."""

from array import array
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from pipeline.images.kept import KeptImages
from schemas.images import ImagesConfig
from schemas.tables import ImageStatus


class SharedPictures:
    """How many items have a picture, of the pictures that at least `fewest` items have.

    A picture is the SHA-256 of its file. What many items have follows from the items and their outcomes alone, so it is
    the same after an interruption, and the next run judges anew.

    Args:
        urls: for each item the addresses of its pictures.
        items: their number.
    """

    def __init__(self, urls: Iterable[list[list[str]]], kept: KeptImages, items: int, config: ImagesConfig) -> None:
        self.items = items
        self.fewest = config.placeholder_items
        self._share = config.placeholder_share
        digests = array("Q")  # 8 bytes for each picture of an item
        for batch in urls:
            for mine in _digests(batch, kept):
                digests.extend(mine)
        values, counts = np.unique(np.frombuffer(digests, np.uint64), return_counts=True)
        many = counts >= self.fewest
        self._items_with = dict(zip(values[many].tolist(), counts[many].tolist(), strict=True))

    def items_with(self, sha256: str | None) -> int:
        """The items that have a picture, if many have it; else 0."""
        return self._items_with.get(_number(sha256), 0) if sha256 else 0

    def with_placeholders(self, rows: pa.Table) -> pa.Table:
        """Rows with outcomes, in which a picture of too many items is a `placeholder`, with its reason."""
        if self._share is None or not self._items_with:
            return rows
        statuses, errors = rows["status"].to_pylist(), rows["error"].to_pylist()
        for place, sha256 in enumerate(rows["sha256"].to_pylist()):
            count = self.items_with(sha256)
            if statuses[place] == ImageStatus.OK and count > self._share * self.items:
                statuses[place] = ImageStatus.PLACEHOLDER
                errors[place] = (
                    f"{count:,} of {self.items:,} items have this picture; images.placeholder_share decides from which "
                    "share on it is left out"
                )
        for name, values in (("status", statuses), ("error", errors)):
            rows = rows.set_column(rows.column_names.index(name), name, pa.array(values, pa.string()))
        return rows


def _digests(batch: list[list[str]], kept: KeptImages) -> Iterator[set[int]]:
    """For each item its readable pictures, each once."""
    outcomes = kept.outcomes.lookup([url for mine in batch for url in mine])
    pairs = zip(outcomes["status"].to_pylist(), outcomes["sha256"].to_pylist(), strict=True)
    for mine in batch:
        pictures = [next(pairs) for _ in mine]
        yield {_number(sha256) for status, sha256 in pictures if status == ImageStatus.OK}


def _number(sha256: str) -> int:
    return int(sha256[:16], 16)
