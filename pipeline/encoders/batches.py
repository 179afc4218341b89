"""Batches of texts of similar length: computing on padding is wasted work."""

from collections.abc import Iterator, Sequence


def by_length(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Positions, longest first, in batches of at most `budget` tokens after padding to the longest text.

    Depends only on the lengths, so the same shard always gives the same batches. A text longer than the budget is a
    batch by itself.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    start = 0
    while start < len(order):
        longest = max(lengths[order[start]], 1)
        size = max(budget // longest, 1)
        yield order[start : start + size]
        start += size
