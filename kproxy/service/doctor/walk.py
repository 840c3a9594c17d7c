"""The whole walk: one proxy, beside it perhaps a replica; or all that a configuration names.

::

    diagnose(Client(), HostPort("kafka.example.com", 9092), print, scratch_topic="scratch")
    diagnose_config(config, Client(), print)     # each cluster's brokers, then each listener of the running proxy

Every broker's address is walked at the same time as the others, and told in the order of their ids.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from kproxy.config.model import Config, Listener
from kproxy.config.values import NODE, HostPort
from kproxy.core.addressbook import AddressBook
from kproxy.core.sasl import Mechanism
from kproxy.service import loop, probe
from kproxy.service.doctor import judge
from kproxy.service.doctor.client import Client
from kproxy.service.doctor.findings import Finding, Level, Report, fail, ok, skip
from kproxy.service.doctor.header import ProxyHeader
from kproxy.service.doctor.scratch import round_trip
from kproxy.service.doctor.visit import Facts, resolve, visit
from kproxy.service.layouts import layout, may_be_a_brokers
from kproxy.wire.apis import APIS, BROKER_ONLY
from kproxy.wire.apiversions import ApiVersionsAnswer

TOTAL_STEPS_MAX: Final = 60
"""The whole may take so many times the bound of one step: 5 minutes unless told otherwise."""

VISITS_MAX: Final = 20
"""How many addresses are walked at once."""


def diagnose(
    client: Client,
    target: HostPort,
    report: Report,
    *,
    scratch_topic: str | None = None,
    compare: HostPort | None = None,
    own_hosts: Iterable[str] = (),
) -> None:
    """Walk one proxy as a client of it."""

    async def work() -> None:
        walk = _Walk(client, _at(report, str(target)))
        facts = await walk.run(target, (target.host, *own_hosts), scratch_topic)
        if compare is not None and facts.told:
            await walk.compare(compare, facts)

    _run(client, work, report)


def diagnose_config(
    config: Config,
    client: Client,
    report: Report,
    *,
    listeners: Collection[str] = (),
    logins: Sequence[Mechanism] = (),
    scratch_topic: str | None = None,
    own_hosts: Iterable[str] = (),
) -> None:
    """Walk each cluster's brokers as kproxy does, then each listener of the running proxy as a client does.

    ``listeners``: which, none: all, and all clusters. ``logins``: for those that ask for one. The client's TLS is for
    listeners that speak it.
    """
    if listeners:
        config = _only(config, listeners)

    async def work() -> None:
        examined = await probe.examine(config)
        for problem in examined.problems:
            place, _, told = problem.partition(": ")
            text, _, remedy = told.rpartition("; ")
            report(fail("brokers", text or told, remedy)._replace(place=place))
        for name, tables in examined.tables.items():
            for finding in _judge_brokers(len(examined.brokers[name]), tables):
                report(finding._replace(place=f"cluster {name}"))
        for name, listener in config.listeners.items():
            brokers = examined.brokers[listener.cluster]
            speaking = _speaking(client, listener, logins)
            await _walk_listener(
                speaking, name, listener, brokers, report=report, scratch_topic=scratch_topic, own_hosts=own_hosts
            )

    _run(client, work, report)


def _only(config: Config, names: Collection[str]) -> Config:
    """Return the configuration with these listeners and the clusters behind them alone."""
    listeners = {name: listener for name, listener in config.listeners.items() if name in names}
    behind = {listener.cluster for listener in listeners.values()}
    clusters = {name: cluster for name, cluster in config.clusters.items() if name in behind}
    return config.model_copy(update={"clusters": clusters, "listeners": listeners})


def _speaking(client: Client, listener: Listener, logins: Sequence[Mechanism]) -> Client:
    """Return the client with what this listener asks for: TLS, a PROXY header, the first login that it knows."""
    offered = listener.sasl.mechanisms if listener.sasl else ()
    known = [login for name in offered for login in logins if login.name == name]
    if offered and len(logins) == 1:  # this one was asked for by its name, so that it is told if there is no such
        known = [*logins]

    def owns(port: int) -> bool:
        return port == listener.bind.port or may_be_a_brokers(listener, port)

    return replace(
        client,
        tls=client.tls if listener.tls else None,
        mechanism=known[0] if known else None,
        offered=offered,
        header=ProxyHeader(listener.trusted_proxies or (), owns) if listener.proxy_protocol else None,
    )


async def _walk_listener(
    client: Client,
    name: str,
    listener: Listener,
    brokers: dict[int, judge.Address],
    *,
    report: Report,
    scratch_topic: str | None,
    own_hosts: Iterable[str],
) -> None:
    """Walk a listener from this machine, and from the address that clients are told."""
    target = HostPort(_loopback(listener.bind), listener.bind.port)
    told = listener.advertise or target
    expected = _expected(listener, told, brokers)
    first = HostPort(listener.bootstrap_name or told.host.replace(NODE, "bootstrap"), told.port)
    walk = _Walk(client, _at(report, f"listener {name}, {target}"), brokers)
    hosts = {target.host, first.host, *own_hosts, *(host for host, _ in expected.values())}
    facts = await walk.run(target, hosts, scratch_topic, expected, server_name=first.host)
    if facts.told and first != target:
        await walk.brokers({"clients": first}, facts)


def _run(client: Client, work: Callable[[], Coroutine[Any, Any, None]], report: Report) -> None:
    bound = TOTAL_STEPS_MAX * client.timeout_seconds

    async def bounded() -> None:
        try:
            async with asyncio.timeout(bound):
                await work()
        except TimeoutError:
            report(fail("time", f"not all was looked at within {bound:g} s", "mend what is told above, and ask again"))

    loop.run(bounded())


def _at(report: Report, place: str) -> Report:
    return lambda finding: report(finding._replace(place=place))


class _Walk:
    """One way to a cluster; ``hidden``: brokers' real addresses by node id, where they are known."""

    def __init__(self, client: Client, report: Report, hidden: dict[int, judge.Address] | None = None) -> None:
        self._client = client
        self._report = report
        self._hidden = hidden or {}

    async def run(
        self,
        target: HostPort,
        own_hosts: Iterable[str],
        scratch_topic: str | None,
        expected: judge.Told | None = None,
        *,
        server_name: str | None = None,
    ) -> Facts:
        """Walk the bootstrap address, each address that it tells, and the scratch topic.

        ``server_name``: by which clients know the bootstrap address, if not by the target's host.
        """
        client = replace(self._client, server_name=self._client.server_name or server_name)
        facts = await visit(client, target, self._report, [scratch_topic] if scratch_topic else [])
        if not facts.told:
            return facts
        reachable = await self._addresses(facts, own_hosts, expected)
        self._tell_leaks(facts)
        await self.brokers({f"broker {node}": where for node, where in reachable.items()}, facts)
        if scratch_topic:
            await round_trip(self._client, scratch_topic, facts, reachable, self._report)
        else:
            self._report(skip("scratch", "no record was sent, nor hints at leaders provoked: give --scratch-topic"))
        return facts

    async def _addresses(
        self, facts: Facts, own_hosts: Iterable[str], expected: judge.Told | None
    ) -> dict[int, HostPort]:
        """Judge where clients are sent; return the addresses that are worth a visit."""
        hosts = {host.casefold() for host in own_hosts}
        names = sorted(hosts | {host for host, _ in facts.told.values() if host})
        known = dict(
            zip(names, await _each(resolve(name, self._client.timeout_seconds) for name in names), strict=True)
        )
        loopback = all(ip.startswith("127.") or ip == "::1" for ip in facts.ips)
        own_ips = facts.ips.union(*(known[host] for host in hosts))
        own = judge.Own(frozenset(hosts), own_ips, loopback)
        troubles = {
            node: trouble
            for node, told in sorted(facts.told.items())
            if (trouble := judge.address(node, told, known.get(told[0], frozenset()), own))
        }
        for trouble in (*troubles.values(), judge.shared(facts.told)):
            if trouble:
                self._report(trouble)
        if expected is not None and (other := judge.agree("the running proxy", facts.told, expected)):
            self._report(other._replace(remedy="it does not run this configuration: restart it with this one"))
        return {node: HostPort(*told) for node, told in sorted(facts.told.items()) if node not in troubles}

    def _leaks(self, facts: Facts, told: judge.Told) -> list[Finding]:
        """List what answers of one visit name beside what clients were told."""
        found = [trouble for api, named in facts.named.items() for trouble in judge.leaks(api, named, told)]
        for api, body in facts.bodies.items():
            found += judge.hidden(api, body, self._hidden.values())
        return found

    def _tell_leaks(self, facts: Facts) -> None:
        found = self._leaks(facts, facts.told)
        for trouble in found:
            self._report(trouble)
        if not found and facts.named:
            self._report(ok("leaks", f"{', '.join(facts.named)}: nothing but what Metadata tells"))

    async def brokers(self, places: dict[str, HostPort], facts: Facts) -> None:
        """Walk further addresses of the proxy, a line for each; what goes wrong at one is told as it is."""
        distinct = [place for place in dict.fromkeys(places.values()) if place != facts.address]
        seen = dict(zip(distinct, await _each(map(self._quietly, distinct)), strict=True))
        for step, place in places.items():
            if place in seen:
                self._one_of(step, place, seen[place], facts)
            else:
                self._report(ok(step, f"{place}, where this began"))

    async def _quietly(self, place: HostPort) -> Facts:
        return await visit(self._client, place, lambda _: None)

    def _one_of(self, step: str, place: HostPort, there: Facts, facts: Facts) -> None:
        """Tell of one visit in a line, or what failed there and has not been told of the first address yet."""
        known = {(finding.step, finding.text) for finding in (*facts.findings, *self._leaks(facts, facts.told))}
        troubles = [
            finding
            for finding in (*there.findings, *self._leaks(there, facts.told))
            if finding.level in {Level.WARN, Level.FAIL} and (finding.step, finding.text) not in known
        ]
        for finding in troubles:
            self._report(finding._replace(step=step, text=f"{place}: {finding.step}: {finding.text}"))
        if disagreement := judge.agree(str(place), there.told, facts.told):
            self._report(disagreement._replace(step=step))
        elif not there.told and there.findings[-1].level is Level.SKIP:
            skipped = there.findings[-1]
            self._report(skipped._replace(step=step, text=f"{place}: {skipped.text}"))
        elif not troubles:
            self._report(ok(step, f"{place}, reached and asked"))

    async def compare(self, other: HostPort, facts: Facts) -> None:
        """Walk another replica, and hold what it tells against what this one does."""
        there = await self._quietly(other)
        self._one_of("replica", other, Facts(other, there.findings), facts)  # what it tells is judged below
        if there.cluster and facts.cluster:
            ids = facts.cluster.cluster_id, there.cluster.cluster_id
            for finding in judge.replicas(str(other), facts.told, there.told, ids):
                self._report(finding)


async def _each(work: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Do all, some at once; return what they return, in order."""
    turns = asyncio.Semaphore(VISITS_MAX)

    async def one(coroutine: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - whatever they return
        async with turns:
            return await coroutine

    return await asyncio.gather(*map(one, work))


def _loopback(bind: HostPort) -> str:
    """Return where a client on this machine finds a listener."""
    if not bind.any_interface:
        return bind.host
    return "::1" if ":" in bind.host else "127.0.0.1"


def _expected(listener: Listener, told: HostPort, brokers: Iterable[int]) -> dict[int, judge.Address]:
    """Return what the running proxy must tell clients of each broker, by this configuration."""
    book = AddressBook(layout(listener), told.port, lambda *_: None)
    return {node: book.address(node, told.host) for node in brokers}


def _judge_brokers(count: int, tables: Iterable[ApiVersionsAnswer]) -> Iterable[Finding]:
    """Judge what brokers themselves offer: what kproxy leaves out of it is no harm, and said."""
    strange: set[int] = set()
    for table in tables:
        strange |= {key for key in table.ranges if key not in APIS and key not in BROKER_ONLY}
        yield from (finding for finding in judge.offer(table) if finding.level is Level.FAIL)
    left_out = f"; kproxy leaves out API keys that Kafka does not have: {sorted(strange)}" if strange else ""
    if count:
        yield ok("brokers", f"{count} known{left_out}")
