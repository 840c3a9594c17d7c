"""The first workers of a run, forked from the supervisor before it has a loop, a thread or a socket of its own.

To load kproxy's modules takes a second of CPU, which a forked process has behind it. A worker that takes the place of
one that died is started anew instead (see post), for by then there is too much that must not be forked along::

    first = [fork(order) for order in orders]       each waits for its beginning
    first[0].sock.send(BEGIN)                        now it serves; without it, it ends when the supervisor does

Never here: what a worker does.
"""

import gc
import os
import random
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

BEGIN = b"{}"

_STREAMS = 3


@dataclass(slots=True)
class Child:
    """A process that was forked: what there is of subprocess.Popen that a Post needs."""

    pid: int
    sock: socket.socket
    """Our end of its channel."""
    returncode: int | None = None

    def wait(self) -> int:
        """Wait for its end; return its exit code, below 0 for the signal that killed it."""
        if self.returncode is None:
            _, status = os.waitpid(self.pid, 0)
            self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def kill(self) -> None:
        """End it at once."""
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)


def fork(work: Callable[[socket.socket], int], keep: tuple[int, ...], *, mute: bool) -> Child:
    """Start a process that does ``work`` once it has got BEGIN, and ends with the exit code that this returns.

    ``keep``: the descriptors it inherits; all others are closed. ``mute``: nothing of it goes to standard output.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sys.stdout.flush()
    sys.stderr.flush()
    gc.freeze()  # what is there already is shared, as long as nobody looks at it
    pid = os.fork()
    if not pid:
        _be_born(theirs, work, keep, mute=mute)
    theirs.close()
    return Child(pid, ours)


def _be_born(
    sock: socket.socket, work: Callable[[socket.socket], int], keep: tuple[int, ...], *, mute: bool
) -> NoReturn:
    code = 1
    try:
        _be_alone({sock.fileno(), *keep}, mute=mute)
        random.seed()
        if sock.recv(len(BEGIN)):
            code = work(sock)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001  nothing may come back into the supervisor's own code
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _be_alone(stays: set[int], *, mute: bool) -> None:
    """Close what is the supervisor's. Its objects stay, as this never returns to who has them."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    if mute:
        os.dup2(nothing, 1)
    for descriptor in _descriptors():
        if descriptor >= _STREAMS and descriptor not in stays:
            os.close(descriptor)


def _descriptors() -> list[int]:
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"  # noqa: PTH112  there may be no loop
    found = []
    for name in os.listdir(folder):  # noqa: PTH208
        try:
            os.fstat(int(name))
        except OSError:  # the folder's own
            continue
        found.append(int(name))
    return found
