"""A worker's limits: where several workers hold them together, by leases, and always with what the log is told of them.

They may change while clients are served: what is under them comes under the others from its next request on, and a
connection that was made while there were none ends at its next idle moment, for it looks at nothing it could be limited
by (``Listener.limits_changed``).
"""

import asyncio
from collections.abc import Callable

import structlog

from kproxy.config.model import Config
from kproxy.core.limits import Limits
from kproxy.core.tenant import Tenant
from kproxy.net.tasks import Tasks
from kproxy.service import build
from kproxy.service.channel import Message
from kproxy.service.leasing import Holder

_log = structlog.get_logger(__name__)

NEWS_SECONDS = 1.0
"""How soon the log tells that a limit has begun to hold somebody up."""


class Limiting:
    """See the module. ``start`` it on the running loop, and ``close`` it; ``heard`` takes what has "leases" in it."""

    def __init__(self, config: Config, *, together: bool) -> None:
        """Begin with the limits of ``config``; ``together``: other workers hold them, too."""
        self._together = together
        self._workers = config.workers
        self._tenant: Tenant | None = None
        self._holder: Holder | None = None
        self._send: Callable[[Message], None] | None = None
        self._made: Limits | None = None
        self._at_work = False
        self.change(config)

    @property
    def limits(self) -> Limits | None:
        """Those at work; None: there are none, so that nobody pays for any."""
        return self._made if self._at_work else None

    def change(self, config: Config) -> None:
        """Go on with the limits of ``config``; listeners must be told."""
        self._at_work = bool(config.limits)
        if self._made is not None:
            self._made.change(map(build.rule, config.limits))
        elif config.limits:
            self._tenant = Tenant(self._workers, loop_time) if self._together else None
            self._made = build.limits(config, self._tenant)
            self._hold()

    def start(self, send: Callable[[Message], None], tasks: Tasks) -> None:
        """Carry leases over the channel, and tell the log what happens."""
        self._send = send
        self._hold()
        tasks.spawn("limits", self._tell())

    def _hold(self) -> None:
        if self._tenant is not None and self._holder is None and self._send is not None:
            self._holder = Holder(self._tenant, self._send)

    def heard(self, message: Message) -> None:
        """Take what the supervisor says of leases."""
        if self._holder is not None:
            self._holder.heard(message)

    def close(self) -> None:
        """Carry no more leases."""
        if self._holder is not None:
            self._holder.close()

    async def _tell(self) -> None:
        """Log when a key begins to be held up by a limit, and when that is over."""
        while True:
            await asyncio.sleep(NEWS_SECONDS)
            for news in self._made.news(loop_time()) if self._made is not None else ():
                rule = news.limit.rule
                more: dict[str, object] = {"dry_run": True} if rule.dry_run else {}
                if not news.begins:
                    more["seconds"] = round(news.seconds, 3)
                text = "limit holds a client up" if news.begins else "limit no longer holds a client up"
                _log.info(text, limit=rule.name, key=news.key, **more)


def loop_time() -> float:
    """Return the time of the running loop."""
    return asyncio.get_running_loop().time()
