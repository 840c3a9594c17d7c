"""A client connection that has every broker behind it: ``addressing: single``.

An Exchange whose requests say where they go. At any time one broker, the *lane*, has requests to answer, so that
ordinals and the order of answers are those of a plain Exchange; a request for another broker waits at a frame boundary
until the lane owes nothing, and then the lane turns. That costs nothing where clients keep a connection per broker, as
all but kafkajs do, and elsewhere a request waits for the one before it, as it would at a broker, which serves the
requests of a connection one at a time.

``pending`` says what must happen before the withheld requests can go on; the shell does it and calls ``proceed``:

- Turn: wait until ``quiet``.
- Reach: connect to the broker and say so by ``reached``, or find out that another leads by now.
- Lookup: find out where a route leads (net.finder), or give up: then any broker refuses in proper form.
- FanOut: ask every broker, hand the bodies to ``join``.

So nothing is taken for a broker that is not connected: where one is gone, each request that waits for it finds its own
new leader. The shell tells what became of connections: ``reached``, ``lost``, and ``abandon``, once the client is gone.

A connection's next request nearly always begins with the same bytes as its last of that API: the same topic, group or
Fetch session. Then it goes to the same place without another look (``_memos``).
"""

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from kproxy.core.directory import Directory
from kproxy.core.exchange import (
    API_VERSIONS_OR_SASL,
    HEAD,
    HEAD_BYTES,
    PRODUCE_VERSION_MAX,
    REFUSED,
    REQUEST_BYTES_MIN,
    Awaited,
    Exchange,
    Front,
)
from kproxy.core.offer import Kind
from kproxy.core.rewrite import COLLECTED_BYTES_MAX, Advertise, Collected, MetadataHead, ShareFetchAnswer, Sink
from kproxy.errors import FrameTooLarge, Malformed, Short
from kproxy.wire import answers, frames
from kproxy.wire.apis import APIS, ApiKey
from kproxy.wire.cluster import (
    parse_find_coordinator_request,
    parse_find_coordinator_response,
    parse_metadata_response,
)
from kproxy.wire.endpoints import splice, splice_metadata
from kproxy.wire.leaders import produce_leaders
from kproxy.wire.primitives import INT32
from kproxy.wire.routing import Route, Target, blank_fetch_rack, route

_SIZE = INT32.unpack_from

WHOLE_BYTES_MAX = 1024 * 1024
"""The longest request that is held whole because something at its end is needed: a Fetch of 40,000 partitions."""

POLICY_VIOLATION = 44
"""What DescribeLogDirs and AlterReplicaLogDirs get: one address cannot say which broker's disks are meant."""

_LOG_DIRS = frozenset({int(ApiKey.DESCRIBE_LOG_DIRS), int(ApiKey.ALTER_REPLICA_LOG_DIRS)})
_ALL = frozenset({int(ApiKey.LIST_GROUPS), int(ApiKey.LIST_TRANSACTIONS)})
ANSWERED_HERE = _ALL | _LOG_DIRS
"""What no broker of the connection's is asked."""

_PRODUCE_KEY = int(ApiKey.PRODUCE)
_FETCH = int(ApiKey.FETCH)
_FIND_COORDINATOR = int(ApiKey.FIND_COORDINATOR)

_PRODUCE = int(Kind.PRODUCE)
_PRODUCE_REWRITTEN = int(Kind.PRODUCE_REWRITTEN)
_SHARE = int(Kind.SHARE)


@dataclass(frozen=True, slots=True)
class Turn:
    """The next request is for another broker: ``proceed`` once ``quiet``."""


@dataclass(frozen=True, slots=True)
class Reach:
    """The next request's broker is not connected: connect, ``reached``, then ``proceed``.

    Or, where a look-up says that the route leads to another by now, just ``proceed``. ``node_id`` None: to any broker.
    """

    node_id: int | None
    route: Route


@dataclass(frozen=True, slots=True)
class Lookup:
    """The next request's broker is not known: look it up, then ``proceed``."""

    route: Route


@dataclass(frozen=True, slots=True)
class FanOut:
    """Every broker must be asked this; then ``join`` and ``proceed``."""

    key: int
    version: int
    correlation_id: int
    body: bytes


Pending = Turn | Reach | Lookup | FanOut

_NO_ANSWER, _ANSWERED, _AWAITED = 0, 1, 2


class _Memo(NamedTuple):
    beginning: bytes  # what followed the correlation id, up to what decided
    ends: int  # where that ended, from the frame's first byte
    node_id: int | None  # None: any
    answer: int  # whether there will be one, and whether it must be seen


class RoutedExchange(Exchange):
    """One client connection before a whole cluster. See the module for how to use it."""

    __slots__ = (
        "_abandoned",
        "_asked_coordinators",
        "_directory",
        "_epoch",
        "_give_up",
        "_memos",
        "_open",
        "_racked",
        "_share_lane",
        "_sticky_lane",
        "lane",
        "log_dirs_refused",
        "pending",
    )

    _ahead = False
    """Something that was returned to a subclass has not been sent yet, so that the lane must not turn (see guarded)."""

    def __init__(self, front: Front, advertise: Advertise, directory: Directory) -> None:
        """Begin with no lane."""
        super().__init__(front, advertise)
        self._directory = directory
        self._epoch = directory.epoch
        self._memos: dict[int, _Memo] = {}
        self._open: set[int] = set()
        self._asked_coordinators: deque[tuple[int, list[str]]] = deque()
        self._give_up = False
        self._abandoned = False
        self._racked: bool | None = None  # whether this client's Fetches name a rack; None: not seen yet
        self._share_lane: int | None = None
        self._sticky_lane: int | None = None
        self.lane: int | None = None
        """The broker that bytes are for, which is connected; None: there is none yet, or it was lost."""
        self.pending: Pending | None = None
        self.log_dirs_refused = False
        """The client asked for log directories; the shell tells the operator why it was refused."""

    @property
    def settled(self) -> bool:
        """See Exchange; neither does a request wait for its broker."""
        return self.pending is None and super().settled

    @property
    def quiet(self) -> bool:
        """The lane owes nothing, not even the rest of an answer; or what it owes is for nobody."""
        return self._abandoned or (self.outstanding == 0 and not self._tail)

    @property
    def tied_to_lane(self) -> int | None:
        """The broker that holds this client's share session, which ends with that connection (KIP-932)."""
        return self._share_lane

    def reached(self, node_id: int) -> None:
        """A broker is connected, and the lane is its."""
        self._open.add(node_id)
        self.lane = node_id

    def lost(self, node_id: int) -> None:
        """A broker's connection ended while it owed nothing."""
        self._open.discard(node_id)
        if self._sticky_lane == node_id:
            self._sticky_lane = None
        if self.lane == node_id:
            self.lane = None
            self._memos.clear()

    def abandon(self) -> None:
        """The client is gone: no broker is connected now, and those that will be owe answers to nobody.

        What it sent still goes where it must, as long as the shell calls ``proceed``.
        """
        self._abandoned = True
        self._open.clear()
        self.lane = None
        self._memos.clear()

    def forsake(self) -> bytes:
        """Drop what is pending and what waits for it, and return that: its broker cannot be reached at all."""
        self.pending = None
        withheld = b"".join(self._withheld)
        self._withheld.clear()
        return withheld

    def proceed(self, *, give_up: bool = False) -> bytes:
        """Go on with what was withheld; returns and raises as ``from_client``.

        ``give_up``: the first request goes to any broker, as nobody knows the right one.
        """
        self.pending = None
        self._give_up |= give_up
        if self._holding:
            return b""
        withheld = b"".join(self._withheld)
        self._withheld.clear()
        return self._forward(withheld) if withheld else b""

    def send_away(self) -> None:
        """See Exchange; and what is like the last request is looked at again."""
        super().send_away()
        self._memos.clear()

    def expire(self) -> None:
        """See Exchange; and what is like the last request is looked at again."""
        super().expire()
        self._memos.clear()

    def unhold(self, reason: int) -> bytes:
        """See Exchange. What was withheld may be for another lane, so it is pending then; see ``proceed``."""
        self._holding &= ~reason
        if not self._holding and self._withheld and self.pending is None:
            self.pending = Turn()
        return b""

    def join(self, fan_out: FanOut, bodies: list[bytes]) -> None:
        """Answer a FanOut with what the brokers said."""
        join = answers.join_list_groups if fan_out.key == ApiKey.LIST_GROUPS else answers.join_list_transactions
        body = self._shown(fan_out.key, fan_out.version, join(fan_out.version, bodies))
        self.reply(frames.response(fan_out.correlation_id, fan_out.key, fan_out.version, body))

    # Client to broker.

    def from_client(self, data: bytes) -> bytes:
        """Take what the client sent; return what the lane gets now. Look at ``replies`` and ``pending`` afterwards.

        Raises as Exchange.from_client.
        """
        waits = self.pending is not None
        if waits or self._holding:
            self._moved += 1
            return self._up_to_boundary(data)
        if self._request_head:
            data = self._request_head + data
            self._request_head = b""
        end = len(data)
        pos = self._request_left
        if pos >= end:
            self._request_left = pos - end
            return data
        self._request_left = 0
        memos = self._memos
        if self._epoch != self._directory.epoch:
            self._epoch = self._directory.epoch
            memos.clear()
        lane = self.lane
        counts = self._counts
        biggest = self._request_bytes_max
        start = 0  # what lies before it has been dealt with
        pieces: list[bytes] = []
        like = -1  # the API and version of the requests just seen, alike, of which ``many`` are not counted yet
        many = ends = answer = 0
        beginning = b""
        while pos + HEAD_BYTES <= end:
            size, key_version = HEAD(data, pos)
            if size < REQUEST_BYTES_MIN or size > biggest:
                self._refuse_size(size)
            if key_version == like and data[pos + 12 : pos + ends] == beginning and ends <= size + 4:
                many += 1
                pos += 4 + size
                continue
            if many:
                self.asked = self._count(like, many, self.asked, answer)
                many = 0
            memo = memos.get(key_version)
            if memo is not None:
                beginning, ends, node_id, answer = memo
                if (
                    (node_id is None or node_id == lane)
                    and data[pos + 12 : pos + ends] == beginning
                    and ends <= size + 4
                ):
                    # As the last one of this API: nothing more of it is read.
                    if answer != _AWAITED or key_version <= PRODUCE_VERSION_MAX:
                        like = key_version
                        many = 1
                        pos += 4 + size
                        continue
                    if pos + 12 > end:
                        break
                    like = -1
                    counts[key_version] += 1
                    self.asked += 1
                    if self.ledger is not None:
                        self._note(key_version, 1)
                    self._await_answer(key_version, data, pos)
                    pos += 4 + size
                    continue
            like = -1
            taken = self._take(key_version, data, pos, pos + 4 + size, pos > start or bool(pieces) or self._ahead)
            if taken is None:
                break
            if taken is not data:
                pieces += (data[start:pos], taken)
                start = pos + 4 + size
            lane = self.lane
            pos += 4 + size
            if self.pending is not None or self._holding:
                break
        if many:
            if like > PRODUCE_VERSION_MAX:
                self.asked += many
                counts[like] += many
                if self.ledger is not None:
                    self._note(like, many)
            else:
                self.asked = self._count(like, many, self.asked, answer)
        if self.pending is not None or self._holding:
            if pos < end:
                self._withheld.append(data[pos:])
        elif pos < end:
            self._keep_head(data[pos:], WHOLE_BYTES_MAX)
        else:
            self._request_left = pos - end
            pos = end
        if not pieces:
            return data if pos >= end else data[:pos]
        pieces.append(data[start:pos])
        return b"".join(pieces)

    _forward = from_client
    _let_through = from_client

    def _let_alike_through(self, data: bytes, key_version: int, many: int, beginning: bytes) -> bytes:  # noqa: ARG002
        """See Exchange; what is alike to limits may still be for several brokers, so that only one is looked at."""
        memo = self._memos.get(key_version)
        if (
            memo is None
            or many > 1
            or self.pending is not None
            or self._holding
            or self._request_head
            or self._epoch != self._directory.epoch
        ):
            return RoutedExchange.from_client(self, data)
        known, ends, node_id, answer = memo
        if (
            (node_id is not None and node_id != self.lane)
            or data[12:ends] != known
            or (answer == _AWAITED and key_version > PRODUCE_VERSION_MAX)
        ):
            return RoutedExchange.from_client(self, data)
        self.asked = self._count(key_version, 1, self.asked, answer)
        return data

    def _take(self, key_version: int, data: bytes, pos: int, stop: int, behind: bool) -> bytes | None:
        """Handle the request at ``pos`` that is not like the last one of its API; ``behind``: others go before it.

        Returns ``data`` itself where it is forwarded as it is, what is forwarded instead of it (nothing for requests
        that kproxy answers), or None where it has to wait, for more bytes or for what ``pending`` says.
        """
        key, version = key_version >> 16, key_version & 0xFFFF
        kind = self._kinds.get(key_version, REFUSED)
        whole = stop <= len(data)
        if kind >= API_VERSIONS_OR_SASL or key in _ALL or key in _LOG_DIRS:
            if kind == REFUSED and key != ApiKey.API_VERSIONS:
                self._refuse_api(key, version)
            if stop - pos > WHOLE_BYTES_MAX:
                raise FrameTooLarge(f"{APIS[key].name} request of {stop - pos} bytes")
            if not whole:
                return None
            if kind < API_VERSIONS_OR_SASL:
                self._counts[key_version] += 1
            if key in _ALL:
                self._fan_out(key, version, data, pos + 4, stop)
            elif key in _LOG_DIRS:
                self._refuse_log_dirs(key, version, data, pos + 4, stop)
            else:
                self._answer_here(key, version, data, pos + 4, stop)
                self._memos.clear()  # what is offered may have changed
            return b""
        here = stop if whole else len(data)
        if pos + 12 > here:
            return None
        if not whole and self._to_the_end(key, version):
            if stop - pos <= WHOLE_BYTES_MAX:
                return None
            if key == _FIND_COORDINATOR:
                raise FrameTooLarge(f"FindCoordinator request of {stop - pos} bytes")
        try:
            memo, found = self._look(kind, key_version, data, pos, here)
        except Short:
            if whole:
                raise Malformed(f"{APIS[key].name} request ends too early") from None
            return None
        if memo is None:
            return None
        if self.lane is None or (memo.node_id is not None and memo.node_id != self.lane):
            if behind or not self.quiet:
                self.pending = Turn()
                return None
            if memo.node_id not in self._open:
                self.pending = Reach(memo.node_id, found)
                return None
            self.lane = memo.node_id
        self._give_up = False
        # The next request that begins like this one must need nothing but what is in the memo.
        told = found.target is Target.ANY or (memo.node_id is not None and found.target is not Target.STICKY)
        if told and kind != _SHARE and not self._to_the_end(key, version):
            self._memos[key_version] = memo
        self._counts[key_version] += 1
        if memo.answer:
            self.asked += 1
            if self.ledger is not None:
                self._note(key_version, 1)
            if memo.answer == _AWAITED:
                self._await_answer(key_version, data, pos)
        if kind == _SHARE:
            self.tied = True
            self._share_lane = self.lane
        elif found.target is Target.STICKY:
            self._sticky_lane = self.lane
        if key == _FIND_COORDINATOR:
            body = data[frames.request_body_at(data, pos + 4, stop) : stop]
            self._asked_coordinators.append(parse_find_coordinator_request(version, body))
        if key == _FETCH and version >= 11 and self._racked is not False and whole:
            return self._without_rack(version, data, pos, stop)
        return data

    def _to_the_end(self, key: int, version: int) -> bool:
        """Whether something at the end of such a request is needed."""
        return key == _FIND_COORDINATOR or (key == _FETCH and version >= 11 and self._racked is not False)

    def _without_rack(self, version: int, data: bytes, pos: int, stop: int) -> bytes:
        """Blank the rack of a Fetch; a client that names none in its first names none later (client.rack)."""
        frame = data[pos:stop]
        blanked = blank_fetch_rack(version, frame)
        self._racked = blanked is not frame
        return blanked if self._racked else data

    def _await_answer(self, key_version: int, data: bytes, pos: int) -> None:
        if key_version >> 16 == _PRODUCE_KEY:
            run = self._run
            if run is not None and run.last == self.asked - 1 and run.version == key_version:
                run.last = self.asked
            else:
                self.await_produce(self.asked, self.asked, key_version)
            return
        self._await(Awaited(self.asked, _SIZE(data, pos + 8)[0], key_version >> 16, key_version & 0xFFFF))

    def _look(self, kind: int, key_version: int, data: bytes, pos: int, here: int) -> tuple[_Memo | None, Route]:
        """Tell where the request at ``pos`` goes; no memo: ``pending`` says what is missing."""
        key, version = key_version >> 16, key_version & 0xFFFF
        answer = _AWAITED if kind and kind != _PRODUCE else _ANSWERED
        if _PRODUCE <= kind <= _PRODUCE_REWRITTEN and frames.produce_acks(data, pos + 4, here) == 0:
            answer = _NO_ANSWER
        found = route(key, version, data, pos + 4, here)
        target = found.target
        node_id: int | None = None
        if target is Target.SHARE_SESSION:
            node_id = self._share_lane
        elif target is Target.STICKY:
            node_id = self._sticky_lane
        elif target is not Target.ANY:
            node_id = self._directory.find(found)
            if target is Target.NODE and self._give_up:
                node_id = None
            if node_id is None and target is not Target.FETCH_SESSION and not self._give_up:
                self.pending = Lookup(found)
                return None, found
        if key == _FETCH and version >= 7:
            unknown = target is Target.FETCH_SESSION and node_id is None
            answer = _AWAITED if unknown or _makes_session(version, data, pos, here) else _ANSWERED
        memo = _Memo(data[pos + 12 : found.end], max(found.end - pos, 12), node_id, answer)
        return memo, found

    def _fan_out(self, key: int, version: int, data: bytes, pos: int, stop: int) -> None:
        body = data[frames.request_body_at(data, pos, stop) : stop]
        self.pending = FanOut(key, version, _SIZE(data, pos + 4)[0], body)

    def _refuse_log_dirs(self, key: int, version: int, data: bytes, pos: int, stop: int) -> None:
        request = data[frames.request_body_at(data, pos, stop) : stop]
        body = answers.refuse_log_dirs(key, version, request, POLICY_VIOLATION)
        self.log_dirs_refused = True
        self.reply(frames.response(_SIZE(data, pos + 4)[0], key, version, body))

    # Broker to client.

    def _make_sink(self, awaited: Awaited, frame_bytes: int) -> Sink:
        if awaited.key == ApiKey.METADATA and frame_bytes > COLLECTED_BYTES_MAX:
            return MetadataHead(frame_bytes, awaited.version, self._advertise, blank_racks=True)
        if awaited.key == ApiKey.SHARE_FETCH:
            return ShareFetchAnswer(frame_bytes, awaited.version)
        if awaited.key == _FETCH:
            return _FetchHead(frame_bytes, self, awaited.version)
        return Collected(frame_bytes, lambda frame: self._changed(awaited, frame))

    def _changed(self, awaited: Awaited, frame: bytes) -> bytes:
        """See Exchange; and learn from it."""
        key, version, own = awaited.key, awaited.version, awaited.own
        if own is not None or key == ApiKey.CONSUMER_GROUP_HEARTBEAT:
            return super()._changed(awaited, frame)
        body_at = frames.response_body_at(frame, 4, key, version)
        if key == _FETCH:
            self._learn_session(frame, body_at)
            return frame
        body = frame[body_at:]
        if key == ApiKey.METADATA:
            self._directory.learn_topics(parse_metadata_response(version, body).topics)
            # As with a broker of one's own (MetadataHead): what lies behind the topics is let be.
            head, pos = splice_metadata(version, body, 0, self._advertise, blank_racks=True)
            return b"".join((INT32.pack(body_at - 4 + len(head) + len(body) - pos), frame[4:body_at], head, body[pos:]))
        if key == _FIND_COORDINATOR:
            key_type, asked = self._asked_coordinators.popleft()
            self._directory.learn_coordinators(key_type, asked, parse_find_coordinator_response(version, body))
        spliced = splice(key, version, body, self._advertise, blank_racks=True)
        if spliced is body:
            return frame
        if key == _PRODUCE_KEY:  # brokers are only named there where a leader is another now (KIP-951)
            self._directory.learn_leaders(produce_leaders(version, body))
        return b"".join((INT32.pack(body_at - 4 + len(spliced)), frame[4:body_at], spliced))

    def _learn_session(self, data: bytes, body_at: int) -> None:
        session_id = _SIZE(data, body_at + 6)[0] if body_at + 10 <= len(data) else 0  # throttle, error, session id
        if session_id and self.lane is not None:
            self._directory.learn_session(session_id, self.lane)


def _makes_session(version: int, data: bytes, pos: int, here: int) -> bool:
    """Whether a Fetch without a session asks for one: its epoch is 0 then, and -1 where none is wanted (KIP-227)."""
    epoch_at = frames.request_body_at(data, pos + 4, here) + (17 if version >= 15 else 21)
    return epoch_at + 4 <= here and _SIZE(data, epoch_at)[0] == 0


class _FetchHead:
    """Read the session id of a Fetch answer; all of it passes unchanged."""

    left = 0

    def __init__(self, frame_bytes: int, exchange: RoutedExchange, version: int) -> None:
        self._frame_bytes = frame_bytes
        self._exchange = exchange
        self._version = version
        self._held = b""

    @property
    def missing(self) -> int:
        """See Sink."""
        return self._frame_bytes - len(self._held)

    def feed(self, data: bytes, pos: int) -> tuple[bytes, int, bool]:
        """See Sink."""
        end = min(len(data), pos + self._frame_bytes - len(self._held))
        held = self._held + data[pos:end]
        try:
            body_at = frames.response_body_at(held, 4, _FETCH, self._version)
            if len(held) < min(body_at + 10, self._frame_bytes):
                raise Short("Fetch answer")  # noqa: TRY301  one place that waits for more
        except Short:
            if len(held) == self._frame_bytes or len(held) > WHOLE_BYTES_MAX:
                raise Malformed("Fetch answer's header") from None
            self._held = held
            return b"", end, False
        self._exchange._learn_session(held, body_at)  # noqa: SLF001  its own helper
        self.left = self._frame_bytes - len(held)
        self._held = b""
        return held, end, True
