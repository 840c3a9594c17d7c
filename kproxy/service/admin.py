"""The admin API's server: one socket, and uvicorn on the supervisor's own loop.

No traffic passes there, so that nothing here can delay any. Loaded only where the configuration asks for it: what it
stands on takes a third of a second to load. uvicorn leaves signals alone, and what it has to say is logged as all else.
"""

import asyncio
import logging
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog
import uvicorn

from kproxy.config.admin import Admin
from kproxy.config.values import HostPort, SocketPath
from kproxy.errors import KproxyError
from kproxy.net.tasks import Tasks
from kproxy.service.api import Api, House
from kproxy.service.guard import LOOPBACK_HOSTS, Guard

_log = structlog.get_logger(__name__)

CONNECTIONS_MAX = 100
"""How many may be open at once; more are told 503. A Prometheus, probes and some operators need a dozen."""

KEEP_ALIVE_SECONDS = 75
"""Longer than the usual 15 to 60 s between two scrapes, so that they share a connection."""

LEAVE_SECONDS = 0.1
"""How long who has just connected may take to ask, when another process serves from now on."""

CLOSE_SECONDS = 1
"""What answers under way may take when kproxy ends."""

SocketSource = Callable[[str, int], socket.socket]
"""(host, port) -> a bound socket; raises OSError for want of it."""


class _Server(uvicorn.Server):
    """uvicorn's, but for signals: those are the supervisor's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


class AdminServer:
    """``open`` it once, ``close`` it once."""

    def __init__(
        self,
        admin: Admin,
        house: House,
        bound: SocketSource,
        taken: Callable[[HostPort | SocketPath], socket.socket | None] = lambda _: None,
        keeps: Callable[[HostPort | SocketPath], bool] = lambda _: False,
    ) -> None:
        """Prepare to serve ``house`` as ``admin`` says.

        ``taken`` returns a socket that is there already; ``keeps``: whether others go on to listen at a place.
        """
        self._admin = admin
        self._bound = bound
        self._taken = taken
        self._keeps = keeps
        self._tasks = Tasks()
        self._guard = Guard(Api(house).app, *_admitted(admin), house.clock)
        config = uvicorn.Config(
            self._guard,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS_MAX,
            backlog=CONNECTIONS_MAX,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=CLOSE_SECONDS,
        )
        self._server = _Server(config)
        self.socket: socket.socket | None = None
        """None: it was not opened."""

    @property
    def bind(self) -> HostPort | SocketPath:
        """Where it is."""
        return self._admin.bind

    def admit(self, admin: Admin) -> None:
        """Ask for another key, from the next request on."""
        self._admin = admin
        self._guard.admit(*_admitted(admin))

    def open(self) -> None:
        """Begin to serve. Raises KproxyError where its place cannot be had."""
        bind = self._admin.bind
        try:
            self.socket = self._taken(bind)
            if self.socket is None:
                if isinstance(bind, SocketPath):
                    self.socket = unix_socket(Path(bind.path))
                else:
                    self.socket = self._bound(bind.host, bind.port)
            self.socket.listen(CONNECTIONS_MAX)  # from here on nobody is refused
        except OSError as error:
            if self.socket is not None:
                self.socket.close()
            reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
            raise KproxyError(f"admin: {bind}: {reason}") from None
        self._tasks.spawn("admin API", self._server.serve([self.socket]))
        _log.info("admin API", address=str(bind), key="asked for" if self._admin.api_key else "none")

    async def leave(self) -> None:
        """Leave who comes from now on to another process that listens on the same socket; then close."""
        if self._server.started:
            for server in self._server.servers:
                server.close()
            await asyncio.sleep(LEAVE_SECONDS)
        await self.close()

    async def close(self) -> None:
        """Finish what is under way, within a bound, and serve no more. May be called again, where it was cancelled."""
        # What it says of clients that are cut off now is nothing to act upon.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self._server.should_exit = True
        await self._tasks.finish(CLOSE_SECONDS + 1)
        if self.socket is not None:
            self.socket.close()
            if isinstance(self._admin.bind, SocketPath) and not self._keeps(self._admin.bind):
                _remove(Path(self._admin.bind.path))


def _admitted(admin: Admin) -> tuple[str | None, frozenset[str] | None]:
    """Return the key, and the names by which the API may be called."""
    key = None if admin.api_key is None else admin.api_key.reveal()
    return key, None if isinstance(admin.bind, SocketPath) else LOOPBACK_HOSTS | {admin.bind.host.lower()}


def unix_socket(path: Path) -> socket.socket:
    """Return a socket bound to a path, for this user alone; one that nobody listens on any more is replaced.

    Raises:
        OSError: the path is taken, or cannot be had.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # there is no moment at which others could connect
    try:
        if _abandoned(path):
            path.unlink()
        sock.bind(str(path))
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(mask)
    return sock


def _remove(path: Path) -> None:
    with suppress(OSError):  # somebody else has, or may not be helped
        path.unlink()


def _abandoned(path: Path) -> bool:
    """Whether a socket is left over from a process that is gone."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
    return False
