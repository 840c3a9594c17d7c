"""TLS before a FakeBroker, as before a listener of a proxy's: ended here, relayed in the plain, nothing rewritten.

::

    authority = trustme.CA()
    async with TlsFront(broker.address, server_context(authority, "127.0.0.1")) as front:
        front.address
"""

import asyncio
import contextlib
import datetime as dt
import ssl
from types import TracebackType
from typing import Self

import trustme


def server_context(
    authority: trustme.CA,
    *names: str,
    clients: trustme.CA | None = None,
    version: ssl.TLSVersion | None = None,
    ends: dt.datetime | None = None,
) -> ssl.SSLContext:
    """Return a server's side; with ``clients`` it wants a certificate of theirs, with ``version`` no other will do."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names, not_after=ends).configure_cert(context)
    if clients is not None:
        clients.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


class TlsFront:
    """A listener on 127.0.0.1 from ``__aenter__`` on; without a context it relays the plain."""

    def __init__(self, target: str, context: ssl.SSLContext | None = None) -> None:
        self._target = target
        self._context = context
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None] | None] = set()
        self.address = ""

    async def __aenter__(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening and relaying."""
        assert self._server is not None
        self._server.close()
        for task in list(self._relays):
            if task is not None:
                task.cancel()
        await asyncio.gather(*filter(None, self._relays), return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._relays.add(task)
        host, _, port = self._target.rpartition(":")
        try:
            behind, before = await asyncio.open_connection(host, int(port))
            with contextlib.suppress(ConnectionError):
                await asyncio.gather(_copy(reader, before), _copy(behind, writer))
        except asyncio.CancelledError:  # the front ends: so does this
            pass
        finally:
            self._relays.discard(task)
            writer.transport.abort()
            before.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()
