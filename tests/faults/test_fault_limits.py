"""Limits on live connections: who is held up is not read from, what was sent gets through, nothing is left behind."""

import asyncio
import gc
import socket
import struct
import weakref
from random import Random
from typing import Any

import pytest
from clients import each_addressing
from clients.gateway import Gateway, on_uvloop
from clients.raw import HEARTBEAT_OK, RawClient, heartbeat, produce, produced

from kproxy.core.causes import Cause
from kproxy.core.meters import Doorway, Slots
from kproxy.net import gate, routed
from kproxy.testing.fakebroker import CLOSE, DROP, FakeBroker, Hold
from kproxy.wire import primitives as p
from kproxy.wire.apis import ApiKey

Limit = dict[str, Any]

PRODUCE, HEARTBEAT = ApiKey.PRODUCE, ApiKey.HEARTBEAT
NO_ACKS = bytes(2)
MIB = 1024 * 1024


def limit(on_exceed: str = "delay", **more: object) -> Limit:
    """Write a limit."""
    return {"name": "limit", "on_exceed": on_exceed, **more}


def ready(broker: FakeBroker) -> None:
    """Let a broker answer what these tests ask."""
    broker.state.topics["topic"] = [broker.node_id]
    broker.on(PRODUCE, lambda request: DROP if request.body[2:4] == NO_ACKS else produced())
    broker.on(HEARTBEAT, HEARTBEAT_OK)


def reset(client: RawClient) -> None:
    """Close a connection as one that is broken."""
    sock = client.writer.get_extra_info("socket")
    if sock is None:  # it is closed already
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()


def many(client: RawClient, count: int, acks: int = 1, size: int = 100) -> bytes:
    """Write Produce requests; their records say which one it is."""
    return b"".join(
        client.frame(PRODUCE, 7, produce(acks, p.INT32.pack(number) + bytes(size))) for number in range(count)
    )


def sent(broker: FakeBroker) -> list[int]:
    """List which of ``many`` the broker has got."""
    start = len(produce(1))
    return [p.INT32.unpack_from(request.body, start)[0] for request in broker.of(PRODUCE)]


async def answers(client: RawClient, count: int) -> list[tuple[int, int]]:
    """Read answers to ``many``; return correlation id and throttle time of each."""
    frames = [await client.receive() for _ in range(count)]
    return [(p.INT32.unpack_from(frame)[0], p.INT32.unpack(frame[-4:])[0]) for frame in frames]


def check_idle(gateway: Gateway) -> None:
    """Nobody counts on a meter, or holds anything."""
    assert gateway.limits is not None
    for each in gateway.limits.limits:
        for key, meter in each.meters():
            assert (key, meter.users) == (key, 0)
            if isinstance(meter, Slots):
                assert (meter.flying, len(meter.waiters or ())) == (0, 0)
            if isinstance(meter, Doorway):
                assert meter.opened == 0


@each_addressing
@on_uvloop
async def test_delayed(addressing: str) -> None:
    """Requests over the rate reach the broker one by one, in their order, none before its time."""
    rule = limit(leaky_bucket={"rate": 25})
    async with FakeBroker() as broker, Gateway(broker.address, addressing=addressing, limits=[rule]) as gateway:
        ready(broker)
        async with RawClient(gateway.address) as client:
            begin = asyncio.get_running_loop().time()
            await client.send_bytes(many(client, 6))
            assert await answers(client, 6) == [(number, 0) for number in range(1, 7)]
            assert asyncio.get_running_loop().time() - begin >= 0.199
        assert sent(broker) == list(range(6))
        await gateway.until_closed(Cause.CLIENT_CLOSED)
        check_idle(gateway)


@each_addressing
@on_uvloop
async def test_throttled(addressing: str) -> None:
    """A client is told how long it must pause, is not served before, and is from then on."""
    rule = limit("throttle", leaky_bucket={"rate": 10})
    async with FakeBroker() as broker, Gateway(broker.address, addressing=addressing, limits=[rule]) as gateway:
        ready(broker)
        async with RawClient(gateway.address) as client:
            begin = asyncio.get_running_loop().time()
            await client.send_bytes(many(client, 3))
            (_, first), (_, second), (_, third) = await answers(client, 3)
            # Where its broker is found first, the first answer may leave later than the debt was made.
            assert 0 < second <= 201  # rounded up, from a float
            assert first <= 201
            assert third == 0
            assert asyncio.get_running_loop().time() - begin >= 0.199


@each_addressing
@pytest.mark.parametrize(
    "rule", [limit(concurrency={"max": 1}), limit(leaky_bucket={"rate": 0.05}, max_wait="200ms")], ids=["slots", "rate"]
)
@on_uvloop
async def test_who_is_held_is_not_read_from(addressing: str, rule: Limit) -> None:
    """While requests are held no more than a read or two of what the client pushes is taken; later all of it is."""
    answer = asyncio.Event()
    async with FakeBroker() as broker, Gateway(broker.address, addressing=addressing, limits=[rule]) as gateway:
        ready(broker)
        broker.on(PRODUCE, Hold(answer, produced()), produced())
        async with RawClient(gateway.address) as client:
            push = asyncio.ensure_future(client.send_bytes(many(client, 200, size=64 * 1024)))  # noqa: TID251 - awaited below
            await broker.until_asked(PRODUCE, 1)
            (served,) = gateway.connections
            await gateway.until(lambda: served.exchange.waits, "a request that waits")
            await asyncio.sleep(0.3)
            held = served.exchange.held_bytes  # type: ignore[attr-defined]
            assert gate.HELD_HIGH_BYTES < held < MIB
            assert not push.done()
            assert served._paused & gate.LIMITED
            assert gateway.tally.bytes_in < 2 * MIB
            if "concurrency" in rule:
                answer.set()
                await push
                assert len(await answers(client, 200)) == 200
                assert sent(broker) == list(range(200))
            else:
                push.cancel()
                reset(client)
    check_idle(gateway)


@each_addressing
@on_uvloop
async def test_over_the_limit_is_the_end(addressing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection over such a limit stays for a while, unread, gets the answers that it has coming, and is closed."""
    monkeypatch.setattr(gate, "REFUSAL_SECONDS", 1.0)
    rule = limit("close", leaky_bucket={"rate": 0.1})
    async with FakeBroker() as broker, Gateway(broker.address, addressing=addressing, limits=[rule]) as gateway:
        ready(broker)
        async with RawClient(gateway.address) as client:
            begin = asyncio.get_running_loop().time()
            await client.send_bytes(many(client, 3))
            assert await answers(client, 1) == [(1, 0)]
            await client.send_bytes(many(client, 3))
            await client.assert_closed()
            assert asyncio.get_running_loop().time() - begin >= 0.99
        await gateway.until_closed(Cause.LIMITED)
        assert sent(broker) == [0]
        assert [event for event in gateway.events if event["log_level"] != "info"] == []
        check_idle(gateway)


@each_addressing
@pytest.mark.parametrize("key", ["client_ip", "client_id"])
@on_uvloop
async def test_too_many_connections(addressing: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection above its key's limit is not served, nor closed at once; when another has gone there is room."""
    monkeypatch.setattr(gate, "REFUSAL_SECONDS", 0.3)
    rule = {"name": "door", "connections": {"max": 2}, "key": [key]}
    async with FakeBroker() as broker, Gateway(broker.address, addressing=addressing, limits=[rule]) as gateway:
        ready(broker)
        async with (
            RawClient(gateway.address) as one,
            RawClient(gateway.address) as two,
            RawClient(gateway.address) as three,
        ):
            for client in (one, two):
                await client.heartbeat()
            begin = asyncio.get_running_loop().time()
            push = asyncio.ensure_future(three.send_bytes(many(three, 100, size=64 * 1024)))  # noqa: TID251 - awaited below
            await three.assert_closed()
            await push
            assert asyncio.get_running_loop().time() - begin >= 0.199
            assert gateway.tally.bytes_in < MIB
            await two.heartbeat()
            await gateway.until_closed(Cause.LIMITED)
        await gateway.until(lambda: not gateway.connections, "the end of all")
        check_idle(gateway)
        async with RawClient(gateway.address) as four:
            await four.heartbeat()
        assert sent(broker) == []


@each_addressing
@pytest.mark.parametrize("end", ["closed", "reset"])
@pytest.mark.parametrize("dialled", [False, True])
@on_uvloop
async def test_gone_while_held(addressing: str, end: str, dialled: bool) -> None:
    """What a client with acks=0 has sent reaches the broker, though it goes while that is held.

    Who closes has it sent in its time; of a connection that was reset all goes at once, and is charged.
    """
    rule = limit(leaky_bucket={"rate": 100 if end == "closed" else 0.1})
    async with FakeBroker() as broker, Gateway(broker.address, addressing=addressing, limits=[rule]) as gateway:
        ready(broker)
        async with RawClient(gateway.address) as other, RawClient(gateway.address) as client:
            if dialled:
                await client.heartbeat()
            await other.send_bytes(many(other, 1))
            await answers(other, 1)
            await client.send_bytes(many(client, 20, acks=0))
            await gateway.until(lambda: any(each.exchange.waits for each in gateway.connections), "requests that wait")
            if end == "reset":
                reset(client)
        await broker.until(lambda: len(sent(broker)) == 21)
        assert sent(broker)[1:] == list(range(20))
        await gateway.until(lambda: not gateway.connections, "the client's end")
        check_idle(gateway)
        assert gateway.limits is not None
        assert gateway.limits.limits[0].asked == 21


@each_addressing
@on_uvloop
async def test_drained_while_held(addressing: str) -> None:
    """A drain lets through what is held, whatever the limits say; all of it is answered before the end."""
    rule = limit(leaky_bucket={"rate": 0.1})
    async with FakeBroker() as broker, Gateway(broker.address, addressing=addressing, limits=[rule]) as gateway:
        ready(broker)
        async with RawClient(gateway.address) as client:
            data = many(client, 5)
            await client.send_bytes(data[:-50])
            await answers(client, 1)
            drain = asyncio.ensure_future(gateway._listener.drain(5))  # noqa: TID251 - awaited below
            await broker.until(lambda: len(sent(broker)) == 4)
            await client.send_bytes(data[-50:])
            assert [number for number, _ in await answers(client, 4)] == [2, 3, 4, 5]
            await client.assert_closed()
            await drain
        assert gateway.tally.closed[Cause.DRAINED] == 1
        assert sent(broker) == list(range(5))
        check_idle(gateway)


@each_addressing
@on_uvloop
async def test_drained_while_refused(addressing: str) -> None:
    """A drain does not let through what a limit has refused."""
    rule = limit("close", leaky_bucket={"rate": 0.1})
    async with FakeBroker() as broker, Gateway(broker.address, addressing=addressing, limits=[rule]) as gateway:
        ready(broker)
        async with RawClient(gateway.address) as client:
            await client.send_bytes(many(client, 3))
            await answers(client, 1)
            await gateway._listener.drain(5)
            await client.assert_closed()
        assert sent(broker) == [0]
        check_idle(gateway)


@each_addressing
@on_uvloop
async def test_garbage_among_what_is_held(addressing: str) -> None:
    """What is no request ends its connection when its turn comes, also where that is a drain; nobody else's."""
    rule = limit(leaky_bucket={"rate": 10})
    async with FakeBroker() as broker, Gateway(broker.address, addressing=addressing, limits=[rule]) as gateway:
        ready(broker)
        async with RawClient(gateway.address) as client, RawClient(gateway.address) as drained:
            await client.send_bytes(many(client, 2) + bytes(20))
            assert [number for number, _ in await answers(client, 1)] == [1]
            await client.read_to_end()
            await gateway.until_closed(Cause.MALFORMED_REQUEST)
            await drained.send_bytes(many(drained, 3) + bytes(20))
            await answers(drained, 1)
            await gateway._listener.drain(5)
            await drained.read_to_end()
        assert gateway.tally.closed[Cause.MALFORMED_REQUEST] == 2
        check_idle(gateway)


@each_addressing
@on_uvloop
async def test_half_closed_while_held(addressing: str) -> None:
    """A client that has said that it sends no more gets all of its answers, held up or not."""
    rule = limit(leaky_bucket={"rate": 25})
    async with FakeBroker() as broker, Gateway(broker.address, addressing=addressing, limits=[rule]) as gateway:
        ready(broker)
        async with RawClient(gateway.address) as client:
            await client.send_bytes(many(client, 5))
            client.writer.write_eof()
            assert [number for number, _ in await answers(client, 5)] == [1, 2, 3, 4, 5]
            await client.assert_closed()
        check_idle(gateway)


@each_addressing
@on_uvloop
async def test_a_heartbeat_comes_through(addressing: str) -> None:
    """A heartbeat behind requests that wait for long is seen, and waits for about a second."""
    rule = limit(leaky_bucket={"rate": 0.1})
    async with FakeBroker() as broker, Gateway(broker.address, addressing=addressing, limits=[rule]) as gateway:
        ready(broker)
        async with RawClient(gateway.address) as client:
            await client.send_bytes(many(client, 2))
            await answers(client, 1)
            await gateway.until(
                lambda: any(each.exchange.waits for each in gateway.connections), "a request that waits"
            )
            begin = asyncio.get_running_loop().time()
            await client.send(HEARTBEAT, 3, heartbeat())
            await broker.until_asked(HEARTBEAT)
            assert asyncio.get_running_loop().time() - begin < 1.5


@each_addressing
@on_uvloop
async def test_held_is_not_idle(addressing: str) -> None:
    """A client that a limit keeps waiting is not closed for being idle."""
    rule = limit(leaky_bucket={"rate": 2.5})
    idle = {"idle_timeout": "200ms"}
    async with (
        FakeBroker() as broker,
        Gateway(broker.address, addressing=addressing, limits=[rule], listener=idle) as gateway,
    ):
        ready(broker)
        async with RawClient(gateway.address) as client:
            await client.send_bytes(many(client, 2))
            assert len(await answers(client, 2)) == 2
            await client.assert_closed()
        assert gateway.tally.closed[Cause.IDLE] == 1


@each_addressing
@on_uvloop
async def test_the_broker_goes_while_requests_are_held(addressing: str) -> None:
    """When a broker ends a connection that owes an answer, the client's ends; what is held is not sent to another."""
    rule = limit(leaky_bucket={"rate": 0.1})
    async with FakeBroker() as broker, Gateway(broker.address, addressing=addressing, limits=[rule]) as gateway:
        ready(broker)
        errors: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(context))
        broker.on(PRODUCE, CLOSE, produced())
        async with RawClient(gateway.address) as client:
            await client.send_bytes(many(client, 3))
            await client.assert_closed()
        await gateway.until_closed(Cause.BROKER_CLOSED)
        async with RawClient(gateway.address) as client:
            await client.heartbeat()
        assert sent(broker) == [0]
        assert errors == []
    check_idle(gateway)


@each_addressing
@on_uvloop
async def test_a_broker_that_was_idle_goes(addressing: str) -> None:
    """A broker that owes nothing may go while requests are held: they go on to it when it is back."""
    rule = limit(leaky_bucket={"rate": 4})
    async with FakeBroker() as broker, Gateway(broker.address, addressing=addressing, limits=[rule]) as gateway:
        ready(broker)
        async with RawClient(gateway.address) as client:
            await client.send_bytes(many(client, 3))
            await answers(client, 1)
            broker.close_connections()
            assert [number for number, _ in await answers(client, 2)] == [2, 3]
        assert sent(broker) == [0, 1, 2]


@each_addressing
@on_uvloop
async def test_no_broker_to_reach(addressing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose broker cannot be reached is closed, held up or not, and nobody dials again for what is held."""
    monkeypatch.setattr(routed, "LOOKUP_SECONDS", 0.3)
    rule = limit(leaky_bucket={"rate": 0.1})
    cluster = {"dial_patience": "200ms", "dial_patience_max": "400ms"}
    async with (
        FakeBroker() as broker,
        Gateway(broker.address, addressing=addressing, limits=[rule], cluster=cluster) as gateway,
    ):
        ready(broker)
        async with RawClient(gateway.address) as client:
            await client.heartbeat()
            await broker.stop()
            await client.send_bytes(many(client, 3))
            await client.assert_closed()
        await gateway.until(lambda: not gateway.connections, "its end")
        check_idle(gateway)
        assert [task.get_name() for task in gateway._listener._tasks._tasks if "dial" in task.get_name()] == []


RULES: list[Limit] = [
    {"name": "rate", "leaky_bucket": {"rate": 300, "burst": 5}, "key": ["client_ip"], "on_exceed": "delay"},
    {"name": "slots", "concurrency": {"max": 2, "waiting": 1}, "on_exceed": "throttle", "max_wait": "100ms"},
    {
        "name": "bytes",
        "leaky_bucket": {"rate": 4000, "unit": "bytes_out"},
        "on_exceed": "throttle",
        "max_wait": "100ms",
    },
    {"name": "strict", "fixed_window": {"count": 12, "window": "100ms"}, "on_exceed": "close", "key": ["client_id"]},
    {"name": "door", "connections": {"max": 15, "rate": 500}},
]


@each_addressing
@on_uvloop
async def test_many_connections_leave_nothing(addressing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many connections end in whatever state, every slot, meter, timer and object is free again."""
    monkeypatch.setattr(gate, "REFUSAL_SECONDS", 0.05)
    rng = Random(7)
    served: list[weakref.ref[Any]] = []

    async def one(gateway: Gateway) -> None:
        await asyncio.sleep(rng.random() * 0.5)
        async with RawClient(gateway.address) as client:
            await client.send_bytes(
                many(client, rng.choice((1, 3, 20)), acks=rng.choice((0, 1)))[: rng.choice((50, 9999))]
            )
            await asyncio.sleep(rng.random() * 0.3)
            served.extend(weakref.ref(each.exchange) for each in gateway.connections)
            if rng.random() < 0.5:
                reset(client)

    async with FakeBroker() as broker, Gateway(broker.address, addressing=addressing, limits=RULES) as gateway:
        ready(broker)
        errors: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(context))
        gc.collect()
        gc.disable()
        try:
            await asyncio.gather(*(one(gateway) for _ in range(60)))
            await gateway.until(lambda: not gateway.connections, "the end of all")
            check_idle(gateway)
            await gateway.until(lambda: not any(each() for each in served), "their objects to go")
        finally:
            gc.enable()
        assert errors == []
        assert gateway.tally.closed[Cause.LIMITED] > 0
        assert gateway.tally.connections == 0
        async with RawClient(gateway.address) as client:
            await client.heartbeat()
