"""Kproxy's own upgrade, from the side of the one that goes: the same command line is started anew, with our sockets.

The new process inherits the listening sockets (see inherit) and one end of a channel, on which it says one word::

    new  {"ready": true}                       all its listeners are open, and its admin API
    new  {"failed": "kproxy.yaml:2:67: ..."}   or nothing, and its end
    old  drains                                or goes on as if nothing had happened

Until it is ready both accept; from then on only the new one does. The queue of connections that wait is the socket's,
so nobody is refused at any moment. Whoever is started and does not get ready in time is ended.

Never here: the drain.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import structlog

from kproxy.errors import KproxyError
from kproxy.service import inherit
from kproxy.service.channel import Channel, Message
from kproxy.service.inherit import Given

_log = structlog.get_logger(__name__)

READY_SECONDS = 60.0
"""How long a new process may take to get ready: one or two seconds, and more where brokers or token issuers are slow.
systemd's own patience (DefaultTimeoutStartSec) is 90."""

END_SECONDS = 5.0
"""How long one that did not get ready may take to end, before it is killed."""

Word = dict[str, Any]


def command(argv: Sequence[str] | None = None) -> list[str]:
    """Return what starts this program anew, as it is on the disk by now.

    A script that can be run is run as it is: its first line may lead to another Python than ours, where a link to a
    folder with all of it was turned.
    """
    argv = sys.orig_argv if argv is None else argv
    script = argv[1] if len(argv) > 1 else ""
    if script and not script.startswith("-") and os.access(script, os.X_OK) and Path(script).is_file():
        return list(argv[1:])
    return [sys.executable, *argv[1:]]


class Upgrade:
    """One try. ``run`` it once; cancelled, it ends what it has started."""

    def __init__(
        self, sockets: Iterable[Given], argv: Sequence[str] | None = None, ready_seconds: float = READY_SECONDS
    ) -> None:
        """Prepare to hand over ``sockets``, to ``argv`` where it is not this program."""
        self._sockets = list(sockets)
        self._argv = command() if argv is None else argv
        self._ready_seconds = ready_seconds
        self._word: asyncio.Future[Word] = asyncio.get_running_loop().create_future()
        self.process: subprocess.Popen[bytes] | None = None
        """The new process, once there is one; our child as long as we are there."""

    async def run(self, accept: Callable[[int], None]) -> None:
        """Start the new process, and call ``accept`` with its id once it is ready.

        Raises:
            KproxyError: it did not get ready, or ``accept`` has raised one; it has ended.
        """
        process, channel = self._start()
        self.process = process
        _log.info("upgrading: started another kproxy", pid=process.pid, sockets=len(self._sockets))
        try:
            async with asyncio.timeout(self._ready_seconds):
                word = await self._word
            if "ready" not in word:
                await _give_up(process, word)
            accept(process.pid)
        except TimeoutError:
            await _end(process)
            raise KproxyError(f"the new process was not ready within {self._ready_seconds:g} s") from None
        except (KproxyError, asyncio.CancelledError):
            await _end(process)
            raise
        finally:
            channel.close()

    def _start(self) -> tuple["subprocess.Popen[bytes]", Channel]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel = Channel(ours, self._heard)
        channel.closed.add_done_callback(lambda _: self._say({}))
        descriptors = [one.sock.fileno() for one in self._sockets]
        told = {
            "channel": theirs.fileno(),
            "sockets": [
                (descriptor, one.name, one.kept) for descriptor, one in zip(descriptors, self._sockets, strict=True)
            ],
        }
        with theirs:
            try:
                process = subprocess.Popen(  # noqa: S603  this very program
                    self._argv,
                    env=os.environ | {inherit.VARIABLE: json.dumps(told)},
                    pass_fds=(theirs.fileno(), *descriptors),
                )
            except OSError as error:
                channel.close()
                raise KproxyError(f"{self._argv[0]} cannot be started: {error.strerror or error}") from None
        return process, channel

    def _heard(self, message: Message, descriptors: list[int]) -> None:
        for descriptor in descriptors:  # it sends none
            os.close(descriptor)
        self._say(message)

    def _say(self, word: Word) -> None:
        if not self._word.done():
            self._word.set_result(word)


async def _give_up(process: "subprocess.Popen[bytes]", word: Word) -> NoReturn:
    """Raise a KproxyError that says why the new process is not ready."""
    if "failed" in word:
        raise KproxyError(f"the new process says: {word['failed']}")
    code = await _ended(process)
    if code is None:
        raise KproxyError("the new process does not speak with this one; is there a wrapper that closes descriptors?")
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    raise KproxyError(f"the new process {how} before it was ready")


async def _ended(process: "subprocess.Popen[bytes]", seconds: float = 1.0) -> int | None:
    """Return the exit code of a process that is about to end; None: it is not."""
    deadline = asyncio.get_running_loop().time() + seconds
    while process.poll() is None:
        if asyncio.get_running_loop().time() > deadline:
            return None
        await asyncio.sleep(0.02)
    return process.returncode


async def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process, within a bound, even where this task is being cancelled."""
    process.terminate()
    code = None
    with suppress(asyncio.CancelledError):
        code = await _ended(process, END_SECONDS)
    if code is None:
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)
