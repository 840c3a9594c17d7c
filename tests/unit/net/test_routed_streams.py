"""One address before three brokers: nothing lost, nothing reordered, whoever is slow, leaves or logs in anew."""

import asyncio
from random import Random
from typing import cast

import pytest
from routed_stage import DEADLINE_SECONDS, Client, Stage, heartbeat, list_offsets, named, produce, until

from kproxy.core.causes import Cause
from kproxy.net.routed import RoutedClientSide
from kproxy.testing.plays import DEFAULT, Hold
from kproxy.wire.apis import ApiKey
from kproxy.wire.primitives import INT32

LIST_OFFSETS, HEARTBEAT, PRODUCE = ApiKey.LIST_OFFSETS, ApiKey.HEARTBEAT, ApiKey.PRODUCE
LEADERS = (1, 2, 3, 1)


def relays(stage: Stage) -> list[RoutedClientSide]:
    """Return the proxy's side of the clients' connections."""
    shared = stage.listener._shared
    assert shared is not None
    return [cast("RoutedClientSide", client) for client in shared.connections]


def records(number: int, size: int = 8) -> bytes:
    """Write what stands for records: a number, and then some."""
    return INT32.pack(number).ljust(size, b".")


def numbers(stage: Stage, node: int, partition: int) -> list[int]:
    """List what a broker was sent for a partition, in order; see ``records``."""
    head = len(produce("t", partition, 0, b""))
    return [
        INT32.unpack_from(body, head)[0]
        for body in stage.asked(node, PRODUCE)
        if INT32.unpack_from(body, head - 8)[0] == partition
    ]


def burst(client: Client, rng: Random, count: int, acks: tuple[int, ...] = (0,)) -> tuple[bytes, dict[int, list[int]]]:
    """Write requests for all partitions at random; return them, and what each partition was sent."""
    sent: dict[int, list[int]] = {partition: [] for partition in range(len(LEADERS))}
    data = []
    for number in range(count):
        partition = rng.randrange(len(LEADERS))
        sent[partition].append(number)
        data.append(client.frame(PRODUCE, 7, produce("t", partition, rng.choice(acks), records(number))))
    return b"".join(data), sent


async def arrived(stage: Stage, sent: dict[int, list[int]]) -> None:
    """Wait until every partition's leader has been sent everything in order."""
    for partition, expected in sent.items():
        broker = stage.brokers[LEADERS[partition]]
        await broker.until(
            lambda expected=expected, partition=partition, node=broker.node_id: (  # type: ignore[misc]
                numbers(stage, node, partition) == expected
            ),
            what=f"all of partition {partition}",
        )


@pytest.mark.parametrize("known", [True, False])
async def test_a_burst_and_the_end(*, known: bool) -> None:
    """A producer with acks=0 that sends to all brokers and closes at once loses nothing, nor its order.

    Nothing is dialled when it closes, and the leaders may have to be looked up.
    """
    async with Stage() as stage:
        async with stage.client() as other:
            for partition in range(4 if known else 0):
                await other.ask(LIST_OFFSETS, 1, list_offsets("t", partition))
        async with stage.client() as client:
            data, sent = burst(client, Random(1), 300)
            client.writer.write(data)
        await arrived(stage, sent)


async def test_order_within_partitions() -> None:
    """Clients that pipeline to all partitions, some with acks, get every answer in order and lose nothing."""
    async with Stage() as stage:
        totals: dict[int, list[int]] = {partition: [] for partition in range(4)}
        for seed in range(3):
            rng = Random(seed)
            async with stage.client() as client:
                data, sent = burst(client, rng, 200, (0, 1, 1))
                asked = len(client._asked)
                while data:
                    size = rng.choice((1, 50, 500, 5000))
                    client.writer.write(data[:size])
                    await client.writer.drain()
                    data = data[size:]
                for _ in range(asked):
                    await client.answer()
                for partition, expected in sent.items():
                    totals[partition] += expected
                await arrived(stage, totals)


async def test_half_closed_with_requests_withheld() -> None:
    """A client that says it sends no more still gets every answer, those of other lanes and look-ups included."""
    async with Stage() as stage, stage.client() as client:
        later = asyncio.Event()
        stage.brokers[1].on(HEARTBEAT, Hold(later, named(stage.brokers[1])))
        for group in ("g1", "g2", "g3"):
            client.writer.write(client.frame(HEARTBEAT, 0, heartbeat(group)))
        client.writer.write(client.frame(LIST_OFFSETS, 1, list_offsets("u", 0)))
        client.writer.write_eof()
        await stage.brokers[1].until_asked(HEARTBEAT)
        later.set()
        assert [await client.answer() for _ in range(4)] == [b"1", b"2", b"3", b"2"]
        assert await client.ended()
        assert stage.tally.closed[Cause.CLIENT_CLOSED] == 1


async def until_looking_up(stage: Stage, answer_later: asyncio.Event) -> None:
    """Have every broker hold its Metadata answers, and wait until a client's request waits for one."""
    stage.cluster.on(ApiKey.METADATA, Hold(answer_later, DEFAULT))
    await until(lambda: any(relay._deciding for relay in relays(stage)))


async def test_a_client_gone_while_it_is_looked_up() -> None:
    """What a client sent is delivered when its leader is known, though the client has long been gone."""
    async with Stage() as stage, stage.client() as client:
        later = asyncio.Event()
        data, sent = burst(client, Random(2), 20)
        client.writer.write(data)
        await until_looking_up(stage, later)
        relays(stage)[0].abort(Cause.STOPPED)
        await client.ended()
        later.set()
        await arrived(stage, sent)


async def test_drained_while_a_request_waits() -> None:
    """A drain lets what was read go where it must, look-ups and other lanes included, and then ends."""
    async with Stage() as stage, stage.client() as client:
        later = asyncio.Event()
        client.writer.write(client.frame(PRODUCE, 7, produce("t", 0, 0, records(1))))
        client.writer.write(client.frame(PRODUCE, 7, produce("t", 1, 0, records(2))))
        client.writer.write(client.frame(LIST_OFFSETS, 1, list_offsets("t", 2)))
        await until_looking_up(stage, later)
        drain = asyncio.ensure_future(stage.listener.drain(DEADLINE_SECONDS))  # noqa: TID251  awaited below
        await asyncio.sleep(0)
        later.set()
        assert await client.answer() == b"3"
        assert await client.ended()
        await drain
        await arrived(stage, {0: [1], 1: [2]})
        assert stage.tally.closed[Cause.DRAINED] == 1


async def test_a_slow_client() -> None:
    """While a client does not read its broker is not read either; then it gets all, and every lane goes on."""
    async with Stage() as stage, stage.client() as client:
        big = bytes(4 << 20)
        stage.brokers[1].on(HEARTBEAT, *[big] * 4, named(stage.brokers[1]))
        for group in ("g1", "g1", "g1", "g1", "g2", "g1", "g2", "g1"):
            client.writer.write(client.frame(HEARTBEAT, 0, heartbeat(group)))
        shared = stage.listener._shared
        assert shared is not None
        await until(lambda: shared.buffered_bytes > 0)
        assert shared.buffered_bytes < 1 << 20
        for _ in range(4):
            assert await client.answer() == big
        assert [await client.answer() for _ in range(4)] == [b"2", b"1", b"2", b"1"]
        assert shared.buffered_bytes == 0


async def test_a_lane_left_while_the_client_was_slow() -> None:
    """A lane that was left with its reads paused, for a request read before, is heard again: its end is seen."""
    async with Stage() as stage, stage.client() as client:
        assert await client.ask(HEARTBEAT, 0, heartbeat("g1")) == b"1"
        relay = relays(stage)[0]
        relay.pause_writing()
        relay.data_received(client.frame(HEARTBEAT, 0, heartbeat("g2")))
        stage.brokers[1].close_connections()
        await until(lambda: 1 not in relay._lanes)
        relay.resume_writing()
        assert await client.answer() == b"2"
        assert await client.ask(HEARTBEAT, 0, heartbeat("g1")) == b"1"


@pytest.mark.parametrize("ends", [True, False])
async def test_a_slow_broker(*, ends: bool) -> None:
    """Behind a broker that does not read the client is not read, in whatever lane; until it reads, or is gone."""
    async with Stage() as stage, stage.client() as client:
        later = asyncio.Event()
        stage.brokers[1].on(PRODUCE, Hold(later, named(stage.brokers[1])))
        size, count = 1 << 20, 16
        data = [client.frame(PRODUCE, 7, produce("t", 0, 0, records(number, size))) for number in range(count)]
        behind = [client.frame(HEARTBEAT, 0, heartbeat("g2")) for _ in range(3)]
        client.writer.write(b"".join(data + behind))
        await until(lambda: any(lane.full for relay in relays(stage) for lane in relay._lanes.values()))
        relay = relays(stage)[0]
        assert relay._lanes[1].transport.get_write_buffer_size() < 1 << 20
        if ends:
            stage.brokers[1].close_connections()
            await client.ended()
        else:
            later.set()
            assert [await client.answer() for _ in behind] == [b"2"] * 3
            await arrived(stage, {0: list(range(count))})


@pytest.mark.parametrize("ends", [True, False])
async def test_two_lanes_that_are_full(*, ends: bool) -> None:
    """The client is read again when every lane that was full has room, or is gone."""
    async with Stage() as stage, stage.client() as client:
        assert await client.ask(HEARTBEAT, 0, heartbeat("g1")) == b"1"
        relay = relays(stage)[0]
        first = relay._lanes[1]
        first.pause_writing()
        relay.data_received(client.frame(HEARTBEAT, 0, heartbeat("g2")))
        assert await client.answer() == b"2"
        second = relay._lanes[2]
        second.pause_writing()
        second.resume_writing()
        assert relay._paused
        if ends:
            stage.brokers[1].close_connections()
        else:
            first.resume_writing()
        assert await client.ask(HEARTBEAT, 0, heartbeat("g1")) == b"1"


@pytest.mark.parametrize("in_use", [True, False])
async def test_a_lane_whose_login_ends(*, in_use: bool) -> None:
    """A lane in use logs in anew, one that is idle is closed and dialled again; the client notices neither."""
    async with Stage(session_lifetime_ms=2_500) as stage, stage.client() as client:
        assert await client.ask(HEARTBEAT, 0, heartbeat("g1")) == b"1"
        lane = relays(stage)[0]._lanes[1]
        if not in_use:
            assert await client.ask(HEARTBEAT, 0, heartbeat("g2")) == b"2"
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not stage.tally.reauthentications:
                assert await client.ask(HEARTBEAT, 0, heartbeat("g1" if in_use else "g2")) == (b"2", b"1")[in_use]
        assert (relays(stage)[0]._lanes.get(1) is lane) == in_use
        assert await client.ask(HEARTBEAT, 0, heartbeat("g1")) == b"1"


async def test_a_login_renewed_with_another_lanes_request_withheld() -> None:
    """What was held back while a login was renewed goes to its own broker, whole and in order."""
    async with Stage(session_lifetime_ms=60_000) as stage, stage.client() as client:
        assert await client.ask(HEARTBEAT, 0, heartbeat("g1")) == b"1"
        relay = relays(stage)[0]
        first = client.frame(HEARTBEAT, 0, heartbeat("g1"))
        rest = [client.frame(HEARTBEAT, 0, heartbeat(group)) for group in ("g2", "g1", "g3")]
        stage.brokers[1].session_lifetime_ms = 0
        client.writer.write(first[:20])
        await until(lambda: not relay.exchange.at_boundary)
        relay.renew_login()
        client.writer.write(first[20:] + b"".join(rest))
        assert [await client.answer() for _ in range(4)] == [b"1", b"2", b"1", b"3"]
        assert stage.tally.reauthentications == 1
