"""What Exchange costs: no call per plain frame, time in proportion, memory bounded whatever passes."""

import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from conversations import BROKER_HOST, OFFER, advertise, answer_frame

from kproxy.core.exchange import Exchange, Front
from kproxy.core.tally import Tally
from kproxy.wire import frames
from kproxy.wire.apis import ApiKey
from kproxy.wire.primitives import INT32, put_compact_string, put_string, put_uvarint

READ = bytes(64 * 1024)
MIB = 1024 * 1024


def exchange() -> Exchange:
    """Make one that offers everything."""
    return Exchange(Front(OFFER, Tally()), advertise)


def calls(function: Callable[[bytes], bytes], data: bytes) -> int:
    """Count the Python functions that are called."""
    count = 0

    def profile(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        function(data)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("frames_per_read", [1, 16, 64])
def test_no_call_per_plain_frame(frames_per_read: int) -> None:
    """A read of plain frames is one call of a Python function, however many they are, in both directions."""
    request = frames.request(ApiKey.FETCH, 11, 1, "c", b"fetch")
    answer = frames.response(1, ApiKey.FETCH, 11, b"records")
    each = exchange()
    assert calls(each.from_client, request * frames_per_read) == 1
    assert calls(each.from_broker, answer * frames_per_read) == 1
    assert each.idle


@pytest.mark.parametrize("version", [9, 11])
def test_produce_like_the_last(version: int) -> None:
    """Produce requests that begin as the last one did cost no call each, and their answers, if alike, neither."""
    request = frames.request(ApiKey.PRODUCE, version, 1, "c", b"\x00\x00\x01" + bytes(50))
    body = b"\x02\x02t\x02" + bytes(6) + b"\xff" * 24 + b"\x01\x00\x00" + b"\x00" + bytes(4) + b"\x00"
    answer = frames.response(1, ApiKey.PRODUCE, version, body)
    each = exchange()
    each.from_client(request)
    assert each.from_broker(answer) == answer
    each.from_client(request)
    assert calls(each.from_client, request * 16) <= 3
    assert calls(each.from_broker, answer * 17) == 1
    assert each.idle


def coordinators(count: int) -> tuple[bytes, bytes, bytes]:
    """Make FindCoordinator v1 requests, the broker's answers, and the same with our addresses."""
    request = frames.request(ApiKey.FIND_COORDINATOR, 1, 1, "c", b"\x00\x01g\x00")
    head = bytes(6) + put_string(None) + INT32.pack(7)
    theirs = answer_frame(10, 1, 1, head + put_string(BROKER_HOST) + INT32.pack(9092))
    ours = answer_frame(10, 1, 1, head + put_string("kp-7") + INT32.pack(19092))
    return request * count, theirs * count, ours * count


def test_many_awaited_answers() -> None:
    """4,000 awaited answers in one read are rewritten without recursion, at as many calls as one by one."""
    each = exchange()
    request, theirs, ours = coordinators(1)
    each.from_client(request)
    one = calls(each.from_broker, theirs)
    requests, theirs, ours = coordinators(4000)
    each.from_client(requests)
    assert calls(each.from_broker, theirs) <= 4000 * one
    each.from_client(requests)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(200)
    try:
        assert each.from_broker(theirs) == ours
    finally:
        sys.setrecursionlimit(limit)
    assert each.idle


def share_fetch_head(records: int) -> bytes:
    """Begin a ShareFetch v1 answer's body, up to one partition's records."""
    partition = bytes(6) + b"\x00" + bytes(2) + b"\x00" + bytes(8) + b"\x00" + put_uvarint(records + 1)
    return bytes(6) + b"\x00" + bytes(4) + b"\x02" + bytes(16) + b"\x02" + partition


RECORDS = 90 * MIB - (90 * MIB) % len(READ)
ENDPOINT = INT32.pack(7) + put_compact_string(BROKER_HOST) + INT32.pack(9092) + b"\x00\x00"
METADATA = bytes(4) + b"\x02" + ENDPOINT
SHARE_TAIL = b"\x01\x00\x00" + b"\x02" + ENDPOINT + b"\x00"


@pytest.mark.parametrize(
    ("key", "version", "head", "tail"),
    [
        (ApiKey.FETCH, 11, b"", b""),
        (ApiKey.METADATA, 9, METADATA, b""),
        (ApiKey.SHARE_FETCH, 1, share_fetch_head(RECORDS), SHARE_TAIL),
    ],
)
def test_a_long_answer_passes(key: int, version: int, head: bytes, tail: bytes) -> None:
    """90 MiB of answer in reads of 64 KiB pass as they come, and less than 1 MiB is held of them at any time."""
    each = exchange()
    each.from_client(frames.request(key, version, 1, "c", b"\x00"))
    header = answer_frame(key, version, 1, b"")[4:]
    reads = RECORDS // len(READ)
    beginning = INT32.pack(len(header) + len(head) + RECORDS + len(tail)) + header + head
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        got = len(each.from_broker(beginning))
        for _ in range(reads):
            out = each.from_broker(READ)
            assert len(out) == len(READ)
            got += len(out)
        end = each.from_broker(tail)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak < MIB
    assert each.idle
    assert BROKER_HOST.encode() not in end
    shorter = len(BROKER_HOST) - len("kp-7") if key == ApiKey.METADATA else 0
    assert got + len(end) == len(beginning) + RECORDS + len(tail) - shorter


@pytest.mark.parametrize("key", [ApiKey.PRODUCE, ApiKey.FETCH])
def test_a_long_request_passes(key: int) -> None:
    """90 MiB of request in reads of 64 KiB pass as the very objects that came."""
    each = exchange()
    request = frames.request(key, 7, 1, "c", b"\xff\xff\x00\x00" + bytes(40))
    beginning = INT32.pack(len(request) - 4 + RECORDS) + request[4:]
    assert each.from_client(beginning) == beginning
    for _ in range(RECORDS // len(READ)):
        assert each.from_client(READ) is READ
    assert each.at_boundary
