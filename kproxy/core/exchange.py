"""The two directions of one client connection that has one broker behind it: in order, cut-through, bounded.

``from_client`` takes what a client sent and returns what the broker gets; ``from_broker`` the other way round. What
one call brings leaves in one piece. Plain frames are forwarded as they arrive, whole or in parts, and leave no trace
but two counts: ``asked``, requests that the broker will answer, and ``answered``. A broker answers a connection in
order (Kafka mutes the channel until a request is answered), so an answer's ordinal names its request: answers that
must be rewritten wait in ``Awaited`` under theirs, and what kproxy answers by itself leaves behind the ordinal that it
was asked after. Only ``acks`` of Produce has to be read for that: 0 gets no answer::

    client -> broker   [Produce 7][ApiVersions 8][Metadata 9]    forwarded: 7 and 9; asked = 2
    broker -> client   [7][9]                                    forwarded: 7, our answer to 8, 9 with our addresses

Doubt ends the connection: an answer that nobody asked for, an awaited one whose correlation id is not that of its
request (Produce aside, see Awaited), or that does not parse as what it must be, raises ProtocolError and nothing of it
is forwarded. ``from_client`` and ``from_broker`` raise nothing else, and the exchange is of no use after it.

Never here: a socket, a clock. The two loops are long on purpose. At 16 frames a read, a plain request like the one
before it takes 150 ns, one unlike it 280, a Produce request that begins as the last one 310, and an answer 130 (alone
in its read: a request 500, an answer 340; CPython 3.11), where a call by itself takes 30 to 50. So there is no call,
object or exception per plain frame.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple, Never

from kproxy.core.offer import Kind, Offer
from kproxy.core.rewrite import Advertise, Collected, MetadataHead, ShareFetchAnswer, Sink
from kproxy.core.sasl import Ask
from kproxy.core.tally import Tally
from kproxy.errors import FrameTooLarge, Malformed, Short, Unsupported
from kproxy.wire import apiversions, frames
from kproxy.wire.apis import APIS, BROKER_ONLY, ApiKey
from kproxy.wire.cluster import REBOOTSTRAP_VERSION_MIN, rebootstrap_response
from kproxy.wire.endpoints import names_no_broker, splice, splice_metadata
from kproxy.wire.handshake import sasl_authenticate_illegal_state, sasl_handshake_illegal_state
from kproxy.wire.heartbeats import join_anew
from kproxy.wire.primitives import INT16, INT32

if TYPE_CHECKING:
    from kproxy.core.amendments import Amendment

HEAD = Struct(">iI").unpack_from  # size; api_key and api_version as one number
HEAD_BYTES = 8
REQUEST_BYTES_MIN = 10  # api_key, api_version, correlation id, client id length
_SIZE = INT32.unpack_from
_RESPONSE_BYTES_MIN = 4  # correlation id

FRAME_BYTES_MAX = 100 * 1024 * 1024
"""Kafka's socket.request.max.bytes."""

HELD_BYTES_MAX = 72 * 1024
"""The longest part of a request that is held: two strings of 32,767 bytes stand before acks in Produce 3 to 8."""

OWN_ANSWERS_MAX = 100
"""How many answers of our own may wait for the broker's. They cost the client nothing, so that without a bound a flood
of ApiVersions behind one long poll would fill the memory; no client sends a second one before it has read the first."""

AWAITED_MAX = 10_000
"""How many answers may be awaited; each takes 160 bytes here, and clients have five requests in flight
(max.in.flight.requests.per.connection), or as many Produce requests as they like, which are one run."""

CLIENT_ID_BYTES_MAX = 255
"""What is kept of a client id, which may have 32,767 bytes."""

_NEVER = -1

# Plain integers: an IntEnum's comparison costs a call.
_PRODUCE = int(Kind.PRODUCE)
_PRODUCE_REWRITTEN = int(Kind.PRODUCE_REWRITTEN)
_SHARE = int(Kind.SHARE)
API_VERSIONS_OR_SASL = int(Kind.API_VERSIONS)  # and up: never forwarded
_FAREWELL = int(Kind.FAREWELL)
REFUSED = int(Kind.REFUSED)
_BEFORE_LOGIN = frozenset({int(Kind.API_VERSIONS), int(Kind.SASL)})

_STREAMED = frozenset({int(ApiKey.METADATA), int(ApiKey.SHARE_FETCH)})

_METADATA_TO_LEAVE_BY = int(ApiKey.METADATA) << 16 | REBOOTSTRAP_VERSION_MIN

_HELD, _LOGGING_IN, _LEAVING = 1, 2, 4  # why nothing of the client's goes on: the shell said so, it logs in, it leaves


@dataclass(slots=True)
class Awaited:
    """An answer that must be seen when it comes; or for Produce, a run of them."""

    ordinal: int
    """Of the next answer that is meant."""
    correlation_id: int
    key: int
    version: int
    own: Callable[[bytes], None] | None = None
    """For requests of our own: who takes the answer's body; the client gets nothing."""
    last: int = 0
    """For a run of Produce requests of one version, one behind the other: the last one's ordinal. Their answers nearly
    always show by their size that they name no broker, so that a run costs no more than two integers; correlation ids
    are not kept. A run at the end of the queue stays when all of it is answered, to be lengthened."""
    amendment: "Amendment | None" = None
    """What is done to the answer of a request that access rules have changed (see guarded)."""


_PRODUCE_REWRITTEN_FROM = 10  # NodeEndpoints (KIP-951)
PRODUCE_VERSION_MAX = 0xFFFF  # its key is 0, so that this is the largest of its key and version in one

NO_RUN = Awaited(0, 0, 0, 0)

NO_ACKS = (-1, 0, b"", 0)
"""API and version of a Produce request, where its acks end, the bytes from the correlation id to there, acks."""

NOT_BARE = (-1, 0, b"")
"""Size of a Produce answer that names no broker, where its number of partitions ends, the bytes up to there."""


class LoginRequest(NamedTuple):
    """A SASL request of a client that is in already (KIP-368): the shell answers by ``login_answered``."""

    key: int
    version: int
    correlation_id: int
    body: bytes

    def __repr__(self) -> str:
        """Leave the body out: it may hold a password."""
        return f"LoginRequest(key={self.key}, version={self.version})"


@dataclass(slots=True)
class Front:
    """What the connections of one listener share."""

    offer: Offer
    tally: Tally
    request_bytes_max: int = FRAME_BYTES_MAX
    asks_login: bool = False
    """Clients log in, and may do so again; otherwise SASL requests are refused."""


class Exchange:
    """One client connection with one broker behind it at a time. See the module for how to use it."""

    __slots__ = (
        "_acks",
        "_advertise",
        "_answer_left",
        "_awaited",
        "_bare",
        "_bare_version",
        "_counts",
        "_farewell",
        "_front",
        "_holding",
        "_joins_anew",
        "_kinds",
        "_moved",
        "_own",
        "_request_bytes_max",
        "_request_head",
        "_request_left",
        "_run",
        "_sink",
        "_stop",
        "_tail",
        "_withheld",
        "answered",
        "asked",
        "client_id",
        "expired",
        "ledger",
        "login",
        "may_leave",
        "offer",
        "replies",
        "sasl_refused",
        "software",
        "tied",
        "waits",
    )

    def __init__(self, front: Front, advertise: Advertise) -> None:
        """Begin with nothing asked; ``advertise`` turns a broker's address into ours."""
        self._front = front
        self._counts = front.tally.requests
        self._kinds = front.offer.kinds
        self._request_bytes_max = front.request_bytes_max
        self._advertise = advertise
        self.offer = front.offer
        """What this connection may ask for: the offer of its last ApiVersions answer, or of its beginning."""
        self.asked = 0
        """Requests that the broker will answer, counted when their beginning is sent."""
        self.answered = 0
        """Answers of the broker, counted when they begin."""
        self.replies: list[bytes] = []
        """Answers of our own that the client gets now, before anything that ``from_broker`` returns later."""
        self.software: apiversions.ClientSoftware | None = None
        """What the client said it is (KIP-511)."""
        self.client_id = b""
        """What it called itself when it asked for ApiVersions, the first CLIENT_ID_BYTES_MAX of it."""
        self.sasl_refused = False
        """The client tried to log in; the shell tells the operator why that failed."""
        self.login: LoginRequest | None = None
        """The client logs in anew; nothing behind that goes on before it is answered. ``replies`` is not empty then."""
        self.expired = False
        """The client's login has ended (KIP-368): until it logs in anew, whatever else it asks for ends it."""
        self.may_leave = False
        """The client knows what ``send_away`` has it told: it has asked for Metadata in such a version."""
        self.tied = False
        """The client's session ends with the upstream connection (share groups): it cannot be dialled anew."""
        self.waits = False
        """A limit holds the client's next request back (see metered)."""
        self.ledger: deque[list[int]] | None = None
        """Where it is kept (see metered): what the broker has yet to answer, in order: [how many, API and version].

        The last entry stays, at nought, so that it is never empty.
        """
        self._request_left = 0  # bytes of the request under way that are still to come
        self._request_head = b""  # a request's beginning that cannot be told yet
        self._answer_left = 0
        self._tail = b""  # an answer's size prefix, cut
        self._sink: Sink | None = None
        self._awaited: deque[Awaited] = deque()
        self._bare = NOT_BARE  # what the last answer of ``_bare_version`` looked like that named no broker
        self._bare_version = -1
        self._run: Awaited | None = None  # the last one in it, where that is a run that may be lengthened
        self._acks = NO_ACKS
        self._farewell = b""  # the answer to the request that a client leaves by
        self._joins_anew = False  # so a member of a group was told by its last heartbeat's answer
        self._own: deque[tuple[int, bytes]] = deque()  # (behind which ordinal, whole frames)
        self._stop = _NEVER  # the next ordinal at which something happens
        self._holding = 0
        self._withheld: list[bytes] = []  # what came all the same: a read or two, as the shell has paused them
        self._moved = 0  # counts what the other numbers of ``progress`` do not show

    def count_in(self, counts: dict[int, int]) -> None:
        """Count requests in there, and no longer in the listener's tally; it has, or makes, an entry for each key."""
        self._counts = counts

    # What the shell may ask.

    @property
    def outstanding(self) -> int:
        """How many requests the broker has yet to answer, to the last byte."""
        under_way = self._answer_left > 0 or self._sink is not None
        return self.asked - self.answered + under_way

    @property
    def idle(self) -> bool:
        """Nothing is under way in either direction, not even half a frame: the broker may go, or the connection."""
        return self.outstanding == 0 and not self._request_left and not self._request_head and not self._withheld

    @property
    def settled(self) -> bool:
        """All that was taken from the client has been forwarded or answered, so that ``reply`` knows its place."""
        return not self._withheld and self.login is None

    @property
    def begun(self) -> bool:
        """Something that is a request has been here: from here on, bytes that are none are no mistaken protocol."""
        return self.asked > 0 or self._moved > 0

    @property
    def progress(self) -> tuple[int, ...]:
        """Something that differs whenever bytes have come in between, from either side."""
        held = len(self._request_head), len(self._tail)
        return self.asked, self.answered, self._request_left, self._answer_left, *held, self._moved

    @property
    def answer_missing(self) -> int:
        """How many bytes of the answer under way are still to come, but for a size prefix that is cut."""
        return self._answer_left if self._sink is None else self._sink.missing

    @property
    def at_boundary(self) -> bool:
        """The broker has been sent whole requests only."""
        return self._request_left == 0

    # Client to broker.

    def from_client(self, data: bytes) -> bytes:
        """Take what the client sent; return what the broker gets now. Look at ``replies`` afterwards.

        Raises:
            FrameTooLarge: a frame above the maximum.
            Unsupported: an API or version that was not offered.
            Malformed: bytes that are no request, or a flood of requests that kproxy answers by itself.
        """
        if self._holding:
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
        kinds = self._kinds
        counts = self._counts
        biggest = self._request_bytes_max
        asked = self.asked
        start = 0  # what lies before it has been dealt with
        pieces: list[bytes] | None = None
        like = -1  # the API and version of the frames just seen, of which ``many`` are not counted yet
        many = 0
        produce, ends, beginning, acks = self._acks  # how this client's Produce requests begin
        while pos + HEAD_BYTES <= end:
            size, key_version = HEAD(data, pos)
            if size < REQUEST_BYTES_MIN or size > biggest:
                self._refuse_size(size)
            if key_version == like and (
                key_version != produce or (data[pos + 12 : pos + ends] == beginning and ends <= size + 4)
            ):
                many += 1
                pos += 4 + size
                continue
            if many:
                asked = self._count(like, many, asked, acks)
                many = 0
            stop = pos + 4 + size
            kind = kinds.get(key_version, REFUSED)
            if not kind or (key_version == produce and data[pos + 12 : pos + ends] == beginning and ends <= size + 4):
                like = key_version
                many = 1
                pos = stop
                continue
            if kind < API_VERSIONS_OR_SASL:
                here = stop if stop < end else end  # noqa: FURB136  min() is a call
                if pos + 12 > here:
                    break
                if kind <= _PRODUCE_REWRITTEN:
                    if here - pos > HELD_BYTES_MAX:
                        here = pos + HELD_BYTES_MAX
                    try:
                        produce, ends, beginning, acks = self._read_acks(key_version, data, pos, here)
                    except Short:
                        if here == stop:
                            raise Malformed("Produce request ends before its acks") from None
                        break
                    like = key_version
                    many = 1
                    pos = stop
                    continue
                asked += 1
                if self.ledger is not None:
                    self._note(key_version, 1)
                self.tied |= kind == _SHARE
                self._await(Awaited(asked, _SIZE(data, pos + 8)[0], key_version >> 16, key_version & 0xFFFF))
            else:
                key, version = key_version >> 16, key_version & 0xFFFF
                if kind == REFUSED and key != ApiKey.API_VERSIONS:
                    self._refuse_api(key, version)
                if stop - pos > HELD_BYTES_MAX:
                    raise FrameTooLarge(f"{APIS[key].name} request of {size} bytes")
                if stop > end:
                    break
                if pieces is None:
                    pieces = []
                pieces.append(data[start:pos])
                self.asked = asked
                self._answer_here(key, version, data, pos + 4, stop)
                kinds = self._kinds
                like = produce = -1  # another offer, perhaps
                pos = start = stop
                if self.login is not None or self.leaves:
                    return self._stop_here(pieces, data, pos)
                continue
            counts[key_version] += 1
            pos = stop
        if many:
            if like > PRODUCE_VERSION_MAX:
                asked += many
                counts[like] += many
                ledger = self.ledger
                if ledger is not None:
                    if ledger[-1][1] == like:
                        ledger[-1][0] += many
                    else:
                        ledger.append([many, like])
            else:
                asked = self._count(like, many, asked, acks)
        self.asked = asked
        if pos >= end:
            self._request_left = pos - end
            pos = end
        else:
            self._request_left = 0
            self._keep_head(data[pos:])
        if pieces is None:
            return data if pos == end else data[:pos]
        pieces.append(data[start:pos])
        return b"".join(pieces)

    _forward = from_client
    """The same, whatever a subclass puts before it."""

    _let_through = from_client
    """The same behind limits, but not behind rules (see guarded)."""

    def _let_alike_through(self, data: bytes, key_version: int, many: int, beginning: bytes) -> bytes:
        """The same for whole requests, at a boundary, that limits have found alike: most of them are only counted.

        ``beginning``: what follows the correlation id of each; empty: that was not looked at.
        """
        if self._holding or self._request_head:
            return Exchange.from_client(self, data)
        if self._kinds.get(key_version, REFUSED):
            produce, _, known, acks = self._acks
            if key_version != produce or beginning != known:
                return Exchange.from_client(self, data)
            self.asked = self._count(key_version, many, self.asked, acks)
            return data
        self.asked += many
        self._counts[key_version] += many
        ledger = self.ledger
        assert ledger is not None  # noqa: S101  limits keep one
        last = ledger[-1]  # as _note, without the call
        if last[1] == key_version:
            last[0] += many
        else:
            ledger.append([many, key_version])
        return data

    def _stop_here(self, pieces: list[bytes], data: bytes, pos: int) -> bytes:
        """Withhold what is behind ``pos``, a boundary."""
        self._request_left = 0
        if pos < len(data):
            self._withheld.append(data[pos:])
        return b"".join(pieces)

    def _keep_head(self, head: bytes, bytes_max: int = HELD_BYTES_MAX) -> None:
        """Keep a request's beginning until more of it comes; refuse its size as soon as that is known."""
        if len(head) >= 4:
            size = _SIZE(head)[0]
            if size < REQUEST_BYTES_MIN or size > self._request_bytes_max:
                self._refuse_size(size)
        if len(head) > bytes_max:
            raise FrameTooLarge(f"{bytes_max} bytes do not tell what must be known of a request")
        self._request_head = head

    def _refuse_size(self, size: int) -> Never:
        if size >= REQUEST_BYTES_MIN:
            raise FrameTooLarge(f"request of {size} bytes; the maximum is {self._request_bytes_max}")
        raise Malformed(f"request of {size} bytes; a header alone has {REQUEST_BYTES_MIN}")

    def _refuse_api(self, key: int, version: int) -> Never:
        name = APIS[key].name if key in APIS else BROKER_ONLY.get(key, f"API {key}")
        offered = self.offer.answer.ranges.get(key)
        known = "not offered" if offered is None else f"offered are versions {offered[0]} to {offered[1]}"
        raise Unsupported(f"{name} version {version}: {known}")

    def _read_acks(self, key_version: int, data: bytes, pos: int, here: int) -> tuple[int, int, bytes, int]:
        """Read a Produce request's acks and remember how it begins; raises Short where they are not there yet."""
        ends = frames.produce_acks_at(data, pos + 4, here) + 2
        self._acks = (key_version, ends - pos, data[pos + 12 : ends], INT16.unpack_from(data, ends - 2)[0])
        return self._acks

    def _count(self, key_version: int, many: int, asked: int, acks: int) -> int:
        """Count requests of one API and version, one behind the other; return how many have been asked with them."""
        self._counts[key_version] += many
        if acks == 0 and key_version <= PRODUCE_VERSION_MAX:
            self._moved += 1
            return asked
        ledger = self.ledger
        if ledger is not None:
            if ledger[-1][1] == key_version:
                ledger[-1][0] += many
            else:
                ledger.append([many, key_version])
        if key_version > PRODUCE_VERSION_MAX:
            return asked + many
        if key_version >= _PRODUCE_REWRITTEN_FROM:
            self.await_produce(asked + 1, asked + many, key_version)
        return asked + many

    def _note(self, key_version: int, many: int) -> None:
        """Enter requests that will be answered into the ledger; requests alike are one entry."""
        ledger = self.ledger
        assert ledger is not None  # noqa: S101  the caller has looked
        if ledger[-1][1] == key_version:
            ledger[-1][0] += many
        else:
            ledger.append([many, key_version])

    def await_produce(self, first: int, last: int, version: int) -> None:
        """Await the answers to Produce requests, whose key is 0, so that ``version`` is key and version in one."""
        run = self._run
        if run is not None and run.last == first - 1 and run.version == version:
            run.last = last
            return
        run = Awaited(first, 0, 0, version, None, last)
        self._await(run)
        self._run = run

    def _await(self, awaited: Awaited) -> None:
        if len(self._awaited) >= AWAITED_MAX:
            raise Malformed(f"more than {AWAITED_MAX} requests sent without reading an answer")
        if self._awaited and self._awaited[-1] is self._run and self._run.ordinal > self._run.last:
            self._end_run()
        self._awaited.append(awaited)
        if self._stop == _NEVER:
            self._stop = awaited.ordinal

    # Our own answers.

    def _answer_here(self, key: int, version: int, data: bytes, pos: int, end: int) -> None:
        counted = key << 16 | version
        correlation_id = _SIZE(data, pos + 4)[0]
        self._moved += 1
        if key == ApiKey.API_VERSIONS:
            if version > apiversions.VERSION_MAX:
                counted = key << 16
            body = self._api_versions(version, data, pos, end)
        elif key == ApiKey.METADATA:
            self._spare(counted)
            self._counts[counted] += 1
            self._farewell = frames.response(correlation_id, key, version, rebootstrap_response())
            self._holding |= _LEAVING
            self.replies.append(b"")
            return
        elif self._front.asks_login:
            self._counts[counted] += 1
            body = data[frames.request_body_at(data, pos, end) : end]
            self.login = LoginRequest(key, version, correlation_id, body)
            self._holding |= _LOGGING_IN
            self.replies.append(b"")
            return
        else:
            self.sasl_refused = True
            handshake = key == ApiKey.SASL_HANDSHAKE
            body = sasl_handshake_illegal_state() if handshake else sasl_authenticate_illegal_state(version)
        self._counts[counted] += 1
        self.reply(frames.response(correlation_id, key, version, body))

    def _api_versions(self, version: int, data: bytes, pos: int, end: int) -> bytes:
        if version > apiversions.VERSION_MAX:
            return apiversions.unsupported_version_response()
        self.offer = self._front.offer
        self._acks = NO_ACKS
        if not self.expired:
            self._kinds = self.offer.kinds
        body, software = self.offer.introduce(version, data[frames.request_body_at(data, pos, end) : end])
        self.client_id = frames.client_id_bytes(data, pos, CLIENT_ID_BYTES_MAX)
        self.software = software or self.software
        return body

    def reply(self, frame: bytes) -> None:
        """Give the client an answer of our own, in its place: behind the answers to all that was asked before."""
        if not self.outstanding:
            self.replies.append(frame)
            return
        if len(self._own) >= OWN_ANSWERS_MAX:
            raise Malformed(f"more than {OWN_ANSWERS_MAX} requests that kproxy answers, sent without reading an answer")
        self._own.append((self.asked, frame))
        self._set_stop()

    def _spare(self, key_version: int) -> None:
        """A request that was taken for the broker is answered here instead (see metered)."""

    def _shown(self, key: int, version: int, body: bytes) -> bytes:  # noqa: ARG002  for who may not see all
        """Return what the client sees of an answer that kproxy has made of several brokers' (see guarded)."""
        return body

    # Holding requests back at a frame boundary: while the upstream login is renewed, and to drain.

    def hold(self) -> bool:
        """Let nothing of the client's through beyond the request under way; tell whether that boundary is here.

        The shell pauses its reads, too; what comes all the same is kept for ``release``.
        """
        self._holding |= _HELD
        return self._request_left == 0

    def release(self) -> bytes:
        """End ``hold``; return what the broker gets now. Raises as ``from_client``."""
        return self.unhold(_HELD)

    def unhold(self, reason: int) -> bytes:
        """Take away a reason to hold; return what the broker gets where it was the last."""
        self._holding &= ~reason
        if self._holding:
            return b""
        withheld = b"".join(self._withheld)
        self._withheld.clear()
        return self._forward(withheld) if withheld else b""

    # Sending a client elsewhere.

    def send_away(self) -> None:
        """Do not forward the client's next Metadata request, if it is one that ``part`` can answer.

        Nothing that it sends behind that goes on, as a client that leaves sends it again elsewhere; ``leaves`` tells
        that it is so. All else goes on until then.
        """
        if _METADATA_TO_LEAVE_BY in self._kinds:
            self._kinds = {**self._kinds, _METADATA_TO_LEAVE_BY: _FAREWELL}

    @property
    def leaves(self) -> bool:
        """Whether it has come; ``replies`` is not empty then."""
        return bool(self._holding & _LEAVING)

    def part(self) -> None:
        """Answer it: the client is to go to its bootstrap servers (KIP-1102). Once, when it ``leaves``."""
        self.reply(self._farewell)

    # A client that logs in anew (KIP-368), and what it may do while its login has ended.

    def login_answered(self, body: bytes, *, logged_in: bool) -> bytes:
        """Answer ``login``; return what the broker gets now. Raises as ``from_client``."""
        self.login_refused(body)
        if logged_in:
            self.expired = False
            self._kinds = self.offer.kinds
        return self.unhold(_LOGGING_IN)

    def login_refused(self, body: bytes) -> None:
        """Answer ``login`` for the last time: nothing goes on, the connection is to be ended."""
        login, self.login = self.login, None
        assert login is not None  # noqa: S101  the caller has it from here
        self.reply(frames.response(login.correlation_id, login.key, login.version, body))

    def introduced(
        self, offer: Offer, software: apiversions.ClientSoftware | None = None, client_id: bytes = b""
    ) -> None:
        """The client has asked for ApiVersions on its way in, and has been told ``offer``."""
        self.offer = offer
        self.software = software
        self.client_id = client_id
        self._kinds = offer.kinds

    def expire(self) -> None:
        """The client's login has ended: refuse, as Kafka does, whatever is not a new one."""
        self.expired = True
        self._kinds = {kind: value for kind, value in self.offer.kinds.items() if value in _BEFORE_LOGIN}
        self._acks = NO_ACKS

    def _up_to_boundary(self, data: bytes) -> bytes:
        left = self._request_left
        if len(data) > left:
            self._request_left = 0
            self._withheld.append(data[left:])
            return data[:left]
        self._request_left = left - len(data)
        return data

    def ask(self, ask: Ask, answered: Callable[[bytes], None]) -> bytes:
        """Register a request of our own, to be sent at once; ``answered`` gets its answer's body.

        Only while holding, and at a boundary. ``answered`` is called from within ``from_broker``: it may ``ask`` anew,
        but must not ``release``.
        """
        self.asked += 1
        if self.ledger is not None:
            self._note(ask.key << 16 | ask.version, 1)
        self._await(Awaited(self.asked, ask.correlation_id, ask.key, ask.version, answered))
        return ask.frame

    # Broker to client.

    def told_ms(self, key_version: int, size: int) -> int:  # noqa: ARG002  for those that tell some
        """Return the throttle time that an answer of the broker's which leaves now carries at least (see metered)."""
        return 0

    def from_broker(self, data: bytes) -> bytes:
        """Take what the broker sent; return what the client gets now.

        Raises:
            ProtocolError: the broker's bytes are not what they must be; nothing more may be forwarded.
        """
        if self._tail:
            data = self._tail + data
            self._tail = b""
        end = len(data)
        if self._stop == _NEVER and self._sink is None:
            # Nothing is awaited and nothing waits for its place: all that comes is forwarded, and counted.
            answered = self.answered
            pos = self._answer_left
            while pos + 4 <= end:
                (size,) = _SIZE(data, pos)
                if size < _RESPONSE_BYTES_MIN:
                    raise Malformed(f"answer of {size} bytes")
                answered += 1
                pos += 4 + size
            self.answered = answered
            if answered > self.asked or (pos < end and answered == self.asked):
                raise Malformed("an answer that was not asked for")
            if pos >= end:
                self._answer_left = pos - end
                return data
            self._answer_left = 0
            self._tail = data[pos:]
            return data[:pos]
        start = 0  # what lies before it has been dealt with
        pieces: list[bytes] | None = None
        if self._sink is None:
            pos = self._answer_left
        else:
            self._moved += 1
            out, start, done = self._sink.feed(data, 0)
            if not done:
                return out
            pieces = [out]
            pos = start + self._sink.left
            self._sink = None
        answered = self.answered
        while pos <= end:
            # An answer has ended at ``pos``; what kproxy answers by itself may have its place here.
            if self._own and self._own[0][0] == answered:
                pieces = pieces or []
                pieces += (data[start:pos], self._take_own(answered))
                start = pos
            stop = self._stop
            run = self._awaited[0] if self._awaited and not self._own else NO_RUN
            last, version = run.last, run.version
            bare_size, ends, beginning = self._bare if version == self._bare_version else NOT_BARE
            size = 0
            while pos + 4 <= end:
                (size,) = _SIZE(data, pos)
                if size < _RESPONSE_BYTES_MIN:
                    raise Malformed(f"answer of {size} bytes")
                answered += 1
                if answered == stop:
                    if answered > last or pos + 4 + size > end:
                        break
                    # Nearly always as the last of them: of the same size, and alike up to the number of partitions.
                    if (size != bare_size or data[pos + 8 : pos + ends] != beginning) and not self._is_bare(
                        version, data, pos, size
                    ):
                        break
                    run.ordinal = stop = self._stop = answered + 1
                    if answered == last and len(self._awaited) > 1:
                        self._end_run()
                        break
                pos += 4 + size
            else:
                break
            if self._awaited and self._awaited[0].ordinal > self._awaited[0].last > 0:
                self._end_run()  # it was left for more to come, and something else did
            if not self._awaited or self._awaited[0].ordinal != answered:
                pos += 4 + size
                continue
            if pos + 8 > end:
                answered -= 1
                break
            changed, taken, ends = self._awaited_answer(data, pos, size)
            if changed is not None:
                pieces = pieces or []
                pieces += (data[start:pos], changed)
                start = taken
                if ends == _NEVER:
                    self.answered = answered
                    self._answer_left = 0
                    return b"".join(pieces)
            pos = ends
        self.answered = answered
        if answered > self.asked or (pos < end and answered == self.asked):
            raise Malformed("an answer that was not asked for")
        if pos >= end:
            self._answer_left = pos - end
            pos = end
        else:
            self._answer_left = 0
            self._tail = data[pos:]
        if pieces is None:
            return data if pos == end else data[:pos]
        pieces.append(data[start:pos])
        return b"".join(pieces)

    _backward = from_broker
    """The same, whatever a subclass puts before it."""

    def _awaited_answer(self, data: bytes, pos: int, size: int) -> tuple[bytes | None, int, int]:
        """Handle the awaited answer at ``pos``.

        Returns what the client gets in its place (None: it is fine as it is), the position behind what was taken for
        that, and where the answer ends: _NEVER where more of it must come first, for which ``_sink`` then waits.
        """
        awaited = self._awaited[0]
        if awaited.last:
            awaited.ordinal += 1
            if awaited.ordinal > awaited.last:
                self._end_run()
            else:
                self._set_stop()
        else:
            self._awaited.popleft()
            self._set_stop()
            if _SIZE(data, pos + 4)[0] != awaited.correlation_id:
                raise Malformed(f"answer to {APIS[awaited.key].name} has another correlation id")
        stop = pos + 4 + size
        if awaited.key not in _STREAMED and stop <= len(data):
            frame = data[pos:stop]
            changed = self._changed(awaited, frame)
            return (None if changed is frame else changed), stop, stop
        if awaited.key == ApiKey.METADATA:
            self.may_leave |= awaited.version >= REBOOTSTRAP_VERSION_MIN
        sink = self._make_sink(awaited, size + 4)
        out, taken, done = sink.feed(data, pos)
        if not done:
            self._sink = sink
            return out, taken, _NEVER
        return out, taken, taken + sink.left

    def _is_bare(self, version: int, data: bytes, pos: int, size: int) -> bool:
        """Whether a Produce answer names no broker; remember what those like it look like."""
        if not names_no_broker(version, data, pos, size):
            return False
        ends = 27 if version >= 13 else 11 + data[pos + 10]  # behind the number of partitions
        self._bare_version = version
        self._bare = (size, ends, data[pos + 8 : pos + ends])
        return True

    def _end_run(self) -> None:
        if self._awaited.popleft() is self._run:
            self._run = None
        self._set_stop()

    def _make_sink(self, awaited: Awaited, frame_bytes: int) -> Sink:
        if awaited.key == ApiKey.METADATA:
            return MetadataHead(frame_bytes, awaited.version, self._advertise)
        if awaited.key == ApiKey.SHARE_FETCH:
            return ShareFetchAnswer(frame_bytes, awaited.version)
        return Collected(frame_bytes, partial(self._changed, awaited))

    def _changed(self, awaited: Awaited, frame: bytes) -> bytes:
        """Return what the client gets for a whole answer; the same object where nothing changes."""
        key, version, own = awaited.key, awaited.version, awaited.own
        body_at = frames.response_body_at(frame, 4, key, version)
        body = frame[body_at:]
        if own is not None:
            own(body)
            return b""
        if key == ApiKey.METADATA:  # held whole only where rules look at it (see guarded); what is behind it passes
            out, pos = splice_metadata(version, body, 0, self._advertise)
            spliced = out + body[pos:]
        elif key == ApiKey.CONSUMER_GROUP_HEARTBEAT:
            spliced = self._heartbeat_shown(body)
        else:
            spliced = splice(key, version, body, self._advertise)
        if spliced is body:
            return frame
        return b"".join((INT32.pack(body_at - 4 + len(spliced)), frame[4:body_at], spliced))

    def _heartbeat_shown(self, body: bytes) -> bytes:
        """Have a member whose group is not known join anew; one that has just tried learns that there is no way."""
        shown = body if self._joins_anew else join_anew(body)
        self._joins_anew = shown is not body
        return shown

    def _take_own(self, answered: int) -> bytes:
        own = []
        while self._own and self._own[0][0] == answered:
            own.append(self._own.popleft()[1])
        self._set_stop()
        return b"".join(own)

    def _set_stop(self) -> None:
        self._stop = self._awaited[0].ordinal if self._awaited else _NEVER
        if self._own and (self._stop == _NEVER or self._own[0][0] < self._stop):
            self._stop = self._own[0][0]
