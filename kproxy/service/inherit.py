"""The listening sockets that this process was started with: by systemd (socket activation), or by a kproxy before it.

systemd says so in LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES (sd_listen_fds(3)); a kproxy that is being upgraded (see
upgrade) in one variable of its own, as it cannot know the new process's id beforehand::

    KPROXY_INHERIT={"channel": 9, "sockets": [[10, "public", false], [11, "admin", false]]}

A socket is taken for an address, whose-ever that is: a listener's, a broker's port, the admin API's. What a kproxy gave
fits where port and host are the same; it is closed once all is open and nobody has taken it.

What systemd gave is *kept*: systemd goes on to listen whatever we do, so it stays to be taken again, and is handed on.
It fits, too, where both are every interface, or by its name. ::

    [::]:9092               fits bind: 0.0.0.0:9092
    10.0.0.1:9092 "public"  fits listener public with bind: kafka.example.com:9092
    [::]:9093 "public"      fits none of them: clients would be told another port

Never here: a bind.
"""

import json
import os
import socket
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import suppress
from dataclasses import dataclass

import structlog

from kproxy.config.model import Config
from kproxy.config.values import HostPort, SocketPath
from kproxy.errors import ConfigError
from kproxy.service import layouts

_log = structlog.get_logger(__name__)

VARIABLE = "KPROXY_INHERIT"

FIRST_DESCRIPTOR = 3
"""Of systemd's: SD_LISTEN_FDS_START."""

ADMIN = "admin"
"""The name of the admin API's socket; a listener may be called so, too, but cannot have the same port."""

WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104  recognised, not bound


@dataclass(frozen=True, slots=True)
class Given:
    """One listening socket, and whose it is to be."""

    sock: socket.socket
    name: str
    kept: bool
    """See the module."""

    def fits(self, bind: HostPort | SocketPath, name: str) -> bool:
        """Whether it can serve an address of the listener, or the admin API, of that name."""
        bound = self.sock.getsockname()
        if isinstance(bind, SocketPath):
            return bool(bound == bind.path)
        if self.sock.family == socket.AF_UNIX or bound[1] != bind.port:
            return False
        host = bound[0]
        if self.kept and (self.name == name or (host in WILDCARDS and bind.any_interface)):
            return True
        return host in _addresses(bind)

    def __str__(self) -> str:
        bound = self.sock.getsockname()
        return str(bound if self.sock.family == socket.AF_UNIX else HostPort(*bound[:2]))


def _addresses(bind: HostPort) -> set[str]:
    try:
        found = socket.getaddrinfo(bind.host, bind.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:  # whoever binds it says so
        return set()
    return {str(address[0]) for *_, address in found}


class Inherited:
    """What there is to take."""

    def __init__(self, given: Iterable[Given] = (), *, upgrading: bool = False) -> None:
        """Own these sockets; ``upgrading``: another kproxy serves on them until it is told that we do."""
        self._given = list(given)
        self.upgrading = upgrading

    def take(self, bind: HostPort | SocketPath, name: str) -> socket.socket | None:
        """Return a socket for an address of the listener, or the admin API, of that name; None: bind one."""
        # systemd's first: what a kproxy has handed on beside them may be the same.
        found = sorted((one for one in self._given if one.fits(bind, name)), key=lambda one: not one.kept)
        if not found:
            return None
        one = found[0]
        if one.kept:
            sock = one.sock.dup()
        else:
            sock = one.sock
            self._given.remove(one)
        sock.setblocking(False)
        return sock

    def keeps(self, bind: HostPort | SocketPath) -> bool:
        """Whether systemd listens at an address, so that what is there in the file system is not ours to remove."""
        return any(one.kept and one.fits(bind, ADMIN) for one in self._given)

    def kept(self) -> list[Given]:
        """Return what is to be handed on."""
        return [one for one in self._given if one.kept]

    @property
    def left(self) -> list[socket.socket]:
        """What nobody has taken, and would not be kept."""
        return [one.sock for one in self._given if not one.kept]

    def close_rest(self) -> None:
        """Close what nobody has taken. Call it once, when all is open."""
        for one in self._given:
            if not one.kept:
                one.sock.close()
        self._given = self.kept()

    def close(self) -> None:
        """Close all."""
        for one in self._given:
            one.sock.close()
        self._given.clear()


def take_over(config: Config, environ: MutableMapping[str, str] = os.environ) -> Inherited:
    """Return what this process was started with, which is then this process's alone. Call it once.

    Raises:
        ConfigError: systemd gave what is no use; a line for each.
    """
    told = environ.get(VARIABLE)
    if told is not None:
        sockets = json.loads(told)["sockets"]
        return Inherited(
            [Given(_own(descriptor), name, kept) for descriptor, name, kept in sockets if descriptor is not None],
            upgrading=True,
        )
    given = []
    mistakes = []
    for descriptor, name in _from_systemd(environ):
        problem, one = _usable(descriptor, name, config)
        mistakes += [problem] if problem else []
        given += [one] if one is not None else []
    inherited = Inherited(given)
    if mistakes:
        inherited.close()
        raise ConfigError("\n".join(mistakes))
    for one in given:
        _log.info("listening socket from systemd", name=one.name, address=str(one))
    return inherited


def _own(descriptor: int) -> socket.socket:
    sock = socket.socket(fileno=descriptor)
    sock.set_inheritable(False)
    return sock


def _from_systemd(environ: MutableMapping[str, str]) -> Iterator[tuple[int, str]]:
    """Return descriptors and their names, and forget them: they are nobody else's."""
    many, pid = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if not (many.isascii() and many.isdigit()):
        return
    if pid != str(os.getpid()):
        _log.warning("listening sockets are there for another process; start kproxy with exec", listen_pid=pid)
        return
    for number in range(int(many)):
        yield FIRST_DESCRIPTOR + number, names[number] if number < len(names) else "unknown"


def _usable(descriptor: int, name: str, config: Config) -> tuple[str, Given | None]:
    """Return what is wrong with a descriptor of systemd's, and the socket as far as it is one."""
    here = f"LISTEN_FDS: descriptor {descriptor} ({name!r})"
    try:
        sock = _own(descriptor)
        listens = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        return f"{here} is no socket; give kproxy ListenStream= and nothing else", None
    one = Given(sock, name, kept=True)
    if sock.family not in {socket.AF_INET, socket.AF_INET6, socket.AF_UNIX} or not listens:
        return f"{here} does not listen for connections; give ListenStream=, with Accept=no", one
    if not _wanted(one, config):
        return f"{here}: no listener, broker's port or admin API binds to {one}", one
    return "", one


def _wanted(one: Given, config: Config) -> bool:
    """Whether there is, or may come to be, something that binds there."""
    if config.admin is not None and one.fits(config.admin.bind, ADMIN):
        return True
    if one.sock.family == socket.AF_UNIX:
        return False
    port = one.sock.getsockname()[1]
    for name, listener in config.listeners.items():
        ours = port == listener.bind.port or layouts.may_be_a_brokers(listener, port)
        if ours and one.fits(HostPort(listener.bind.host, port), name):
            return True
    return False


def tell(**message: object) -> None:
    """Tell the kproxy that is to be followed, once, whether this one is ready: nothing where there is none."""
    told = os.environ.pop(VARIABLE, None)
    if told is None:
        return
    with suppress(OSError), socket.socket(fileno=json.loads(told)["channel"]) as channel:  # it may be gone
        channel.send(json.dumps(message).encode())
