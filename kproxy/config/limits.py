"""Limits: how much clients may do, as plain, frozen values.

A limit is of one of four kinds, counts per ``key``, and is about the requests that ``match``. A mistake between its
own fields is told with them; what lies between limits, or between them and listeners, is in ``limitchecks``::

    >>> limit = Limit.model_validate({"name": "calm", "leaky_bucket": {"rate": 100}, "key": ["client_ip"]})
    >>> limit.kind, limit.on_exceed
    (LeakyBucket(unit='requests', rate=100.0, burst=0.0, nodelay=False), 'throttle')

Never here: how a limit is kept, which is the core's.
"""

from typing import Any, Self

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from kproxy.config.base import Model, Name, Switch, written
from kproxy.config.limitvalues import (
    Amount,
    Apis,
    Burst,
    ClientIds,
    ConnectionBurst,
    ConnectionRate,
    Key,
    Listeners,
    Networks,
    OnExceed,
    Principals,
    Rate,
    Unit,
    Waiting,
)
from kproxy.config.problems import listed
from kproxy.config.values import Count, Duration

KINDS = ("leaky_bucket", "fixed_window", "concurrency", "connections")


class LeakyBucket(Model):
    """So many a second, in an even flow (APISIX's limit-req)."""

    # Before the amounts, which are read by it.
    unit: Unit = "requests"
    """What is counted: requests, bytes_in (of requests) or bytes_out (of answers)."""
    rate: Rate
    """How many a second; in bytes also a size, as in 2MiB."""
    # nginx's limit_req, which limit-req follows, has none by default.
    burst: Burst = 0
    """How many may come ahead of the rate: up to it they are spread out, above it on_exceed acts."""
    nodelay: Switch = False
    """Let a burst pass at once instead of spreading it out."""


class FixedWindow(Model):
    """So many within a time that begins with a key's first request (APISIX's limit-count)."""

    # Before the amount, which is read by it.
    unit: Unit = "requests"
    """What is counted: requests, bytes_in (of requests) or bytes_out (of answers)."""
    count: Amount
    """How many in a window; in bytes also a size, as in 100MiB."""
    window: Duration
    """How long a window lasts."""


class Concurrency(Model):
    """So many requests at once that are not answered yet (APISIX's limit-conn)."""

    max: Count
    """How many requests may be in flight."""
    # A fifth of what a broker queues for all of its clients together (queued.max.requests).
    waiting: Waiting = 100
    """How many more may wait for their turn; above it on_exceed acts."""
    count_long_polls: Switch = False
    """Count requests that wait at the broker by design as well, as a Fetch does for new records."""


def _one_at_least(schema: dict[str, Any]) -> None:
    schema["anyOf"] = [{"required": ["max"]}, {"required": ["rate"]}]
    schema["dependentRequired"] = {"burst": ["rate"]}


class Connections(Model):
    """So many connections, or new ones a second; more are closed."""

    model_config = ConfigDict(json_schema_extra=_one_at_least)

    max: Count | None = None
    """How many connections may be open at once."""
    rate: ConnectionRate | None = None
    """How many new connections a second."""
    burst: ConnectionBurst | None = None
    """How many may come ahead of the rate; left out: as many as come in a second."""

    @field_validator("burst")
    @classmethod
    def _burst_needs_a_rate(cls, burst: float | None, info: ValidationInfo) -> float | None:
        if burst is not None and info.data.get("rate", burst) is None:
            raise ValueError("is the burst of a rate, which is not given; give a rate, or leave it out")
        return burst

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.max is None and self.rate is None:
            raise ValueError("limits nothing; give max, rate or both")
        return self


class Match(Model):
    """Which requests, or connections, a limit is about; what is left out matches all."""

    listeners: Listeners | None = None
    """Listeners by name."""
    apis: Apis | None = None
    """APIs by Kafka's names; group and transaction APIs are exempt unless they stand here."""
    principals: Principals | None = None
    """Principals, or patterns with * and ?, as in "User:alice"."""
    client_ids: ClientIds | None = None
    """Client ids, or patterns with * and ?, as in "batch-*"."""
    client_ips: Networks | None = None
    """Client addresses or networks, as in 10.0.0.0/8."""


def _one_kind(schema: dict[str, Any]) -> None:
    schema["oneOf"] = [{"required": [kind]} for kind in KINDS]


class Limit(Model):
    """One limit: of one kind, per key, about what matches."""

    model_config = ConfigDict(json_schema_extra=_one_kind)

    name: Name
    """What logs and counters call it."""
    leaky_bucket: LeakyBucket | None = None
    """So many a second."""
    fixed_window: FixedWindow | None = None
    """So many within a time."""
    concurrency: Concurrency | None = None
    """So many requests in flight."""
    connections: Connections | None = None
    """So many connections."""
    key: Key = ()
    """What has a count of its own: any of client_ip, principal, client_id, listener; none: all clients share one."""
    match: Match = Field(default_factory=Match)
    """Which requests it is about; left out: all, but for group and transaction APIs."""
    # What a broker's own quotas do since KIP-219.
    on_exceed: OnExceed = "throttle"
    """delay, throttle, reject or close; connections can only be closed."""
    # librdkafka, aiokafka, kafkajs and sarama give a record up when its Produce is answered so.
    reject_produce: Switch = False
    """With on_exceed reject: answer Produce with THROTTLING_QUOTA_EXCEEDED too, which not every client retries."""
    # Kafka's request.timeout.ms: a client that waits longer for an answer gives the connection up.
    max_wait: Duration = written("30s")
    """The longest wait that this limit imposes; what would have to wait longer passes after it all the same."""
    dry_run: Switch = False
    """Count and log what would happen, and do nothing."""
    # Each costs well below 1 KiB, so 100 MiB at the very most. nginx's limit_req_zone keeps 160,000 in its usual 10m.
    keys_max: Count = 100_000
    """How many keys are remembered at once."""

    @model_validator(mode="before")
    @classmethod
    def _connections_are_closed(cls, data: object) -> object:
        """Give on_exceed its other default."""
        if isinstance(data, dict) and data.get("connections") is not None and "on_exceed" not in data:
            return {**data, "on_exceed": "close"}
        return data

    @field_validator("on_exceed")
    @classmethod
    def _close_alone(cls, on_exceed: OnExceed, info: ValidationInfo) -> OnExceed:
        # Absent where they are ill-formed, which is told already.
        if info.data.get("connections", "given") is not None and on_exceed != "close":
            raise ValueError(f"{on_exceed!r} is for requests, and connections can only be closed; leave it out")
        return on_exceed

    @field_validator("reject_produce")
    @classmethod
    def _only_with_reject(cls, reject_produce: bool, info: ValidationInfo) -> bool:
        if reject_produce and info.data.get("on_exceed", "reject") != "reject":
            raise ValueError("belongs to on_exceed: reject; set that, or leave it out")
        return reject_produce

    @model_validator(mode="after")
    def _one_of_the_kinds(self) -> Self:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if not given:
            raise ValueError(f"give one of {', '.join(KINDS)}")
        if len(given) > 1:
            number = "two" if len(given) == 2 else str(len(given))
            raise ValueError(f"{listed(given)} are {number} limits; write an entry for each")
        return self

    @property
    def kind(self) -> LeakyBucket | FixedWindow | Concurrency | Connections:
        """The one of the four that is given."""
        kind = self.leaky_bucket or self.fixed_window or self.concurrency or self.connections
        if kind is None:
            raise AssertionError("a limit of no kind")  # refused when it was made
        return kind
