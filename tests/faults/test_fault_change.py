"""Listeners, clusters, rules, logins, certificates and the request log changed while clients are served.

What the change does not concern goes on: a connection beside it answers before and after, on the same socket.
"""

import asyncio
import contextlib
import json
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from clients.gateway import on_uvloop
from clients.raw import HEARTBEAT_OK, RawClient, heartbeat
from clients.stage import Stage, staged
from prometheus_client.parser import text_string_to_metric_families

from kproxy.testing.certificates import Authority
from kproxy.testing.fakebroker import CLOSE, Delay, FakeCluster
from kproxy.testing.ports import free_port_block
from kproxy.wire.apis import ApiKey

DENY = ", access: {apis: {deny: [Heartbeat]}}"
DENY_OTHERS = ", access: {apis: {deny: [DeleteTopics]}}"
DENIED = b"\0\0\0\0\0\x1e"
"""A Heartbeat answer v3 with GROUP_AUTHORIZATION_FAILED."""


async def applied(stage: Stage, text: str) -> list[str]:
    """Apply a configuration; return the plan."""
    answer = await stage.send("PUT", "/config", text)
    assert answer.status == 200, answer
    plan: list[str] = answer.json["plan"]
    return plan


def counted(stage: Stage, name: str, **labels: str) -> float:
    """Return a counter of the listener from /metrics; 0 where there is none."""
    wanted = {"listener": "public", **labels}
    return sum(
        sample.value
        for family in text_string_to_metric_families(stage.admin.get("/metrics").body)
        for sample in family.samples
        if sample.name == f"kproxy_{name}_total" and sample.labels == wanted
    )


async def closed_by_now(stage: Stage, cause: str) -> None:
    """Wait until a connection has ended for a reason."""
    deadline = asyncio.get_running_loop().time() + 15
    while not await asyncio.to_thread(counted, stage, "connections_closed", cause=cause):
        assert asyncio.get_running_loop().time() < deadline, f"{cause}: {stage.run.proxy.log_tail()}"
        await asyncio.sleep(0.05)


async def until_connects(address: str) -> None:
    """Wait until somebody listens."""
    host, _, port = address.rpartition(":")
    deadline = asyncio.get_running_loop().time() + 10
    while True:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except ConnectionRefusedError:
            assert asyncio.get_running_loop().time() < deadline, address
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return


async def is_refused(address: str) -> bool:
    """Whether nobody listens."""
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


@on_uvloop
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_listener_comes_and_goes(tmp_path: Path, workers: int) -> None:
    """A new listener serves once it is told; one that is gone takes nobody, and lets its clients have their answer."""
    async with staged(tmp_path, "--workers", str(workers)) as stage, RawClient(stage.run.address) as client:
        inside = f"127.0.0.1:{stage.other_port}"
        beside = f", inside: {{bind: '{inside}', addressing: single}}}}\nadmin:"
        assert await applied(stage, stage.text().replace("}\nadmin:", beside)) == ["starts listener inside"]
        await stage.run.until(lambda: inside in stage.run.proxy.output.read_text(encoding="utf-8"), "its address")
        async with RawClient(inside) as other, RawClient(inside) as idle:
            await other.heartbeat()
            await idle.heartbeat()
            stage.cluster.on(ApiKey.HEARTBEAT, Delay(0.5, HEARTBEAT_OK), HEARTBEAT_OK)
            await other.send(ApiKey.HEARTBEAT, 3, heartbeat())
            await stage.run.until(lambda: stage.cluster.brokers[1].counts[ApiKey.HEARTBEAT] == 3, "the request")
            assert await applied(stage, stage.text()) == ["stops listener inside (drains)"]
            await idle.assert_closed()
            assert (await other.receive()).endswith(HEARTBEAT_OK)
            await other.assert_closed()
        assert await is_refused(inside)
        await client.heartbeat()
        assert (await stage.send("GET", "/readyz")).status == 200
        await stage.told("listener has drained")


@on_uvloop
async def test_a_listener_moves(tmp_path: Path) -> None:
    """With another address a listener opens there, and the connections of before end when they are idle."""
    async with staged(tmp_path) as stage, RawClient(stage.run.address) as client:
        await client.heartbeat()
        moved = f"127.0.0.1:{stage.other_port}"
        assert await applied(stage, stage.text(port=stage.other_port)) == [
            "changes listener public: bind (drains and opens again)"
        ]
        await client.assert_closed()
        await until_connects(moved)
        assert await is_refused(stage.run.address)
        async with RawClient(moved) as again:
            await again.heartbeat()
            # Its successor counts on.
            assert await asyncio.to_thread(counted, stage, "connections_opened") >= 2
            await closed_by_now(stage, "drained")


@on_uvloop
async def test_nobody_is_refused_where_the_address_stays(tmp_path: Path) -> None:
    """While a listener is replaced at its own address no connection is refused there, and clients are served."""
    async with staged(tmp_path, "--workers", "2") as stage:
        done = asyncio.Event()
        served = 0

        async def keep_coming() -> None:
            nonlocal served
            while not done.is_set():
                # One that has come to the old listener may end before it has asked, as idle ones do in a drain.
                with contextlib.suppress(EOFError, ConnectionResetError):
                    async with RawClient(stage.run.address) as client:
                        await client.api_versions()
                    served += 1

        ports = stage.text().replace("single", "ports")
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(keep_coming())
            for text in (ports, stage.text(), ports, stage.text()):
                before = served
                assert await applied(stage, text) == ["changes listener public: addressing (drains and opens again)"]
                await stage.run.until(partial(lambda before: served >= before + 8, before), "clients to be served")
            done.set()


@on_uvloop
async def test_an_address_that_is_taken(tmp_path: Path) -> None:
    """A listener that cannot have its address is refused, and so is all that came with it."""
    async with staged(tmp_path) as stage, RawClient(stage.run.address) as client:
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", stage.other_port)
        async with server:
            answer = await stage.send("PUT", "/config", stage.text(DENY, "drain_timeout: 5s", port=stage.other_port))
        assert answer.status == 409
        assert "address already in use" in answer.json["error"]
        await client.heartbeat()
        assert (await stage.send("GET", "/config")).json["drain_timeout"] == "30s"


@on_uvloop
async def test_rules_count_from_the_next_request(tmp_path: Path) -> None:
    """Other rules hold for who is connected; the first ones end what came without any, at its next idle moment."""
    async with staged(tmp_path, "--workers", "2") as stage:
        async with RawClient(stage.run.address) as before:
            await before.heartbeat()
            await applied(stage, stage.text(DENY_OTHERS))
            await before.assert_closed()
        await closed_by_now(stage, "configuration changed")
        async with RawClient(stage.run.address) as client:
            await client.heartbeat()
            body = await client.ask(ApiKey.HEARTBEAT, 3, heartbeat())
            assert body == HEARTBEAT_OK
            assert await applied(stage, stage.text(DENY)) == [
                "changes listener public: access.apis.deny (from the next request, on open connections too)"
            ]
            await until(lambda: client.ask(ApiKey.HEARTBEAT, 3, heartbeat()), DENIED)
            await applied(stage, stage.text())
            await until(lambda: client.ask(ApiKey.HEARTBEAT, 3, heartbeat()), HEARTBEAT_OK)


async def until(ask: Callable[[], object], wanted: object) -> None:
    """Ask until the answer is the one that is wanted."""
    deadline = asyncio.get_running_loop().time() + 10
    while (answer := await ask()) != wanted:  # type: ignore[misc]
        assert asyncio.get_running_loop().time() < deadline, answer
        await asyncio.sleep(0.01)


@on_uvloop
async def test_a_busy_connection_ends_after_its_last_answer(tmp_path: Path) -> None:
    """One that never is idle takes no more after a while, and has all its answers before it ends."""
    async with staged(tmp_path) as stage, RawClient(stage.run.address) as client:
        stage.cluster.on(ApiKey.HEARTBEAT, Delay(0.3, HEARTBEAT_OK))
        sent = answered = 0
        for _ in range(2):
            await client.send(ApiKey.HEARTBEAT, 3, heartbeat())
            sent += 1
        await applied(stage, stage.text(DENY_OTHERS))
        began = asyncio.get_running_loop().time()
        try:
            while asyncio.get_running_loop().time() < began + 20:
                await client.receive()
                answered += 1
                await client.send(ApiKey.HEARTBEAT, 3, heartbeat())
                sent += 1
        except (EOFError, ConnectionError):
            pass
        ended = asyncio.get_running_loop().time() - began
        assert 4 < ended < 12
        assert answered == stage.cluster.brokers[1].counts[ApiKey.HEARTBEAT]  # what the broker had is answered


@on_uvloop
async def test_the_request_log_begins_moves_and_ends(tmp_path: Path) -> None:
    """A log is written from when it is configured, elsewhere when that changes, sampled anew in place, then no more."""
    async with staged(tmp_path, more="metrics: {latency: true}\n") as stage, RawClient(stage.run.address) as client:
        await client.heartbeat()
        first, second = tmp_path / "first.log", tmp_path / "second.log"
        metrics = "metrics: {latency: true}\n"

        def log(path: Path, options: str = "") -> str:
            return stage.text(more=f"{metrics}request_log: {{to: file, path: '{path}', linger: 10ms{options}}}\n")

        def entries(path: Path) -> list[str]:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            return [json.loads(line)["api"] for line in text.splitlines()]

        async def until_logged(path: Path) -> None:
            await stage.run.until_async(client.heartbeat, lambda: len(entries(path)) >= 3, f"entries in {path}")

        assert await applied(stage, log(first)) == ["starts request_log"]
        await until_logged(first)
        assert await applied(stage, log(second)) == [
            "changes request_log: path (opens again, and what waits is written first)"
        ]
        await until_logged(second)
        before = len(entries(first))
        assert await applied(stage, log(second, ", match: {apis: [Metadata]}")) == [
            "changes request_log: match.apis (from the next request, on open connections too)"
        ]
        await asyncio.sleep(0.1)
        many = len(entries(second))
        for _ in range(5):
            await client.heartbeat()
        assert await applied(stage, stage.text(more=metrics)) == ["stops request_log"]
        for _ in range(5):
            await client.heartbeat()
        await asyncio.sleep(0.1)
        assert (len(entries(first)), len(entries(second))) == (before, many)
        bad = await stage.send("PUT", "/config", log(tmp_path / "no" / "folder"))
        assert bad.status == 409
        await client.heartbeat()


@on_uvloop
async def test_another_login_at_the_brokers(tmp_path: Path) -> None:
    """New credentials are used from then on; a connection of the old ones ends when it is idle, and others do not."""
    users = {"old": "old-password", "new": "new-password"}

    def text(stage: Stage, user: str) -> str:
        login = f"{{mechanism: PLAIN, username: {user}, password: {user}-password}}"
        return stage.text().replace("]}}\nlisteners", f"], sasl: {login}}}}}\nlisteners")

    async with staged(tmp_path, users=users, edit=lambda stage: text(stage, "old")) as stage:
        broker = stage.cluster.brokers[1]
        async with RawClient(stage.run.address) as client:
            await client.heartbeat()
            plan = await applied(stage, text(stage, "new"))
            effect = "for new connections to brokers; clients of another login leave when idle"
            assert plan == [f"changes cluster main: sasl.username, sasl.password ({effect})"]
            await client.assert_closed()
        broker.users = {"new": users["new"]}
        async with RawClient(stage.run.address) as client:
            await client.heartbeat()
            await applied(stage, text(stage, "new") + "drain_timeout: 5s\n")
            await client.heartbeat()
        log = stage.run.proxy.log.read_text(encoding="utf-8")
        assert not any(password in log for password in users.values())


@on_uvloop
async def test_another_cluster_takes_its_place(tmp_path: Path) -> None:
    """With the bootstrap of another cluster clients are led there; one that does not answer changes nothing."""
    async with staged(tmp_path) as stage, FakeCluster(2) as other:
        other.state.cluster_id = "another"
        other.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        nowhere = f"127.0.1.9:{free_port_block(1)}"

        def text(bootstrap: str) -> str:
            return stage.text().replace(stage.cluster.bootstrap, bootstrap)

        async with RawClient(stage.run.address) as client:
            await client.heartbeat()
            assert await applied(stage, text(nowhere)) == [
                "changes cluster main: bootstrap (for new connections to brokers)"
            ]
            await stage.told("no answer at the new bootstrap addresses")
            await client.heartbeat()
            await applied(stage, text(other.bootstrap))
            await client.assert_closed()
        async with RawClient(stage.run.address) as client:
            asked = stage.cluster.brokers[1].counts[ApiKey.HEARTBEAT]
            await client.heartbeat()
            assert stage.cluster.brokers[1].counts[ApiKey.HEARTBEAT] == asked
        for broker in stage.cluster.brokers.values():
            broker.on(ApiKey.METADATA, CLOSE)  # nobody asks it any more
        clusters = (await stage.send("GET", "/clusters")).json
        assert "another" in json.dumps(clusters)


@on_uvloop
async def test_tls_and_logins_begin(tmp_path: Path) -> None:
    """Where TLS is asked for from now on, plain connections end when idle; a new certificate counts at SIGHUP."""
    authority = Authority()
    authority.server("localhost").write(tmp_path, "c")
    tls = f", tls: {{cert_file: '{tmp_path}/c.pem', key_file: '{tmp_path}/c.key', reload_interval: 1h}}"
    async with staged(tmp_path) as stage:
        async with RawClient(stage.run.address) as client:
            await client.heartbeat()
            wrong = await stage.send("PUT", "/config", stage.text(tls.replace("c.pem", "no.pem")))
            assert (wrong.status, "no.pem" in json.dumps(wrong.json)) == (400, True)
            await client.heartbeat()
            plan = await applied(stage, stage.text(tls))
            assert plan == [
                "changes listener public: tls (for new connections; one that could not come in now leaves when idle)"
            ]
            await client.assert_closed()
        first = await serial(stage, authority)
        authority.server("localhost").write(tmp_path, "c")
        stage.change(stage.text(tls))
        await stage.told("TLS files read again")
        assert await serial(stage, authority) != first


def all_above(before: list[int], now: list[int]) -> bool:
    """Whether each number has grown."""
    return all(one < other for one, other in zip(before, now, strict=True))


async def serial(stage: Stage, authority: Authority) -> object:
    """Return what tells one certificate from another."""
    host, _, port = stage.run.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=authority.trusting(), server_hostname="localhost")
    ssl_object: ssl.SSLObject = writer.get_extra_info("ssl_object")
    certificate = ssl_object.getpeercert(binary_form=True)
    writer.close()
    return certificate


@on_uvloop
async def test_changes_of_everything_beside_traffic(tmp_path: Path) -> None:
    """Amid changes of another listener, its rules and its cluster, no connection of the first one closes."""
    async with staged(tmp_path, "--workers", "2") as stage, FakeCluster(1) as spare:
        spare.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        inside = f"127.0.0.1:{stage.other_port}"
        clusters = f"{{main: {{bootstrap: [{stage.cluster.bootstrap}]}}, spare: {{bootstrap: [{spare.bootstrap}]}}}}"
        done = asyncio.Event()
        answered = [0] * 4

        def text(options: str) -> str:
            return (
                f"clusters: {clusters}\nlisteners:\n"
                f"  public: {{cluster: main, bind: '{stage.run.address}', addressing: single}}\n"
                f"  inside: {{cluster: spare, bind: '{inside}', addressing: single{options}}}\n"
                f"admin: {{bind: '{stage.admin.address}'}}\n"
            )

        async def keep_asking(index: int) -> None:
            async with RawClient(stage.run.address) as client:
                while not done.is_set():
                    await client.heartbeat()
                    answered[index] += 1

        async with asyncio.TaskGroup() as group:
            for index in range(len(answered)):
                group.create_task(keep_asking(index))
            for _ in range(8):
                for options in (DENY_OTHERS, DENY, ", idle_timeout: 5m", ", connections_max: 10"):
                    before = list(answered)
                    await applied(stage, text(options))
                    await stage.run.until(partial(all_above, before, answered), "all")
                await applied(stage, stage.text())
            done.set()
        assert await asyncio.to_thread(counted, stage, "connections_opened") == len(answered)
        await closed_by_now(stage, "client closed")
        assert not await asyncio.to_thread(counted, stage, "connections_closed", cause="configuration changed")
