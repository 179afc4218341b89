"""Vectors by a server with OpenAI's `/v1/embeddings` (TEI, Infinity, vLLM, Ollama, a hosted one).

Texts go several to a request, as `input`. A picture is a request of its own, as the `messages` that vLLM takes there.
"""

import base64
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import torch
from PIL import Image

from pipeline.encoders.base import Embedded, Fingerprint, finish
from pipeline.endpoints.client import Endpoint, NoAnswer, Question, is_model
from schemas.encoders import EncoderSpec
from schemas.errors import UserError

TEXTS_PER_REQUEST = 32
REQUESTS_AT_ONCE = 8

Answer = tuple[list[np.ndarray], int]
"""The vectors of one request's contents, in their order and of any width; and the tokens that were read."""


class EndpointEncoder:
    """A `ServedEncoder`. It is asked for one vector before the first content: by it the width is known."""

    def __init__(self, spec: EncoderSpec, _folder: Path | None, identity: Fingerprint) -> None:
        self.fingerprint = identity
        self._spec = spec
        self._endpoint = Endpoint(spec, "list of embeddings")
        self._width = 0
        probe = self._answers([["a" if spec.modality == "text" else _blank()]])[0]
        if isinstance(probe, NoAnswer):
            raise UserError(
                f"{spec.base_url} gives no vector of {spec.model!r}: {probe.reason:.300}. Check that the server's "
                f"model is one for embeddings and reads {'texts' if spec.modality == 'text' else 'pictures'}."
            )
        self._width = len(probe[0][0])
        if not self._width:
            raise UserError(
                f"{spec.base_url} gives vectors of 0 numbers of {spec.model!r}. Check that the server's model is one "
                "for embeddings."
            )
        self.dim = min(self._width, spec.truncate_dim or self._width)

    def embed(self, contents: Sequence[str | bytes]) -> Embedded:
        """A vector or a reason for every content. A request that the server refuses is asked again in halves, so that
        one content refused costs no other its vector.

        Raises:
            UserError: the server refuses the key, answers with another model, or is not reached by one request.
        """
        rows: dict[int, np.ndarray] = {}
        reasons: dict[int, str] = {}
        tokens = 0
        size = (self._spec.batch_size or TEXTS_PER_REQUEST) if self._spec.modality == "text" else 1
        waiting = [list(range(len(contents))[start : start + size]) for start in range(0, len(contents), size)]
        while waiting:
            asked, waiting = waiting, []
            for batch, answer in zip(asked, self._answers([[contents[i] for i in b] for b in asked]), strict=True):
                if not isinstance(answer, NoAnswer):
                    vectors, used = answer
                    tokens += used
                    for place, vector in zip(batch, vectors, strict=True):
                        if reason := fault(vector, self._width):
                            reasons[place] = reason
                        else:
                            rows[place] = vector
                elif answer.refused and len(batch) > 1:
                    half = len(batch) // 2
                    waiting += [batch[:half], batch[half:]]
                else:
                    reasons |= dict.fromkeys(batch, answer.reason)
        places = sorted(rows)
        stacked = torch.from_numpy(np.array([rows[place] for place in places], np.float32).reshape(-1, self._width))
        vectors_ = finish(stacked, normalize=self._spec.normalize, truncate_dim=self._spec.truncate_dim)
        return Embedded(places, vectors_, reasons, tokens)

    def _answers(self, batches: Sequence[Sequence[str | bytes]]) -> list[Answer | NoAnswer]:
        questions = [Question(partial(self._send, batch), partial(self._read, len(batch))) for batch in batches]
        return self._endpoint.ask(questions, "requests", at_once=REQUESTS_AT_ONCE)

    async def _send(self, contents: Sequence[str | bytes], client: openai.AsyncOpenAI) -> httpx.Response:
        return await client.post("/embeddings", cast_to=httpx.Response, body=request(self._spec, contents))

    def _read(self, count: int, body: Any, _seconds: float) -> Answer:
        name = body.get("model") or self._spec.model
        if not is_model(name, self._spec.model):
            raise UserError(
                f"{self._spec.base_url} was asked for the model {self._spec.model!r} and answered with "
                f"{self._endpoint.masked(name):.100}. Start the server with that model, or name the one that it has."
            )
        return answer(body, count)


def request(spec: EncoderSpec, contents: Sequence[str | bytes]) -> dict[str, Any]:
    """The body of a request for the vectors of some texts, or of one JPEG."""
    body: dict[str, Any] = {"model": spec.model, "encoding_format": "float"}
    if spec.modality == "text":
        return body | {"input": [spec.prompt + str(text) for text in contents]}
    [picture] = contents
    assert isinstance(picture, bytes)
    url = f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
    content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}}]
    if spec.prompt:
        content.append({"type": "text", "text": spec.prompt})
    return body | {"messages": [{"role": "user", "content": content}]}


def answer(body: Any, count: int) -> Answer:
    """The vectors by their `index`: a server may answer in any order. Raises what `pipeline.endpoints.client.MALFORMED`
    lists for another form."""
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, which is a reason
        by_index = {row["index"]: np.asarray(row["embedding"], np.float32) for row in body["data"]}
    if sorted(by_index) != list(range(count)) or any(vector.ndim != 1 for vector in by_index.values()):
        raise ValueError(f"expected a vector for each index from 0 to {count - 1}, found {sorted(by_index)[:40]}")
    return [by_index[i] for i in range(count)], int((body.get("usage") or {}).get("prompt_tokens") or 0)


def fault(vector: np.ndarray, width: int) -> str:
    """Why a vector cannot be kept, where the first had `width` numbers; empty if it can."""
    if vector.shape != (width,):
        return f"the server gave {vector.size} numbers, where it had given {width}"
    if not width:
        return "the server gave a vector of 0 numbers"
    return "" if np.isfinite(vector).all() else "the server gave NaN or infinity"


def _blank() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "JPEG")
    return out.getvalue()
