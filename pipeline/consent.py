"""What the operator of this machine allows, whoever asks for a run: set in the environment, never in parameters.

- CM3_ALLOWED_ENDPOINTS: servers that may be asked for captions or vectors, and so be sent texts, pictures and a key.
- CM3_TRUST_REMOTE_CODE: models whose own Python code may run.
"""

import os
from urllib.parse import SplitResult, urlsplit

from schemas.encoders import ModelSpec
from schemas.errors import UserError

ENDPOINTS = "CM3_ALLOWED_ENDPOINTS"
DEFAULT_ENDPOINTS = ("localhost:*", "127.0.0.1:*", "[::1]:*", "api.openai.com")
"""Where CM3_ALLOWED_ENDPOINTS is not set. A name without a port means https at its usual port."""
REMOTE_CODE = "CM3_TRUST_REMOTE_CODE"


def setting(variable: str) -> tuple[str, ...] | None:
    """The comma-separated values of an environment variable; None if it is not set, empty if it allows nothing."""
    text = os.environ.get(variable)
    return None if text is None else tuple(value.strip() for value in text.split(",") if value.strip())


def check_endpoint(url: str) -> None:
    """Refuse a server that the operator did not name.

    Raises:
        UserError: it is another one, or `url` is no http(s) address of a host.
    """
    allowed = setting(ENDPOINTS)
    allowed = DEFAULT_ENDPOINTS if allowed is None else allowed
    parts = _parts(url)
    if parts is None or parts.username is not None:
        raise UserError(
            "base_url: expected http://HOST:PORT/v1 or https://HOST/v1, without a login; found something else. Give "
            "the key by the environment variable that api_key_variable names."
        )
    host, port = str(parts.hostname), parts.port
    host = f"[{host}]" if ":" in host else host
    names = {f"{host}:*", f"{host}:{port or {'http': 80, 'https': 443}[parts.scheme]}"}
    if parts.scheme == "https" and port in (None, 443):
        names.add(host)
    if names.isdisjoint(name.lower() for name in allowed):
        raise UserError(
            f"base_url {url}: the operator does not allow this server, which would be sent contents and the key; "
            f"allowed: {', '.join(allowed) or 'none'}. To allow it, put {host}{f':{port}' if port else ''} into "
            f"{ENDPOINTS} (HOST for https, HOST:PORT or HOST:*; separated by commas) where the flows run."
        )


def check_hub() -> None:
    """Refuse an address of the hub that is none: its package, which other libraries import, ends on some.

    Raises:
        UserError: HF_ENDPOINT is no http(s) address of a host.
    """
    url = os.environ.get("HF_ENDPOINT", "")
    if url and _parts(url) is None:
        raise UserError(
            f"HF_ENDPOINT is {url!r}, expected the address of a model hub such as https://huggingface.co. Mend it, or "
            "unset it."
        )


def check_remote_code(spec: ModelSpec) -> None:
    """Refuse to run a model's own code unless the operator named that model.

    Raises:
        UserError: `spec` asks for it and the environment does not consent.
    """
    name = f"{spec.model}@{spec.revision}" if spec.revision else spec.model
    if spec.trust_remote_code and name not in (setting(REMOTE_CODE) or ()):
        raise UserError(
            f"trust_remote_code: the run asks to execute Python code that comes with {name}, and the operator has not "
            f"consented. Read that code first; then put {name} into {REMOTE_CODE} (separated by commas) where the "
            "flows run."
        )


def _parts(url: str) -> SplitResult | None:
    """An http(s) address taken apart; None if it is none of a host."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises, if it is no number
    except ValueError:
        return None
    return parts if parts.scheme in ("http", "https") and parts.hostname and url.isprintable() else None
