"""The counters of several workers, made one."""

import doctest

from kproxy.service import tallies
from kproxy.service.tallies import ended, join

ONE = {
    "cpu_seconds": 1.5,
    "listeners": {"public": {"opened": 3, "connections": 2, "in_flight": 4, "closed": {"idle": 1}}},
    "limits": {"calm": {"asked": 10, "keys": 2, "top": {"a": 1.0}, "windows": {"a": {"remaining": 1, "resets_in": 5}}}},
}
TWO = {
    "cpu_seconds": 2.0,
    "listeners": {"public": {"opened": 4, "connections": 1, "in_flight": 1, "closed": {"drained": 1}}},
    "limits": {"calm": {"asked": 5, "keys": 1, "top": {"a": 0.5}, "windows": {"a": {"remaining": 2, "resets_in": 4}}}},
}


def test_the_example() -> None:
    """The module's examples are so."""
    assert doctest.testmod(tallies).failed == 0


def test_everything_is_added_up() -> None:
    """Counters of all workers are one sum, by listener, cause, limit and key."""
    assert join([ONE, TWO]) == {
        "cpu_seconds": 3.5,
        "listeners": {"public": {"opened": 7, "connections": 3, "in_flight": 5, "closed": {"idle": 1, "drained": 1}}},
        "limits": {
            "calm": {"asked": 15, "keys": 3, "top": {"a": 1.5}, "windows": {"a": {"remaining": 1, "resets_in": 4}}}
        },
    }
    assert ONE["cpu_seconds"] == 1.5


def test_what_has_happened_stays() -> None:
    """Of a worker that has ended only what it had at the moment is gone."""
    assert join([ended(ONE), TWO])["listeners"] == {
        "public": {"opened": 7, "connections": 1, "in_flight": 1, "closed": {"idle": 1, "drained": 1}}
    }


def test_the_longest_and_fullest_keys_are_kept() -> None:
    """However many workers tell theirs, a limit has as many keys in a tally as one worker tells."""
    many = [
        {"limits": {"calm": {"top": {f"key {n}": n}, "windows": {f"key {n}": {"remaining": n}}}}} for n in range(25)
    ]
    calm = join(many)["limits"]["calm"]
    assert list(calm["top"].values()) == list(range(24, 14, -1))
    assert [window["remaining"] for window in calm["windows"].values()] == list(range(10))
