"""The conversations of the plain exchanges, played through those under limits.

Limits that never trigger, or that only delay, change no byte: the models of ``conversations`` and
``routed_conversations`` hold as they are. ``DelayedTalk`` plays the shell of a connection that waits, too; now and then
more comes than it should, as after a pause that came too late.
"""

from collections.abc import Callable
from functools import partial
from random import Random

from conversations import (
    Cut,
    Talk,
    Turn,
    advertise,
    answer_frame,
    api_versions,
    one_byte,
    produce,
    produce_again,
    random_body,
    request_frame,
    rewritten,
)
from metered_stage import Clock, split
from routed_conversations import RoutedTalk

from kproxy.core.exchange import Front
from kproxy.core.limits import Client, Limits, Rule
from kproxy.core.metered import Metered, MeteredExchange, MeteredRoutedExchange
from kproxy.wire import throttle
from kproxy.wire.apis import ApiKey
from kproxy.wire.primitives import INT32

CLIENT = Client("public", "10.0.0.1", "User:ANONYMOUS", "")


class MeteredTalk(Talk):
    """A conversation under limits."""

    exchange: MeteredExchange

    def __init__(self, turns: list[Turn], *rules: Rule) -> None:
        super().__init__(turns)
        self.exchange = MeteredExchange(Front(self.exchange.offer, self.tally), advertise)
        self.limits = Limits(rules)
        self.clock = Clock()
        self.exchange.meter(self.limits, CLIENT, self.clock, lambda: None)

    def run(self, rng: Random, cut: Cut) -> None:
        """Play to the end; while the client's requests are held, time passes."""
        patience = rng.choice((0.05, 0.5, 0.95))
        while self.step(rng, cut, patience):
            pass
        self.check_end()
        check_metered(self.exchange, self.limits)

    def step(self, rng: Random, cut: Cut, patience: float = 0.5) -> bool:
        """Let something happen; False: nothing can any more."""
        exchange = self.exchange
        tick = 1e-6 if cut is one_byte else 0.005
        self.clock.now += rng.choice((0.0, tick, 2 * tick))
        if exchange.waits and exchange.wake_at <= self.clock.now:
            self.upstream(exchange.go_on())
        elif self.can_send and (not self.can_answer or rng.random() < patience) and self._reads(rng):
            self.client_step(rng, cut)
        elif self.can_answer:
            self.broker_step(rng, cut)
        elif exchange.waits:
            self.clock.now = exchange.wake_at
        else:
            return self.can_send
        return True

    def _reads(self, rng: Random) -> bool:
        return not self.exchange.waits or rng.random() < 0.1

    def check(self) -> None:
        """See Talk; what is held back, of requests or of an answer, has not reached the exchange yet."""
        if not self.exchange.waits and not self.exchange._answer_head:
            super().check()


class ThrottledTalk(MeteredTalk):
    """A conversation whose answers may say that the client is to wait, and are as the broker's otherwise."""

    def __init__(self, turns: list[Turn], *rules: Rule) -> None:
        super().__init__(turns, *rules)
        self.received = b""

    def _client_gets(self, out: bytes) -> None:
        self.received += out
        self.got += len(out)

    def check_end(self) -> None:
        """Hold each answer against the broker's."""
        super().check_end()
        received = split(self.received)
        expected = [turn for turn in self.turns if turn.for_client]
        assert len(received) == len(expected)
        for frame, turn in zip(received, expected, strict=True):
            theirs = turn.for_client
            if frame != theirs:
                at = throttle.throttle_at(turn.key, turn.version, theirs, 0, len(theirs))
                assert INT32.unpack_from(frame, at) > INT32.unpack_from(theirs, at)
                assert frame == theirs[:at] + frame[at : at + 4] + theirs[at + 4 :]
                self.told += 1

    told = 0
    """Answers that said so."""


def throttled_conversation(rng: Random, turns: int) -> list[Turn]:
    """Make a conversation of requests whose answers have throttle times, at their beginning or their end."""
    makers: list[Callable[[Random, int], Turn]] = [
        _fetch,
        produce,
        produce_again,
        partial(rewritten, ApiKey.METADATA),
        api_versions,
    ]
    return [rng.choice(makers)(rng, number) for number in range(turns)]


def _fetch(rng: Random, correlation_id: int) -> Turn:
    request = request_frame(rng, ApiKey.FETCH, 11, correlation_id, random_body(rng, ApiKey.FETCH, 11))
    answer = answer_frame(
        ApiKey.FETCH, 11, correlation_id, rng.choice((bytes(4), rng.randbytes(4))) + rng.randbytes(40)
    )
    return Turn(ApiKey.FETCH, 11, request, forwarded=True, answer=answer, for_client=answer)


class MeteredRoutedTalk(RoutedTalk):
    """A conversation before a whole cluster, under limits that never trigger."""

    exchange: MeteredRoutedExchange

    def __init__(self, rng: Random, turns: int, *rules: Rule) -> None:
        super().__init__(rng, turns)
        self.exchange = MeteredRoutedExchange(Front(self.exchange.offer, self.tally), advertise, self.directory)
        self.limits = Limits(rules)
        self.exchange.meter(self.limits, CLIENT, Clock(), lambda: None)


def check_metered(exchange: Metered, limits: Limits) -> None:
    """All that was asked has been answered: nothing is remembered of it."""
    assert [entry[0] for entry in exchange._ledger if entry[0]] == []
    assert [taken for taken in exchange._taken if taken.many] == []
    assert not exchange._answer_head
    assert not exchange._admission.midway
    for limit in limits.limits:
        for _, meter in limit.meters():
            assert not getattr(meter, "flying", 0)
    exchange.leave()
    for limit in limits.limits:
        assert [meter.users for _, meter in limit.meters() if meter.users] == []
