"""Decodes in processes of its own, so that a picture costs at most a stated time and memory, whatever its format.

A decoder that runs out of time is ended by the system, within C code too; one that crashes takes nothing with it. Both
are replaced, and the picture is a row with its reason.
"""

import asyncio
import json
import signal
import socket
import subprocess
import sys
from types import TracebackType
from typing import Self, TypeAlias

import joblib

from pipeline.images import decoder
from pipeline.images.decode import Picture
from pipeline.images.outcome import PictureError
from schemas.images import ImagesConfig
from schemas.tables import ImageStatus

MOST = 16
"""Decoders; more of them decode faster than one event loop receives."""
TOGETHER = 2 << 30
"""Bytes of memory that the decoders share out among themselves, whatever their number."""
EACH = 256 << 20
"""Bytes of memory for one decoder at most: enough for pictures of some 10 million pixels in any format."""
BYTES_PER_PIXEL = 20
"""What the hungriest format takes at its peak (WebP: 16), and some room."""
BESIDE = 32 << 20
"""Bytes of memory beside pixels and file."""
PATIENCE = 30
"""A decoder is ended after this many times its CPU time, in case that it waits for something rather than computes."""

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from pipeline.images.decoder import main; main()"

Answer: TypeAlias = "Picture | tuple[str, str]"
"""A picture, or status and reason."""


class Decoders:
    """As many decoders as cores that this process may use, started as they are needed. An async context manager.

    Each may use its share of `TOGETHER`. A picture that needs more, or that brings a decoder down, is tried again in
    one further decoder that may use what the largest allowed picture takes. So memory is bounded whatever the number
    of cores, and a damaged picture is told from one that had too little memory.
    """

    def __init__(self, config: ImagesConfig) -> None:
        self.count: int = min(joblib.cpu_count(), MOST)
        large = BYTES_PER_PIXEL * config.max_pixels + 2 * config.max_bytes + BESIDE
        self._small = _Lane(config, self.count, min(EACH, TOGETHER // self.count, large))
        self._large = _Lane(config, 1, large)

    @property
    def memory(self) -> int:
        """Bytes of memory that all decoders may use together, Python and Pillow themselves not included."""
        return self.count * self._small.memory + self._large.memory

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._small.close()
        self._large.close()

    async def decode(self, body: bytes) -> Picture:
        """Raises: PictureError: there is no picture in these bytes, or it costs too much."""
        answer = await self._small.decode(body)
        if isinstance(answer, tuple) and answer[0] in (decoder.OUT_OF_MEMORY, ImageStatus.DECODE_ERROR):
            answer = await self._large.decode(body)
        if isinstance(answer, Picture):
            return answer
        status, reason = answer
        if status == decoder.OUT_OF_MEMORY:
            limit = self._large.memory >> 20
            raise PictureError(ImageStatus.TOO_LARGE, f"decoding takes more than {limit:,} MB of memory")
        raise PictureError(ImageStatus(status), reason)


class _Lane:
    """Decoders of one size; a file waits until one is idle."""

    def __init__(self, config: ImagesConfig, count: int, memory: int) -> None:
        self.memory = memory
        self._config = config
        self._places = asyncio.Semaphore(count)
        self._idle: list[_Decoder] = []
        self._all: set[_Decoder] = set()

    async def decode(self, body: bytes) -> Answer:
        async with self._places:
            process = self._idle.pop() if self._idle else self._start()
            try:
                answer = await process.decode(body)
            except BaseException:  # also if this task is cancelled: the decoder is in the midst of a picture
                self._all.discard(process)
                process.end()
                raise
            if process.is_alive:
                self._idle.append(process)
            else:
                self._all.discard(process)
            return answer

    def close(self) -> None:
        for process in self._all:
            process.end()

    def _start(self) -> "_Decoder":
        process = _Decoder(self._config, self.memory)
        self._all.add(process)
        return process


class _Decoder:
    """One process, and our end of the socket that is its standard input."""

    def __init__(self, config: ImagesConfig, memory: int) -> None:
        self._seconds = config.max_decode_seconds
        options = {
            "seconds": self._seconds,
            "memory": memory,
            "max_side": config.max_side,
            "quality": config.jpeg_quality,
            "max_pixels": config.max_pixels,
        }
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        with theirs:
            # A process group of its own: Ctrl-C is ours to handle. It ends when our end of the socket closes.
            self._process = subprocess.Popen(  # noqa: S603 - our own code
                [sys.executable, "-c", _START, json.dumps(sys.path), json.dumps(options)],
                stdin=theirs.fileno(),
                process_group=0,
            )
        self._is_ready = False
        self.is_alive = True

    async def decode(self, body: bytes) -> Answer:
        """Raises: RuntimeError: the process does not even start."""
        try:
            async with asyncio.timeout(PATIENCE * self._seconds):
                return await self._ask(body)
        except TimeoutError:
            self.end()
            return self._too_slow()
        except (ConnectionError, EOFError):
            return await asyncio.to_thread(self._cause_of_death)

    def end(self) -> None:
        """End the process, whatever it does."""
        self.is_alive = False
        self._socket.close()
        self._process.kill()
        self._process.wait()

    async def _ask(self, body: bytes) -> Answer:
        loop = asyncio.get_running_loop()
        if not self._is_ready:
            await self._receive(decoder.RESPONSE.size)
            self._is_ready = True
        await loop.sock_sendall(self._socket, decoder.REQUEST.pack(len(body)))
        await loop.sock_sendall(self._socket, body)
        head = await self._receive(decoder.RESPONSE.size)
        kind, width, height, size = decoder.RESPONSE.unpack(head)
        content = await self._receive(size)
        if kind == decoder.PICTURE:
            return Picture(jpeg=content, width=width, height=height)
        status, _, reason = content.decode().partition("\n")
        return status, reason

    async def _receive(self, size: int) -> bytes:
        content = bytearray(size)
        view = memoryview(content)
        while view:
            count = await asyncio.get_running_loop().sock_recv_into(self._socket, view)
            if count == 0:
                raise EOFError
            view = view[count:]
        return bytes(content)

    def _cause_of_death(self) -> Answer:
        """What ended the process, as status and reason."""
        self.is_alive = False
        self._socket.close()
        code = self._process.wait()
        if not self._is_ready:
            raise RuntimeError(f"A decoder of pictures did not start: status {code}. See its message above.")
        if code == -signal.SIGPROF:
            return self._too_slow()
        if code == -signal.SIGKILL:  # of memory: by the system, or by itself
            return decoder.OUT_OF_MEMORY, ""
        name = signal.Signals(-code).name if code < 0 else f"status {code}"
        return ImageStatus.DECODE_ERROR, f"the decoder crashed: {name}"

    def _too_slow(self) -> Answer:
        return ImageStatus.TOO_SLOW, f"decoding takes more than {self._seconds:g} s of CPU time"
