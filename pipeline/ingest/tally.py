"""What ingest could not use or had to repair."""

import pyarrow as pa

from schemas.tables import QUALITY

EXAMPLES = 3
"""Example ids or lines per rule."""


class Quality:
    """Counts by file and rule, with the first few examples of each."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, str], tuple[int, list[str]]] = {}

    def add(self, file: str, rule: str, action: str, count: int = 1, examples: tuple[str, ...] = ()) -> None:
        """Add `count` (0 is ignored) to a rule for a file; `action` is "dropped", "repaired" or "kept"."""
        if count:
            total, first = self._rows.get((file, rule, action), (0, []))
            first.extend(examples[: EXAMPLES - len(first)])
            self._rows[file, rule, action] = (total + count, first)

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
