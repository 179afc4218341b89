"""A real server of embeddings on loopback: sentence-transformers behind OpenAI's `/v1/embeddings`."""

import base64
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from PIL import Image
from sentence_transformers import SentenceTransformer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


@contextmanager
def serving(name: str, model: SentenceTransformer) -> Iterator[str]:
    """The server's base URL, up to and with /v1."""

    def embed(body: dict[str, Any]) -> dict[str, Any]:
        contents = body.get("input") or [_picture(body["messages"][0]["content"][0]["image_url"]["url"])]
        vectors = model.encode(contents, show_progress_bar=False)
        data = [{"object": "embedding", "index": i, "embedding": v.tolist()} for i, v in enumerate(vectors)]
        return {"object": "list", "data": data, "model": name, "usage": {"prompt_tokens": 10 * len(data)}}

    async def embeddings(request: Request) -> JSONResponse:
        return JSONResponse(embed(await request.json()))

    async def models(_: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"}]})

    routes = [Route("/v1/embeddings", embeddings, methods=["POST"]), Route("/v1/models", models)]
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), host="127.0.0.1", port=0, log_level="warning"))
    listening = server.config.bind_socket()
    listening.listen()  # so that requests that come before the server is up wait
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def _picture(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,")))).convert("RGB")
