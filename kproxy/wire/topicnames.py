r"""Which topics a Produce or Fetch request names, by stepping over all else: what rules ask of each that names several.

Names are raw UTF-8 and ids 16 bytes, as they stand there; nothing is decoded, and records are stepped over by length.
Two topics of a Fetch v11, one partition each, from the array's count on::

    >>> body = bytes.fromhex("00000002 0001 61 00000001") + bytes(28) + bytes.fromhex("0001 62 00000001") + bytes(28)
    >>> topic_names(1, 11, body, 0, len(body))
    [b'a', b'b']

A walk by shape takes twenty times as long.
"""

import struct

from kproxy.errors import Short, Unsupported
from kproxy.wire.apis import APIS, ApiKey, is_flexible
from kproxy.wire.primitives import INT32, UUID_BYTES, skip_tags, uvarint

_PRODUCE, _FETCH = int(ApiKey.PRODUCE), int(ApiKey.FETCH)
_IDS_FROM = 13  # of both

_int16 = struct.Struct(">H").unpack_from
_int32 = INT32.unpack_from
_index_and_size = struct.Struct(">ii").unpack_from


def topic_names(key: int, version: int, data: bytes, pos: int, stop: int) -> list[bytes]:
    """Return the topics of a Produce or Fetch whose array of them begins at ``pos``; its bytes end at ``stop``.

    Raises Short where they end before the topics do, Malformed where they cannot be such, Unsupported for other APIs.
    """
    if key not in {_PRODUCE, _FETCH} or not 0 <= version <= APIS[key].max_version:
        raise Unsupported(f"API key {key} version {version}")
    try:
        names, end = (_compact if is_flexible(key, version) else _plain)(key, version, data, pos)
    except (IndexError, struct.error):
        raise Short("topics") from None
    if end > stop:
        raise Short("topics")
    return names


def _plain(key: int, version: int, data: bytes, pos: int) -> tuple[list[bytes], int]:
    partition_bytes = 16 if version < 5 else 24 if version < 9 else 28  # of a Fetch
    names = []
    (many,) = _int32(data, pos)
    pos += 4
    for _ in range(many):
        begin = pos + 2
        pos = begin + _int16(data, pos)[0]
        names.append(data[begin:pos])
        (partitions,) = _int32(data, pos)
        pos += 4
        if partitions < 0:
            continue
        if key == _FETCH:
            pos += partitions * partition_bytes
            if pos > len(data):
                raise Short("partitions")
            continue
        for _ in range(partitions):
            _, size = _index_and_size(data, pos)
            pos += 8 + size if size > 0 else 8
    return names, pos


def _compact(key: int, version: int, data: bytes, pos: int) -> tuple[list[bytes], int]:
    by_id = version >= _IDS_FROM
    names = []
    many, pos = uvarint(data, pos)
    for _ in range(many - 1):
        if by_id:
            begin, pos = pos, pos + UUID_BYTES
        else:
            size = data[pos]
            pos += 1
            if size > 0x7F:
                size, pos = uvarint(data, pos - 1)
            begin = pos
            pos += size - 1 if size else 0
        names.append(data[begin:pos])
        partitions = data[pos]
        pos += 1
        if partitions > 0x7F:
            partitions, pos = uvarint(data, pos - 1)
        for _ in range(partitions - 1):
            if key == _FETCH:
                pos += _FETCH_PARTITION_BYTES
            else:
                size = data[pos + 4]
                pos += 5
                if size > 0x7F:
                    size, pos = uvarint(data, pos - 1)
                pos += size - 1 if size else 0
            pos = pos + 1 if data[pos] == 0 else skip_tags(data, pos)
        pos = pos + 1 if data[pos] == 0 else skip_tags(data, pos)
    return names, pos


_FETCH_PARTITION_BYTES = 32
