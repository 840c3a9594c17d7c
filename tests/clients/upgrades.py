"""The program replaced by another one while it runs (SIGUSR2), and followed from one process to the next.

::

    with following(proxy):                  orphans are ours from here on, so that their exit codes can be had
        upgrade(proxy)                      proxy is the new process now; the old one has ended well
        proxy.finish()                      if the test fails, all of them are ended
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

from kproxy.service.upgrade import READY_SECONDS
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
        self._child_created = True

    def __del__(self) -> None:
        """Nobody's: Popen would look for what it has of a process that it started."""

    def poll(self) -> int | None:
        """See Popen; None as long as it is another one's child."""
        if self.returncode is None:
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """See Popen."""
        try:
            wait_until(lambda: self.poll() is not None, timeout or 60, "its end")
        except TimeoutError:
            raise subprocess.TimeoutExpired(self.args, timeout or 60) from None
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, sig: int) -> None:
        """See Popen."""
        if self.poll() is None:
            os.kill(self.pid, sig)


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
def following(proxy: ProxyProcess) -> Iterator[None]:
    """Adopt processes whose parents end (PR_SET_CHILD_SUBREAPER)."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield
    except BaseException:
        # Whoever was started and is not known as an heir yet would outlive the test.
        if proxy._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(os.getpgid(proxy._child.process.pid), signal.SIGKILL)
        raise
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


def hand_over(proxy: ProxyProcess, timeout_seconds: float = READY_SECONDS) -> GuardedProcess:
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


def upgrade(proxy: ProxyProcess, timeout_seconds: float = READY_SECONDS) -> None:
    """Have another process take over, and wait until the old one has ended, well."""
    before = hand_over(proxy, timeout_seconds)
    assert before.process.wait(timeout_seconds) == 0, proxy.log_tail()
