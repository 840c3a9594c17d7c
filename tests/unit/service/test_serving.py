"""What a worker serves, and how it changes: amid a start, refused, and given up."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kproxy.config.load import load
from kproxy.config.model import Config
from kproxy.errors import KproxyError
from kproxy.net.listeners import SocketSource
from kproxy.service import serving as module
from kproxy.service.serving import Serving
from kproxy.testing.fakebroker import FakeCluster
from kproxy.testing.ports import free_port_block

NOWHERE = "127.0.1.9:1"

API_VERSIONS = bytes.fromhex("0000000b 0012 0000 00000001 0001") + b"a"
"""A request, of version 0."""


async def bound(_listener: str, _node_id: int | None, port: int) -> socket.socket:
    """Bind a port, as the supervisor does."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock


def config(bootstrap: str, *ports: int, more: str = "") -> Config:
    """Return a configuration with so many listeners."""
    listeners = ", ".join(f"l{port}: {{bind: '127.0.0.1:{port}', addressing: single}}" for port in ports)
    return load(f"{{clusters: {{main: {{bootstrap: ['{bootstrap}']}}}}, listeners: {{{listeners}}}{more}}}").config


@contextlib.asynccontextmanager
async def serving(first: Config, sockets: SocketSource = bound) -> AsyncIterator[Serving]:
    """Have something to change, which ends as a worker does."""
    made = Serving(first, sockets, None, bytes(32))
    try:
        yield made
    finally:
        await made.drain(away=True)
        await made.close()
        left = [task.get_name() for task in asyncio.all_tasks()]
        assert [name for name in left if not name.startswith("Task-")] == []  # the broker's have no names


async def change(made: Serving, new: Config) -> None:
    """Turn to another configuration."""
    made.apply(await made.prepare(new))


async def test_a_change_waits_for_the_start() -> None:
    """A change that is asked for before a worker has begun is prepared when it has, and nothing is made twice."""
    one, other = free_port_block(1), free_port_block(1)
    async with FakeCluster(1) as cluster, serving(config(cluster.bootstrap, one)) as made, asyncio.TaskGroup() as group:
        changing = group.create_task(change(made, config(cluster.bootstrap, one, other)))
        await asyncio.sleep(0)
        assert not changing.done()
        opened = asyncio.Event()
        made.on_opened = lambda _name, _address: opened.set()
        await made.start()
        await changing
        assert len(made.links) == 1
        await made.open()
        async with asyncio.timeout(10):
            await opened.wait()
        assert len(made.addresses()) == 2


async def test_a_listener_that_never_opened_may_go() -> None:
    """A listener whose cluster never answers does not keep the start, nor the others, once it is no more configured."""
    one, other = free_port_block(1), free_port_block(1)
    async with FakeCluster(1) as cluster, serving(config(NOWHERE, one)) as made:
        await made.start()
        async with asyncio.TaskGroup() as group:
            opening = group.create_task(made.open())
            await asyncio.sleep(0.05)
            assert not opening.done()
            opened: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            made.on_opened = lambda _name, address: opened.set_result(address)
            await change(made, config(cluster.bootstrap, other))
            async with asyncio.timeout(10):
                await opening
                assert await opened == f"127.0.0.1:{other}"


async def test_what_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a token does not come, or a log cannot be opened, the change is refused, and all of it is given up."""
    monkeypatch.setattr(module, "TOKEN_SECONDS", 0.2)
    port = free_port_block(1)
    token = tmp_path / "token"
    async with FakeCluster(1) as cluster, serving(config(cluster.bootstrap, port)) as made:
        await made.start()
        await made.open()
        oauth = f", sasl: {{mechanism: OAUTHBEARER, oauth: {{token_file: {token}}}}}"
        waits = load(
            f"{{clusters: {{main: {{bootstrap: ['{cluster.bootstrap}']{oauth}}}}},"
            f" listeners: {{l: {{bind: '127.0.0.1:{port}'}}}}}}"
        ).config
        with pytest.raises(KproxyError, match="no token for the brokers"):
            await made.prepare(waits)
        log = f", request_log: {{to: file, path: '{tmp_path}/no/such/folder'}}"
        with pytest.raises(KproxyError, match="no/such/folder"):
            await made.prepare(config(cluster.bootstrap, port, more=log))
        given_up = await made.prepare(config(cluster.bootstrap, port, more=log.replace("/no/such/folder", "/log")))
        await made.forget(given_up)
        assert made.addresses() == [(f"l{port}", f"127.0.0.1:{port}")]


async def test_what_a_log_has_counted_stays(tmp_path: Path) -> None:
    """A log that is written elsewhere, or no more, does not take along what it had counted."""
    port = free_port_block(1)
    async with FakeCluster(1) as cluster:
        plain = config(cluster.bootstrap, port)
        logs = [
            config(cluster.bootstrap, port, more=f", request_log: {{to: file, path: '{tmp_path}/{name}'}}")
            for name in ("one", "two")
        ]
        async with serving(plain) as made:
            await made.start()
            await made.open()
            assert made.logged() == {}
            entries = []
            for now in (*logs, plain):
                await change(made, now)
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(API_VERSIONS)
                writer.write_eof()
                await reader.read()
                writer.close()
                entries.append(made.logged()["entries"])
            assert entries == [1, 2, 2]
            assert made.logged().keys() == {"entries", "dropped", "waiting", "missed"}
            assert made.tally()["request_log"] == made.logged()


async def test_a_port_that_comes_too_late() -> None:
    """A socket that arrives when its listener is no more opens nothing: nobody would ever close it."""
    one, other = free_port_block(3), free_port_block(3)
    asked, may = asyncio.Event(), asyncio.Event()

    async def late(listener: str, node_id: int | None, port: int) -> socket.socket:
        if node_id is not None:
            asked.set()
            await may.wait()
        return await bound(listener, node_id, port)

    async with FakeCluster(1) as cluster:
        ports = config(cluster.bootstrap, other)
        both = load(
            f"{{clusters: {{main: {{bootstrap: ['{cluster.bootstrap}']}}}}, listeners: {{"
            f"l{other}: {{bind: '127.0.0.1:{other}', addressing: single}}, many: {{bind: '127.0.0.1:{one}'}}}}}}"
        ).config
        async with serving(ports, late) as made:
            await made.start()
            await made.open()
            await change(made, both)
            async with asyncio.timeout(10):
                await asked.wait()
            await change(made, ports)
            may.set()
            await asyncio.sleep(0.05)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", one + 2)
