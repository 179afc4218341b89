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


def test_one_size_alone_that_took_longer_than_the_start_has_no_exponent() -> None:
    costs = [measure.Cost(cpu, cpu, 100.0) for cpu in (1.0, 1.1, 2.0)]
    case = measure.growth("items", (1, 4, 16), costs, start_up=measure.Cost(1.0, 1.0, 100.0))
    assert case["time_exponent"] is None
    assert abs(case["memory_exponent"]) < 1e-9
