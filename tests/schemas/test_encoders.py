"""A spec names a model that cannot change unseen, or is refused before any work."""

import pytest
from pydantic import ValidationError

from schemas.encoders import PRESETS, CaptionSpec, EncoderSpec


def test_a_hub_model_without_its_commit_is_refused() -> None:
    with pytest.raises(ValidationError, match="40 hex digits, found 'main'"):
        EncoderSpec(kind="timm", model="timm/lite0", revision="main")


@pytest.mark.parametrize("model", ["offline:minilm", "./models/mine", "/models/mine"])
def test_a_revision_of_what_has_none_is_refused(model: str) -> None:
    with pytest.raises(ValidationError, match="has none but its own weights"):
        EncoderSpec(kind="sentence", model=model, revision="deadbeef")


def test_an_endpoints_model_needs_no_commit_but_a_hub_models_does() -> None:
    assert CaptionSpec(kind="endpoint", model="owner/name", base_url="http://127.0.0.1:9/v1", revision="2026-11")
    with pytest.raises(ValidationError, match="must be a hub commit"):
        CaptionSpec(kind="transformers", model="owner/name", revision="2026-11")


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValidationError, match="Input should be 'sentence', "):
        EncoderSpec.model_validate({"kind": "word2vec", "model": "offline:minilm"})


@pytest.mark.parametrize("preset", ["default", "offline"])
def test_no_preset_trusts_code_and_every_hub_model_is_pinned(preset: str) -> None:
    for spec in [*PRESETS[preset].encoders.values(), PRESETS[preset].captioner]:
        assert not spec.trust_remote_code
        assert spec.model.startswith("offline:") or len(spec.revision) == 40
    assert set(PRESETS[preset].encoders) == {"sentence", "clip", "vision", "caption"}
