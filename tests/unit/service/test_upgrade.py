"""One process starts another and waits for its word: real processes, in the place of a kproxy."""

import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from kproxy.errors import KproxyError
from kproxy.service import upgrade
from kproxy.service.inherit import Given
from kproxy.service.upgrade import Upgrade, command

SAYS = "import json, os, socket, sys, time; told = json.loads(os.environ['KPROXY_INHERIT'])\n"
TELL = "socket.socket(fileno=told['channel']).send({!r})\n"
READY = TELL.format(b'{"ready": true}')


def python(*lines: str) -> list[str]:
    """Return a command that runs a program."""
    return [sys.executable, "-c", "".join((SAYS, *lines))]


class Old:
    """A kproxy that would be followed."""

    def __init__(self) -> None:
        self.followed_by: list[int] = []
        self.upgrade: Upgrade

    async def try_it(self, argv: Sequence[str], seconds: float = 20, sockets: Sequence[Given] = ()) -> str | None:
        """Try; return why not."""
        try:
            self.upgrade = Upgrade(sockets, argv, seconds)
            await self.upgrade.run(self.followed_by.append)
        except KproxyError as error:
            return str(error)
        return None


async def test_ready_with_the_sockets(tmp_path: Path) -> None:
    """The new process has the sockets by the descriptors it is told, and is accepted when it says that it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        seen = tmp_path / "seen"
        look = (
            "[(descriptor, name, kept)] = told['sockets']\n"
            f"open({str(seen)!r}, 'w').write(repr((socket.socket(fileno=descriptor).getsockname(), name, kept)))\n"
        )
        old = Old()
        assert await old.try_it(python(look, READY), sockets=[Given(sock, "public", kept=False)]) is None
        assert seen.read_text(encoding="utf-8") == repr((sock.getsockname(), "public", False))
    assert old.upgrade.process is not None
    assert old.followed_by == [old.upgrade.process.pid]
    assert old.upgrade.process.wait(10) == 0


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ((TELL.format(b'{"failed": "kafka.yaml:1:2: no"}'), "sys.exit(2)"), "the new process says: kafka.yaml:1:2: no"),
        (("sys.exit(3)",), "the new process ended with exit code 3 before it was ready"),
        (("os.kill(os.getpid(), 9)",), "the new process was killed by signal 9 before it was ready"),
    ],
)
async def test_it_fails(lines: tuple[str, ...], reason: str) -> None:
    """A new process that ends before it is ready is told of with its own words, or how it ended."""
    old = Old()
    assert await old.try_it(python(*lines)) == reason
    assert old.followed_by == []


async def test_it_does_not_get_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that neither gets ready nor ends is ended, even where it does not listen to SIGTERM, within a bound."""
    monkeypatch.setattr(upgrade, "END_SECONDS", 0.2)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)\n"
    before = children()
    assert await Old().try_it(python(deaf), seconds=0.5) == "the new process was not ready within 0.5 s"
    assert children() == before


async def test_it_does_not_speak() -> None:
    """A wrapper that closes the descriptors is told of as such, and ended."""
    before = children()
    reason = await Old().try_it(python("os.close(told['channel']); time.sleep(60)"))
    assert reason == "the new process does not speak with this one; is there a wrapper that closes descriptors?"
    assert children() == before


async def test_there_is_none() -> None:
    """A program that is not there any more is told of."""
    assert await Old().try_it(["/no/such/kproxy"]) == "/no/such/kproxy cannot be started: No such file or directory"


async def test_it_is_not_wanted() -> None:
    """Where the new process cannot be accepted it ends, and the reason is told."""

    def refuse(pid: int) -> None:
        raise KproxyError(f"systemd cannot be told of {pid > 0}")

    before = children()
    with pytest.raises(KproxyError, match="systemd cannot be told of True"):
        await Upgrade([], python(READY, "time.sleep(60)")).run(refuse)
    assert children() == before


async def test_a_stop_meanwhile() -> None:
    """A try that is cancelled ends what it has started."""
    before = children()
    task = asyncio.get_running_loop().create_task(Old().try_it(python("time.sleep(60)")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert children() > before
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert children() == before


def children() -> set[str]:
    """Return this process's children, zombies too."""
    return set(" ".join(path.read_text() for path in Path("/proc/self/task").glob("*/children")).split())


def test_the_command(tmp_path: Path) -> None:
    """A script that can be run is run as it is, so that its own first line leads to Python; else our Python runs it."""
    script = tmp_path / "kproxy"
    script.write_text("#!/usr/bin/env python3\n", encoding="utf-8")
    assert command(["python3", str(script), "run"]) == [sys.executable, str(script), "run"]
    script.chmod(0o755)
    assert command(["python3", str(script), "run"]) == [str(script), "run"]
    assert command(["python3", "-m", "kproxy", "run"]) == [sys.executable, "-m", "kproxy", "run"]
    assert command()[0] == sys.executable or os.access(command()[0], os.X_OK)
