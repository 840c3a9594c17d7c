"""The gate between a client's transport and its exchange: what a read costs under limits, and what it does per read."""

import asyncio
from typing import cast

import pytest
from test_relay_cost import FakeConversation, FakeTransport, answers, python_calls, requests, shared

from kproxy.core.causes import Cause
from kproxy.core.limits import Action, Concurrency, FixedWindow, LeakyBucket, Limits, Rule
from kproxy.net.gate import HELD_HIGH_BYTES, LIMITED
from kproxy.net.link import ClusterLink, ClusterSettings, Opened
from kproxy.net.relay import BrokerSide, ClientSide
from kproxy.net.threshold import Guest
from kproxy.wire.apis import ApiKey

COUNTED = frozenset({ApiKey.HEARTBEAT})

THREE = (
    Rule("rate", LeakyBucket(1e9, 1e9), key=("client_ip",), apis=COUNTED),
    Rule("window", FixedWindow(1 << 40, 60.0), key=("client_id",), apis=COUNTED),
    Rule("slots", Concurrency(1000), apis=COUNTED),
)


class PausableTransport(FakeTransport):
    """Knows whether it is read from."""

    reading = True
    closing = False
    half_closed = False

    def is_closing(self) -> bool:
        """Tell whether it is being closed."""
        return self.closing

    def close(self) -> None:
        """Be so from now on."""
        self.closing = True

    abort = close

    def write_eof(self) -> None:
        """Close one side."""
        self.half_closed = True

    def pause_reading(self) -> None:
        """Stop."""
        self.reading = False

    def resume_reading(self) -> None:
        """Go on."""
        self.reading = True


def connected(*rules: Rule) -> tuple[ClientSide, BrokerSide, PausableTransport, FakeTransport]:
    """Make a client's connection under limits, with a broker behind it."""
    link = ClusterLink(ClusterSettings("c", (("127.0.0.1", 1),)), lambda _change: None)
    common = shared(link)
    common.limits = Limits(rules)
    to_client = PausableTransport()
    client = ClientSide(common, Guest("127.0.0.1", 5), 1)
    client.connection_made(to_client)  # type: ignore[arg-type]
    broker = BrokerSide(client, Opened(cast("object", FakeConversation()), 0, 0, None, ("b", 1), None))  # type: ignore[arg-type]
    client._attach(broker)
    return client, broker, to_client, cast("FakeTransport", broker.transport)


async def test_calls_per_read() -> None:
    """Under three limits that do not trigger, a read of many requests enters as few Python functions as one of one."""
    client, broker, _, to_broker = connected(*THREE)
    client.data_received(requests(0, 2))
    broker.data_received(answers(0, 2))
    one, many = requests(2, 1), requests(3, 64)
    answer, more = answers(2, 1), answers(3, 64)
    assert python_calls(lambda: client.data_received(one)) == python_calls(lambda: client.data_received(many))
    assert python_calls(lambda: broker.data_received(answer)) == python_calls(lambda: broker.data_received(more))
    again, last = requests(67, 1), answers(67, 1)
    # Without limits: 4 and 5. A clock is no Python function here.
    assert python_calls(lambda: client.data_received(again)) <= 10
    assert python_calls(lambda: broker.data_received(last)) <= 7
    assert len(to_broker.written) == 4


async def test_one_timer_per_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many reads come while a request waits, one timer is set, and reads stop when enough is held."""
    client, _, to_client, to_broker = connected(Rule("rate", LeakyBucket(0.9), action=Action.DELAY, apis=COUNTED))
    loop = asyncio.get_running_loop()
    timers: list[float] = []
    monkeypatch.setattr(client.gate, "_loop", loop)
    call_later = loop.call_later

    def counted(delay: float, *rest: object) -> asyncio.TimerHandle:
        timers.append(delay)
        return call_later(delay, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "call_later", counted)
    client.data_received(requests(0, 1))
    reading = []
    for number in range(1, 20):
        client.data_received(requests(number, 1))
        reading.append(to_client.reading)
    assert all(reading)
    assert len(timers) == 1
    assert 0.9 < timers[0] <= 1.001  # a heartbeat's longest wait
    client.data_received(requests(20, HELD_HIGH_BYTES // 10))
    assert (to_client.reading, client._paused) == (False, LIMITED)
    assert len(timers) == 1
    assert to_broker.written == [requests(0, 1)]
    assert client.gate is not None
    client.gate.flush()
    assert (to_client.reading, client._paused) == (True, 0)
    assert len(to_broker.written) == 2


async def test_half_closed() -> None:
    """A client that sends no more is kept as long as something of it is held."""
    client, _, _, to_broker = connected(Rule("rate", LeakyBucket(20.0), action=Action.DELAY, apis=COUNTED))
    client.data_received(requests(0, 3))
    assert client.eof_received()
    assert len(to_broker.written) == 1
    await asyncio.sleep(0.2)
    assert len(to_broker.written) == client.exchange.outstanding == 3


async def test_closed_while_it_waits() -> None:
    """What is held of a connection that kproxy closes goes nowhere, though it lingers, and is drained meanwhile."""
    client, _, _, to_broker = connected(Rule("rate", LeakyBucket(50.0), action=Action.DELAY, apis=COUNTED))
    client.data_received(requests(0, 3))
    client.end(Cause.BUFFERS_FULL)
    await asyncio.sleep(0.05)
    client.drain()
    assert client.gate is not None
    client.gate.leave(by_client=False)
    assert to_broker.written == [requests(0, 1)]
    assert client.shared.limits is not None
    ((_, meter),) = client.shared.limits.limits[0].meters()
    assert meter.users == 0
