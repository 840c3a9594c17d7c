"""A client connection that comes under limits: Exchange, with a gate before it.

What a read brings is asked of the limits in one go: where all of its requests pass, as nearly always, that is one call
per limit and run of requests alike. Otherwise they are taken one by one (see admission). The first that must wait is
held back at its frame boundary, with all that is behind it, and ``waits`` is set: the shell calls ``go_on`` at
``wake_at``, or when it is woken because a slot is free, and reads no more while ``held_bytes`` are many. What else may
come of a request: it is answered with THROTTLING_QUOTA_EXCEEDED, for the APIs whose clients understand that (KIP-599),
or ``refused_by`` says whose limit ends the connection.

A request that is throttled goes through, and what it owes is one deadline, ``muted_until``: until then nothing more is
let through, and answers carry what is left of it (see meteredanswers), so that a client that knows KIP-219 waits by
itself. A rate of one a second, no burst, and three requests in one read::

    client -> broker   [Fetch 1][Fetch 2][Fetch 3]   Fetch 2 is over: 1 and 2 pass, 3 is held for two seconds
    broker -> client   [1, 2000 ms][2, 1995 ms]      and is asked again then

On a connection that carries heartbeats no wait is longer than a second, and no time is told: it must not cost a
consumer its group.

Never here: a socket, a loop; the clock is handed in. ``from_client`` is long on purpose: a read with one plain request
takes 1.1 us more with three limits than without, an answer alone 0.4 (CPython 3.11).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil

from kproxy.core.admission import LOOK_SECONDS, Admission, Refusable
from kproxy.core.exchange import (
    HEAD,
    HEAD_BYTES,
    HELD_BYTES_MAX,
    REFUSED,
    REQUEST_BYTES_MIN,
)
from kproxy.core.limits import HEARTBEAT_WAIT_SECONDS, HEARTBEATS, LONG_POLLS, Action, Bound, Client, Limit, Limits
from kproxy.core.meteredanswers import Entry, MeteredAnswers
from kproxy.core.meters import AnswerBucket, AnswerWindow, Hold, Meter
from kproxy.core.routed import ANSWERED_HERE, RoutedExchange
from kproxy.errors import Malformed, Short
from kproxy.wire import frames, quota, throttle
from kproxy.wire.apis import ApiKey
from kproxy.wire.primitives import INT32

_SIZE = INT32.unpack_from

REFUSED_REQUEST_BYTES_MAX = 1024 * 1024
"""The longest request that is answered with a refusal, for which it must be read whole; a longer one is throttled."""

SETTLING_SECONDS = 0.01
"""How soon a refusal is tried again while what was asked before has no place yet."""

_PRODUCE, _FETCH = int(ApiKey.PRODUCE), int(ApiKey.FETCH)

_ALIKE, _BY_ACKS, _BY_WAIT = 0, 1, 2  # what tells whether a request takes slots: nothing, acks, how long a Fetch waits

_ENDLESS = 1 << 62


@dataclass(slots=True)
class Like:
    """What there is to know about one request, and those that begin as it does. It never changes.

    (A NamedTuple's fields take thrice as long to read, and freezing costs nothing here but when one is made.)
    """

    meters: tuple[Meter, ...]
    holds: tuple[Hold, ...] | None
    """Whose slots it takes; None: it does not concern ``_taken``."""
    ends: int
    """Where that beginning ends, from the frame's first byte; 0: all of its API and version are alike."""
    beginning: bytes
    """What follows the correlation id up to there."""


UNLIMITED = Like((), None, 0, b"")
UNKNOWN = Like((), None, 1, b"?")  # like which there is none, as what begins at 12 does not end at 1


class Metered(MeteredAnswers):
    """See the module. ``meter`` comes first, ``leave`` last."""

    ANSWERED_HERE: frozenset[int] = frozenset()
    """APIs that kproxy answers by itself, which take no slot of a broker's."""

    # Also of a connection that ends before it is metered.
    _gate_head = b""  # a request's beginning that cannot be told yet
    _answer_head = b""

    def meter(self, limits: Limits, client: Client, clock: Callable[[], float], wake: Callable[[], None]) -> None:
        """Come under limits, as ``client``, whose client id is not known yet. Look at ``refused_by`` afterwards.

        ``wake`` is called when it may ``go_on`` before ``wake_at``, from within another connection's exchange.
        """
        self._begin_answers(clock, Admission(client, wake))
        self._limits = limits
        self._introduced = False
        self._likes: dict[int, Like] = {}  # by API and version: how the last request of it began
        self._gate_left = 0  # bytes of the request under way that are still to come
        self._gate_head = b""  # a class's attribute takes longer to read
        self._held = b""  # while it ``waits``, from a frame boundary on
        self._held_seen = 0  # where the first request in it begins that no heartbeat was looked for in
        self.refused_by: Limit | None = None
        """The limit that ends this connection, once what was returned with it has been sent."""
        self._stale = False  # the limits are others, and it has yet to come under them
        self._bound = Bound()
        self._outside = True  # it has not been let in yet
        self.waits = not self._let_in()

    def _let_in(self) -> bool:
        """Ask the limits on connections that need no client id; False: it ``waits`` to be let in, or to be ended."""
        now = self._clock()
        client = self._admission.client
        if self._limits.unsure(client, now, early=True):
            self._admission.wake_at = now + LOOK_SECONDS
            return False
        self._outside = False
        self.refused_by, self._bound = self._limits.knock(client, now, early=True)
        return self.refused_by is None

    def limits_changed(self) -> bool:
        """Come under the limits as they are now; False: not yet, call it again soon.

        A request that waits already waits as long as it was told to; those behind it come under the others.
        """
        self._stale = True
        self._follow()
        return not self._stale

    def _follow(self) -> None:
        """Do so, unless a request is under way between the gate and the ledger, which may have taken slots."""
        if self._admission.midway or self._request_head or not self.settled:
            return
        self._stale = False
        self._bound.follow(self._limits, self._admission.client, self._clock(), entered=self._introduced)
        self._likes.clear()
        self._track_all()
        for key_version in list(self._entries):
            self._enter(key_version)

    def leave(self) -> None:
        """The connection has ended: give back what it holds."""
        self._admission.leave()
        self._bound.leave()
        self._taken.clear()

    def expire(self) -> None:
        """See Exchange; what it refuses now is neither charged nor held back, nor answered by a limit."""
        super().expire()
        self._likes.clear()

    def flush(self) -> bytes:
        """Let through what is held, as the connection ends; returns and raises as ``go_on``.

        It is charged, but waits for nothing. What a limit has refused is not let through.
        """
        data, self._held = self._held, b""
        if self.refused_by is not None:
            return b""
        self.waits = False
        charged = self._admission.charged
        self._admission.leave()
        now = self._clock()
        pos = 0
        while pos + HEAD_BYTES <= len(data):
            size, key_version = HEAD(data, pos)
            if size < REQUEST_BYTES_MIN:
                return self._pass_garbage(data)
            like = self._like(key_version, data, pos, size)
            for meter in like.meters if like is not None and not charged else ():
                if not isinstance(meter, Hold):
                    meter.charge(now, 4 + size)
            charged = False
            pos += 4 + size
        return self._pass(data, 0, pos)

    # What the shell may ask.

    @property
    def wake_at(self) -> float:
        """When to ``go_on`` while it ``waits``."""
        return max(self._admission.wake_at, self.muted_until)

    @property
    def held_bytes(self) -> int:
        """How much is held while it ``waits``."""
        return len(self._held)

    @property
    def idle(self) -> bool:
        """See Exchange. What is held back as a whole is for any broker still."""
        return super().idle and not self._gate_head

    @property
    def progress(self) -> tuple[int, ...]:
        """See Exchange; as long as it ``waits``, which is for a while only, it is not the client that is idle."""
        waiting = int(self._clock() * 1000) if self.waits else 0
        return *super().progress, len(self._gate_head), len(self._answer_head), waiting

    # Client to broker.

    def from_client(self, data: bytes) -> bytes:
        """See Exchange. Look at ``waits`` afterwards, too."""
        if self.waits:
            self._keep(data)
            return b""
        midway = False
        if self._gate_head:
            data = self._gate_head + data
            self._gate_head = b""
            midway = self._admission.midway
        end = len(data)
        pos = self._gate_left
        if pos >= end:
            self._gate_left = pos - end
            return self._let_through(data)
        now = self._clock()
        if self.muted_until:
            if now < self.muted_until:
                return self._hold(data, 0, pos)
            self.muted_until = 0.0
        if midway:
            return self._one_by_one(data, pos, now)
        likes = self._likes
        biggest = self._request_bytes_max
        while pos + HEAD_BYTES <= end:
            size, key_version = HEAD(data, pos)
            if size < REQUEST_BYTES_MIN or size > biggest:
                return self._pass_garbage(data)
            begin = pos  # of the requests alike, of which there are ``many``
            like = likes.get(key_version, UNKNOWN)
            ends = like.ends
            if ends and (data[pos + 12 : pos + ends] != like.beginning or ends > size + 4):
                found = self._like(key_version, data, pos, size)
                if found is None:
                    break
                like = found
                ends = like.ends
            many = 1
            pos += 4 + size
            while pos + HEAD_BYTES <= end:
                size, another = HEAD(data, pos)
                if another != key_version or size < REQUEST_BYTES_MIN or size > biggest:
                    break
                if ends and (data[pos + 12 : pos + ends] != like.beginning or ends > size + 4):
                    break
                many += 1
                pos += 4 + size
            for meter in like.meters:
                if not meter.take(now, many, pos - begin):
                    for charged in like.meters[: like.meters.index(meter)]:
                        charged.undo(many, pos - begin)
                    return self._one_by_one(data, begin, now)
            holds = like.holds
            if holds is not None:
                taken = self._taken
                if taken and taken[-1].holds is holds:
                    taken[-1].many += many
                else:
                    self._track(holds, many)
        if pos == end and not begin:
            self._gate_left = 0
            return self._let_alike_through(data, key_version, many, like.beginning)
        if pos >= end:
            self._gate_left = pos - end
            return self._let_through(data)
        return self._keep_gate_head(data, 0, pos)

    def go_on(self) -> bytes:
        """Go on with what was held; returns and raises as ``from_client``."""
        if self._outside and not self._let_in():
            return b""
        self._gate_head = self._held
        self._held = b""
        self.waits = False
        return self.from_client(b"")

    def _pass(self, data: bytes, start: int, pos: int) -> bytes:
        """Forward all from ``start`` to ``pos``; what is behind it is a request that cannot be told yet."""
        if pos >= len(data):
            self._gate_left = pos - len(data)
            return self._let_through(data[start:])
        return self._keep_gate_head(data, start, pos)

    def _keep_gate_head(self, data: bytes, start: int, pos: int) -> bytes:
        head = data[pos:]
        if len(head) >= 4 and not REQUEST_BYTES_MIN <= _SIZE(head)[0] <= self._request_bytes_max:
            return self._pass_garbage(data[start:])
        if self.waits:  # its client is not let in yet, or not at all
            return self._hold(data, start, pos)
        self._gate_left = 0
        self._gate_head = head
        return self._let_through(data[start:pos])

    def _pass_garbage(self, data: bytes) -> bytes:
        """Something in ``data`` is no request: forward all that comes, to be refused, now or once it is looked at."""
        self._gate_left = _ENDLESS
        return self._let_through(data)

    # What there is to know about a request.

    def _like(self, key_version: int, data: bytes, pos: int, size: int) -> Like | None:
        """Find out what counts the request at ``pos``; None: it cannot be told yet, or its client is refused."""
        known = self._likes.get(key_version)
        if known is not None and not known.ends:
            return known
        if self._kinds.get(key_version, REFUSED) == REFUSED:
            return UNLIMITED  # by Exchange, unless it is an ApiVersions before it that makes it known
        stop = pos + 4 + size
        entry = self._entries.get(key_version)
        if entry is None:
            if not self._introduced and not self._introduce(data[pos:stop], whole=stop <= len(data)):
                return None
            entry = self._enter(key_version)
        meters = entry.meters
        if entry.reads == _ALIKE:
            like = Like(meters, _holds(meters) if key_version in self._takers else None, 0, b"")
        else:
            here = min(stop, len(data))
            answered = sure = True
            try:
                if entry.reads == _BY_ACKS:
                    ends = frames.produce_acks_at(data, pos + 4, here) + 2
                    answered = data[ends - 2 : ends] != b"\0\0"
                    meters = meters if answered else _without_holds(meters)
                else:
                    polls, ends = frames.fetch_long_polls(data, pos + 4, here)
                    meters = _without_polls(meters) if polls else meters
            except Malformed as error:
                if isinstance(error, Short) and here < stop and here - pos < HELD_BYTES_MAX:
                    return None
                ends = here  # it is none: Exchange, or the broker, refuses it
                sure = False
            like = Like(meters, _holds(meters) if answered else None, ends - pos, data[pos + 12 : ends])
            if not sure:
                return like
        self._likes[key_version] = like
        return like

    def _enter(self, key_version: int) -> Entry:
        """Find out what counts requests of an API."""
        key, version = key_version >> 16, key_version & 0xFFFF
        if key in HEARTBEATS and not self._admission.grouped:
            self._group()
        meters = self._bound.meters(key)
        if key in self.ANSWERED_HERE:
            meters = _without_holds(meters)
        elif key in LONG_POLLS:
            meters = _without_polls(meters)
        reads = _ALIKE
        if _holds(meters) or key_version in self._takers:
            self._takers.add(key_version)
            if key == _PRODUCE:
                reads = _BY_ACKS
            elif key == _FETCH and _without_polls(meters) != meters:
                reads = _BY_WAIT
        outs = tuple(meter for meter in meters if isinstance(meter, AnswerBucket | AnswerWindow))
        self._each_answer |= bool(outs)
        refusable = Refusable.USUAL if quota.refusable(key, version) else Refusable.NOT
        if key == _PRODUCE:
            refusable = Refusable.PRODUCE
        entry = Entry(meters, reads, outs, refusable, bool(meters) and throttle.carries(key, version))
        self._entries[key_version] = entry
        return entry

    def _introduce(self, request: bytes, *, whole: bool) -> bool:
        """Learn the client id from the first request, and with it which limits apply.

        False: it is not all here, or one of them refuses the connection, or has yet to ask others (``waits``).
        """
        try:
            name = frames.client_id(request, 4) or ""
        except Malformed as error:
            if isinstance(error, Short) and not whole:
                return False
            name = ""  # and Exchange, or the broker, refuses it
        now = self._clock()
        client = self._admission.client._replace(client_id=name)
        if self._limits.unsure(client, now, early=False):
            self._admission.wake_at = now + LOOK_SECONDS
            self.waits = True
            return False
        self._admission.client = client
        self.refused_by, doors = self._limits.knock(client, now, early=False)
        self._bound.entries += doors.entries
        if self.refused_by is not None:
            self.waits = True
            return False
        self._bound.entries += self._limits.enter(client, now).entries
        self._introduced = True
        return True

    # What must wait, or worse.

    def _hold(self, data: bytes, start: int, pos: int) -> bytes:
        """Forward all from ``start`` to ``pos``, and hold the rest."""
        out = self._let_through(data[start:pos]) if pos > start else b""
        self._gate_left = 0
        self.waits = True
        self._keep(data[pos:])
        return out

    def _keep(self, data: bytes) -> None:
        """Put ``data`` behind what is held; nothing waits for long that has a heartbeat behind it."""
        if self.refused_by is not None:
            return
        self._held_seen = self._held_seen if self._held else 0
        held = self._held = self._held + data
        if self._admission.grouped:
            return
        pos = self._held_seen
        while pos + HEAD_BYTES <= len(held):
            size, key_version = HEAD(held, pos)
            if key_version >> 16 in HEARTBEATS:
                self._group()
                return
            if size < REQUEST_BYTES_MIN:
                return
            pos += 4 + size
        self._held_seen = pos

    def _group(self) -> None:
        """It carries heartbeats, now or soon."""
        soon = self._clock() + HEARTBEAT_WAIT_SECONDS
        self._admission.hurry(soon)
        self.muted_until = min(self.muted_until, soon)

    def _one_by_one(self, data: bytes, pos: int, now: float) -> bytes:
        """Admit requests from ``pos`` on, until one must wait; see ``from_client``."""
        admission = self._admission
        end = len(data)
        out: list[bytes] = []
        start = 0  # what lies before it has been dealt with
        while pos + HEAD_BYTES <= end:
            if self._stale:
                self._follow()
            size, key_version = HEAD(data, pos)
            if size < REQUEST_BYTES_MIN or size > self._request_bytes_max:
                return self._pass_garbage(data[start:])
            like = self._like(key_version, data, pos, size)
            if like is None:
                break
            stop = pos + 4 + size
            refusable = self._refusable(key_version, data, pos, stop)
            limit = admission.refusal(like.meters, refusable, now)
            if limit is None:
                if not admission.passes(like.meters, refusable, stop - pos, now):
                    out.append(self._hold(data, start, pos))
                    return b"".join(out)
                if like.holds is not None:
                    self._track(like.holds, 1)
                owes = admission.owes(now)
                admission.forget()
            else:
                if limit.rule.action is Action.REJECT and stop > end:
                    break
                if pos > start:
                    out.append(self._let_through(data[start:pos]))
                if limit.rule.action is Action.CLOSE:
                    admission.refused(limit, like.meters, now)
                    self.refused_by = limit
                    self.waits = True
                    return b"".join(out)
                if not self.settled:
                    admission.wake_at = now + SETTLING_SECONDS
                    out.append(self._hold(data, pos, pos))
                    return b"".join(out)
                owes = self._refuse(limit, like.meters, data[pos:stop], now)
                start = stop
            pos = stop
            if owes:
                self.muted_until = now + owes
                if pos < end:
                    out.append(self._hold(data, start, pos))
                    return b"".join(out)
        out.append(self._pass(data, start, pos))
        return b"".join(out)

    def _refusable(self, key_version: int, data: bytes, pos: int, stop: int) -> Refusable:
        """Whether a refusal of the request at ``pos`` would be an answer, and one that its client understands."""
        entry = self._entries.get(key_version)
        if entry is None or stop - pos > REFUSED_REQUEST_BYTES_MAX:
            return Refusable.NOT
        if entry.refusable is not Refusable.PRODUCE:
            return entry.refusable
        try:
            acks = frames.produce_acks(data, pos + 4, min(stop, len(data)))
        except Malformed as error:  # more of it is to come first, or it is none
            return Refusable.PRODUCE if isinstance(error, Short) and stop > len(data) else Refusable.NOT
        return Refusable.PRODUCE if acks else Refusable.NOT

    def _refuse(self, limit: Limit, meters: tuple[Meter, ...], request: bytes, now: float) -> float:
        """Answer a request, which is whole; return for how many seconds its client has been told to wait."""
        _, key_version = HEAD(request)
        key, version = key_version >> 16, key_version & 0xFFFF
        body = request[frames.request_body_at(request, 4, len(request)) :]
        owes = self._admission.refused(limit, meters, now)
        told = 0 if self._admission.grouped else ceil(owes * 1000)
        refuse = quota.refuse_produce if key == _PRODUCE else partial(quota.refuse, key)
        self.reply(frames.response(_SIZE(request, 8)[0], key, version, refuse(version, body, told)))
        self._counts[key_version] += 1
        self._moved += 1
        return owes


def _holds(meters: tuple[Meter, ...]) -> tuple[Hold, ...]:
    return tuple(meter for meter in meters if isinstance(meter, Hold))


def _without_holds(meters: tuple[Meter, ...]) -> tuple[Meter, ...]:
    return tuple(meter for meter in meters if not isinstance(meter, Hold))


def _without_polls(meters: tuple[Meter, ...]) -> tuple[Meter, ...]:
    """Leave out the slots that long polls do not take."""
    return tuple(meter for meter in meters if not isinstance(meter, Hold) or meter.limit.count_long_polls)


class MeteredExchange(Metered):
    """One client connection under limits, with one broker behind it."""


class MeteredRoutedExchange(Metered, RoutedExchange):
    """One client connection under limits, with every broker behind it."""

    ANSWERED_HERE = ANSWERED_HERE
