"""What limits cost: a call per limit and read, none per request, and one that is below its limits is not looked at."""

import gc
from collections.abc import Callable, Iterator

import pytest
from metered_stage import Stage, Wire, bucket, fetch, fetched, produce, produced, slots, window
from test_exchange_cost import calls

from kproxy.core.directory import Directory
from kproxy.core.limits import Unit
from kproxy.wire import frames
from kproxy.wire.apis import ApiKey

THREE = (
    bucket("per address", rate=1e9, burst=1e9, key=("client_ip",)),
    window("per client", count=1 << 40, key=("client_id",)),
    slots("in flight", max_in_flight=1000),
)

Write = Callable[[int], bytes]


def long_poll(number: int) -> bytes:
    """Write a Fetch that may wait at the broker."""
    return fetch(number, wait_ms=500)


def produce_9(number: int) -> bytes:
    """Write a Produce request whose answer names no broker."""
    return produce(number, version=9)


def produced_9(number: int) -> bytes:
    """Write its answer."""
    return produced(number, 9)


def list_offsets(number: int) -> bytes:
    """Write a request of the plainest kind."""
    return frames.request(ApiKey.LIST_OFFSETS, 5, number, "c", bytes(30))


def offsets(number: int) -> bytes:
    """Write its answer."""
    return frames.response(number, ApiKey.LIST_OFFSETS, 5, bytes(30))


@pytest.fixture(autouse=True)
def no_garbage() -> Iterator[None]:
    """Let nobody's finalizers be counted."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def warm(wire: Wire, request: Write, answer: Write) -> None:
    """Let a connection see a request or two, as it has nearly always."""
    for _ in range(2):
        wire.send(request(1))
        wire.answer(answer(1))


@pytest.mark.parametrize(
    ("request_", "answer", "for_requests", "for_answers"),
    [
        (fetch, fetched, 6, 4),
        (long_poll, fetched, 5, 2),
        (produce_9, produced_9, 7, 4),
        (list_offsets, offsets, 6, 4),
    ],
)
@pytest.mark.parametrize("frames_per_read", [1, 16])
def test_calls_per_read(
    request_: Write, answer: Write, for_requests: int, for_answers: int, frames_per_read: int
) -> None:
    """With three limits a read enters as few Python functions for 16 requests alike as for one, and few.

    For a request these are the two exchanges', one per limit, the clock of this test, and one to remember whose slots
    it has taken; for an answer the two exchanges', and two to give them back.
    """
    wire = Stage(*THREE).wire()
    warm(wire, request_, answer)
    assert calls(wire.exchange.from_client, request_(1) * frames_per_read) <= for_requests
    assert calls(wire.exchange.from_broker, answer(1) * frames_per_read) <= for_answers
    assert wire.exchange.idle
    assert not any(limit.delayed for limit in wire.stage.limits.limits)


def test_calls_before_a_cluster() -> None:
    """It is no more before a whole cluster."""
    wire = Stage(*THREE).routed_wire(Directory())
    request, answer = fetch(1, version=4), frames.response(1, ApiKey.FETCH, 4, bytes(30))
    warm(wire, lambda _number: request, lambda _number: answer)
    for count in (1, 16):
        assert calls(wire.exchange.from_client, request * count) <= 8
        assert calls(wire.exchange.from_broker, answer * count) <= 4


def test_answers_that_are_counted() -> None:
    """Where answers are counted that is a few calls for each, and only there."""
    wire = Stage(bucket(unit=Unit.BYTES_OUT, rate=1e9, burst=1e9)).wire()
    warm(wire, fetch, fetched)
    wire.send(fetch(1) * 17)
    one, sixteen = calls(wire.exchange.from_broker, fetched(1)), calls(wire.exchange.from_broker, fetched(1) * 16)
    assert one <= 12
    assert sixteen <= 16 * one


def test_what_no_limit_counts() -> None:
    """A request that no limit counts asks nobody."""
    wire = Stage(bucket(apis=frozenset())).wire()
    warm(wire, fetch, fetched)
    assert calls(wire.exchange.from_client, fetch(1) * 16) <= 3
    assert calls(wire.exchange.from_broker, fetched(1) * 16) <= 2
