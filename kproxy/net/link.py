"""kproxy's own connections to a cluster: what keeps its view fresh and tells which brokers are there.

One control connection per broker. While it stands the broker is up; when it breaks it is dialled again with back-off,
and when it returns the broker's ApiVersions table is asked anew, since it may come back upgraded. Metadata is asked at
an interval, and at once when something hints at a change: a client's answer named an unknown address, a dial failed, a
control connection broke. Any broker answers for the cluster, so the view survives the loss of every bootstrap broker.

The settings may change while it is at work. Other bootstrap addresses are asked before anybody else, for they may be
another cluster's; until one of them answers, the brokers that are known go on to serve.
"""

import asyncio
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from kproxy.core.sasl import Mechanism
from kproxy.core.suppressor import Suppressor
from kproxy.core.view import Change, ClusterView
from kproxy.errors import AuthError, Hangup, KproxyError, UpstreamError
from kproxy.net.conversation import Conversation, dial
from kproxy.net.tasks import Tasks
from kproxy.net.tls import ClientTls
from kproxy.wire import apiversions
from kproxy.wire.apis import ApiKey
from kproxy.wire.apiversions import ApiVersionsAnswer
from kproxy.wire.cluster import ClusterAnswer, metadata_request, parse_metadata_response

_log = structlog.get_logger(__name__)

LOGIN_REFUSED = "login refused; check the cluster's username and password"

HANGUP_HINT = "; it may want {}"

METADATA_VERSION_MAX = 8
"""Enough to learn of brokers, and every broker since 2.4 has it; later versions are about topics."""

AUTHENTICATE_VERSION_MAX = 2

BACKOFF_SECONDS = 0.05
BACKOFF_SECONDS_MAX = 1.0
"""As Kafka's reconnect.backoff.ms and reconnect.backoff.max.ms."""

LOGIN_BACKOFF_SECONDS = 1.0
LOGIN_BACKOFF_SECONDS_MAX = 30.0
"""A wrong password does not mend itself, and each try is a failed login in the broker's log."""

REFRESH_GAP_SECONDS = 0.2
"""Hints at a change come in storms; one Metadata request answers all of them."""

MOVE_SECONDS = 1.0
"""How soon other bootstrap addresses that do not answer are asked again."""

RENEW_AT = 0.6
"""The share of a session's lifetime after which the login is renewed (Java: 0.85 to 0.95); early, because a request
that waits at the broker, such as JoinGroup, keeps what is behind it waiting too."""


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """What a link must know of its cluster; times in seconds."""

    name: str
    bootstrap: tuple[tuple[str, int], ...]
    mechanism: Mechanism | None = None
    """How kproxy logs in for itself; clients may have other ways."""
    tls: ClientTls | None = None
    """How to speak TLS with the brokers; None: not."""
    refresh_interval_seconds: float = 30.0
    dial_timeout_seconds: float = 5.0
    login_timeout_seconds: float = 10.0
    dial_patience_seconds: float = 1.0
    dial_patience_max_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection to a broker that is logged in."""

    conversation: Conversation
    session_lifetime_ms: int
    authenticate_version: int
    mechanism: Mechanism | None
    """How it was logged in, and is to be again."""
    address: tuple[str, int]
    tls: ClientTls | None
    """How TLS is spoken on it."""


class NodeLink:
    """One broker: its control connection, and whether it is up."""

    def __init__(self) -> None:
        self.standing: asyncio.Timeout | None = None
        """While the control connection stands: ends it, to be made anew."""
        self.up = asyncio.Event()
        self.conversation: Conversation | None = None
        self.hint = asyncio.Event()
        """Set to have a waiting back-off cut short."""
        self.tried = asyncio.Event()
        """Set once it has been dialled, well or not."""


class ClusterLink:
    """kproxy's link to one cluster. ``start`` it once, ``close`` it once."""

    def __init__(self, settings: ClusterSettings, on_change: Callable[[Change], None]) -> None:
        """Prepare a link; ``on_change`` hears of brokers that come, move or are forgotten, and of a new offer."""
        self.settings = settings
        self.view = ClusterView()
        self.ready = asyncio.Event()
        """Set once brokers are known and at least one has told what it can do."""
        self._on_change = on_change
        self._nodes: dict[int, NodeLink] = {}
        self._tasks = Tasks()
        self._hint = asyncio.Event()
        self._changed = asyncio.Event()
        self._moving = False  # other bootstrap addresses are configured, and none of them has answered yet
        self._quiet = Suppressor(interval_seconds=30)
        self._log = _log.bind(cluster=settings.name)
        self._tried = ""
        self.login_failures = 0
        self.login_refused: AuthError | None = None
        """Set while the brokers refuse our credentials: nobody needs to try before the link has got in again."""

    # Life.

    def start(self) -> None:
        """Begin to look for the cluster."""
        self._tasks.spawn(f"link {self.settings.name}", self._keep_view())

    async def close(self) -> None:
        """End all tasks and control connections."""
        await self._tasks.close()
        for node in self._nodes.values():
            if node.conversation is not None:
                node.conversation.close()

    def change(self, settings: ClusterSettings) -> None:
        """Go on by other settings; connections of clients are their own business."""
        before, self.settings = self.settings, settings
        if (before.mechanism, before.tls) != (settings.mechanism, settings.tls):
            self.login_refused = None
            for node in self._nodes.values():
                node.hint.set()
                if node.standing is not None:
                    node.standing.reschedule(asyncio.get_running_loop().time())
        self._moving = self._moving or set(before.bootstrap) != set(settings.bootstrap)
        self._changed.set()
        self.poke()

    # What others ask of it.

    def good(self, opened: Opened, node_id: int | None, mechanism: Mechanism | None) -> bool:
        """Whether a connection that was opened to a broker (None: any) would be opened so today."""
        places = self.view.brokers.values() if node_id is None else [self.view.brokers.get(node_id)]
        there = any(broker is not None and opened.address == (broker.host, broker.port) for broker in places)
        return there and opened.tls is self.settings.tls and opened.mechanism == mechanism

    def poke(self) -> None:
        """Something hints at a change in the cluster: ask for Metadata soon."""
        self._hint.set()

    def saw_endpoint(self, node_id: int, host: str, port: int) -> None:
        """Compare a broker address that a client's answer named with the view; poke when it is news."""
        known = self.view.brokers.get(node_id)
        if known is None or known.host != host or known.port != port:
            self.poke()

    def up_nodes(self) -> list[int]:
        """Return the brokers whose control connection stands."""
        return [node_id for node_id, node in self._nodes.items() if node.up.is_set()]

    async def settle(self, timeout_seconds: float) -> None:
        """Wait until every broker of the cluster has been dialled once, so that the offer is that of all who live."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                for node in list(self._nodes.values()):
                    await node.tried.wait()

    async def wait_up(self, node_id: int | None, timeout_seconds: float) -> bool:
        """Wait until a broker (None: any) is up; False when the time is over first. Cuts its back-off short."""
        nodes = list(self._nodes.values()) if node_id is None else [n for i, n in self._nodes.items() if i == node_id]
        self.poke()
        if not nodes:
            await asyncio.sleep(min(timeout_seconds, REFRESH_GAP_SECONDS))
            return False
        for node in nodes:
            node.hint.set()
        waits = [asyncio.ensure_future(node.up.wait()) for node in nodes]  # noqa: TID251  awaited right here
        try:
            done, _ = await asyncio.wait(waits, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
            return bool(done)
        finally:
            for wait in waits:
                wait.cancel()

    async def ask(self, node_id: int | None, key: int, version: int, body: bytes, timeout_seconds: float) -> bytes:
        """Ask a broker (None: any that is up) on its control connection. Raises UpstreamError, ProtocolError."""
        up = self.up_nodes()
        if node_id is None and up:
            node_id = random.choice(up)  # noqa: S311  spreads the load, no secret
        node = self._nodes.get(node_id) if node_id is not None else None
        if node is None or node.conversation is None:
            raise UpstreamError("no broker is up" if node_id is None else f"broker {node_id} is not up")
        return await node.conversation.request(key, version, body, timeout_seconds)

    async def open(self, node_id: int, mechanism: Mechanism | None) -> Opened:
        """Dial a broker once and log in by ``mechanism``. Raises UpstreamError, AuthError, ProtocolError."""
        broker = self.view.brokers.get(node_id)
        if broker is None:
            raise UpstreamError(f"broker {node_id} is not in the cluster")
        if self.login_refused is not None and mechanism is self.settings.mechanism:
            raise self.login_refused
        table = self.view.table(node_id)
        return (await self._open(broker.host, broker.port, table, mechanism))[0]

    # The inside.

    async def _open(
        self, host: str, port: int, table: ApiVersionsAnswer | None, mechanism: Mechanism | None
    ) -> tuple[Opened, ApiVersionsAnswer | None]:
        """Connect and log in; where ``table`` is unknown, ask for it first (as Java does) to know SaslAuthenticate."""
        settings = self.settings
        conversation = await dial(host, port, settings.dial_timeout_seconds, settings.tls)
        try:
            if mechanism is None:
                return Opened(conversation, 0, 0, None, (host, port), settings.tls), table
            if table is None:
                body = await conversation.request(ApiKey.API_VERSIONS, 0, b"", settings.login_timeout_seconds)
                table = apiversions.parse_response(0, body)
            highest = table.ranges.get(ApiKey.SASL_AUTHENTICATE, (0, 1))[1]
            version = min(highest, AUTHENTICATE_VERSION_MAX)
            lifetime_ms = await conversation.login(mechanism, version, settings.login_timeout_seconds)
            return Opened(conversation, lifetime_ms, version, mechanism, (host, port), settings.tls), table
        except AuthError:
            self.login_failures += 1
            conversation.close()
            raise
        except BaseException:
            conversation.close()
            raise

    async def _keep_view(self) -> None:
        backoff = BACKOFF_SECONDS
        while True:
            self._hint.clear()
            self._changed.clear()
            try:
                answer = await self._ask_metadata()
            except KproxyError as error:
                refused = isinstance(error, AuthError)
                self.login_refused = error if isinstance(error, AuthError) else None
                what = LOGIN_REFUSED if refused else "no broker answers; trying again"
                self._complain(what, error, tried=self._tried)
                lowest, highest = (
                    (LOGIN_BACKOFF_SECONDS, LOGIN_BACKOFF_SECONDS_MAX) if refused else (0.0, BACKOFF_SECONDS_MAX)
                )
                backoff = min(max(backoff * 2, lowest), highest)
                with suppress(TimeoutError):
                    async with asyncio.timeout(backoff):
                        await self._changed.wait()
                continue
            backoff = BACKOFF_SECONDS
            self.login_refused = None
            self._apply(answer)
            await asyncio.sleep(REFRESH_GAP_SECONDS)
            with suppress(TimeoutError):
                interval = self.settings.refresh_interval_seconds
                async with asyncio.timeout(min(interval, MOVE_SECONDS) if self._moving else interval):
                    await self._hint.wait()

    def _apply(self, answer: ClusterAnswer) -> None:
        now = asyncio.get_running_loop().time()
        change = self.view.apply_brokers(answer.brokers, answer.cluster_id, now)
        if change.replaced:
            self._log.warning("it is another cluster now", cluster_id=answer.cluster_id)
        for node_id in change.added:
            self._nodes[node_id] = NodeLink()
            self._tasks.spawn(f"broker {node_id}", self._keep_node(node_id, self._nodes[node_id]))
        for node_id in change.moved:
            broker = self.view.brokers[node_id]
            self._log.info("broker moved", broker=node_id, host=broker.host, port=broker.port)
            node = self._nodes[node_id]
            node.hint.set()
            if node.conversation is not None:
                node.conversation.close()
        for node_id in change.forgotten:
            self._log.info("broker is gone", broker=node_id)
            self._nodes[node_id].hint.set()
        if any(change):
            self._on_change(change)

    async def _ask_metadata(self) -> ClusterAnswer:
        """Ask any broker that is up, then every address known; bootstrap addresses first where they are new."""
        if self._moving:
            asked = self.settings.bootstrap
            try:
                answer = await self._ask_at(asked)
            except KproxyError as error:
                self._complain("no answer at the new bootstrap addresses; trying again", error, tried=self._tried)
            else:
                self._moving = self.settings.bootstrap != asked
                return answer
        timeout = self.settings.login_timeout_seconds
        for node_id in random.sample(up := self.up_nodes(), len(up)):
            conversation = self._nodes[node_id].conversation
            table = self.view.table(node_id)
            if conversation is not None and table is not None:
                with suppress(KproxyError):  # the next one is asked, and in the end all addresses
                    return await _metadata(conversation, table, timeout)
        known = [(broker.host, broker.port) for broker in self.view.brokers.values()]
        return await self._ask_at((*random.sample(known, len(known)), *self.settings.bootstrap))

    async def _ask_at(self, addresses: Iterable[tuple[str, int]]) -> ClusterAnswer:
        """Ask at these addresses, in this order, until one answers. Raises what the last one did."""
        last: KproxyError = UpstreamError("no broker is known")
        timeout = self.settings.login_timeout_seconds
        for host, port in dict.fromkeys(addresses):
            self._tried = f"{host}:{port}"
            try:
                opened, _ = await self._open(host, port, None, self.settings.mechanism)
                try:
                    table = await opened.conversation.api_versions(timeout)
                    return await _metadata(opened.conversation, table, timeout)
                finally:
                    opened.conversation.close()
            except KproxyError as error:
                last = error
                if isinstance(error, AuthError):
                    break
        raise last

    async def _keep_node(self, node_id: int, node: NodeLink) -> None:
        """Keep one broker's control connection, as long as it is in the cluster."""
        backoff = 0.0
        while node_id in self.view.brokers:
            node.hint.clear()
            broker = self.view.brokers[node_id]
            try:
                table = self.view.table(node_id)
                opened, _ = await self._open(broker.host, broker.port, table, self.settings.mechanism)
                table = await opened.conversation.api_versions(self.settings.login_timeout_seconds)
            except KproxyError as error:
                node.tried.set()
                backoff = self._node_failed(node_id, error, backoff)
                with suppress(TimeoutError):
                    async with asyncio.timeout(backoff):
                        await node.hint.wait()
                if not isinstance(error, AuthError):
                    continue
                await asyncio.sleep(LOGIN_BACKOFF_SECONDS)
                continue
            backoff = 0.0
            if not self.good(opened, node_id, self.settings.mechanism):  # the settings have changed meanwhile
                opened.conversation.close()
                continue
            self._node_is_up(node_id, node, opened.conversation, table)
            lifetime = opened.session_lifetime_ms / 1000 * RENEW_AT or None
            with suppress(TimeoutError):
                async with asyncio.timeout(lifetime) as node.standing:
                    await self._watch(node_id, opened.conversation)
            node.standing = None
            if not opened.conversation.closed.done():
                opened.conversation.close()  # its session ends soon: a new connection is the simplest renewal
                await opened.conversation.closed
            else:
                node.up.clear()
                self._log.info("broker connection lost", broker=node_id)
                self.poke()
            node.conversation = None
        node.up.clear()
        del self._nodes[node_id]

    async def _watch(self, node_id: int, conversation: Conversation) -> None:
        """Return when a control connection has ended; until then ask anew, now and then, what the broker can do.

        A finalized feature, such as transaction.version, changes without a restart.
        """
        while not conversation.closed.done():
            await asyncio.wait((conversation.closed,), timeout=self.settings.refresh_interval_seconds)
            if conversation.closed.done():
                return
            try:
                table = await conversation.api_versions(self.settings.login_timeout_seconds)
            except KproxyError:
                conversation.close()  # it is dialled anew, and what is wrong is told then
                continue
            if self.view.set_table(node_id, table):
                self._on_change(Change([], [], []))

    def _node_is_up(self, node_id: int, node: NodeLink, conversation: Conversation, table: ApiVersionsAnswer) -> None:
        self.login_refused = None
        if node_id not in self.view.brokers:  # forgotten while it was dialled
            conversation.close()
            return
        node.conversation = conversation
        changed = self.view.set_table(node_id, table)
        if not node.up.is_set():
            broker = self.view.brokers[node_id]
            self._log.info("broker is up", broker=node_id, host=broker.host, port=broker.port)
        node.up.set()
        node.tried.set()
        self.ready.set()
        if changed:
            self._on_change(Change([], [], []))

    def _node_failed(self, node_id: int, error: KproxyError, backoff: float) -> float:
        """Note a failed dial of a control connection; return how long to wait before the next."""
        node = self._nodes[node_id]
        node.up.clear()
        node.conversation = None
        if isinstance(error, AuthError):
            self.login_refused = error
            self._complain(LOGIN_REFUSED, error)
            return min(max(backoff * 2, LOGIN_BACKOFF_SECONDS), LOGIN_BACKOFF_SECONDS_MAX)
        self._complain("broker cannot be reached", error, broker=node_id)
        if not backoff:
            self.poke()
        return min(max(backoff * 2, BACKOFF_SECONDS), BACKOFF_SECONDS_MAX)

    def _complain(self, what: str, error: KproxyError, **fields: object) -> None:
        left_out = self._quiet.tell((what, str(error), *fields.values()), asyncio.get_running_loop().time())
        if left_out is not None:
            again = {"repeated": left_out} if left_out else {}
            self._log.warning(what, error=f"{error}{self._hint_at(error)}", **fields, **again)

    def _hint_at(self, error: KproxyError) -> str:
        """Say what a broker that just hangs up may want."""
        wants = [] if self.settings.mechanism else ["a login (sasl)"]
        wants += [] if self.settings.tls else ["TLS"]
        return HANGUP_HINT.format(" or ".join(wants)) if wants and isinstance(error, Hangup) else ""


async def _metadata(conversation: Conversation, table: ApiVersionsAnswer, timeout_seconds: float) -> ClusterAnswer:
    version = min(table.ranges.get(ApiKey.METADATA, (0, 1))[1], METADATA_VERSION_MAX)
    body = await conversation.request(ApiKey.METADATA, version, metadata_request(version, ()), timeout_seconds)
    answer = parse_metadata_response(version, body)
    if not answer.brokers:
        raise UpstreamError("the broker knows no brokers yet")
    return answer
