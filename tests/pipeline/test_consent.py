"""What only the operator's environment can allow, whatever a run asks for."""

import os
import subprocess
import sys

import pytest

from pipeline import consent
from pipeline.captions import load as captions
from pipeline.encoders import load as encoders
from schemas.encoders import CaptionSpec, EncoderSpec
from schemas.errors import UserError

COMMIT = "0123456789" * 4


def endpoint(url: str) -> CaptionSpec:
    return CaptionSpec(kind="endpoint", model="m", base_url=url)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/v1", "http://localhost:8000/v1", "http://[::1]:8000/v1", "https://api.openai.com/v1"]
)
def test_without_a_list_an_endpoint_is_this_machine_or_openai(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.delenv(consent.ENDPOINTS, raising=False)
    assert captions.fingerprint(endpoint(url)).model == "m"


@pytest.mark.parametrize(
    "url",
    [
        "http://evil.example/v1",
        "http://api.openai.com/v1",
        "https://api.openai.com:8443/v1",
        "https://api.openai.com.evil.example/v1",
        "https://api.openai.com@evil.example/v1",
        "https://evil.example#@api.openai.com/v1",
        "http://127.0.0.1.evil.example/v1",
        "http://169.254.169.254/v1",
        "http://user:word@127.0.0.1:9/v1",
        "http://127.0.0.1:9\t.evil.example/v1",
        "http://[/v1",
        "http://127.0.0.1:port/v1",
        "file:///etc/passwd",
        "nothing",
    ],
)
def test_any_other_endpoint_is_refused_before_a_byte_is_sent(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.delenv(consent.ENDPOINTS, raising=False)
    with pytest.raises(UserError, match="base_url"):
        captions.fingerprint(endpoint(url))
    with pytest.raises(UserError, match="base_url"):
        captions.load(endpoint(url))


def test_the_operators_list_replaces_the_default_and_means_host_and_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(consent.ENDPOINTS, "vllm:8000, Models.example")
    consent.check_endpoint("http://vllm:8000/v1")
    consent.check_endpoint("https://models.example/v1")
    for url in ("http://vllm:8001/v1", "http://models.example/v1", "http://127.0.0.1:8000/v1"):
        with pytest.raises(UserError, match="CM3_ALLOWED_ENDPOINTS"):
            consent.check_endpoint(url)
    monkeypatch.setenv(consent.ENDPOINTS, "")
    with pytest.raises(UserError, match="allowed: none"):
        consent.check_endpoint("http://vllm:8000/v1")


def test_a_models_own_code_runs_only_if_the_operator_named_that_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = EncoderSpec(kind="sentence", model="owner/name", revision=COMMIT, trust_remote_code=True)
    for consented in (None, "", "owner/name", f"owner/other@{COMMIT}", "1", "*"):
        if consented is None:
            monkeypatch.delenv(consent.REMOTE_CODE, raising=False)
        else:
            monkeypatch.setenv(consent.REMOTE_CODE, consented)
        with pytest.raises(UserError, match=f"has not consented.*put owner/name@{COMMIT} into CM3_TRUST_REMOTE_CODE"):
            encoders.fingerprint(spec)
    monkeypatch.setenv(consent.REMOTE_CODE, f"other/one@{COMMIT}, owner/name@{COMMIT}")
    consent.check_remote_code(spec)


@pytest.mark.parametrize("address", ["http://[", "http://[::1", "hub.example", "ftp://hub.example", "https://"])
def test_an_address_of_the_hub_that_is_none_is_said_before_its_package_is_imported(address: str) -> None:
    code = (
        "from pipeline.encoders import load; from schemas.encoders import EncoderSpec; "
        "load.fingerprint(EncoderSpec(kind='sentence', model='offline:minilm'))"
    )
    environment = os.environ | {"HF_ENDPOINT": address}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"schemas.errors.UserError: HF_ENDPOINT is {address!r}, expected the address")
