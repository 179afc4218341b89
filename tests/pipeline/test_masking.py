"""Secrets of the environment in any of the forms in which they come back."""

import base64
import json
from urllib.parse import quote

import pytest

from pipeline.masking import masked

SECRET = 'a/b+c "quoted" key'


@pytest.mark.parametrize(
    "form", [SECRET, json.dumps(SECRET), quote(SECRET, safe=""), base64.b64encode(SECRET.encode()).decode()]
)
def test_a_secret_is_masked_in_every_form(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setenv("CM3_SHOP_KEY", SECRET)
    text = masked(f"server said: Bearer {form}!")
    assert "***" in text
    assert "quoted" not in text
    assert form.strip('"') not in text


def test_ordinary_text_and_short_values_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CM3_SHOP_KEY", "red")
    assert masked("a red mug") == "a red mug"
    assert masked("a red mug", ["red"]) == "a *** mug"
