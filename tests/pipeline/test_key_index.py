"""Where keys lie, in a few dozen bytes each."""

import random
import tracemalloc

import pytest

from pipeline import key_index
from pipeline.key_index import KeyIndex


def test_it_answers_as_a_dictionary_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_index, "RECENT", 20)
    draw, index, expected = random.Random(3), KeyIndex(), dict[str, int]()
    for place in range(0, 600, 6):
        keys = [str(draw.randrange(300)) for _ in range(6)]
        index.update(keys, place)
        expected.update(zip(keys, range(place, place + 6), strict=True))
        wanted = [str(number) for number in range(310)]
        assert index.places(wanted) == [expected.get(key) for key in wanted]
        if place % 120 == 0:
            assert len(index) == len(expected)
    assert KeyIndex().places(["x"]) == [None]
    assert len(KeyIndex()) == 0


def test_a_key_takes_at_most_64_bytes() -> None:
    count, index = 400_000, KeyIndex()
    tracemalloc.start()
    try:
        for first in range(0, count, 256):
            index.update([f"{number:064x}" for number in range(first, min(first + 256, count))], first)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(index) == count
    assert taken / count <= 64
