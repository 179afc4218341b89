"""Captions by an OpenAI-compatible server."""

import base64
from collections.abc import Sequence
from typing import Any

import openai

from pipeline.captions.attributes import prompt, schema
from pipeline.encoders.base import Answer, Fingerprint
from pipeline.endpoints.client import Endpoint, NoAnswer, Question
from schemas.encoders import CaptionSpec


class EndpointCaptioner:
    """A `Captioner` that asks a server."""

    def __init__(self, spec: CaptionSpec, identity: Fingerprint) -> None:
        self.fingerprint = identity
        self.batch_size = spec.batch_size
        self._spec = spec
        self._endpoint = Endpoint(spec, "chat completion")

    def caption(self, images: Sequence[bytes], *, again: bool = False) -> list[Answer]:
        """Ask for every picture, with at most `batch_size` requests in flight.

        Raises:
            UserError: the server refuses the key or does not have the model, or not one request could reach it.
        """
        questions = [self._question(image, again) for image in images]
        answers = self._endpoint.ask(questions, "pictures", at_once=self._spec.batch_size)
        return [
            Answer(text=answer.reason, failed=True)
            if isinstance(answer, NoAnswer)
            else answer.model_copy(update={"text": self._endpoint.masked(answer.text)})
            for answer in answers
        ]

    def _question(self, image: bytes, again: bool) -> Question[Answer]:
        def send(client: openai.AsyncOpenAI) -> Any:
            return client.chat.completions.with_raw_response.create(**request(self._spec, image, again=again))

        return Question(send, answer)


def request(spec: CaptionSpec, image: bytes, *, again: bool = False) -> dict[str, Any]:
    """The body of a chat completion that asks for the caption of one JPEG."""
    form: dict[str, Any] = {}
    if spec.attributes:
        wanted = {"name": "attributes", "strict": True, "schema": schema(spec.attributes)}
        form["response_format"] = {"type": "json_schema", "json_schema": wanted}
    url = f"data:image/jpeg;base64,{base64.b64encode(image).decode()}"
    words = prompt(spec, again=again)
    user = {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": words}],
    }
    return {
        "model": spec.model,
        "messages": [{"role": "system", "content": spec.system}, user] if spec.system else [user],
        "max_tokens": spec.max_new_tokens,
        "temperature": 0.0,
        "seed": 0,
    } | form


def answer(body: Any, seconds: float = 0.0) -> Answer:
    """From a chat completion's JSON; raises what `pipeline.endpoints.client.MALFORMED` lists for any other."""
    choice = body["choices"][0]
    usage = body.get("usage") or {}
    return Answer(
        text=(choice["message"].get("content") or "").strip(),
        cut=choice.get("finish_reason") == "length",
        tokens_in=usage.get("prompt_tokens") or 0,
        tokens_out=usage.get("completion_tokens") or 0,
        seconds=seconds,
    )
