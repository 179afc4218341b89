"""Seeded JPEGs with the spectrum of photographs, about 70 KB each, and a loopback server for them.

`python -m benchmarks.pictures FOLDER` serves `/<n>.jpg` for any n over http and https and prints one JSON line with
both base URLs. Each answer ends in its own number after the JPEG's end marker, so no two have equal bytes.
"""

import asyncio
import contextlib
import json
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import trustme
from PIL import Image

COUNT = 120
SIDES = (480, 720)
QUALITY = 70


def draw(folder: Path) -> None:
    """Write the pictures once: noise with a photograph's spectrum, 480 to 720 pixels a side, 40 to 110 KB each."""
    random = np.random.default_rng(20260901)
    for number in range(COUNT):
        path = folder / f"{number}.jpg"
        if not path.exists():
            width, height = (int(side) for side in random.integers(*SIDES, size=2))
            _texture(random, width, height).save(path, "JPEG", quality=QUALITY)


def _texture(random: np.random.Generator, width: int, height: int) -> Image.Image:
    """Amplitude falls as 1 / frequency^1.1, as in natural scenes, with correlated colour channels."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = 1.0
    grey, *colours = (
        np.fft.irfft2(
            (random.normal(size=frequency.shape) + 1j * random.normal(size=frequency.shape)) / frequency**1.1,
            (height, width),
        )
        for _ in range(4)
    )
    planes = np.stack([grey + 0.5 * colour for colour in colours], axis=-1)
    planes = (planes - planes.min()) / (planes.max() - planes.min()) * 255
    return Image.fromarray(planes.astype(np.uint8))


@contextlib.contextmanager
def served(folder: Path) -> Iterator[dict[str, str]]:
    """Start the server; yields {"http": base URL, "https": base URL}. Its certificate's authority is `ca.pem`."""
    command = [sys.executable, "-m", "benchmarks.pictures", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


class Answers(asyncio.Protocol):
    """Keep-alive HTTP/1.1: one complete answer per request, from memory.

    Args:
        find: path without its leading slash → body; None: 404.
    """

    def __init__(self, find: Callable[[str], bytes | None]) -> None:
        self._find = find
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, self._received = self._received.split(b"\r\n\r\n", 1)
            method, path, _ = head.split(b" ", 2)
            body = self._find(path.decode().removeprefix("/"))
            status, length = (b"404 Not Found", 0) if body is None else (b"200 OK", len(body))
            sent = b"" if body is None or method == b"HEAD" else body
            self._transport.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, length, sent))


async def _serve(folder: Path) -> None:
    draw(folder)
    pictures = [(folder / f"{number}.jpg").read_bytes() for number in range(COUNT)]
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    def find(name: str) -> bytes:
        return pictures[int(name.partition(".")[0]) % len(pictures)] + name.encode()

    loop = asyncio.get_running_loop()
    bases = {}
    for scheme, tls in (("http", None), ("https", context)):
        server = await loop.create_server(lambda: Answers(find), "127.0.0.1", 0, ssl=tls)
        bases[scheme] = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    print(json.dumps(bases), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
