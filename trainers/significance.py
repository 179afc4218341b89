"""Whether one recommender is really ahead of another: paired tests over users, corrected for their number."""

from collections.abc import Mapping

import numpy as np
from scipy import stats

from trainers.evaluation import Floats

RESAMPLES = 1000
"""Bootstrap samples of the users behind each interval."""
AT_ONCE = 50
"""Samples drawn at once: memory is so many numbers per user."""
Interval = tuple[float | None, float | None]


def p_value(ours: Floats, theirs: Floats) -> float | None:
    """Two-sided paired t-test over users, each user's value the mean over the runs.

    Returns: 1 where no user differs, None for a single user.
    """
    if np.array_equal(ours, theirs):
        return 1.0
    if len(ours) < 2:
        return None
    value = float(stats.ttest_rel(ours, theirs).pvalue)
    return value if np.isfinite(value) else None


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """The p values corrected for their number, so that of all that are below 0.05 none is by chance in 95 % of cases.

    The i-th smallest of m is multiplied by m - i + 1, and none is below a smaller one. None stays, and does not count.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    tested = sorted((value, name) for name, value in p_values.items() if value is not None)
    corrected: dict[str, float | None] = dict(p_values)
    largest = 0.0
    for rank, (value, name) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * value))
        corrected[name] = largest
    return corrected


def interval(values: Floats) -> Interval:
    """The 95 % interval of the mean, by bootstrap over users; None for a single user."""
    return _bootstrap((values,), lambda sample, axis: sample.mean(axis=axis))


def ahead(ours: Floats, theirs: Floats) -> tuple[float | None, float | None, float | None]:
    """How far our mean is ahead of theirs, as a share of theirs, and the 95 % interval by bootstrap over users.

    Both means are taken over the same users of each sample. None where their mean is 0, an interval also for a single
    user.
    """
    if not theirs.any():
        return None, None, None
    share = float(ours.mean() / theirs.mean() - 1)
    if np.array_equal(ours, theirs):
        return share, 0.0, 0.0
    return share, *_bootstrap((ours, theirs), lambda a, b, axis: a.mean(axis=axis) / b.mean(axis=axis) - 1)


def _bootstrap(samples: tuple[Floats, ...], statistic: object) -> Interval:
    if len(samples[0]) < 2:
        return None, None
    with np.errstate(divide="ignore", invalid="ignore"):  # a sample of few users may have no hit at all
        found = stats.bootstrap(
            samples,
            statistic,
            paired=True,
            vectorized=True,
            method="percentile",
            n_resamples=RESAMPLES,
            batch=AT_ONCE,
            rng=0,
        )
    low, high = map(float, found.confidence_interval)
    return (low, high) if np.isfinite([low, high]).all() else (None, None)
