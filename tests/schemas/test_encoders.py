"""Parameters of encoders and captioners."""

import pytest

from schemas.encoders import CaptionSpec


def test_an_endpoints_model_needs_no_commit_but_a_hub_models_does() -> None:
    assert CaptionSpec(kind="endpoint", model="owner/name", base_url="http://127.0.0.1:9/v1", revision="2026-11")
    with pytest.raises(ValueError, match="must be a hub commit"):
        CaptionSpec(kind="transformers", model="owner/name", revision="2026-11")
