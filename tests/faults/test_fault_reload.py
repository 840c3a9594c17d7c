"""The configuration changed while clients are served: by its file, SIGHUP and the admin API."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from functools import partial
from pathlib import Path

from click.testing import CliRunner
from clients.admin import Admin
from clients.gateway import on_uvloop
from clients.program import running
from clients.raw import HEARTBEAT_OK, RawClient
from clients.stage import Stage, staged
from clients.upgrades import following, upgrade

from kproxy.cli.main import main
from kproxy.testing.fakebroker import FakeCluster
from kproxy.testing.ports import free_port_block
from kproxy.wire.apis import ApiKey


@on_uvloop
async def test_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    """A file with a mistake is noticed, refused and told with its line, once; clients go on as before."""
    async with staged(tmp_path) as stage, RawClient(stage.run.address) as client:
        await client.heartbeat()
        stage.change(stage.text(", idle_timeot: 5m"), signal_it=False)
        line = await stage.told("configuration refused")
        assert line["way"] == "file"
        assert (
            line["mistakes"]
            == [f"{stage.path}:2:67: listeners.public.idle_timeot: unknown key; did you mean 'idle_timeout'?"]
            or "did you mean 'idle_timeout'" in line["mistakes"][0]
        )
        await client.heartbeat()
        assert (await stage.send("GET", "/config")).json["listeners"]["public"]["idle_timeout"] == "10m"
        assert 'kproxy_reloads_total{result="refused"} 1.0' in (await stage.send("GET", "/metrics")).body
        assert len(stage.run.lines("configuration refused")) == 1


@on_uvloop
async def test_what_takes_a_restart(tmp_path: Path) -> None:
    """Another number of workers is refused in a line that says to restart; the same file again has nothing to do."""
    async with staged(tmp_path) as stage:
        refused = await stage.send("PUT", "/config", stage.text(more="workers: 2\n"))
        assert (refused.status, len(refused.json["mistakes"])) == (400, 1)
        assert "restart kproxy" in refused.json["mistakes"][0]
        again = await stage.send("POST", "/reload")
        assert (again.status, again.json["plan"]) == (200, [])


@on_uvloop
async def test_a_plan_is_told_beforehand(tmp_path: Path) -> None:
    """``kproxy check FILE --against`` tells what a kproxy that runs would change, and it changes nothing."""
    async with staged(tmp_path) as stage:
        other = tmp_path / "other.yaml"
        other.write_text(stage.text(more="drain_timeout: 5s\n"), encoding="utf-8")

        async def check(path: Path, *more: str) -> tuple[int, str]:
            arguments = ["check", str(path), "--against", stage.admin.address, *more]
            result = await asyncio.to_thread(CliRunner().invoke, main, arguments, None, {"KPROXY_ADMIN_KEY": ""})
            return result.exit_code, result.output

        code, output = await check(other)
        assert (code, output.splitlines()[-2:]) == (
            0,
            [f"against {stage.admin.address}:", "  changes drain_timeout (from now on)"],
        )
        code, output = await check(stage.path)
        assert (code, output.splitlines()[-1]) == (0, f"against {stage.admin.address}: nothing to change")
        other.write_text(stage.text(more="workers: 3\n"), encoding="utf-8")
        code, output = await check(other)
        assert (code, "restart kproxy" in output) == (2, True)
        assert (await stage.send("GET", "/config")).json["drain_timeout"] == "30s"
        assert stage.run.lines("changing the configuration") == []


@on_uvloop
async def test_the_admin_api_moves(tmp_path: Path) -> None:
    """Its new place is open before the old one closes, and its new key is asked for, at the word of one PUT."""
    async with staged(tmp_path) as stage, RawClient(stage.run.address) as client:
        await client.heartbeat()
        old = stage.admin
        stage.admin = Admin(key="first-key")
        new = stage.text().replace("admin: {", "admin: {api_key: first-key, ")
        answer = await asyncio.to_thread(old.send, "PUT", "/config", new.encode(), {})
        assert (answer.status, answer.json["plan"]) == (200, ["changes admin: bind, api_key (opens again)"])
        assert (await stage.send("GET", "/status")).status == 200
        second = Admin(stage.admin.address, "second-key")
        answer = await stage.send("PUT", "/config", new.replace("first-key", "second-key"))
        assert (answer.status, answer.json["plan"]) == (200, ["changes admin: api_key (from the next request)"])
        assert (await stage.send("GET", "/status")).status == 401
        assert (await asyncio.to_thread(second.send, "GET", "/status", None, {})).status == 200
        await stage.run.until(lambda: refused(old), "the old place to close")
        await client.heartbeat()
        secrets = ("first-key", "second-key")
        assert not any(secret in stage.run.proxy.log.read_text(encoding="utf-8") for secret in secrets)


def all_above(before: list[int], now: list[int]) -> bool:
    """Whether each number has grown."""
    return all(one < other for one, other in zip(before, now, strict=True))


def refused(admin: Admin) -> bool:
    """Whether nobody listens at a place any more."""
    host, _, port = admin.address.rpartition(":")
    return not reachable(host, int(port))


@on_uvloop
async def test_an_address_that_is_taken(tmp_path: Path) -> None:
    """When the admin API's new place cannot be had it stays where it is, with its key."""
    async with staged(tmp_path) as stage:
        taken = Admin()
        host, _, port = taken.address.rpartition(":")
        with socket.create_server((host, int(port))):
            answer = await stage.send("PUT", "/config", stage.text().replace(stage.admin.address, taken.address))
        assert (answer.status, "address already in use" in answer.json["error"]) == (409, True)
        assert (await stage.send("GET", "/config")).json["admin"]["bind"] == stage.admin.address


@on_uvloop
async def test_a_listener_moves_where_it_is_in_its_own_way(tmp_path: Path) -> None:
    """To all hosts and back, to the port of a broker of its own, and to all hosts by an upgrade: it is there each time.

    So is the admin API.
    """

    def at(host: str, port: int) -> str:
        text = stage.text(f", advertise: '127.0.0.1:{port}'", port=port).replace("single", "ports")
        return text.replace(f"127.0.0.1:{port}", f"{host}:{port}", 1)

    def first(stage: Stage) -> str:
        stage.port = free_port_block(6)
        return stage.text().replace("single", "ports")

    async with staged(tmp_path, "--workers", "2", edit=first) as stage:
        for host, port in (
            ("0.0.0.0", stage.port),
            ("127.0.0.1", stage.port),
            ("127.0.0.1", stage.port + 2),
            ("127.0.0.1", stage.port + 1),
        ):
            async with RawClient(stage.run.address) as client:
                await client.heartbeat()
                answer = await stage.send("PUT", "/config", at(host, port))
                assert answer.status == 200, answer
                await client.assert_closed()
            stage.run.address = f"127.0.0.1:{port}"
            await served(stage, port, everywhere=host == "0.0.0.0")
        stage.write(at("0.0.0.0", port).replace("admin: {bind: '127.0.0.1", "admin: {api_key: a-key, bind: '0.0.0.0"))
        with following(stage.run.proxy):
            await asyncio.to_thread(upgrade, stage.run.proxy)
            await served(stage, port, everywhere=True)
            assert (await stage.send("GET", "/status")).status == 401
            stage.admin.key = "a-key"
            stage.change(at("127.0.0.1", port))
            await stage.run.until(lambda: not reachable("127.0.0.2", port), "it to be where it was")
            await served(stage, port, everywhere=False)
            await asyncio.to_thread(stage.run.proxy.finish)


async def served(stage: Stage, port: int, *, everywhere: bool) -> None:
    """Fail unless clients are served at a port and at broker 1's, and, if so told, at each address of this machine."""
    await stage.run.until(lambda: reachable("127.0.0.1", port + 2), "the broker's port")
    for host in ("127.0.0.1", "127.0.0.2") if everywhere else ("127.0.0.1",):
        for one in (port, port + 2):
            async with RawClient(f"{host}:{one}") as client:
                await client.heartbeat()
    assert reachable("127.0.0.2", port) == everywhere


def reachable(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection((host, port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


WIDE = "{name: wide, leaky_bucket: {rate: 1000000}, match: {apis: [Heartbeat]}}"
OTHERS = (
    ", {{name: other, leaky_bucket: {{rate: {}}}, match: {{apis: [Heartbeat]}}}}",
    ", {{name: other, concurrency: {{max: {}}}, match: {{apis: [Heartbeat]}}}}",
    ", {{name: other, connections: {{max: {}}}}}",
)


@on_uvloop
async def test_limits_change_for_who_is_connected(tmp_path: Path) -> None:
    """An open connection comes under a limit from its next request on, and is free when it is gone."""
    slow = "{name: slow, leaky_bucket: {rate: 5}, on_exceed: delay, match: {apis: [Heartbeat]}}"
    async with (
        staged(tmp_path, "--workers", "2", more=f"limits: [{WIDE}]\n") as stage,
        RawClient(stage.run.address) as client,
    ):

        async def four() -> float:
            began = time.monotonic()
            for _ in range(4):
                await client.heartbeat()
            return time.monotonic() - began

        await four()
        answer = await stage.send("PUT", "/config", stage.text(more=f"limits: [{WIDE}, {slow}]\n"))
        assert answer.json["plan"] == ["starts limit slow (from the next request, on open connections too)"]
        assert await four() >= 3 / 5 - 0.05
        limits = (await stage.send("GET", "/limits")).json["limits"]
        assert [limit["name"] for limit in limits] == ["wide", "slow"], limits
        answer = await stage.send("PUT", "/config", stage.text(more=f"limits: [{WIDE}]\n"))
        assert answer.json["plan"] == ["stops limit slow (from the next request, on open connections too)"]
        await client.heartbeat()  # a request that waits already waits as long as it was told
        assert await four() < 3 / 5 - 0.05


@on_uvloop
async def test_the_first_limit(tmp_path: Path) -> None:
    """A connection made while there were no limits ends at its next idle moment, and comes under them as it is back."""
    async with staged(tmp_path) as stage, RawClient(stage.run.address) as client:
        await client.heartbeat()
        answer = await stage.send("PUT", "/config", stage.text(more=f"limits: [{WIDE}]\n"))
        assert answer.status == 200
        await client.assert_closed()
        async with RawClient(stage.run.address) as again:
            await again.heartbeat()
            stage.run.proxy.signal(signal.SIGUSR1)
            assert (await stage.told("tally"))["listeners"]["public"]["closed"] == {"configuration changed": 1}
            limits = (await stage.send("GET", "/limits")).json["limits"]
            assert [(limit["name"], limit["workers"][0]["asked"]) for limit in limits] == [("wide", 1)]
            answer = await stage.send("PUT", "/config", stage.text())
            assert answer.status == 200
            await again.heartbeat()


@on_uvloop
async def test_a_hundred_reloads_under_load(tmp_path: Path) -> None:
    """Amid a hundred changes of limits in a row, by two workers, no request is lost and no connection closed."""
    more = f"limits: [{WIDE}]\n"
    async with staged(tmp_path, "--workers", "2", more=more) as stage, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(RawClient(stage.run.address)) for _ in range(8)]
        done = asyncio.Event()
        answered = [0] * len(clients)

        async def keep_asking(index: int) -> None:
            while not done.is_set():
                await clients[index].heartbeat()
                answered[index] += 1

        async with asyncio.TaskGroup() as group:
            for index in range(len(clients)):
                group.create_task(keep_asking(index))
            for number in range(100):
                before = list(answered)
                # Another one comes, then it is another, then it goes: a bucket, slots, or connections.
                other = OTHERS[number // 3 % 3].format(10_000 + number) if number % 3 < 2 else ""
                text = stage.text(more=f"limits: [{WIDE}{other}]\n")
                answer = await stage.send("PUT", "/config", text)
                assert (answer.status, len(answer.json["plan"])) == (200, 1), answer
                await stage.run.until(partial(all_above, before, answered), "all to go on")
            done.set()
        assert 'kproxy_reloads_total{result="succeeded"} 100.0' in (await stage.send("GET", "/metrics")).body
        for line in stage.run.lines("worker"):
            raise AssertionError(line)


@on_uvloop
async def test_sighup_without_a_file(tmp_path: Path) -> None:
    """Without --config SIGHUP says that there is no file, and kproxy, workers too, lives on."""
    async with FakeCluster(1) as cluster, running(tmp_path, cluster.bootstrap, "single") as run:
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        async with RawClient(run.address) as client:
            await client.heartbeat()
            os.kill(run.proxy.pid, signal.SIGHUP)
            await run.until_told("no configuration file to read again")
            await client.heartbeat()
