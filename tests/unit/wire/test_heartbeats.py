"""What a member of a group is told whose group the broker does not know, against a foreign codec."""

import doctest
from random import Random

import pytest
from kio.schema.errors import ErrorCode
from oracles import KIO

from kproxy.wire import heartbeats
from kproxy.wire.apis import ApiKey
from kproxy.wire.heartbeats import join_anew

HEARTBEAT = ApiKey.CONSUMER_GROUP_HEARTBEAT


def test_the_example() -> None:
    """The module's example is so."""
    assert doctest.testmod(heartbeats).failed == 0


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("error", ErrorCode)
def test_only_a_group_that_is_not_known(error: ErrorCode, version: int) -> None:
    """GROUP_ID_NOT_FOUND becomes UNKNOWN_MEMBER_ID and nothing else changes; any other answer is the very object."""
    tree = KIO.message(Random(error.value), HEARTBEAT, version, "response") | {"error_code": error}
    body = KIO.encode(HEARTBEAT, version, "response", tree)
    if error is not ErrorCode.group_id_not_found:
        assert join_anew(body) is body
        return
    told = tree | {"error_code": ErrorCode.unknown_member_id}
    assert join_anew(body) == KIO.encode(HEARTBEAT, version, "response", told)


@pytest.mark.parametrize("size", range(6))
def test_an_answer_that_ends_early(size: int) -> None:
    """What ends before its error code passes as it is."""
    body = bytes.fromhex("0000000000")[:size]
    assert join_anew(body) is body
