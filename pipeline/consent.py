"""What the operator of this machine allows, whoever asks for a run: set in the environment, never in parameters.

- CM3_ALLOWED_ENDPOINTS: servers that may be asked for captions, and so be sent pictures and a key.
- CM3_TRUST_REMOTE_CODE: models whose own Python code may run.
"""

import os
from urllib.parse import urlsplit

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
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    if parts.scheme not in ("http", "https") or not host or parts.username is not None or not url.isprintable():
        raise UserError(
            "base_url: expected http://HOST:PORT/v1 or https://HOST/v1, without a login; found something else. Give "
            "the key by the environment variable that api_key_variable names."
        )
    host = f"[{host}]" if ":" in host else host
    names = {f"{host}:*", f"{host}:{port or {'http': 80, 'https': 443}[parts.scheme]}"}
    if parts.scheme == "https" and port in (None, 443):
        names.add(host)
    if names.isdisjoint(name.lower() for name in allowed):
        raise UserError(
            f"base_url {url}: the operator does not allow this server, which would be sent the pictures and the key; "
            f"allowed: {', '.join(allowed) or 'none'}. To allow it, put {host}{f':{port}' if port else ''} into "
            f"{ENDPOINTS} (HOST for https, HOST:PORT or HOST:*; separated by commas) where the flows run."
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
