"""Who leads now, as an answer to Produce tells where a broker was asked that leads no more (KIP-951).

A partition's error NOT_LEADER_OR_FOLLOWER comes with a tagged field, CurrentLeader: node id and leader epoch. Only the
answers that name brokers have it, so nothing here is for the common path. Nothing is judged: which of two leaders is
the newer one, the epoch tells whoever remembers.

Topic t, partition 0, refused: its leader is node 2, epoch 5 (v10; then NodeEndpoints, left out here)::

    >>> partition = "00000000 0006" + "ff" * 24 + "01 00" + "01 00 09 00000002 00000005 00"
    >>> produce_leaders(10, bytes.fromhex("02 0274 02" + partition + "00 00000000 00"))
    [PartitionLeader(topic='t', partition=0, leader_id=2, leader_epoch=5)]
"""

from typing import Final, NamedTuple

from kproxy.wire.primitives import UUID_BYTES, compact_count, compact_string, int32, skip, skip_compact, skip_tags, tags

_CURRENT_LEADER_TAG: Final = 0


class PartitionLeader(NamedTuple):
    """A partition's leader; ``topic`` is a name, or from Produce v13 on a 16-byte id."""

    topic: str | bytes
    partition: int
    leader_id: int
    leader_epoch: int


def produce_leaders(version: int, body: bytes) -> list[PartitionLeader]:
    """List the leaders that a Produce answer, v10 to v13, tells; none where a partition has none (-1).

    Raises Short or Malformed for a body that is no such answer.
    """
    leaders: list[PartitionLeader] = []
    topics, pos = compact_count(body, 0)
    for _ in range(topics):
        topic: str | bytes
        if version >= 13:
            start, pos = pos, skip(body, pos, UUID_BYTES)
            topic = body[start:pos]
        else:
            topic, pos = compact_string(body, pos)
        partitions, pos = compact_count(body, pos)
        for _ in range(partitions):
            partition, pos = int32(body, pos)
            pos = skip(body, pos, 2 + 3 * 8)  # error_code, base_offset, log_append_time_ms, log_start_offset
            errors, pos = compact_count(body, pos)
            for _ in range(errors):
                pos = skip_tags(body, skip_compact(body, skip(body, pos, 4)))  # batch_index, message
            fields, pos = tags(body, skip_compact(body, pos))  # error_message
            for tag, value in fields:
                if tag == _CURRENT_LEADER_TAG:
                    leader_id, at = int32(value, 0)
                    leader_epoch, _ = int32(value, at)
                    if leader_id >= 0:
                        leaders.append(PartitionLeader(topic, partition, leader_id, leader_epoch))
        pos = skip_tags(body, pos)
    return leaders
