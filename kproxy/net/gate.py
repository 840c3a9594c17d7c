"""What a client's connection does while limits hold it up: a timer goes on in time, and its reads are paused.

Everything is decided in core.metered; this is its clock and its socket. A connection without limits has no gate::

    a request that must wait    timer 250 ms; above 64 KiB held: pause(LIMITED)
    the timer                   go_on() -> bytes for the broker; resume(LIMITED), or the next timer

As long as little is held the client is read from, so that it is seen when it goes, and when it sends a heartbeat. What
is held is as good as unread: it goes to the broker when the client resets the connection, or when it is drained, and is
dropped when kproxy ends it for another reason.
"""

import asyncio
from math import ceil
from typing import TYPE_CHECKING, cast

from kproxy.core.causes import Cause
from kproxy.core.limits import Limits
from kproxy.core.metered import Metered
from kproxy.errors import ProtocolError

if TYPE_CHECKING:
    from kproxy.net.relay import ClientSide

LIMITED = 64
"""Why a client's reads are paused (see relay)."""

HELD_HIGH_BYTES = 64 * 1024
"""Held bytes above which a client's reads stop, as with queued ones (see relay). One more read may come on top."""

REFUSAL_SECONDS = 1.0
"""How long a connection that a limit ends is kept, unread: a client's back-off begins anew with each connection that is
accepted, so that one that is closed at once comes back at once (reconnect.backoff.max.ms is 1 s)."""


class Gate:
    """The limits of one client's connection. ``attend`` to it whenever the exchange ``waits``; ``leave`` it last."""

    def __init__(self, client: "ClientSide", limits: Limits) -> None:
        """Put a client, which is connected, under limits."""
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._wake_at = 0.0  # when that is due, in the exchange's terms
        self._exchange = cast("Metered", client.exchange)
        self._exchange.meter(limits, client.client, self._loop.time, self._attend_soon)
        if self._exchange.waits:
            self._attend_soon()  # uvloop's transports begin to read, and can be paused, after ``connection_made``

    def attend(self) -> None:
        """See to what the exchange waits for."""
        client, exchange = self._client, self._exchange
        while exchange.waits and not client.transport.is_closing():
            if exchange.refused_by is not None:
                client.pause(LIMITED)
                self._set(self._loop.call_later(REFUSAL_SECONDS, self._end, exchange.refused_by.rule.name))
                return
            wake_at = exchange.wake_at
            delay = wake_at - self._loop.time()
            if delay > 0:
                if exchange.held_bytes > HELD_HIGH_BYTES:
                    client.pause(LIMITED)
                else:
                    client.resume(LIMITED)
                if wake_at != self._wake_at:
                    # uvloop rounds to milliseconds, and too early would be once more.
                    self._set(self._loop.call_later(ceil(delay * 1000) / 1000, self._go_on), wake_at)
                return
            try:
                out = exchange.go_on()
            except ProtocolError as error:
                client.client_broke_protocol(error, b"")
                return
            client.pass_on(out)
        client.resume(LIMITED)
        if client.watching:
            client.look_after()

    def limits_changed(self) -> bool:
        """See Metered."""
        return self._exchange.limits_changed()

    def flush(self) -> None:
        """Let through what is held, as the connection is drained."""
        if not self._client.transport.is_closing():
            self._flush()

    def leave(self, *, by_client: bool) -> None:
        """The connection is gone, ended ``by_client`` or not: give back what it holds."""
        if by_client:
            self._flush()
        self._set(None)
        self._exchange.leave()
        del self._client, self._exchange  # each of the three would keep the others until the garbage is collected

    def _flush(self) -> None:
        if not self._exchange.waits or self._exchange.refused_by is not None:
            return
        self._set(None)
        try:
            out = self._exchange.flush()
        except ProtocolError as error:
            self._client.client_broke_protocol(error, b"")
            return
        self._client.pass_on(out)
        self._client.resume(LIMITED)

    def _go_on(self) -> None:
        self._wake_at = 0.0
        self.attend()

    def _attend_soon(self) -> None:
        self._set(self._loop.call_soon(self._go_on))

    def _set(self, timer: asyncio.Handle | None, wake_at: float = 0.0) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer
        self._wake_at = wake_at

    def _end(self, name: str) -> None:
        self._client.end(Cause.LIMITED, limit=name)
