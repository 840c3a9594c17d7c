"""Exchange while requests are held back: re-authentication and drains."""

from random import Random

import pytest
from conversations import Cut, Talk, at_random, conversation, one_byte, whole

from kproxy.core.sasl import Ask, Login, Plain
from kproxy.errors import Malformed, Unsupported
from kproxy.wire import frames, handshake
from kproxy.wire.apis import ApiKey
from kproxy.wire.primitives import INT16, INT64

AUTHENTICATED = INT16.pack(0) + b"\x00" + b"\x01" + INT64.pack(60_000) + b"\x00"
HANDSHAKEN = handshake.sasl_handshake_response(0, ["PLAIN"])


class Renewal:
    """A login renewed in the midst of a conversation, as the shell does it."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.login = Login(Plain("gateway", "secret"), authenticate_version=2)
        self.begun = self.done = False
        self.bodies: list[bytes] = []
        self._later: Ask | None = None
        talk.exchange.hold()

    def step(self) -> None:
        """Begin once the request under way has been sent."""
        if not self.begun and self.talk.exchange.at_boundary:
            self.begun = True
            self.talk.ask(self.login.begin(), HANDSHAKEN, self._answered)
        elif self._later is not None:
            ask, self._later = self._later, None
            self.talk.ask(ask, AUTHENTICATED, self._answered)

    def _answered(self, body: bytes) -> None:
        self.bodies.append(body)
        self._later = self.login.answer(body)
        self.done = self._later is None


def play(talk: Talk, rng: Random, cut: Cut, hold_at: int) -> None:
    """Play a conversation; renew the login at one step of it, with the client sending on."""
    renewal: Renewal | None = None
    step = 0
    while talk.can_send or talk.can_answer or renewal is None or not renewal.done:
        if step == hold_at:
            renewal = Renewal(talk)
        step += 1
        holding = renewal is not None and not renewal.done
        if renewal is not None and holding:
            renewal.step()
        if talk.can_send and (not talk.can_answer or rng.random() < 0.5):
            boundary = talk.broker_got if talk.exchange.at_boundary else None
            talk.client_step(rng, cut)
            if holding and boundary is not None:
                assert talk.broker_got == boundary
        elif talk.can_answer:
            talk.broker_step(rng, cut)
        if holding and renewal is not None and renewal.done:
            assert renewal.bodies == [HANDSHAKEN, AUTHENTICATED]
            assert renewal.login.session_lifetime_ms == 60_000
            talk.upstream(talk.exchange.release())
    talk.check_end()


@pytest.mark.parametrize("cut", [whole, one_byte, at_random])
@pytest.mark.parametrize("seed", range(4))
def test_renewed_anywhere(seed: int, cut: Cut) -> None:
    """Wherever a login is renewed, nobody notices.

    No byte of the client's goes upstream from our first request to our last answer, answers to earlier requests pass,
    our answers never reach the client, and in the end all is as without.
    """
    turns = conversation(Random(seed), 4)
    steps = 40 if cut is at_random else len(turns) + 2
    points = range(steps) if cut is not one_byte else range(0, sum(len(turn.request) for turn in turns), 29)
    for hold_at in points:
        play(Talk(turns), Random(seed), cut, hold_at)


FETCH = frames.request(ApiKey.FETCH, 11, 1, "c", b"fetch")


def test_boundary() -> None:
    """``hold`` tells whether the broker has whole requests only; what is missing of one is let through, and no more."""
    exchange = Talk([]).exchange
    assert exchange.hold()
    assert exchange.release() == b""
    assert exchange.from_client(FETCH[:15]) == FETCH[:15]
    assert not exchange.hold()
    assert exchange.from_client(FETCH[15:18]) == FETCH[15:18]
    assert not exchange.hold()
    assert exchange.from_client(FETCH[18:] + FETCH) == FETCH[18:]
    assert exchange.hold()
    assert exchange.from_client(FETCH) == b""
    assert exchange.asked == 1
    assert exchange.release() == FETCH * 2
    assert exchange.asked == 3


def test_idle_while_holding() -> None:
    """A connection whose last request ended just where it was held is idle when that is answered."""
    exchange = Talk([]).exchange
    exchange.from_client(FETCH[:15])
    exchange.hold()
    exchange.from_client(FETCH[15:])
    exchange.from_broker(frames.response(1, ApiKey.FETCH, 11, b""))
    assert exchange.idle


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_head_that_is_held(cut: int) -> None:
    """The beginning of a request that came before ``hold`` is put before the rest that came after."""
    exchange = Talk([]).exchange
    assert exchange.from_client(FETCH[:cut]) == b""
    assert exchange.hold()
    assert exchange.from_client(FETCH[cut:]) == b""
    assert not exchange.idle
    assert exchange.release() == FETCH


def test_release_raises() -> None:
    """What is wrong with withheld bytes is told when they are released."""
    exchange = Talk([]).exchange
    exchange.hold()
    assert exchange.from_client(frames.request(ApiKey.OFFSET_DELETE, 9, 1, "c", b"")) == b""
    with pytest.raises(Unsupported):
        exchange.release()


@pytest.mark.parametrize("cut", [10, 12, 100])
def test_our_answer_has_our_id(cut: int) -> None:
    """An answer to our own request with another id raises, and the client gets nothing of it."""
    exchange = Talk([]).exchange
    exchange.hold()
    ask = Login(Plain("gateway", "secret")).begin()
    bodies: list[bytes] = []
    assert exchange.ask(ask, bodies.append) == ask.frame
    answer = frames.response(ask.correlation_id + 1, ask.key, ask.version, HANDSHAKEN)
    with pytest.raises(Malformed, match="answer to SaslHandshake has another correlation id"):
        exchange.from_broker(answer[:cut])
    assert bodies == []


def test_our_request_under_the_clients_id() -> None:
    """A client that uses just our correlation id gets its own answer, and we ours."""
    talk = Talk([])
    exchange = talk.exchange
    ask = Login(Plain("gateway", "secret")).begin()
    assert exchange.from_client(frames.request(ApiKey.FETCH, 11, ask.correlation_id, "c", b"")) != b""
    assert exchange.hold()
    bodies: list[bytes] = []
    exchange.ask(ask, bodies.append)
    theirs = frames.response(ask.correlation_id, ApiKey.FETCH, 11, b"records")
    ours = frames.response(ask.correlation_id, ask.key, ask.version, HANDSHAKEN)
    assert exchange.from_broker(theirs + ours) == theirs
    assert bodies == [HANDSHAKEN]
    assert exchange.idle
