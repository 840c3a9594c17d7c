"""Our own record there and back, held against kafka-python's batches and both codecs' messages."""

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.record import MemoryRecords
from oracles import KAFKA_PYTHON, KIO, KafkaPython, Kio, cases

from kproxy.errors import ProtocolError, Short
from kproxy.wire import roundtrip
from kproxy.wire.apis import ApiKey

PRODUCE, FETCH = ApiKey.PRODUCE, ApiKey.FETCH
VALUE = b"a kproxy doctor's mark"

each_produce = pytest.mark.parametrize(
    ("oracle", "key", "version"),
    [case for case in cases(PRODUCE) if roundtrip.PRODUCE_VERSION <= case.values[2] <= roundtrip.PRODUCE_VERSION_MAX],
    ids=str,
)


def test_the_checksum_is_crc32c() -> None:
    """The check value that every implementation of CRC-32C has."""
    assert roundtrip.crc32c(b"123456789") == 0xE3069283


@given(st.binary(max_size=300), st.integers(0, 2**42))
def test_a_batch_is_one_that_kafka_python_reads(value: bytes, timestamp_ms: int) -> None:
    """Checksum, offsets, time and value are as they were meant."""
    batch = MemoryRecords(roundtrip.one_record(value, timestamp_ms)).next_batch()
    assert batch.validate_crc()
    (record,) = batch
    assert (record.offset, record.timestamp, record.key, record.value) == (0, timestamp_ms, None, value)
    assert list(record.headers) == []


@each_produce
def test_produce_is_what_both_codecs_read(oracle: Kio | KafkaPython, key: int, version: int) -> None:
    """A request asks for acks=all and names one partition of one topic."""
    batch = roundtrip.one_record(VALUE, 1)
    tree = oracle.decode(
        key, version, "request", roundtrip.produce_request(version, "scratch", 3, batch, timeout_ms=5000)
    )
    assert (tree["transactional_id"], tree["acks"]) == (None, -1)
    (topic,) = tree["topic_data"]
    (partition,) = topic["partition_data"]
    assert (topic["name"], partition["index"], bytes(partition["records"])) == ("scratch", 3, batch)


@each_produce
def test_what_became_of_it_is_read(oracle: Kio | KafkaPython, key: int, version: int) -> None:
    """Error, offset and the broker's time of the one partition; an answer that is cut off is an error."""
    rng = Random(version)
    for _ in range(40):
        tree = one_partition(oracle, rng, key, version)
        partition = tree["responses"][0]["partition_responses"][0]
        body = oracle.encode(key, version, "response", tree)
        told = roundtrip.parse_produce_response(version, body)
        error = partition["error_code"]
        assert told[:2] == (getattr(error, "value", error), partition["base_offset"])
        if isinstance(oracle, KafkaPython):  # kio has a date of its own making
            assert told.log_append_time_ms == partition["log_append_time_ms"]
        with pytest.raises(ProtocolError):
            roundtrip.parse_produce_response(version, body[:20])


def one_partition(oracle: Kio | KafkaPython, rng: Random, key: int, version: int) -> dict[str, Any]:
    """Make an answer with exactly one partition."""
    while True:
        tree = oracle.message(rng, key, version, "response")
        for topic in tree["responses"]:
            if topic["partition_responses"]:
                topic["partition_responses"] = topic["partition_responses"][:1]
                return {**tree, "responses": [topic]}


def test_fetch_is_what_kafka_python_reads() -> None:
    """A request asks, as a consumer, for one partition from an offset."""
    body = roundtrip.fetch_request("scratch", 3, 77, max_wait_ms=100, bytes_max=1000)
    tree = KAFKA_PYTHON.decode(FETCH, roundtrip.FETCH_VERSION, "request", body)
    assert (tree["replica_id"], tree["max_wait_ms"], tree["min_bytes"]) == (-1, 100, 1)
    (topic,) = tree["topics"]
    (partition,) = topic["partitions"]
    assert (topic["topic"], partition["partition"], partition["fetch_offset"]) == ("scratch", 3, 77)
    assert KIO.decode(FETCH, roundtrip.FETCH_VERSION, "request", body)["max_bytes"] == 1000


def test_fetched_records_are_found() -> None:
    """Error code and records are read, aborted transactions or none before them; a null is no records."""
    rng = Random(4)
    for _ in range(60):
        tree = KAFKA_PYTHON.message(rng, FETCH, roundtrip.FETCH_VERSION, "response")
        for topic in [topic for topic in tree["responses"] if topic["partitions"]][:1]:
            partition = topic["partitions"][0] | {"error_code": 3}
            one = {**tree, "responses": [{**topic, "partitions": [partition]}]}
            body = KAFKA_PYTHON.encode(FETCH, roundtrip.FETCH_VERSION, "response", one)
            assert roundtrip.parse_fetch_response(body) == (3, partition["records"] or b"")
            with pytest.raises(Short):
                roundtrip.parse_fetch_response(body[:10])


def at(offset: int, batch: bytes) -> bytes:
    """Return a batch as the broker keeps it."""
    return offset.to_bytes(8, "big") + batch[8:]


def test_our_record_is_found_among_others() -> None:
    """The offset leads to the batch; the value must be in it, but where the broker has compressed it."""
    ours, other = roundtrip.one_record(VALUE, 1), roundtrip.one_record(b"another's", 1)
    fetched = at(6, other) + at(7, ours) + at(8, other)
    assert roundtrip.attributes_of(fetched, 7, VALUE) == 0
    assert roundtrip.attributes_of(fetched, 8, VALUE) is None
    assert roundtrip.attributes_of(fetched, 9, VALUE) is None
    assert roundtrip.attributes_of(fetched[: len(ours) + 30], 7, VALUE) is None
    compressed = at(7, other[:22] + b"\x09" + other[23:])
    assert roundtrip.attributes_of(compressed, 7, VALUE) == roundtrip.LOG_APPEND_TIME | 1


@given(st.binary(max_size=80))
def test_garbage_is_no_record(data: bytes) -> None:
    """Whatever comes, the search ends."""
    assert roundtrip.attributes_of(data, 1 << 62, VALUE) is None
