"""What one worker serves: clusters, listeners, limits, who gets in, and the request log; and how all that changes.

A change has two steps (see turnover): what can fail is made beside what is at work, then it takes its place at once::

    made = await serving.prepare(config)        # files are read, a log is opened
    serving.apply(made)                         # or ``await serving.forget(made)``

What is configured in the same words goes on untouched. A listener that opens other ports, or tells clients other
addresses, is another one: it drains while its successor opens. Never here: the supervisor's messages, which are the
worker's.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from kproxy.config.diff import replaced, same_sink
from kproxy.config.model import Config
from kproxy.core.view import Change
from kproxy.errors import KproxyError, UpstreamError
from kproxy.net.farewell import ASK_SECONDS, Farewell, Fellows
from kproxy.net.link import ClusterLink
from kproxy.net.listeners import Around, Listener, SocketSource
from kproxy.net.tasks import Tasks
from kproxy.net.turns import Turns
from kproxy.observe.requestlog import RequestLog
from kproxy.service import build
from kproxy.service.doors import Doors
from kproxy.service.limiting import Limiting

_log = structlog.get_logger(__name__)

SETTLE_SECONDS = 5.0
"""How long the first offer waits for brokers that are in the cluster's Metadata but do not answer."""

TOKEN_SECONDS = 5.0
"""How long a change waits for the first token for the brokers; half of what a worker may take to prepare."""

RETRY_SECONDS = 5.0
"""How soon a listener that could not open after a change is tried again."""


@dataclass(frozen=True, slots=True)
class Made:
    """What another configuration needs, ready to take its place."""

    config: Config
    doors: Doors
    request_log: RequestLog | None


class Serving:
    """See the module. ``start`` it, ``open`` it, ``drain`` it, ``close`` it; in between it may change."""

    def __init__(self, config: Config, sockets: SocketSource, turns: Turns | None, decoy_key: bytes) -> None:
        """Prepare to serve; ``turns``: among the workers, ``decoy_key``: see Doors.

        Raises ConfigError for what is wrong with files.
        """
        self.config = config
        self.links: dict[str, ClusterLink] = {}
        self.listeners: dict[str, Listener] = {}
        self.limiting = Limiting(config, together=turns is not None)
        self.on_forgotten: Callable[[str, int], None] = lambda _listener, _node_id: None
        """Is told of a broker whose port a listener needs no more."""
        self.on_opened: Callable[[str, str], None] = lambda _listener, _address: None
        """Is told of a listener that has opened after a change, and its address."""
        self._sockets = sockets
        self._turns = turns
        self._decoy_key = decoy_key
        self._doors = Doors(config, decoy_key)
        self._request_log: RequestLog | None = None
        self._logs_of_before: set[RequestLog] = set()  # that still write what they have
        self._logged: Counter[str] = Counter()  # by logs and listeners that have ended
        self._opening: dict[str, asyncio.Task[None]] = {}
        self._leaving: set[Listener] = set()
        self._started = asyncio.Event()
        self._tasks = Tasks()

    async def start(self) -> None:
        """Begin to look for clusters, and make listeners, none of them open. Raises KproxyError."""
        await self._doors.start()
        self._request_log = build.request_log(self.config)
        for name in self.config.clusters:
            self._start_link(name)
        for name in self.config.listeners:
            self._make_listener(name)
        self._started.set()

    async def open(self) -> None:
        """Open every listener once its cluster has answered. Raises OSError, KproxyError.

        Those that a change has replaced or taken away meanwhile are not waited for.
        """
        errors: list[OSError | KproxyError] = []
        mine = {
            name: self._tasks.spawn(f"open {name}", self._open_first(listener, errors))
            for name, listener in self.listeners.items()
            if name not in self._opening
        }
        self._opening |= mine
        if mine:
            await asyncio.wait(mine.values())
        for error in errors:
            raise error

    # A change.

    async def prepare(self, config: Config) -> Made:
        """Make what ``config`` needs. Raises KproxyError, and has made nothing, where that fails."""
        await self._started.wait()
        doors = await asyncio.to_thread(partial(Doors, config, self._decoy_key, before=self._doors))
        try:
            await self._start_doors(doors)
            same = self._request_log is not None and same_sink(self.config, config)
            log = self._request_log if same else build.request_log(config)
        except BaseException:
            await doors.close(self._doors)
            raise
        return Made(config, doors, log)

    async def _start_doors(self, doors: Doors) -> None:
        if not await doors.start(TOKEN_SECONDS):
            raise UpstreamError(f"there is no token for the brokers after {TOKEN_SECONDS:g} s")

    async def forget(self, made: Made) -> None:
        """Give up what was made."""
        await made.doors.close(self._doors)
        if made.request_log is not None and made.request_log is not self._request_log:
            await made.request_log.close()

    def apply(self, made: Made) -> None:
        """Go on by what was made."""
        old, self.config = self.config, made.config
        self._take(made)
        if self.config.limits != old.limits:
            self.limiting.change(self.config)
        gone = [listener for name, listener in self.listeners.items() if not self._stays(name, old)]
        heirs = {listener.settings.name: listener.tally for listener in gone}
        for listener in gone:
            self._leave(listener)
        for name, cluster in self.config.clusters.items():
            if name not in self.links:
                self._start_link(name)
            else:
                self.links[name].change(build.cluster_settings(name, cluster, self._doors))
        for name in self.config.listeners:
            if name in self.listeners:
                self.listeners[name].change(self._settings(name), self._around(name))
            else:
                listener = self._make_listener(name, heirs.get(name))
                self._opening[name] = self._tasks.spawn(f"open {name}", self._open_at_last(listener))
        for name in [name for name in self.links if name not in self.config.clusters]:
            self._tasks.spawn(f"leave cluster {name}", self._end_link(self.links.pop(name)))

    def _take(self, made: Made) -> None:
        doors, self._doors = self._doors, made.doors
        self._tasks.spawn("doors of before", doors.close(made.doors))
        log, self._request_log = self._request_log, made.request_log
        if log is not None and log is not made.request_log:
            self._logs_of_before.add(log)
            self._tasks.spawn("request log of before", self._end_log(log))
        elif log is not None and self.config.request_log is not None:
            log.settings = build.log_settings(self.config.request_log)

    async def _end_log(self, log: RequestLog) -> None:
        await log.close()
        self._logs_of_before.discard(log)
        self._logged.update(log.snapshot())

    def _stays(self, name: str, old: Config) -> bool:
        now = self.config.listeners.get(name)
        return now is not None and not replaced(old.listeners[name], now)

    def look_at_files(self) -> None:
        """Look at certificates and users now, whatever their interval."""
        self._doors.look()

    # Listeners and clusters.

    def _settings(self, name: str) -> Any:  # noqa: ANN401  build knows
        return build.listener_settings(name, self.config.listeners[name], self._doors, self.config.workers)

    def _around(self, name: str) -> Around:
        return Around(
            limits=self.limiting.limits,
            watch=build.watch(self.config, name, self._request_log),
            executor=self._doors.executor,
            **build.looking_in(self.config),
        )

    def _make_listener(self, name: str, tally: Any = None) -> Listener:  # noqa: ANN401
        link = self.links[self.config.listeners[name].cluster]
        listener = Listener(
            self._settings(name), link, self._sockets, self._around(name), turns=self._turns, tally=tally
        )
        self.listeners[name] = listener
        return listener

    async def _open(self, listener: Listener, *, patiently: bool) -> None:
        await listener.link.ready.wait()
        await listener.link.settle(SETTLE_SECONDS)
        await listener.open(patiently=patiently)

    async def _open_first(self, listener: Listener, errors: list[OSError | KproxyError]) -> None:
        try:
            await self._open(listener, patiently=False)
        except (OSError, KproxyError) as error:
            errors.append(error)
        self._opening.pop(listener.settings.name, None)

    async def _open_at_last(self, listener: Listener) -> None:
        name = listener.settings.name
        while True:
            try:
                await self._open(listener, patiently=True)
            except (OSError, KproxyError) as error:
                _log.error("listener cannot be opened; trying again", listener=name, error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                break
        self._opening.pop(name, None)
        self.on_opened(name, listener.address)

    def _leave(self, listener: Listener) -> None:
        """Let a listener's clients go, and the listener with them."""
        name = listener.settings.name
        del self.listeners[name]
        opening = self._opening.pop(name, None)
        if opening is not None:
            opening.cancel()
        listener.shut()
        self._leaving.add(listener)
        self._tasks.spawn(f"leave {name}", self._end_listener(listener))

    async def _end_listener(self, listener: Listener) -> None:
        await self._drain((listener,), away=True)
        await listener.close()
        self._leaving.discard(listener)
        self._logged["missed"] += listener.missed
        if listener.link not in self.links.values():
            await self._end_link(listener.link)
        _log.info("listener has drained", listener=listener.settings.name)

    def _start_link(self, name: str) -> None:
        settings = build.cluster_settings(name, self.config.clusters[name], self._doors)
        link = self.links[name] = ClusterLink(settings, lambda change: self._changed(link, change))
        link.start()

    async def _end_link(self, link: ClusterLink) -> None:
        """Close a link that is no more configured, once nobody needs it."""
        if not any(listener.link is link for listener in self._leaving):
            await link.close()

    def _changed(self, link: ClusterLink, change: Change) -> None:
        for listener in self._leaving:
            if listener.link is link:
                listener.cluster_changed(change)
        for name, listener in self.listeners.items():
            if listener.link is link:
                listener.cluster_changed(change)
                for node_id in change.forgotten:
                    self.on_forgotten(name, node_id)

    # What it tells, and its end.

    def addresses(self) -> list[tuple[str, str]]:
        """Return the listeners that are open, and where clients reach them."""
        return [(name, listener.address) for name, listener in self.listeners.items() if listener.is_open]

    def tally(self) -> dict[str, Any]:
        """Return what there is to count, as plain values."""
        now = asyncio.get_running_loop().time()
        told: dict[str, Any] = {"listeners": {name: one.snapshot() for name, one in self.listeners.items()}}
        if self.limiting.limits is not None:
            told["limits"] = self.limiting.limits.snapshot(now)
        if request_log := self.logged():
            told["request_log"] = request_log
        return told

    def logged(self) -> dict[str, int]:
        """Return what request logs have counted, those of before included; nothing where there was none."""
        counts = self._logged.copy()
        for log in (*self._logs_of_before, self._request_log):
            if log is not None:
                counts.update(log.snapshot())
        if "entries" not in counts:
            return {}
        counts["missed"] += sum(listener.missed for listener in self._all())
        return dict(counts)

    def left(self) -> tuple[int, int]:
        """Return how many connections there are, and how many of them are owed an answer."""
        clients = [client for listener in self._all() for client in listener.clients]
        return len(clients), sum(client.busy for client in clients)

    def _all(self) -> Iterator[Listener]:
        yield from self.listeners.values()
        yield from self._leaving

    async def drain(self, *, away: bool, fellows: Fellows | None = None) -> None:
        """Let everything that is under way finish, within the configured bound, and write the log.

        ``away``: nobody serves here afterwards. ``fellows``: the other workers, which drain now, too.
        """
        for opening in self._opening.values():
            opening.cancel()
        await self._drain(tuple(self._all()), away=away, fellows=fellows)
        if self._request_log is not None:
            await self._request_log.close()

    async def _drain(self, listeners: Iterable[Listener], *, away: bool, fellows: Fellows | None = None) -> None:
        rebootstrap = away and self.config.drain_rebootstrap
        farewell = Farewell(fellows if rebootstrap else None)
        for listener in listeners:
            listener.leave(farewell)
            if rebootstrap:
                farewell.add(listener.clients)
        timeout = self.config.drain_timeout
        await farewell.begin(min(ASK_SECONDS, timeout / 2))
        await asyncio.gather(*(listener.drain(timeout, farewell) for listener in listeners))

    async def close(self) -> None:
        """End what is left."""
        await self._tasks.close()
        for listener in list(self._all()):
            await listener.close()
        for link in self.links.values():
            await link.close()
        await self._doors.close()
