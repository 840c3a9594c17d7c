"""Take the brokers' addresses out of a ShareFetch answer while it streams by.

NodeEndpoints come last, behind all the records, and the frame's size has gone out first. So the walk steps from
partition header to partition header, lets records pass by their length, and holds only what it has not understood
yet. Where there are endpoints it writes an empty array instead, and fills what is left of their bytes with one tagged
field that no client knows, all zeros: same size, no address (a client then finds the new leader in its metadata). The
end of a v1 answer that names ``1 = b1:9092``, field by field, before and after::

    02 00000001 036231 00002384 00 00    one endpoint: id, host, port, null rack, no tags
    00                                   no tags

    01                                   no endpoints
    01 8040 0a 00000000000000000000      one tag: id 8192, ten bytes

Never here: records decoded, or held. Layout: ShareFetchResponse.json; KIP-951, KIP-932.
"""

from collections.abc import Callable
from typing import Final

from kproxy.errors import Malformed, Short, Unsupported
from kproxy.wire.apis import APIS, ApiKey
from kproxy.wire.primitives import (
    UUID_BYTES,
    compact_count,
    put_tags,
    put_uvarint,
    skip,
    skip_compact,
    skip_tags,
    tags,
    uvarint,
)

#: At most this much is held of what is not understood yet: one header, or the whole tail. An endpoint takes some 50
#: bytes and a cluster has at most thousands of brokers; an error message is a line.
HELD_BYTES_MAX: Final = 1 << 20

#: The lowest id for the tagged field that fills the gap: far above those that Kafka gives out, from 0 upwards.
FILLER_TAG: Final = 1 << 13
# Ids are INT32 in Kafka's generated code (MessageUtil, RawTaggedField).
_TAG_MAX = (1 << 31) - 1

_EMPTY_ARRAY = b"\x01"


class ShareFetchWalk:
    """Rewrites the body of one ShareFetch v0-2 answer, whose length is known, as its bytes come.

    Give each piece to ``feed`` and forward what it returns, until ``done``. However the bytes are cut, the same come
    out, and as many: ``body_bytes``. ``feed`` raises Malformed for a body that is not exactly one ShareFetch answer,
    and for one of which more than HELD_BYTES_MAX would have to be held; the walk is of no use after that.
    """

    __slots__ = ("_acquired", "_held", "_left", "_partitions", "_records", "_step", "_topics", "_version", "done")

    def __init__(self, version: int, body_bytes: int) -> None:
        api = APIS[ApiKey.SHARE_FETCH]
        if not api.min_version <= version <= api.max_version:
            raise Unsupported(f"ShareFetch v{version}")
        self.done = False
        self._version = version
        self._left = body_bytes  # of the body, bytes that have not come yet
        self._held = b""  # what has come and is too short for the next step
        self._topics = self._partitions = self._acquired = 0  # elements ahead in the arrays around the next step
        self._records = 0  # bytes of records ahead
        self._step: _Step | None = ShareFetchWalk._head  # None: only the tail is ahead

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the body; return those that can leave now, perhaps none."""
        self._left -= len(data)
        if self._left < 0:
            raise Malformed("more bytes than the ShareFetch body has")
        if self._held:
            data, self._held = self._held + data, b""
        pos = self._pass_records(data, 0)
        try:
            while self._step is not None and not self._records:
                pos = self._pass_records(data, self._step(self, data, pos))
        except Short:
            if not self._left:
                raise
        if self._left:
            return self._hold(data, pos)
        if self._records:
            raise Short("records")
        self.done = True
        tail = data[pos:]
        out = _without_endpoints(tail)
        return data if out is tail else data[:pos] + out

    def _pass_records(self, data: bytes, pos: int) -> int:
        passing = min(self._records, len(data) - pos)
        self._records -= passing
        return pos + passing

    def _hold(self, data: bytes, pos: int) -> bytes:
        if len(data) - pos > HELD_BYTES_MAX:
            raise Malformed(f"more than {HELD_BYTES_MAX} bytes of a ShareFetch answer without an end to them")
        if pos == len(data):
            return data  # all of it understood, or records: not copied
        self._held = data[pos:]
        return data[:pos]

    # Steps: read one thing at pos, say what comes next, return where it begins. A step that raises Short has changed
    # nothing, and is taken again with more bytes.

    def _head(self, data: bytes, pos: int) -> int:
        pos = skip_compact(data, skip(data, pos, 6))  # throttle_time_ms, error_code, error_message
        if self._version >= 1:
            pos = skip(data, pos, 4)  # acquisition_lock_timeout_ms
        self._topics, pos = compact_count(data, pos)
        self._step = ShareFetchWalk._topic
        return pos

    def _topic(self, data: bytes, pos: int) -> int:
        if not self._topics:
            self._step = None
            return pos
        self._partitions, pos = compact_count(data, skip(data, pos, UUID_BYTES))
        self._topics -= 1
        self._step = ShareFetchWalk._partition
        return pos

    def _partition(self, data: bytes, pos: int) -> int:
        if not self._partitions:
            pos = skip_tags(data, pos)  # the topic's
            self._step = ShareFetchWalk._topic
            return pos
        pos = skip_compact(data, skip(data, pos, 6))  # partition_index, error_code, error_message
        pos = skip_compact(data, skip(data, pos, 2))  # acknowledge_error_code, acknowledge_error_message
        pos = skip_tags(data, skip(data, pos, 8))  # current_leader
        records, pos = uvarint(data, pos)
        self._records = max(records - 1, 0)  # 0 is null
        self._partitions -= 1
        self._step = ShareFetchWalk._acquired_records
        return pos

    def _acquired_records(self, data: bytes, pos: int) -> int:
        self._acquired, pos = compact_count(data, pos)
        self._step = ShareFetchWalk._acquired_batch
        return pos

    def _acquired_batch(self, data: bytes, pos: int) -> int:
        if not self._acquired:
            pos = skip_tags(data, pos)  # the partition's
            self._step = ShareFetchWalk._partition
            return pos
        pos = skip_tags(data, skip(data, pos, 18))  # first_offset, last_offset, delivery_count
        self._acquired -= 1
        return pos


_Step = Callable[[ShareFetchWalk, bytes, int], int]


def _without_endpoints(tail: bytes) -> bytes:
    """Empty NodeEndpoints, with which the tail begins; as many bytes as before."""
    nodes, pos = compact_count(tail, 0)
    for _ in range(nodes):
        pos = skip_compact(tail, skip(tail, pos, 4))  # node_id, host
        pos = skip_tags(tail, skip_compact(tail, skip(tail, pos, 4)))  # port, rack
    fields, end = tags(tail, pos)
    if end != len(tail):
        raise Malformed(f"{len(tail) - end} bytes behind the ShareFetch body")
    if not nodes:
        return tail
    return _EMPTY_ARRAY + put_tags([*fields, _filler(fields, len(tail) - len(_EMPTY_ARRAY))])


def _filler(fields: list[tuple[int, bytes]], tag_buffer_bytes: int) -> tuple[int, bytes]:
    """Make the tagged field that, behind ``fields``, brings their TAG_BUFFER to just this size.

    Its size takes one byte up to 127 zeros and two from 128 on, so that one field of 129 bytes does not exist (nor of
    16,386): a tag whose id takes a byte more closes such a gap.
    """
    tag = max(FILLER_TAG, fields[-1][0] + 1 if fields else 0)
    for id_ in (tag, tag << 7):
        room = tag_buffer_bytes - len(put_tags([*fields, (id_, b"")])) + 1  # for the size and as many zeros
        for size_bytes in (1, 2, 3):
            zeros = room - size_bytes
            if id_ <= _TAG_MAX and len(put_uvarint(zeros)) == size_bytes:
                return id_, bytes(zeros)
    raise Malformed(f"no tagged field fits behind tag {fields[-1][0]}")
