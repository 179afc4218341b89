"""Whether a column is what it is taken for: how much of it can be read."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from schemas.errors import UserError

logger = logging.getLogger(__name__)

UNREADABLE = 0.99
"""Share of a mapped column's values of which a run does not go on without: such a column is another one."""
WARNED = 0.05
"""Share of unreadable values from which on a warning is logged."""
EXAMPLES, LONGEST_EXAMPLE = 3, 40


@dataclass
class Readable:
    """What was read of one column: its values, and those that cannot be read, with the first examples."""

    values: int = 0
    unread: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, values: int, unread: int, examples: Iterable[object]) -> None:
        """Add some values."""
        self.values += values
        self.unread += unread
        if len(self.examples) < EXAMPLES:
            new = (str(value)[:LONGEST_EXAMPLE] for value in examples)
            self.examples = list(dict.fromkeys([*self.examples, *new]))[:EXAMPLES]


def judge(column: Readable, what: str, file: str, advice: str, *, is_mapped: bool) -> None:
    """Warn of a column of which much cannot be read.

    Args:
        what: its values, for the message: `times in ordered_at`.
        advice: what else to do than to name another column or to mend the file; may be empty.

    Raises:
        UserError: it is mapped, and (almost) nothing can be read.
    """
    if column.unread <= WARNED * column.values:
        return
    readable = column.values - column.unread
    message = (
        f"{file}: {f'only {readable:,}' if readable else 'none'} of {column.values:,} {what} can be read "
        f"({', '.join(column.examples)})"
    )
    if is_mapped and column.unread >= UNREADABLE * column.values:
        raise UserError(
            f"{message}. Name another column in the source's mapping,{f' {advice},' if advice else ''} or mend the "
            "file."
        )
    logger.warning("%s; the others are left out%s", message, f": {advice} if they matter" if advice else "")
