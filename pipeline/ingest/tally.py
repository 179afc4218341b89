"""What ingest could not use or had to repair."""

import pyarrow as pa

from pipeline.ingest.readable import Readable
from schemas.tables import QUALITY

EXAMPLES = 3
"""Example ids or lines per rule."""


class Quality:
    """Counts by file and rule, with the first few examples of each.

    Attributes:
        unread: our name of a column of items → the values that could not be read.
        shown: values of the column `never_shown` by which no item is marked.
    """

    def __init__(self) -> None:
        self.unread: dict[str, Readable] = {}
        self.shown = Readable()
        self._rows: dict[tuple[str, str, str], tuple[int, list[str]]] = {}

    def add(self, file: str, rule: str, action: str, count: int = 1, examples: tuple[str, ...] = ()) -> None:
        """Add `count` (0 is ignored) to a rule for a file; `action` is "dropped", "repaired" or "kept"."""
        if count:
            total, first = self._rows.get((file, rule, action), (0, []))
            first.extend(examples[: EXAMPLES - len(first)])
            self._rows[file, rule, action] = (total + count, first)

    def unreadable(self, file: str, column: str, item_id: str, value: object) -> None:
        """Count a value of an item's column that cannot be read and is left out."""
        self.add(file, f"{column}_unreadable", "repaired", 1, (item_id,))
        self.unread.setdefault(column, Readable()).add(1, 1, (value,))

    def add_examples(self, file: str, rule: str, action: str, examples: tuple[str, ...]) -> None:
        """Add examples to a rule that was counted without."""
        if (file, rule, action) in self._rows:
            first = self._rows[file, rule, action][1]
            first.extend(examples[: EXAMPLES - len(first)])

    def count(self, rule: str) -> int:
        """Rows counted under a rule, over all files."""
        return sum(count for (_, name, _), (count, _) in self._rows.items() if name == rule)

    def table(self) -> pa.Table:
        """The table `quality`, in the order in which the rules first applied."""
        rows = [
            {"source": file, "rule": rule, "action": action, "count": count, "examples": examples}
            for (file, rule, action), (count, examples) in self._rows.items()
        ]
        return pa.Table.from_pylist(rows, schema=QUALITY)
