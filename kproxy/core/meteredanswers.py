"""The answers to a client that is under limits: slots given back, bytes charged, and throttle times told (KIP-219).

Exchange's ``ledger`` says of which API each answer is. A slot is given back when the broker's answer begins, so that a
slow reader keeps none from others. While the connection owes a pause, an answer that leaves carries what is left of it,
if the broker does not say more; one that has the field at its end is held until it is whole, up to 1 MiB. Not in
answers that no limit counts, nor on a connection that carries heartbeats, as the client would keep these back, too::

    muted_until = 12.0, and it is 10.0   [Fetch 1, 0 ms][Heartbeat 2, 0 ms]   ->   [1, 2000 ms][2, 0 ms]

Never here: a socket, a loop; the clock is handed in. What kproxy answers by itself carries no throttle time.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from kproxy.core.admission import Admission, Refusable
from kproxy.core.exchange import Exchange
from kproxy.core.meters import AnswerBucket, AnswerWindow, Hold, Meter
from kproxy.errors import Short
from kproxy.wire import throttle
from kproxy.wire.primitives import INT32

_SIZE = INT32.unpack_from

HELD_ANSWER_BYTES_MAX = 1024 * 1024
"""The longest answer that is held whole to have its throttle time set, where that is not its first field."""

ANSWER_BYTES_MIN = 8
"""A size and a correlation id. With fewer bytes of an answer Exchange may not have begun it: they are held."""

_NONE = -1


class Entry(NamedTuple):
    """What there is to know about requests of one API and version on a connection, and about their answers."""

    meters: tuple[Meter, ...]
    reads: int
    """What of a request decides whether it takes slots (see metered)."""
    outs: tuple[AnswerBucket | AnswerWindow, ...]
    """Who counts the bytes of their answers."""
    refusable: Refusable
    tells: bool
    """Their answers have a throttle time, and are limited."""


@dataclass(slots=True)
class Taken:
    """Slots that requests, one behind the other, have taken."""

    many: int
    """How many of these are not answered yet."""
    holds: tuple[Hold, ...]
    """Whose slots, one for each of them."""


class MeteredAnswers(Exchange):
    """See the module. It has no __slots__, so that it can come before RoutedExchange, too."""

    def _begin_answers(self, clock: Callable[[], float], admission: Admission) -> None:
        self._clock = clock
        self._admission = admission
        self._ledger: deque[list[int]] = deque([[0, _NONE]])
        self.ledger = self._ledger
        self.muted_until = 0.0
        """Nothing is let through before; 0.0: anything."""
        self._entries: dict[int, Entry] = {}  # by API and version
        self._taken: deque[Taken] = deque()
        self._takers: set[int] = set()  # APIs and versions whose requests are in ``_taken``, if they get an answer
        self._each_answer = False  # is looked at
        self._answer_head = b""  # an answer's beginning that cannot be told yet
        self._telling = _NONE  # API and version of that, if all has been done for it but telling

    def from_broker(self, data: bytes) -> bytes:
        """See Exchange."""
        if self.muted_until or self._each_answer or self._answer_head:
            return self._one_after_another(data)
        before = self.answered
        out = self._backward(data)
        many = self.answered - before
        if many:
            entry = self._ledger[0]
            taken = self._taken
            if entry[0] < many or (taken and taken[0].many < many):
                self._answered(many)
            else:  # which is the same, in short
                entry[0] -= many
                if taken and entry[1] in self._takers:
                    first = taken[0]
                    first.many -= many
                    for hold in first.holds:
                        hold.held -= many
                        slots = hold.slots
                        slots.flying -= many
                        if slots.waiters:
                            slots.grant()
        return out

    def _keep_answer_head(self, data: bytes, pos: int) -> bytes:
        """Hand on all that lies before ``pos``, and keep the answer's beginning that is behind it."""
        out = self._backward(data[:pos])
        head = data[pos:]
        if self.answered == self.asked or (len(head) >= 4 and _SIZE(head)[0] < 4):
            self._backward(head)  # which refuses it: nobody has asked for it, or it is none
        self._answer_head = head
        return out

    def _track(self, holds: tuple[Hold, ...], many: int) -> None:
        """Remember whose slots the next ``many`` requests of ``_takers`` have taken."""
        taken = self._taken
        if taken and taken[-1].holds is holds:
            taken[-1].many += many
        else:
            taken.append(Taken(many, holds))

    def _track_all(self) -> None:
        """Have all that is not answered yet in ``_taken``, slots or none, as more like it may take some from now on."""
        old, takers = self._taken, self._takers
        self._taken = deque()
        self._takers = {key_version for many, key_version in self._ledger if many}
        self._each_answer = False
        for many, key_version in self._ledger:
            left = many
            while left and key_version in takers and old:
                first = old[0]
                now = min(first.many, left)
                if now:
                    self._taken.append(Taken(now, first.holds))
                first.many -= now
                left -= now
                if not first.many:
                    old.popleft()
            if left:
                self._taken.append(Taken(left, ()))

    def _answered(self, many: int) -> None:
        """Strike answers off the ledger, and give back their slots."""
        ledger = self._ledger
        while many:
            entry = ledger[0]
            now = min(entry[0], many)
            entry[0] -= now
            many -= now
            if self._taken and entry[1] in self._takers:
                self._give_back(now)
            if not entry[0]:
                if len(ledger) == 1:
                    return  # it stays, to be lengthened
                ledger.popleft()

    def _give_back(self, many: int) -> None:
        taken = self._taken
        while many:
            first = taken[0]
            now = min(first.many, many)
            first.many -= now
            many -= now
            for hold in first.holds:
                hold.give_back(now)
            if not first.many:
                if len(taken) == 1:
                    return  # it stays, likewise; and what ``flush`` let through has taken none
                taken.popleft()

    def _spare(self, key_version: int) -> None:
        """See Exchange: its slots are given back, which are behind those of all that the broker has yet to answer."""
        if key_version not in self._takers:
            return
        ahead = sum(many for many, asked in self._ledger if asked in self._takers)
        for at, taken in enumerate(self._taken):
            if ahead < taken.many:
                taken.many -= 1
                for hold in taken.holds:
                    hold.give_back(1)
                if not taken.many and len(self._taken) > 1:
                    del self._taken[at]
                return
            ahead -= taken.many

    # One by one, while something is to be counted or told.

    def _one_after_another(self, data: bytes) -> bytes:
        head = self._answer_head or self._tail
        if head:
            data = head + data
            self._answer_head = self._tail = b""
        end = len(data)
        pos = self.answer_missing
        if pos >= end:
            return self._backward(data)
        now = self._clock()
        pieces: list[bytes] = []
        start = 0  # what lies before it is in ``pieces``
        while pos + ANSWER_BYTES_MIN <= end:
            (size,) = _SIZE(data, pos)
            key_version, self._telling = self._telling, _NONE
            if key_version == _NONE:
                key_version = self._next_answer()
                if size < 4 or key_version == _NONE:
                    return self._backward(data)  # which refuses it
                self._charge_answer(key_version, size + 4, now)
                self._answered(1)
            if now < self.muted_until and self._tells(key_version, size + 4):
                try:
                    at = throttle.throttle_at(key_version >> 16, key_version & 0xFFFF, data, pos, pos + 4 + size)
                except Short:
                    self._telling = key_version
                    break
                field = data[at : at + INT32.size]
                pieces += (data[start:at], throttle.patch(field, 0, ceil((self.muted_until - now) * 1000)))
                start = at + INT32.size
            pos += 4 + size
        if pieces:
            pieces.append(data[start:])
            data = b"".join(pieces)
        return self._backward(data) if pos >= end else self._keep_answer_head(data, pos)

    def _next_answer(self) -> int:
        """Return API and version of the next answer; _NONE: there is none to come."""
        ledger = self._ledger
        while not ledger[0][0]:
            if len(ledger) == 1:
                return _NONE
            ledger.popleft()
        return ledger[0][1]

    def _charge_answer(self, key_version: int, size: int, now: float) -> None:
        """Charge an answer's bytes. Who waits already waits no longer for that: it is asked of the next."""
        entry = self._entries.get(key_version)
        if entry is not None and entry.outs:
            owed = self._admission.answered(entry.outs, entry.refusable, size, now)
            if owed and not self.waits:
                self.muted_until = max(self.muted_until, now + owed)

    def told_ms(self, key_version: int, size: int) -> int:
        """See Exchange."""
        owed = self.muted_until - self._clock() if self.muted_until else 0.0
        return ceil(owed * 1000) if owed > 0 and self._tells(key_version, size) else 0

    def _tells(self, key_version: int, size: int) -> bool:
        """Whether an answer is to carry a throttle time."""
        entry = self._entries.get(key_version)
        if entry is None or not entry.tells or self._admission.grouped:
            return False
        return size <= HELD_ANSWER_BYTES_MAX or throttle.is_first(key_version >> 16, key_version & 0xFFFF)
