"""What is made of files, and read again when they change: certificates and users.

A file is looked at now and then, and at once when somebody says so; a bad one changes nothing but the log.
"""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from kproxy.config import users as users_file
from kproxy.core.credentials import Users
from kproxy.errors import ConfigError
from kproxy.net.tasks import Tasks
from kproxy.net.tls import ClientTls, ServerTls

_log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0
"""How often a users file is looked at."""


@dataclass(slots=True)
class Kept:
    """Something that is made of files or addresses, and kept fresh."""

    words: object
    """What it was configured by: the same words make the same."""
    made: Any
    keep: Callable[["Kept", Tasks], None] | None = None
    """Spawns what keeps it fresh; None: nothing does."""
    tasks: Tasks | None = None
    """Those; None: it has not been started."""
    look: asyncio.Event = field(default_factory=asyncio.Event)
    """Set to have files looked at now."""

    def start(self, tasks: Tasks) -> None:
        """Have it kept fresh by tasks among these."""
        self.tasks = tasks
        if self.keep is not None:
            self.keep(self, tasks)


class UsersOf:
    """The users of a file, read again when it changes."""

    def __init__(self, path: Path, decoy_key: bytes | None = None) -> None:
        """Read it; ``decoy_key``: see load_users. Raises ConfigError."""
        self._path = path
        self._decoy_key = decoy_key
        self._seen = _signature(path)
        file = users_file.read_users(path)
        self.keyed = file.decoy_key is not None
        self.table: Users = file.table(decoy_key)

    async def keep(self, pause: Callable[[], Awaitable[None]]) -> None:
        """Follow the file, looking after each ``pause``; a bad one is told once, and changes nothing."""
        while True:
            await pause()
            seen = _signature(self._path)
            if seen == self._seen:
                continue
            self._seen = seen
            try:
                self.table = await asyncio.to_thread(users_file.load_users, self._path, self._decoy_key)
            except ConfigError as error:
                _log.error("users file is no good; those that were read before stay", error=str(error))
            else:
                _log.info("users file read again", file=str(self._path), users=len(self.table))


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def keep_certificates(whose: str, interval_seconds: float, kept: Kept, tasks: Tasks) -> None:
    """Have TLS files followed."""
    tasks.spawn(f"certificates of {whose}", _follow_certificates(whose, interval_seconds, kept))


async def _follow_certificates(whose: str, interval_seconds: float, kept: Kept) -> None:
    one: ServerTls | ClientTls = kept.made
    while True:
        await _pause(interval_seconds, kept)
        if not one.changed():
            continue
        try:
            one.reload()
        except ConfigError as error:
            _log.error("new TLS files are no good; the old ones stay in use", whose=whose, error=str(error))
            continue
        facts = one.facts
        more = {} if facts is None else {"subject": facts.subject, "not_after": facts.not_after.isoformat()}
        _log.info("TLS files read again", whose=whose, **more)
        for doubt in one.doubts(dt.datetime.now(dt.UTC)):
            _log.warning(doubt, whose=whose)


async def _pause(seconds: float, kept: Kept) -> None:
    """Wait until files are to be looked at again."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await kept.look.wait()
    kept.look.clear()


def keep_users(kept: Kept, tasks: Tasks) -> None:
    """Have a users file followed."""
    tasks.spawn("users", kept.made.keep(partial(_pause, LOOK_SECONDS, kept)))
