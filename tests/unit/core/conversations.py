"""A reference for Exchange: conversations made of whole frames, each with what must become of it.

The model is slow and has no state to get wrong: every request is made together with what the broker must get of it,
what the broker answers, and what the client must get. So the broker's stream is the forwarded requests one after the
other, the client's the answers in the order of the requests, whatever the delays and however the bytes are cut::

    talk = Talk(conversation(Random(7), 30), OFFER)
    talk.run(Random(1), cut=at_random)      # raises AssertionError at the first byte that differs
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from oracles import KAFKA_PYTHON, KIO, KafkaPython, Kio, Tree, random_tags, random_text

from kproxy.core.exchange import Exchange, Front
from kproxy.core.offer import Offer, make_offer
from kproxy.core.sasl import Ask
from kproxy.core.tally import Tally
from kproxy.wire import apiversions, handshake
from kproxy.wire.apis import APIS, ApiKey, is_flexible
from kproxy.wire.apiversions import ApiVersionsAnswer
from kproxy.wire.endpoints import is_rewritten
from kproxy.wire.primitives import INT16, INT32, put_tags, put_uvarint
from kproxy.wire.sharefetch import ShareFetchWalk

BROKER_HOST = "broker-3.leak.example.com"

OFFER = make_offer([ApiVersionsAnswer(ranges={api.key: (api.min_version, api.max_version) for api in APIS.values()})])
"""All that kproxy understands."""

WHOLE_ANSWERS = (ApiKey.FIND_COORDINATOR, ApiKey.DESCRIBE_CLUSTER, ApiKey.SHARE_ACKNOWLEDGE, ApiKey.DESCRIBE_QUORUM)
PLAIN = tuple(
    (key, version)
    for key, api in APIS.items()
    for version in range(api.min_version, api.max_version + 1)
    if not is_rewritten(key, version)
    and key
    not in (
        ApiKey.PRODUCE,
        ApiKey.API_VERSIONS,
        ApiKey.SASL_HANDSHAKE,
        ApiKey.SASL_AUTHENTICATE,
        ApiKey.CONSUMER_GROUP_HEARTBEAT,  # its answers are looked at
    )
)


def advertise(node_id: int, host: str, port: int) -> tuple[str, int]:
    """Give a node an address of ours; only addresses that a broker said may be asked for."""
    assert (host, port) == (BROKER_HOST, 9092)
    return f"kp-{node_id}", 19092


@dataclass(frozen=True)
class Turn:
    """One request, and all that must become of it."""

    key: int
    version: int
    request: bytes
    forwarded: bool
    answer: bytes | None
    """What the broker answers; None: nothing, or it does not get the request."""
    for_client: bytes
    """What the client gets; nothing for acks=0."""

    @property
    def awaited(self) -> bool:
        """The answer must be seen."""
        return is_rewritten(self.key, self.version)

    def __repr__(self) -> str:
        return f"{APIS[self.key].name}v{self.version}({len(self.request)} -> {len(self.for_client)} bytes)"


def request_frame(rng: Random, key: int, version: int, correlation_id: int, body: bytes) -> bytes:
    """Write a request with a client id and header tags that are seldom seen, and allowed."""
    client_id = rng.choice((None, "c", random_text(rng), "x" * 400))
    raw = b"" if client_id is None else client_id.encode()
    head = INT16.pack(key) + INT16.pack(version) + INT32.pack(correlation_id)
    head += INT16.pack(-1 if client_id is None else len(raw)) + raw
    if is_flexible(key, version):
        head += put_tags(random_tags(rng) if rng.random() < 0.2 else [])
    return INT32.pack(len(head) + len(body)) + head + body


def answer_frame(key: int, version: int, correlation_id: int, body: bytes, tags: bytes = b"\x00") -> bytes:
    """Write an answer."""
    flexible = key != ApiKey.API_VERSIONS and is_flexible(key, version)
    head = INT32.pack(correlation_id) + (tags if flexible else b"")
    return INT32.pack(len(head) + len(body)) + head + body


def nodes(tree: Any) -> Iterator[Tree]:
    """List all structs that are a node with an address."""
    if isinstance(tree, dict):
        if {"node_id", "broker_id"} & tree.keys() and "host" in tree:
            yield tree
        for value in tree.values():
            yield from nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from nodes(value)


def oracle_for(rng: Random, key: int, version: int) -> Kio | KafkaPython | None:
    """Pick a codec that knows this API and version."""
    known = [oracle for oracle in (KIO, KAFKA_PYTHON) if version in oracle.versions(key)]
    return rng.choice(known) if known else None


def random_body(rng: Random, key: int, version: int) -> bytes:
    """Make a request's body by a foreign codec, or of plain noise where none knows this version."""
    oracle = oracle_for(rng, key, version)
    if oracle is None:
        return rng.randbytes(20)
    return oracle.encode(key, version, "request", oracle.message(rng, key, version, "request"))


def plain(rng: Random, correlation_id: int) -> Turn:
    """Make a request that passes as it is, and so does its answer."""
    key, version = rng.choice((*PLAIN, *[(1, 11)] * 40))
    request = request_frame(rng, key, version, correlation_id, random_body(rng, key, version))
    size = rng.choice((0, 1, 30, 300, 9_000))
    answer = INT32.pack(size + 4) + INT32.pack(correlation_id) + rng.randbytes(size)
    return Turn(key, version, request, forwarded=True, answer=answer, for_client=answer)


def rewritten_answers(rng: Random, key: int, version: int, correlation_id: int) -> tuple[bytes, bytes]:
    """Make a broker's answer, and the same with our addresses; both by a foreign codec."""
    oracle = oracle_for(rng, key, version)
    if oracle is None:
        raise LookupError(f"no codec for API {key} v{version}")
    addressed = is_rewritten(key, version)
    tree = oracle.message(rng, key, version, "response")
    tags = put_tags(random_tags(rng))
    for node in nodes(tree):
        node.update(host=BROKER_HOST, port=9092)
        node["node_id" if "node_id" in node else "broker_id"] = rng.choice((0, 1, 7, 2**31 - 1))
    body = oracle.encode(key, version, "response", tree)
    for node in nodes(tree) if addressed else ():
        node_id = node["node_id" if "node_id" in node else "broker_id"]
        node["host"], node["port"] = advertise(node_id, BROKER_HOST, 9092)
    if key == ApiKey.DESCRIBE_QUORUM and addressed:
        for node in tree["nodes"]:
            node["listeners"] = []
    ours = oracle.encode(key, version, "response", tree)
    if key == ApiKey.SHARE_FETCH:
        ours = ShareFetchWalk(version, len(body)).feed(body)
    theirs = answer_frame(key, version, correlation_id, body, tags)
    return theirs, answer_frame(key, version, correlation_id, ours, tags)


def produce(rng: Random, correlation_id: int) -> Turn:
    """Make a Produce request of any version and acks."""
    version = rng.randrange(2, 14)
    oracle = oracle_for(rng, ApiKey.PRODUCE, version)
    assert oracle is not None
    tree = oracle.message(rng, ApiKey.PRODUCE, version, "request")
    tree["acks"] = acks = rng.choice((0, 1, -1))
    body = oracle.encode(ApiKey.PRODUCE, version, "request", tree)
    request = request_frame(rng, ApiKey.PRODUCE, version, correlation_id, body)
    if acks == 0:
        return Turn(ApiKey.PRODUCE, version, request, forwarded=True, answer=None, for_client=b"")
    theirs, ours = rewritten_answers(rng, ApiKey.PRODUCE, version, correlation_id)
    return Turn(ApiKey.PRODUCE, version, request, forwarded=True, answer=theirs, for_client=ours)


def produce_again(rng: Random, correlation_id: int) -> Turn:
    """Make a Produce request as a producer repeats it, and the answer that nearly all of them get."""
    version = rng.choice((9, 11, 11, 11, 13))
    acks = rng.choice((1, 1, 1, 1, 0))
    start = INT16.pack(0) + INT16.pack(version) + INT32.pack(correlation_id) + b"\x00\x01c" + b"\x00"
    frame = start + b"\x00" + INT16.pack(acks) + rng.randbytes(rng.choice((0, 9, 300)))
    request = INT32.pack(len(frame)) + frame
    if acks == 0:
        return Turn(ApiKey.PRODUCE, version, request, forwarded=True, answer=None, for_client=b"")
    topic = rng.randbytes(16) if version >= 13 else b"\x07orders"
    partitions = rng.choice((1, 1, 2, 100))
    partition = bytes(6) + b"\xff" * 24 + b"\x01\x00\x00"
    body = b"\x02" + topic + put_uvarint(partitions + 1) + partition * partitions + b"\x00" + bytes(4) + b"\x00"
    answer = answer_frame(ApiKey.PRODUCE, version, correlation_id, body)
    return Turn(ApiKey.PRODUCE, version, request, forwarded=True, answer=answer, for_client=answer)


def rewritten(key: int, rng: Random, correlation_id: int) -> Turn:
    """Make a request whose answer names brokers."""
    api = APIS[key]
    versions = [v for v in range(api.min_version, api.max_version + 1) if KIO.versions(key) and v in KIO.versions(key)]
    version = rng.choice(versions)
    request = request_frame(rng, key, version, correlation_id, random_body(rng, key, version))
    theirs, ours = rewritten_answers(rng, key, version, correlation_id)
    return Turn(key, version, request, forwarded=True, answer=theirs, for_client=ours)


def api_versions(rng: Random, correlation_id: int) -> Turn:
    """Make an ApiVersions request: of a version that kproxy has, one that it has not, or with a bad name."""
    version = rng.choice((0, 1, 2, 3, 4, 9))
    body = rng.randbytes(9)
    answer = apiversions.unsupported_version_response()
    if version <= 4:
        name = rng.choice(("librdkafka", "apache-kafka-java", "-bad-"))
        body = apiversions.request(version, apiversions.ClientSoftware(name, "2.4.0-rc1"))
        bad = version >= 3 and name == "-bad-"
        answer = apiversions.response(version, ApiVersionsAnswer(error_code=42) if bad else OFFER.answer)
    request = request_frame(rng, ApiKey.API_VERSIONS, version, correlation_id, body)
    ours = answer_frame(ApiKey.API_VERSIONS, version, correlation_id, answer)
    return Turn(ApiKey.API_VERSIONS, version, request, forwarded=False, answer=None, for_client=ours)


def sasl(rng: Random, correlation_id: int) -> Turn:
    """Make an attempt to log in, which a listener without SASL refuses."""
    key, version = rng.choice(((17, 0), (17, 1), (36, 0), (36, 1), (36, 2)))
    request = request_frame(rng, key, version, correlation_id, random_body(rng, key, version))
    refusal = handshake.sasl_handshake_illegal_state()
    if key == ApiKey.SASL_AUTHENTICATE:
        refusal = handshake.sasl_authenticate_illegal_state(version)
    ours = answer_frame(key, version, correlation_id, refusal)
    return Turn(key, version, request, forwarded=False, answer=None, for_client=ours)


def conversation(rng: Random, turns: int) -> list[Turn]:
    """Make a conversation of everything; correlation ids repeat, as some clients' do."""
    makers: list[Callable[[Random, int], Turn]] = [plain, plain, plain, produce, produce, api_versions, sasl]
    makers += [
        partial(rewritten, key) for key in (ApiKey.METADATA, ApiKey.METADATA, ApiKey.SHARE_FETCH, *WHOLE_ANSWERS)
    ]
    makers += [produce_again] * rng.choice((0, 3, 50))
    return [rng.choice(makers)(rng, rng.choice((0, 1, 2, -1, 2**31 - 1))) for _ in range(turns)]


Cut = Callable[[Random, bytes, int], int]
"""(dice, bytes, from where) -> how many of them one read brings."""


def whole(_rng: Random, data: bytes, pos: int) -> int:
    """Read all that is there."""
    return len(data) - pos


def one_byte(_rng: Random, _data: bytes, _pos: int) -> int:
    """Read byte by byte."""
    return 1


def one_frame(_rng: Random, data: bytes, pos: int) -> int:
    """Read frame by frame, as most reads are."""
    size: int = INT32.unpack_from(data, pos)[0]
    return 4 + size


def at_random(rng: Random, data: bytes, pos: int) -> int:
    """Read a random part, often a small one."""
    there = len(data) - pos
    return min(there, rng.choice((1, 3, 4, 7, 8, 9, 40, 300, 5_000, there)))


class Talk:
    """Plays one conversation through an Exchange, and holds each step against the model."""

    def __init__(self, turns: list[Turn], offer: Offer = OFFER) -> None:
        self.tally = Tally()
        self.exchange = Exchange(Front(offer, self.tally), advertise)
        self.turns = turns
        self.from_client = b"".join(turn.request for turn in turns)
        self.for_client = b"".join(turn.for_client for turn in turns)
        self._forwarded = [turn for turn in turns if turn.forwarded]
        self.for_broker = b"".join(turn.request for turn in self._forwarded)
        self._requests_end = [0, *_ends(turn.request for turn in turns)]
        self._forwarded_start = [0, *_ends(turn.request for turn in self._forwarded)]
        self.sent = 0  # by the client
        self.got = 0  # by the client
        self.broker_got = 0  # of the client's bytes
        self._broker_unread = b""  # not a whole frame yet
        self._broker_next = 0
        self._answers = b""  # made by the broker, and not sent yet
        self._answer_log: list[tuple[int, int, bool]] = []  # (start, end, awaited) in what the broker sends
        self.broker_sent = 0
        self._asks: dict[bytes, bytes] = {}  # our own requests under way -> their answers
        self.own_asked = 0

    # Steps.

    def client_step(self, rng: Random, cut: Cut) -> None:
        """Let the client send something."""
        size = cut(rng, self.from_client, self.sent)
        data = self.from_client[self.sent : self.sent + size]
        self.sent += size
        self.upstream(self.exchange.from_client(data))

    def broker_step(self, rng: Random, cut: Cut) -> None:
        """Let the broker send something."""
        size = cut(rng, self._answers, 0)
        data, self._answers = self._answers[:size], self._answers[size:]
        self.broker_sent += size
        self._client_gets(self.exchange.from_broker(data))
        self.check()

    def upstream(self, out: bytes) -> None:
        """Give the broker what the exchange returned, and the client what was answered at once."""
        assert self.for_broker.startswith(out, self.broker_got)
        self.broker_got += len(out)
        self._client_gets(b"".join(self.exchange.replies))
        self.exchange.replies.clear()
        self._broker_reads(out)
        self.check()

    def ask(self, ask: Ask, answer: bytes, answered: Callable[[bytes], None]) -> None:
        """Send a request of our own; the broker answers with ``answer``, a body."""
        frame = self.exchange.ask(ask, answered)
        self.own_asked += 1
        self._asks[frame] = answer_frame(ask.key, ask.version, ask.correlation_id, answer)
        self._broker_reads(frame)

    @property
    def can_answer(self) -> bool:
        """The broker has something to send."""
        return bool(self._answers)

    @property
    def can_send(self) -> bool:
        """The client has something to send."""
        return self.sent < len(self.from_client)

    def run(self, rng: Random, cut: Cut) -> None:
        """Play to the end; the broker is as slow as the dice want."""
        patience = rng.choice((0.05, 0.5, 0.95))
        while self.can_send or self.can_answer:
            if self.can_send and (not self.can_answer or rng.random() < patience):
                self.client_step(rng, cut)
            else:
                self.broker_step(rng, cut)
        self.check_end()

    # The model.

    def _client_gets(self, out: bytes) -> None:
        assert self.for_client.startswith(out, self.got)
        self.got += len(out)

    def _broker_reads(self, data: bytes) -> None:
        """Take requests and answer each in its turn."""
        unread = self._broker_unread + data
        while len(unread) >= 4 and len(unread) >= (end := 4 + INT32.unpack_from(unread)[0]):
            frame, unread = unread[:end], unread[end:]
            if frame in self._asks:
                self._broker_answers(self._asks.pop(frame), awaited=True)
                continue
            turn = self._forwarded[self._broker_next]
            self._broker_next += 1
            assert frame == turn.request
            if turn.answer is not None:
                self._broker_answers(turn.answer, awaited=turn.awaited)
        self._broker_unread = unread

    def _broker_answers(self, answer: bytes, *, awaited: bool) -> None:
        start = self.broker_sent + len(self._answers)
        self._answer_log.append((start, start + len(answer), awaited))
        self._answers += answer

    def check(self) -> None:
        """Hold the counts against the bytes that have passed."""
        exchange = self.exchange
        begun = [
            turn
            for turn, start in zip(self._forwarded, self._forwarded_start, strict=False)
            if start < self.broker_got and turn.answer is not None
        ]
        answers_begun = [log for log in self._answer_log if self.broker_sent >= log[0] + (8 if log[2] else 4)]
        answers_whole = [log for log in self._answer_log if self.broker_sent >= log[1]]
        assert exchange.asked == len(begun) + self.own_asked
        assert exchange.answered == len(answers_begun)
        assert exchange.outstanding == exchange.asked - len(answers_whole)
        at_boundary = self.broker_got in self._forwarded_start
        assert exchange.at_boundary == at_boundary
        all_whole = self.sent in self._requests_end and not exchange._withheld
        assert exchange.idle == (all_whole and exchange.outstanding == 0)
        assert exchange.begun or not (self.broker_got or self.got)
        assert self.sent or self.own_asked or not exchange.begun

    def check_end(self) -> None:
        """Everything has arrived, is counted, and leaves nothing behind."""
        exchange = self.exchange
        assert self.broker_got == len(self.for_broker)
        assert self.got == len(self.for_client)
        assert exchange.idle
        assert exchange.begun == bool(self.turns)
        assert all(run.ordinal > run.last > 0 for run in exchange._awaited)  # Produce may go on
        assert not exchange._own
        assert exchange._stop in (-1, *(run.ordinal for run in exchange._awaited))
        counted: dict[int, int] = {}
        for turn in self.turns:
            known = min(turn.version, 0 if turn.version > APIS[turn.key].max_version else turn.version)
            counted[turn.key << 16 | known] = counted.get(turn.key << 16 | known, 0) + 1
        assert {key: count for key, count in self.tally.requests.items() if count} == counted


def _ends(frames: Iterator[bytes]) -> Iterator[int]:
    end = 0
    for frame in frames:
        end += len(frame)
        yield end
