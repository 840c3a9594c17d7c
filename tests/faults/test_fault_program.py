"""The program as a process: starts into trouble, stops under way, and what it costs in memory and files."""

import asyncio
import contextlib
import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
from clients import each_addressing
from clients.admin import Admin
from clients.gateway import on_uvloop
from clients.proc import children, open_descriptors, resident_bytes, worker_of
from clients.program import Run, running, running_by
from clients.raw import HEARTBEAT_OK, RawClient, fetch, heartbeat
from clients.strangers import Stranger, server_tls
from prometheus_client.parser import text_string_to_metric_families

from kproxy.testing.certificates import Authority
from kproxy.testing.fakebroker import FakeBroker, FakeCluster, Hold
from kproxy.testing.ports import free_port_block
from kproxy.wire import primitives as p
from kproxy.wire.apis import ApiKey

KIB, MIB = 1024, 1024 * 1024


@each_addressing
@on_uvloop
async def test_a_wrong_password(tmp_path: Path, addressing: str) -> None:
    """With a wrong password nothing is served: one line says so, and logins are tried less and less often."""
    async with FakeCluster(3, users={"gateway": "secret"}) as cluster:
        login = ("gateway", "wrong-secret")
        async with running(tmp_path, cluster.bootstrap, addressing, ready=False, login=login) as run:
            await run.until_told("login refused")
            began = asyncio.get_running_loop().time()
            await run.until(lambda: len(tries(cluster)) >= 3, "the third try")
            assert 2 < asyncio.get_running_loop().time() - began < 6
            assert len(run.lines("login refused")) == 1
            assert run.proxy.output.read_text(encoding="utf-8") == ""
            assert "wrong-secret" not in run.proxy.log.read_text(encoding="utf-8")
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", run.proxy.port)


def tries(cluster: FakeCluster) -> list[object]:
    """Return the tries to log in."""
    return [request for request in cluster.requests if request.key == ApiKey.SASL_AUTHENTICATE]


@each_addressing
@on_uvloop
async def test_the_cluster_is_down_at_the_start(tmp_path: Path, addressing: str) -> None:
    """Started before its cluster the program waits, says so, and serves once the cluster is there."""
    async with FakeBroker() as broker:
        broker.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        await broker.stop()
        async with running(tmp_path, broker.address, addressing, ready=False) as run:
            await run.until_told("no broker answers")
            assert run.proxy.output.read_text(encoding="utf-8") == ""
            await broker.start()
            await asyncio.to_thread(run.proxy.wait_ready)
            async with RawClient(run.address) as client:
                await client.heartbeat()


@each_addressing
@on_uvloop
async def test_a_stop_waits_for_answers(tmp_path: Path, addressing: str) -> None:
    """SIGTERM refuses new clients, closes idle ones, lets answers under way through, and ends with exit code 0."""
    async with FakeCluster(1) as cluster:
        answer = asyncio.Event()
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK, Hold(answer, HEARTBEAT_OK))
        async with running(tmp_path, cluster.bootstrap, addressing) as run:
            async with RawClient(run.address) as idle, RawClient(run.address) as busy:
                await idle.heartbeat()
                await busy.send(ApiKey.HEARTBEAT, 3, heartbeat())
                await cluster.brokers[1].until_asked(ApiKey.HEARTBEAT, 2)
                run.proxy.signal(signal.SIGTERM)
                await idle.assert_closed()
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection("127.0.0.1", run.proxy.port)
                answer.set()
                assert (await busy.receive())[4:] == HEARTBEAT_OK
                await busy.assert_closed()
            assert await run.exit_code() == 0


@each_addressing
@on_uvloop
async def test_ctrl_c_twice(tmp_path: Path, addressing: str) -> None:
    """Ctrl-C waits for the answer under way; a second one does not, and the exit code is still 0."""
    async with FakeCluster(1) as cluster:
        cluster.on(ApiKey.HEARTBEAT, Hold(asyncio.Event(), HEARTBEAT_OK))
        async with running(tmp_path, cluster.bootstrap, addressing) as run, RawClient(run.address) as client:
            await client.send(ApiKey.HEARTBEAT, 3, heartbeat())
            await cluster.brokers[1].until_asked(ApiKey.HEARTBEAT)
            worker = worker_of(run.proxy.pid)
            os.killpg(run.proxy.pid, signal.SIGINT)  # as a terminal does: to all processes of the program
            await run.until_told("draining")
            with pytest.raises(TimeoutError):
                await run_for(client.reader.read(1), 0.5)
            assert children(run.proxy.pid) == [worker]
            os.killpg(run.proxy.pid, signal.SIGINT)
            assert await run.exit_code(3) == 0
            await client.assert_closed()


async def run_for(work: Any, seconds: float) -> object:
    """Run something for so long at most.

    Raises:
        TimeoutError: it was not done.
    """
    async with asyncio.timeout(seconds):
        return await work


@each_addressing
@on_uvloop
async def test_a_worker_without_a_supervisor_ends(tmp_path: Path, addressing: str) -> None:
    """When the supervisor is killed the worker ends by itself: nobody is served by a program that nobody steers."""
    async with FakeCluster(1) as cluster, running(tmp_path, cluster.bootstrap, addressing) as run:
        worker = worker_of(run.proxy.pid)
        child, run.proxy._child = run.proxy._child, None
        assert child is not None
        os.kill(child.process.pid, signal.SIGKILL)
        await run.until(lambda: not alive(worker), "the worker's end")
        child.close()


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@each_addressing
@on_uvloop
async def test_a_slow_reader_of_a_large_answer(tmp_path: Path, addressing: str) -> None:
    """While a client reads an answer of 90 MiB slowly, the program's memory grows by less than 2 MiB."""
    async with FakeCluster(1) as cluster:
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        cluster.on(ApiKey.FETCH, bytes(90 * MIB))
        cluster.state.topics["topic"] = [1]
        async with running(tmp_path, cluster.bootstrap, addressing) as run:
            worker = worker_of(run.proxy.pid)
            async with RawClient(run.address, receive_buffer_bytes=64 * KIB) as client:
                await client.heartbeat()
                before, most = resident_bytes(worker), 0
                await client.send(ApiKey.FETCH, 4, fetch())
                left = 4 + 4 + 90 * MIB
                while left:
                    left -= len(await client.read(min(left, 512 * KIB)))
                    most = max(most, resident_bytes(worker))
                    await asyncio.sleep(0.002)  # a slow reader
            assert most - before < 2 * MIB


READERS, ANSWER_BYTES = 6, 24 * MIB
"""Clients that never read, and what each asks for: more than both kernels' buffers take (4 MiB to send at most)."""


@on_uvloop
async def test_tls_clients_that_never_read(tmp_path: Path) -> None:
    """Each holds less than 1.5 MiB of the program's memory, of 24 MiB that it has asked for; others are served."""
    authority, config, port = Authority(), tmp_path / "kproxy.yaml", free_port_block(3)
    async with FakeCluster(1) as cluster:
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        cluster.on(ApiKey.FETCH, bytes(ANSWER_BYTES))
        cluster.state.topics["topic"] = [1]
        listener = {"bind": f"127.0.0.1:{port}", "tls": server_tls(tmp_path, authority)}
        clusters = {"main": {"bootstrap": [cluster.bootstrap]}}
        config.write_text(json.dumps({"clusters": clusters, "listeners": {"public": listener}}), encoding="utf-8")
        async with running_by(tmp_path, config, port) as run, contextlib.AsyncExitStack() as stack:
            worker = worker_of(run.proxy.pid)
            readers = []
            for _ in range(READERS):
                client = await stack.enter_async_context(Stranger(run.address, tls=authority.trusting()))
                await client.heartbeat()
                readers.append(client)
            before = resident_bytes(worker)
            for client in readers:
                await client.send(ApiKey.FETCH, 4, fetch())
            sent = await come_to_rest(run)
            assert sent < READERS * ANSWER_BYTES / 2
            assert resident_bytes(worker) - before < READERS * 1.5 * MIB
            await readers[0].read(4 + 4 + ANSWER_BYTES)  # whoever reads after all gets all of it
            async with Stranger(run.address, tls=authority.trusting()) as other:
                await other.heartbeat()


async def come_to_rest(run: Run) -> int:
    """Wait until something was sent to clients, and nothing more for a while; return how much it was."""
    sent: list[int] = []

    def looked() -> bool:
        tallies = run.lines("tally")
        sent[:] = [tally["listeners"]["public"]["bytes_out"] for tally in tallies]
        run.proxy.signal(signal.SIGUSR1)
        return len(sent) > 10 and sent[-1] > MIB and len(set(sent[-10:])) == 1

    await run.until(looked, "the clients to be full")
    return sent[-1]


@pytest.fixture
def many_files() -> None:
    """Let this process have as many open files as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def connected(address: str, stack: contextlib.AsyncExitStack) -> None:
    """Open one more connection that has been served, and keep it open."""
    client = await stack.enter_async_context(RawClient(address))
    await client.heartbeat()


@each_addressing
@pytest.mark.usefixtures("many_files")
@on_uvloop
async def test_idle_connections(tmp_path: Path, addressing: str) -> None:
    """Each of 2,000 idle connections costs at most 16 KiB, upstream one included."""
    async with FakeCluster(1) as cluster:
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        async with running(tmp_path, cluster.bootstrap, addressing) as run, contextlib.AsyncExitStack() as stack:
            worker = worker_of(run.proxy.pid)
            for _ in range(100):
                await connected(run.address, stack)
            before = resident_bytes(worker)
            for _ in range(20):
                await asyncio.gather(*(connected(run.address, stack) for _ in range(100)))
            each = (resident_bytes(worker) - before) / 2000
            assert each < 16 * KIB


@each_addressing
@pytest.mark.usefixtures("many_files")
@on_uvloop
async def test_nothing_stays_behind(tmp_path: Path, addressing: str) -> None:
    """After 5,000 connections memory and open files are where they were after the first 500."""
    async with FakeCluster(1) as cluster:
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        async with running(tmp_path, cluster.bootstrap, addressing) as run:
            worker = worker_of(run.proxy.pid)
            files = open_descriptors(worker)
            for _ in range(5):
                await come_and_go(run.address, 100)
            memory = resident_bytes(worker)
            for _ in range(50):
                await come_and_go(run.address, 100)
            await run.until(lambda: open_descriptors(worker) <= files, "the files to be closed")
            assert resident_bytes(worker) - memory < 2 * MIB


async def come_and_go(address: str, count: int) -> None:
    """Open so many connections at once, ask something on each, and close them: orderly, by reset, mid-frame."""

    async def one(number: int) -> None:
        async with RawClient(address) as client:
            await client.heartbeat()
            if number % 3:
                await client.send_bytes(p.INT32.pack(100))
            if number % 3 == 2:
                client.writer.transport.abort()

    await asyncio.gather(*(one(number) for number in range(count)))


@each_addressing
@on_uvloop
async def test_errors_of_brokers_are_counted_by_code(tmp_path: Path, addressing: str) -> None:
    """Where a broker refuses whatever it is asked, each answer that is looked at is told with its error's name."""
    config, admin = tmp_path / "metrics.yaml", Admin()
    config.write_text(json.dumps({"metrics": {"latency": True}, "workers": 2}), encoding="utf-8")
    given = ("--config", str(config), "--admin", admin.address)
    async with FakeCluster(1) as cluster, running(tmp_path, cluster.bootstrap, addressing, *given) as run:
        cluster.on(ApiKey.HEARTBEAT, p.INT32.pack(0) + p.INT16.pack(25))
        for _ in range(4):
            async with RawClient(run.address) as client:
                for _ in range(20):
                    await client.ask(ApiKey.HEARTBEAT, 3, heartbeat())
        scrape = await asyncio.to_thread(admin.get, "/metrics")
    told = {
        sample.name: (sample.value, sample.labels)
        for family in text_string_to_metric_families(scrape.body)
        for sample in family.samples
        if sample.labels.get("api") == "Heartbeat" and sample.labels.get("part") != "kproxy"
    }
    errors, labels = told["kproxy_timed_errors_total"]
    assert labels == {"listener": "public", "api": "Heartbeat", "error": "UNKNOWN_MEMBER_ID"}
    assert 4 <= errors < 80 == told["kproxy_requests_total"][0]
    assert errors == told["kproxy_request_duration_seconds_count"][0]
