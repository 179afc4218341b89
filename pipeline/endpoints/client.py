"""Requests to an OpenAI-compatible server (vLLM, Ollama, llama.cpp, `transformers serve`, a hosted one).

The number of requests in flight is bounded. Transient failures are tried again after growing, jittered pauses. If the
server says when to come back (`Retry-After`, `x-ratelimit-*`), all requests wait until then.
"""

import asyncio
import codecs
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx
import openai
import stamina
from pydantic_core import from_json

from pipeline.endpoints.rate_limit import RateLimit, requested_pause
from pipeline.masking import masked
from schemas.encoders import ServedSpec
from schemas.errors import UserError

logger = logging.getLogger(__name__)

T = TypeVar("T")

LONGEST_PAUSE = 60.0
"""Seconds between two attempts, unless the server asks for more."""
FATAL = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
"""Errors that every other request would meet too: the run stops."""
TRANSIENT = (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError, openai.ConflictError)
NO_KEY = "none"
"""Sent where no key is set: local servers ask for none, and the client refuses to work without one."""
VERSION = r"([-:@](latest|v?\d[\d.-]*))?"
"""What a server may add to the name of the model that was asked for: `text-embedding-ada-002-v2`, `bge-m3:latest`."""
MALFORMED = (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError)
"""What reading an answer raises that is not JSON, or not of the form expected."""


class MalformedAnswerError(Exception):
    """The server answered with status 200, but not with what was asked for."""


@dataclass(frozen=True)
class Question(Generic[T]):
    """One request, and how its answer is read.

    Attributes:
        send: sends it; the response has `headers` and `content`.
        read: from the answer's JSON, and the seconds that it took, to the result; raises one of `MALFORMED` for another
            form.
    """

    send: Callable[[openai.AsyncOpenAI], Awaitable[Any]]
    read: Callable[[Any, float], T]


@dataclass(frozen=True)
class NoAnswer:
    """Why a question has no answer after the last attempt.

    Attributes:
        reached: whether a request reached the server.
        refused: whether the server refused the content, so that trying again would give the same.
    """

    reason: str
    reached: bool = True
    refused: bool = False


class Endpoint:
    """A server that answers, checked when it is made. Every call of `ask` opens and closes its own connections.

    Args:
        answers: what it is asked for, e.g. "chat completion".

    Raises:
        UserError: there is no answer, or the key is refused.
    """

    def __init__(self, spec: ServedSpec, answers: str) -> None:
        self._spec = spec
        self._answers = answers
        self._key = (os.environ.get(spec.api_key_variable) or "").strip() or NO_KEY
        if not self._key.isascii():
            raise UserError(
                f"${spec.api_key_variable} contains characters that no key has, e.g. a typographic quote; set it again."
            )
        self._limit = RateLimit()
        # An allowed server must not pass the contents on to another one.
        self._options: dict[str, Any] = {"base_url": spec.base_url, "api_key": self._key, "max_retries": 0}
        self._options["default_headers"] = {"Accept-Encoding": "identity"}  # a packed answer may grow a thousandfold
        self._check()

    def ask(self, questions: Sequence[Question[T]], contents: str, *, at_once: int) -> list[T | NoAnswer]:
        """One answer per question, in the order given.

        Args:
            contents: what the questions are about, in plural, for messages.
            at_once: the most requests in flight.

        Raises:
            UserError: the server refuses the key or does not have the model, or not one request could reach it.
        """
        answers = asyncio.run(self._ask_all(questions, at_once))
        if answers and all(isinstance(answer, NoAnswer) and not answer.reached for answer in answers):
            assert isinstance(answers[0], NoAnswer)
            raise UserError(
                f"The endpoint {self._spec.base_url} could not be reached for any of {len(answers)} {contents}, each "
                f"tried {self._spec.attempts} times: {answers[0].reason}. What is finished is kept; start the server "
                "and run again."
            )
        return answers

    def masked(self, text: object) -> str:
        """What the server said, without the key, which a server may quote, and as a table can store it."""
        # A lone surrogate is legal in JSON's escapes but not in UTF-8.
        said = str(text).encode(errors="replace").decode()
        return masked(said, [self._key] if self._key != NO_KEY else [])

    def _check(self) -> None:
        """Ask for the list of models before the first content. Lists may be incomplete: a missing model is only logged.

        Raises:
            UserError: there is no answer, or the key is refused.
        """
        http = openai.DefaultHttpxClient(follow_redirects=False, event_hooks={"response": [_refuse_packed]})
        try:
            with openai.OpenAI(**self._options, timeout=min(self._spec.timeout, 30), http_client=http) as client:
                listed = {model.id for model in client.models.list().data}
        except openai.APIConnectionError as error:
            reason = self.masked(error.__cause__ or error)
            raise UserError(
                f"No OpenAI-compatible server answers at {self._spec.base_url} ({reason}). Start it, "
                "or mend base_url, which ends in /v1 for most servers."
            ) from error
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise self._refused(error) from None  # its text may contain the key
        except (openai.APIError, ValueError, TypeError, AttributeError):
            return
        if listed and self._spec.model not in listed:
            names = self.masked(sorted(listed)[:10])
            logger.warning("%s lists %s, not %s", self._spec.base_url, names, self._spec.model)

    def _refused(self, error: openai.APIStatusError) -> UserError:
        return UserError(
            f"{self._spec.base_url} refused the request for {self._spec.model!r}: {error.status_code} "
            f"{self.masked(error.message):.200}. The key is read from ${self._spec.api_key_variable}; check it and "
            "the model's name."
        )

    async def _ask_all(self, questions: Sequence[Question[T]], at_once: int) -> list[T | NoAnswer]:
        places = asyncio.Semaphore(at_once)

        async def refuse_packed(answer: httpx.Response) -> None:
            _refuse_packed(answer)

        http = openai.DefaultAsyncHttpxClient(follow_redirects=False, event_hooks={"response": [refuse_packed]})
        async with openai.AsyncOpenAI(**self._options, timeout=self._spec.timeout, http_client=http) as client:
            tasks = [asyncio.create_task(self._ask_one(client, places, question)) for question in questions]
            try:
                answers: list[T | NoAnswer] = await asyncio.gather(*tasks)
                return answers
            except FATAL as error:
                raise self._refused(error) from None  # its text may contain the key
            finally:
                for task in tasks:
                    task.cancel()

    async def _ask_one(self, client: openai.AsyncOpenAI, places: asyncio.Semaphore, question: Question[Any]) -> Any:
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
                        return await self._request(client, question)
            except openai.APIConnectionError as error:
                return NoAnswer(f"unreachable: {self.masked(error.__cause__ or error)}", reached=False)
            except FATAL:
                raise
            except (openai.APIError, MalformedAnswerError) as error:
                refused = isinstance(error, openai.APIStatusError) and not isinstance(error, TRANSIENT)
                return NoAnswer(self.masked(f"{type(error).__name__}: {error}"), refused=refused)
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

    async def _request(self, client: openai.AsyncOpenAI, question: Question[T]) -> T:
        started = time.monotonic()
        try:
            response = await question.send(client)
            self._limit.heed(response.headers)
            answer = from_json(response.content.removeprefix(codecs.BOM_UTF8))
            return question.read(answer, time.monotonic() - started)
        except MALFORMED as error:
            raise MalformedAnswerError(f"no {self._answers}: {type(error).__name__}: {error}") from error


def is_model(said: str, asked: str) -> bool:
    """Whether a server's name for its model is the one asked for, perhaps with its version: `bge-m3:latest`."""
    return re.fullmatch(re.escape(asked) + VERSION, said) is not None


def _refuse_packed(answer: httpx.Response) -> None:
    """Before the body is read: it would be unpacked whole."""
    if (encoding := answer.headers.get("Content-Encoding", "identity").lower()) not in ("", "identity"):
        raise httpx.DecodingError(f"the answer is packed ({encoding:.20}), which was not asked for")
