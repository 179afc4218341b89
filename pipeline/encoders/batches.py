"""Batches of texts of like length: padding is work thrown away."""

from collections.abc import Iterator, Sequence


def by_length(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Positions, longest first, in batches of at most `budget` tokens once padded to their longest.

    Depends on the lengths alone, so the same shard always falls into the same batches. A text longer than the budget
    is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    start = 0
    while start < len(order):
        longest = max(lengths[order[start]], 1)
        size = max(budget // longest, 1)
        yield order[start : start + size]
        start += size
