"""What cannot be meant is refused before anything is read."""

from typing import Any

import pytest
from pydantic import ValidationError

from schemas.training import ComparisonConfig


@pytest.mark.parametrize(
    "wrong",
    [
        {"models": ("bpr", "bpr")},
        {"seeds": (0, 0)},
        {"overrides": {"bpr": {"seed": 1}}},
        {"overrides": {"cm3": {"evaluation": {"cutoffs": (20,)}}}},
        {"cm3": {"evaluation": {"cutoffs": (0, 20)}}},
        {"cm3": {"evaluation": {"cold_bounds": (5, 1)}}},
    ],
)
def test_a_comparison_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ComparisonConfig.model_validate(wrong)
