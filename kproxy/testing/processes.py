"""Processes that never outlive the test run, however it ends.

Each process has a guard: a shell that waits for its standard input to end, which the kernel does for it when this
process ends, even by SIGKILL, and then kills the process group. (PR_SET_PDEATHSIG would kill a broker as soon as
the *thread* that started it ends.) ::

    >>> GuardedProcess(["sleep", "300"]).stop()
    -15
"""

import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Any


class GuardedProcess:
    """A process in a group of its own that is killed, with its children, when this process ends in any way."""

    def __init__(self, command: Sequence[str], **popen: Any) -> None:
        self.process: subprocess.Popen[Any] = subprocess.Popen(command, start_new_session=True, **popen)
        self._guard = subprocess.Popen(
            ["sh", "-c", 'read _; kill -s KILL -- "-$0"', str(self.process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if the process has not ended yet."""
        self.process.send_signal(number)

    def stop(self, timeout_seconds: float = 30) -> int:
        """Ask it to end with SIGTERM, and return its exit code.

        Raises:
            TimeoutError: it did not end in time, and was killed.
        """
        self.signal(signal.SIGTERM)
        try:
            self.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"{self.process.args!r:.200} did not end within {timeout_seconds:g} s") from None
        return self.close()

    def kill(self) -> int:
        """End it and its children at once with SIGKILL, and return its exit code."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        return self.close()

    def close(self) -> int:
        """Let go of what belongs to a process that has ended; return its exit code (negative: minus the signal)."""
        code = self.process.wait(10)
        # The guard goes before its input ends: a process id that was handed out again must not be killed.
        self._guard.kill()
        self._guard.communicate(timeout=10)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None and not pipe.closed:
                pipe.close()
        return code
