"""The proxy's net part inside a test, beside a FakeBroker on the same loop: quick, and its counters can be looked at.

What needs the program itself (signals, memory, its standard output) uses ProxyProcess instead::

    @on_uvloop
    async def test_something() -> None:
        async with FakeCluster(3) as cluster, Gateway(cluster.bootstrap) as gateway:
            cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
            async with RawClient(gateway.address) as client:
                await client.heartbeat()
        assert gateway.tally.dials == 1
"""

import asyncio
import functools
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, ParamSpec, Self

import structlog

from kproxy.config.model import Config
from kproxy.core.causes import Cause
from kproxy.core.tally import Tally
from kproxy.core.view import Change
from kproxy.net.link import ClusterLink
from kproxy.net.listeners import Around, Listener
from kproxy.net.relay import ClientSide
from kproxy.service import build, loop
from kproxy.service.doors import Doors
from kproxy.service.supervisor import bound_socket
from kproxy.testing.ports import free_port_block

P = ParamSpec("P")

POLL_SECONDS = 0.01


def on_uvloop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test on the loop that the program runs on."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        loop.run(test(*args, **kwargs))

    return run


class Gateway:
    """One listener of one cluster.

    Args:
        bootstrap: host:port, comma between.
        login: User name and password for the brokers.
        addressing: As in the configuration.
        cluster, listener: More of the configuration, e.g. {"idle_timeout": "1s"}.
        limits: The configuration's.

    Attributes:
        tally: The listener's counters.
        events: Its log lines so far, as mappings; "event" is the text.
        link: Its link to the cluster.
        limits: The limits at work; none: None.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        login: tuple[str, str] | None = None,
        addressing: str = "ports",
        cluster: Mapping[str, object] | None = None,
        listener: Mapping[str, object] | None = None,
        limits: Sequence[Mapping[str, object]] = (),
    ) -> None:
        self.port = free_port_block(7)
        self._addressing = addressing
        self.host = "127.0.0.1"
        sasl = {} if login is None else {"sasl": {"username": login[0], "password": login[1]}}
        config = Config.model_validate(
            {
                "clusters": {"main": {"bootstrap": bootstrap.split(","), **sasl, **(cluster or {})}},
                "listeners": {"public": {"bind": self.address, "addressing": addressing, **(listener or {})}},
                "limits": limits,
            }
        )
        self.limits = build.limits(config)
        self._doors = Doors(config)
        self.events: list[Any] = []
        self._config = config
        self._capture = structlog.testing.capture_logs()
        self._listener: Listener

    @property
    def address(self) -> str:
        """The bootstrap address, as host:port."""
        return f"{self.host}:{self.port}"

    def address_of(self, node_id: int) -> str:
        """Return what clients are told of a broker."""
        return self.address if self._addressing == "single" else f"{self.host}:{self.port + 1 + node_id}"

    @property
    def tally(self) -> Tally:
        """See the class."""
        return self._listener.tally

    @property
    def connections(self) -> set[ClientSide]:
        """The clients' connections that are open now."""
        assert self._listener._shared is not None
        return self._listener._shared.connections

    def events_with(self, **fields: object) -> list[Any]:
        """Return the log lines that have all of these fields."""
        return [event for event in self.events if fields.items() <= event.items()]

    async def until(self, condition: Callable[[], object], what: str, timeout_seconds: float = 10) -> None:
        """Wait for something in here.

        Raises:
            TimeoutError: it did not come about.
        """
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        while not condition():
            if asyncio.get_running_loop().time() > deadline:
                raise TimeoutError(f"after {timeout_seconds:g} s still waiting for {what}; log: {self.events[-5:]}")
            await asyncio.sleep(POLL_SECONDS)

    async def until_closed(self, cause: Cause, count: int = 1, timeout_seconds: float = 10) -> None:
        """Wait until so many connections have ended for a reason."""
        closed = self.tally.closed
        await self.until(lambda: closed[cause] >= count, f"{count} x {cause!r} in {dict(closed)}", timeout_seconds)

    async def __aenter__(self) -> Self:
        """Look for the cluster, and listen once it has answered."""
        self.events = self._capture.__enter__()
        try:
            await self._doors.start()
            of_cluster = build.cluster_settings("main", self._config.clusters["main"], self._doors)
            self.link = ClusterLink(of_cluster, self._changed)
            settings = build.listener_settings("public", self._config.listeners["public"], self._doors)
            self._listener = Listener(
                settings, self.link, self._socket, Around(limits=self.limits, executor=self._doors.executor)
            )
            self.link.start()
            async with asyncio.timeout(10):
                await self.link.ready.wait()
                await self.link.settle(5)
                await self._listener.open()
        except BaseException:
            await self.link.close()
            self._capture.__exit__(None, None, None)
            raise
        return self

    def _changed(self, change: Change) -> None:
        self._listener.cluster_changed(change)

    async def _socket(self, listener: str, node_id: int | None, port: int) -> socket.socket:  # noqa: ARG002 - any will do
        return bound_socket(self.host, port)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain without patience; a bug that was logged fails the test."""
        await self._listener.drain(0.2)
        await self._listener.close()
        await self.link.close()
        await self._doors.close()
        self._capture.__exit__(None, None, None)
        assert [event for event in self.events if "exc_info" in event] == []
