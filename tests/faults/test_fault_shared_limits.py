"""Limits that three workers hold together: over all of their connections, also when one of them is killed."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

from clients.gateway import on_uvloop
from clients.proc import connections_to, workers_of
from clients.program import Run, running
from clients.raw import HEARTBEAT_OK, RawClient, produce, produced

from kproxy.testing.fakebroker import FakeBroker, FakeCluster, Hold
from kproxy.wire.apis import ApiKey

PRODUCE = ApiKey.PRODUCE
WORKERS = 3


@contextlib.asynccontextmanager
async def limited(folder: Path, **limit: object) -> AsyncIterator[tuple[Run, FakeBroker]]:
    """Run three workers under one limit, before one broker."""
    config = folder / "kproxy.yaml"
    config.write_text(json.dumps({"limits": [{"name": "limit", **limit}], "workers": WORKERS}), encoding="utf-8")
    async with (
        FakeCluster(1) as cluster,
        running(folder, cluster.bootstrap, "single", "--config", str(config)) as run,
    ):
        broker = cluster.brokers[1]
        broker.state.topics["topic"] = [1]
        broker.on(PRODUCE, produced())
        broker.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        yield run, broker


async def connected(run: Run, many: int, stack: contextlib.AsyncExitStack) -> list[RawClient]:
    """Open connections that have been served, spread over all workers."""
    clients = []
    for _ in range(many):
        client = await stack.enter_async_context(RawClient(run.address))
        await client.heartbeat()
        clients.append(client)
    has = [connections_to(worker, run.proxy.port) for worker in workers_of(run.proxy.pid, WORKERS)]
    assert min(has) >= many // WORKERS - 1
    return clients


async def greedy(client: RawClient, seconds: float) -> int:
    """Produce as fast as may be for so long, or until the connection is closed; return how often it went well."""
    loop = asyncio.get_running_loop()
    until, count = loop.time() + seconds, 0
    with contextlib.suppress(EOFError, ConnectionError):
        while loop.time() < until:
            await client.ask(PRODUCE, 7, produce(1))
            count += 1
    return count


@on_uvloop
async def test_a_window(tmp_path: Path) -> None:
    """However connections are spread, exactly as many requests pass as the window has; who comes then is closed."""
    async with (
        limited(tmp_path, fixed_window={"count": 100, "window": "60s"}, on_exceed="close") as (run, broker),
        contextlib.AsyncExitStack() as stack,
    ):
        clients = await connected(run, 9, stack)
        assert sum(await asyncio.gather(*(greedy(client, 20) for client in clients))) == 100
        assert len(broker.of(PRODUCE)) == 100
        for client in clients:
            await client.assert_closed()


@on_uvloop
async def test_a_rate(tmp_path: Path) -> None:
    """Connections of all workers together get the rate, within 2 % and one request per worker; nobody starves."""
    rate, seconds = 200, 6.0
    async with (
        limited(tmp_path, leaky_bucket={"rate": rate}, on_exceed="delay") as (run, broker),
        contextlib.AsyncExitStack() as stack,
    ):
        clients = await connected(run, 9, stack)
        began = asyncio.get_running_loop().time()
        counts = await asyncio.gather(*(greedy(client, seconds) for client in clients))
        took = asyncio.get_running_loop().time() - began
        most = rate * took * 1.02 + WORKERS
        assert rate * seconds * 0.9 < sum(counts) <= most  # a busy machine may have less
        assert len(broker.of(PRODUCE)) <= most
        assert min(counts) > rate * seconds / 9 / 4


@on_uvloop
async def test_requests_in_flight(tmp_path: Path) -> None:
    """Never more are with the broker than the limit says; what a killed worker had there is given to others."""
    async with (
        limited(tmp_path, concurrency={"max": 4}) as (run, broker),
        contextlib.AsyncExitStack() as stack,
    ):
        clients = await connected(run, 12, stack)
        answers = [asyncio.Event() for _ in range(12)]
        broker.on(PRODUCE, *(Hold(answer, produced()) for answer in answers), produced())
        for client in clients:
            await client.send(PRODUCE, 7, produce(1))
        await broker.until_asked(PRODUCE, 4)
        await asyncio.sleep(0.3)
        assert len(broker.of(PRODUCE)) == 4
        answers[0].set()
        await broker.until_asked(PRODUCE, 5)
        await asyncio.sleep(0.3)
        assert len(broker.of(PRODUCE)) == 5
        os.kill(workers_of(run.proxy.pid, WORKERS)[0], signal.SIGKILL)
        await run.until_told("worker died")
        for answer in answers:
            answer.set()
        answered = [client for client in clients if await is_answered(client)]
        alive = [client for client in answered if await is_served(client)]  # some got theirs before the worker died
        assert 6 <= len(alive) <= 10
        await asyncio.gather(*(client.ask(PRODUCE, 7, produce(1)) for client in alive))


async def is_answered(client: RawClient) -> bool:
    """Wait for an answer; tell whether one came."""
    try:
        await client.receive()
    except (EOFError, ConnectionError):
        return False
    return True


@on_uvloop
async def test_connections(tmp_path: Path) -> None:
    """So many connections are let in as the limit says, over all workers; whose worker is killed makes room."""
    async with (
        limited(tmp_path, connections={"max": 6}, key=["client_ip"]) as (run, _),
        contextlib.AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(RawClient(run.address)) for _ in range(10)]
        served = [client for client in clients if await is_served(client)]
        assert len(served) == 6
        victim = workers_of(run.proxy.pid, WORKERS)[0]
        lost = connections_to(victim, run.proxy.port)
        os.kill(victim, signal.SIGKILL)
        await run.until_told("worker died")
        again = [await stack.enter_async_context(RawClient(run.address)) for _ in range(10)]
        assert sum([await is_served(client) for client in again]) == lost


async def is_served(client: RawClient) -> bool:
    """Ask something; tell whether there was an answer."""
    try:
        await client.heartbeat()
    except (EOFError, ConnectionError):
        return False
    return True


@on_uvloop
async def test_one_tally(tmp_path: Path) -> None:
    """The tally of all workers tells what remains of a window as there is of it, wherever it is in hand."""
    async with (
        limited(tmp_path, fixed_window={"count": 1000, "window": "60s"}, key=["client_id"]) as (run, _),
        contextlib.AsyncExitStack() as stack,
    ):
        for client in await connected(run, 6, stack):
            for _ in range(5):
                await client.ask(PRODUCE, 7, produce(1))

        def told() -> tuple[int, int]:
            run.proxy.signal(signal.SIGUSR1)
            for line in run.lines("tally")[-1:]:
                limit = line["limits"]["limit"]
                return limit["asked"], limit["windows"]["raw"]["remaining"]
            return 0, 0

        await run.until(lambda: told() == (30, 970), "the tally to tell 30 requests and what remains")
