"""ApiVersions (18): what each side of a connection understands, read and written as bodies.

The first request of nearly every connection, and the one answer a proxy must always be able to give: its response
header stays v0 at every version, and a version that is not supported is answered by a v0 body with error 35 that
names the supported range of key 18 (KIP-511). Nothing here decides what to offer; that is core's.

A broker that serves nothing but Fetch 4 to 15, in v0::

    >>> response(0, ApiVersionsAnswer(ranges={1: (4, 15)})).hex(" ")
    '00 00 00 00 00 01 00 01 00 04 00 0f'
    >>> parse_response(0, bytes.fromhex("00 00 00 00 00 01 00 01 00 04 00 0f")).ranges
    {1: (4, 15)}
"""

import re
import struct
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from kproxy.errors import Malformed, Unsupported
from kproxy.wire import primitives
from kproxy.wire.primitives import INT16, INT32, INT64

API_KEY: Final = 18
VERSION_MAX: Final = 4
UNSUPPORTED_VERSION: Final = 35

_RANGE = struct.Struct(">hhh")
_LEVELS = struct.Struct(">hh")
_SOFTWARE = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?")  # KIP-511

# Tags of the response (v3+), in the order they are written.
_SUPPORTED_FEATURES, _FINALIZED_EPOCH, _FINALIZED_FEATURES, _ZK_MIGRATION_READY = range(4)


class ClientSoftware(NamedTuple):
    """What a client calls itself (KIP-511), as sent: see valid_client_software."""

    name: str
    version: str


class ApiRange(NamedTuple):
    """The versions of one API that are understood, both ends included."""

    key: int
    min_version: int
    max_version: int


@dataclass(frozen=True, slots=True)
class ApiVersionsAnswer:
    """An ApiVersions response, whatever its version.

    ``ranges``: API key -> (min, max) version. ``supported_features``, ``finalized_features``: feature -> (min, max)
    level. ``finalized_features_epoch``: -1 where unknown (KIP-584). ``zk_migration_ready``: KIP-866.
    """

    error_code: int = 0
    ranges: dict[int, tuple[int, int]] = field(default_factory=dict)
    throttle_time_ms: int = 0
    supported_features: dict[str, tuple[int, int]] = field(default_factory=dict)
    finalized_features_epoch: int = -1
    finalized_features: dict[str, tuple[int, int]] = field(default_factory=dict)
    zk_migration_ready: bool = False

    def api_ranges(self) -> list[ApiRange]:
        """The ranges as a list, in the order of the answer."""
        return [ApiRange(key, low, high) for key, (low, high) in self.ranges.items()]


def valid_client_software(text: str) -> bool:
    """Whether a client's software name or version is one a broker accepts (otherwise INVALID_REQUEST, 42)."""
    return _SOFTWARE.fullmatch(text) is not None


def parse_request(version: int, body: bytes) -> ClientSoftware | None:
    """Read a request, v0 to v4; None before v3, where the body is empty.

    Raises Unsupported above v4: the body of a version that is not supported must not be looked at (KIP-511).
    """
    _check_version(version)
    software, pos = None, 0
    if version >= 3:
        name, pos = primitives.compact_string(body, 0)
        software_version, pos = primitives.compact_string(body, pos)
        pos = primitives.skip_tags(body, pos)
        software = ClientSoftware(name, software_version)
    _expect_end(body, pos)
    return software


def request(version: int, software: ClientSoftware) -> bytes:
    """Write a request, v0 to v4; before v3 it is empty, whatever the software."""
    _check_version(version)
    if version < 3:
        return b""
    return primitives.put_compact_string(software.name) + primitives.put_compact_string(software.version) + b"\x00"


def parse_response(version: int, body: bytes) -> ApiVersionsAnswer:
    """Read a response to a request of this version, v0 to v4.

    An answer with UNSUPPORTED_VERSION (35) has a v0 body whatever was asked (KIP-511), and is read as one; brokers
    before 2.4 name no range in it. Where an entry appears twice the last one counts.
    """
    _check_version(version)
    error_code, pos = primitives.int16(body, 0)
    if error_code == UNSUPPORTED_VERSION:
        version = 0
    flexible = version >= 3
    ranges, pos = _parse_ranges(flexible, body, pos)
    throttle_time_ms = 0
    if version >= 1:
        throttle_time_ms, pos = primitives.int32(body, pos)
    if not flexible:
        _expect_end(body, pos)
        return ApiVersionsAnswer(error_code, ranges, throttle_time_ms)

    supported: dict[str, tuple[int, int]] = {}
    epoch = -1
    finalized: dict[str, tuple[int, int]] = {}
    zk_migration_ready = False
    tags, pos = primitives.uvarint(body, pos)
    for _ in range(tags):
        tag, pos = primitives.uvarint(body, pos)
        size, pos = primitives.uvarint(body, pos)
        end = primitives.skip(body, pos, size)
        value, pos = body[pos:end], end
        if tag == _SUPPORTED_FEATURES:
            supported = _parse_features(value)
        elif tag == _FINALIZED_EPOCH:
            epoch, used = primitives.int64(value, 0)
            _expect_end(value, used)
        elif tag == _FINALIZED_FEATURES:
            # Here the maximum comes first on the wire.
            finalized = {name: (low, high) for name, (high, low) in _parse_features(value).items()}
        elif tag == _ZK_MIGRATION_READY:
            flag, used = primitives.int8(value, 0)
            _expect_end(value, used)
            zk_migration_ready = flag != 0
    _expect_end(body, pos)
    return ApiVersionsAnswer(error_code, ranges, throttle_time_ms, supported, epoch, finalized, zk_migration_ready)


def response(version: int, answer: ApiVersionsAnswer) -> bytes:
    """Write a response, v0 to v4, leaving out what the version has no room for.

    Below v4 older clients cannot read a feature whose minimum is 0 (KAFKA-17011): its minimum is told as 1, and one
    that has no level but 0 is left out, as clients refuse a minimum above the maximum.
    """
    _check_version(version)
    flexible = version >= 3
    end = b"\x00" if flexible else b""
    count = primitives.put_uvarint(len(answer.ranges) + 1) if flexible else INT32.pack(len(answer.ranges))
    parts = [INT16.pack(answer.error_code), count]
    parts += [_RANGE.pack(key, low, high) + end for key, (low, high) in answer.ranges.items()]
    if version >= 1:
        parts.append(INT32.pack(answer.throttle_time_ms))
    if flexible:
        parts.append(_tags(version, answer))
    return b"".join(parts)


def unsupported_version_response(supported: tuple[int, int] = (0, VERSION_MAX)) -> bytes:
    """Write the answer to a version of key 18 above ours: a v0 body, from which the client learns what to ask."""
    return response(0, ApiVersionsAnswer(UNSUPPORTED_VERSION, {API_KEY: supported}))


def _check_version(version: int) -> None:
    if not 0 <= version <= VERSION_MAX:
        raise Unsupported(f"ApiVersions version {version}")


def _expect_end(body: bytes, pos: int) -> None:
    if pos != len(body):
        raise Malformed("bytes behind the end of an ApiVersions field")


def _parse_ranges(flexible: bool, body: bytes, pos: int) -> tuple[dict[int, tuple[int, int]], int]:
    count, pos = primitives.compact_array(body, pos) if flexible else primitives.array(body, pos)
    ranges = {}
    for _ in range(count):
        end = primitives.skip(body, pos, _RANGE.size)
        key, low, high = _RANGE.unpack_from(body, pos)
        ranges[key] = (low, high)
        pos = primitives.skip_tags(body, end) if flexible else end
    return ranges, pos


def _parse_features(value: bytes) -> dict[str, tuple[int, int]]:
    """Read a feature list: name -> the two levels in the order of the wire."""
    features = {}
    count, pos = primitives.compact_array(value, 0)
    for _ in range(count):
        name, pos = primitives.compact_string(value, pos)
        end = primitives.skip(value, pos, _LEVELS.size)
        first, second = _LEVELS.unpack_from(value, pos)
        features[name] = (first, second)
        pos = primitives.skip_tags(value, end)
    _expect_end(value, pos)
    return features


def _tags(version: int, answer: ApiVersionsAnswer) -> bytes:
    """Write the response's tagged fields; one at its default is not written (KIP-482)."""
    supported = answer.supported_features
    if version < 4:
        supported = {name: (low or 1, high) for name, (low, high) in supported.items() if low or high}
    tags = {}
    if supported:
        tags[_SUPPORTED_FEATURES] = _put_features(supported)
    if answer.finalized_features_epoch != -1:
        tags[_FINALIZED_EPOCH] = INT64.pack(answer.finalized_features_epoch)
    if answer.finalized_features:
        tags[_FINALIZED_FEATURES] = _put_features(
            {name: (high, low) for name, (low, high) in answer.finalized_features.items()}
        )
    if answer.zk_migration_ready:
        tags[_ZK_MIGRATION_READY] = b"\x01"
    put = primitives.put_uvarint
    return put(len(tags)) + b"".join(put(tag) + put(len(value)) + value for tag, value in tags.items())


def _put_features(features: dict[str, tuple[int, int]]) -> bytes:
    entries = (
        primitives.put_compact_string(name) + _LEVELS.pack(*levels) + b"\x00" for name, levels in features.items()
    )
    return primitives.put_uvarint(len(features) + 1) + b"".join(entries)
