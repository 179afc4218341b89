"""What a race says of its contestants."""

import sys

import numpy as np

from benchmarks import measure

LARGE = 400


def test_a_contestant_is_not_charged_with_what_the_race_itself_took_before() -> None:
    own = [sys.executable, "-c", "print(0)"]
    before = measure.spawn(own).rss
    taken = np.ones(LARGE << 17)
    del taken
    assert measure.peak_memory() > LARGE
    assert measure.spawn(own).rss < before + LARGE / 4
