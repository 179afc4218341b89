"""Serves a folder over loopback HTTP, so that the demo's pictures are downloaded like any catalogue's."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


@contextmanager
def serve(folder: Path, port: int = 0) -> Iterator[str]:
    """Serve the files under `folder` on 127.0.0.1 until the block ends.

    Args:
        port: used where it is free, so that URLs stay the same from run to run; another one otherwise.

    Yields:
        The base URL without a trailing slash, e.g. "http://127.0.0.1:43121"; `<base>/images/D0001.jpg` is a picture.

    Raises:
        NotADirectoryError: `folder` is not one.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder that could be served")
    handler = partial(_Handler, directory=str(folder))
    try:
        server = _Server(("127.0.0.1", port), handler)
    except OSError:  # taken
        server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # an idle keep-alive connection must not hold up the end of the run
    request_queue_size = 128  # the downloader opens many connections at once


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30  # seconds an idle keep-alive connection keeps its thread

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)
