"""Exchanges of every kind whose clients log in anew, or have to: SASL among other requests, and a login that ends.

The models of ``conversations``, ``metered_conversations`` and ``routed_conversations`` are played with SASL requests in
between, which the test answers as the shell does: some time later.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import pytest
from conversations import (
    OFFER,
    Cut,
    Talk,
    Turn,
    advertise,
    answer_frame,
    at_random,
    conversation,
    one_byte,
    random_body,
    request_frame,
    sasl,
    whole,
)
from metered_conversations import CLIENT, MeteredRoutedTalk, MeteredTalk
from metered_stage import Clock, bucket, fetch, fetched, heartbeat, produce, produced, slots
from routed_conversations import RoutedTalk, Turn_
from test_exchange_holding import Renewal
from test_metered import NEVER, TIGHT

from kproxy.core.directory import Directory
from kproxy.core.exchange import OWN_ANSWERS_MAX, Exchange, Front, LoginRequest
from kproxy.core.limits import Action, Limits, Rule
from kproxy.core.metered import Metered, MeteredExchange, MeteredRoutedExchange
from kproxy.core.offer import Offer, make_offer
from kproxy.core.routed import Reach, RoutedExchange
from kproxy.core.routed import Turn as LaneTurn
from kproxy.core.tally import Tally
from kproxy.errors import Malformed, Unsupported
from kproxy.wire import apiversions, frames, handshake
from kproxy.wire.apis import ApiKey
from kproxy.wire.apiversions import ApiVersionsAnswer, ClientSoftware
from kproxy.wire.cluster import Coordinator, Partition, Topic
from kproxy.wire.primitives import INT16, INT32
from kproxy.wire.routing import Route, Target

# Conversations with logins in them.


@dataclass(frozen=True)
class LoginTurn(Turn):
    """A SASL request, and what the shell says to it."""

    body: bytes = b""
    said: bytes = b""


def logs_in(rng: Random, correlation_id: int) -> LoginTurn:
    """Make one; it means nothing to an exchange."""
    key, version = rng.choice(((17, 0), (17, 1), (36, 0), (36, 1), (36, 2)))
    body, said = random_body(rng, key, version), rng.randbytes(rng.randrange(30))
    request = request_frame(rng, key, version, correlation_id, body)
    ours = answer_frame(key, version, correlation_id, said)
    return LoginTurn(key, version, request, forwarded=False, answer=None, for_client=ours, body=body, said=said)


def with_logins(rng: Random, turns: int) -> list[Turn]:
    """Make a conversation in which a client logs in again and again, twice in a row, too."""
    made = conversation(rng, turns)
    return [
        logs_in(rng, rng.choice((0, 1, -1))) if turn.key in (17, 36) or rng.random() < 0.2 else turn for turn in made
    ]


class Logins:
    """What the shell does with the logins of a conversation."""

    def __init__(self, rng: Random, turns: list[LoginTurn]) -> None:
        self._rng = rng
        self._turns = turns

    def answer(self, exchange: Exchange) -> bytes:
        """Answer the one that is there, which must be the next."""
        turn = self._turns.pop(0)
        assert exchange.login == LoginRequest(turn.key, turn.version, INT32.unpack_from(turn.request, 8)[0], turn.body)
        assert not exchange.settled
        return exchange.login_answered(turn.said, logged_in=self._rng.random() < 0.5)


def play(talk: Talk, rng: Random, cut: Cut, hold_at: int) -> None:
    """Play a conversation in which a client logs in while kproxy's own login is renewed, at one step of it."""
    exchange = talk.exchange
    exchange._front.asks_login = True
    logins = Logins(rng, [turn for turn in talk.turns if isinstance(turn, LoginTurn)])
    renewal: Renewal | None = None
    step = 0
    while talk.can_send or talk.can_answer or exchange.login or exchange.waits or renewal or hold_at >= step:
        if step == hold_at:
            renewal = Renewal(talk)
        step += 1
        if renewal is not None:
            renewal.step()
            if renewal.done:
                renewal = None
                talk.upstream(exchange.release())
        before = talk.broker_got if exchange.login is not None and exchange.at_boundary else None
        if exchange.login is not None and rng.random() < 0.2:
            talk.upstream(logins.answer(exchange))
            continue
        if isinstance(talk, MeteredTalk):
            talk.step(rng, cut)
        elif talk.can_send and (not talk.can_answer or rng.random() < 0.5):
            talk.client_step(rng, cut)
        elif talk.can_answer:
            talk.broker_step(rng, cut)
        if before is not None:
            assert talk.broker_got == before
    talk.check_end()


@pytest.mark.parametrize("cut", [whole, one_byte, at_random])
@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("rules", [None, NEVER, TIGHT[:2]], ids=["plain", "metered", "delayed"])
def test_conversations(seed: int, cut: Cut, rules: tuple[Rule, ...] | None) -> None:
    """Wherever clients log in, and however the bytes are cut, nobody notices but who answers the login.

    It is handed out when all before it has gone on, nothing behind it goes on before it is answered, and its answer
    has its place: behind those of all that was asked before. Also where kproxy's own login is renewed meanwhile.
    """
    rng = Random(seed)
    turns = with_logins(rng, rng.choice((1, 5, 12)))
    talk = Talk(turns) if rules is None else MeteredTalk(turns, *rules)
    play(talk, rng, cut, hold_at=rng.randrange(40) if seed % 2 else -1)


class RoutedLogins:
    """A conversation before a whole cluster, with logins put into it."""

    def __init__(self, talk: RoutedTalk, rng: Random) -> None:
        self.talk = talk
        talk.exchange._front.asks_login = True
        turns: list[LoginTurn] = []
        for at in sorted((rng.randrange(len(talk.turns) + 1) for _ in range(rng.randrange(1, 5))), reverse=True):
            turn = logs_in(rng, rng.choice((0, 1, -1)))
            turns.insert(0, turn)
            plain = Turn_(turn.key, turn.version, turn.request, Route(Target.ANY, 0), None, None, turn.for_client)
            talk.turns.insert(at, plain)
        talk._unsent = b"".join(turn.request for turn in talk.turns)
        talk.for_client = b"".join(turn.for_client for turn in talk.turns)
        self._logins = Logins(rng, turns)

    def run(self, cut: Cut, hold_share: float) -> None:
        """See RoutedTalk."""
        talk, rng = self.talk, self.talk.rng
        exchange = talk.exchange
        held = asked = False
        renewals = 0
        while talk._unsent or any(talk._answers.values()) or exchange.pending or held or exchange.login:
            if not held and rng.random() < hold_share:
                held, asked = True, False
                renewals += 1
                exchange.hold()
            if held:
                asked = talk._renew_step(asked=asked)
                if len(talk.own_answered) == renewals:
                    held = False
                    assert exchange.release() == b""
            if exchange.login is not None and rng.random() < 0.2:
                assert exchange.pending is None
                talk._upstream(self._logins.answer(exchange))
            elif exchange.pending is not None and rng.random() < 0.5:
                talk._pending_step()
            elif talk._unsent and rng.random() < 0.5:
                size = cut(rng, talk._unsent, 0)
                data, talk._unsent = talk._unsent[:size], talk._unsent[size:]
                talk._upstream(exchange.from_client(data))
            elif owing := [node for node, unsent in talk._answers.items() if unsent]:
                talk._broker_step(owing[0], cut)
        talk._check_end()


@pytest.mark.parametrize("cut", [whole, one_byte, at_random])
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", [RoutedTalk, MeteredRoutedTalk])
def test_conversations_before_a_cluster(seed: int, cut: Cut, kind: Callable[[Random, int], RoutedTalk]) -> None:
    """The same before a whole cluster, whatever broker the requests around the login are for."""
    rng = Random(seed)
    RoutedLogins(kind(rng, rng.choice((1, 5, 15))), rng).run(cut, hold_share=0.05 if seed % 2 else 0.0)


# One thing after another.


class Shell:
    """One connection of any kind, and what has passed it."""

    def __init__(self, kind: str, *rules: Rule, offer: Offer = OFFER) -> None:
        self.front = Front(offer, Tally(), asks_login=True)
        directory = Directory()
        directory.learn_topics([Topic(0, "t", bytes(16), [Partition(0, 0, 1, 0)])])
        directory.learn_coordinators(0, ["g"], [Coordinator(None, 1, "b", 9092, 0)])
        self.exchange: Exchange
        match kind:
            case "plain":
                self.exchange = Exchange(self.front, advertise)
            case "metered":
                self.exchange = MeteredExchange(self.front, advertise)
            case "routed":
                self.exchange = RoutedExchange(self.front, advertise, directory)
            case _:
                self.exchange = MeteredRoutedExchange(self.front, advertise, directory)
        if isinstance(self.exchange, Metered):
            self.exchange.meter(Limits(rules or NEVER), CLIENT, Clock(), lambda: None)
        if isinstance(self.exchange, RoutedExchange):
            self.exchange.reached(1)
        self.broker = b""
        self.client = b""

    def send(self, data: bytes) -> None:
        """Let the client send something."""
        self._upstream(self.exchange.from_client(data))

    def answer(self, data: bytes) -> None:
        """Let the broker send something."""
        self.client += self.exchange.from_broker(data)
        self._go_on()

    def say(self, body: bytes, *, logged_in: bool = True) -> None:
        """Answer the client's login."""
        self._upstream(self.exchange.login_answered(body, logged_in=logged_in))

    def release(self) -> None:
        """Let go on what was held."""
        self._upstream(self.exchange.release())

    def _upstream(self, out: bytes) -> None:
        self.broker += out
        self.client += b"".join(self.exchange.replies)
        self.exchange.replies.clear()
        self._go_on()

    def _go_on(self) -> None:
        each = self.exchange
        if isinstance(each, RoutedExchange) and isinstance(each.pending, LaneTurn | Reach) and each.quiet:
            self._upstream(each.proceed())


every_kind = pytest.mark.parametrize("kind", ["plain", "metered", "routed", "metered and routed"])

PROOF = frames.request(ApiKey.SASL_AUTHENTICATE, 2, 8, "c", b"\x06proof\x00")
CHOICE = frames.request(ApiKey.SASL_HANDSHAKE, 1, 7, "c", b"\x00\x05PLAIN")
INTRODUCTION = frames.request(ApiKey.API_VERSIONS, 3, 6, "c", apiversions.request(3, ClientSoftware("c", "1")))


def consent(number: int = 8) -> bytes:
    """Write the answer to PROOF that holds just a body of our own."""
    return frames.response(number, ApiKey.SASL_AUTHENTICATE, 2, b"yes")


@every_kind
def test_a_login_has_its_place(kind: str) -> None:
    """A SASL request is handed out; its answer follows the one before it, and what is behind it is withheld till then.

    The shell sees by ``replies`` that something has happened.
    """
    shell = Shell(kind)
    each = shell.exchange
    out = each.from_client(fetch(1) + PROOF + fetch(2) + fetch(3)[:20])
    assert (out, each.login) == (fetch(1), LoginRequest(36, 2, 8, b"\x06proof\x00"))
    assert each.replies
    shell._upstream(out)
    shell.send(fetch(3)[20:])
    assert (shell.broker, shell.client, each.settled, each.idle) == (fetch(1), b"", False, False)
    shell.say(b"yes")
    assert (shell.client, each.login) == (b"", None)
    shell.answer(fetched(1))
    assert shell.client == fetched(1) + consent()
    assert shell.broker == fetch(1) + fetch(2) + fetch(3)
    assert each.settled


@every_kind
def test_an_answer_when_nothing_is_owed(kind: str) -> None:
    """A login that is answered while the broker owes nothing is told at once."""
    shell = Shell(kind)
    shell.send(PROOF)
    shell.say(b"yes")
    assert (shell.client, shell.broker) == (consent(), b"")
    assert shell.exchange.idle


@every_kind
def test_what_was_withheld_may_log_in(kind: str) -> None:
    """Behind a login there may be another: each in its turn."""
    shell = Shell(kind)
    shell.send(CHOICE + PROOF + fetch(1) + PROOF + fetch(2))
    seen = []
    for _ in range(3):
        assert shell.exchange.login is not None
        seen.append(shell.exchange.login.key)
        shell.say(b"yes")
        if len(seen) == 2:
            assert shell.broker == fetch(1)
    assert seen == [17, 36, 36]
    shell.answer(fetched(1))
    assert shell.broker == fetch(1) + fetch(2)
    assert shell.client == frames.response(7, 17, 1, b"yes") + consent() + fetched(1) + consent()


@every_kind
@pytest.mark.parametrize("held_first", [True, False])
@pytest.mark.parametrize("released_first", [True, False])
def test_held_as_well(kind: str, *, held_first: bool, released_first: bool) -> None:
    """Held back by the shell and by a login at once, requests go on when both have ended, whichever comes first."""
    shell = Shell(kind)
    each = shell.exchange
    if held_first:
        each.hold()
        shell.send(PROOF + fetch(1))
        assert each.login is None
        shell.release()
        assert each.hold()
    else:
        shell.send(PROOF + fetch(1))
        assert each.hold()
    shell.send(fetch(2))
    ends: list[Callable[[], None]] = [shell.release, lambda: shell.say(b"yes")]
    for end in ends if released_first else reversed(ends):
        assert shell.broker == b""
        end()
    assert (shell.broker, shell.client) == (fetch(1) + fetch(2), consent())


@every_kind
def test_refused(kind: str) -> None:
    """A login that is refused is answered in its place, and nothing goes on behind it, whatever comes."""
    shell = Shell(kind)
    shell.send(fetch(1) + PROOF + fetch(2))
    shell.exchange.login_refused(b"no")
    shell._upstream(b"")
    shell.send(fetch(3))
    shell.answer(fetched(1))
    shell.send(fetch(4))
    assert shell.client == fetched(1) + frames.response(8, ApiKey.SASL_AUTHENTICATE, 2, b"no")
    assert shell.broker == fetch(1)


@every_kind
@pytest.mark.parametrize("refused", [True, False])
def test_too_many_answers_of_our_own(kind: str, *, refused: bool) -> None:
    """An answer to a login that would be one too many to keep ends the connection."""
    shell = Shell(kind)
    shell.send(fetch(1) + INTRODUCTION * OWN_ANSWERS_MAX + PROOF)
    answer = shell.exchange.login_refused if refused else shell.say
    with pytest.raises(Malformed, match="without reading an answer"):
        answer(b"no")


def test_no_password_is_shown() -> None:
    """A LoginRequest may hold a password, so its text does not hold its body."""
    assert "proof" not in f"{LoginRequest(36, 2, 8, b'proof')!r} {LoginRequest(36, 2, 8, b'proof')}"


@pytest.mark.parametrize("seed", range(10))
@every_kind
def test_where_nobody_logs_in(kind: str, seed: int) -> None:
    """A listener without logins refuses SASL as before."""
    shell = Shell(kind)
    shell.front.asks_login = False
    turn = sasl(Random(seed), 1)
    shell.send(turn.request)
    assert (shell.client, shell.exchange.login, shell.exchange.sasl_refused) == (turn.for_client, None, True)


@every_kind
def test_introduced_before(kind: str) -> None:
    """What a client was told on its way in holds from its first request on."""
    told = make_offer([ApiVersionsAnswer(ranges={3: (0, 9), 1: (4, 12)})])
    shell = Shell(kind)
    shell.exchange.introduced(told, ClientSoftware("c", "1"))
    assert (shell.exchange.offer, shell.exchange.software) == (told, ClientSoftware("c", "1"))
    shell.send(fetch(1))
    with pytest.raises(Unsupported, match="offered are versions 4 to 12"):
        shell.send(frames.request(ApiKey.FETCH, 13, 1, "c", bytes(60)))


# A login that ends.

METADATA = frames.request(ApiKey.METADATA, 1, 5, "c", INT32.pack(0))
CREATE = frames.request(ApiKey.CREATE_TOPICS, 7, 5, "c", b"\x01" + bytes(5) + b"\x00")
LIST_GROUPS = frames.request(ApiKey.LIST_GROUPS, 0, 5, "c", b"")
NO_ACKS = produce(5, acks=0)
OTHERS = {
    "fetch": fetch(5),
    "produce": produce(5),
    "old produce": produce(5, version=7),
    "no acks": NO_ACKS,
    "heartbeat": heartbeat(5),
    "metadata": METADATA,
    "create": CREATE,
}
others = pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)


@every_kind
@others
@pytest.mark.parametrize("cut", [0, 1, 7])
def test_expired(kind: str, other: bytes, cut: int) -> None:
    """When a login has ended whatever is not a new one ends the connection, also what is byte for byte as before.

    Nothing of it reaches a broker, even where its first bytes came in time: too few to tell what it is.
    """
    shell = Shell(kind)
    shell.send(other)
    shell.send(other + other[:cut])
    before = shell.broker
    assert before.startswith(other)
    shell.exchange.expire()
    assert shell.exchange.expired
    with pytest.raises(Unsupported):
        shell.send(other[cut:])
    assert shell.broker == before


@every_kind
@others
def test_expired_at_once(kind: str, other: bytes) -> None:
    """A client whose login ends before its first request is refused as any other."""
    shell = Shell(kind)
    shell.exchange.expire()
    with pytest.raises(Unsupported):
        shell.send(INTRODUCTION + other)
    assert shell.broker == b""


@pytest.mark.parametrize("request_", [LIST_GROUPS, frames.request(ApiKey.DESCRIBE_LOG_DIRS, 0, 5, "c", bytes(4))])
@pytest.mark.parametrize("kind", ["routed", "metered and routed"])
def test_expired_where_no_broker_is_asked(kind: str, request_: bytes) -> None:
    """What kproxy would answer by itself, or ask of all brokers, is refused likewise."""
    shell = Shell(kind)
    shell.exchange.expire()
    with pytest.raises(Unsupported):
        shell.send(request_)
    assert isinstance(shell.exchange, RoutedExchange)
    assert (shell.client, shell.exchange.pending) == (b"", None)


@every_kind
def test_a_new_login_makes_all_work_again(kind: str) -> None:
    """Expired, a client may introduce itself and log in, and then go on as before; steps in between change nothing."""
    shell = Shell(kind)
    each = shell.exchange
    shell.send(fetch(1) + produce(2))
    shell.answer(fetched(1) + produced(2))
    each.expire()
    shell.send(INTRODUCTION + CHOICE + PROOF + fetch(3) + produce(4))
    shell.say(b"choose", logged_in=False)
    assert (each.expired, each.login is not None, shell.broker) == (True, True, fetch(1) + produce(2))
    shell.say(b"yes")
    assert (each.expired, each.login) == (False, None)
    assert shell.broker == fetch(1) + produce(2) + fetch(3) + produce(4)
    shell.answer(fetched(3) + produced(4))
    assert shell.client.endswith(consent() + fetched(3) + produced(4))
    shell.send(produce(6) * 2)
    assert shell.broker.endswith(produce(6) * 2)


@every_kind
def test_an_unfinished_login_makes_nothing_work(kind: str) -> None:
    """What follows a step of a login that is not the last one is refused, although it came behind it."""
    shell = Shell(kind)
    shell.exchange.expire()
    shell.send(CHOICE + fetch(1))
    with pytest.raises(Unsupported):
        shell.say(b"choose", logged_in=False)
    assert shell.broker == b""


@every_kind
def test_under_way_when_it_expires(kind: str) -> None:
    """What was asked in time is answered, and the rest of a request whose beginning has gone on goes on, too."""
    shell = Shell(kind)
    shell.send(fetch(1) + produce(2)[:-5])
    assert shell.broker == fetch(1) + produce(2)[:-5]
    shell.exchange.expire()
    shell.send(produce(2)[-5:])
    assert shell.broker == fetch(1) + produce(2)
    shell.answer(fetched(1) + produced(2))
    assert shell.client == fetched(1) + produced(2)
    with pytest.raises(Unsupported):
        shell.send(fetch(3))


@every_kind
def test_withheld_when_it_expires(kind: str) -> None:
    """What was held back while the login ended came too late."""
    shell = Shell(kind)
    shell.exchange.hold()
    shell.send(fetch(1))
    shell.exchange.expire()
    with pytest.raises(Unsupported):
        shell.release()
    assert shell.broker == b""


@every_kind
def test_expired_under_a_new_offer(kind: str) -> None:
    """Introduced anew while expired, a client has what it was told then, once it is in again, and no more."""
    shell = Shell(kind)
    shell.exchange.expire()
    shell.front.offer = make_offer([ApiVersionsAnswer(ranges={1: (4, 11)})])
    shell.send(INTRODUCTION + PROOF)
    shell.say(b"yes")
    shell.send(fetch(1))
    assert shell.broker == fetch(1)
    with pytest.raises(Unsupported, match="Produce version 11: not offered"):
        shell.send(produce(2))


@pytest.mark.parametrize("kind", ["metered", "metered and routed"])
@pytest.mark.parametrize("action", [Action.REJECT, Action.THROTTLE, Action.DELAY, Action.CLOSE])
@pytest.mark.parametrize("known", [True, False])
def test_expired_under_limits(kind: str, action: Action, *, known: bool) -> None:
    """Whoever is expired is refused for that, whatever limit it is over: neither held back nor told to wait."""
    shell = Shell(kind, bucket("calm", action, rate=0.1, apis=frozenset({int(ApiKey.CREATE_TOPICS)})))
    each = shell.exchange
    if known:
        shell.send(CREATE)
    before = shell.broker
    each.expire()
    assert isinstance(each, Metered)
    with pytest.raises(Unsupported):
        shell.send(CREATE)
    assert (shell.broker, shell.client, each.refused_by) == (before, b"", None)


@pytest.mark.parametrize("kind", ["metered", "metered and routed"])
def test_logins_are_never_held_up(kind: str) -> None:
    """Neither rates nor slots keep a login waiting, nor does one take from them."""
    shell = Shell(kind, bucket("calm", rate=0.001), slots("narrow"))
    for number in range(5):
        shell.send(PROOF)
        assert shell.exchange.login is not None
        shell.say(b"yes")
        assert shell.client == consent() * (number + 1)
    shell.send(fetch(1))
    assert shell.broker == fetch(1)


@every_kind
def test_a_login_of_a_version_that_was_not_offered(kind: str) -> None:
    """SASL requests must be of a version that was offered, as any request, also when nothing else would do."""
    shell = Shell(kind)
    shell.exchange.expire()
    with pytest.raises(Unsupported, match="SaslAuthenticate version 3"):
        shell.send(INT32.pack(20) + INT16.pack(36) + INT16.pack(3) + bytes(16))


@every_kind
def test_a_long_login(kind: str) -> None:
    """A token is held until it is whole; one that is above the bound of what is held ends the connection."""
    shell = Shell(kind)
    long = frames.request(ApiKey.SASL_AUTHENTICATE, 0, 8, "c", INT32.pack(60_000) + b"t" * 60_000)
    for start in range(0, len(long), 1000):
        assert shell.exchange.login is None
        shell.send(long[start : start + 1000])
    assert shell.exchange.login is not None
    assert handshake.parse_sasl_authenticate_request(0, shell.exchange.login.body) == b"t" * 60_000
