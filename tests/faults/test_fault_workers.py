"""Several workers: connections spread evenly, one killed, all stopped, their counters joined."""

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path

import pytest
from clients.gateway import on_uvloop
from clients.proc import children, connections_to, listens, workers_of
from clients.program import Run, running
from clients.raw import HEARTBEAT_OK, RawClient, heartbeat
from clients.strangers import Stranger, write_users

from kproxy.config.users import changing
from kproxy.testing.fakebroker import FakeCluster, Hold
from kproxy.wire.apis import ApiKey

WORKERS = 3


async def connect(run: Run, many: int, stack: contextlib.AsyncExitStack, *, at_once: bool) -> list[RawClient]:
    """Open so many connections, each of which has been served, and keep them open."""

    async def one() -> RawClient:
        client = await stack.enter_async_context(RawClient(run.address))
        await client.heartbeat()
        return client

    if at_once:
        return list(await asyncio.gather(*(one() for _ in range(many))))
    return [await one() for _ in range(many)]


def spread(run: Run, workers: list[int]) -> list[int]:
    """Return how many clients each worker has."""
    return [connections_to(worker, run.proxy.port) for worker in workers]


@pytest.mark.parametrize(("many", "at_once"), [(10, False), (16, True), (100, True)])
@on_uvloop
async def test_connections_are_spread_evenly(tmp_path: Path, many: int, at_once: bool) -> None:
    """Few or many, one by one or all at once: connections that stay are spread evenly, within one or two."""
    async with (
        FakeCluster(1) as cluster,
        running(tmp_path, cluster.bootstrap, "single", "--workers", str(WORKERS)) as run,
        contextlib.AsyncExitStack() as stack,
    ):
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        workers = workers_of(run.proxy.pid, WORKERS)
        await connect(run, many, stack, at_once=at_once)
        await run.until(lambda: sum(spread(run, workers)) == many, "all to be counted")
        has = spread(run, workers)
        # A worker that was kept waiting for its turn by a busy machine is passed over, once.
        assert max(has) - min(has) <= 2


@on_uvloop
async def test_a_killed_worker_loses_only_its_own(tmp_path: Path) -> None:
    """When a worker is killed the clients of the others notice nothing; a new one takes its place and its share."""
    async with (
        FakeCluster(1) as cluster,
        running(tmp_path, cluster.bootstrap, "single", "--workers", str(WORKERS)) as run,
        contextlib.AsyncExitStack() as stack,
    ):
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        workers = workers_of(run.proxy.pid, WORKERS)
        clients = await connect(run, 12, stack, at_once=False)
        victim = workers[1]
        lost = connections_to(victim, run.proxy.port)
        os.kill(victim, signal.SIGKILL)
        alive = [client for client in clients if await still_served(client)]
        assert len(alive) == len(clients) - lost, (len(alive), lost, run.lines(""))
        await connect(run, 1, stack, at_once=False)  # nobody is refused meanwhile
        await run.until_told("worker died")
        (line,) = run.lines("worker died")
        assert (line["worker"], line["exit_code"]) == (1, -signal.SIGKILL)
        now = workers_of(run.proxy.pid, WORKERS, but=victim)
        (new,) = set(now) - set(workers)
        # It gets its share as soon as it accepts.
        await run.until(lambda: listens(new), "the new worker to listen")
        for _ in range(40):
            await connect(run, 1, stack, at_once=False)
            if connections_to(new, run.proxy.port) >= 3:
                break
        assert connections_to(new, run.proxy.port) >= 3
        for client in alive:
            await client.heartbeat()


async def still_served(client: RawClient) -> bool:
    """Ask something; tell whether there was an answer."""
    try:
        await client.heartbeat()
    except (EOFError, ConnectionError):
        return False
    return True


@on_uvloop
async def test_a_stop_waits_for_all(tmp_path: Path) -> None:
    """SIGTERM drains all workers: what is in flight anywhere is answered, exit code 0, and one tally counts it all."""
    async with FakeCluster(1) as cluster:
        answer = asyncio.Event()
        cluster.on(ApiKey.HEARTBEAT, *[HEARTBEAT_OK] * 6, Hold(answer, HEARTBEAT_OK))
        async with (
            running(tmp_path, cluster.bootstrap, "single", "--workers", str(WORKERS)) as run,
            contextlib.AsyncExitStack() as stack,
        ):
            clients = await connect(run, 6, stack, at_once=False)
            for client in clients:
                await client.send(ApiKey.HEARTBEAT, 3, heartbeat())
            await cluster.brokers[1].until_asked(ApiKey.HEARTBEAT, 12)
            run.proxy.signal(signal.SIGTERM)
            await run.until(lambda: refused(run), "the port to be closed")
            answer.set()
            for client in clients:
                assert (await client.receive())[4:] == HEARTBEAT_OK
                await client.assert_closed()
            assert await run.exit_code() == 0
            (tally,) = run.lines("tally")
            public = tally["listeners"]["public"]
            assert (public["opened"], public["connections"], public["requests"]) == (6, 0, {"Heartbeat": 12})


def refused(run: Run) -> bool:
    """Tell whether nobody can connect any more."""
    return not any(listens(worker) for worker in children(run.proxy.pid))


@on_uvloop
async def test_counters_of_all(tmp_path: Path) -> None:
    """SIGUSR1 logs one tally for all workers; what a killed one had told before is not forgotten."""
    async with (
        FakeCluster(1) as cluster,
        running(tmp_path, cluster.bootstrap, "single", "--workers", str(WORKERS)) as run,
        contextlib.AsyncExitStack() as stack,
    ):
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        workers = workers_of(run.proxy.pid, WORKERS)
        await connect(run, 9, stack, at_once=False)
        run.proxy.signal(signal.SIGUSR1)
        await run.until_told("tally")
        assert told(run) == (9, 9)
        os.kill(workers[0], signal.SIGKILL)
        await run.until_told("worker died")
        workers_of(run.proxy.pid, WORKERS, but=workers[0])
        run.proxy.signal(signal.SIGUSR1)
        await run.until(lambda: len(run.lines("tally")) == 2, "the second tally")
        opened, connections = told(run)
        assert (opened, connections) == (9, 6)


def told(run: Run) -> tuple[int, int]:
    """Return what the last tally says: opened, and open now."""
    public = run.lines("tally")[-1]["listeners"]["public"]
    return public["opened"], public["connections"]


async def salts(run: Run, workers: list[int], stack: contextlib.AsyncExitStack) -> set[bytes]:
    """Ask all workers for a stranger's salt; return what they said."""
    found: set[bytes] = set()
    for _ in range(20):
        client = await stack.enter_async_context(Stranger(run.address))
        await client.shake("SCRAM-SHA-512")
        answer = await client.authenticate(b"n,,n=nobody,r=nonce")
        found.add(answer.token.split(b",")[1])
        if all(connections_to(worker, run.proxy.port) for worker in workers):
            return found
    raise AssertionError("a worker got no connection")


@on_uvloop
async def test_an_unknown_user_gets_one_salt_of_all_workers(tmp_path: Path) -> None:
    """Who asks twice sees the same salt for a user that there is not, whichever worker answers, replaced ones too."""
    users = write_users(tmp_path / "users.yaml", alice="wonder")
    with changing(tmp_path / "users.yaml") as file:
        file.decoy_key = None
    config = tmp_path / "kproxy.yaml"
    sasl = {"mechanisms": ["SCRAM-SHA-512"], "users_file": users}
    config.write_text(json.dumps({"listeners": {"public": {"sasl": sasl}}, "workers": 2}), encoding="utf-8")
    async with (
        FakeCluster(1) as cluster,
        running(tmp_path, cluster.bootstrap, "single", "--config", str(config)) as run,
        contextlib.AsyncExitStack() as stack,
    ):
        workers = workers_of(run.proxy.pid, 2)
        before = await salts(run, workers, stack)
        assert len(before) == 1
        os.kill(workers[0], signal.SIGKILL)
        await run.until_told("worker died")
        now = workers_of(run.proxy.pid, 2, but=workers[0])
        (new,) = set(now) - set(workers)
        await run.until(lambda: listens(new), "the new worker to listen")
        assert await salts(run, now, stack) == before
