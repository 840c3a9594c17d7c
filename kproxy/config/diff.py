r"""What it takes to come from one configuration to another while clients are served: a plan, or a refusal.

A plan is told before it is carried out, so it names options and never their values::

    >>> plan = diff(old, new)
    >>> print(*plan.lines(), sep="\n")
    changes cluster main: sasl.password (for new connections to brokers; clients of another login leave when idle)
    starts listener inside
    changes listener public: bind (drains and opens again)

Whether a limit keeps what it has counted is told as well: one that is the same to the letter does, wherever it stands.
Never here: how anything is changed, which is the service's.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from kproxy.config.base import Model
from kproxy.config.model import Cluster, Config, Listener
from kproxy.config.requestlog import RequestLog
from kproxy.errors import ConfigError

Kind = Literal["starts", "stops", "changes"]

REPLACING = frozenset(
    {"cluster", "bind", "advertise", "addressing", "bootstrap_name", "broker_port_start", "broker_ports"}
)
"""What clients of a listener were told, or stands in the way of another: with it a listener is another one."""

OPENS_AGAIN = "drains and opens again"
NEW_CONNECTIONS = "for new connections"
WHO_MAY_COME = "for new connections; one that could not come in now leaves when idle"
NEXT_REQUESTS = "from the next request, on open connections too"
NEW_UPSTREAM = "for new connections to brokers"
OTHER_LOGIN = "for new connections to brokers; clients of another login leave when idle"
ANEW = "counts anew"

_WHO_MAY_COME = frozenset({"tls", "sasl", "access.cidrs"})
"""As a whole: where TLS or a login begins to be asked for."""

_LOGIN = ("sasl", "credentials", "passthrough", "tls")
_SINK = frozenset(
    {"to", "path", "topic", "cluster", "bootstrap", "sasl", "tls", "acks", "delivery_timeout", "queue_max"}
)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that starts, stops or changes."""

    kind: Kind
    what: str
    """``cluster main``, ``listener public``, ``limit calm``, or an option of the configuration itself."""
    details: tuple[str, ...] = ()
    """The options that differ, as ``tls.cert_file``."""
    effect: str = ""
    """How, or for whom."""

    def __str__(self) -> str:
        details = f": {', '.join(self.details)}" if self.details else ""
        return f"{self.kind} {self.what}{details}{f' ({self.effect})' if self.effect else ''}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done, in this order; without steps there is nothing to do."""

    steps: tuple[Step, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.steps)

    def lines(self) -> list[str]:
        """Return a line for each step."""
        return [str(step) for step in self.steps]

    def document(self) -> list[dict[str, Any]]:
        """Return the steps as JSON has them."""
        return [asdict(step) for step in self.steps]


def diff(old: Config, new: Config) -> Plan:
    """Return what must be done to come from ``old`` to ``new``. Raises ConfigError where that takes a restart."""
    if old.workers != new.workers:
        raise ConfigError(
            f"workers: {old.workers} run, and {new.workers} would take another process; "
            "restart kproxy, send it SIGUSR2, or leave it as it is"
        )
    if _to_stdout(new.request_log) and not _to_stdout(old.request_log):
        raise ConfigError(
            "request_log.to: workers have no standard output; restart kproxy, send it SIGUSR2, or log to a file"
        )
    clusters = list(_clusters(old.clusters, new.clusters))
    return Plan(
        (
            *(step for step in clusters if step.kind != "stops"),
            *_limits(old, new),
            *_listeners(old.listeners, new.listeners),
            *(step for step in clusters if step.kind == "stops"),
            *_request_log(old, new),
            *_others(old, new),
        )
    )


def replaced(old: Listener, new: Listener) -> bool:
    """Whether a listener of the same name is another one, which drains while the new one opens."""
    return any(option in REPLACING for option in differing(old, new))


def same_sink(old: Config, new: Config) -> bool:
    """Whether a request log goes on to write where it did."""
    if old.request_log is None or new.request_log is None:
        return old.request_log is new.request_log
    return not _sink_options(old, new, old.request_log, new.request_log)


def differing(old: Model, new: Model) -> Iterator[str]:
    """Yield the options that differ between two models of one kind, each by its path within them."""
    for name in type(old).model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if isinstance(before, Model) and type(before) is type(after):
            yield from (f"{name}.{option}" for option in differing(before, after))
        elif before != after or (name == "credentials" and list(before) != list(after)):  # the first that fits counts
            yield name


def _clusters(old: Mapping[str, Cluster], new: Mapping[str, Cluster]) -> Iterator[Step]:
    for name, cluster in new.items():
        if name not in old:
            yield Step("starts", f"cluster {name}")
            continue
        options = list(differing(old[name], cluster))
        login = tuple(option for option in options if option.partition(".")[0] in _LOGIN)
        yield from _changes(f"cluster {name}", tuple(option for option in options if option not in login), NEW_UPSTREAM)
        yield from _changes(f"cluster {name}", login, OTHER_LOGIN)
    yield from (Step("stops", f"cluster {name}") for name in old if name not in new)


def _listeners(old: Mapping[str, Listener], new: Mapping[str, Listener]) -> Iterator[Step]:
    for name in new:
        if name not in old:
            yield Step("starts", f"listener {name}")
    for name, listener in new.items():
        if name not in old:
            continue
        options = tuple(differing(old[name], listener))
        if replaced(old[name], listener):
            yield from _changes(f"listener {name}", options, OPENS_AGAIN)
            continue
        at_once = tuple(option for option in options if option.startswith("access") and option != "access.cidrs")
        coming = tuple(option for option in options if option in _WHO_MAY_COME)
        others = tuple(option for option in options if option not in (*at_once, *coming))
        yield from _changes(f"listener {name}", others, NEW_CONNECTIONS)
        yield from _changes(f"listener {name}", coming, WHO_MAY_COME)
        yield from _changes(f"listener {name}", at_once, NEXT_REQUESTS)
    for name in old:
        if name not in new:
            yield Step("stops", f"listener {name}", effect="drains")


def _limits(old: Config, new: Config) -> Iterator[Step]:
    before = {limit.name: limit for limit in old.limits}
    after = {limit.name: limit for limit in new.limits}
    yield from (Step("starts", f"limit {name}", effect=NEXT_REQUESTS) for name in after if name not in before)
    for name, limit in after.items():
        if name in before:
            yield from _changes(f"limit {name}", tuple(differing(before[name], limit)), f"{NEXT_REQUESTS}; {ANEW}")
    yield from (Step("stops", f"limit {name}", effect=NEXT_REQUESTS) for name in before if name not in after)
    if [name for name in before if name in after] != [name for name in after if name in before]:
        yield Step("changes", "limits", ("order",), NEXT_REQUESTS)


def _request_log(old: Config, new: Config) -> Iterator[Step]:
    before, after = old.request_log, new.request_log
    if before is None or after is None:
        yield from _one("request_log", before, after)
        return
    options = tuple(differing(before, after))
    sink = _sink_options(old, new, before, after)
    yield from _changes("request_log", sink, "opens again, and what waits is written first")
    yield from _changes("request_log", tuple(option for option in options if option not in sink), NEXT_REQUESTS)


def _sink_options(old: Config, new: Config, before: RequestLog, after: RequestLog) -> tuple[str, ...]:
    """Return the options that differ for which the log opens again."""
    sink = tuple(option for option in differing(before, after) if option.partition(".")[0] in _SINK)
    return sink or (() if _producer(old, before) == _producer(new, after) else ("cluster",))


def _to_stdout(log: RequestLog | None) -> bool:
    return log is not None and log.to == "stdout"


def _producer(config: Config, log: RequestLog) -> object:
    """Return what the log's producer takes from its cluster."""
    cluster = None if log.cluster is None else config.clusters[log.cluster]
    return None if cluster is None else (cluster.bootstrap, cluster.sasl, cluster.tls)


def _others(old: Config, new: Config) -> Iterator[Step]:
    yield from _changes("metrics", tuple(differing(old.metrics, new.metrics)), NEW_CONNECTIONS)
    if old.admin is None or new.admin is None:
        yield from _one("admin", old.admin, new.admin)
    else:
        opens = "opens again" if old.admin.bind != new.admin.bind else "from the next request"
        yield from _changes("admin", tuple(differing(old.admin, new.admin)), opens)
    for option in ("drain_grace", "drain_rebootstrap", "drain_timeout"):
        if getattr(old, option) != getattr(new, option):
            yield Step("changes", option, effect="from now on")


def _one(what: str, old: object, new: object) -> Iterator[Step]:
    """What there is once at most."""
    if (old is None) != (new is None):
        yield Step("starts" if old is None else "stops", what)


def _changes(what: str, options: tuple[str, ...], effect: str) -> Iterator[Step]:
    if options:
        yield Step("changes", what, options, effect)
