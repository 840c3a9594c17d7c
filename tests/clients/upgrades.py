"""The program replaced by another one while it runs (SIGUSR2), and followed from one process to the next.

::

    with following():                       orphans are ours from here on, so that their exit codes can be had
        upgrade(proxy)                      proxy is the new process now; the old one has ended well
        proxy.finish()
"""

import contextlib
import ctypes
import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

from kproxy.testing.processes import GuardedProcess
from kproxy.testing.proxy import ProxyProcess
from kproxy.testing.waiting import wait_until

_PR_SET_CHILD_SUBREAPER = 36


class Adopted(subprocess.Popen[Any]):
    """A process that another one has started, and left to us."""

    def __init__(self, pid: int, args: Any) -> None:
        self.pid, self.args = pid, args
        self.stdin = self.stdout = self.stderr = None
        self.returncode = None
        # What Popen's own methods stand on.
        self._child_created = True
        self._sigint_wait_secs = 0.25
        self._waitpid_lock = threading.Lock()


class Heir(GuardedProcess):
    """It, in the group of the one that started it, and under its guard."""

    def __init__(self, pid: int, before: GuardedProcess) -> None:
        self.process = Adopted(pid, before.process.args)
        self._guard = before._guard

    def kill(self) -> int:
        """See GuardedProcess."""
        self.process.kill()
        return self.close()


@contextlib.contextmanager
def following() -> Iterator[None]:
    """Adopt processes whose parents end (PR_SET_CHILD_SUBREAPER)."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def told(proxy: ProxyProcess, event: str) -> list[dict[str, Any]]:
    """Return the lines of the log that begin so."""
    found = []
    for text in proxy.log.read_text(encoding="utf-8").splitlines():
        if text.startswith("{"):  # but for what is told a user, or is half-written yet
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(text))
    return [line for line in found if line["event"].startswith(event)]


def hand_over(proxy: ProxyProcess, timeout_seconds: float = 30) -> GuardedProcess:
    """Have another process take over, and follow it; return the old one, which drains."""
    before = proxy._child
    assert before is not None
    many, failed = len(told(proxy, "upgraded")), len(told(proxy, "upgrade failed"))
    proxy.signal(signal.SIGUSR2)

    def upgraded() -> bool:
        assert len(told(proxy, "upgrade failed")) == failed, proxy.log_tail()
        return len(told(proxy, "upgraded")) > many

    wait_until(upgraded, timeout_seconds, lambda: f"the upgrade:\n{proxy.log_tail()}")
    proxy._child = Heir(told(proxy, "upgraded")[-1]["pid"], before)
    return before


def upgrade(proxy: ProxyProcess, timeout_seconds: float = 30) -> None:
    """Have another process take over, and wait until the old one has ended, well."""
    before = hand_over(proxy, timeout_seconds)
    assert before.process.wait(timeout_seconds) == 0, proxy.log_tail()
