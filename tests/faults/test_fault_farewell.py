"""A drain that sends clients to their bootstrap servers (KIP-1102): who is told, when, and who is not waited for."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from clients.gateway import on_uvloop
from clients.raw import HEARTBEAT_OK, RawClient, heartbeat
from clients.stage import Stage, staged
from clients.upgrades import following, upgrade

from kproxy.testing.fakebroker import Delay
from kproxy.wire.apis import ApiKey
from kproxy.wire.cluster import metadata_request, parse_metadata_response

REBOOTSTRAP_REQUIRED = 129


async def error_of_metadata(client: RawClient) -> int:
    """Ask for the brokers; return the error at the top of the answer."""
    body = await client.ask(ApiKey.METADATA, 13, metadata_request(13))
    return parse_metadata_response(13, body).error_code


@asynccontextmanager
async def client_of(
    stage: Stage, connections: int, *, knows: bool = True, client_id: str = "raw"
) -> AsyncIterator[list[RawClient]]:
    """Connect one client several times; ``knows``: it has asked for Metadata in a version that can send it away."""
    async with AsyncExitStack() as stack:
        made = [
            await stack.enter_async_context(RawClient(stage.run.address, client_id=client_id))
            for _ in range(connections)
        ]
        for each in made:
            await each.api_versions()
            await each.heartbeat()
        if knows:
            assert await error_of_metadata(made[0]) == 0
        yield made


async def first_closed(stage: Stage, clients: list[RawClient]) -> tuple[RawClient, RawClient]:
    """Wait until one of two connections is closed; return that, and the other."""
    await stage.run.until(lambda: any(each.reader.at_eof() for each in clients), "the end of one")
    closed = next(each for each in clients if each.reader.at_eof())
    closed.writer.close()
    return closed, clients[1 - clients.index(closed)]


each_number_of_workers = pytest.mark.parametrize("workers", [1, 2])
"""Two: each has some of a client's connections, as they are spread evenly."""


@on_uvloop
@each_number_of_workers
@pytest.mark.parametrize("addressing", ["single", "ports"])
async def test_a_client_is_sent_away(tmp_path: Path, addressing: str, workers: int) -> None:
    """Of two connections one ends, so that the client asks; on the other it is told where to go, and that ends, too."""

    def text(stage: Stage) -> str:
        return stage.text().replace("addressing: single", f"addressing: {addressing}")

    async with staged(tmp_path, edit=text, more=f"workers: {workers}\n") as stage, client_of(stage, 2) as clients:
        stage.run.proxy.signal(signal.SIGTERM)
        _, other = await first_closed(stage, clients)
        await other.heartbeat()
        assert await error_of_metadata(other) == REBOOTSTRAP_REQUIRED
        await other.assert_closed()
        assert await stage.run.exit_code() == 0
        assert stage.run.lines("drained")[0]["seconds"] < 2


@on_uvloop
@each_number_of_workers
async def test_two_in_one_program(tmp_path: Path, workers: int) -> None:
    """Clients that differ in nothing but their client id are each made to ask, and told."""
    async with (
        staged(tmp_path, more=f"workers: {workers}\n") as stage,
        client_of(stage, 2, client_id="reads") as one,
        client_of(stage, 2, client_id="writes") as two,
    ):
        stage.run.proxy.signal(signal.SIGTERM)
        for clients in (one, two):
            _, other = await first_closed(stage, clients)
            assert await error_of_metadata(other) == REBOOTSTRAP_REQUIRED
            await other.assert_closed()
        assert await stage.run.exit_code() == 0


@on_uvloop
@each_number_of_workers
async def test_not_before_its_other_connections_have_ended(tmp_path: Path, workers: int) -> None:
    """The connection that it uses least ends; asked on another, kproxy first lets it have what it is owed elsewhere."""
    async with staged(tmp_path, more=f"workers: {workers}\n") as stage, client_of(stage, 3) as clients:
        stage.cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK, Delay(1.5, HEARTBEAT_OK))
        busy, unused, asks = clients
        await asks.heartbeat()
        await busy.send(ApiKey.HEARTBEAT, 3, heartbeat())
        await asyncio.sleep(0.2)
        stage.run.proxy.signal(signal.SIGTERM)
        await unused.assert_closed()
        began = asyncio.get_running_loop().time()
        assert await error_of_metadata(asks) == REBOOTSTRAP_REQUIRED
        assert asyncio.get_running_loop().time() - began > 0.5
        await asks.assert_closed()
        assert (await busy.receive()).endswith(HEARTBEAT_OK)
        await busy.assert_closed()
        assert await stage.run.exit_code() == 0


@on_uvloop
@each_number_of_workers
async def test_who_does_not_ask_is_not_waited_for(tmp_path: Path, workers: int) -> None:
    """The connection that stayed ends in half of drain_timeout, as all do."""
    more = f"drain_timeout: 2s\nworkers: {workers}\n"
    async with staged(tmp_path, more=more) as stage, client_of(stage, 2) as clients:
        stage.run.proxy.signal(signal.SIGTERM)
        _, other = await first_closed(stage, clients)
        await other.assert_closed()
        assert await stage.run.exit_code() == 0
        assert 0.9 <= stage.run.lines("drained")[0]["seconds"] < 1.8


@on_uvloop
async def test_nobody_is_sent_away_from_a_successor(tmp_path: Path) -> None:
    """Where another kproxy has taken the sockets over the addresses stay good: both connections just end."""
    async with staged(tmp_path) as stage, client_of(stage, 2) as clients:
        with following(stage.run.proxy):
            await asyncio.to_thread(upgrade, stage.run.proxy)
            for each in clients:
                await each.assert_closed()
            await asyncio.to_thread(stage.run.proxy.finish)
        assert [line["seconds"] < 3 for line in stage.run.lines("drained")] == [True, True]


@on_uvloop
@each_number_of_workers
@pytest.mark.parametrize("why", ["has one connection only", "does not know how", "not configured"])
async def test_who_is_not_sent_away(tmp_path: Path, why: str, workers: int) -> None:
    """A client that could not be made to ask, or would not understand, and all where it is off: they end at once."""
    more = f"drain_rebootstrap: {'false' if why == 'not configured' else 'true'}\nworkers: {workers}\n"
    connections = 1 if why == "has one connection only" else 2
    async with (
        staged(tmp_path, more=more) as stage,
        client_of(stage, connections, knows=why != "does not know how") as clients,
    ):
        stage.run.proxy.signal(signal.SIGTERM)
        for each in clients:
            await each.assert_closed()
        assert await stage.run.exit_code() == 0
        assert stage.run.lines("drained")[0]["seconds"] < 1
