"""The socket that the serving processes share."""

import asyncio
import socket

from pipeline.serving.server import bound


def test_what_is_accepted_sends_at_once() -> None:
    async def delay() -> int:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with bound("127.0.0.1", 0) as listener:
            async with await asyncio.start_server(note, sock=listener):
                with socket.create_connection(listener.getsockname()):
                    return await accepted

    assert asyncio.run(delay()) == 1
