"""The request log: entries as JSON, a queue that is bounded, and sinks that lose nothing in silence."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from kproxy.config.requestlog import FIELDS
from kproxy.core.limits import Client
from kproxy.core.observed import Answerer, Observation
from kproxy.errors import ConfigError
from kproxy.observe import requestlog, sinks
from kproxy.observe.requestlog import BATCH_MAX, LogSettings, RequestLog, entry_of
from kproxy.observe.sinks import FileSink, KafkaSink, Lines
from kproxy.wire.apis import ApiKey
from kproxy.wire.apiversions import ClientSoftware


def observation(number: int = 7, **more: Any) -> Observation:
    """Make one of a Produce request."""
    usual: dict[str, Any] = {
        "client": Client("public", "10.0.0.1", "User:alice", "app"),
        "client_port": 4000,
        "software": ClientSoftware("librdkafka", "2.13.0"),
        "node_id": 1,
        "key": int(ApiKey.PRODUCE),
        "version": 10,
        "correlation_id": number,
        "topic": "größe",
        "topic_id": None,
        "request_bytes": 190,
        "response_bytes": 57,
        "answered_by": Answerer.BROKER,
        "error_code": None,
        "throttle_time_ms": None,
        "read_at": 10.0,
        "kproxy_seconds": 0.25,
        "upstream_seconds": 0.00325,
    }
    return Observation(**(usual | more))


class Memory:
    """A sink that keeps what it gets, and says that it has written it when it is told to."""

    def __init__(self) -> None:
        self.lines: list[tuple[bytes | None, bytes]] = []
        self.waiting = 0
        self.lost = 0
        self.error = ""
        self.attended = 0
        self.closed: float | None = None

    def put(self, lines: Lines) -> None:
        """See Sink."""
        self.lines += lines
        self.waiting += len(lines)

    def attend(self) -> None:
        """See Sink."""
        self.attended += 1

    async def close(self, timeout_seconds: float) -> None:
        """See Sink."""
        self.closed = timeout_seconds

    def written(self) -> None:
        """All is written."""
        self.waiting = 0

    @property
    def ids(self) -> list[int]:
        """The correlation ids of what it has got."""
        return [json.loads(line)["correlation_id"] for _, line in self.lines]


async def until(met: Callable[[], object], seconds: float = 10) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(seconds):
        while not met():  # noqa: ASYNC110  what is met is a number of another thread's
            await asyncio.sleep(0.005)


def test_an_entry() -> None:
    """An entry has each field there is, in order, with the time of day, and milliseconds to the microsecond."""
    entry = entry_of(observation(), 1_700_000_000.0)
    assert tuple(entry) == FIELDS
    assert entry["time"] == "2023-11-14T22:13:30.000Z"
    assert (entry["latency_ms"], entry["kproxy_ms"], entry["upstream_ms"]) == (253.25, 250.0, 3.25)
    assert (entry["api"], entry["software"], entry["answered_by"]) == ("Produce", "librdkafka", "broker")
    other = entry_of(observation(software=None, topic_id=bytes(range(16)), upstream_seconds=None), 0.0)
    assert (other["software"], other["software_version"], other["upstream_ms"]) == (None, None, None)
    assert other["topic_id"] == "AAECAwQFBgcICQoLDA0ODw"
    assert other["latency_ms"] == 250.0


async def test_written_after_linger() -> None:
    """What comes within linger is written together, as JSON: what was chosen, in its own letters, with a key."""
    sink = Memory()
    log = RequestLog(LogSettings(("client_id", "topic"), "client_id", linger_seconds=0.01), sink)
    for number in range(3):
        log.take(observation(number))
    assert sink.lines == []
    await until(lambda: sink.lines)
    assert sink.lines == [(b"app", '{"client_id":"app","topic":"größe"}'.encode())] * 3
    assert log.snapshot() == {"entries": 3, "dropped": 0, "waiting": 3}
    sink.written()
    await until(lambda: log._timer is None)
    assert log.snapshot()["waiting"] == 0
    await log.close()


@pytest.mark.parametrize(("key", "expected"), [("client_ip", b"10.0.0.1"), ("topic", None), ("api", b"Produce")])
async def test_keys(key: str, expected: bytes | None) -> None:
    """The key is the field that was chosen, though it is not told; there is none where the field says nothing."""
    sink = Memory()
    log = RequestLog(LogSettings(("time",), key), sink)
    log.take(observation(topic=None))
    await log.close()
    assert [each for each, _ in sink.lines] == [expected]


async def test_a_batch_does_not_wait() -> None:
    """A full batch is written before linger is over, in steps, in order."""
    sink = Memory()
    log = RequestLog(LogSettings(linger_seconds=3600), sink)
    for number in range(BATCH_MAX + 7):
        log.take(observation(number))
    await until(lambda: len(sink.lines) == BATCH_MAX + 7)
    assert sink.ids == list(range(BATCH_MAX + 7))
    await log.close()


async def test_the_queue_is_bounded() -> None:
    """Above the bound, whether entries wait here or at the sink, what comes is dropped, counted, and told."""
    sink = Memory()
    log = RequestLog(LogSettings(queue_max=5, linger_seconds=0.005), sink)
    with capture_logs() as logs:
        for number in range(8):
            log.take(observation(number))
        await until(lambda: len(sink.lines) == 5)
        log.take(observation(8))
        assert log.snapshot() == {"entries": 5, "dropped": 4, "waiting": 5}
        sink.written()
        log.take(observation(9))
        await until(lambda: len(sink.lines) == 6)
        sink.lost, sink.error = 2, "disk full"
        sink.written()
        await log.close()
    assert sink.ids == [0, 1, 2, 3, 4, 9]
    assert log.snapshot() == {"entries": 6, "dropped": 6, "waiting": 0}
    first, last = logs
    assert (first["event"], first["dropped"]) == ("request log drops entries", 3)
    assert (last["event"], last["dropped"]) == ("request log dropped entries", 6)


async def test_why_entries_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the sink has lost is told with its reason."""
    monkeypatch.setattr(requestlog, "TELL_SECONDS", 0.0)
    sink = Memory()
    log = RequestLog(LogSettings(linger_seconds=0.005), sink)
    with capture_logs() as logs:
        log.take(observation())
        sink.lost, sink.error = 1, "no space left on device"
        await until(lambda: logs)
        await log.close()
    assert (logs[0]["error"], logs[0]["dropped"]) == ("no space left on device", 1)


async def test_close_is_bounded() -> None:
    """A stop writes what is left as long as there is time; the rest is dropped, and counted."""
    sink = Memory()
    log = RequestLog(LogSettings(linger_seconds=3600, flush_timeout_seconds=5), sink)
    log.take(observation())
    await log.close()
    assert sink.ids == [7]
    assert 0 < (sink.closed or 0) <= 5
    late = Memory()
    log = RequestLog(LogSettings(linger_seconds=3600, flush_timeout_seconds=0), late)
    log.take(observation())
    await log.close()
    assert (late.ids, log.snapshot()["dropped"], late.closed) == ([], 1, 0.0)


# Files.


@pytest.fixture
async def file_sink(tmp_path: Path) -> AsyncIterator[FileSink]:
    """A sink that writes to ``requests.jsonl``."""
    sink = FileSink(tmp_path / "requests.jsonl")
    yield sink
    await sink.close(5)


def lines(*texts: str) -> list[tuple[bytes | None, bytes]]:
    """Make entries of a sink."""
    return [(None, text.encode()) for text in texts]


async def test_a_file(file_sink: FileSink, tmp_path: Path) -> None:
    """Entries are appended, a line each, to what is there; others of the machine may not read them."""
    path = tmp_path / "requests.jsonl"
    path.write_text("before\n")
    file_sink.put(lines("one", "two"))
    file_sink.put(lines("three"))
    file_sink.attend()
    assert file_sink.waiting == 3
    await until(lambda: file_sink.waiting == 0)
    assert path.read_text() == "before\none\ntwo\nthree\n"
    assert path.stat().st_mode & 0o007 == 0
    assert file_sink.lost == 0


async def test_a_file_that_is_moved_away(file_sink: FileSink, tmp_path: Path) -> None:
    """After a rotation, or a removal, the next batch goes to a new file at the path, and nothing is lost."""
    path, old = tmp_path / "requests.jsonl", tmp_path / "requests.jsonl.1"
    file_sink.put(lines("one"))
    await until(lambda: file_sink.waiting == 0)
    path.rename(old)
    file_sink.put(lines("two"))
    await until(lambda: file_sink.waiting == 0)
    assert (old.read_text(), path.read_text()) == ("one\n", "two\n")
    path.unlink()
    path.write_text("made by logrotate\n")
    file_sink.put(lines("three"))
    await until(lambda: file_sink.waiting == 0)
    assert path.read_text() == "made by logrotate\nthree\n"


async def test_a_folder_that_is_gone(file_sink: FileSink, tmp_path: Path) -> None:
    """Entries that cannot be written are lost, counted, with the reason; the next are written once they can be."""
    folder = tmp_path
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    folder.rename(moved)
    file_sink.put(lines("one", "two"))
    await until(lambda: file_sink.waiting == 0)
    assert (file_sink.lost, file_sink.error) == (2, "no such file or directory")
    moved.rename(folder)
    file_sink.put(lines("three"))
    await until(lambda: file_sink.waiting == 0)
    assert (folder / "requests.jsonl").read_text() == "three\n"
    assert file_sink.lost == 2


async def test_a_torn_line(file_sink: FileSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a disk becomes full amid a line, the next entry begins a line of its own."""
    write = os.write
    left = [3]

    def full_soon(descriptor: int, data: bytes) -> int:
        if descriptor != file_sink._descriptor:
            return write(descriptor, data)
        if not left:
            return write(descriptor, data)
        if left[0] == 0:
            left.clear()
            raise OSError(28, "No space left on device")
        size, left[0] = left[0], 0
        return write(descriptor, data[:size])

    monkeypatch.setattr(os, "write", full_soon)
    file_sink.put(lines("whole"))
    await until(lambda: file_sink.waiting == 0)
    assert (file_sink.lost, file_sink.error) == (1, "no space left on device")
    file_sink.put(lines("next"))
    await until(lambda: file_sink.waiting == 0)
    assert (tmp_path / "requests.jsonl").read_text() == "who\nnext\n"


async def test_a_write_that_hangs(tmp_path: Path) -> None:
    """A stop does not wait for it longer than the bound; what is not written then is lost."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    sink = FileSink(fifo)
    for _ in range(3):
        sink.put(lines("x" * 40_000))  # more than a pipe takes
    await sink.close(0.05)
    assert sink.waiting == 0
    assert sink.lost >= 1
    assert sink.error == "it takes too long to write"
    await until(lambda: not os.read(reader, 1 << 20))  # so that its thread can end
    os.close(reader)


@pytest.mark.parametrize(("place", "why"), [("missing/requests.jsonl", "no such file"), (".", "is a directory")])
async def test_a_file_that_cannot_be(tmp_path: Path, place: str, why: str) -> None:
    """A path that cannot be opened is a mistake of the configuration, told before anything serves."""
    with pytest.raises(ConfigError, match=rf"request_log\.path: .*: {why}"):
        FileSink(tmp_path / place)


async def test_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """To a pipe entries go in pieces that it takes whole, each of whole lines, however many are written."""
    reader, writer = os.pipe()
    monkeypatch.setattr(sinks, "STDOUT", writer)
    pieces = []
    write = os.write

    def noted(descriptor: int, data: bytes) -> int:
        if descriptor == writer:
            pieces.append(data)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", noted)
    sink = FileSink(None)
    texts = [f"{number} " + "x" * 150 for number in range(100)]
    sink.put(lines(*texts, "y" * 5000))
    got = b""
    while got.count(b"\n") < 101:
        got += await asyncio.get_running_loop().run_in_executor(None, os.read, reader, 65536)
    assert got.decode().splitlines() == [*texts, "y" * 5000]
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert all(len(piece) <= sinks.PIPE_BYTES_MAX for piece in pieces[:-1])
    os.close(reader)
    sink.put(lines("nobody reads"))
    await until(lambda: sink.waiting == 0)
    assert (sink.lost, sink.error) == (1, "broken pipe")
    await sink.close(5)
    os.close(writer)


def test_a_loop_that_has_ended(tmp_path: Path) -> None:
    """A write that ends after the loop has ended bothers nobody."""

    async def leave() -> FileSink:
        return FileSink(tmp_path / "requests.jsonl")

    sink = asyncio.run(leave())
    sink.put(lines("late"))
    sink._batches.put(None)
    sink._thread.join(10)
    assert not sink._thread.is_alive()
    assert (tmp_path / "requests.jsonl").read_text() == "late\n"


# Kafka.


async def test_no_broker_is_there() -> None:
    """Entries for brokers that cannot be reached are lost after a time, and counted; a stop is bounded."""
    options = {"bootstrap.servers": "127.0.0.1:1", "message.timeout.ms": 50}
    sink = KafkaSink("requests", options, 10)
    sink.put([(b"key", b"{}"), (None, b"{}")])
    assert sink.waiting == 2

    def lost() -> bool:
        sink.attend()
        return sink.lost == 2

    def none_waits() -> bool:
        sink.attend()  # librdkafka counts an error, too, until it has been told
        return sink.waiting == 0

    await until(lost)
    await until(none_waits)
    assert sink.error
    sink.put([(None, b"{}")])
    await sink.close(0.01)
    assert sink.lost == 3


async def test_the_producers_queue_is_bounded() -> None:
    """Of more entries than its queue holds the rest is lost, and counted."""
    sink = KafkaSink("requests", {"bootstrap.servers": "127.0.0.1:1"}, 3)
    sink.put([(None, b"{}")] * 5)
    assert (sink.waiting, sink.lost) == (3, 2)
    await sink.close(0.01)


def test_options_that_librdkafka_refuses() -> None:
    """Options that cannot be are a mistake of the configuration, told in one line without the password."""
    options = {"security.protocol": "SSL", "ssl.ca.location": "/no/such", "sasl.password": "hunter2"}
    with pytest.raises(ConfigError, match="request_log: ") as caught:
        KafkaSink("requests", {"bootstrap.servers": "127.0.0.1:1", **options}, 3)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without confluent-kafka it is said what to install."""
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(ConfigError, match=r"confluent-kafka, which is not installed; pip install 'kproxy\[log\]'"):
        KafkaSink("requests", {}, 3)
