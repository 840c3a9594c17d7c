"""What systemd is told: datagrams, where somebody listens."""

import socket
from pathlib import Path

import pytest

from kproxy.service import notify


@pytest.mark.parametrize("abstract", [False, True])
def test_a_datagram(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, abstract: bool) -> None:
    """A line goes to the socket that NOTIFY_SOCKET names, in the file system or without a name in it."""
    name = f"{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + name if abstract else name)
        monkeypatch.setenv(notify.VARIABLE, "@" + name if abstract else name)
        notify.tell("READY=1")
        assert systemd.recv(100) == b"READY=1"


@pytest.mark.parametrize("told", ["", "vsock:2:1234"])
def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    """Elsewhere nothing is sent, and nothing is wrong."""
    monkeypatch.setenv(notify.VARIABLE, told)
    notify.tell("READY=1")


def test_nobody_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where systemd should be and is not, that is an error."""
    monkeypatch.setenv(notify.VARIABLE, f"{tmp_path}/nothing")
    with pytest.raises(FileNotFoundError):
        notify.tell("MAINPID=1")
