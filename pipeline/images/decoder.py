"""One decoder process: reads files from its standard input, a socket, and writes pictures or reasons back to it.

A request is a `REQUEST` and the file; a response is a `RESPONSE` and the JPEG, or "status", a line feed and the reason.
Nothing in it is code, so a decoder that a picture has taken over can send no more than a wrong picture.
"""

import contextlib
import json
import resource
import signal
import socket
import struct
import sys
import warnings

from pipeline import system
from pipeline.images.decode import Picture, Undecodable, decode

REQUEST = struct.Struct("!I")
"""Bytes of the file."""
RESPONSE = struct.Struct("!BIII")
"""READY, PICTURE or REASON; width and height; bytes that follow."""
READY, PICTURE, REASON = range(3)
OUT_OF_MEMORY = "out_of_memory"
"""The status of a file that takes more memory than this process may have."""


def main() -> None:
    """Serve until the other side closes. `sys.argv[-1]`: `seconds`, `memory` and the arguments of `decode` as JSON."""
    options = json.loads(sys.argv[-1])
    seconds, memory = options.pop("seconds"), options.pop("memory")
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    system.bound_memory(memory)
    with socket.socket(fileno=0) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(RESPONSE.pack(READY, 0, 0, 0))
        while head := connection.recv(REQUEST.size, socket.MSG_WAITALL):
            connection.sendall(_response(connection, REQUEST.unpack(head)[0], seconds, options))


def _response(connection: socket.socket, size: int, seconds: float, options: dict[str, int]) -> bytes:
    try:
        body = connection.recv(size, socket.MSG_WAITALL) if size else b""
        signal.setitimer(signal.ITIMER_PROF, seconds)  # ends this process, also in the midst of a decoder's C
        picture = decode(body, **options)
    except Undecodable as error:
        return _reason(error.status, error.reason)
    except MemoryError:
        return _reason(OUT_OF_MEMORY, "")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return _packed(PICTURE, picture)


def _packed(kind: int, picture: Picture) -> bytes:
    return RESPONSE.pack(kind, picture.width, picture.height, len(picture.jpeg)) + picture.jpeg


def _reason(status: str, reason: str) -> bytes:
    text = f"{status}\n{reason}".encode("utf-8", "replace")
    return RESPONSE.pack(REASON, 0, 0, len(text)) + text


if __name__ == "__main__":
    main()
