"""What ingest could not use or repaired, counted by file and rule, with the first examples of each."""

import pyarrow as pa

from schemas.tables import QUALITY

EXAMPLES = 3
"""Example ids or lines kept of each rule."""


class Quality:
    """Counts by file and rule, with the first few examples of each."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, str], tuple[int, list[str]]] = {}

    def add(self, source: str, rule: str, action: str, count: int = 1, examples: tuple[str, ...] = ()) -> None:
        """Add `count` (0 is ignored) to a rule; `action` is "dropped", "repaired" or "kept"."""
        if count:
            total, shown = self._rows.get((source, rule, action), (0, []))
            shown.extend(examples[: EXAMPLES - len(shown)])
            self._rows[source, rule, action] = (total + count, shown)

    def count(self, rule: str) -> int:
        """Rows counted under a rule, over all files."""
        return sum(count for (_, name, _), (count, _) in self._rows.items() if name == rule)

    def table(self) -> pa.Table:
        """As `schemas.tables.QUALITY`, in the order the rules first applied."""
        rows = [
            {"source": source, "rule": rule, "action": action, "count": count, "examples": examples}
            for (source, rule, action), (count, examples) in self._rows.items()
        ]
        return pa.Table.from_pylist(rows, schema=QUALITY)
