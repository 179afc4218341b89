"""Captions by an OpenAI-compatible server (vLLM, Ollama, llama.cpp, `transformers serve`, a hosted one).

The number of requests in flight is bounded. Transient failures are tried again after growing, jittered pauses. If the
server says when to come back (`Retry-After`, `x-ratelimit-*`), all requests wait until then.
"""

import asyncio
import base64
import json
import logging
import os
import time
from collections.abc import Sequence
from typing import Any

import openai
import stamina

from pipeline.captions.rate_limit import RateLimit, requested_pause
from pipeline.captions.verdict import AGAIN
from pipeline.encoders.base import Answer, Fingerprint
from pipeline.masking import masked
from schemas.encoders import CaptionSpec
from schemas.errors import UserError

logger = logging.getLogger(__name__)

LONGEST_PAUSE = 60.0
"""Seconds between two attempts, unless the server asks for more."""
FATAL = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
"""Errors that every other picture would meet too: the run stops."""
TRANSIENT = (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError, openai.ConflictError)
NO_KEY = "none"
"""Sent where no key is set: local servers ask for none, and the client refuses to work without one."""
_UNREACHABLE = "unreachable: "
"""How the text of a failed answer begins if no request reached the server."""


class MalformedAnswerError(Exception):
    """The server answered with status 200, but not with a chat completion."""


class EndpointCaptioner:
    """A `Captioner` that asks a server. Every call of `caption` opens and closes its own connections."""

    def __init__(self, spec: CaptionSpec, identity: Fingerprint) -> None:
        self.fingerprint = identity
        self.batch_size = spec.batch_size
        self._spec = spec
        self._key = (os.environ.get(spec.api_key_variable) or "").strip() or NO_KEY
        if not self._key.isascii():
            raise UserError(
                f"${spec.api_key_variable} contains characters that no key has, e.g. a typographic quote; set it again."
            )
        self._limit = RateLimit()
        # An allowed server must not pass the pictures on to another one.
        self._options: dict[str, Any] = {"base_url": spec.base_url, "api_key": self._key, "max_retries": 0}
        self._check()

    def caption(self, images: Sequence[bytes], *, again: bool = False) -> list[Answer]:
        """Ask for every picture, with at most `batch_size` requests in flight.

        Raises:
            UserError: the server refuses the key or does not have the model, or not one request could reach it.
        """
        answers = asyncio.run(self._caption_all(images, again))
        if answers and all(answer.failed and answer.text.startswith(_UNREACHABLE) for answer in answers):
            raise UserError(
                f"The captioning endpoint {self._spec.base_url} could not be reached for any of {len(answers)} "
                f"pictures, each tried {self._spec.attempts} times: {answers[0].text}. Finished captions are kept; "
                "start the server and run again."
            )
        return answers

    def _check(self) -> None:
        """Ask for the list of models before the first picture. Lists may be incomplete: a missing model is only logged.

        Raises:
            UserError: there is no answer, or the key is refused.
        """
        http = openai.DefaultHttpxClient(follow_redirects=False)
        try:
            with openai.OpenAI(**self._options, timeout=min(self._spec.timeout, 30), http_client=http) as client:
                listed = {model.id for model in client.models.list().data}
        except openai.APIConnectionError as error:
            reason = self._masked(error.__cause__ or error)
            raise UserError(
                f"No OpenAI-compatible server answers at {self._spec.base_url} ({reason}). Start it, "
                "or mend base_url, which ends in /v1 for most servers."
            ) from error
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise self._refused(error) from None  # its text may contain the key
        except (openai.APIError, ValueError, TypeError, AttributeError):
            return
        if listed and self._spec.model not in listed:
            names = self._masked(sorted(listed)[:10])
            logger.warning("%s lists %s, not %s", self._spec.base_url, names, self._spec.model)

    def _masked(self, text: object) -> str:
        """What the server said, without the key, which a server may quote."""
        return masked(str(text), [self._key] if self._key != NO_KEY else [])

    def _refused(self, error: openai.APIStatusError) -> UserError:
        return UserError(
            f"{self._spec.base_url} refused the request for {self._spec.model!r}: {error.status_code} "
            f"{self._masked(error.message):.200}. The key is read from ${self._spec.api_key_variable}; check it and "
            "the model's name."
        )

    async def _caption_all(self, images: Sequence[bytes], again: bool) -> list[Answer]:
        places = asyncio.Semaphore(self._spec.batch_size)
        http = openai.DefaultAsyncHttpxClient(follow_redirects=False)
        async with openai.AsyncOpenAI(**self._options, timeout=self._spec.timeout, http_client=http) as client:
            tasks = [asyncio.create_task(self._caption_one(client, places, image, again)) for image in images]
            try:
                return await asyncio.gather(*tasks)
            except FATAL as error:
                raise self._refused(error) from None  # its text may contain the key
            finally:
                for task in tasks:
                    task.cancel()

    async def _caption_one(
        self, client: openai.AsyncOpenAI, places: asyncio.Semaphore, image: bytes, again: bool
    ) -> Answer:
        async with places:
            try:
                async for attempt in stamina.retry_context(
                    on=self._next_pause,
                    attempts=self._spec.attempts,
                    timeout=None,
                    wait_max=LONGEST_PAUSE,
                    wait_jitter=0.3,
                ):
                    with attempt:
                        await self._limit.wait()
                        answer = await self._request(client, image, again)
                        return answer.model_copy(update={"text": self._masked(answer.text)})
            except openai.APIConnectionError as error:
                return Answer(text=f"{_UNREACHABLE}{self._masked(error.__cause__ or error)}", failed=True)
            except FATAL:
                raise
            except (openai.APIError, MalformedAnswerError) as error:
                return Answer(text=self._masked(f"{type(error).__name__}: {error}"), failed=True)
        raise AssertionError("a retry context returns or raises")

    def _next_pause(self, error: Exception) -> bool | float:
        """Whether to try again, or the number of seconds after which the server allows it."""
        if isinstance(error, MalformedAnswerError):
            return True
        if not isinstance(error, TRANSIENT):
            return False
        if isinstance(error, openai.APIStatusError) and (pause := requested_pause(error.response.headers)) is not None:
            self._limit.close_for(pause)
            return pause
        return True

    async def _request(self, client: openai.AsyncOpenAI, image: bytes, again: bool) -> Answer:
        started = time.monotonic()
        try:
            response = await client.chat.completions.with_raw_response.create(
                model=self._spec.model,
                messages=self._messages(image, again),
                max_tokens=self._spec.max_new_tokens,
                temperature=0.0,
                seed=0,
            )
            self._limit.heed(response.headers)
            return _answer(json.loads(response.content), time.monotonic() - started)
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise MalformedAnswerError(f"no chat completion: {type(error).__name__}: {error}") from error

    def _messages(self, image: bytes, again: bool) -> Any:
        prompt = f"{self._spec.prompt} {AGAIN}" if again else self._spec.prompt
        url = f"data:image/jpeg;base64,{base64.b64encode(image).decode()}"
        user = {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": prompt}],
        }
        return [{"role": "system", "content": self._spec.system}, user] if self._spec.system else [user]


def _answer(body: Any, seconds: float) -> Answer:
    choice = body["choices"][0]
    usage = body.get("usage") or {}
    return Answer(
        text=(choice["message"].get("content") or "").strip(),
        cut=choice.get("finish_reason") == "length",
        tokens_in=usage.get("prompt_tokens") or 0,
        tokens_out=usage.get("completion_tokens") or 0,
        seconds=seconds,
    )
