"""What identifies a captioner."""

from typing import get_args

import pytest

from pipeline.captions import load
from schemas.encoders import CaptionSpec


def test_every_kind_of_captioner_has_a_code_version() -> None:
    assert set(load.CODE) == set(get_args(CaptionSpec.model_fields["kind"].annotation))


def test_an_endpoints_captions_are_identified_by_what_decides_its_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CM3_ALLOWED_ENDPOINTS", "127.0.0.1:*, other.example:80")
    spec = CaptionSpec(kind="endpoint", model="owner/name", revision="1", base_url="http://127.0.0.1:9/v1")
    key = load.fingerprint(spec).key()
    for same in ({"base_url": "http://other.example/v1"}, {"timeout": 1.0}, {"batch_size": 2}, {"price_in": 3.0}):
        assert load.fingerprint(spec.model_copy(update=same)).key() == key
    for other in ({"model": "owner/other"}, {"revision": "2"}, {"prompt": "Describe it."}, {"max_words": 5}):
        assert load.fingerprint(spec.model_copy(update=other)).key() != key
