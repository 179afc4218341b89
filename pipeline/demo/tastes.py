"""Users with planted tastes: each likes some kinds, colours, patterns and brands, and chooses accordingly."""

import math
import random
from typing import Any

from pipeline.demo.products import Attributes, item_id
from schemas.demo import DemoConfig

_START = 1_704_067_200  # 2024-01-01, UTC
_DAY = 86_400
_WEIGHTS = {"kind": 2.6, "colour": 2.4, "pattern": 1.8, "brand": 2.0}
"""Utility of a liked trait, relative to Gumbel noise of scale 1."""
_LIKED = {"kind": 2, "colour": 2, "pattern": 1, "brand": 1}


def choose(products: list[Attributes], config: DemoConfig) -> list[list[Any]]:
    """What every user chose: rows of user_id, item_id, rating (1 to 5), timestamp (seconds, UTC), by user then time.

    A user takes the products of largest utility, the sum of the weights of its liked traits, the product's own appeal
    and Gumbel noise: this samples without replacement from the softmax of the utilities.
    """
    random_ = random.Random(f"tastes {config.seed}")  # noqa: S311 - reproducible, not secret
    appeal = [random_.gauss(0, 0.6) for _ in products]
    options = {trait: sorted({getattr(p, trait) for p in products}) for trait in _WEIGHTS}
    rows: list[list[Any]] = []
    for user in range(config.users):
        liked = {trait: random_.sample(values, min(_LIKED[trait], len(values))) for trait, values in options.items()}
        fit = [sum(_WEIGHTS[trait] * (getattr(p, trait) in liked[trait]) for trait in _WEIGHTS) for p in products]
        utility = [f + a - math.log(random_.expovariate(1.0)) for f, a in zip(fit, appeal, strict=True)]
        count = min(len(products), 5 + round(random_.expovariate(1 / max(config.choices - 5, 0.1))))
        chosen = sorted(range(len(products)), key=lambda number: -utility[number])[:count]
        moment = _START + random_.randrange(300 * _DAY)
        for number in random_.sample(chosen, count):
            moment += random_.randrange(60, 6 * _DAY)
            rating = min(5, max(1, round(2.4 + fit[number] / 3 + random_.gauss(0, 0.6))))
            rows.append([f"U{user + 1:04d}", item_id(number), rating, moment])
    return rows
