"""One kproxy takes over from another, under clients that connect, ask and wait all the while."""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import pytest
from clients.admin import Admin
from clients.gateway import on_uvloop
from clients.program import Run, running
from clients.raw import HEARTBEAT_OK, RawClient, heartbeat
from clients.upgrades import following, hand_over, told, upgrade

from kproxy.testing.fakebroker import FakeCluster, Hold
from kproxy.testing.ports import free_port_block
from kproxy.testing.processes import GuardedProcess
from kproxy.testing.proxy import ConfiguredProxy
from kproxy.wire.apis import ApiKey

BROKERS = 2

PAUSE_SECONDS = 0.005
"""Between two clients, so that the processes that start get some of the machine."""


class Knocking:
    """Clients that connect to an address one after the other, each to ask one thing."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses
        self.served = 0
        self.cut = 0
        self.refused: list[str] = []
        self._enough = False

    async def _knock(self) -> None:
        while not self._enough:
            for address in self._addresses:
                try:
                    async with RawClient(address) as client:
                        await client.heartbeat()
                except ConnectionRefusedError:
                    self.refused.append(address)
                except (EOFError, ConnectionError):  # it came in as the drain began
                    self.cut += 1
                else:
                    self.served += 1
                await asyncio.sleep(PAUSE_SECONDS)

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Knock meanwhile."""
        task = asyncio.get_running_loop().create_task(self._knock())
        try:
            yield
        finally:
            self._enough = True
            await task


class Probing:
    """Asks whether kproxy is ready, all the time, from a thread."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self.statuses: list[int | str] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._probe)

    def _probe(self) -> None:
        while not self._stopping.wait(4 * PAUSE_SECONDS):
            try:
                self.statuses.append(self._admin.get("/readyz").status)
            except OSError as error:
                self.statuses.append(repr(error))

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._stopping.set()
        self._thread.join()


@on_uvloop
async def test_nobody_is_refused(tmp_path: Path) -> None:
    """No client, on no port, and no probe, on a unix socket, is refused or told no while one kproxy follows another."""
    place = tmp_path / "admin.sock"
    admin = Admin(str(place))
    workers = ("--workers", "2", "--admin", admin.address)
    async with (
        FakeCluster(BROKERS) as cluster,
        running(tmp_path, cluster.bootstrap, "ports", *workers, node_id_max=BROKERS) as run,
    ):
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        ports = (run.proxy.port, run.proxy.port + 2, run.proxy.port + 3)
        knocking = Knocking(*(f"127.0.0.1:{port}" for port in ports))
        with following(run.proxy):
            async with knocking.at_work():
                with Probing(admin) as probing:
                    await asyncio.to_thread(upgrade, run.proxy)
                    before = knocking.served
                    await run.until(lambda: knocking.served > before + 10, "clients to be served by the new one")
            assert knocking.refused == []
            assert knocking.cut <= 2
            assert set(probing.statuses) == {200}
            await asyncio.to_thread(run.proxy.finish)
        assert not place.exists()


@on_uvloop
async def test_what_is_under_way_is_answered(tmp_path: Path) -> None:
    """A client that waits for an answer gets it from the old process, while others are the new one's, or the next's."""
    async with FakeCluster(1) as cluster, running(tmp_path, cluster.bootstrap, "single") as run:
        answers = [asyncio.Event(), asyncio.Event()]
        cluster.on(ApiKey.HEARTBEAT, *(Hold(answer, HEARTBEAT_OK) for answer in answers))
        with following(run.proxy):
            async with contextlib.AsyncExitStack() as stack:
                left = []
                for many, answer in enumerate(answers, 1):
                    client = await stack.enter_async_context(RawClient(run.address))
                    await client.send(ApiKey.HEARTBEAT, 3, heartbeat())
                    await cluster.brokers[1].until_asked(ApiKey.HEARTBEAT, many)
                    left.append((answer, client, await asyncio.to_thread(hand_over, run.proxy)))
                # One after the other: who ends before the one that started it is that one's to hear of.
                for answer, client, old in left:
                    assert old.process.poll() is None
                    answer.set()
                    assert (await client.receive())[4:] == HEARTBEAT_OK
                    await client.assert_closed()
                    assert await asyncio.to_thread(old.process.wait, 10) == 0
            async with RawClient(run.address) as client:
                await client.heartbeat()
            await asyncio.to_thread(run.proxy.finish)


class Stage:
    """The program with a file of its own, before FakeBrokers."""

    def __init__(self, folder: Path, cluster: FakeCluster, admin: str | None = None) -> None:
        self.path = folder / "kproxy.yaml"
        self.port = free_port_block(1)
        self.admin = Admin(admin)
        self.bootstrap = cluster.bootstrap
        self.write()
        self.proxy = ConfiguredProxy(folder, self.path, f"127.0.0.1:{self.port}", "--log-format", "json")
        self.run = Run(self.proxy)

    def write(self, bootstrap: str = "", options: str = "") -> None:
        """Put another file in the place of the one there is, as editors do."""
        text = (
            f"clusters: {{main: {{bootstrap: [{bootstrap or self.bootstrap}]}}}}\n"
            f"listeners: {{public: {{bind: '127.0.0.1:{self.port}', addressing: single{options}}}}}\n"
            f"admin: {{bind: '{self.admin.address}'}}\n"
        )
        new = self.path.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        new.rename(self.path)

    async def told(self, event: str, many: int = 1) -> dict[str, Any]:
        """Wait for so many log lines; return the last one."""
        await self.run.until(lambda: len(told(self.proxy, event)) >= many, f"{many} times: {event}")
        return told(self.proxy, event)[-1]


@contextlib.asynccontextmanager
async def staged(folder: Path, admin: str | None = None) -> AsyncIterator[Stage]:
    """Run it all."""
    async with FakeCluster(1) as cluster:
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        stage = Stage(folder, cluster, admin)
        stage.proxy.launch()
        try:
            with following(stage.proxy):
                await asyncio.to_thread(stage.proxy.wait_ready)
                yield stage
                await asyncio.to_thread(stage.proxy.finish)
        finally:
            await asyncio.to_thread(stage.proxy.finish)


@on_uvloop
async def test_a_new_one_that_cannot_start(tmp_path: Path) -> None:
    """With a mistake in its file the new process ends, and the old one goes on and says why.

    Mended, the file is the new process's as it is by then: what it binds no more is closed. Probes never notice.
    """
    async with staged(tmp_path) as stage:
        with Probing(stage.admin) as probing:
            async with RawClient(stage.run.address) as client:
                await client.heartbeat()
                stage.write(options=", idle_timeot: 5m")
                stage.proxy.signal(signal.SIGUSR2)
                line = await stage.told("upgrade failed")
                assert line["reason"].startswith("the new process says: ")
                assert "did you mean 'idle_timeout'" in line["reason"]
                await client.heartbeat()
            before, stage.port = stage.port, free_port_block(1)
            stage.write(options=", idle_timeout: 5m")
            await asyncio.to_thread(upgrade, stage.proxy)
            async with RawClient(f"127.0.0.1:{stage.port}") as client:
                await client.heartbeat()
        assert set(probing.statuses) == {200}
        with pytest.raises(ConnectionRefusedError):
            await RawClient(f"127.0.0.1:{before}").__aenter__()
        configured = (await asyncio.to_thread(stage.admin.get, "/config")).json
        assert configured["listeners"]["public"]["idle_timeout"] == "5m"


@on_uvloop
async def test_a_stop_in_the_middle(tmp_path: Path) -> None:
    """While the new process still looks for its brokers the old one serves; another SIGUSR2 is no more than told.

    A stop then is a stop: of both.
    """
    async with staged(tmp_path) as stage:
        async with RawClient(stage.run.address) as client:
            old = stage.proxy._child
            assert old is not None
            stage.write(bootstrap="127.0.1.1:1")
            stage.proxy.signal(signal.SIGUSR2)
            new = (await stage.told("upgrading"))["pid"]
            stage.proxy.signal(signal.SIGUSR2)
            await stage.told("no upgrade: one is under way")
            await client.heartbeat()
        assert (await asyncio.to_thread(stage.admin.get, "/readyz")).status == 200
        stage.proxy.signal(signal.SIGTERM)
        assert await asyncio.to_thread(old.process.wait, 15) == 0
        await stage.run.until(lambda: gone(new), "the new process to end")
        assert told(stage.proxy, "upgraded") == []


def gone(pid: int) -> bool:
    """Tell whether a process has ended; take leave of it, where it was left to us."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


LAUNCHER = """
import os, sys
descriptors = [int(number) for number in sys.argv[1].split(",")]
for place, descriptor in enumerate(descriptors, 3):
    os.dup2(descriptor, place)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""
"""What systemd does between its fork and its exec; the descriptors come in from 50 on."""


class Systemd:
    """In its place: holds the sockets, starts the program with them, and hears what it is told."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self._stage = stage
        stage.proxy.tap.start()
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(folder / "notify"))
        self._notify.setblocking(False)
        self._sockets = [self._listening(socket.AF_INET, ("0.0.0.0", stage.port))]
        self._sockets.append(self._listening(socket.AF_UNIX, stage.admin.address))
        self._environ = {"NOTIFY_SOCKET": str(folder / "notify"), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "public:x"}

    def _listening(self, family: int, address: Any) -> socket.socket:
        sock = socket.socket(family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen()
        high = socket.socket(fileno=fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, 50))  # out of the way of 3 and 4
        sock.close()
        return high

    def launch(self) -> None:
        """Start it."""
        proxy, descriptors = self._stage.proxy, [sock.fileno() for sock in self._sockets]
        with proxy.output.open("ab") as output, proxy.log.open("ab") as log:
            proxy._child = GuardedProcess(
                [
                    *(sys.executable, "-c", LAUNCHER, ",".join(map(str, descriptors))),
                    *(sys.executable, "-m", "kproxy.cli", "run", *proxy._arguments),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                pass_fds=descriptors,
                env=os.environ | self._environ | {"PYTHONUNBUFFERED": "1"},
            )

    def heard(self) -> list[str]:
        """Return what was told since it was asked last."""
        lines = []
        with contextlib.suppress(BlockingIOError):
            while True:
                lines.append(self._notify.recv(1000).decode())
        return lines

    def close(self) -> None:
        """Let go."""
        for sock in (*self._sockets, self._notify):
            sock.close()


@on_uvloop
async def test_socket_activation(tmp_path: Path) -> None:
    """Sockets of systemd's are served, through a restart and an upgrade; it is told who is the service, and when.

    A client that connects while nothing runs is served by what is started next.
    """
    async with FakeCluster(1) as cluster:
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        stage = Stage(tmp_path, cluster, str(tmp_path / "admin.sock"))
        systemd = Systemd(stage, tmp_path)
        with contextlib.closing(systemd), following(stage.proxy):
            async with RawClient(stage.run.address) as client:
                await client.send(ApiKey.HEARTBEAT, 3, heartbeat())
                systemd.launch()
                assert (await client.receive())[4:] == HEARTBEAT_OK
            assert (await asyncio.to_thread(stage.admin.get, "/healthz")).status == 200
            assert systemd.heard() == ["READY=1"]

            await asyncio.to_thread(upgrade, stage.proxy)
            assert systemd.heard() == [f"MAINPID={stage.proxy.pid}"]
            async with RawClient(stage.run.address) as client:
                await client.heartbeat()
            assert (await asyncio.to_thread(stage.admin.get, "/readyz")).status == 200

            await asyncio.to_thread(stage.proxy.finish)
            assert systemd.heard() == ["STOPPING=1"]
            async with RawClient(stage.run.address) as client:
                await client.send(ApiKey.HEARTBEAT, 3, heartbeat())
                systemd.launch()
                assert (await client.receive())[4:] == HEARTBEAT_OK
            await asyncio.to_thread(stage.proxy.finish)
