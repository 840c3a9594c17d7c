"""/metrics: what workers have counted, in Prometheus's terms.

A collector over snapshots: nothing here is touched by a request. Every label's values are bounded, as they come from
the configuration (listeners, limits, clusters), from Kafka's own lists (APIs, errors, causes), from the cluster
(brokers), or are cut (principals, client ids: the rest is told as ``(others)``)::

    kproxy_requests_total{listener="public",api="Metadata"} 12.0
    kproxy_connections{listener="public"} 3.0

Units are in the names, and what only grows ends with ``_total``. Never here: a question to a worker.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from kproxy.core.lag import BOUNDS_SECONDS as LAG_BOUNDS_SECONDS
from kproxy.core.tally import OTHERS

PRINCIPALS_TOLD = 50
"""How many principals have a series of their own: those with the most connections."""

Counters = Mapping[str, Any]
Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Process:
    """One of kproxy's processes."""

    name: str
    """``supervisor``, or ``worker-0`` and so on."""
    pid: int
    resident_bytes: int
    cpu_seconds: float
    descriptors: int
    tasks: int | None = None
    """Of asyncio's; None: it has not told in time."""
    connections: int | None = None
    """Of clients; None: likewise, or it serves none."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that is told in one scrape."""

    version: str
    started_at: float
    ready: bool
    draining: bool
    workers: int
    workers_started: int
    counters: Counters
    """Of all workers together (service.status)."""
    clusters: Mapping[str, Mapping[str, Any]]
    """By name, the brokers of each by id, with ``up``."""
    listener_clusters: Mapping[str, str]
    """Which cluster is behind a listener."""
    connections_max: Mapping[str, int]
    """Of each listener."""
    processes: Sequence[Process]
    descriptors_max: int
    """Of each process."""
    reloads: Mapping[str, Any] = field(default_factory=dict)
    """Changes of the configuration: succeeded, refused, changed_at."""


@dataclass(slots=True)
class Kept:
    """The client ids that are told apart: those that came first, so that no series ever ends and begins anew."""

    ids_max: int
    names: set[str] = field(default_factory=set)

    def name_of(self, client_id: str) -> str:
        """Return what a client id is told as."""
        if client_id in self.names:
            return client_id
        if len(self.names) >= self.ids_max:
            return OTHERS
        self.names.add(client_id)
        return client_id


def expose(snapshot: Snapshot, accept: str, kept: Kept, latency_bounds: Sequence[float] = ()) -> tuple[bytes, str]:
    """Write a scrape; return it and its content type, which follows from the scraper's Accept header.

    ``latency_bounds``: the upper bounds, in seconds, of what listeners' counters have under ``latency``.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshot, kept, latency_bounds))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Collector(Collector):
    def __init__(self, snapshot: Snapshot, kept: Kept, latency_bounds: Sequence[float]) -> None:
        self._snapshot = snapshot
        self._kept = kept
        self._latency_bounds = latency_bounds
        self._listeners: Mapping[str, Counters] = snapshot.counters.get("listeners", {})

    def collect(self) -> Iterator[Metric]:
        """Yield every family there is."""
        yield from self._program()
        yield from self._traffic()
        yield from self._connections()
        yield from self._doors()
        yield from self._upstream()
        yield from self._limits()
        yield from self._request_log()
        yield from self._client_ids()
        yield from self._latency()

    # What the program is and uses.

    def _program(self) -> Iterator[Metric]:
        now = self._snapshot
        yield _gauge("build_info", "Always 1; the version is a label.", ("version",), [((now.version,), 1)])
        yield _gauge("start_time_seconds", "When kproxy started, in seconds since 1970.", (), [((), now.started_at)])
        ready = "1 while clients can be served, which is what /readyz says."
        yield _gauge("ready", ready, (), [((), now.ready)])
        yield _gauge("draining", "1 from the moment kproxy was asked to stop.", (), [((), now.draining)])
        yield _gauge("workers", "Worker processes that run.", (), [((), now.workers)])
        text = "Worker processes started so far; more than there are means that some died."
        yield _counter("workers_started", text, (), [((), now.workers_started)])
        of = now.processes
        memory = "Resident memory of a process."
        yield _gauge("process_resident_memory_bytes", memory, ("process",), [((p.name,), p.resident_bytes) for p in of])
        cpu = "Processor time that a process has used."
        yield _counter("process_cpu_seconds", cpu, ("process",), [((p.name,), p.cpu_seconds) for p in of])
        files = "Files and sockets that a process has open."
        yield _gauge("process_open_descriptors", files, ("process",), [((p.name,), p.descriptors) for p in of])
        text = "Tasks of asyncio that a process has: a few per listener and broker, one per dial, none per connection."
        yield _gauge("process_tasks", text, ("process",), [((p.name,), p.tasks) for p in of if p.tasks is not None])
        text = "Connections of clients that a worker has."
        told = [((p.name,), p.connections) for p in of if p.connections is not None]
        yield _gauge("process_connections", text, ("process",), told)
        text = "How many files and sockets a process may have open."
        yield _gauge("process_max_descriptors", text, (), [((), now.descriptors_max)])
        results = [((result,), now.reloads[result]) for result in ("succeeded", "refused") if result in now.reloads]
        text = "Configurations that were to be applied, from the file, SIGHUP or the admin API."
        yield _counter("reloads", text, ("result",), results)
        at = now.reloads.get("changed_at")
        text = "When a configuration was last applied, in seconds since 1970; absent: not since the start."
        yield _gauge("last_reload_time_seconds", text, (), [] if at is None else [((), at)])
        lag = now.counters.get("loop_lag")
        if lag is not None:
            text = "How late workers serve what is ready, sampled ten times a second."
            yield _histogram("worker_loop_lag_seconds", text, LAG_BOUNDS_SECONDS, (), [((), lag)])

    # What passes.

    def _traffic(self) -> Iterator[Metric]:
        requests = [
            ((name, api), count)
            for name, listener in self._listeners.items()
            for api, count in listener.get("requests", {}).items()
        ]
        yield _counter("requests", "Requests of clients.", ("listener", "api"), requests)
        now = [
            ((name,), listener["in_flight"]) for name, listener in self._listeners.items() if "in_flight" in listener
        ]
        text = "Requests that a broker has yet to answer, a Fetch that waits for records included."
        yield _gauge("requests_in_flight", text, ("listener",), now)
        yield self._per_listener("received_bytes", "Bytes read from clients.", "bytes_in")
        yield self._per_listener("sent_bytes", "Bytes written to clients.", "bytes_out")
        text = "Bytes read from clients that no broker could be given, as none could be reached in time."
        yield self._per_listener("lost_bytes", text, "lost_bytes")

    def _connections(self) -> Iterator[Metric]:
        now = [((name,), listener["connections"]) for name, listener in self._listeners.items() if _open(listener)]
        yield _gauge("connections", "Connections of clients that are open.", ("listener",), now)
        text = "How many connections of clients there may be, over all workers."
        most = [((name,), many) for name, many in self._snapshot.connections_max.items()]
        yield _gauge("connections_max", text, ("listener",), most)
        yield self._per_listener("connections_opened", "Connections of clients so far.", "opened")
        closed = [
            ((name, cause), count)
            for name, listener in self._listeners.items()
            for cause, count in listener.get("closed", {}).items()
        ]
        text = "Connections of clients that have ended, by cause."
        yield _counter("connections_closed", text, ("listener", "cause"), closed)
        principals: Mapping[str, int] = self._snapshot.counters.get("principals", {})
        named = {name: count for name, count in principals.items() if name != OTHERS}
        told = dict(nlargest(PRINCIPALS_TOLD, named.items(), key=lambda entry: entry[1]))
        rest = sum(principals.values()) - sum(told.values())
        told |= {OTHERS: rest} if rest else {}
        text = f"Connections that are open, by principal: the {PRINCIPALS_TOLD} with the most."
        yield _gauge("principal_connections", text, ("principal",), [((name,), count) for name, count in told.items()])

    def _doors(self) -> Iterator[Metric]:
        """Tell who got in, and who did not."""
        logins = [
            ((name, mechanism, result), count)
            for name, listener in self._listeners.items()
            for key, result in (("logins", "in"), ("logins_refused", "refused"))
            for mechanism, count in listener.get(key, {}).items()
        ]
        text = "Logins of clients, those of one connection anew (KIP-368) included."
        yield _counter("client_logins", text, ("listener", "mechanism", "result"), logins)
        away = [
            ((name, cause), count)
            for name, listener in self._listeners.items()
            for cause, count in listener.get("turned_away", {}).items()
        ]
        text = "Connections that ended before their client was in, by cause."
        yield _counter("connections_turned_away", text, ("listener", "cause"), away)
        waiting = [
            ((name,), listener["waiting"]) for name, listener in self._listeners.items() if "waiting" in listener
        ]
        yield _gauge("connections_waiting", "Connections that are on their way in.", ("listener",), waiting)
        denied = [
            ((name, *what.split(" ", 1)), count)
            for name, listener in self._listeners.items()
            for what, count in listener.get("denied", {}).items()
        ]
        text = "What access rules denied, by API and resource type; with dry_run: would have."
        yield _counter("denied", text, ("listener", "api", "resource"), denied)

    # Brokers.

    def _upstream(self) -> Iterator[Metric]:
        up = [
            ((cluster, node_id), broker["up"])
            for cluster, health in self._snapshot.clusters.items()
            for node_id, broker in health["brokers"].items()
        ]
        yield _gauge("broker_up", "1 while kproxy's own connection to a broker stands.", ("cluster", "broker"), up)
        labels = ("cluster", "broker")
        text = "Connections to brokers that were tried for clients."
        yield _counter("upstream_dials", text, labels, self._per_broker("dials_by_broker"))
        text = "Those of them that failed, logins included."
        yield _counter("upstream_dial_failures", text, labels, self._per_broker("dial_failures_by_broker"))
        failures: dict[str, int] = dict(self._snapshot.counters.get("login_failures", {}))
        text = "Logins of kproxy that brokers refused."
        yield _counter("upstream_login_failures", text, ("cluster",), [((name,), n) for name, n in failures.items()])
        text = "Logins of kproxy at brokers that were renewed in time (KIP-368)."
        yield self._per_listener("upstream_reauthentications", text, "reauthentications")

    def _per_broker(self, name: str) -> list[tuple[Labels, float]]:
        """Add listeners of the same cluster up."""
        sums: dict[Labels, float] = {}
        for listener, counters in self._listeners.items():
            cluster = self._snapshot.listener_clusters.get(listener, "")
            for node_id, count in counters.get(name, {}).items():
                sums[cluster, node_id] = sums.get((cluster, node_id), 0) + count
        return list(sums.items())

    # Limits.

    def _limits(self) -> Iterator[Metric]:
        limits: Mapping[str, Counters] = self._snapshot.counters.get("limits", {})

        def each(key: str) -> list[tuple[Labels, float]]:
            return [((name,), limit[key]) for name, limit in limits.items() if key in limit]

        yield _counter("limit_asked", "Requests, or connections, that a limit counted.", ("limit",), each("asked"))
        decisions = [
            ((name, decision), limit[decision])
            for name, limit in limits.items()
            for decision in ("delayed", "throttled", "rejected", "closed")
        ]
        text = "What a limit did to requests or connections; with dry_run: would have done."
        yield _counter("limit_decisions", text, ("limit", "decision"), decisions)
        text = "Seconds for which a limit held requests up, or told clients to wait."
        yield _counter("limit_delay_seconds", text, ("limit",), each("delay_seconds"))
        yield _gauge("limit_keys", "Keys that a limit remembers.", ("limit",), each("keys"))
        text = "How often a key had to share a count, as keys_max was reached."
        yield _counter("limit_keys_refused", text, ("limit",), each("keys_refused"))

    # On request.

    def _request_log(self) -> Iterator[Metric]:
        log: Counters = self._snapshot.counters.get("request_log", {})
        if not log:
            return
        text = "Requests that the request log took, those that it could not write afterwards included."
        yield _counter("request_log_entries", text, (), [((), log["entries"])])
        text = "Entries of the request log that were dropped, for want of room or as they could not be written."
        yield _counter("request_log_dropped", text, (), [((), log["dropped"])])
        text = "Requests that the log was not told of, as their connection had too many under watch."
        yield _counter("request_log_missed", text, (), [((), log["missed"])])
        if "waiting" in log:
            yield _gauge("request_log_waiting", "Entries that wait to be written.", (), [((), log["waiting"])])

    def _client_ids(self) -> Iterator[Metric]:
        sums: dict[str, list[float]] = {}
        for listener in self._listeners.values():
            for client_id, numbers in listener.get("client_ids", {}).items():
                told = client_id if client_id == OTHERS else self._kept.name_of(client_id)
                before = sums.get(told, [0.0] * len(numbers))
                sums[told] = [one + other for one, other in zip(before, numbers, strict=True)]
        if not sums:
            return
        for index, (name, text) in enumerate(
            (
                ("client_id_requests", "Requests by client id."),
                ("client_id_received_bytes", "Bytes read from clients, by client id."),
                ("client_id_sent_bytes", "Bytes written to clients, by client id."),
            )
        ):
            yield _counter(name, text, ("client_id",), [((told,), numbers[index]) for told, numbers in sums.items()])

    def _latency(self) -> Iterator[Metric]:
        """Where requests' time goes, and how they went, once listeners' counters have it: API -> part -> buckets."""
        found = [
            ((name, api, part), histogram)
            for name, listener in self._listeners.items()
            for api, parts in listener.get("latency", {}).items()
            for part, histogram in parts.items()
        ]
        if found and self._latency_bounds:
            text = "Where requests' time goes: in kproxy, or upstream; of one request a read at most."
            labels = ("listener", "api", "part")
            yield _histogram("request_duration_seconds", text, self._latency_bounds, labels, found)
        errors = [
            ((name, api, error), count)
            for name, listener in self._listeners.items()
            for api, by_error in listener.get("timed_errors", {}).items()
            for error, count in by_error.items()
        ]
        if errors:
            text = "Answers of brokers with an error as a whole, of those in request_duration_seconds (part=upstream)."
            yield _counter("timed_errors", text, ("listener", "api", "error"), errors)

    def _per_listener(self, name: str, text: str, key: str) -> Metric:
        return _counter(
            name, text, ("listener",), [((at,), of[key]) for at, of in self._listeners.items() if key in of]
        )


def _open(listener: Counters) -> bool:
    return "connections" in listener


def _gauge(name: str, text: str, labels: Labels, samples: Iterable[tuple[Labels, float]]) -> Metric:
    family = GaugeMetricFamily(f"kproxy_{name}", text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _counter(name: str, text: str, labels: Labels, samples: Iterable[tuple[Labels, float]]) -> Metric:
    family = CounterMetricFamily(f"kproxy_{name}", text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _in_order(buckets: Mapping[str, int] | Sequence[int]) -> Iterable[int]:
    """Return what fell into each bucket, the smallest bound first; as mappings they are in that order."""
    return buckets.values() if isinstance(buckets, Mapping) else buckets


def _histogram(
    name: str, text: str, bounds: Sequence[float], labels: Labels, samples: Iterable[tuple[Labels, Counters]]
) -> Metric:
    """Sum buckets up, as Prometheus has them."""
    family = HistogramMetricFamily(f"kproxy_{name}", text, labels=labels)
    for values, histogram in samples:
        at_most = 0
        buckets = []
        for bound, count in zip((*map(str, bounds), "+Inf"), _in_order(histogram["buckets"]), strict=True):
            at_most += count
            buckets.append((bound, at_most))
        family.add_metric(values, buckets, histogram["sum_seconds"])
    return family
