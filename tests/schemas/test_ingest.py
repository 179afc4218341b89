"""Parameters of the ingest stage are refused by name."""

import pytest
from pydantic import ValidationError

from schemas.ingest import IngestConfig


@pytest.mark.parametrize("field", [{"core_k": 0}, {"valid_share": 0.5}, {"split": "random"}, {"require": ("price",)}])
def test_wrong_ingest_parameter_is_refused(field: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as refused:
        IngestConfig(**field)
    assert refused.value.errors()[0]["loc"][0] == next(iter(field))
