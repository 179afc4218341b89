"""Resolves names under the guard: the session connects to exactly the addresses that it returns."""

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from pipeline.addresses import AddressGuard, Lookup, system_lookup


class GuardedResolver(AbstractResolver):
    """Resolves names for the session."""

    def __init__(self, guard: AddressGuard, lookup: Lookup = system_lookup) -> None:
        self._guard = guard
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses that may be connected to.

        Raises:
            OSError: the name has no address.
            AddressRefused: it has none that may be connected to.
        """
        addresses = await _in_daemon_thread(lambda: self._lookup(host, port))
        if not addresses:
            raise OSError(f"{host} has no address")
        permitted = set(self._guard.permitted(host, port, [address for _, address in addresses]))
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST)
            for kind, address in addresses
            if address in permitted and family in (socket.AF_UNSPEC, kind)
        ]

    async def close(self) -> None:
        """There is nothing to close."""


async def _in_daemon_thread(work: Callable[[], Any]) -> Any:
    """Run a blocking call that cannot be interrupted (getaddrinfo), so that neither Ctrl-C nor exit waits for it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: OSError | UnicodeError | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def call() -> None:
        result, failure = None, None
        try:
            result = work()
        except (OSError, UnicodeError) as error:
            failure = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=call, name="resolve", daemon=True).start()
    return await future
