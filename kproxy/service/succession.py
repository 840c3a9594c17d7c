"""What comes before this process, and what after it: the supervisor's part in being upgraded.

Sockets are taken from whoever has started us (see inherit); systemd, or the kproxy that we follow, is told once we
serve; at SIGUSR2 another process is started to follow us (see upgrade), and where it is ready we end by a drain. One
upgrade at a time, none before this process serves itself, and none once it is about to end.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import structlog

from kproxy.config.values import HostPort, SocketPath
from kproxy.errors import KproxyError
from kproxy.net.tasks import Tasks
from kproxy.service import inherit, notify
from kproxy.service.inherit import Given, Inherited
from kproxy.service.upgrade import Upgrade

_log = structlog.get_logger(__name__)

Still = Callable[[], AbstractAsyncContextManager[object]]
"""Within it the configuration stays as it is."""


class Succession:
    """See the module. Tell it when the supervisor is ``ready``, has ``failed``, is ``stopping``."""

    def __init__(
        self,
        inherited: Inherited,
        sockets: Callable[[], list[Given]],
        still: Still,
        go: Callable[[], Awaitable[None]],
    ) -> None:
        """``sockets`` returns those that are to be handed over; ``go`` is called when another process serves."""
        self._inherited = inherited
        self._sockets = sockets
        self._still = still
        self._go = go
        self._tasks = Tasks()
        self._running: asyncio.Task[None] | None = None
        self._latest: Upgrade | None = None
        self._ready = False
        self._ending = False
        self.succeeded = False
        """Another kproxy serves."""

    @property
    def follows(self) -> bool:
        """Whether another kproxy serves as long as this one is not ready."""
        return self._inherited.upgrading and not self._ready

    def take(self, bind: HostPort | SocketPath, name: str) -> socket.socket | None:
        """Return a socket that is there already; None: bind one."""
        return self._inherited.take(bind, name)

    @property
    def left(self) -> list[socket.socket]:
        """What nobody has taken yet of what a kproxy gave, to be closed by both."""
        return self._inherited.left

    def keeps(self, bind: HostPort | SocketPath) -> bool:
        """Whether an address is systemd's to close."""
        return self._inherited.keeps(bind) or self.succeeded

    def ready(self) -> None:
        """Clients are served."""
        follows, self._ready = self.follows, True
        self._inherited.close_rest()
        inherit.tell(ready=True)
        if not follows:  # systemd would not listen: we are not the service's main process yet
            _tell_systemd("READY=1")

    def failed(self, why: str) -> None:
        """This process is about to end, without having served."""
        self._ending = True
        inherit.tell(failed=why)

    def stopping(self) -> None:
        """A drain begins; who would follow is ended, unless he serves already."""
        self._ending = True
        if self._running is not None and not self.succeeded:
            self._running.cancel()
        if not self.succeeded:
            _tell_systemd("STOPPING=1")

    def asked(self) -> None:
        """Have another process follow."""
        if self._ending or self.succeeded:
            _log.warning("no upgrade: this kproxy is about to stop")
        elif not self._ready:
            _log.warning("no upgrade: this kproxy still starts")
        elif self._running is not None:
            _log.warning("no upgrade: one is under way")
        elif os.getpid() == 1:
            _log.error("no upgrade: process 1 of a container cannot be followed by another; replace the container")
        else:
            self._running = self._tasks.spawn("upgrade", self._upgrade())

    async def _upgrade(self) -> None:
        try:
            async with self._still():
                self._latest = Upgrade([*self._inherited.kept(), *self._sockets()])
                await self._latest.run(self._follow)
                await self._go()
        except KproxyError as error:
            _log.error("upgrade failed; this kproxy goes on", reason=str(error))
        finally:
            self._running = None

    def _follow(self, pid: int) -> None:
        """Another process serves. Raises KproxyError where it would not live."""
        try:
            notify.tell(f"MAINPID={pid}")
        except OSError as error:  # it would kill all of it when this process ends
            raise KproxyError(f"systemd cannot be told of the new process: {error.strerror or error}") from None
        self.succeeded = True
        _log.info("upgraded: another kproxy serves from now on", pid=pid)

    async def close(self) -> None:
        """End what is under way."""
        await self._tasks.close()
        self._inherited.close()


def _tell_systemd(line: str) -> None:
    try:
        notify.tell(line)
    except OSError as error:
        _log.warning("systemd cannot be told", line=line, error=error.strerror)
