"""Negatives are uniform over the items that a user has not chosen."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.world import dataset_of
from trainers.negatives import NegativeSampler


def sampler_of(chosen: list[set[int]], items: int) -> NegativeSampler:
    pairs = [(user, item) for user, own in enumerate(chosen) for item in own]
    return NegativeSampler(dataset_of({"train": pairs}, users=len(chosen), items=items))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.sets(st.integers(0, n - 1)), min_size=1, max_size=6))
    )
)
def test_negatives_are_never_chosen_ones_and_every_other_item_can_come(case: tuple[int, list[set[int]]]) -> None:
    items, chosen = case
    sampler = sampler_of(chosen, items)
    users = np.repeat(np.arange(len(chosen)), 40 * items)
    drawn = sampler.draw(users, np.random.default_rng(0))
    for user, own in enumerate(chosen):
        others = set(range(items)) - own
        assert set(drawn[users == user].tolist()) == (others or {-1})


def test_negatives_are_uniform() -> None:
    sampler = sampler_of([{0, 3, 4, 9}, {1}], 10)
    drawn = sampler.draw(np.zeros(60_000, np.int64), np.random.default_rng(0))
    counts = np.bincount(drawn, minlength=10)[[1, 2, 5, 6, 7, 8]]
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 20.5  # χ² with 5 degrees of freedom: one draw in a thousand
