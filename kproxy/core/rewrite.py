"""Answers that must be seen, one small machine each: fed the broker's bytes, they give the client's.

- Collected: held whole, then changed (or consumed). For small answers only: COLLECTED_BYTES_MAX.
- MetadataHead: held until the brokers have been read, then the rest streams by.
- ShareFetchAnswer: streams by whole; only its tail is held (wire.sharefetch).

A machine's ``feed(data, pos)`` takes bytes from ``pos`` on and returns (bytes for the client, next position, done).
Once done, ``left`` more bytes of the frame pass unchanged.
"""

from collections.abc import Callable
from typing import Protocol

from kproxy.errors import FrameTooLarge, Malformed, Short
from kproxy.wire import frames
from kproxy.wire.apis import ApiKey
from kproxy.wire.endpoints import splice_metadata
from kproxy.wire.primitives import INT32
from kproxy.wire.sharefetch import ShareFetchWalk

Advertise = Callable[[int, str, int], tuple[str, int]]
"""(node id, host and port as the broker said them) -> (host, port) for the client."""

COLLECTED_BYTES_MAX = 16 * 1024 * 1024
"""The longest answer that is held whole. Coordinators, cluster nodes and Produce results take a few KiB; ten thousand
partitions in one Produce request, 1 MiB."""

BROKERS_BYTES_MAX = 1 << 20
"""How much of a Metadata answer is held until its brokers are all there; one takes some 50 bytes. The brokers are read
anew with every piece that comes, so this bounds the time, too."""

_SIZE_BYTES = 4
_RESPONSE_HEADER_BYTES_MAX = 4096  # a correlation id and tags, of which Kafka has none so far


class Sink(Protocol):
    """What becomes of one answer."""

    left: int
    """Bytes of the frame, behind the ones taken, that pass unchanged."""

    @property
    def missing(self) -> int:
        """Bytes of the frame that are still to come, until it is done with."""

    def feed(self, data: bytes, pos: int) -> tuple[bytes, int, bool]:
        """Take bytes from ``pos``; return (bytes to forward, next position, whether this answer is done with)."""


class Collected:
    """Hold an answer until it is whole, then hand its frame to ``finish``, whose bytes go to the client."""

    left = 0

    def __init__(self, frame_bytes: int, finish: Callable[[bytes], bytes]) -> None:
        """Expect a frame of ``frame_bytes``, its size prefix included."""
        if frame_bytes > COLLECTED_BYTES_MAX:
            raise FrameTooLarge(f"an answer of {frame_bytes} bytes that must be held whole")
        self.missing = frame_bytes
        self._parts: list[bytes] = []
        self._finish = finish

    def feed(self, data: bytes, pos: int) -> tuple[bytes, int, bool]:
        """See Sink."""
        end = pos + self.missing
        part = data[pos:end]
        if len(part) < self.missing:
            self.missing -= len(part)
            self._parts.append(part)
            return b"", pos + len(part), False
        self._parts.append(part)
        return self._finish(part if len(self._parts) == 1 else b"".join(self._parts)), end, True


class MetadataHead:
    """Hold a Metadata answer until its brokers have been read; what is behind them streams by."""

    def __init__(self, frame_bytes: int, version: int, advertise: Advertise, *, blank_racks: bool = False) -> None:
        """Expect a frame of ``frame_bytes``, its size prefix included."""
        self._blank_racks = blank_racks
        self._frame_bytes = frame_bytes
        self._version = version
        self._advertise = advertise
        self._held = b""
        self.left = 0

    @property
    def missing(self) -> int:
        """See Sink."""
        return self._frame_bytes - len(self._held)

    def feed(self, data: bytes, pos: int) -> tuple[bytes, int, bool]:
        """See Sink."""
        wanted = self._frame_bytes - len(self._held)
        end = min(len(data), pos + wanted)
        held = self._held + data[pos:end]
        whole = len(held) == self._frame_bytes
        try:
            body_at = frames.response_body_at(held, _SIZE_BYTES, ApiKey.METADATA, self._version)
            head, brokers_end = splice_metadata(
                self._version, held, body_at, self._advertise, blank_racks=self._blank_racks
            )
        except Short:
            if whole:
                raise Malformed("Metadata answer ends before its brokers do") from None
            if len(held) > BROKERS_BYTES_MAX:
                raise FrameTooLarge(f"more than {BROKERS_BYTES_MAX} bytes of brokers in a Metadata answer") from None
            self._held = held
            return b"", end, False
        self.left = self._frame_bytes - len(held)
        size = self._frame_bytes - _SIZE_BYTES + len(head) - (brokers_end - body_at)
        self._held = b""
        return b"".join((INT32.pack(size), held[_SIZE_BYTES:body_at], head, held[brokers_end:])), end, True


class ShareFetchAnswer:
    """Let a ShareFetch answer stream by; its endpoints are blanked in place (KIP-932, KIP-951)."""

    left = 0

    def __init__(self, frame_bytes: int, version: int) -> None:
        """Expect a frame of ``frame_bytes``, its size prefix included."""
        self.missing = frame_bytes
        self._version = version
        self._held = b""
        self._frame_bytes = frame_bytes
        self._walk: ShareFetchWalk | None = None

    def feed(self, data: bytes, pos: int) -> tuple[bytes, int, bool]:
        """See Sink."""
        end = min(len(data), pos + self.missing)
        self.missing -= end - pos
        part = data[pos:end]
        head = b""
        if self._walk is None:
            part = self._held + part
            try:
                body_at = frames.response_body_at(part, _SIZE_BYTES, ApiKey.SHARE_FETCH, self._version)
            except Short:
                if self.missing == 0 or len(part) > _RESPONSE_HEADER_BYTES_MAX:
                    raise Malformed("ShareFetch answer's header") from None
                self._held = part
                return b"", end, False
            self._held = b""
            self._walk = ShareFetchWalk(self._version, self._frame_bytes - body_at)
            head, part = part[:body_at], part[body_at:]
        out = head + self._walk.feed(part)
        return out, end, self.missing == 0
