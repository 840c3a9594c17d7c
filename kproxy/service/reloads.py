"""The ways in for another configuration: the file that changes, SIGHUP, and the admin API.

All are one: read, check whole, plan (config.diff), carry out; one at a time. What is refused changes nothing, and each
is logged and counted. The flags of the command line are laid over the file, or what is sent, as they were at the start.

The file is looked at by its time, size and inode, which works with links that are turned to another file, as Kubernetes
does with a ConfigMap. It counts once it has been still from one look to the next, so that none is read half-written.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from kproxy.config.diff import Plan, diff
from kproxy.config.draft import FILE_BYTES_MAX
from kproxy.config.flags import Flags
from kproxy.config.load import Loaded, from_flags
from kproxy.config.model import Config
from kproxy.errors import KproxyError
from kproxy.service.doors import Doors

_log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks at the file: an operator waits two at most, and a stat costs microseconds."""

WAITING_MAX = 10
"""How many changes may wait for their turn; each takes seconds at most."""

Document = dict[str, Any]
Mark = tuple[int, int, int, int] | None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the configuration comes from."""

    flags: Flags = field(default_factory=Flags)
    path: Path | None = None

    def read(self, text: str | None) -> tuple[Config, list[str]]:
        """Return the configuration in ``text``, or in the file, and warnings. Raises ConfigError."""
        if text is None:
            if self.path is None:
                raise KproxyError("there is no file to read: kproxy was started without --config")
            loaded = from_flags(self.flags, self.path)
        else:
            loaded = from_flags(
                self.flags, text, directory=Path() if self.path is None else self.path.parent.absolute()
            )
        return loaded.config, _warnings(loaded)

    def content(self) -> bytes:
        """Return what tells the file's content from another; nothing where it cannot be read."""
        assert self.path is not None  # noqa: S101  or it is not watched
        with suppress(OSError), self.path.open("rb") as file:
            return hashlib.sha256(file.read(FILE_BYTES_MAX + 1)).digest()
        return b""

    def mark(self) -> Mark:
        """Return what tells the file from another; None: there is none."""
        assert self.path is not None  # noqa: S101  or it is not watched
        with suppress(OSError):
            found = os.stat(self.path)  # noqa: PTH116 - the file that links lead to
            return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
        return None


def _warnings(loaded: Loaded) -> list[str]:
    # A mistake in a file it names is told by it.
    return [*loaded.warnings, *Doors(loaded.config, told=loaded.told).doubts()]


class Reloads:
    """See the module."""

    def __init__(
        self,
        origin: Origin,
        current: Callable[[], Config],
        change: Callable[[Config, Plan], Awaitable[None]],
        look: Callable[[], None],
    ) -> None:
        """Have ``change`` carry plans out, from the ``current`` configuration; it raises KproxyError to refuse.

        ``look`` has the files that a configuration names looked at, whether it has changed or not.
        """
        self._origin = origin
        self._current = current
        self._change = change
        self._look = look
        self._turn = asyncio.Lock()
        self._waiting = 0
        self.succeeded = 0
        self.refused = 0
        self.changed_at: float | None = None
        """When a configuration was last applied; None: not since the start."""

    def still(self) -> asyncio.Lock:
        """Return what is to be held while nothing may change; changes wait meanwhile."""
        return self._turn

    async def plan(self, text: str) -> Document:
        """Return what would be done for a configuration. Raises ConfigError."""
        config, warnings = await asyncio.to_thread(self._origin.read, text)
        return _told(diff(self._current(), config), warnings, applied=False)

    async def apply(self, text: str | None, way: str) -> Document:
        """Apply a configuration, or the file's where ``text`` is None; ``way`` says in the log how it came.

        Raises:
            ConfigError: it has mistakes.
            KproxyError: it cannot be applied now.
        """
        if self._waiting >= WAITING_MAX:
            raise KproxyError("too many changes wait for their turn; try again")
        self._waiting += 1
        try:
            async with self._turn:
                return await self._apply(text, way)
        except KproxyError as error:
            self.refused += 1
            _log.error("configuration refused; nothing has changed", way=way, mistakes=str(error).splitlines())
            raise
        finally:
            self._waiting -= 1

    async def _apply(self, text: str | None, way: str) -> Document:
        config, warnings = await asyncio.to_thread(self._origin.read, text)
        plan = diff(self._current(), config)
        for warning in warnings:
            _log.warning(warning)
        if plan:
            await self._change(config, plan)
        self._look()
        self.succeeded += 1
        self.changed_at = time.time()
        _log.info("configuration applied" if plan else "configuration is as it was", way=way, plan=plan.lines())
        return _told(plan, warnings, applied=True)

    async def reload(self, way: str) -> None:
        """Apply the file; what is wrong with it is logged."""
        if self._origin.path is None:
            _log.warning("no configuration file to read again: kproxy was started without --config", way=way)
            return
        with suppress(KproxyError):  # logged, and counted
            await self.apply(None, way)

    async def watch(self, look_seconds: float = LOOK_SECONDS) -> None:
        """Apply the file for ever whenever it is another one; nothing where there is none."""
        if self._origin.path is None:
            return
        done = before = self._origin.mark()
        content = self._origin.content()
        while True:
            await asyncio.sleep(look_seconds)
            now = self._origin.mark()
            if now == before and now != done:
                done = now
                if (found := self._origin.content()) != content:
                    content = found
                    await self.reload("file")
            before = now

    def counts(self) -> Document:
        """Return what there has been, for metrics and the tally."""
        return {"succeeded": self.succeeded, "refused": self.refused, "changed_at": self.changed_at}


def _told(plan: Plan, warnings: list[str], *, applied: bool) -> Document:
    return {"applied": applied, "plan": plan.lines(), "steps": plan.document(), "warnings": warnings}
