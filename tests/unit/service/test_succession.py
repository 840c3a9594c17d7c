"""When an upgrade may begin, and what systemd is told of it."""

import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kproxy.service import notify, upgrade
from kproxy.service.inherit import Inherited
from kproxy.service.succession import Succession


@contextlib.asynccontextmanager
async def still() -> AsyncIterator[None]:
    """Hold nothing."""
    yield


async def go() -> None:
    """Nobody follows in these tests."""
    raise AssertionError


def succession(*, upgrading: bool = False) -> Succession:
    """Return one without sockets."""
    return Succession(Inherited(upgrading=upgrading), list, still, go)


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Listen in its place."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        monkeypatch.setenv(notify.VARIABLE, str(tmp_path / "notify"))
        yield sock


async def test_not_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """While kproxy starts or ends, and where it is process 1 of a container, there is no upgrade: a line says so."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    one = succession()
    with capture_logs() as logs:
        one.asked()
        one.ready()
        one.asked()
        one.stopping()
        one.asked()
    assert [log["event"] for log in logs] == [
        "no upgrade: this kproxy still starts",
        "no upgrade: process 1 of a container cannot be followed by another; replace the container",
        "no upgrade: this kproxy is about to stop",
    ]
    await one.close()


async def test_systemd_is_told(systemd: socket.socket) -> None:
    """That clients are served, and that a drain has begun; not by one that it does not listen to yet."""
    one, other = succession(), succession(upgrading=True)
    assert [one.follows, other.follows] == [False, True]
    other.ready()
    assert [one.follows, other.follows] == [False, False]
    with pytest.raises(BlockingIOError):
        systemd.recv(100)
    one.ready()
    assert systemd.recv(100) == b"READY=1"
    one.stopping()
    assert systemd.recv(100) == b"STOPPING=1"
    other.stopping()  # it is the main process by then
    assert systemd.recv(100) == b"STOPPING=1"


async def test_systemd_cannot_be_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where systemd would not learn of the new process, and kill it with the old one, the old one stays."""
    ready = "import json, os, socket, time; told = json.loads(os.environ['KPROXY_INHERIT'])\n"
    ready += "socket.socket(fileno=told['channel']).send(b'{\"ready\": true}'); time.sleep(60)"
    monkeypatch.setattr(upgrade, "command", lambda: [sys.executable, "-c", ready])
    one = succession()
    one.ready()
    monkeypatch.setenv(notify.VARIABLE, str(tmp_path / "nothing"))
    with capture_logs() as logs:
        one.asked()
        one.asked()
        assert one._running is not None
        await one._running
    assert [log.get("reason", log["event"]) for log in logs if "pid" not in log] == [
        "no upgrade: one is under way",
        "systemd cannot be told of the new process: No such file or directory",
    ]
    assert one._latest is not None
    assert one._latest.process is not None
    assert one._latest.process.poll() is not None
    await one.close()


async def test_systemd_is_gone(systemd: socket.socket, tmp_path: Path) -> None:
    """A systemd that cannot be told is a line in the log."""
    systemd.close()
    (tmp_path / "notify").unlink()
    with capture_logs() as logs:
        succession().ready()
    assert [(log["event"], log["line"]) for log in logs] == [("systemd cannot be told", "READY=1")]
