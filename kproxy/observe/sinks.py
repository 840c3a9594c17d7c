"""Where a log's entries go: a file, standard output, or a Kafka topic; each has threads of its own.

A sink is used from the loop's thread alone, and nothing there waits: ``put``, ``attend`` now and then, ``close`` last.
Who puts sees to it that not too much is ``waiting``. What it has taken and cannot write is ``lost``, and counted;
``error`` says why::

    sink = FileSink(Path("requests.jsonl"))
    sink.put([(None, b'{"api":"Fetch"}'), (None, b'{"api":"Produce"}')])
    await sink.close(5.0)

Never here: what an entry says.
"""

import asyncio
import os
import select
import threading
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from kproxy.errors import ConfigError

Lines = Sequence[tuple[bytes | None, bytes]]
"""Key and JSON of each entry."""

STDOUT = 1

PIPE_BYTES_MAX = select.PIPE_BUF
"""What is written to a pipe at once is never mixed with what other processes write (POSIX)."""


class Sink(Protocol):
    """See the module."""

    @property
    def waiting(self) -> int:
        """How many entries it has and has not written yet."""

    @property
    def lost(self) -> int:
        """How many entries it could not write."""

    @property
    def error(self) -> str:
        """Why, the last time."""

    def put(self, lines: Lines) -> None:
        """Write entries, in the background."""

    def attend(self) -> None:
        """Hear of what became of them."""

    async def close(self, timeout_seconds: float) -> None:
        """Write what is left, within the bound, and end."""


class FileSink:
    """A file that is appended to, or standard output: a line per entry.

    Before each batch it is looked whether the path still is the open file: one that was moved away (logrotate) is made
    anew.
    """

    def __init__(self, path: Path | None) -> None:
        """Open it; None: standard output. Raises ConfigError where it cannot be."""
        self._path = path
        self._descriptor = STDOUT
        if path is not None:
            try:
                self._descriptor = _open(path)
            except OSError as error:
                raise ConfigError(f"request_log.path: {path}: {os.strerror(error.errno or 0).lower()}") from None
        self._torn = False
        self._loop = asyncio.get_running_loop()
        self._batches: SimpleQueue[Lines | None] = SimpleQueue()
        self._ended = asyncio.Event()
        self.waiting = 0
        self.lost = 0
        self.error = ""
        # A daemon: a write that hangs must not keep the process.
        self._thread = threading.Thread(target=self._run, name="request log", daemon=True)
        self._thread.start()

    def put(self, lines: Lines) -> None:
        """See Sink."""
        self.waiting += len(lines)
        self._batches.put(lines)

    def attend(self) -> None:
        """See Sink; it is told by itself."""

    async def close(self, timeout_seconds: float) -> None:
        """See Sink."""
        self._batches.put(None)
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._ended.wait()
        except TimeoutError:
            self.lost += self.waiting
            self.waiting = 0
            self.error = "it takes too long to write"

    # The thread's.

    def _run(self) -> None:
        while (lines := self._batches.get()) is not None:
            error = ""
            try:
                self._write(lines)
            except OSError as trouble:
                error = os.strerror(trouble.errno or 0).lower()
            self._say(len(lines), error)
        if self._path is not None:
            os.close(self._descriptor)
        self._say(0, "")

    def _say(self, many: int, error: str) -> None:
        try:
            self._loop.call_soon_threadsafe(self._heard, many, error)
        except RuntimeError:  # the loop has ended, and nobody listens any more
            return

    def _write(self, lines: Lines) -> None:
        if self._path is not None:
            self._follow(self._path)
        text = b"".join(line + b"\n" for _, line in lines)
        if self._path is None:
            for piece in _pieces(lines):
                self._write_all(piece)
        else:
            self._write_all(text)

    def _write_all(self, data: bytes) -> None:
        if self._torn:  # what was written last ends amid a line
            data = b"\n" + data
        while data:
            written = os.write(self._descriptor, data)
            self._torn = not data[:written].endswith(b"\n")
            data = data[written:]

    def _follow(self, path: Path) -> None:
        try:
            there = path.stat()
        except FileNotFoundError:
            there = None
        if there is None or not os.path.samestat(there, os.fstat(self._descriptor)):
            descriptor = _open(path)
            os.close(self._descriptor)
            self._descriptor = descriptor
            self._torn = False

    # The loop's again.

    def _heard(self, many: int, error: str) -> None:
        if error:
            self.lost += many
            self.error = error
        self.waiting = max(self.waiting - many, 0)
        if not many:
            self._ended.set()


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def _pieces(lines: Lines) -> list[bytes]:
    """Join lines into pieces that a pipe takes whole, but for a line that is longer by itself."""
    pieces = [b""]
    for _, line in lines:
        if len(pieces[-1]) + len(line) + 1 > PIPE_BYTES_MAX:
            pieces.append(b"")
        pieces[-1] += line + b"\n"
    return [piece for piece in pieces if piece]


class KafkaSink:
    """A topic, by librdkafka's producer, whose threads connect, batch, compress and try again."""

    def __init__(self, topic: str, options: dict[str, Any], queue_max: int) -> None:
        """Make the producer; ``options`` are librdkafka's. Raises ConfigError where it takes them not."""
        try:
            from confluent_kafka import KafkaException, Producer  # noqa: PLC0415  an extra of its own
        except ImportError:
            text = "kafka needs the package confluent-kafka, which is not installed; pip install 'kproxy[log]'"
            raise ConfigError(f"request_log.to: {text}") from None
        self._topic = topic
        self.lost = 0
        self.error = ""
        whole = {
            "client.id": "kproxy-request-log",
            "queue.buffering.max.messages": queue_max,
            "compression.type": "lz4",
            "linger.ms": 5,  # they were gathered already
            "delivery.report.only.error": True,
            "log_level": 0,  # what goes wrong is told by error_cb and delivery reports
            "error_cb": self._troubled,
            **options,
        }
        try:
            self._producer = Producer(whole)
        except KafkaException as error:
            raise ConfigError(f"request_log: {error.args[0].str()}") from None

    @property
    def waiting(self) -> int:
        """See Sink."""
        return len(self._producer)

    def put(self, lines: Lines) -> None:
        """See Sink."""
        for key, line in lines:
            try:
                self._producer.produce(self._topic, line, key, on_delivery=self._failed)
            except BufferError:
                self.lost += 1
                self.error = "the queue is full"
        self._producer.poll(0)

    def attend(self) -> None:
        """See Sink."""
        self._producer.poll(0)

    async def close(self, timeout_seconds: float) -> None:
        """See Sink."""
        loop = asyncio.get_running_loop()
        left = await loop.run_in_executor(None, self._producer.flush, timeout_seconds)
        if left:
            self._producer.purge()
            self._producer.flush(0)

    def _failed(self, error: Any, _: object) -> None:  # noqa: ANN401  confluent-kafka has no types
        if error is not None:
            self.lost += 1
            self.error = self.error or error.str()

    def _troubled(self, error: Any) -> None:  # noqa: ANN401  likewise
        self.error = error.str()
