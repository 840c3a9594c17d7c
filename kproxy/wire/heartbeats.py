"""A member of a KIP-848 group whose group the broker does not know is to join anew, and not to give up.

Behind a proxy a whole cluster can be replaced under its clients. A broker that has never heard of the group answers a
member's ConsumerGroupHeartbeat with GROUP_ID_NOT_FOUND (69), which librdkafka and Java take as fatal: the consumer is
lost until somebody starts it again. UNKNOWN_MEMBER_ID (25) has it give its partitions up and join, which makes the
group. In a classic group the broker itself says that. An answer's beginning: throttle_time_ms, error_code::

    >>> join_anew(bytes.fromhex("00000000 0045 00")).hex(" ", -4)
    '00000000 001900'

Never here: whether the member has been told so already; a group that cannot be made would have it ask for ever.
"""

from typing import Final

from kproxy.wire.primitives import INT16, INT32

_UNKNOWN_MEMBER_ID: Final = INT16.pack(25)
_GROUP_ID_NOT_FOUND: Final = INT16.pack(69)
_BEGINS, _ENDS = INT32.size, INT32.size + INT16.size


def join_anew(body: bytes) -> bytes:
    """Return what a member is told instead of an answer that its group is not known; ``body`` itself for any other."""
    if body[_BEGINS:_ENDS] != _GROUP_ID_NOT_FOUND:
        return body
    return b"".join((body[:_BEGINS], _UNKNOWN_MEMBER_ID, body[_ENDS:]))
