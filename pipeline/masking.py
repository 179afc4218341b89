"""No text for a person contains a secret: not an error, a state, a log line, an alert or a table's reason."""

import base64
import json
import os
import re
from collections.abc import Iterable
from urllib.parse import quote

MASK = "***"
_SECRET = re.compile(r"(KEY|TOKEN|PASSWORD|SECRET|AUTH_STRING)$")
"""Ends of the names of environment variables whose values are secrets."""
_SHORTEST = 8
"""A shorter value of such a variable could be a part of ordinary words; characters."""


def secrets() -> list[str]:
    """Values of the environment's variables that hold secrets."""
    return [value for name, value in os.environ.items() if _SECRET.search(name) and len(value) >= _SHORTEST]


def masked(text: str, secret_values: Iterable[str] | None = None) -> str:
    """`text` with every secret replaced, also where it was escaped for a URL or JSON, or is in base64.

    Args:
        secret_values: default: those of the environment.
    """
    values = secrets() if secret_values is None else secret_values
    for value in sorted(filter(None, values), key=len, reverse=True):
        encoded = base64.b64encode(value.encode("utf-8", "surrogateescape")).decode()
        for form in (value, json.dumps(value)[1:-1], quote(value, safe="", errors="replace"), encoded):
            if form in text:
                text = text.replace(form, MASK)
    return text
