"""A client connection whose requests are held against rules: Exchange, with a guard before it.

Requests that are allowed pass unchanged, and what is needed to know that is remembered: how the last one of an API
began, and which topics are allowed. One that is denied is answered here, in its place, and never reaches the broker;
one that is denied in part goes on without that, which is put into the answer. Topics t and secret, in one Produce::

    client -> broker   [Produce 7: t, secret]   ->   [Produce 7: t]
    broker -> client   [7: t 0]                 ->   [7: secret TOPIC_AUTHORIZATION_FAILED, t 0]

It stands behind Metered: what is denied is charged to limits, too, and gives its slots back at once (``_spare``).
Behind it is the Exchange, which sees nothing but requests that go to the broker. One that the guard changes or answers
goes alone, and only when all before it has gone: while the Exchange holds requests back, the guard holds what follows.

The answer to a Metadata request is held whole: it is filtered, and teaches the names of topics by id. A Fetch session
(KIP-227) is remembered with what was denied in it, which every answer repeats, as a broker's would; a session that was
not made on this connection is not found, as it could hold partitions that its user may not read.

Never here: a socket, a clock; records, which are stepped over. A Produce or Fetch of one topic takes 1.1 to 1.7 us more
than without rules, 0.6 us per topic where it names several, 0.3 us where no rule can matter (CPython 3.11).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from kproxy.core.access import Operation, Permissions, Resource
from kproxy.core.decision import unconditional
from kproxy.core.exchange import (
    API_VERSIONS_OR_SASL,
    HEAD,
    HEAD_BYTES,
    HELD_BYTES_MAX,
    REFUSED,
    REQUEST_BYTES_MIN,
)
from kproxy.core.guardedanswers import GuardedAnswers
from kproxy.core.metered import Metered
from kproxy.core.routed import ANSWERED_HERE, RoutedExchange, Turn
from kproxy.core.verdicts import Asked, Found, judge
from kproxy.errors import FrameTooLarge, Malformed, Short
from kproxy.wire import frames, shapes
from kproxy.wire.apis import APIS, ApiKey
from kproxy.wire.primitives import UUID_BYTES, compact_string, skip, string
from kproxy.wire.topicnames import topic_names

WHOLE_BYTES_MAX = 16 * 1024 * 1024
"""The longest request that is held whole: a Produce or Fetch of several topics, or one that is denied. Java's producers
send 1 MiB at most (max.request.size); what is allowed and names one topic is not held, however long it is."""

TOPICS_MAX = 10_000
"""How many topics are remembered as allowed, per API and version."""

_ENDLESS = 1 << 62
_NEW_SESSION = bytes(4)  # as an epoch

_PRODUCE, _FETCH = int(ApiKey.PRODUCE), int(ApiKey.FETCH)
_BY_BEGINNING = frozenset({_PRODUCE, _FETCH})

# How topics follow what begins a request: not at all, or by name, compact name or id.
_DECIDED, _PLAIN, _COMPACT, _IDS = range(4)


class _Memo(NamedTuple):
    """How the last request of an API and version began that was allowed."""

    ends: int
    """Where the beginning ends, from the frame's first byte; 0: whatever it holds is allowed."""
    beginning: bytes
    """What follows the correlation id up to there."""
    topics: int
    """How topics follow."""
    gap: int
    """Bytes before them that change: a Fetch session's epoch."""
    allowed: set[bytes]
    """Topics that are, by name or id, whichever this version has."""
    api: tuple[int, int] = (-1, -1)
    """Key and version, where topics follow."""


_ANYTHING = _Memo(0, b"", _DECIDED, 0, set())


class Guarded(GuardedAnswers):
    """See the module. ``guard`` comes first."""

    ANSWERED_HERE: frozenset[int] = frozenset()
    """APIs that kproxy answers by itself (see routed)."""

    def guard(self, permissions: Permissions, close: Callable[[], None]) -> None:
        """Come under rules. ``close`` is called when the connection must end, from within ``from_client``.

        That is for a Produce with acks=0 whose topics are denied: it gets no answer, and a broker closes, too. What is
        returned with it still goes to the broker.
        """
        self._begin_answers_of(permissions)
        self._close = close
        self._guard_waits = False  # something is held, or all is dropped: of the next three, one at most
        self._closing = False
        self._begun: dict[int, _Memo] = {}  # by API and version
        self._guard_left = 0  # bytes of the request under way that are still to come
        self._guard_parts: list[bytes] = []  # a request's beginning that cannot be told yet
        self._guard_has = self._guard_wants = 0  # how many bytes that is, and how many are needed to tell
        self._guard_held = b""  # what waits for the exchange to take requests again, from a frame boundary on
        self._found: Found | None = None

    def guard_by(self, permissions: Permissions) -> None:
        """Come under other rules, from the next request on; what is on its way goes by those before.

        Fetch sessions are no longer found, so that they are made anew: a topic in one of them may be denied now.
        """
        self._permit(permissions)
        self._begun.clear()

    # What the shell may ask.

    @property
    def settled(self) -> bool:
        """See Exchange."""
        return self._exchange_settled and not self._guard_held

    @property
    def idle(self) -> bool:
        """See Exchange."""
        return super().idle and not self._guard_parts and not self._guard_held

    @property
    def progress(self) -> tuple[int, ...]:
        """See Exchange."""
        return *super().progress, self._guard_has, len(self._guard_held)

    @property
    def _exchange_settled(self) -> bool:
        return super().settled and self._changed_request is None

    @property
    def _takes(self) -> bool:
        """Whether the exchange takes a request that goes alone."""
        return self._exchange_settled and not self._holding

    # Client to broker.

    def from_client(self, data: bytes) -> bytes:
        """See Exchange."""
        if self._guard_waits:
            data = self._wait_for(data)
            if not data:
                return b""
        end = len(data)
        pos = self._guard_left
        if pos >= end:
            self._guard_left = pos - end
            return self._forward(data)
        self._guard_left = 0
        begun = self._begun
        biggest = self._request_bytes_max
        start = 0  # what lies before it has been dealt with
        out: list[bytes] = []
        while pos + HEAD_BYTES <= end:
            size, key_version = HEAD(data, pos)
            if size < REQUEST_BYTES_MIN or size > biggest:
                return self._guard_garbage(out, data[start:])
            memo = begun.get(key_version)
            if memo is not None and (not memo[0] or _is_like(memo, data, pos, size)):
                pos += 4 + size
                continue
            stop = pos + 4 + size
            # What has been found of a request that had to wait is told once.
            wants = self._guard_look(key_version, data, pos, stop) if self._found is None else 0
            if wants < 0:
                pos = stop
                continue
            if wants:
                return self._guard_keep(out, data, start, pos, wants)
            # Changed or answered, it goes alone.
            if pos > start:
                out.append(self._guard_pass(data[start:pos]))
            start = pos
            if self._takes:
                sent, ends = self._deal_with(data[pos:stop])
                out.append(sent)
                pos = start = stop
                if ends:
                    return self._let_go(out)
            if not self._takes:
                self._guard_waits = True
                self._guard_held = data[pos:]
                return self._let_go(out)
        if pos < end:
            return self._guard_keep(out, data, start, pos, HEAD_BYTES)
        self._guard_left = pos - end
        if not start and not out:
            return self._forward(data)
        if start < end:
            out.append(self._guard_pass(data[start:]))
        return self._let_go(out)

    _let_through = from_client
    """The same, whatever a subclass puts before it."""

    def _let_alike_through(self, data: bytes, key_version: int, many: int, beginning: bytes) -> bytes:  # noqa: ARG002
        """See Exchange; what is alike to limits may not be so to rules."""
        return Guarded.from_client(self, data)

    def unhold(self, reason: int) -> bytes:
        """See Exchange."""
        return self._go_on(super().unhold(reason))

    def _go_on(self, out: bytes) -> bytes:
        """Go on with what was held, behind ``out``, if the exchange takes it now."""
        self._ahead = bool(out)
        self._gone()
        if self._guard_waits and self._takes and not self._guard_parts and not self._closing:
            held, self._guard_held = self._guard_held, b""
            self._guard_waits = False
            if held:
                out += Guarded.from_client(self, held)
        self._ahead = False
        return out

    def _wait_for(self, data: bytes) -> bytes:
        """Keep what comes while something waits; return what to go on with, if it no longer does."""
        if self._guard_parts:
            self._guard_parts.append(data)
            self._guard_has += len(data)
            if self._guard_has < self._guard_wants:
                return b""
            data = b"".join(self._guard_parts)
            self._guard_parts.clear()
            self._guard_has = 0
            self._guard_waits = False
            return data
        if not self._closing:
            self._guard_held += data
        return b""

    def _guard_pass(self, data: bytes) -> bytes:
        out = self._forward(data)
        self._ahead = self._ahead or bool(out)
        return out

    def _let_go(self, out: list[bytes]) -> bytes:
        self._ahead = False
        return b"".join(out)

    def _guard_keep(self, out: list[bytes], data: bytes, start: int, pos: int, wants: int) -> bytes:
        """Pass all from ``start`` to ``pos``, and keep the beginning behind it until it has so many bytes."""
        head = data[pos:]
        if len(head) >= 4 and not REQUEST_BYTES_MIN <= int.from_bytes(head[:4]) <= self._request_bytes_max:
            return self._guard_garbage(out, data[start:])
        self._guard_parts.append(head)
        self._guard_has, self._guard_wants = len(head), wants
        self._guard_waits = True
        if pos > start:
            out.append(self._guard_pass(data[start:pos]))
        return self._let_go(out)

    def _guard_garbage(self, out: list[bytes], data: bytes) -> bytes:
        """Something in ``data`` is no request: forward all that comes, to be refused, now or once it is looked at."""
        self._guard_left = _ENDLESS
        out.append(self._guard_pass(data))
        return self._let_go(out)

    # What there is to know about a request.

    def _guard_look(self, key_version: int, data: bytes, pos: int, stop: int) -> int:
        """Hold the request at ``pos`` against the rules.

        Returns -1: it passes; 0: it goes alone, and ``_found`` says how; else how many bytes of it are needed to tell.
        """
        key, version = key_version >> 16, key_version & 0xFFFF
        if self._kinds.get(key_version, REFUSED) >= API_VERSIONS_OR_SASL:
            return -1  # answered or refused by the exchange
        access = self._permissions.access
        denied_api = key in access.denied_apis
        if not denied_api and unconditional(self._permissions, key):
            self._begun[key_version] = _ANYTHING
            return -1
        whole = stop <= len(data)
        if not denied_api and (key in _BY_BEGINNING):
            wants = self._by_beginning(key_version, data, pos, stop)
            if wants:
                return wants
        if not whole:
            if stop - pos <= WHOLE_BYTES_MAX:
                return stop - pos
            if access.dry_run:
                return -1
            raise FrameTooLarge(
                f"{APIS[key].name} request of {stop - pos} bytes, which access rules must read whole; the maximum is "
                f"{WHOLE_BYTES_MAX}"
            )
        body = data[frames.request_body_at(data, pos + 4, stop) : stop]
        shape = shapes.request(key, version)
        # As a broker does, let be what is behind it: librdkafka 2.16 asks for all topics with three bytes too many.
        values, _ = shapes.read(shape, body)
        self._found = judge(self, Asked(key, version, shape, values, body))
        if self._found is not None:
            return 0
        if not denied_api and not access.dry_run:
            self._remember(key_version, data, pos, stop, shape)
        return -1

    def _remember(self, key_version: int, data: bytes, pos: int, stop: int, shape: shapes.Shape) -> None:
        """Remember how an allowed request began, if nothing but a group or transactional id decides."""
        if any(field.kind in ("rows", "bare", "nullable") for field in shape.fields) and key_version >> 16 not in _FLAT:
            return
        last = max((index for index, field in enumerate(shape.fields) if field.name in _DECIDING), default=-1)
        if last < 0 or last + 1 == len(shape.fields):
            return
        body_at = frames.request_body_at(data, pos + 4, stop)
        _, ends = shapes.read(shape, data, body_at, until=shape.fields[last + 1].name)
        self._begun[key_version] = _Memo(ends - pos, data[pos + 12 : ends], _DECIDED, 0, set())

    def _by_beginning(self, key_version: int, data: bytes, pos: int, stop: int) -> int:
        """Look at what a Produce or Fetch of one topic, or none, begins with; 0: the whole of it is needed."""
        key, version = key_version >> 16, key_version & 0xFFFF
        here = min(stop, len(data), pos + HELD_BYTES_MAX)
        head = data[pos:here]
        shape = shapes.request(key, version)
        topic = shape.of("topics")
        try:
            values, at = shapes.read(shape, head, frames.request_body_at(head, 4, len(head)), until="topics")
            many, first = shapes.count(shape, head, at)
            raw: Sequence[bytes] = ()
            if many == 1:
                raw = (_first_topic(topic, head, first),)
            elif many > 1:
                if stop > len(data):
                    return 0
                raw = topic_names(key, version, data, pos + at, stop)
        except Short:
            return 0 if here == stop or len(head) >= HELD_BYTES_MAX else len(head) + 1
        permissions = self._permissions
        operation = Operation.READ
        gap = 0
        if key == _PRODUCE:
            operation = Operation.WRITE
            txn = values.get("txn")
            if txn is not None and not permissions.allows(operation, Resource.TXN, txn):
                return 0
        else:
            gap = self._session_gap(values)
            if gap < 0:
                return 0
        by_id = topic.has("id")
        whatever = permissions.always(operation, Resource.TOPIC)
        known = self._begun.get(key_version)
        allowed: set[bytes] = known.allowed if known is not None and len(known.allowed) < TOPICS_MAX else set()
        for each in raw:
            if not whatever and each not in allowed:
                name = permissions.access.names.find(each) if by_id else _text(each)
                if name is None or not permissions.allows(operation, Resource.TOPIC, name):
                    return 0
        allowed.update(raw)
        follows = _IDS if by_id else _COMPACT if shape.flexible else _PLAIN
        self._begun[key_version] = _Memo(at - gap, head[12 : at - gap], follows, gap, allowed, (key, version))
        return -1

    def _session_gap(self, values: shapes.Values) -> int:
        """Return how many bytes before a Fetch's topics change from one to the next; -1: it needs another look."""
        if values.get("replica_id", -1) >= 0:
            return -1
        session_id = values.get("session_id", 0)
        if session_id:
            usual = values["session_epoch"] > 0 and self._sessions.get(session_id) == {}
            return 4 if usual else -1
        return 0 if values.get("session_epoch", -1) < 0 else -1

    # What goes alone.

    def _deal_with(self, frame: bytes) -> tuple[bytes, bool]:
        """Answer the request that ``_found`` is about, or send it changed; tell whether it is the last."""
        found = self._found
        assert found is not None  # noqa: S101  it said so
        self._found = None
        _, key_version = HEAD(frame)
        key, version = key_version >> 16, key_version & 0xFFFF
        correlation_id = int.from_bytes(frame[8:12], signed=True)
        body_at = frames.request_body_at(frame, 4, len(frame))
        if found.answer is not None:
            self._counts[key_version] += 1
            self._moved += 1
            self._spare(key_version)
            self.reply(frames.response(correlation_id, key, version, found.answer))
            return b"", False
        out = b""
        if found.body is not None:
            size = body_at - 4 + len(found.body)
            changed = b"".join((size.to_bytes(4), frame[4:body_at], found.body))
            out = self._send(changed, correlation_id, found.amendment)
        if found.closes:
            self._closing = self._guard_waits = True
            self._close()
        return out, found.closes


def _is_like(memo: _Memo, data: bytes, pos: int, size: int) -> bool:
    """Whether the request at ``pos`` begins as one that was allowed, and names allowed topics, one at most."""
    ends, beginning, topics, gap, allowed, api = memo
    at = pos + ends
    if data[pos + 12 : at] != beginning or ends > size + 4:
        return False
    if topics == _DECIDED:
        return True
    if gap:
        if data[at : at + 4] == _NEW_SESSION:
            return False
        at += gap
    stop = pos + 4 + size
    left = stop - at
    if left < 6 or at + 6 > len(data):
        return left > 0 and topics != _PLAIN and data[at : at + 1] == b"\1"
    if topics == _PLAIN:
        many = int.from_bytes(data[at : at + 4])
        name_at = at + 6
        name_bytes = data[at + 4] << 8 | data[at + 5]
    elif topics == _IDS:
        many = data[at] - 1
        name_at, name_bytes = at + 1, UUID_BYTES
    else:
        many = data[at] - 1
        name_at = at + 2
        name_bytes = data[at + 1] - 1 if data[at + 1] < 0x80 else -1  # a length of two bytes, or more
    if many == 1 and name_bytes >= 0:
        return name_at + name_bytes < stop and data[name_at : name_at + name_bytes] in allowed
    if many < 1 or stop > len(data):
        return many == 0
    try:
        return allowed.issuperset(topic_names(*api, data, at, stop))
    except Malformed:
        return False


def _first_topic(topic: shapes.Shape, head: bytes, at: int) -> bytes:
    """Return the first topic as it stands there, name or id."""
    if topic.has("id"):
        return head[at : skip(head, at, UUID_BYTES)]
    return (compact_string if topic.flexible else string)(head, at)[0].encode()


def _text(name: bytes) -> str | None:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None  # which the walk by shape refuses


_DECIDING = frozenset({"group", "txn"})
_FLAT = frozenset({int(ApiKey.JOIN_GROUP), int(ApiKey.SYNC_GROUP), int(ApiKey.LEAVE_GROUP)})
"""APIs with arrays that name no resource."""


class GuardedExchange(Guarded):
    """One client connection under rules, with one broker behind it."""


class _GuardedRouted(Guarded, RoutedExchange):
    """What rules and lanes need from each other."""

    ANSWERED_HERE = ANSWERED_HERE

    def unhold(self, reason: int) -> bytes:
        """See routed. What was held may be for another lane, too."""
        out = RoutedExchange.unhold(self, reason)
        if self._guard_held and self.pending is None and not self._holding:
            self.pending = Turn()
        return out

    def proceed(self, *, give_up: bool = False) -> bytes:
        """See routed."""
        return self._go_on(super().proceed(give_up=give_up))

    def saw_session(self, session_id: int) -> None:
        """See guardedanswers: it is the lane's."""
        if self.lane is not None:
            self._directory.learn_session(session_id, self.lane)

    def forsake(self) -> bytes:
        """See routed."""
        held, self._guard_held = self._guard_held, b""
        self._changed_request = self._found = None
        self._guard_waits = bool(self._guard_parts)
        return super().forsake() + held


class GuardedRoutedExchange(_GuardedRouted):
    """One client connection under rules, with every broker behind it."""


class GuardedMeteredExchange(Metered, Guarded):
    """One client connection under limits and rules, with one broker behind it."""


class GuardedMeteredRoutedExchange(Metered, _GuardedRouted):
    """One client connection under limits and rules, with every broker behind it."""

    ANSWERED_HERE = ANSWERED_HERE
