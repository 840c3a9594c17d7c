"""The request log: which requests are told of, what of them, and where to.

One JSON object per request, to a Kafka topic, a file or standard output::

    request_log: {to: kafka, topic: kproxy-requests, cluster: audit, sample: 0.01}
    request_log: {to: file, path: /var/log/kproxy/requests.jsonl, match: {apis: [Produce], principals: ["User:a*"]}}

What belongs together is checked here; what lies between the log and clusters or listeners, by ``mistakes``, and what
works but has a price, by ``doubts``. Never here: a producer, or a file that is opened.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    PlainValidator,
    SerializerFunctionWrapHandler,
    StringConstraints,
    WithJsonSchema,
    model_serializer,
    model_validator,
)

from kproxy.config.base import Model, Switch, written
from kproxy.config.limitvalues import ClientIds, Listeners, Networks, Principals, check_match
from kproxy.config.problems import Problem, nearest, suggestion
from kproxy.config.values import AS_NUMBER, Address, Count, Duration, FilePath, Password, quoted
from kproxy.wire.apis import APIS

if TYPE_CHECKING:
    from kproxy.config.model import Config, Listener

Sink = Literal["kafka", "file", "stdout"]
FieldName = Literal[
    "time",
    "listener",
    "client_ip",
    "client_port",
    "principal",
    "client_id",
    "software",
    "software_version",
    "api",
    "version",
    "correlation_id",
    "topic",
    "topic_id",
    "broker",
    "request_bytes",
    "response_bytes",
    "answered_by",
    "error_code",
    "throttle_ms",
    "latency_ms",
    "kproxy_ms",
    "upstream_ms",
]
KeyField = Literal["client_id", "client_ip", "principal", "listener", "api", "topic"]

FIELDS: tuple[str, ...] = get_args(FieldName)
"""All that can be told of a request, in the order in which it is."""

CONFLUENT_KAFKA = "confluent_kafka"

_FRACTION = re.compile(r"[0-9](\.[0-9]{1,15})?")
_TOPIC = re.compile(r"^[a-zA-Z0-9._-]{1,249}$")

_API_NAMES = frozenset(api.name for api in APIS.values())


def parse_api(value: object) -> str:
    """Check the name of an API, as Kafka writes it."""
    if isinstance(value, str) and value in _API_NAMES:
        return value
    close = nearest(value, _API_NAMES) if isinstance(value, str) else None
    advice = f"did you mean {close!r}?" if close else "write Kafka's own name, as in Produce, Fetch or Metadata"
    raise ValueError(f"there is no API {quoted(value)}; {advice}")


def parse_topic(value: object) -> str:
    """Check a topic's name by Kafka's rule (org.apache.kafka.common.internals.Topic)."""
    if isinstance(value, str) and _TOPIC.match(value) and value not in {".", ".."}:
        return value
    raise ValueError(f"{quoted(value)} is no name of a topic; use letters, digits, '.', '_' and '-', 249 at most")


def parse_sample(value: object) -> float:
    """Turn ``0.01`` into a part of the whole, 0 to 1."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if (number or (isinstance(value, str) and _FRACTION.fullmatch(value))) and 0 <= float(value) <= 1:  # type: ignore[arg-type]
        return float(value)  # type: ignore[arg-type]
    raise ValueError(f"{quoted(value)} is no part of the whole; write a number from 0 to 1, as in 0.01")


def check_fields(names: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a list that tells nothing, or something twice."""
    if not names:
        raise ValueError("tells nothing; leave it out to tell all")
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ValueError(f"holds {name} twice; write it once")
    return names


Sample = Annotated[
    float, PlainValidator(parse_sample), AS_NUMBER, WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1})
]
TopicName = Annotated[str, PlainValidator(parse_topic), WithJsonSchema({"type": "string", "pattern": _TOPIC.pattern})]
LoggedApi = Annotated[str, PlainValidator(parse_api), WithJsonSchema({"type": "string", "enum": sorted(_API_NAMES)})]
LoggedApis = Annotated[
    tuple[LoggedApi, ...], Field(max_length=1000, json_schema_extra={"minItems": 1}), AfterValidator(check_match)
]
Fields = Annotated[
    tuple[FieldName, ...],
    Field(json_schema_extra={"minItems": 1, "uniqueItems": True}),
    AfterValidator(check_fields),
]
Username = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00]*$")]


class LogSasl(Model):
    """How the log logs in to its brokers."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    """The SASL mechanism."""
    username: Username
    """The user that writes the log."""
    password: Password
    """{env: NAME} or {file: PATH}; a literal works, with a warning."""

    def revealed(self) -> str:
        """Return the password."""
        return self.password.reveal()


class LogTls(Model):
    """TLS towards the log's brokers."""

    ca_file: FilePath | None = None
    """Certificates that are trusted, as PEM; left out: the system's."""
    cert_file: FilePath | None = None
    """kproxy's own certificate, as PEM, where the brokers ask for one."""
    key_file: FilePath | None = None
    """Its key, as PEM."""
    key_password: Password | None = None
    """What opens the key, where it is encrypted: {env: NAME} or {file: PATH}; a literal works, with a warning."""
    verify: Switch = True
    """Check the brokers' certificates and their names."""

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together; give both, or none")
        if self.key_password is not None and self.key_file is None:
            raise ValueError("key_password needs key_file, the key that it opens")
        return self


class LogMatch(Model):
    """Which requests are told of; what is left out matches all."""

    listeners: Listeners | None = None
    """Listeners by name."""
    apis: LoggedApis | None = None
    """APIs by Kafka's names."""
    principals: Principals | None = None
    """Principals, or patterns with * and ?, as in "User:alice"."""
    client_ids: ClientIds | None = None
    """Client ids, or patterns with * and ?, as in "batch-*"."""
    client_ips: Networks | None = None
    """Client addresses or networks, as in 10.0.0.0/8."""


def _what_goes_with_what(schema: dict[str, Any]) -> None:
    schema["allOf"] = [
        {"if": {"properties": {"to": {"const": "kafka"}}}, "then": {"required": ["topic"]}},
        {"if": {"properties": {"to": {"const": "file"}}}, "then": {"required": ["path"]}},
    ]


_FOR_KAFKA = ("topic", "cluster", "bootstrap", "sasl", "tls", "key", "acks", "delivery_timeout")


class RequestLog(Model):
    """A JSON object for each request that is picked."""

    model_config = ConfigDict(json_schema_extra=_what_goes_with_what)

    to: Sink
    """kafka, file or stdout."""
    path: FilePath | None = None
    """to file: appended to; made anew within a second when it was moved away."""
    topic: TopicName | None = None
    """to kafka: the topic, which should exist."""
    cluster: str | None = None
    """to kafka: one of clusters, with its bootstrap and sasl; or give bootstrap."""
    bootstrap: Annotated[tuple[Address, ...], Field(min_length=1, max_length=1000)] | None = None
    """to kafka: brokers of a cluster of the log's own."""
    sasl: LogSasl | None = None
    """With bootstrap: the login there; none: it asks for none."""
    tls: LogTls | None = None
    """With bootstrap: TLS towards it; {} for the system's certificates, left out: none."""
    key: KeyField | None = None
    """to kafka: the field that is the message's key, by which its partition is chosen; left out: none."""
    # APISIX's kafka-logger (required_acks).
    acks: Literal[1, "all"] = 1
    """to kafka: who must have an entry before it counts as written, the leader (1) or all."""
    # Kafka's request.timeout.ms; delivery.timeout.ms is 2 min, in which the queue would fill all the same.
    delivery_timeout: Duration = written("30s")
    """to kafka: an entry that is not written after so long is dropped."""
    sample: Sample = 1.0
    """The part of reads, 0 to 1, whose requests are told of; 1: all."""
    match: LogMatch = Field(default_factory=LogMatch)
    """Which requests are told of; left out: all."""
    fields: Fields | None = None
    """What is told; left out: all."""
    # APISIX's kafka-logger keeps 8192 (max_pending_entries); each takes about 1 KiB.
    queue_max: Count = 10_000
    """How many entries may wait; more are dropped, and counted."""
    # APISIX's kafka-logger (producer_time_linger).
    linger: Duration = written("1s")
    """How long entries are gathered before they are written."""
    # Beside drain_timeout's 30 s.
    flush_timeout: Duration = written("5s")
    """How long a stop waits for the entries that are left."""

    @model_serializer(mode="wrap", when_used="json")
    def _without_what_is_not_for_it(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        others = (*(_FOR_KAFKA if self.to != "kafka" else ()), *(("path",) if self.to != "file" else ()))
        return {name: value for name, value in write(self).items() if name not in others}

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        given = self.model_fields_set
        if self.to != "kafka":
            for name in _FOR_KAFKA:
                if name in given:
                    raise ValueError(f"{name} belongs to to: kafka; leave it out, or log there")
        if self.to != "file" and "path" in given:
            raise ValueError("path belongs to to: file; leave it out, or log there")
        if self.to == "file" and self.path is None:
            raise ValueError("give path, the file to append to")
        if self.to == "kafka":
            self._check_kafka()
        return self

    def _check_kafka(self) -> None:
        if self.topic is None:
            raise ValueError("give topic, where entries are written to")
        if (self.cluster is None) == (self.bootstrap is None):
            both = "cluster and bootstrap are two places" if self.cluster else "it is not said which cluster is meant"
            raise ValueError(f"{both}; give cluster, a name of clusters, or bootstrap")
        for name in ("sasl", "tls"):
            if self.cluster is not None and getattr(self, name) is not None:
                raise ValueError(f"{name} goes with bootstrap, and a cluster has its own; leave it out")


def mistakes(
    log: RequestLog | None, cluster_names: Collection[str], listeners: "Mapping[str, Listener]"
) -> Iterator[Problem]:
    """Find what cannot work between a well-formed log, every cluster's name and the well-formed listeners."""
    if log is None:
        return
    if log.to == "kafka" and find_spec(CONFLUENT_KAFKA) is None:
        text = "kafka needs the package confluent-kafka, which is not installed; pip install 'kproxy[log]'"
        yield Problem(("request_log", "to"), text)
    if log.cluster is not None and log.cluster not in cluster_names:
        text = f"there is no cluster {quoted(log.cluster)}; {suggestion(log.cluster, cluster_names)}"
        yield Problem(("request_log", "cluster"), text)
    for index, address in enumerate(log.bootstrap or ()):
        for name, listener in listeners.items():
            if listener.bind.reached_by(address) or listener.advertise == address:
                text = f"{address} is listener {name!r} itself, so that each entry would make another; give a broker's"
                yield Problem(("request_log", "bootstrap", index), text)


def unknown_listeners(named: Mapping[int, str], listener_names: Collection[str]) -> Iterator[Problem]:
    """Find listeners that match names and that there are not; ``named``: by their place in the list."""
    for index, name in named.items():
        if name not in listener_names:
            text = f"there is no listener {quoted(name)}; {suggestion(name, listener_names)}"
            yield Problem(("request_log", "match", "listeners", index), text)


def doubts(config: "Config") -> Iterator[Problem]:
    """Find what works but is probably not meant, or has a price that the operator should know."""
    log = config.request_log
    if log is None:
        return
    here = ("request_log",)
    passwords = {
        ("sasl", "password"): None if log.sasl is None else log.sasl.password,
        ("tls", "key_password"): None if log.tls is None else log.tls.key_password,
    }
    for place, password in passwords.items():
        if password is not None and password.source == "literal":
            text = "the password stands in the file; write {env: NAME} or {file: PATH} instead"
            yield Problem((*here, *place), text)
    if log.sample == 0:
        yield Problem((*here, "sample"), "nothing is ever logged; raise it, or leave request_log out")
    if log.fields is not None and log.to == "kafka" and log.key is not None and log.key not in log.fields:
        text = f"{log.key} is the key of each message, though it is not among fields; add it unless that is meant"
        yield Problem((*here, "key"), text)
    cluster = None if log.cluster is None else config.clusters[log.cluster]
    if cluster is not None and cluster.tls is not None and cluster.tls.verify and cluster.tls.server_name is not None:
        text = (
            f"the log's brokers must be in their certificates by their own names, not as {cluster.tls.server_name!r}: "
            "librdkafka asks for no other; or give bootstrap and tls"
        )
        yield Problem((*here, "cluster"), text)
    if log.tls is not None and not log.tls.verify:
        text = "whoever is in between can read the log and the password; leave it out, and give ca_file"
        yield Problem((*here, "tls", "verify"), text)
