"""A spec names a model that cannot change unseen, or is refused before any work."""

from typing import get_args

import pytest
from pydantic import ValidationError

from schemas.encoders import PRESETS, CaptionSpec, EncoderSpec
from schemas.run import FeatureParameters


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


@pytest.mark.parametrize("preset", PRESETS)
def test_no_preset_trusts_code_and_every_hub_model_is_pinned(preset: str) -> None:
    for spec in [*PRESETS[preset].encoders.values(), PRESETS[preset].captioner]:
        assert not spec.trust_remote_code
        assert spec.model.startswith("offline:") or len(spec.revision) == 40
    more = {"unified"} if preset == "unified" else set()
    assert set(PRESETS[preset].encoders) == {"sentence", "clip", "vision", "caption"} | more


def test_a_run_may_name_every_preset() -> None:
    assert get_args(FeatureParameters.model_fields["models"].annotation) == tuple(PRESETS)


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "CM3_SHOP_KEY"])
def test_a_run_may_name_a_key_made_for_endpoints(name: str) -> None:
    spec = CaptionSpec(kind="endpoint", model="m", base_url="http://127.0.0.1:9/v1", api_key_variable=name)
    assert spec.api_key_variable == name


@pytest.mark.parametrize(
    "name",
    ["AWS_SECRET_ACCESS_KEY", "PATH", "CM3__KEYS", "CM3_KEY", "XOPENAI_API_KEY", "OPENAI_API_KEY\n", "cm3_a_key", ""],
)
def test_no_run_may_choose_another_variable_of_the_machine(name: str) -> None:
    with pytest.raises(ValidationError, match="api_key_variable"):
        CaptionSpec(kind="endpoint", model="m", base_url="http://127.0.0.1:9/v1", api_key_variable=name)


@pytest.mark.parametrize("given", [{"max_tokens": 64}, {"image_size": 224}, {"dtype": "float32"}, {"batch_tokens": 64}])
def test_what_no_endpoint_is_told_is_refused(given: dict[str, object]) -> None:
    fields = {"kind": "embedding-endpoint", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    assert EncoderSpec.model_validate(fields)
    with pytest.raises(ValidationError, match=f"{next(iter(given))}: of kind 'embedding-endpoint' the server decides"):
        EncoderSpec.model_validate(fields | given)
