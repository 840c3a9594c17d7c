"""A watched connection: it changes nothing, takes no request for another, and tells what is true."""

from collections import Counter
from random import Random
from typing import Any

import pytest
from conversations import OFFER, Cut, Talk, Turn, advertise, at_random, conversation, one_byte, one_frame, whole
from metered_stage import Clock, bucket, fetch, fetched, heartbeat, produce, produced, whole_request_ids
from test_routed_parts import exchange as routed_exchange
from test_routed_parts import fetch as routed_fetch

from kproxy.core.directory import Directory
from kproxy.core.errorcounts import UNKNOWN
from kproxy.core.exchange import Front
from kproxy.core.kinds import exchange_class
from kproxy.core.latency import Latencies
from kproxy.core.limits import Action, Client, Limits, Rule
from kproxy.core.observed import TEXT_CHARS_MAX, WATCHED_MAX, Answerer, Observation, Picks, Watch
from kproxy.core.routed import FanOut, Lookup
from kproxy.core.routed import Turn as LaneTurn
from kproxy.core.sasl import Ask
from kproxy.core.tally import Tally
from kproxy.errors import Unsupported
from kproxy.wire import apiversions, frames
from kproxy.wire.apis import ApiKey
from kproxy.wire.primitives import INT16, INT32

ALICE = Client("public", "10.0.0.1", "User:alice", "")
API_VERSIONS = frames.request(
    ApiKey.API_VERSIONS, 3, 9, "c", apiversions.request(3, apiversions.ClientSoftware("a", "1"))
)


class Seen:
    """A watched connection, the clock of its watch, and what was told."""

    def __init__(
        self,
        *rules: Rule,
        routed: Directory | None = None,
        latency: bool = False,
        log: bool = True,
        dice: Any = lambda: 0.0,
        **picks: Any,
    ) -> None:
        self.clock = Clock()
        self.told: list[Observation] = []
        self.latencies = Latencies() if latency else None
        take = self.told.append if log else None
        self.watch = Watch(self.clock, dice, self.latencies, take, Picks(**picks))
        kind = exchange_class(routed=routed is not None, limited=bool(rules), observed=True)
        more = () if routed is None else (routed,)
        self.exchange = kind(Front(OFFER, Tally()), advertise, *more)
        if rules:
            self.exchange.meter(Limits(rules), ALICE, self.clock, lambda: None)
        self.exchange.observe(self.watch, ALICE, 4000, 3)
        if routed is not None:
            self.exchange.reached(1)

    def send(self, data: bytes) -> bytes:
        """Let the client send something."""
        out: bytes = self.exchange.from_client(data)
        return out

    def answer(self, data: bytes, after: float = 0.0) -> bytes:
        """Let the broker send something, so much later."""
        self.clock.now += after
        out: bytes = self.exchange.from_broker(data)
        return out

    def go_on(self) -> None:
        """Let what is held go on when it is time to."""
        self.clock.now = self.exchange.wake_at
        self.exchange.go_on()

    def timed(self, api: str, part: str) -> tuple[int, float]:
        """Return how many requests of an API were timed, and how long they took."""
        assert self.latencies is not None
        found: Any = self.latencies.snapshot().get(api, {}).get(part, {"buckets": {}, "sum_seconds": 0.0})
        return sum(found["buckets"].values()), found["sum_seconds"]

    @property
    def ids(self) -> list[int]:
        """The correlation ids of what was told."""
        return [one.correlation_id for one in self.told]


# It changes nothing, and tells the truth.


def truth(turn: Turn) -> tuple[Any, ...]:
    """What there is to tell of a request in a conversation."""
    correlation_id = INT32.unpack_from(turn.request, 8)[0]
    by, answer = Answerer.NOBODY, None
    if turn.answer is not None:
        by, answer = Answerer.BROKER, len(turn.answer)
    elif turn.for_client:
        by, answer = Answerer.KPROXY, len(turn.for_client)
    return turn.key, turn.version, correlation_id, len(turn.request), by, answer


@pytest.mark.parametrize("sample", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("cut", [whole, one_byte, one_frame, at_random])
@pytest.mark.parametrize("seed", range(12))
def test_conversations(seed: int, cut: Cut, sample: float) -> None:
    """However it is cut, broker and client get what they get unwatched, and what is told is true of some request.

    Also where correlation ids repeat.
    """
    rng = Random(seed)
    turns = conversation(rng, rng.choice((1, 5, 25)))
    seen = Seen(latency=True, dice=rng.random, sample=sample)
    talk = Talk(turns)
    seen.exchange._counts = talk.exchange._counts
    talk.exchange = seen.exchange
    talk.run(rng, cut)
    told = Counter(
        (one.key, one.version, one.correlation_id, one.request_bytes, one.answered_by, one.response_bytes)
        for one in seen.told
    )
    assert told <= Counter(map(truth, turns))
    assert bool(told) <= bool(sample)
    if cut is whole and sample == 1:
        assert told + Counter(dict.fromkeys([None], seen.watch.missed)) == Counter(map(truth, turns))
    seen.exchange.conclude()
    assert len(seen.told) == sum(told.values())  # nothing was left


@pytest.mark.parametrize("seed", range(20))
def test_every_request_of_a_polite_client(seed: int) -> None:
    """Of a client that asks one thing at a time all is told with a sample of 1, each once."""
    rng = Random(seed)
    turns = conversation(rng, 12)
    seen = Seen()
    for turn in turns:
        seen.send(turn.request)
        if turn.answer is not None:
            seen.answer(turn.answer)
    assert Counter(truth(turn) for turn in turns) == Counter(
        (one.key, one.version, one.correlation_id, one.request_bytes, one.answered_by, one.response_bytes)
        for one in seen.told
    )


def test_what_is_told() -> None:
    """A request's client, size, topic, times and broker are told, and its answer's size, error and throttle time."""
    seen = Seen()
    seen.send(API_VERSIONS)
    seen.told.clear()
    seen.exchange.replies.clear()
    seen.send(produce(7, version=9))
    assert seen.told == []
    seen.answer(produced(7, version=9), after=0.25)
    seen.send(heartbeat(8))
    seen.answer(frames.response(8, ApiKey.HEARTBEAT, 3, INT32.pack(5) + INT16.pack(25)))
    one, other = seen.told
    assert one == Observation(
        client=ALICE._replace(client_id="c"),
        client_port=4000,
        software=apiversions.ClientSoftware("a", "1"),
        node_id=3,
        key=0,
        version=9,
        correlation_id=7,
        topic="t",
        topic_id=None,
        request_bytes=len(produce(7, version=9)),
        response_bytes=len(produced(7, version=9)),
        answered_by=Answerer.BROKER,
        error_code=None,
        throttle_time_ms=None,
        read_at=1000.0,
        kproxy_seconds=0.0,
        upstream_seconds=0.25,
    )
    assert (other.error_code, other.throttle_time_ms, other.topic) == (25, 5, None)


def test_a_topic_by_its_id() -> None:
    """A topic that a request names by id is told so, with its name once that is known; unknown ones are looked up."""
    seen, wanted = Seen(), list[bytes]()
    topic_id = bytes(range(16))
    seen.watch.names.wanted = wanted.append
    for name in (None, "t"):
        seen.send(routed_fetch(0, 0, version=13))
        seen.answer(frames.response(1, 1, 13, bytes(20)))
        told = seen.told.pop()
        assert (told.topic, told.topic_id) == (name, topic_id)
        seen.watch.names.learn(topic_id, "t")
    assert wanted == [topic_id]


def test_a_topic_that_cannot_be_read() -> None:
    """A request whose topic is not in sight, or that has none, is told without."""
    seen = Seen()
    whole_one = frames.request(ApiKey.FETCH, 4, 1, "c", bytes(20))
    for request in (fetch(1), whole_one[:20]):
        seen.send(request)
    seen.send(whole_one[20:])
    seen.answer(fetched(1) * 2)
    assert [one.topic for one in seen.told] == [None, None]


def test_a_long_client_id() -> None:
    """Of a client id only its beginning is told."""
    seen = Seen()
    seen.send(fetch(1, client_id="x" * 5000))
    seen.answer(fetched(1))
    assert seen.told[0].client.client_id == "x" * TEXT_CHARS_MAX


@pytest.mark.parametrize("size", [12, 16, 17, 18])
def test_a_client_id_that_is_not_there_yet(size: int) -> None:
    """A request whose client, or acks, the read does not show is not told: the next read's is."""
    seen = Seen()
    data = produce(1, version=8)
    seen.send(data[:size])
    seen.send(data[size:])
    seen.send(produce(2, version=8))
    seen.answer(produced(1, version=8) + produced(2, version=8))
    assert seen.ids == [2]
    seen.send(produce(3, version=8) + data[:size])
    seen.send(data[size:])
    assert len(seen.exchange._watched) == 1


def test_who_answers() -> None:
    """What kproxy answers by itself, and Produce without acks, is told at once, with no time upstream."""
    seen = Seen()
    seen.send(fetch(1))
    seen.send(API_VERSIONS)
    seen.send(produce(3, acks=0, version=8))
    assert seen.ids == [9, 3]
    kproxys, nobodys = seen.told
    assert (kproxys.answered_by, kproxys.upstream_seconds, kproxys.error_code) == (Answerer.KPROXY, None, 0)
    assert (nobodys.answered_by, nobodys.response_bytes, nobodys.error_code) == (Answerer.NOBODY, None, None)
    seen.answer(fetched(1))
    assert seen.ids == [9, 3, 1]


def test_an_answer_of_ours_with_the_same_id() -> None:
    """Where ids repeat, kproxy's answer to a later request is not taken for that to the one that was picked."""
    seen = Seen()
    seen.send(fetch(9) + API_VERSIONS)
    seen.answer(fetched(9))
    seen.send(produce(9, acks=0, version=8) + API_VERSIONS)
    assert [(one.key, one.answered_by) for one in seen.told] == [
        (18, Answerer.KPROXY),
        (1, Answerer.BROKER),
        (0, Answerer.NOBODY),
        (18, Answerer.KPROXY),
    ]


def test_what_was_never_answered() -> None:
    """When the connection ends, what waits for its answer is told as lost; what is only timed is not."""
    seen = Seen(latency=True)
    seen.send(fetch(1))
    seen.clock.now += 2
    seen.exchange.conclude()
    assert [(one.answered_by, one.upstream_seconds) for one in seen.told] == [(Answerer.LOST, None)]
    timed = Seen(latency=True, log=False)
    for number in (1, 2):
        timed.send(fetch(number))
    timed.exchange.conclude()
    assert timed.told == []


def test_what_was_never_let_go() -> None:
    """So is what a limit holds back when the connection ends."""
    seen = Seen(bucket(rate=1.0))
    seen.send(fetch(1))
    seen.answer(fetched(1))
    seen.send(fetch(2))
    seen.clock.now += 0.5
    seen.exchange.conclude()
    assert [(one.correlation_id, one.answered_by, one.kproxy_seconds) for one in seen.told[1:]] == [
        (2, Answerer.LOST, 0.5)
    ]


def test_another_answer_in_its_place() -> None:
    """An answer with another correlation id than the request's, or cut before it, is told of nobody."""
    seen = Seen(latency=True)
    seen.send(fetch(1))
    seen.answer(fetched(2))
    seen.send(fetch(3))
    seen.answer(fetched(3)[:5])
    seen.answer(fetched(3)[5:])
    assert seen.told == []
    assert seen.timed("Fetch", "upstream") == (0, 0.0)


def test_the_second_of_a_read() -> None:
    """An answer is found behind others that come with it, also where the read begins amid one."""
    seen = Seen()
    seen.send(fetch(1) + fetch(2))
    seen.send(fetch(3) + fetch(4))
    stream = b"".join(map(fetched, range(1, 5)))
    seen.answer(stream[:10], after=1.0)
    seen.answer(stream[10:], after=1.0)
    assert [(one.correlation_id, one.upstream_seconds) for one in seen.told] == [(1, 1.0), (2, 2.0), (3, 2.0), (4, 2.0)]


def test_a_request_amid_a_read() -> None:
    """The first request that begins in a read is told, where the read begins amid another."""
    seen = Seen()
    long_one = fetch(1, size=500)
    seen.send(long_one[:100])
    seen.send(long_one[100:300])  # in which none begins
    seen.send(long_one[300:] + fetch(2) + fetch(3)[:10])
    seen.send(fetch(3)[10:])
    seen.answer(b"".join(map(fetched, (1, 2, 3))))
    assert seen.ids == [1, 2]


def test_so_many_at_once() -> None:
    """Of one connection no more than a certain number is watched at once."""
    seen = Seen(latency=True)
    for number in range(WATCHED_MAX + 10):
        seen.send(fetch(number))
    seen.answer(b"".join(map(fetched, range(WATCHED_MAX + 10))))
    assert seen.ids == list(range(WATCHED_MAX))
    assert seen.watch.missed == 10
    only_timed = Seen(latency=True, log=False)
    for number in range(WATCHED_MAX + 10):
        only_timed.send(fetch(number))
    only_timed.answer(b"".join(map(fetched, range(WATCHED_MAX + 10))))
    assert only_timed.timed("Fetch", "upstream")[0] == WATCHED_MAX


# What is picked.


@pytest.mark.parametrize(
    ("picks", "told"),
    [
        ({}, True),
        ({"sample": 0.0}, False),
        ({"apis": frozenset({1})}, True),
        ({"apis": frozenset({0, 3})}, False),
        ({"client_ids": ("c*",)}, True),
        ({"client_ids": ("batch-*",)}, False),
        ({"principals": ("User:al*",)}, True),
        ({"principals": ("User:bob",)}, False),
        ({"client_ips": ()}, False),
    ],
)
def test_match(picks: dict[str, Any], *, told: bool) -> None:
    """Only what matches is told."""
    seen = Seen(**picks)
    seen.send(fetch(1))
    seen.answer(fetched(1))
    assert bool(seen.told) == told


def test_sample() -> None:
    """As many reads are told as the sample says, whatever comes, and with the same dice the same."""
    counts = []
    for _ in range(2):
        seen = Seen(dice=Random(5).random, sample=0.1, latency=True)
        for _ in range(3000):
            seen.send(fetch(1))
            seen.answer(fetched(1))
        counts.append(len(seen.told))
        assert seen.timed("Fetch", "upstream")[0] == pytest.approx(375, rel=0.1)
    assert counts[0] == counts[1] == pytest.approx(300, rel=0.2)


def test_gap() -> None:
    """The gap to the next read that is picked is 1 for all, above any for none, and as the dice say between."""
    assert Picks(sample=1.0).gap(lambda: 0.9) == 1
    assert Picks(sample=0.0).gap(lambda: 0.9) > 1 << 60
    assert [Picks(sample=0.5).gap(lambda dice=dice: dice) for dice in (0.0, 0.49, 0.51, 0.76)] == [1, 1, 2, 3]  # type: ignore[misc]


def test_who_logs_in() -> None:
    """Since a client has logged in, it is told, and matched, as who it is."""
    seen = Seen(principals=("User:bob",))
    seen.send(fetch(1))
    seen.answer(fetched(1))
    seen.exchange.identify(ALICE._replace(principal="User:bob"))
    seen.send(fetch(2))
    seen.answer(fetched(2))
    assert [(one.correlation_id, one.client.principal) for one in seen.told] == [(2, "User:bob")]


# Errors.


def refused(correlation_id: int, code: int) -> bytes:
    """Make a Heartbeat's answer."""
    return frames.response(correlation_id, ApiKey.HEARTBEAT, 3, INT32.pack(5) + INT16.pack(code))


def test_errors_of_what_is_timed() -> None:
    """Of what is timed, and of nothing else, errors are counted by API and name; no error is none."""
    seen = Seen(latency=True, log=False, dice=Random(2).random)
    codes = [27, 0, 25, 1000, 27] * 200
    for number, code in enumerate(codes):
        seen.send(heartbeat(number))
        seen.answer(refused(number, code))
    assert seen.latencies is not None
    counts = seen.latencies.errors.snapshot()["Heartbeat"]
    assert counts.keys() == {"REBALANCE_IN_PROGRESS", "UNKNOWN_MEMBER_ID", UNKNOWN}
    timed, _ = seen.timed("Heartbeat", "upstream")
    assert timed < len(codes) / 2
    assert timed * 0.5 < sum(counts.values()) < timed
    assert counts["REBALANCE_IN_PROGRESS"] > counts["UNKNOWN_MEMBER_ID"]


def test_no_error_of_what_is_only_logged() -> None:
    """What is only told to the log, or is another's answer, counts no error."""
    seen = Seen(latency=True, dice=lambda: 0.99)
    seen.send(heartbeat(1))
    seen.answer(refused(2, 27))
    seen.send(heartbeat(2))
    seen.answer(refused(2, 27))
    assert [one.error_code for one in seen.told] == [27]
    assert seen.latencies is not None
    assert seen.latencies.errors.snapshot() == {}


# Latency.


def test_times() -> None:
    """What is timed is the time to the first byte of the answer; what is let go at once takes none in kproxy."""
    seen = Seen(latency=True, log=False)
    seen.send(API_VERSIONS)
    seen.send(fetch(1))
    seen.answer(b"", after=0.1)
    seen.answer(fetched(1)[:12], after=0.3)
    seen.answer(fetched(1)[12:], after=5)
    assert seen.timed("Fetch", "upstream") == (1, 0.4)
    assert seen.timed("Fetch", "kproxy") == (1, 0.0)
    assert seen.timed("ApiVersions", "kproxy") == (0, 0.0)


def test_a_limit_shows_in_kproxy() -> None:
    """What a limit holds back is time in kproxy, for the request that comes alone and for one behind others."""
    seen = Seen(bucket(rate=1.0), latency=True)
    seen.send(fetch(1) + fetch(2) + fetch(3))
    seen.answer(fetched(1))
    seen.go_on()
    seen.answer(fetched(2), after=0.1)
    seen.go_on()
    seen.answer(fetched(3))
    seen.send(fetch(4))
    seen.go_on()
    seen.answer(fetched(4))
    times = {one.correlation_id: (one.kproxy_seconds, one.upstream_seconds) for one in seen.told}
    assert times[1][0] == pytest.approx(0.0)
    assert times[2][0] == pytest.approx(1.0, abs=0.1)
    assert times[2][1] == pytest.approx(0.1)
    assert times[4][0] == pytest.approx(1.0, abs=0.1)
    count, seconds = seen.timed("Fetch", "kproxy")
    assert (count, round(seconds)) == (3, 2)  # not the third, which was held again: one of each read
    assert times[3][0] == pytest.approx(2.0, abs=0.2)


def test_only_timed_and_held() -> None:
    """A request that is held and only timed is timed; one that comes while another is held is let be."""
    seen = Seen(bucket(rate=1.0), latency=True, log=False)
    seen.send(fetch(1))
    seen.answer(fetched(1))
    seen.send(fetch(2))
    seen.send(fetch(3)[:20])
    seen.send(fetch(3)[20:])
    seen.go_on()
    seen.answer(fetched(2))
    count, seconds = seen.timed("Fetch", "kproxy")
    assert (count, round(seconds)) == (2, 1)


def test_only_timed_and_held_behind_another() -> None:
    """Of a read that is timed the first request is, and the first that a limit holds back of it."""
    seen = Seen(bucket(rate=1.0), latency=True, log=False)
    seen.send(fetch(1) + fetch(2) + fetch(3))
    seen.answer(fetched(1))
    seen.go_on()
    seen.answer(fetched(2))
    count, seconds = seen.timed("Fetch", "kproxy")
    assert (count, round(seconds)) == (2, 1)


def test_an_unknown_api() -> None:
    """A request that is none of Kafka's is refused as ever, and told of nobody."""
    seen = Seen()
    with pytest.raises(Unsupported):
        seen.send(INT32.pack(20) + INT16.pack(99) + bytes(18))
    assert seen.told == []


def test_half_a_request_is_held() -> None:
    """Of what is held too little may be there to tell what it is."""
    seen = Seen(bucket(rate=1.0))
    seen.send(fetch(1) + fetch(2)[:9])
    seen.send(fetch(2)[9:])
    assert seen.exchange.waits
    seen.go_on()
    seen.answer(fetched(1) + fetched(2))
    assert seen.ids == [1]
    timed = Seen(bucket(rate=1.0, action=Action.THROTTLE), latency=True, log=False)
    timed.send(fetch(1) + fetch(2) + fetch(3)[:9])
    assert timed.exchange.waits
    timed.answer(fetched(1) + fetched(2))
    assert timed.timed("Fetch", "upstream")[0] == 1


def test_held_and_not_meant() -> None:
    """What is held and does not match is let be."""
    seen = Seen(bucket(rate=1.0), apis=frozenset({3}))
    for number in (1, 2):
        seen.send(fetch(number))
    seen.go_on()
    seen.answer(fetched(1) + fetched(2))
    assert seen.told == []


@pytest.mark.parametrize("version", [8, 11])
def test_no_acks_and_held(version: int) -> None:
    """A Produce without acks that a limit holds is told when it goes, not before."""
    seen = Seen(bucket(rate=1.0), latency=True)
    seen.send(produce(1, acks=0, version=version))
    seen.send(produce(2, acks=0, version=version))
    assert seen.ids == [1]
    seen.go_on()
    assert seen.ids == [1, 2]
    assert seen.told[1].kproxy_seconds == pytest.approx(1.0, abs=0.1)
    seen.send(produce(3, acks=0, version=version) + produce(4, acks=0, version=version))
    seen.go_on()
    seen.go_on()
    assert seen.timed("Produce", "kproxy") == (0, 0.0)
    only_timed = Seen(bucket(rate=1.0), latency=True, log=False)
    for number in (1, 2):
        only_timed.send(produce(number, acks=0, version=version))
    only_timed.go_on()
    assert only_timed.timed("Produce", "kproxy") == (0, 0.0)


def test_a_refusal() -> None:
    """What a limit refuses is told with its error, as kproxy's."""
    rule = bucket(rate=1.0, action=Action.REJECT, reject_produce=True)
    seen = Seen(rule)
    for number in (1, 2):
        seen.send(produce(number))
    seen.answer(produced(1))
    assert [(one.correlation_id, one.answered_by) for one in seen.told] == [(2, Answerer.KPROXY), (1, Answerer.BROKER)]


def test_a_refusal_amid_others() -> None:
    """What is refused amid a read takes no other's answer away."""
    seen = Seen(bucket(rate=1.0, action=Action.REJECT, reject_produce=True, apis=frozenset({0})))
    out = seen.send(produce(1) + produce(2) + fetch(3) + produce(4) + produce(5) + fetch(6))
    while seen.exchange.waits:
        seen.clock.now = seen.exchange.wake_at
        out += seen.exchange.go_on()
    passed = whole_request_ids(out)
    assert {1, 3, 6} <= set(passed) < {1, 2, 3, 4, 5, 6}
    seen.answer(b"".join(fetched(number) if number in {3, 6} else produced(number) for number in passed))
    told = {one.correlation_id: one.answered_by for one in seen.told}
    assert told == {number: Answerer.BROKER if number in passed else Answerer.KPROXY for number in (1, 2, 3, 4, 5, 6)}


def test_what_a_limit_tells() -> None:
    """The throttle time is what the client was told, where a limit says more than the broker."""
    seen = Seen(bucket(rate=1.0, action=Action.THROTTLE))
    seen.send(fetch(1) + fetch(2))
    seen.answer(fetched(1, throttle_ms=70) + fetched(2))
    assert seen.ids == [1, 2]
    assert 900 < (seen.told[0].throttle_time_ms or 0) <= 2000


# Before a whole cluster.


def test_a_lane() -> None:
    """What a request waits for another lane, or a look-up, is time in kproxy; the lane is told."""
    directory = Directory()
    routed_exchange(directory)  # which teaches it
    seen = Seen(routed=directory)
    seen.exchange.reached(2)
    seen.exchange.reached(1)
    seen.send(routed_fetch(0, -1))
    seen.send(routed_fetch(0, -1, partition=1))
    assert isinstance(seen.exchange.pending, LaneTurn)
    seen.answer(frames.response(1, 1, 12, bytes(20)), after=0.5)
    seen.exchange.proceed()
    seen.answer(frames.response(1, 1, 12, bytes(20)), after=0.25)
    assert [(one.node_id, one.kproxy_seconds, one.upstream_seconds) for one in seen.told] == [
        (1, 0, 0.5),
        (2, 0.5, 0.25),
    ]
    seen.send(routed_fetch(0, -1, partition=9))
    assert isinstance(seen.exchange.pending, Lookup)
    seen.clock.now += 1
    seen.exchange.proceed(give_up=True)
    seen.answer(frames.response(1, 1, 12, bytes(20)))
    assert seen.told[2].kproxy_seconds == 1


def test_a_fan_out() -> None:
    """What every broker was asked is told once it is joined, as kproxy's; nothing waits then, and proceeding is all."""
    seen = Seen(routed=Directory())
    seen.send(frames.request(ApiKey.LIST_GROUPS, 0, 5, "c", b""))
    fan_out = seen.exchange.pending
    assert isinstance(fan_out, FanOut)
    seen.clock.now += 0.5
    seen.exchange.join(fan_out, [b"\x00\x00\x00\x00\x00\x00"])
    seen.exchange.proceed()
    assert [(one.answered_by, one.kproxy_seconds, one.error_code) for one in seen.told] == [(Answerer.KPROXY, 0.5, 0)]
    assert seen.exchange.proceed() == b""


# While requests are held back for kproxy's own.


def test_a_renewal() -> None:
    """A login that is renewed between two requests is told of nobody; what waits for it, waits in kproxy."""
    seen = Seen()
    seen.send(fetch(1))
    assert seen.exchange.hold()
    bodies: list[bytes] = []
    seen.exchange.ask(Ask(b"frame", -7, 36, 0), bodies.append)
    seen.send(fetch(2))
    seen.answer(fetched(1) + frames.response(-7, 36, 0, b"body"))
    assert bodies == [b"body"]
    seen.clock.now += 0.5
    seen.exchange.release()
    assert seen.ids == [1]
    seen.send(fetch(3))
    seen.answer(fetched(2) + fetched(3))
    assert [(one.correlation_id, one.kproxy_seconds) for one in seen.told] == [(1, 0.0), (2, 0.5), (3, 0.0)]
    seen.exchange.hold()
    assert seen.exchange.release() == b""


def test_half_a_request_and_a_renewal() -> None:
    """A request of which too little is there when a renewal begins is told when it goes on."""
    seen = Seen()
    seen.send(API_VERSIONS[:20])
    seen.exchange.hold()
    seen.send(API_VERSIONS[20:])
    assert seen.told == []
    seen.clock.now += 0.5
    seen.exchange.release()
    assert [(one.correlation_id, one.answered_by, one.kproxy_seconds) for one in seen.told] == [
        (9, Answerer.KPROXY, 0.5)
    ]
