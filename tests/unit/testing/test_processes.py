"""Guarded processes never outlive the test run."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kproxy.testing.processes import GuardedProcess
from kproxy.testing.waiting import wait_until


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text(encoding="utf-8")


def test_killed_with_its_parent() -> None:
    """When the process that started a broker is killed with SIGKILL, the broker is gone soon after."""
    code = (
        "from kproxy.testing.processes import GuardedProcess as G; import time\n"
        "print(G(['sleep', '300']).process.pid, flush=True); time.sleep(300)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.kill()
        wait_until(lambda: not is_alive(pid), 10, f"process {pid} to be killed")


def test_stop_and_kill_tell_how_it_ended() -> None:
    """Stop and kill return the exit code, and leave neither process nor pipe behind."""
    assert GuardedProcess(["sleep", "300"]).stop(10) == -signal.SIGTERM
    child = GuardedProcess(["sleep", "300"], stdout=subprocess.PIPE)
    assert child.kill() == -signal.SIGKILL
    assert not is_alive(child.process.pid)
    assert child.process.stdout is not None
    assert child.process.stdout.closed


def test_one_that_ignores_sigterm_is_killed() -> None:
    """A process that does not end when asked is killed with its children, and that is an error."""
    script = "trap '' TERM; sleep 300 & echo $!; wait"
    child = GuardedProcess(["sh", "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.process.stdout is not None
    grandchild = int(child.process.stdout.readline())
    with pytest.raises(TimeoutError, match="did not end within"):
        child.stop(0.05)
    wait_until(lambda: not is_alive(grandchild), 5, "the grandchild to be killed")
    assert not is_alive(child.process.pid)
