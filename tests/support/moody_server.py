"""An OpenAI-compatible server on loopback that misbehaves as a list of moods says."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from schemas.encoders import CaptionSpec


def good(text: str = "a red mug") -> dict[str, Any]:
    usage = {"prompt_tokens": 70, "completion_tokens": 4}
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": usage}


class Moody(ThreadingHTTPServer):
    """Answers each request as the next mood says, in order of arrival; after the last mood, always well.

    Attributes:
        arrivals: when each request arrived, by the monotonic clock.
        most_inside: the most requests that were in flight at the same time.
    """

    def __init__(self, *moods: Callable[[BaseHTTPRequestHandler], None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.moods = list(moods)
        self.lock = threading.Lock()
        self.arrivals: list[float] = []
        self.inside = self.most_inside = 0
        self.released = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def spec(self, **options: Any) -> CaptionSpec:
        url = f"http://127.0.0.1:{self.server_port}/v1"
        return CaptionSpec(kind="endpoint", model="moody", base_url=url, **({"timeout": 20.0, "attempts": 4} | options))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Moody

    def do_GET(self) -> None:
        reply({"data": [{"id": "moody", "object": "model"}], "object": "list"})(self)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        with self.server.lock:
            self.server.arrivals.append(time.monotonic())
            self.server.inside += 1
            self.server.most_inside = max(self.server.most_inside, self.server.inside)
            mood = self.server.moods.pop(0) if self.server.moods else reply(good())
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
