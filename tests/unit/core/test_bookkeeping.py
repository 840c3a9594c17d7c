"""The small parts of core: complaints left out, clients that come back or fail in vain, networks, counters, causes."""

from ipaddress import ip_network

import pytest

from kproxy.core.addresses import within
from kproxy.core.causes import Cause
from kproxy.core.patience import FORGIVEN_AFTER_SECONDS, Patience
from kproxy.core.penalty import FORGIVEN_AFTER_SECONDS as PENALTY_FORGIVEN_AFTER_SECONDS
from kproxy.core.penalty import Penalty
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


def test_a_penalty_grows() -> None:
    """An address that fails to log in is answered later each time, up to a second, and other addresses are not."""
    penalty = Penalty()
    assert [penalty.take("a", now) for now in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert [penalty.take("b", 6), penalty.failures("a"), penalty.failures("b"), penalty.failures("c")] == [0.1, 6, 1, 0]
    assert [penalty.take("a", 7) for _ in range(2000)] == [1.0] * 2000


def test_a_penalty_is_forgiven() -> None:
    """An address that stays away for long enough begins anew; one that keeps failing does not."""
    penalty = Penalty()
    penalty.take("a", 0)
    assert penalty.take("a", PENALTY_FORGIVEN_AFTER_SECONDS) == 0.2
    assert penalty.take("a", 2 * PENALTY_FORGIVEN_AFTER_SECONDS + 1) == 0.1
    assert penalty.failures("a") == 1


def test_penalties_are_bounded() -> None:
    """Of too many addresses the one that failed the longest ago is forgotten."""
    penalty = Penalty(hosts_max=2)
    for host in "abac":
        penalty.take(host, 0)
    assert [penalty.failures(host) for host in "abc"] == [2, 0, 1]


NETWORKS = [ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"), ip_network("192.0.2.7/32")]


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("10.255.0.1", True),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        ("::ffff:10.0.0.1", True),
        ("::ffff:11.0.0.1", False),
        ("::10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("", False),
        ("/run/kproxy.sock", False),
        ("kafka.example.com", False),
    ],
)
def test_within(host: str, *, inside: bool) -> None:
    """An address is in a network or not, IPv4 on a socket for both as well; what is no address is in none."""
    assert within(host, NETWORKS) is inside
    assert not within(host, [])


def test_snapshot() -> None:
    """A snapshot sums requests by API, names causes and mechanisms, and leaves zeros out of all."""
    tally = Tally()
    named = ("requests", "closed", "denied", "logins", "logins_refused", "turned_away")
    assert all(tally.snapshot()[name] == {} for name in named)
    assert len(tally.requests) == sum(api.max_version - api.min_version + 1 for api in APIS.values())
    tally.requests[3 << 16 | 1] += 2
    tally.requests[3 << 16 | 12] += 1
    tally.requests[18 << 16] += 1
    tally.closed[Cause.IDLE] += 1
    tally.denied["Fetch", "topic"] += 2
    tally.dials_by_broker[2] += 5
    tally.dial_failures_by_broker[2] += 1
    tally.logins["PLAIN", True] += 2
    tally.logins["PLAIN", False] += 3
    tally.logins["unknown", False] += 1
    tally.turned_away[Cause.LOGIN_TIMEOUT] += 4
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
        "logins": {"PLAIN": 2},
        "logins_refused": {"PLAIN": 3, "unknown": 1},
        "turned_away": {str(Cause.LOGIN_TIMEOUT): 4},
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
