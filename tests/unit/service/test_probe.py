"""``kproxy check --connect`` against brokers with every trouble there is: one line each, with what to do."""

import asyncio
from typing import Any

import pytest

from kproxy.config.model import Config
from kproxy.service.probe import check_connect
from kproxy.testing.fakebroker import CLOSE, DEFAULT, DROP, FakeBroker, FakeCluster, Raw
from kproxy.testing.ports import free_port_block
from kproxy.wire.apis import ApiKey

USERS = {"gateway": "hunter2"}
TLS_ALERT = bytes.fromhex("15030300020246")

NOT_PLAIN_KAFKA = "give the address of a Kafka listener without TLS, or set the cluster's tls"


def configuration(bootstrap: str, password: str | None = None, **listeners: dict[str, Any]) -> Config:
    """Make one of the cluster ``main``; password None: no login."""
    cluster: dict[str, Any] = {"bootstrap": bootstrap.split(","), "dial_timeout": 2.0, "login_timeout": 0.3}
    if password:
        cluster["sasl"] = {"username": "gateway", "password": password}
    default = {"public": {"bind": "127.0.0.1:9092"}}
    return Config.model_validate({"clusters": {"main": cluster}, "listeners": listeners or default})


async def problems(config: Config) -> list[str]:
    """Run the check beside the loop that the brokers run on; no line may hold a password."""
    lines = await asyncio.to_thread(check_connect, config)
    assert not any("hunter2" in line or "wrong" in line for line in lines)
    return lines


@pytest.mark.parametrize("users", [None, USERS])
async def test_a_good_cluster_has_no_problem(users: dict[str, str] | None) -> None:
    """With and without a login, every broker is asked once, also where only one is in the configuration."""
    async with FakeCluster(3, users=users) as cluster:
        config = configuration(cluster.brokers[1].address, "hunter2" if users else None)
        assert await problems(config) == []
        assert [len(broker.of(ApiKey.METADATA)) for broker in cluster.brokers.values()] == [1, 1, 1]
        assert not any(broker.violations or broker.surprises for broker in cluster.brokers.values())


async def test_a_refused_login_is_tried_and_told_once() -> None:
    """A wrong password is one line and one failed login, however many brokers there are."""
    async with FakeCluster(3, users=USERS) as cluster:
        (line,) = await problems(configuration(cluster.bootstrap, "wrong"))
        assert line.startswith("cluster main: 127.0.1.")
        assert line.endswith(
            ": PLAIN login refused: Authentication failed: Invalid username or password; check username and password"
        )
        assert sum(len(broker.of(ApiKey.SASL_AUTHENTICATE)) for broker in cluster.brokers.values()) == 1


async def test_a_login_is_wanted_or_not() -> None:
    """Credentials for a listener without SASL, and none for one with it, are told apart."""
    async with FakeBroker(1) as plain, FakeBroker(2, users=USERS) as sasl:
        (line,) = await problems(configuration(plain.address, "hunter2"))
        assert "does not use SASL; remove the credentials" in line
        (line,) = await problems(configuration(sasl.address))
        assert line.endswith(
            "the broker closed the connection when asked for Metadata; if it asks for a login, set sasl"
        )


@pytest.mark.parametrize(
    ("play", "told"),
    [
        (Raw(TLS_ALERT), f"answers, but not as a Kafka broker does; {NOT_PLAIN_KAFKA}"),
        (Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"), f"answers, but not as a Kafka broker does; {NOT_PLAIN_KAFKA}"),
        (CLOSE, f"the broker closed the connection when asked for ApiVersions; {NOT_PLAIN_KAFKA}"),
        (DROP, f"no answer within 0.3 s when asked for ApiVersions; {NOT_PLAIN_KAFKA}"),
    ],
)
async def test_what_is_no_plain_kafka_is_told(play: Any, told: str) -> None:
    """TLS, HTTP, silence: the line says that the other side is not a plain Kafka listener."""
    async with FakeBroker(1) as broker:
        broker.on(ApiKey.API_VERSIONS, play)
        assert await problems(configuration(broker.address)) == [f"cluster main: {broker.address}: {told}"]


async def test_each_unusable_address_is_told_and_the_others_are_used() -> None:
    """Nobody listening, no such name, a broker that dies at Metadata: a line each; places with the same share one."""
    port = free_port_block(2)
    dead = [f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}"]
    async with FakeCluster(2) as cluster:
        cluster.brokers[2].on(ApiKey.METADATA, CLOSE)
        bootstrap = ",".join([*dead, "no-such-name.invalid:9092", cluster.bootstrap])
        assert sorted(await problems(configuration(bootstrap))) == [
            f"cluster main: 127.0.0.1:{port}, 127.0.0.1:{port + 1}: connection refused; is a broker listening there?",
            (
                f"cluster main: {cluster.brokers[2].address}: the broker closed the connection when asked for Metadata;"
                " if it asks for a login, set sasl"
            ),
            "cluster main: no-such-name.invalid:9092: the name cannot be resolved; correct it, or the DNS",
        ]


async def test_advertised_addresses_are_tried() -> None:
    """Where a broker cannot be reached as it advertises itself, or advertises kproxy's own address, that is told."""
    port = free_port_block(1)
    async with FakeBroker(1) as broker:
        broker.state.brokers |= {2: ("127.0.0.1", port), 3: ("127.0.0.1", 9092)}
        assert await problems(configuration(broker.address)) == [
            (
                "cluster main: broker 3: advertises 127.0.0.1:9092, which is listener 'public' itself; set its"
                " advertised.listeners back"
            ),
            f"cluster main: broker 2, advertised at 127.0.0.1:{port}: connection refused; is a broker listening there?",
        ]


async def test_bootstrap_addresses_of_two_clusters_are_told() -> None:
    """Brokers with different cluster ids are not one cluster."""
    async with FakeBroker(1) as one, FakeBroker(2) as other:
        other.state.cluster_id = "another"
        assert await problems(configuration(f"{one.address},{other.address}")) == [
            (
                f"cluster main: {one.address}, {other.address}: these are brokers of different clusters;"
                " give the bootstrap addresses of one"
            )
        ]


async def test_a_broker_without_brokers_is_still_starting() -> None:
    """An answer that names no broker cannot be used yet."""
    async with FakeBroker(1) as broker:
        broker.on(ApiKey.API_VERSIONS, DEFAULT)
        broker.state.brokers.clear()
        assert await problems(configuration(broker.address)) == [
            f"cluster main: {broker.address}: knows no brokers yet; is it still starting?"
        ]


async def test_ports_are_checked_with_the_ids_that_there_are() -> None:
    """A node id without a port, and two owners of one port, are told; with addressing single there are none."""
    async with FakeBroker(7) as broker:
        high: dict[str, Any] = {"bind": "127.0.0.1:65530"}
        low: dict[str, Any] = {"bind": "127.0.0.1:9092", "broker_port_start": 9093}
        met: dict[str, Any] = {"bind": "127.0.0.1:9100", "addressing": "single"}
        assert await problems(configuration(broker.address, high=high, low=low, met=met)) == [
            (
                "listener high: there is no port for broker 7: broker_port_start + 7 is too high or taken; give it one,"
                " broker_ports: {7: PORT}"
            ),
            (
                "listener met: port 9100 would be opened for broker 7 of listener low and for listener met itself; give"
                " another broker_port_start or broker_ports"
            ),
        ]
