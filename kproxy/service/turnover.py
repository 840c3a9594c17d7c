"""The turn from one configuration to another, all or nothing, by the supervisor and all of its workers.

Two phases. First everything that can fail is done beside what is at work: sockets are bound, the admin API opens at its
new place, each worker makes what it will need. One refusal, and all of it is undone. Then each is told to apply it::

    supervisor  {"prepare": 7} + descriptor of a packed Order
    worker      {"prepared": 7}                              or {"prepared": 7, "error": "one line"}
    supervisor  {"apply": 7}                                 or {"forget": 7}
    worker      {"applied": 7, "listeners": [["public", "kafka.example.com:9092"]]}

Applying cannot fail, so a worker that does not tell that it has is replaced, and so is one that started amid it all:
each new worker gets the order of the moment. Never here: what a change consists of (config.diff).
"""

import asyncio
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import structlog

from kproxy.config.admin import Admin
from kproxy.config.model import Config
from kproxy.config.values import HostPort
from kproxy.errors import KproxyError
from kproxy.service import layouts, memory
from kproxy.service.channel import Message
from kproxy.service.post import Post
from kproxy.service.worker import Order

if TYPE_CHECKING:
    from kproxy.service.admin import AdminServer

_log = structlog.get_logger(__name__)

PREPARE_SECONDS = 10.0
APPLY_SECONDS = 10.0
"""Each is milliseconds of work but where a thousand listeners or users are; a worker that hangs takes no longer."""

Place = tuple[str, int | None]
"""A listener, and the broker whose port it is; None: its own."""


class Staged(Protocol):
    """Something of the supervisor's that is ready to change."""

    def commit(self) -> None:
        """Change it. Cannot fail."""

    def undo(self) -> None:
        """Leave it as it was."""


class Turnover:
    """The workers' part. ``heard`` takes what they say, ``lost`` tells of one that has ended."""

    def __init__(self, posts: Sequence[Post], order_for: Callable[[Post, Config], Order]) -> None:
        """Turn the workers of ``posts``; each gets the order that is made for it."""
        self._posts = posts
        self._order_for = order_for
        self._number = 0
        self._word = ""
        self._answers: dict[int, asyncio.Future[Message | None]] = {}

    async def change(
        self, new: Config, stages: Sequence[Callable[[], Staged]], may: Callable[[], None]
    ) -> list[tuple[str, str]]:
        """Turn to ``new``; return the listeners' names and addresses as workers tell them.

        ``stages`` make the supervisor's own parts ready, in this order; ``may`` raises where it is too late.

        Raises:
            KproxyError: it was refused, and nothing has changed.
        """
        self._number += 1
        staged: list[Staged] = []
        try:
            for stage in stages:
                staged.append(stage())  # noqa: PERF401  what is made before one that fails is undone
            prepared = await self._prepare(new)
            may()
        except BaseException:
            for one in reversed(staged):
                one.undo()
            for post in self._posts:
                post.send({"forget": self._number})
            raise
        for one in staged:
            one.commit()
        return await self._apply(prepared)

    async def _prepare(self, new: Config) -> dict[int, object]:
        """Have the workers make ready; return the channels of those that are."""
        asked: dict[int, object] = {}
        for post in self._posts:
            if post.channel is not None:
                asked[post.number] = post.channel
                descriptor = memory.packed(self._order_for(post, new))
                try:
                    post.send({"prepare": self._number}, (descriptor,))
                finally:
                    os.close(descriptor)
        answers = await self._hear("prepared", list(asked), PREPARE_SECONDS)
        for answer in answers.values():
            if answer is not None and "error" in answer:
                raise KproxyError(str(answer["error"]))
        if silent := [number for number in asked if number not in answers]:
            raise KproxyError(f"worker {silent[0]} did not get ready within {PREPARE_SECONDS:g} s")
        return {number: asked[number] for number, answer in answers.items() if answer is not None}

    async def _apply(self, prepared: dict[int, object]) -> list[tuple[str, str]]:
        told = []
        for post in self._posts:
            if post.channel is None:  # the next one begins with the new order
                continue
            if post.channel is prepared.get(post.number):
                told.append(post.number)
                post.send({"apply": self._number})
            else:
                post.replace()
        answers = await self._hear("applied", told, APPLY_SECONDS)
        for post in self._posts:
            if post.number in told and post.number not in answers:
                _log.error("worker did not apply the configuration; replacing it", worker=post.number)
                post.replace()
        told_listeners = (answer["listeners"] for answer in answers.values() if answer is not None)
        return [(name, address) for name, address in next(told_listeners, ())]

    async def _hear(self, word: str, whom: list[int], seconds: float) -> dict[int, Message | None]:
        """Return what workers answer in time; None for one that has ended."""
        if not whom:
            return {}
        self._word = word
        self._answers = {number: asyncio.get_running_loop().create_future() for number in whom}
        try:
            await asyncio.wait(self._answers.values(), timeout=seconds)
            return {number: future.result() for number, future in self._answers.items() if future.done()}
        finally:
            for future in self._answers.values():
                future.cancel()
            self._answers = {}

    def heard(self, post: Post, message: Message) -> bool:
        """Take a worker's answer; False: the message is none."""
        word = next((word for word in ("prepared", "applied") if word in message), None)
        if word is None:
            return False
        if word == self._word and message[word] == self._number:
            self._answer(post.number, message)
        return True

    def lost(self, post: Post) -> None:
        """A worker has ended: nobody waits for it."""
        self._answer(post.number, None)

    def _answer(self, number: int, answer: Message | None) -> None:
        future = self._answers.get(number)
        if future is not None and not future.done():
            future.set_result(answer)


class AdminTurn:
    """The admin API's part: it opens at its new place before it closes at the old one."""

    def __init__(
        self,
        server: "AdminServer | None",
        admin: Admin | None,
        make: "Callable[[Admin], AdminServer]",
        done: "Callable[[AdminServer | None, AdminServer | None], None]",
    ) -> None:
        """Open what is to be opened. Raises KproxyError. ``done`` gets the server to keep, and the one to close."""
        self._old = self._new = server
        self._admin, self._done = admin, done
        if admin is None:
            self._new = None
        elif server is None or server.bind != admin.bind:
            self._new = make(admin)
            self._new.open()

    def commit(self) -> None:
        """Ask for the new key, at the new place."""
        if self._new is not None and self._new is self._old and self._admin is not None:
            self._new.admit(self._admin)
        self._done(self._new, None if self._old is self._new else self._old)

    def undo(self) -> None:
        """Close what was opened."""
        if self._new is not None and self._new is not self._old:
            self._done(self._old, self._new)


class Rebinding:
    """The listening sockets' part: those of new places are bound, those of old ones given back."""

    def __init__(
        self,
        sockets: dict[Place, socket.socket],
        users: dict[Place, set[int]],
        old: Config,
        new: Config,
        bound: Callable[[str, int, Iterable[socket.socket]], socket.socket],
    ) -> None:
        """Bind what is needed. Raises KproxyError, and has bound nothing, where an address can't be had.

        ``bound`` binds a host and a port; the sockets that it is given, too, are about to be closed.
        """
        self._sockets, self._users = sockets, users
        self._old, self._new = old, new
        self._bound: dict[Place, socket.socket] = {}
        leaving = {
            HostPort(old.listeners[place[0]].bind.host, sock.getsockname()[1]): sock
            for place, sock in sockets.items()
            if not self._stays(*place)
        }
        try:
            for name, listener in new.listeners.items():
                before = old.listeners.get(name)
                if before is None or before.bind != listener.bind:
                    host, port = listener.bind.host, listener.bind.port
                    same = leaving.get(listener.bind)  # no client is refused in between
                    self._bound[name, None] = bound(host, port, leaving.values()) if same is None else same.dup()
        except OSError as error:
            self.undo()
            reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
            raise KproxyError(f"listener {name}: {listener.bind}: {reason}") from None

    def commit(self) -> None:
        """Give the old places back."""
        for place in list(self._sockets):
            if place in self._bound or not self._stays(*place):
                self._sockets.pop(place).close()
                self._users.pop(place, None)
        self._sockets.update(self._bound)

    def _stays(self, name: str, node_id: int | None) -> bool:
        """Whether a place has the same address as before."""
        before, after = self._old.listeners.get(name), self._new.listeners.get(name)
        if before is None or after is None:
            return False
        if node_id is None:
            return before.bind == after.bind
        if (before.cluster, before.bind.host) != (after.cluster, after.bind.host) or after.addressing != "ports":
            return False
        was, port = (layouts.port_layout(listener).bind_port_of(node_id) for listener in (before, after))
        return was == port

    def undo(self) -> None:
        """Give back what was bound."""
        for sock in self._bound.values():
            sock.close()
        self._bound.clear()
