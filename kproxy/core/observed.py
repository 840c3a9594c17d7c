"""A client connection that is watched: how long its requests took, and what there is to tell of one now and then.

A mixin before an exchange of any kind, the outermost: what is timed begins with the read, before any limit. For
latencies the first request that begins in a read is *watched*, and where a limit holds something back, the first that
it holds; for the log, all that begin in it. An answer's ordinal names its request (see exchange); that it carries the
same correlation id is looked at as well, so that whatever else answers a request in between, none is taken for
another::

    client -> broker   [Fetch 7]    read at 10.000, let go at 10.250: 250 ms in kproxy
    broker -> client   [7]          began at 10.253: 3 ms upstream

For ``latencies`` one read of eight is looked at, for the request log one of ``1 / sample``, drawn by the dice; all
others cost a count down and a call. Of what is timed an error is counted, where the broker's answer has one as a whole.
What is told of a request is read from its first bytes, and its answer's. Who answered is told, too: what kproxy answers
by itself (ApiVersions, refusals) was never upstream, and Produce with acks=0 has no answer. A request that is let go in
the read that brought it has taken no time in kproxy.

Never here: a log, a file, a field's name; the clock and the dice are handed in.
"""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from math import log
from struct import Struct
from typing import NamedTuple

from kproxy.core.access import TopicNames
from kproxy.core.addresses import Network, within
from kproxy.core.exchange import API_VERSIONS_OR_SASL, HELD_BYTES_MAX, REFUSED, Exchange
from kproxy.core.latency import Latencies
from kproxy.core.limits import Client, among
from kproxy.core.routed import RoutedExchange
from kproxy.errors import ProtocolError
from kproxy.wire import frames
from kproxy.wire.apis import APIS, ApiKey
from kproxy.wire.apiversions import ClientSoftware
from kproxy.wire.outcome import UNSEEN, error_code, outcome
from kproxy.wire.primitives import INT16, INT32
from kproxy.wire.routing import route

WATCHED_MAX = 64
"""How many requests of a connection are watched at once, with 1 KiB each at most. Clients have five in flight
(max.in.flight.requests.per.connection); of one that has more, some are left out, and counted."""

TIMED_GAP_MAX = 15
"""One read of eight is timed: each is one to so many behind the last, by the dice, so that no client's own rhythm
shows. The time of every one would cost a tenth of what a small request costs; a histogram has the same shape by either.
"""

TEXT_CHARS_MAX = 256
"""How much of a client id is told. A topic's name has 249 (Topic.MAX_NAME_LENGTH), a client id 32,767 bytes."""

_HEAD = Struct(">iIi").unpack_from  # size; api_key and api_version as one number; correlation id
_HEAD_BYTES = 12
_SIZE = INT32.unpack_from

_PRODUCE, _FETCH = int(ApiKey.PRODUCE), int(ApiKey.FETCH)

_NEVER = 1 << 62


class Answerer(StrEnum):
    """Who answered a request."""

    BROKER = "broker"
    KPROXY = "kproxy"
    NOBODY = "nobody"
    """Produce with acks=0 asks for no answer."""
    LOST = "lost"
    """The connection ended before its answer came."""


class Observation(NamedTuple):
    """One request, and what became of it. None: there is no such thing, or it could not be seen. Times in seconds."""

    client: Client
    client_port: int
    software: ClientSoftware | None
    node_id: int | None
    key: int
    version: int
    correlation_id: int
    topic: str | None
    topic_id: bytes | None
    """Of the first topic of Produce and Fetch; of one that the request names by its id the name, where it is known."""
    request_bytes: int
    response_bytes: int | None
    """Both with their size prefix."""
    answered_by: Answerer
    error_code: int | None
    throttle_time_ms: int | None
    """What the client was told: by the broker or by a limit, whichever is more."""
    read_at: float
    """By the clock of the Watch."""
    kproxy_seconds: float
    upstream_seconds: float | None


@dataclass(frozen=True, slots=True)
class Picks:
    """Which requests are logged: of one read of ``1 / sample``, those that match. None in a match: any."""

    sample: float = 1.0
    apis: frozenset[int] | None = None
    principals: tuple[str, ...] | None = None
    client_ids: tuple[str, ...] | None = None
    client_ips: tuple[Network, ...] | None = None

    def of(self, client: Client) -> bool:
        """Whether a connection's requests may be meant, whatever their API and client id."""
        by_address = self.client_ips is None or within(client.client_ip, self.client_ips)
        return by_address and among(client.principal, self.principals)

    def gap(self, dice: Callable[[], float]) -> int:
        """Draw how many reads from here the next one is that is picked, 1 or more (geometric); ``dice``: [0, 1)."""
        if self.sample >= 1:
            return 1
        return 1 + int(log(1 - dice()) / log(1 - self.sample)) if self.sample > 0 else _NEVER


@dataclass(slots=True)
class Watch:
    """What the connections of one listener are watched for. ``clock`` tells seconds, ``dice`` from 0 to below 1."""

    clock: Callable[[], float]
    dice: Callable[[], float]
    latencies: Latencies | None = None
    log: Callable[[Observation], None] | None = None
    """Gets what was picked; it must neither raise nor take long."""
    picks: Picks = Picks()
    missed: int = 0
    """How many requests were not told, as too many of their connections' were watched already."""
    names: TopicNames = field(default_factory=TopicNames)
    """Of topics by id, asked once there is something to tell of a request."""

    def follow(self, other: "Watch | None") -> None:
        """Look for what another is for from now on, None: for nothing; what has been measured stays.

        Exchanges are to be told (``watch_anew``).
        """
        if other is None:
            self.latencies, self.log, self.picks = None, _ignore, Picks(sample=0)
            return
        self.latencies = other.latencies and (self.latencies or other.latencies)
        self.log, self.picks = other.log or _ignore, other.picks


def _ignore(_observation: Observation) -> None:
    """Whose log has ended while its requests were on their way."""


@dataclass(slots=True)
class _Note:
    """A request that is watched closer than by its times, or that waits to be let go."""

    key_version: int
    correlation_id: int
    read_at: float
    size: int
    ordinal: int
    """Its answer's; of one that no broker will answer, what the next one's would be."""
    forwarded: bool
    """A broker will answer it, as far as its first bytes tell."""
    no_acks: bool
    told: bool = False
    timed: bool = False
    client_id: str = ""
    topic: str | None = None
    topic_id: bytes | None = None
    node_id: int | None = None
    own_answer: bytes | None = None
    """What kproxy answered it."""


_Watched = tuple[int, int, int, float, float, _Note | None]
"""Its answer's ordinal, API and version, correlation id, when it was read and let go, what is told of it."""


class Observed(Exchange):
    """See the module. ``observe`` comes first. It has no __slots__, so that it can come before any exchange."""

    # What comes behind this in a class that is made of several (see kinds): a call less than super() takes.
    _inner_from_client = Exchange.from_client
    _inner_from_broker = Exchange.from_broker

    # Metered's, of a connection that has no limits.
    _gate_head = b""
    _gate_left = 0
    _held = b""
    _answer_head = b""

    def observe(self, watch: Watch, client: Client, client_port: int, node_id: int | None) -> None:
        """Begin to watch; ``client``'s client id is that of each request. ``node_id``: the only broker behind it."""
        self._watch = watch
        self._client_port = client_port
        self._node_id = node_id
        self._watched: deque[_Watched] = deque()
        self._unsent: deque[_Note] = deque()  # read, and neither let go nor answered yet
        self._time_in = _NEVER if watch.latencies is None else 1  # how many reads from the last draw on
        self._gap = self._drawn = _NEVER  # reads to the next that is looked at; at the last draw
        self.identify(client)

    def identify(self, client: Client) -> None:
        """Say who the client is, at first or since it has logged in."""
        self._seen_client = client
        watch = self._watch
        meant = watch.log is not None and watch.picks.of(client)
        self._time_in = min(self._time_in, _NEVER if watch.latencies is None else 1)
        self._log_in = watch.picks.gap(watch.dice) if meant else _NEVER
        self._gap = self._drawn = min(self._time_in, self._log_in)

    def watch_anew(self) -> None:
        """The watch is for something else now."""
        self.identify(self._seen_client)
        if self._unsent:  # they are looked at first
            self._gap_then, self._gap = self._gap, 0

    # Client to broker.

    def from_client(self, data: bytes) -> bytes:
        """See Exchange."""
        self._gap -= 1
        if self._gap > 0:
            return self._inner_from_client(data)
        if self._unsent:
            out = self._inner_from_client(data)
            self._look_at_unsent()
            return out
        pos = self._gate_left or self._request_left
        if pos + _HEAD_BYTES > len(data) or self._holds_back():
            return self._inner_from_client(data)  # no request begins here, or not visibly, or behind others that wait
        timed, picked = self._draw()
        read_at = self._watch.clock()
        if picked:
            self._note_all(data, pos, read_at, timed=timed)
            out = self._inner_from_client(data)
            self._gap_then = self._gap
            self._look_at_unsent()
            if self._unsent:
                self._unsent[0].timed = timed
                self._gap = 0  # each read is looked at until it is known what became of them
            return out
        size, key_version, correlation_id = _HEAD(data, pos)
        ordinal = self.asked + 1
        out = self._inner_from_client(data)
        if self.asked >= ordinal:
            if len(self._watched) < WATCHED_MAX:
                self._watched.append((ordinal, key_version, correlation_id, read_at, read_at, None))
            if self.waits and len(self._held) >= _HEAD_BYTES:  # a limit holds the first of these back
                size, key_version, correlation_id = _HEAD(self._held, 0)
                self._wait_for(_Note(key_version, correlation_id, read_at, size, self.asked + 1, True, False))
        elif self._holds_back():
            self._wait_for(_Note(key_version, correlation_id, read_at, size, ordinal, True, False))
        else:
            self._time_in = self._gap = self._drawn = 1  # it was none for a broker: the next one is
        return out

    def _draw(self) -> tuple[bool, bool]:
        """Tell whether this read is timed, and whether it is picked for the log; draw when the next one is."""
        watch = self._watch
        passed = self._drawn - self._gap
        self._time_in -= passed
        self._log_in -= passed
        timed, picked = self._time_in <= 0, self._log_in <= 0
        if timed:
            self._time_in = 1 + int(watch.dice() * TIMED_GAP_MAX)
        if picked:
            self._log_in = watch.picks.gap(watch.dice)
        self._gap = self._drawn = min(self._time_in, self._log_in)
        return timed, picked

    def _wait_for(self, note: _Note) -> None:
        """Look at each read until it is known what becomes of a request that is timed."""
        note.timed = True
        self._unsent.append(note)
        self._gap_then = self._gap
        self._gap = 0

    def unhold(self, reason: int) -> bytes:
        """See Exchange."""
        out = super().unhold(reason)
        if self._unsent:
            self._look_at_unsent()
        return out

    def reply(self, frame: bytes) -> None:
        """See Exchange."""
        correlation_id = _SIZE(frame, 4)[0]
        for index, note in enumerate(self._unsent):
            if (
                note.correlation_id == correlation_id
                and self.asked < note.ordinal
                and note.own_answer is None
                and not note.no_acks
            ):
                note.own_answer = frame
                if note.forwarded:  # not after all: it was refused
                    for later in islice(self._unsent, index + 1, None):
                        later.ordinal -= 1
                break
        super().reply(frame)

    def conclude(self) -> None:
        """The connection has ended: tell of what was never answered."""
        now = self._watch.clock()
        for *_, sent_at, note in self._watched:
            if note is not None:
                self._tell(note, sent_at - note.read_at, None, Answerer.LOST)
        for note in [each for each in self._unsent if each.told]:
            self._tell(note, now - note.read_at, None, Answerer.LOST)
        self._watched.clear()
        self._unsent.clear()

    def _holds_back(self) -> bool:
        """Whether something that was read has neither been let go nor been answered."""
        return self.waits or bool(self._request_head or self._gate_head) or not self.settled

    def _look_at_unsent(self) -> None:
        """See what became of the requests that were read and not let go, in their order."""
        unsent = self._unsent
        now = self._watch.clock()
        while unsent:
            note = unsent[0]
            if note.own_answer is None and note.forwarded and self.asked >= note.ordinal:
                note.node_id = self._upstream_node()
                told = note if note.told else None
                self._watched.append((note.ordinal, note.key_version, note.correlation_id, note.read_at, now, told))
            elif note.own_answer is None and self._holds_back():
                return
            elif note.told:
                answerer = Answerer.NOBODY if note.own_answer is None else Answerer.KPROXY
                self._tell(note, now - note.read_at, None, answerer, answer=note.own_answer or b"")
            unsent.popleft()
        self._gap = self._gap_then

    def _note_all(self, data: bytes, pos: int, read_at: float, *, timed: bool) -> None:
        """Note the requests that begin in a read from ``pos`` on: those that are told, and the first, to be timed."""
        end = len(data)
        ordinal = self.asked + 1
        first = timed
        while pos + _HEAD_BYTES <= end:
            size, key_version, correlation_id = _HEAD(data, pos)
            note = _Note(key_version, correlation_id, read_at, size + 4, ordinal, True, False)
            if not self._read(note, data, pos, min(pos + 4 + size, pos + HELD_BYTES_MAX, end)):
                return
            if note.told or first:
                if len(self._watched) + len(self._unsent) < WATCHED_MAX:
                    note.timed, first = first, False
                    self._unsent.append(note)
                else:
                    self._watch.missed += 1
            ordinal += note.forwarded
            pos += 4 + size

    def _read(self, note: _Note, data: bytes, pos: int, end: int) -> bool:
        """Read what there is to tell of the request at ``pos``; False where it is cut too early, or odd."""
        picks = self._watch.picks
        key, version = note.key_version >> 16, note.key_version & 0xFFFF
        if key not in APIS:
            return False
        start = pos + _HEAD_BYTES + INT16.size
        size = INT16.unpack_from(data, start - INT16.size)[0] if start <= end else 0
        stop = start + size if size > 0 else start
        if stop > end:
            return False
        try:
            client_id = data[start:stop].decode()
            note.no_acks = key == _PRODUCE and frames.produce_acks(data, pos + 4, end) == 0
        except (ProtocolError, UnicodeDecodeError):
            return False  # whether it may pass is for others to say
        note.forwarded = not note.no_acks and self._kinds.get(note.key_version, REFUSED) < API_VERSIONS_OR_SASL
        note.told = (picks.apis is None or key in picks.apis) and among(client_id, picks.client_ids)
        if note.told:
            note.client_id = client_id[:TEXT_CHARS_MAX]
            if key <= _FETCH:
                with suppress(ProtocolError):
                    found = route(key, version, data, pos + 4, end)
                    note.topic, note.topic_id = found.name or None, found.topic_id or None
        return True

    def _upstream_node(self) -> int | None:
        return self._node_id

    # Broker to client.

    def from_broker(self, data: bytes) -> bytes:
        """See Exchange."""
        if not self._watched:
            return self._inner_from_broker(data)
        head = self._answer_head or self._tail
        pos = self._answer_left if self._sink is None else self._sink.missing
        answered = self.answered
        out = self._inner_from_broker(data)
        if self.answered >= self._watched[0][0]:
            self._answers_began(head + data if head else data, pos, answered)
        return out

    def _answers_began(self, data: bytes, pos: int, answered: int) -> None:
        """Answers have begun, the first of them, behind ``answered`` others, at ``pos``: see which were watched."""
        now = self._watch.clock()
        watched, latencies = self._watched, self._watch.latencies
        while watched and watched[0][0] <= self.answered:
            ordinal, key_version, correlation_id, read_at, sent_at, note = watched.popleft()
            while answered + 1 < ordinal:
                answered += 1
                pos += 4 + _SIZE(data, pos)[0]
            if pos + 8 > len(data) or _SIZE(data, pos + 4)[0] != correlation_id:
                continue  # it was another request that was asked in its place
            if latencies is not None and (note is None or note.timed):
                latencies.note(key_version >> 16, sent_at - read_at, now - sent_at)
                code = error_code(key_version, data, pos)
                if code:
                    latencies.errors.note(key_version >> 16, code)
            if note is not None:
                self._tell(note, sent_at - read_at, now - sent_at, Answerer.BROKER, answer=data, pos=pos)

    # The log.

    def _tell(
        self,
        note: _Note,
        kproxy_seconds: float,
        upstream_seconds: float | None,
        answerer: Answerer,
        *,
        answer: bytes = b"",
        pos: int = 0,
    ) -> None:
        """Tell the log of a request; ``answer`` has its answer's beginning at ``pos``, if it has one."""
        log_it = self._watch.log
        assert log_it is not None  # noqa: S101  it was picked
        key, version = note.key_version >> 16, note.key_version & 0xFFFF
        client, response_bytes, seen = self._seen_client, None, UNSEEN
        if answer:
            response_bytes = _SIZE(answer, pos)[0] + 4
            seen = outcome(key, version, answer, pos)
        throttle_ms = seen.throttle_time_ms
        if answerer is Answerer.BROKER and (told := self.told_ms(note.key_version, response_bytes or 0)):
            throttle_ms = max(throttle_ms or 0, told)
        log_it(
            Observation(
                client=Client(client.listener, client.client_ip, client.principal, note.client_id),
                client_port=self._client_port,
                software=self.software,
                node_id=note.node_id,
                key=key,
                version=version,
                correlation_id=note.correlation_id,
                topic=self._watch.names.find(note.topic_id) if note.topic_id else note.topic,
                topic_id=note.topic_id,
                request_bytes=note.size,
                response_bytes=response_bytes,
                answered_by=answerer,
                error_code=seen.error_code,
                throttle_time_ms=throttle_ms,
                read_at=note.read_at,
                kproxy_seconds=kproxy_seconds,
                upstream_seconds=upstream_seconds,
            )
        )


class ObservedRouting(Observed, RoutedExchange):
    """The same before a whole cluster."""

    def proceed(self, *, give_up: bool = False) -> bytes:
        """See RoutedExchange."""
        out = super().proceed(give_up=give_up)
        if self._unsent:
            self._look_at_unsent()
        return out

    def _upstream_node(self) -> int | None:
        return self.lane
