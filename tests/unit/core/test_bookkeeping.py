"""The small memories of core: complaints left out, clients that come back in vain, counters, causes."""

import pytest

from kproxy.core.causes import Cause
from kproxy.core.patience import FORGIVEN_AFTER_SECONDS, Patience
from kproxy.core.suppressor import Suppressor
from kproxy.core.tally import Tally
from kproxy.errors import FrameTooLarge, Malformed, ProtocolError, Short, Unsupported
from kproxy.wire.apis import APIS


def test_one_complaint_per_interval() -> None:
    """Each key is told once per interval, with how often it was left out since."""
    quiet = Suppressor(interval_seconds=10, keys_max=10)
    assert [quiet.tell("a", now) for now in (0, 1, 9.9, 10, 11, 25, 40)] == [0, None, None, 2, None, 1, 0]
    assert quiet.tell("b", 11) == 0


def test_complaints_are_bounded() -> None:
    """Of too many keys the one that was told longest ago is forgotten."""
    quiet = Suppressor(interval_seconds=10, keys_max=2)
    assert [quiet.tell(key, 0) for key in "abc"] == [0, 0, 0]
    assert [quiet.tell(key, 1) for key in "bca"] == [None, None, 0]
    assert quiet.tell("a", 2) is None
    quiet.tell("c", 11)
    quiet.tell("d", 11)
    assert [quiet.tell("c", 12), quiet.tell("a", 10.5)] == [None, 0]


def test_patience_grows() -> None:
    """A client that comes back in vain is held twice as long each time, up to a bound, per node."""
    patience = Patience(1, 10)
    assert [patience.take("c", 1, now) for now in range(6)] == [1, 2, 4, 8, 10, 10]
    assert patience.take("c", 2, 6) == 1
    assert patience.take("d", 1, 6) == 1


def test_patience_is_forgiving() -> None:
    """A client that got through, or stayed away, begins anew."""
    patience = Patience(1, 10)
    patience.take("c", 1, 0)
    assert patience.take("c", 1, FORGIVEN_AFTER_SECONDS) == 2
    assert patience.take("c", 1, 2 * FORGIVEN_AFTER_SECONDS + 1) == 1
    assert patience.take("c", 1, 2 * FORGIVEN_AFTER_SECONDS + 2) == 2
    patience.forgive("c", 1)
    patience.forgive("nobody", 1)
    assert patience.take("c", 1, 2 * FORGIVEN_AFTER_SECONDS + 3) == 1


def test_patience_is_bounded() -> None:
    """Of too many clients the one that came longest ago is forgotten."""
    patience = Patience(1, 10, keys_max=2)
    for client in "abac":
        patience.take(client, 1, 0)
    assert [patience.take(client, 1, 1) for client in "acb"] == [4, 2, 1]


def test_snapshot() -> None:
    """A snapshot sums requests by API, names causes, and leaves zeros out of both."""
    tally = Tally()
    assert tally.snapshot()["requests"] == tally.snapshot()["closed"] == {}
    assert len(tally.requests) == sum(api.max_version - api.min_version + 1 for api in APIS.values())
    tally.requests[3 << 16 | 1] += 2
    tally.requests[3 << 16 | 12] += 1
    tally.requests[18 << 16] += 1
    tally.closed[Cause.IDLE] += 1
    tally.denied["Fetch", "topic"] += 2
    tally.dials_by_broker[2] += 5
    tally.dial_failures_by_broker[2] += 1
    tally.logins["PLAIN", True] += 3
    tally.logins["PLAIN", False] += 1
    tally.turned_away[Cause.LOGIN_REFUSED] += 1
    others = {"closed", "denied", "requests", "client_ids", "dials_by_broker", "dial_failures_by_broker"}
    others |= {"latencies", "logins", "turned_away"}
    numbers = [name for name in Tally.__slots__ if name not in others]
    for value, name in enumerate(numbers):
        setattr(tally, name, value)
    assert tally.snapshot() == {
        "requests": {"Metadata": 3, "ApiVersions": 1},
        "closed": {"idle": 1},
        "denied": {"Fetch topic": 2},
        "dials_by_broker": {"2": 5},
        "dial_failures_by_broker": {"2": 1},
        "logins": {"PLAIN": 3},
        "logins_refused": {"PLAIN": 1},
        "turned_away": {"login refused": 1},
        **{name: value for value, name in enumerate(numbers)},
    }


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (FrameTooLarge(), Cause.FRAME_TOO_LARGE),
        (Unsupported(), Cause.UNSUPPORTED_REQUEST),
        (Malformed(), Cause.MALFORMED_REQUEST),
        (Short(), Cause.MALFORMED_REQUEST),
        (ProtocolError(), Cause.MALFORMED_REQUEST),
    ],
)
def test_causes(error: ProtocolError, cause: Cause) -> None:
    """Each error of a client's bytes has its cause."""
    assert Cause.of_request(error) is cause
    assert str(cause) == cause.value
