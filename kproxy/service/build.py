"""From the configuration to the parts of core, net and observe: limits, links, listeners, the request log.

Nothing is opened here but the request log's file, or its producer.
"""

import random
import time
from typing import Any, TypedDict

from kproxy.config import access as configured_access
from kproxy.config import limits as configured
from kproxy.config.model import Cluster, Config, Listener
from kproxy.config.requestlog import RequestLog as LogConfig
from kproxy.config.sasl import OAUTHBEARER
from kproxy.core import access as core_access
from kproxy.core import limits as core
from kproxy.core.latency import Latencies
from kproxy.core.observed import Picks, Watch
from kproxy.core.tenant import Tenant
from kproxy.errors import ConfigError
from kproxy.net.link import ClusterSettings
from kproxy.net.listeners import ListenerSettings
from kproxy.observe.requestlog import LogSettings, RequestLog
from kproxy.observe.sinks import FileSink, KafkaSink, Sink
from kproxy.service import layouts
from kproxy.service.doors import Doors
from kproxy.wire.apis import APIS


def cluster_settings(name: str, cluster: Cluster, doors: Doors) -> ClusterSettings:
    """Return what a ClusterLink must know."""
    return ClusterSettings(
        name=name,
        bootstrap=tuple((address.host, address.port) for address in cluster.bootstrap),
        mechanism=doors.own_mechanism(name),
        tls=doors.client_tls(name),
        refresh_interval_seconds=cluster.refresh_interval,
        dial_timeout_seconds=cluster.dial_timeout,
        login_timeout_seconds=cluster.login_timeout,
        dial_patience_seconds=cluster.dial_patience,
        dial_patience_max_seconds=cluster.dial_patience_max,
    )


def listener_settings(name: str, listener: Listener, doors: Doors, workers: int = 1) -> ListenerSettings:
    """Return what a Listener must know, which is one of ``workers`` alike: each has an equal part of the whole."""
    bind, advertise = listener.bind, listener.advertise
    advertised_port = advertise.port if advertise else bind.port
    if advertise:
        advertised_host: str | None = advertise.host
    else:
        advertised_host = None if bind.any_interface else bind.host
    return ListenerSettings(
        name=name,
        bind_host=bind.host,
        bind_port=bind.port,
        addressing=listener.addressing,
        layout=layouts.port_layout(listener),
        advertised_host=advertised_host,
        advertised_port=advertised_port,
        request_bytes_max=listener.request_bytes_max,
        idle_timeout_seconds=listener.idle_timeout,
        connections_max=-(-listener.connections_max // workers),
        buffered_bytes_max=-(-listener.buffered_bytes_max // workers),
        backlog=listener.backlog,
        proxies=listener.trusted_proxies,
        tls=doors.server_tls(name),
        principal_of=doors.principal_of(name),
        names=layouts.name_layout(listener),
        terms=doors.terms(name),
        login_timeout_seconds=listener.login_timeout,
        waiting_max=-(-listener.unauthenticated_max // workers),
        arrivals_per_second=max(listener.accept_rate / workers, 1.0),
        mechanism_for=doors.mechanism_for(listener.cluster),
        networks=None if listener.access is None else listener.access.cidrs,
        access=access(listener.access),
    )


def access(given: configured_access.Access | None) -> core_access.Access | None:
    """Return rules at work; None where there are none, so that nobody pays for any."""
    if given is None:
        return None
    apis = given.apis
    denied = {name for preset in (apis and apis.presets) or () for name in core_access.PRESETS[preset]}
    denied.update((apis and apis.deny) or ())
    allow = given.default_effect == "allow"
    if allow and not given.rules and not denied:
        return None
    return core_access.Access(
        rules=tuple(map(_access_rule, given.rules)),
        default_allow=allow,
        denied_apis=frozenset(_API_KEYS[name] for name in denied),
        dry_run=given.dry_run,
    )


def _access_rule(given: configured_access.AccessRule) -> core_access.Rule:
    resource, pattern = next(
        ((kind, name) for kind in core_access.Resource if isinstance(name := getattr(given, kind), str)),
        (core_access.Resource.CLUSTER if given.cluster else None, "*"),
    )
    return core_access.Rule(
        principals=given.principals or (given.principal or "",),
        operations=frozenset(core_access.Operation)
        if "all" in given.operations
        else frozenset(map(core_access.Operation, given.operations)),
        resource=resource,
        pattern=pattern,
        allow=given.effect == "allow",
    )


class LookingIn(TypedDict):
    """What a Listener keeps for those who look in."""

    inventory: bool
    client_ids_max: int


def looking_in(config: Config) -> LookingIn:
    """Return what is kept for the admin API; nothing where there is none."""
    metrics = config.metrics
    ids_max = metrics.max if config.admin is not None and metrics.per_client_id else 0
    return {"inventory": config.admin is not None, "client_ids_max": ids_max}


def bind_hosts(config: Config) -> dict[str, str]:
    """Return the host that each listener binds to, by its name."""
    return {name: listener.bind.host for name, listener in config.listeners.items()}


def limits(config: Config, tenant: Tenant | None = None) -> core.Limits | None:
    """Return the limits at work, with nothing charged yet; None where there are none, so that nobody pays for any.

    ``tenant``: this process's leases, where several hold them together.
    """
    return core.Limits(map(rule, config.limits), tenant) if config.limits else None


def rule(limit: configured.Limit) -> core.Rule:
    """Return one limit in core's terms."""
    match = limit.match
    return core.Rule(
        name=limit.name,
        kind=_kind(limit.kind),
        key=limit.key,
        listeners=None if match.listeners is None else frozenset(match.listeners),
        apis=None if match.apis is None else frozenset(_API_KEYS[name] for name in match.apis),
        principals=match.principals,
        client_ids=match.client_ids,
        client_ips=match.client_ips,
        action=core.Action(limit.on_exceed),
        max_wait_seconds=limit.max_wait,
        dry_run=limit.dry_run,
        reject_produce=limit.reject_produce,
        keys_max=limit.keys_max,
    )


_API_KEYS = {api.name: int(api.key) for api in APIS.values()}

_Configured = configured.LeakyBucket | configured.FixedWindow | configured.Concurrency | configured.Connections


def _kind(kind: _Configured) -> core.LeakyBucket | core.FixedWindow | core.Concurrency | core.Connections:
    match kind:
        case configured.LeakyBucket():
            return core.LeakyBucket(kind.rate, kind.burst, kind.nodelay, core.Unit(kind.unit))
        case configured.FixedWindow():
            return core.FixedWindow(kind.count, kind.window, core.Unit(kind.unit))
        case configured.Concurrency():
            return core.Concurrency(kind.max, kind.waiting, kind.count_long_polls)
        case configured.Connections():
            rate = kind.rate or 0.0
            return core.Connections(kind.max or 0, rate, rate if kind.burst is None else kind.burst)


def request_log(config: Config) -> RequestLog | None:
    """Open the request log, on the running loop; None where there is none. Raises ConfigError where it cannot be."""
    log = config.request_log
    if log is None:
        return None
    sink: Sink
    if log.to == "kafka":
        sink = KafkaSink(log.topic or "", kafka_options(log, config), log.queue_max)
    else:
        sink = FileSink(log.path)
    return RequestLog(log_settings(log), sink)


def log_settings(log: LogConfig) -> LogSettings:
    """Return what a request log must know beside its sink."""
    return LogSettings(log.fields, log.key, log.queue_max, log.linger, log.flush_timeout)


def kafka_options(log: LogConfig, config: Config) -> dict[str, Any]:
    """Return librdkafka's options for a log's producer; they hold the password, and are shown to nobody."""
    cluster = config.clusters[log.cluster] if log.cluster is not None else None
    bootstrap = cluster.bootstrap if cluster is not None else log.bootstrap or ()
    sasl = cluster.sasl if cluster is not None else log.sasl
    tls = log.tls or (cluster.tls if cluster is not None else None)
    secured = ("SASL_" if sasl else "") + ("SSL" if tls else "PLAINTEXT")
    options: dict[str, Any] = {
        "bootstrap.servers": ",".join(map(str, bootstrap)),
        "security.protocol": secured,
        "acks": log.acks,
        "message.timeout.ms": max(int(log.delivery_timeout * 1000), 10),  # librdkafka: above linger.ms
    }
    if sasl is not None:
        if sasl.mechanism == OAUTHBEARER:
            raise ConfigError(f"request_log.cluster: {log.cluster} is logged in to by tokens; give bootstrap and sasl")
        options |= {
            "sasl.mechanism": sasl.mechanism,
            "sasl.username": sasl.username,
            "sasl.password": sasl.revealed(),
        }
    if tls is not None:
        options["enable.ssl.certificate.verification"] = tls.verify
        if not tls.verify:
            options["ssl.endpoint.identification.algorithm"] = "none"
        for name, path in (
            ("ssl.ca.location", tls.ca_file),
            ("ssl.certificate.location", tls.cert_file),
            ("ssl.key.location", tls.key_file),
        ):
            if path is not None:
                options[name] = str(path)
        if tls.key_password is not None:
            options["ssl.key.password"] = tls.key_password.reveal()
    return options


def watch(config: Config, listener: str, log: RequestLog | None) -> Watch | None:
    """Return what a listener's connections are watched for; None: for nothing, so that nobody pays."""
    latencies = Latencies() if config.metrics.latency else None
    take, picks = None, Picks(sample=0)
    if log is not None and config.request_log is not None and config.request_log.sample:
        match = config.request_log.match
        if match.listeners is None or listener in match.listeners:
            take = log.take
            picks = Picks(
                sample=config.request_log.sample,
                apis=None if match.apis is None else frozenset(_API_KEYS[name] for name in match.apis),
                principals=match.principals,
                client_ids=match.client_ids,
                client_ips=match.client_ips,
            )
    if latencies is None and take is None:
        return None
    return Watch(time.monotonic, random.random, latencies, take, picks)
