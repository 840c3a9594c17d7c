"""Mistakes and doubts between limits, and between them and the listeners."""

import pytest

from kproxy.config.load import load
from kproxy.config.model import Config
from kproxy.errors import ConfigError

BASE = """\
clusters: {main: {bootstrap: [k:1]}}
listeners: {four: {bind: 127.0.0.1:9092, connections_max: 100}, six: {bind: "[::1]:9300", connections_max: 50}}
limits:
"""

BUCKET = "name: a, leaky_bucket: {rate: 1}"
SLOTS = "name: a, concurrency: {max: 1}"
GROUPS = "can make groups rebalance; leave it out unless that is meant"


def text(*entries: str) -> str:
    """Return a configuration with these limits, the first in line 4."""
    return BASE + "".join(f"  - {{{entry}}}\n" for entry in entries)


def refused(*entries: str, base: str = BASE) -> list[str]:
    """Return the mistakes, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        load(text(*entries).replace(BASE, base))
    return [line.removeprefix("config:") for line in str(caught.value).splitlines()]


def warned(*entries: str, base: str = BASE) -> list[str]:
    """Return the warnings, without the file's name."""
    return [line.removeprefix("config:") for line in load(text(*entries).replace(BASE, base)).warnings]


def test_two_limits_of_one_name_are_refused() -> None:
    """The later one is told, with where the first is, also where one of them is ill-formed."""
    lines = refused(BUCKET, "name: b, leaky_bucket: {rate: 0}", SLOTS, "name: b, concurrency: {max: 1}")
    assert lines == [
        "5:36: limits[1].leaky_bucket.rate: '0' lets nothing pass; write a rate above zero, as in 0.5 or 100",
        "6:12: limits[2].name: 'a' is the name of limits[0] already; choose another",
        "7:12: limits[3].name: 'b' is the name of limits[1] already; choose another",
    ]


def test_a_listener_that_is_not_there_is_refused() -> None:
    """It is suggested which was meant, also where the limit or the listener is ill-formed."""
    lines = refused(
        BUCKET + ", match: {listeners: [four, fuor]}", "name: b, leaky_bucket: {rate: 0}, match: {listeners: [no]}"
    )
    assert lines[0] == "4:66: limits[0].match.listeners[1]: there is no listener 'fuor'; did you mean 'four'?"
    assert lines[2].endswith("limits[1].match.listeners[0]: there is no listener 'no'; known: four, six")
    (line,) = refused(BUCKET + ", match: {listeners: [four]}", base=BASE.replace("127.0.0.1:9092", "nowhere"))
    assert "listeners.four.bind" in line
    (line,) = refused(BUCKET + ", match: {listeners: [four]}", base="clusters: {m: {bootstrap: [k:1]}}\nlimits:\n")
    assert "listeners: is missing" in line


def test_a_limit_of_connections_names_no_api() -> None:
    """Also one with an unknown key elsewhere is held against the rest."""
    lines = refused("name: a, connections: {max: 1, maks: 2}, match: {apis: [Fetch], any: 1}")
    assert [line.split(": ")[1] for line in lines] == [
        "limits[0].connections.maks",
        "limits[0].match.apis",
        "limits[0].match.any",
    ]
    assert "a connection is counted before it brings a request of any API; leave it out" in lines[1]


def test_a_misspelt_kind_is_told_once() -> None:
    """A limit whose only kind has a typing error is not also told that it has none."""
    (line,) = refused("name: a, leaky_buckt: {rate: 1}")
    assert "did you mean 'leaky_bucket'?" in line


def test_python_is_told_the_same() -> None:
    """Validated without a file, limits are held against each other and the listeners."""
    limit = {"name": "a", "leaky_bucket": {"rate": 1}, "match": {"listeners": ["b"]}}
    data = {"clusters": {"m": {"bootstrap": ["k:1"]}}, "listeners": {"a": {"bind": "h:1"}}, "limits": [limit, limit]}
    with pytest.raises(ValueError, match=r"limits\[1\]\.name: 'a' is the name of limits\[0\]") as caught:
        Config.model_validate(data)
    assert "limits[0].match.listeners[0]: there is no listener 'b'" in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("name: a, leaky_bucket: {rate: 0.5, burst: 50}",
         ("4:48: limits[0].leaky_bucket.burst: at the end of a burst a request has to wait for 100s, but passes after "
          "max_wait (30s) all the same; lower it, or raise max_wait")),
        ("name: a, leaky_bucket: {rate: 0.02}, on_exceed: delay",
         ("4:36: limits[0].leaky_bucket.rate: a request may have to wait for 50s, but passes after max_wait (30s) all"
          " the same; raise it, or max_wait")),
        ("name: a, leaky_bucket: {rate: 10KiB, unit: bytes_in}",
         ("4:36: limits[0].leaky_bucket.rate: behind a batch of 1MiB a request has to wait for 102.4s, but passes after"
          " max_wait (30s) all the same; raise it, or max_wait")),
        ("name: a, leaky_bucket: {rate: 34KiB, unit: bytes_out}, match: {apis: [Fetch]}", "has to wait for 30.1176s"),
        ("name: a, leaky_bucket: {rate: 34KiB, burst: 1MiB, unit: bytes_in}, on_exceed: delay", "for 30.1176s"),
        ("name: a, leaky_bucket: {rate: 20KiB, burst: 256KiB, nodelay: true, unit: bytes_out}", "wait for 38.4s"),
        ("name: a, leaky_bucket: {rate: 10KiB, burst: 1MiB, unit: bytes_in}", "leaky_bucket.burst: at the end of a"),
        ("name: a, connections: {max: 150, rate: 5}",
         "4:34: limits[0].connections.max: this number never applies, as connections_max of the listeners"),
        ("name: a, fixed_window: {count: 5, window: 1m}",
         "4:48: limits[0].fixed_window.window: a request may have to wait for 60s, but passes after max_wait (30s)"),
        (BUCKET + ", max_wait: 31s", "4:50: limits[0].max_wait: clients give up after 30s (request.timeout.ms); lower"),
        ("name: a, fixed_window: {count: 5, window: 1m}, max_wait: 1m", "max_wait: clients give up after 30s"),
        (BUCKET + ", on_exceed: close, max_wait: 31s", "max_wait: clients give up after 30s"),
        (BUCKET + ", on_exceed: reject",
         ("4:51: limits[0].on_exceed: only CreateTopics, DeleteTopics and CreatePartitions can be rejected; all others"
          " will be throttled instead; name those alone in match.apis, or write throttle")),
        (BUCKET + ", on_exceed: reject, reject_produce: true",
         "only CreateTopics, DeleteTopics, CreatePartitions and Produce can be rejected; all others"),
        (BUCKET + ", on_exceed: reject, match: {apis: [Fetch, CreateTopics, Produce]}",
         "can be rejected; Fetch and Produce will be throttled instead; write a limit for each"),
        (BUCKET + ", on_exceed: reject, reject_produce: true, match: {apis: [CreateTopics]}",
         "4:75: limits[0].reject_produce: has no effect, as match.apis does not name Produce"),
        (BUCKET + ", key: [client_ip, principal]",
         "4:57: limits[0].key[1]: no listener asks clients to log in, so every client is User:ANONYMOUS, and they all"),
        (BUCKET + ", match: {principals: ['User:bob']}",
         ("4:60: limits[0].match.principals: no listener asks clients to log in, so every client is User:ANONYMOUS, and"
          " this limit never applies; leave it out, or match client_ids or client_ips")),
        (BUCKET + ", match: {principals: ['User:*']}", "every client is User:ANONYMOUS, which matches; leave it out"),
        (BUCKET + ", match: {apis: [Fetch, JoinGroup, Heartbeat]}",
         f"4:62: limits[0].match.apis[1]: holding up JoinGroup and Heartbeat {GROUPS}"),
        (BUCKET + ", match: {apis: [EndTxn]}", "match.apis[0]: holding up EndTxn can abort transactions; leave it out"),
        (SLOTS + ", match: {apis: [Fetch, ShareFetch]}",
         "4:52: limits[0].match.apis: this limit hardly ever applies, as what waits at the broker by design is not"),
        (SLOTS + ", match: {apis: [ShareFetch]}", "this limit never applies, as what waits at the broker by design"),
        ("name: a, concurrency: {max: 1, waiting: 100}, on_exceed: delay",
         "4:46: limits[0].concurrency.waiting: has no effect with on_exceed: delay"),
        ("name: a, connections: {max: 150}",
         ("4:34: limits[0].connections.max: this limit never applies, as connections_max of the listeners lets no more "
          "than 150 in; choose a lower number")),
        ("name: a, connections: {max: 100}, key: [listener]", "lets no more than 100 in"),
        ("name: a, connections: {max: 50}, match: {listeners: [six]}", "lets no more than 50 in"),
        (BUCKET + ", match: {client_ips: ['2001:db8::/32'], listeners: [four]}",
         ("4:60: limits[0].match.client_ips: this limit never applies, as these are IPv6 and the listeners are bound "
          "to IPv4 addresses; change one of the two")),
        (BUCKET + ", match: {client_ips: [10.0.0.0/8], listeners: [six]}", "as these are IPv4 and the listeners are"),
    ],
)  # fmt: skip
def test_what_is_probably_not_meant_is_a_warning(entry: str, told: str) -> None:
    """A limit that never applies, or costs more than it seems, runs with a line that says so."""
    (line,) = warned(entry)
    assert told in line


@pytest.mark.parametrize(
    "entry",
    [
        "name: a, leaky_bucket: {rate: 2, burst: 60}",
        "name: a, leaky_bucket: {rate: 1, burst: 60, nodelay: true}",
        "name: a, leaky_bucket: {rate: 1, burst: 60, nodelay: true}, on_exceed: close, max_wait: 1h",
        "name: a, fixed_window: {count: 5, window: 1h}, on_exceed: close",
        "name: a, fixed_window: {count: 5, window: 1h}, on_exceed: close, max_wait: 1h",
        "name: a, connections: {max: 5}, max_wait: 1h",
        BUCKET + ", on_exceed: reject, match: {apis: [CreateTopics, DeleteTopics, CreatePartitions]}",
        BUCKET + ", on_exceed: reject, reject_produce: true, match: {apis: [Produce]}",
        BUCKET + ", match: {principals: ['User:bob', 'User:ANONYMOUS']}",
        BUCKET + ", match: {client_ips: ['2001:db8::/32']}",
        BUCKET + ", match: {client_ips: ['2001:db8::/32', 10.0.0.0/8], listeners: [four]}",
        SLOTS + ", match: {apis: [Fetch, Produce]}",
        SLOTS + ", on_exceed: delay",
        "name: a, concurrency: {max: 1, waiting: 5}",
        "name: a, concurrency: {max: 1, count_long_polls: true}, match: {apis: [Fetch]}",
        "name: a, connections: {max: 149}, key: [client_id]",
        "name: a, connections: {max: 99}, key: [listener]",
        "name: a, connections: {max: 149, rate: 5}",
        "name: a, leaky_bucket: {rate: 0.04}, on_exceed: delay",
        "name: a, leaky_bucket: {rate: 0.01}, on_exceed: close",
        "name: a, leaky_bucket: {rate: 35KiB, unit: bytes_in}",
        "name: a, leaky_bucket: {rate: 10KiB, burst: 768KiB, nodelay: true, unit: bytes_out}",
        "name: a, leaky_bucket: {rate: 10KiB, unit: bytes_in}, match: {apis: [Metadata, Fetch]}",
        "name: a, leaky_bucket: {rate: 10KiB, unit: bytes_out}, match: {apis: [Produce]}",
        "name: a, leaky_bucket: {rate: 10KiB, unit: bytes_in}, on_exceed: close",
        "name: a, connections: {rate: 5}",
    ],
)
def test_sound_limits_raise_no_doubt(entry: str) -> None:
    """What does as it says is left alone."""
    assert warned(entry) == []


@pytest.mark.parametrize(("bind", "sound"), [("h:1", True), ("'[::]:1'", True), ("'[::1]:1'", False)])
def test_who_can_reach_a_listener_is_not_guessed(bind: str, sound: bool) -> None:
    """A name may lead to IPv4, and a socket bound to every IPv6 address takes IPv4 as well."""
    base = f"clusters: {{m: {{bootstrap: [k:1]}}}}\nlisteners: {{a: {{bind: {bind}, advertise: k:1}}}}\nlimits:\n"
    warnings = warned(BUCKET + ", match: {client_ips: [10.0.0.0/8]}", base=base)
    assert (warnings == []) == sound


@pytest.mark.parametrize(("bytes_max", "told"), [("300KiB", []), ("301KiB", ["behind a batch of 301KiB a request"])])
def test_no_batch_is_larger_than_a_request_may_be(bytes_max: str, told: list[str]) -> None:
    """What is too large for the listener is not what a rate of bytes is held against."""
    base = BASE.replace("connections_max: 100", f"request_bytes_max: {bytes_max}")
    warnings = warned("name: a, leaky_bucket: {rate: 10KiB, unit: bytes_in}, match: {listeners: [four]}", base=base)
    assert [line.partition("rate: ")[2][:34] for line in warnings] == told


TWO = """\
clusters: {m: {bootstrap: [k:1]}}
listeners:
  a: {bind: "127.0.0.1:1", access: {cidrs: [10.0.0.0/8]}}
  b: {bind: "127.0.0.1:200", tls: {cert_file: c, key_file: k, client_auth: required, client_ca_file: c}}
limits:
"""


@pytest.mark.parametrize(
    ("match", "told"),
    [
        (
            "listeners: [a], principals: ['User:bob']",
            "none of its listeners asks clients to log in, so every client is",
        ),
        ("listeners: [b], principals: ['User:bob']", None),
        ("principals: ['User:bob']", None),
        ("listeners: [a], client_ips: [192.168.0.0/16]", "this limit never applies, as access.cidrs of the listeners"),
        ("listeners: [a], client_ips: ['2001:db8::/32', 192.168.0.0/16]", "this limit never applies, as access.cidrs"),
        ("listeners: [a], client_ips: [10.1.0.0/16]", None),
        ("client_ips: [192.168.0.0/16]", None),
    ],
)
def test_the_listeners_that_a_limit_is_for(match: str, told: str | None) -> None:
    """Only they count: whether their clients log in, and from where they let anybody in."""
    warnings = warned(f"{BUCKET}, match: {{{match}}}", base=TWO)
    assert [told in line for line in warnings if told] == [True] * (told is not None)
    assert told is not None or warnings == []
