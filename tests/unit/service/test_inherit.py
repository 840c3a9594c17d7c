"""Listening sockets that a process is started with: found, matched with the configuration, refused where no use."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kproxy.config.load import load
from kproxy.config.model import Config
from kproxy.config.values import HostPort, SocketPath
from kproxy.errors import ConfigError
from kproxy.service import inherit
from kproxy.service.inherit import ADMIN, Given, Inherited, take_over
from kproxy.testing.ports import free_port_block

MakeListening = Callable[..., socket.socket]


def config(port: int, options: str = "", admin: str = "") -> Config:
    """Return a configuration with one listener, and perhaps an admin API."""
    listener = f"{{bind: '127.0.0.1:{port}'{options}}}"
    more = f"admin: {{bind: '{admin}'}}" if admin else ""
    return load(f"clusters: {{main: {{bootstrap: [k:9092]}}}}\nlisteners: {{public: {listener}}}\n{more}\n").config


@pytest.fixture
def listening() -> Iterator[MakeListening]:
    """Make sockets that listen; they are closed in the end."""
    with ExitStack() as stack:

        def make(host: str = "127.0.0.1", port: int = 0, *, listen: bool = True) -> socket.socket:
            family = socket.AF_UNIX if host.startswith("/") else socket.AF_INET6 if ":" in host else socket.AF_INET
            sock = stack.enter_context(socket.socket(family))
            sock.bind(host if family == socket.AF_UNIX else (host, port))
            if listen:
                sock.listen()
            return sock

        yield make


@pytest.fixture
def descriptors(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, str]]]:
    """Put sockets side by side, as systemd does from 3 on, and return the environment that says so."""
    taken: list[int] = []

    def put(*socks: socket.socket, names: str = "", pid: int | None = None) -> dict[str, str]:
        base = 200
        monkeypatch.setattr(inherit, "FIRST_DESCRIPTOR", base)
        for number, sock in enumerate(socks):
            taken.append(os.dup2(sock.fileno(), base + number))
        told = {"LISTEN_FDS": str(len(socks)), "LISTEN_PID": str(pid or os.getpid()), "PATH": "/bin"}
        return told | ({"LISTEN_FDNAMES": names} if names else {})

    yield put
    for descriptor in taken:
        with suppress(OSError):  # its owner has
            os.close(descriptor)


Put = Callable[..., dict[str, str]]


@pytest.mark.parametrize(
    ("bound", "name", "bind", "wanted", "fits"),
    [
        ("127.0.0.1", "x", "127.0.0.1", "public", True),
        ("127.0.0.1", "x", "localhost", "public", True),
        ("127.0.0.1", "x", "127.0.0.2", "public", False),
        ("127.0.0.1", "public", "127.0.0.2", "public", True),
        ("127.0.0.1", "public", "no.such.host.invalid", "other", False),
        ("0.0.0.0", "x", "127.0.0.1", "public", False),
        ("0.0.0.0", "x", "0.0.0.0", "public", True),
        ("::", "x", "0.0.0.0", "public", True),
    ],
)
def test_which_socket_fits(
    listening: MakeListening, *, bound: str, name: str, bind: str, wanted: str, fits: bool
) -> None:
    """A socket fits by its address, by being everywhere as the listener is, or by its name; never on another port."""
    sock = listening(bound)
    port = sock.getsockname()[1]
    given = Given(sock, name, kept=True)
    assert given.fits(HostPort(bind, port), wanted) is fits
    assert not given.fits(HostPort(bind, port + 1), wanted)
    assert not given.fits(SocketPath("/run/kproxy.sock"), wanted)


@pytest.mark.parametrize(("bound", "bind", "fits"), [("127.0.0.1", "127.0.0.1", True), ("127.0.0.1", "0.0.0.0", False)])
def test_a_listener_that_has_moved(listening: MakeListening, bound: str, bind: str, fits: bool) -> None:
    """A kproxy's socket serves no listener whose host is another one by now, though the name is the same."""
    sock = listening(bound)
    assert Given(sock, "public", kept=False).fits(HostPort(bind, sock.getsockname()[1]), "public") is fits


def test_a_path_fits_itself(tmp_path: Path, listening: MakeListening) -> None:
    """A unix socket is the admin API's where the path is the same, and no listener's."""
    path = str(tmp_path / "admin.sock")
    given = Given(listening(path), "x", kept=True)
    assert given.fits(SocketPath(path), ADMIN)
    assert not given.fits(SocketPath(path + "2"), ADMIN)
    assert not given.fits(HostPort("127.0.0.1", 9092), "x")


def test_systemds_sockets_are_taken(listening: MakeListening, descriptors: Put) -> None:
    """Listener, broker's port and admin API get the sockets that systemd gave; its variables go no further."""
    base = free_port_block(3)
    socks = [listening("127.0.0.1", base + at) for at in range(3)]
    environ = descriptors(*socks, names="public:public:admin.socket")
    inherited = take_over(config(base, admin=f"127.0.0.1:{base + 2}"), environ)
    assert environ == {"PATH": "/bin"}
    assert not inherited.upgrading
    for at, name in enumerate(("public", "public", ADMIN)):
        taken = inherited.take(HostPort("127.0.0.1", base + at), name)
        assert taken is not None
        with taken:
            assert taken.getsockname() == socks[at].getsockname()
            assert not taken.get_inheritable()
    assert inherited.take(HostPort("127.0.0.1", base + 3), "public") is None
    inherited.close()


def test_systemds_sockets_stay(listening: MakeListening, descriptors: Put) -> None:
    """A port that was given back can be taken again: systemd listens all the while, so it could not be bound."""
    sock = listening()
    bind = HostPort(*sock.getsockname())
    inherited = take_over(config(bind.port), descriptors(sock))
    for _ in range(2):
        taken = inherited.take(bind, "public")
        assert taken is not None
        taken.close()
        inherited.close_rest()
    assert inherited.keeps(bind)
    assert [one.sock.getsockname() for one in inherited.kept()] == [sock.getsockname()]
    inherited.close()


def test_what_is_no_use_is_refused(tmp_path: Path, listening: MakeListening, descriptors: Put) -> None:
    """A descriptor that nobody binds to, or that does not listen, keeps kproxy from starting: a line for each."""
    port = free_port_block(2)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        (tmp_path / "file").open("w") as file,
    ):
        datagrams.bind(("127.0.0.1", 0))
        strange = listening("127.0.0.1", port)
        quiet = listening("127.0.0.1", port + 1, listen=False)
        path = listening(str(tmp_path / "sock"))
        environ = descriptors(strange, quiet, datagrams, file, path, names="public:b:c:d")
        with pytest.raises(ConfigError) as caught:
            take_over(config(port + 1), environ)
    assert str(caught.value).splitlines() == [
        f"LISTEN_FDS: descriptor 200 ('public'): no listener, broker's port or admin API binds to 127.0.0.1:{port}",
        "LISTEN_FDS: descriptor 201 ('b') does not listen for connections; give ListenStream=, with Accept=no",
        "LISTEN_FDS: descriptor 202 ('c') does not listen for connections; give ListenStream=, with Accept=no",
        "LISTEN_FDS: descriptor 203 ('d') is no socket; give kproxy ListenStream= and nothing else",
        f"LISTEN_FDS: descriptor 204 ('unknown'): no listener, broker's port or admin API binds to {tmp_path}/sock",
    ]


@pytest.mark.parametrize(
    ("options", "distance", "wanted"),
    [
        ("", 5, True),
        ("", -1, False),
        (", addressing: single", 1, False),
        (", broker_ports: {7: PORT}", -1, True),
        (", broker_port_start: PORT", -1, True),
    ],
)
def test_ports_of_brokers(
    listening: MakeListening, descriptors: Put, options: str, distance: int, wanted: bool
) -> None:
    """With a port per broker, the port of any broker that may come is wanted; other ports are not."""
    sock = listening()
    port = sock.getsockname()[1]
    made = config(port - distance, options.replace("PORT", str(port)))
    if wanted:
        take_over(made, descriptors(sock)).close()
    else:
        with pytest.raises(ConfigError):
            take_over(made, descriptors(sock))


def test_for_another_process(listening: MakeListening, descriptors: Put) -> None:
    """Sockets that are meant for another process, a wrapper's, are left alone, and that is said."""
    environ = descriptors(listening(), pid=1)
    with capture_logs() as logs:
        assert take_over(config(9092), environ).kept() == []
    assert [log["event"] for log in logs] == ["listening sockets are there for another process; start kproxy with exec"]
    assert take_over(config(9092), {}).kept() == []


def test_from_a_kproxy(listening: MakeListening) -> None:
    """What a kproxy hands over is taken once, systemd's before the same in another guise; the rest is closed."""
    first, other = listening(), listening()
    bind = HostPort(*first.getsockname())
    mine = [os.dup(first.fileno()), os.dup(first.fileno()), os.dup(other.fileno())]
    told = {"channel": 9, "sockets": [[mine[0], "public", False], [mine[1], "x", True], [mine[2], "gone", False]]}
    environ = {inherit.VARIABLE: json.dumps(told)}
    inherited = take_over(config(1), environ)
    assert inherited.upgrading
    taken = inherited.take(bind, "public")
    assert taken is not None
    assert taken.fileno() not in mine  # of the kept one
    inherited.close_rest()
    for descriptor in (mine[0], mine[2]):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    taken.close()
    inherited.close()


def test_a_kproxys_socket_is_taken_once(listening: MakeListening) -> None:
    """A socket that is no more needed is closed for good: its port is free again."""
    inherited = Inherited([Given(listening(), "public", kept=False)], upgrading=True)
    bind = HostPort(*inherited._given[0].sock.getsockname())
    taken = inherited.take(bind, "public")
    assert taken is not None
    taken.close()
    assert inherited.take(bind, "public") is None
    assert not inherited.keeps(bind)


def test_one_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kproxy before is told one word, once; nobody, and one that is gone, are told nothing."""
    inherit.tell(ready=True)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        monkeypatch.setenv(inherit.VARIABLE, json.dumps({"channel": theirs.detach()}))
        inherit.tell(failed="no")
        inherit.tell(ready=True)
        assert json.loads(ours.recv(100)) == {"failed": "no"}
        assert ours.recv(100) == b""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.close()
    monkeypatch.setenv(inherit.VARIABLE, json.dumps({"channel": theirs.detach()}))
    inherit.tell(ready=True)
