"""The request log: what exchanges tell of requests, as one JSON object each, handed to a sink that never is waited for.

An entry goes into a queue; after ``linger``, or when a batch is full, some entries at a time are written as JSON and
given to the sink, which has threads of its own. Where the sink does not keep up, the queue fills, and what comes then
is dropped and counted: a log cluster that is down, or a full disk, costs traffic nothing::

    {"time": "2026-01-01T00:00:00.000Z", "listener": "public", "client_ip": "10.0.0.1", "client_port": 40001,
     "principal": "User:ANONYMOUS", "client_id": "app", "software": "librdkafka", "software_version": "2.13.0",
     "api": "Produce", "version": 10, "correlation_id": 7, "topic": "orders", "topic_id": null, "broker": 1,
     "request_bytes": 190, "response_bytes": 57, "answered_by": "broker", "error_code": null, "throttle_ms": null,
     "latency_ms": 3.25, "kproxy_ms": 0.0, "upstream_ms": 3.25}

Never here: a record, a credential, or anything else that a request holds beyond its header and its first topic.
"""

import asyncio
import base64
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from kproxy.core.observed import Observation
from kproxy.observe.sinks import Sink
from kproxy.wire.apis import APIS

_log = structlog.get_logger(__name__)

BATCH_MAX = 500
"""As many entries are written before ``linger`` is over. A tenth of a second's at 5,000 requests a second."""

STEP_MAX = 50
"""As many entries are made JSON in one go: 0.6 ms, in which no traffic is served."""

TELL_SECONDS = 30.0
"""How often at most the log tells that entries are dropped."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What the request log must know; times in seconds."""

    fields: tuple[str, ...] | None = None
    """What is told, in this order; None: all."""
    key: str | None = None
    """The field that is an entry's key, for sinks that know keys."""
    queue_max: int = 10_000
    linger_seconds: float = 1.0
    flush_timeout_seconds: float = 5.0


class RequestLog:
    """One request log, on the running loop. ``take`` is for exchanges; ``close`` it once."""

    def __init__(self, settings: LogSettings, sink: Sink) -> None:
        """Begin; ``sink`` is the log's own from here on."""
        self.settings = settings
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Observation] = deque()
        self._timer: asyncio.Handle | None = None
        self._told_at = -TELL_SECONDS
        self._told = 0
        self._closed = False
        self.taken = 0
        self.dropped = 0
        """For want of room here, not counting what the sink has lost."""

    def take(self, observation: Observation) -> None:
        """Log a request; it is dropped where there is no room, and once the log is closed."""
        queue = self._queue
        if self._closed:
            self.dropped += 1
            return
        if len(queue) + self._sink.waiting >= self.settings.queue_max:
            self.dropped += 1
        else:
            self.taken += 1
            queue.append(observation)
        if self._timer is None:
            self._timer = self._loop.call_later(self.settings.linger_seconds, self._write)
        elif len(queue) == BATCH_MAX:
            self._again(0)

    def snapshot(self) -> dict[str, int]:
        """Return the counters: entries taken, dropped here or lost by the sink, and waiting."""
        self._sink.attend()  # librdkafka counts its own events among what waits until they are heard
        lost = self._sink.lost
        return {
            "entries": self.taken,
            "dropped": self.dropped + lost,
            "waiting": len(self._queue) + self._sink.waiting,
        }

    async def close(self) -> None:
        """Write what is left, within the bound; what is left then is dropped."""
        self._closed = True
        with_end = self._loop.time() + self.settings.flush_timeout_seconds
        while self._queue and self._loop.time() < with_end:
            self._step()
            await asyncio.sleep(0)
        self._stop_timer()
        self.dropped += len(self._queue)
        self._queue.clear()
        await self._sink.close(max(with_end - self._loop.time(), 0.0))
        if self.dropped + self._sink.lost > self._told:
            _log.warning("request log dropped entries", dropped=self.dropped + self._sink.lost)

    def _write(self) -> None:
        """Write some entries; come again as long as there is something to do."""
        self._timer = None
        sink = self._sink
        sink.attend()
        self._step()
        self._tell_of_drops()
        if self._queue:
            self._again(0)
        elif sink.waiting:
            self._again(self.settings.linger_seconds)

    def _step(self) -> None:
        queue, settings = self._queue, self.settings
        ahead = time.time() - time.monotonic()
        lines: list[tuple[bytes | None, bytes]] = []
        for _ in range(min(len(queue), STEP_MAX)):
            entry = entry_of(queue.popleft(), ahead)
            key = None if settings.key is None or entry[settings.key] is None else str(entry[settings.key]).encode()
            if settings.fields is not None:
                entry = {name: entry[name] for name in settings.fields}
            lines.append((key, _ENCODE(entry).encode()))
        if lines:
            self._sink.put(lines)

    def _again(self, delay_seconds: float) -> None:
        self._stop_timer()
        self._timer = self._loop.call_later(delay_seconds, self._write)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tell_of_drops(self) -> None:
        dropped, now = self.dropped + self._sink.lost, self._loop.time()
        if dropped > self._told and now - self._told_at >= TELL_SECONDS:
            error = {"error": self._sink.error} if self._sink.error else {}
            _log.warning("request log drops entries", dropped=dropped - self._told, **error)
            self._told, self._told_at = dropped, now


_ENCODE: Callable[[Any], str] = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def entry_of(seen: Observation, ahead_seconds: float) -> dict[str, Any]:
    """Return what is told of a request; ``ahead_seconds``: how far the time of day is ahead of the Watch's clock."""
    client, software = seen.client, seen.software
    upstream = seen.upstream_seconds
    when = datetime.fromtimestamp(seen.read_at + ahead_seconds, UTC)
    return {
        "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "listener": client.listener,
        "client_ip": client.client_ip,
        "client_port": seen.client_port,
        "principal": client.principal,
        "client_id": client.client_id,
        "software": None if software is None else software.name,
        "software_version": None if software is None else software.version,
        "api": APIS[seen.key].name,
        "version": seen.version,
        "correlation_id": seen.correlation_id,
        "topic": seen.topic,
        # As Kafka writes ids (org.apache.kafka.common.Uuid).
        "topic_id": None if seen.topic_id is None else base64.urlsafe_b64encode(seen.topic_id)[:22].decode(),
        "broker": seen.node_id,
        "request_bytes": seen.request_bytes,
        "response_bytes": seen.response_bytes,
        "answered_by": str(seen.answered_by),
        "error_code": seen.error_code,
        "throttle_ms": seen.throttle_time_ms,
        "latency_ms": round((seen.kproxy_seconds + (upstream or 0.0)) * 1000, 3),
        "kproxy_ms": round(seen.kproxy_seconds * 1000, 3),
        "upstream_ms": None if upstream is None else round(upstream * 1000, 3),
    }
