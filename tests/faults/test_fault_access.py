"""Access rules on live connections: what is denied never reaches a broker, and the operator is told."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest
from clients import each_addressing
from clients.gateway import Gateway, on_uvloop
from clients.raw import HEARTBEAT_OK, RawClient, heartbeat, produce, produced
from oracles import KIO

from kproxy.core.access import CAPPED
from kproxy.core.causes import Cause
from kproxy.core.needs import needs
from kproxy.testing.fakebroker import DROP, FakeBroker, FakeCluster
from kproxy.wire import cluster as messages
from kproxy.wire import shapes
from kproxy.wire.apis import APIS, ApiKey

PRODUCE, HEARTBEAT, METADATA = ApiKey.PRODUCE, ApiKey.HEARTBEAT, ApiKey.METADATA
NO_ACKS = bytes(2)
TOPIC_AUTHORIZATION_FAILED = 29

RULES = [
    {"principal": "User:ANONYMOUS", "operations": ["write"], "topic": "topic*"},
    {"principal": "User:*", "operations": ["read"], "group": "group"},
]


def ready(broker: FakeBroker) -> None:
    """Let a broker answer what these tests ask."""
    broker.state.topics["topic"] = [broker.node_id]
    broker.on(PRODUCE, lambda request: DROP if request.body[2:4] == NO_ACKS else produced())
    broker.on(HEARTBEAT, HEARTBEAT_OK)


def error_of(body: bytes) -> tuple[str, int]:
    """Read the topic and the error of a Produce answer v7."""
    (topic,) = shapes.read(shapes.response(PRODUCE, 7), body)[0]["topics"]
    return topic["name"], topic["partitions"][0]["error"]


@each_addressing
@pytest.mark.parametrize("limited", [False, True])
def test_what_is_denied_never_arrives(addressing: str, limited: bool) -> None:
    """A denied request is answered, an allowed one is served, and the log and the counters tell of the one."""

    @on_uvloop
    async def run() -> None:
        limits = [{"name": "much", "concurrency": {"max": 2}}] if limited else []
        async with FakeCluster(1) as cluster:
            broker = cluster.brokers[1]
            ready(broker)
            async with (
                Gateway(
                    cluster.bootstrap, addressing=addressing, listener=access(rules=RULES), limits=limits
                ) as gateway,
                RawClient(gateway.address_of(1)) as client,
            ):
                for _ in range(3):
                    assert error_of(await client.ask(PRODUCE, 7, produce(1))) == ("topic", 0)
                    denied = await client.ask(PRODUCE, 7, produce(1, topic="secret"))
                    assert error_of(denied) == ("secret", TOPIC_AUTHORIZATION_FAILED)
                await client.heartbeat()
                answer = await client.ask(HEARTBEAT, 3, heartbeat("other"))
                assert answer[4:6] == b"\0\x1e"
                assert len(broker.of(PRODUCE)) == 3
                assert len(broker.of(HEARTBEAT)) == 1
                assert not any(b"secret" in request.body for request in broker.requests)
                assert gateway.tally.snapshot()["denied"] == {"Produce topic": 3, "Heartbeat group": 1}
                (event,) = gateway.events_with(event="denied by access rules", name="secret")
                assert event["principal"] == "User:ANONYMOUS"
                assert (event["operation"], event["resource"], event["api"]) == ("write", "topic", "Produce")

    run()


def access(**access: object) -> dict[str, object]:
    """Write a listener's part."""
    return {"access": access}


def without_a_right() -> list[tuple[int, int, bytes]]:
    """Write a request of each API that takes a right, at its lowest and highest version, for something secret."""
    found = []
    for key, api in APIS.items():
        if not needs(key) or key == METADATA:
            continue
        lowest = max(api.min_version, KIO.versions(key)[0])
        highest = min(api.max_version, KIO.versions(key)[-1], CAPPED.get(key, api.max_version))
        for version in {lowest, highest}:
            body = shapes.write(shapes.request(key, version), {"acks": 1, "replica_id": -1} | secret(key, version))
            found.append((key, version, body))
    return found


def secret(key: int, version: int) -> dict[str, Any]:
    """Name something in whatever a request of this API names."""
    shape = shapes.request(key, version)
    topic: dict[str, Any] = {"name": "secret", "id": b"s" * 16, "partitions": [{"index": 0}]}
    values: dict[str, Any] = {
        "group": "secret",
        "txn": None if key == PRODUCE else "secret",
        "topics": [topic],
        "groups": [{"group": "secret", "topics": [topic]}],
        "transactions": [{"txn": "secret"}],
        "resources": [{"type": 2, "resource": "secret"}],
        "results": [{}],
        "dirs": [{"path": "p", "topics": [topic]}],
        "entries": [{}],
        "deletions": [{"name": "secret"}],
    }
    return {name: value for name, value in values.items() if shape.has(name)}


@each_addressing
def test_no_denied_request_of_any_api_arrives(addressing: str) -> None:
    """Of each API, at its lowest and highest version, a request without a right is answered with an error, alone."""

    @on_uvloop
    async def run() -> None:
        rule = {"principal": "User:*", "operations": ["read"], "topic": "nothing"}
        async with FakeCluster(1) as cluster:
            broker = cluster.brokers[1]
            asked = without_a_right()
            broker.ranges.update({key: (APIS[key].min_version, APIS[key].max_version) for key, _, _ in asked})
            async with (
                Gateway(cluster.bootstrap, addressing=addressing, listener=access(rules=[rule])) as gateway,
                RawClient(gateway.address_of(1)) as client,
            ):
                for key, version, body in asked:
                    answer = KIO.decode(key, version, "response", await client.ask(key, version, body))
                    assert codes(answer) - {0} or (key == ApiKey.DESCRIBE_LOG_DIRS and version < 3), (key, version)
                assert {request.key for request in broker.requests} <= _OWN
                assert not any(b"secret" in request.body for request in broker.requests)
                assert gateway.tally.snapshot()["denied"]

    run()


_OWN = frozenset({18, METADATA, ApiKey.DESCRIBE_CLUSTER})
"""What kproxy asks by itself, as it looks at the cluster."""


def codes(tree: Any) -> set[int]:
    """Return all error codes in an answer."""
    if isinstance(tree, dict):
        found = {int(value) for name, value in tree.items() if name.endswith("error_code")}
        return found.union(*map(codes, tree.values()))
    return set[int]().union(*map(codes, tree)) if isinstance(tree, list) else set()


@each_addressing
def test_nobody_waits_for_an_answer(addressing: str) -> None:
    """A denied Produce without acks ends the connection; what was sent before it arrives."""

    @on_uvloop
    async def run() -> None:
        async with FakeCluster(1) as cluster:
            broker = cluster.brokers[1]
            ready(broker)
            async with (
                Gateway(cluster.bootstrap, addressing=addressing, listener=access(rules=RULES)) as gateway,
                RawClient(gateway.address_of(1)) as client,
            ):
                stream = [client.frame(PRODUCE, 7, produce(0)), client.frame(PRODUCE, 7, produce(0, topic="secret"))]
                await client.send_bytes(b"".join((stream[0], stream[1], stream[0])))
                await client.assert_closed()
                await gateway.until_closed(Cause.DENIED)
                await broker.until_asked(PRODUCE)
            assert len(broker.of(PRODUCE)) == 1

    run()


@on_uvloop
async def test_apis_that_vanish() -> None:
    """An API that clients do better without is not offered when it is denied; any other is, and is refused."""
    apis = {"deny": ["GetTelemetrySubscriptions", "PushTelemetry", "DeleteTopics"]}
    async with FakeCluster(1) as cluster:
        for dry_run in (False, True):
            async with (
                Gateway(cluster.bootstrap, listener=access(apis=apis, dry_run=dry_run)) as gateway,
                RawClient(gateway.address) as client,
            ):
                offered = (await client.api_versions()).ranges
                assert (ApiKey.PUSH_TELEMETRY in offered) is dry_run
                assert ApiKey.DELETE_TOPICS in offered
                assert offered[ApiKey.FETCH][1] == 15  # no rule is about a topic
                if not dry_run:
                    request = shapes.write(shapes.request(20, 1), {"topics": [{"name": "t"}], "timeout_ms": 1})
                    body = await client.ask(ApiKey.DELETE_TOPICS, 1, request)
                    assert shapes.read(shapes.response(20, 1), body)[0]["topics"] == [
                        {"name": "t", "error": TOPIC_AUTHORIZATION_FAILED}
                    ]
        assert cluster.brokers[1].of(ApiKey.DELETE_TOPICS) == []


@on_uvloop
async def test_rules_lower_what_is_offered() -> None:
    """Where rules are about topics, versions that are for brokers alone are not offered, also once brokers change."""
    async with (
        FakeCluster(1) as cluster,
        Gateway(cluster.bootstrap, listener=access(rules=RULES), cluster={"refresh_interval": "100ms"}) as gateway,
    ):
        async with RawClient(gateway.address) as client:
            assert (await client.api_versions()).ranges[ApiKey.FETCH][1] == 14
        broker = cluster.brokers[1]
        broker.ranges[ApiKey.PRODUCE] = (0, 9)
        broker.close_connections()
        offered: Mapping[int, tuple[int, int]] = {ApiKey.PRODUCE: (0, 0)}
        async with asyncio.timeout(10):
            while offered[ApiKey.PRODUCE][1] != 9:
                await asyncio.sleep(0.05)
                # One that comes as the offer changes is closed, to come again.
                with contextlib.suppress(asyncio.IncompleteReadError):
                    async with RawClient(gateway.address) as client:
                        offered = (await client.api_versions()).ranges
        assert offered[ApiKey.FETCH][1] == 14


@on_uvloop
async def test_an_id_nobody_has_seen() -> None:
    """A topic told by an id from before kproxy's start is unknown at first, and soon known: kproxy asks by itself."""
    topic_id = UUID(int=7).bytes
    body = shapes.write(
        shapes.request(PRODUCE, 13),
        {"txn": None, "acks": 1, "topics": [{"id": topic_id, "partitions": [{"index": 0, "records": b""}]}]},
    )
    described = shapes.write(
        shapes.response(METADATA, 12),
        {"cluster_id": "k", "topics": [{"name": "topic", "id": topic_id, "partitions": []}]},
    )
    done = shapes.write(shapes.response(PRODUCE, 13), {"topics": [{"id": topic_id, "partitions": [{"index": 0}]}]})
    async with FakeCluster(1) as cluster, Gateway(cluster.bootstrap, listener=access(rules=RULES)) as gateway:
        broker = cluster.brokers[1]
        broker.on(METADATA, described)
        broker.on(PRODUCE, done)
        codes: list[int] = []
        async with RawClient(gateway.address_of(1)) as client, asyncio.timeout(10):
            while not codes or codes[-1]:
                answer = await client.ask(PRODUCE, 13, body)
                codes.append(
                    shapes.read(shapes.response(PRODUCE, 13), answer)[0]["topics"][0]["partitions"][0]["error"]
                )
                await asyncio.sleep(0.02)
        assert codes[0] == 100
        assert set(codes) == {0, 100}
        assert len(broker.of(PRODUCE)) == 1
        assert any(topic_id in request.body for request in broker.of(METADATA))
        lookup = gateway._listener.settings.access
        assert lookup is not None
        wanted = lookup.names.wanted
        assert wanted is not None
        for nothing in (bytes(16), b"short"):
            wanted(nothing)  # these are no ids
        assert bytes(16) == messages.NO_TOPIC_ID
