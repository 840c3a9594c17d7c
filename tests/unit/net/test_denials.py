"""Denials in the log: enough to read, never more."""

import structlog

from kproxy.core.access import Denial
from kproxy.net.denials import INTERVAL_SECONDS, TOLD_MAX, DenialLog


def denial(name: str, *, dry_run: bool = False) -> Denial:
    """Deny alice a topic."""
    return Denial("User:alice", "read", "topic", name, "Fetch", dry_run)


def test_the_same_is_told_once_in_a_while() -> None:
    """One line per principal, operation and resource and interval, which says how many were left out."""
    clock = [0.0]
    log = DenialLog("public", lambda: clock[0])
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            log(denial("a"))
        log(denial("b", dry_run=True))
        clock[0] = INTERVAL_SECONDS
        log(denial("a"))
    assert [(line["event"], line["name"], line.get("repeated", 0)) for line in lines] == [
        ("denied by access rules", "a", 0),
        ("would be denied (dry run)", "b", 0),
        ("denied by access rules", "a", 2),
    ]
    assert {"listener": "public", "principal": "User:alice", "api": "Fetch"}.items() <= lines[0].items()


def test_made_up_names_do_not_fill_the_disk() -> None:
    """However many names there are, an interval has so many lines; the next one says how many others there were."""
    clock = [0.0]
    log = DenialLog("public", lambda: clock[0])
    with structlog.testing.capture_logs() as lines:
        for number in range(10 * TOLD_MAX):
            log(denial(f"topic-{number}"))
        assert len(lines) == TOLD_MAX
        clock[0] = INTERVAL_SECONDS
        log(denial("x"))
    assert lines[-1]["others"] == 9 * TOLD_MAX
