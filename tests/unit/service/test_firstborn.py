"""Workers that are forked: they begin when they are told, have what is theirs alone, and end alone."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")

PRELUDE = """
import os, random, signal, socket, sys, time
from kproxy.service.firstborn import BEGIN, fork
"""


def run(code: str) -> str:
    """Run something in a process of its own, as forking is not for one with threads; return what it wrote."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


def test_it_begins_when_told_and_ends_with_its_code() -> None:
    """Its work is done after BEGIN, and what that returns is its exit code; a signal's is below 0."""
    assert (
        run(
            """
        def work(sock):
            sock.send(b"here")
            return 7
        one, other = fork(work, (), mute=True), fork(work, (), mute=True)
        one.sock.send(BEGIN)
        print(one.sock.recv(9), one.wait(), one.wait())
        other.kill()
        print(other.wait())
        other.kill()
        """
        )
        == f"b'here' 7 7\n{-signal.SIGKILL}\n"
    )


def test_it_ends_with_who_forked_it() -> None:
    """One that was never told to begin ends without a word as soon as its other end is gone."""
    assert (
        run(
            """
        child = fork(lambda sock: print("never") or 1, (), mute=False)
        child.sock.close()
        print(child.wait())
        """
        )
        == "1\n"
    )


def test_it_has_what_is_its_own() -> None:
    """It has the descriptors that it is to keep, its channel and the standard ones, and dice of its own."""
    assert (
        run(
            """
        keep, others = socket.socketpair()
        random.seed(1)
        def work(sock):
            keep.send(b"kept")
            sock.send(f"{len(os.listdir('/proc/self/fd'))} {random.random()}".encode())
            return 0
        first = fork(work, (keep.fileno(),), mute=True)
        second = fork(work, (keep.fileno(),), mute=True)
        told = []
        for child in (first, second):
            child.sock.send(BEGIN)
            told.append(child.sock.recv(99).split())
            assert child.wait() == 0 and others.recv(4) == b"kept"
        print([many for many, _ in told], told[0][1] != told[1][1])
        """
        )
        == "[b'6', b'6'] True\n"
    )  # three, the channel, what it keeps, and the folder that it reads


def test_what_goes_wrong_in_it_stays_in_it() -> None:
    """An exception ends it, with exit code 1 and a traceback, and nothing of it comes back to who forked it."""
    done = subprocess.run(
        [
            *(sys.executable, "-c"),
            PRELUDE + "child = fork(lambda sock: 1 // 0, (), mute=True)\nchild.sock.send(BEGIN)\nprint(child.wait())",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "1\n"
    assert done.stderr.count("ZeroDivisionError") == 1
