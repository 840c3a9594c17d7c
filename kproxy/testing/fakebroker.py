"""A broker for tests that says what the test tells it to, and remembers what it was asked.

Untold, it answers ApiVersions, SASL PLAIN, Metadata, FindCoordinator and DescribeCluster as a broker does, one request
of a connection at a time, as Kafka does; anything else closes the connection and is kept in ``surprises``. What a
test tells it is a *play* per API key: an answer's body, a fault, or a function of the request; several are used one
after the other, the last for good::

    async with FakeCluster(3, users={"gateway": "secret"}) as cluster:
        cluster.on(ApiKey.HEARTBEAT, bytes(6), Delay(0.5, bytes(6)), CLOSE)
        cluster.brokers[2].on(ApiKey.METADATA, Cut(10, DEFAULT), DEFAULT)

Here the second Heartbeat waits half a second and the third ends the connection; the first Metadata answer of broker
2 ends after ten bytes. Node N is at 127.0.1.N. Never here: anything that depends on kproxy's own reading of answers.
"""

import asyncio
import socket
from collections import Counter, deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from kproxy.errors import FrameTooLarge, ProtocolError
from kproxy.testing import fakeanswers as answers
from kproxy.testing.fakeanswers import ClusterState
from kproxy.testing.fakesasl import Login
from kproxy.testing.plays import CLOSE, DEFAULT, DROP, Cut, Delay, Fault, Hold, Play, Raw, Request
from kproxy.wire import apiversions, frames
from kproxy.wire import primitives as p
from kproxy.wire.apis import ApiKey
from kproxy.wire.apiversions import ApiVersionsAnswer
from kproxy.wire.cluster import parse_find_coordinator_request

__all__ = [
    "CLOSE",
    "DEFAULT",
    "DROP",
    "ClusterState",
    "Cut",
    "Delay",
    "FakeBroker",
    "FakeCluster",
    "Hold",
    "Raw",
    "Request",
]

FRAME_BYTES_MAX = 100 * 1024 * 1024
"""Kafka's socket.request.max.bytes."""

REQUESTS_KEPT = 100_000


class FakeBroker:
    """One broker: listening from ``start`` to ``stop``, on the same port when it is started again.

    Args:
        node_id: Its id.
        host: Where it listens and what it advertises; 127.0.1.<node_id> unless given.
        users: User name -> password: SASL PLAIN is demanded. None: SASL is not spoken.
        session_lifetime_ms: Of a login (KIP-368); then only a new login is taken. 0: endless.
        ranges: API key -> (lowest, highest version) over those of a 4.3 broker; an empty tuple takes an API away.
        state: Shared by the brokers of a cluster.

    Attributes:
        requests: All requests, SASL ones included, oldest first (the last 100,000).
        counts: How many there have been, by API; these are never cut short.
        surprises: Those that nothing was told about, or of an API or version not offered; each closed its connection.
        violations: What broke the framing, or the order of SASL (a request before, or amid, a login); likewise.
        connections_accepted: How many there have been.
        logins: How many succeeded, later ones of a connection included.
    """

    def __init__(
        self,
        node_id: int = 1,
        *,
        host: str | None = None,
        users: Mapping[str, str] | None = None,
        session_lifetime_ms: int = 0,
        ranges: Mapping[int, tuple[int, int] | tuple[()]] | None = None,
        state: ClusterState | None = None,
    ) -> None:
        self.node_id = node_id
        self.host = host or f"127.0.1.{node_id}"
        self.port = 0
        self.users = users
        self.session_lifetime_ms = session_lifetime_ms
        offered = answers.default_ranges() | dict(ranges or {})
        self.ranges: dict[int, tuple[int, int]] = {key: pair for key, pair in offered.items() if pair}
        self.features = ApiVersionsAnswer()
        self.state = state if state is not None else ClusterState()
        self.requests: deque[Request] = deque(maxlen=REQUESTS_KEPT)
        self.counts: Counter[int] = Counter()
        self.surprises: list[Request] = []
        self.violations: list[str] = []
        self.connections_accepted = 0
        self.logins = 0
        self._plays: dict[int, deque[Play]] = {}
        self._open: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}
        self._errors: list[Exception] = []
        self._server: asyncio.Server | None = None
        self._changed = asyncio.Event()
        self._answering = asyncio.Event()
        self._answering.set()

    def on(self, key: int, *plays: Play) -> None:
        """Tell what to do with requests of an API: one play after the other, the last for good."""
        self._plays[key] = deque(plays)

    def of(self, key: int) -> list[Request]:
        """Return the requests of one API, oldest first."""
        return [request for request in self.requests if request.key == key]

    @property
    def address(self) -> str:
        """Where it listens, as host:port."""
        return f"{self.host}:{self.port}"

    @property
    def open_connections(self) -> int:
        """How many are open now."""
        return len(self._open)

    async def start(self) -> Self:
        """Listen; again on the same port if it has listened before."""
        listener = socket.create_server((self.host, self.port), backlog=1024)
        self.port = listener.getsockname()[1]
        self.state.brokers[self.node_id] = (self.host, self.port)
        self._server = await asyncio.start_server(self._serve, sock=listener)
        return self

    async def stop(self) -> None:
        """Stop listening and reset every connection. It stays in the cluster's Metadata. May be called twice.

        Raises:
            Exception: whatever a play of the test's raised; the first of them.
        """
        self.refuse()
        self.close_connections()
        await self.until(lambda: not self._open, what="the connections to end")
        if self._errors:
            raise self._errors.pop(0)

    def refuse(self) -> None:
        """Stop listening, and keep what is open; ``start`` listens again."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def close_connections(self) -> None:
        """Reset every connection; a play that waits is broken off."""
        for task, writer in self._open.items():
            writer.transport.abort()
            if task is not None:
                task.cancel()

    def mute(self) -> None:
        """Answer nothing from now on, with all connections open, as a broker whose process hangs."""
        self._answering.clear()

    def unmute(self) -> None:
        """Answer again, what was asked in between first."""
        self._answering.set()

    async def until(self, condition: Callable[[], bool], timeout_seconds: float = 10, what: str = "it") -> None:
        """Wait for something that this broker's requests or connections bring about.

        Raises:
            TimeoutError: it did not come about; the text holds ``what``.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"broker {self.node_id} still waits for {what} after {timeout_seconds:g} s") from None

    async def until_asked(self, key: int, count: int = 1, timeout_seconds: float = 10) -> list[Request]:
        """Wait until it has been asked so many requests of an API, and return them."""
        await self.until(lambda: len(self.of(key)) >= count, timeout_seconds, f"{count} requests of API {key}")
        return self.of(key)

    async def __aenter__(self) -> Self:
        """Start."""
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        await self.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections_accepted += 1
        task = asyncio.current_task()
        self._open[task] = writer
        self._changed.set()
        login = Login(self.users, self.session_lifetime_ms, asyncio.get_running_loop().time)
        number = self.connections_accepted
        try:
            while (frame := await _read_frame(reader)) is not None:
                if not await self._take(frame, number, login, writer):
                    break
        except asyncio.CancelledError:  # by close_connections: the task ends here in any case
            pass
        except ConnectionError:  # the other side reset it
            pass
        except ProtocolError as error:
            self.violations.append(f"{type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - a play's; stop raises it where the test sees it
            self._errors.append(error)
        finally:
            del self._open[task]
            writer.close()
            self._changed.set()

    async def _take(self, frame: bytes, number: int, login: Login, writer: asyncio.StreamWriter) -> bool:
        """Do what one frame asks for; return whether the connection goes on."""
        if login.wants_bare_token:
            token_answer = login.bare_token(frame)
            self.logins += token_answer is not None
            return await self._send(writer, token_answer)
        request = _parse(frame, number)
        self.requests.append(request)
        self.counts[request.key] += 1
        self._changed.set()
        if violation := login.objection(request.key):
            self.violations.append(violation)
            return False
        low, high = self.ranges.get(request.key, (0, -1))
        if not low <= request.version <= high and request.key != ApiKey.API_VERSIONS:
            self.surprises.append(request)
            return False
        plays = self._plays.get(request.key)
        play: Play = DEFAULT if not plays else plays.popleft() if len(plays) > 1 else plays[0]
        return await self._play(play, request, login, writer)

    async def _play(self, play: Play, request: Request, login: Login, writer: asyncio.StreamWriter) -> bool:
        answer = play(request) if callable(play) else play
        cut_after: int | None = None
        while isinstance(answer, Delay | Hold | Cut):
            if isinstance(answer, Delay):
                await asyncio.sleep(answer.delay_seconds)
            elif isinstance(answer, Hold):
                await answer.until.wait()
            else:
                cut_after = answer.after_bytes
            answer = answer.play(request) if callable(answer.play) else answer.play
        goes_on = True
        if answer is DEFAULT:
            answer, goes_on = self._default(request, login)
        if answer is None or answer is DROP:
            return True
        if isinstance(answer, Fault):
            return False
        data = answer.data if isinstance(answer, Raw) else self._frame(request, answer)
        if cut_after is not None:
            data, goes_on = data[:cut_after], False
        return await self._send(writer, data) and goes_on

    async def _send(self, writer: asyncio.StreamWriter, data: bytes | None) -> bool:
        """Send what there is to send; return whether the connection goes on."""
        await self._answering.wait()
        if data is None or writer.transport.is_closing():
            return False
        writer.write(data)
        await writer.drain()
        return True

    def _frame(self, request: Request, body: bytes) -> bytes:
        return frames.response(request.correlation_id, request.key, request.version, body)

    def _default(self, request: Request, login: Login) -> tuple[bytes | Fault, bool]:
        """Return a broker's own answer, and whether the connection goes on after it."""
        version = request.version
        if request.key == ApiKey.API_VERSIONS:
            return self._api_versions(version), True
        if request.key == ApiKey.SASL_HANDSHAKE:
            return login.handshake(version, request.body)
        if request.key == ApiKey.SASL_AUTHENTICATE:
            body, succeeded = login.authenticate(version, request.body)
            self.logins += succeeded
            return body, succeeded
        if request.key == ApiKey.METADATA:
            return answers.metadata(version, self.state, answers.asked_topics(version, request.body)), True
        if request.key == ApiKey.FIND_COORDINATOR:
            _, keys = parse_find_coordinator_request(version, request.body)
            return answers.find_coordinator(version, self.state, keys), True
        if request.key == ApiKey.DESCRIBE_CLUSTER:
            return answers.describe_cluster(version, self.state), True
        self.surprises.append(request)
        return CLOSE, False

    def _api_versions(self, version: int) -> bytes:
        low, high = self.ranges[ApiKey.API_VERSIONS]
        if not low <= version <= high:
            return apiversions.unsupported_version_response((low, high))
        features = self.features
        answer = ApiVersionsAnswer(
            ranges=self.ranges,
            supported_features=features.supported_features,
            finalized_features=features.finalized_features,
            finalized_features_epoch=features.finalized_features_epoch,
        )
        return apiversions.response(version, answer)


class FakeCluster:
    """Several FakeBrokers, ids from 1, that name one another in Metadata; arguments as theirs."""

    def __init__(
        self,
        brokers: int = 3,
        users: Mapping[str, str] | None = None,
        session_lifetime_ms: int = 0,
        ranges: Mapping[int, tuple[int, int] | tuple[()]] | None = None,
    ) -> None:
        self.state = ClusterState()
        self.brokers = {
            node: FakeBroker(
                node, users=users, session_lifetime_ms=session_lifetime_ms, ranges=ranges, state=self.state
            )
            for node in range(1, brokers + 1)
        }

    @property
    def bootstrap(self) -> str:
        """The addresses of all brokers, comma between."""
        return ",".join(broker.address for broker in self.brokers.values())

    @property
    def requests(self) -> list[Request]:
        """All requests, by broker."""
        return [request for broker in self.brokers.values() for request in broker.requests]

    def on(self, key: int, *plays: Play) -> None:
        """Tell every broker the same; each counts for itself."""
        for broker in self.brokers.values():
            broker.on(key, *plays)

    async def __aenter__(self) -> Self:
        """Start all."""
        for broker in self.brokers.values():
            await broker.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop all."""
        for broker in self.brokers.values():
            await broker.stop()


async def _read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """Read one frame without its size; None where the stream ends, in the middle of a frame or not."""
    try:
        size = p.INT32.unpack(await reader.readexactly(4))[0]
        if not 0 <= size <= FRAME_BYTES_MAX:
            raise FrameTooLarge(f"frame of {size} bytes")
        return await reader.readexactly(size)
    except asyncio.IncompleteReadError:
        return None


def _parse(frame: bytes, connection: int) -> Request:
    key, pos = p.int16(frame, 0)
    version, pos = p.int16(frame, pos)
    correlation_id, _ = p.int32(frame, pos)
    body_at = frames.request_body_at(frame, 0, len(frame))
    return Request(key, version, correlation_id, frames.client_id(frame, 0), frame[body_at:], connection)
