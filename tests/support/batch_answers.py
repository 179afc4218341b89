"""What a server answers to the files of an OpenAI batch, as the batch writes it."""

import json
from pathlib import Path
from typing import Any

import httpx

from schemas.encoders import ServedSpec


def answered(url: str, spec: ServedSpec, files: list[Path], **changes: Any) -> Path:
    """The answers of the spec's server to the files' requests, all to `url`, the last first; `changes` are of the first
    line."""
    rows = []
    for line in (line for path in files for line in path.read_text().splitlines()):
        asked = json.loads(line)
        assert (asked["method"], asked["url"]) == ("POST", url)
        response = httpx.post(spec.base_url.removesuffix("/v1") + asked["url"], json=asked["body"], timeout=60)
        given = {"status_code": response.status_code, "body": response.json()}
        rows.append({"custom_id": asked["custom_id"], "response": given, "error": None})
    rows[0] |= changes
    path = files[0].parent / "answers.txt"
    path.write_text("\n".join(map(json.dumps, rows[::-1])))
    return path
