"""An OpenAI-compatible server on loopback that misbehaves as a list of moods says."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from schemas.encoders import CaptionSpec, EncoderSpec


def vector_of(text: str) -> list[float]:
    """The vector that a moody server gives of a text, or of a picture's address: decided by its length."""
    return [float(len(text)), 1.0, 2.0]


def embeddings(body: dict[str, Any]) -> dict[str, Any]:
    """A good answer to a request for embeddings, the last one first."""
    texts = body.get("input") or [body["messages"][0]["content"][0]["image_url"]["url"]]
    data = [{"object": "embedding", "index": i, "embedding": vector_of(text)} for i, text in enumerate(texts)]
    return {"data": data[::-1], "model": "moody", "usage": {"prompt_tokens": 5 * len(texts)}}


def good(text: str = "a red mug") -> dict[str, Any]:
    usage = {"prompt_tokens": 70, "completion_tokens": 4}
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": usage}


class Moody(ThreadingHTTPServer):
    """Answers each request as the next mood says, in order of arrival; after the last mood, always well.

    Attributes:
        arrivals: when each request arrived, by the monotonic clock.
        bodies: what each request asked for.
        most_inside: the most requests that were in flight at the same time.
    """

    def __init__(self, *moods: Callable[[BaseHTTPRequestHandler], None], model: str = "moody") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.moods = list(moods)
        self.model = model
        self.lock = threading.Lock()
        self.arrivals: list[float] = []
        self.bodies: list[dict[str, Any]] = []
        self.inside = self.most_inside = 0
        self.released = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def spec(self, **options: Any) -> CaptionSpec:
        return CaptionSpec(kind="endpoint", model="moody", **self._asked(options))

    def encoder(self, **options: Any) -> EncoderSpec:
        return EncoderSpec(**{"kind": "embedding-endpoint", "model": "moody"} | self._asked(options))

    def _asked(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"base_url": f"http://127.0.0.1:{self.server_port}/v1", "timeout": 20.0, "attempts": 4} | options


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Moody

    def do_GET(self) -> None:
        reply({"data": [{"id": self.server.model, "object": "model"}], "object": "list"})(self)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        wants_vectors = self.path.endswith("/embeddings")
        well = reply(embeddings(body) | {"model": self.server.model} if wants_vectors else good())
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.arrivals.append(time.monotonic())
            self.server.inside += 1
            self.server.most_inside = max(self.server.most_inside, self.server.inside)
            mood = self.server.moods.pop(0) if self.server.moods else well
        try:
            mood(self)
        finally:
            with self.server.lock:
                self.server.inside -= 1

    def log_message(self, *args: Any) -> None:
        pass


def reply(body: Any, status: int = 200, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def send(handler: BaseHTTPRequestHandler) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(data)), "Content-Type": "application/json", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return send


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.connection.close()


def say_nothing(handler: BaseHTTPRequestHandler) -> None:
    handler.server.released.wait(10)  # type: ignore[attr-defined]
    hang_up(handler)
