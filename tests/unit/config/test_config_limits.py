"""The values and the models of limits: what may be written, and what is refused with its place."""

import json
import math
import pickle
from ipaddress import ip_network

import pytest

from kproxy.config.limits import Concurrency, Connections, FixedWindow, LeakyBucket, Limit
from kproxy.config.limitvalues import AMOUNT_MAX, API_NAMES, NEVER_LIMITED, parse_api, parse_network
from kproxy.config.load import load
from kproxy.errors import ConfigError

BASE = """\
clusters: {main: {bootstrap: [k:1]}}
listeners: {public: {bind: 127.0.0.1:9092}}
limits:
"""

GOOD = """\
  - name: per-client-requests
    leaky_bucket: {rate: 100, burst: 50, nodelay: false, unit: requests}
    key: [client_ip, listener]
    match:
      listeners: [public]
      apis: [Produce, Fetch]
      principals: ["User:ANONYMOUS", "User:a*"]
      client_ids: ["batch-*", ""]
      client_ips: [10.0.0.0/8, 192.0.2.7, "2001:db8::/32"]
    on_exceed: delay
    max_wait: 10s
    dry_run: true
    keys_max: 500
  - name: per-client-bytes
    leaky_bucket: {rate: 2MiB, burst: 0.5, unit: bytes_in}
  - name: window
    fixed_window: {count: 100MiB, window: 20s, unit: bytes_out}
    on_exceed: close
  - name: in-flight
    concurrency: {max: 20, waiting: 0}
  - name: connections
    connections: {max: 100, rate: 2.5}
  - name: creations
    fixed_window: {count: 10, window: 20s}
    match: {apis: [Produce, CreateTopics]}
    on_exceed: reject
    reject_produce: true
"""


def limits(text: str) -> tuple[Limit, ...]:
    """Return the limits of a file that raises no doubt."""
    config, warnings, _ = load(BASE + text)
    assert warnings == ()
    return config.limits


def refused(*entries: str) -> list[str]:
    """Return the mistakes of a file with these limits, the first in line 4, without its name."""
    with pytest.raises(ConfigError) as caught:
        load(BASE + "".join(f"  - {entry}\n" for entry in entries))
    return [line.removeprefix("config:") for line in str(caught.value).splitlines()]


def test_a_good_file_is_read_whole() -> None:
    """Every kind of limit arrives, numbers as floats, sizes as bytes, durations as seconds."""
    one, two, three, four, five, six = limits(GOOD)
    assert one.kind == LeakyBucket(rate=100.0, burst=50.0)
    assert isinstance(one.kind, LeakyBucket)
    assert isinstance(one.kind.rate, float)
    assert (one.name, one.key, one.on_exceed) == ("per-client-requests", ("client_ip", "listener"), "delay")
    assert (one.max_wait, one.dry_run, one.reject_produce, one.keys_max) == (10.0, True, False, 500)
    assert (one.match.listeners, one.match.apis) == (("public",), ("Produce", "Fetch"))
    assert (one.match.principals, one.match.client_ids) == (("User:ANONYMOUS", "User:a*"), ("batch-*", ""))
    networks = tuple(ip_network(text) for text in ("10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"))
    assert one.match.client_ips == networks
    assert two.kind == LeakyBucket(rate=float(2 << 20), burst=0.5, unit="bytes_in")
    assert (three.kind, three.on_exceed) == (FixedWindow(count=100 << 20, window=20.0, unit="bytes_out"), "close")
    assert four.kind == Concurrency(max=20, waiting=0)
    assert five.kind == Connections(max=100, rate=2.5, burst=None)
    assert (six.on_exceed, six.reject_produce) == ("reject", True)


def test_what_is_left_out_has_its_default() -> None:
    """A limit of one line is for all clients together, throttles, and never for longer than clients wait."""
    (limit,) = limits("  - {name: calm, leaky_bucket: {rate: 1}}\n")
    assert limit.kind == LeakyBucket(rate=1.0, burst=0.0, nodelay=False, unit="requests")
    assert (limit.key, limit.on_exceed, limit.max_wait, limit.keys_max) == ((), "throttle", 30.0, 100_000)
    assert set(limit.match.model_dump().values()) == {None}
    assert Concurrency(max=1) == Concurrency(max=1, waiting=100, count_long_polls=False)
    assert load(BASE.removesuffix("limits:\n")).config.limits == limits("  []\n") == ()


def test_connections_are_closed_whether_or_not_it_is_said() -> None:
    """Their on_exceed is close: by default, from a file and from Python, and when written."""
    (silent, told) = limits(
        "  - {name: a, connections: {max: 1}}\n  - {name: b, connections: {max: 1}, on_exceed: close}\n"
    )
    made = Limit(name="c", connections=Connections(rate=1))
    assert silent.on_exceed == told.on_exceed == made.on_exceed == "close"


def test_limits_are_frozen_and_can_be_handed_to_another_process() -> None:
    """A worker gets an equal configuration, networks included, and JSON shows networks as they are written."""
    config = load(BASE + GOOD).config
    with pytest.raises(ValueError, match="frozen"):
        config.limits[0].dry_run = False
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301 - our own bytes
    shown = json.loads(config.model_dump_json())["limits"][0]
    assert shown["match"]["client_ips"] == ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"]
    assert all(Limit.model_validate(limit.model_dump()) == limit for limit in config.limits)


LEAKY = "{name: a, leaky_bucket: {rate: 1}"


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("{name: a}", "4:5: limits[0]: give one of leaky_bucket, fixed_window, concurrency, connections"),
        ("{name: a, concurrency: {max: 1}, leaky_bucket: {rate: 1}}",
         "4:5: limits[0]: leaky_bucket and concurrency are two limits; write an entry for each"),
        ("{name: a, concurrency: {max: 1}, leaky_bucket: {rate: 1}, connections: {max: 1}}",
         "4:5: limits[0]: leaky_bucket, concurrency and connections are 3 limits"),
        ("{leaky_bucket: {rate: 1}}", "4:5: limits[0].name: is missing; add it"),
        ("{name: a b, leaky_bucket: {rate: 1}}", "4:12: limits[0].name: not a name; use letters"),
        ("{name: 7, leaky_bucket: {rate: 1}}", "4:12: limits[0].name: must be a text"),
        ("text", "4:5: limits[0]: must be a mapping; known keys: name, leaky_bucket,"),
        ("{name: a, leaky_buckt: {rate: 1}}", "4:15: limits[0].leaky_buckt: unknown key; did you mean 'leaky_bucket'?"),
        ("{name: a, leaky_bucket: {rates: 1}}", "4:30: limits[0].leaky_bucket.rates: unknown key; did you mean 'rate'"),
        ("{name: a, leaky_bucket: 5}", "4:29: limits[0].leaky_bucket: must be a mapping; known keys: unit, rate"),
        ("{name: a, leaky_bucket: {}}", "4:15: limits[0].leaky_bucket.rate: is missing"),
        ("{name: a, leaky_bucket: {rate: 2MiB}}",
         "4:36: limits[0].leaky_bucket.rate: '2MiB' is a size; write requests per second as a number, or set unit: "),
        ("{name: a, leaky_bucket: {rate: 1, burst: 2MiB}}", "burst: '2MiB' is a size; write requests as a number, or"),
        ("{name: a, leaky_bucket: {rate: 1, burst: -1}}", "4:46: limits[0].leaky_bucket.burst: '-1' is below zero"),
        ("{name: a, leaky_bucket: {rate: 1, nodelay: no}}", "nodelay: must be true or false, without quotes"),
        ("{name: a, leaky_bucket: {rate: 2MiB, unit: bytes}}",
         "4:48: limits[0].leaky_bucket.unit: is not supported; write 'requests', 'bytes_in' or 'bytes_out'"),
        ("{name: a, leaky_bucket: {rate: 2MB, unit: bytes_in}}", "rate: '2MB' is not a rate; write bytes per second"),
        ("{name: a, leaky_bucket: {rate: 0KiB, unit: bytes_in}}", "rate: '0KiB' leaves no room at all"),
        ("{name: a, leaky_bucket: {rate: 99999999GiB, unit: bytes_in}}", "is too high; 9007199254740992 at most"),
        ("{name: a, fixed_window: {count: 0, window: 1s}}", "4:37: limits[0].fixed_window.count: '0' is not a count"),
        ("{name: a, fixed_window: {count: 1.5, window: 1s}}", "count: '1.5' is not a count; write a whole number"),
        ("{name: a, fixed_window: {count: many, window: 1s}}", "count: 'many' is not a count; write requests as a"),
        ("{name: a, fixed_window: {count: 1MiB, window: 1s}}", "count: '1MiB' is a size; write requests as a number"),
        ("{name: a, fixed_window: {count: 1, window: 60}}", "4:48: limits[0].fixed_window.window: '60' is not a durat"),
        ("{name: a, concurrency: {max: 0}}", "4:34: limits[0].concurrency.max: is too low; 1 at least"),
        ("{name: a, concurrency: {max: 1, waiting: -1}}", "waiting: is too low; 0 at least"),
        ("{name: a, connections: {}}", "4:28: limits[0].connections: limits nothing; give max, rate or both"),
        ("{name: a, connections: {max: 1, burst: 2}}",
         "4:44: limits[0].connections.burst: is the burst of a rate, which is not given"),
        ("{name: a, connections: {rate: 0}}", "4:35: limits[0].connections.rate: '0' lets nothing pass"),
        ("{name: a, connections: {rate: 1KiB}}", "rate: '1KiB' is a size; write connections per second as a number"),
        ("{name: a, connections: {rate: 1, burst: few}}", "burst: 'few' is not a burst; write connections as a number"),
        ("{name: a, connections: {rate: 0, burst: 5}}", "rate: '0' lets nothing pass"),
        ("{name: a, connections: {max: 1}, on_exceed: delay}",
         "4:49: limits[0].on_exceed: 'delay' is for requests, and connections can only be closed; leave it out"),
        ("{name: a, connections: {max: 1}, reject_produce: true}", "reject_produce: belongs to on_exceed: reject"),
        (LEAKY + ", reject_produce: true}", "4:56: limits[0].reject_produce: belongs to on_exceed: reject; set that"),
        (LEAKY + ", on_exceed: drop}", "on_exceed: is not supported; write 'delay', 'throttle', 'reject' or 'close'"),
        (LEAKY + ", key: client_ip}", "4:45: limits[0].key: must be a list, as in [client_ip]"),
        (LEAKY + ", key: [client_ip, topic]}", "4:57: limits[0].key[1]: is not supported; write 'client_ip', 'princip"),
        (LEAKY + ", key: [client_ip, client_ip]}", "4:45: limits[0].key: holds client_ip twice; write it once"),
        (LEAKY + ", match: {listener: [a]}}", "limits[0].match.listener: unknown key; did you mean 'listeners'?"),
        (LEAKY + ", match: }", "limits[0].match: must be a mapping; known keys: listeners, apis"),
        (LEAKY + ", match: {client_ids: []}}",
         "4:60: limits[0].match.client_ids: matches nothing; leave it out to match all"),
        (LEAKY + ", match: {apis: Produce}}", "limits[0].match.apis: must be a list, as in [Produce, Fetch]"),
        (LEAKY + ", match: {apis: [Fetch, Produse]}}",
         "4:62: limits[0].match.apis[1]: there is no API 'Produse'; did you mean 'Produce'?"),
        (LEAKY + ", match: {client_ips: [10.1.2.3/8]}}",
         "4:61: limits[0].match.client_ips[0]: '10.1.2.3/8' is an address within a network; write 10.0.0.0/8, or"),
        (LEAKY + ", match: {principals: [bob]}}",
         "4:61: limits[0].match.principals[0]: 'bob' names no type; write it as Kafka does, as in 'User:bob'"),
        (LEAKY + ", match: {principals: ['']}}", "'' names no type; write it as Kafka does, as in 'User:alice'"),
        (LEAKY + ", match: {principals: [7]}}", "limits[0].match.principals[0]: must be a text; put it in quotes"),
        (LEAKY + ", max_wait: 0s}", "limits[0].max_wait: '0s' is no time at all"),
        (LEAKY + ", keys_max: 0}", "limits[0].keys_max: is too low; 1 at least"),
        (LEAKY + ", dry_run: 1}", "limits[0].dry_run: must be true or false, without quotes"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line_with_its_place(entry: str, told: str) -> None:
    """A limit with one mistake is refused with one line: position, place, what is wrong, what to do."""
    (line,) = refused(entry)
    assert told in line


def test_what_is_no_list_is_refused() -> None:
    """``limits`` holds entries with names in them, not names with entries, as clusters and listeners do."""
    with pytest.raises(ConfigError, match=r"config:4:3: limits: must be a list, as in \[\{name: "):
        load(BASE + "  calm: {leaky_bucket: {rate: 1}}")


@pytest.mark.parametrize(
    "rate",
    ["0", "-1", "-0.5", "0.0", "nan", ".nan", "inf", "-.inf", "1e3", "100/s", "true", "[]", "{}", "~", "9" * 5000],
)
def test_a_rate_without_sense_is_refused(rate: str) -> None:
    """Nothing, less than nothing, and what is no number, each get one line."""
    (line,) = refused(f"{{name: a, leaky_bucket: {{rate: {rate}}}}}")
    assert line.startswith("4:36: limits[0].leaky_bucket.rate: ")
    assert any(advice in line for advice in ("above zero", "requests per second as a number", f"{AMOUNT_MAX} at most"))
    assert len(line) < 200


@pytest.mark.parametrize("rate", [math.nan, math.inf, -math.inf, -1.0, 0.0, 10**400])
def test_python_gives_no_rate_without_sense_either(rate: float) -> None:
    """A float is taken as it is, unless nothing could be counted with it."""
    with pytest.raises(ValueError, match=r"not a rate|lets nothing pass|too high"):
        LeakyBucket(rate=rate)


def test_all_mistakes_of_a_limit_are_told_at_once() -> None:
    """Fields that are wrong by themselves and fields that do not fit each other stand in one list."""
    lines = refused(
        "{name: a b, connections: {max: 1, burst: 2}, on_exceed: delay, reject_produce: true}",
        "{name: b, leaky_bucket: {rate: 0, brst: 1}, match: {apis: [], client_ips: [x, 10.1.1.1/8]}, zoo: 1}",
    )
    assert [line.split(": ")[1] for line in lines] == [
        "limits[0].name",
        "limits[0].connections.burst",
        "limits[0].on_exceed",
        "limits[1].leaky_bucket.rate",
        "limits[1].leaky_bucket.brst",
        "limits[1].match.apis",
        "limits[1].match.client_ips[0]",
        "limits[1].match.client_ips[1]",
        "limits[1].zoo",
    ]


@pytest.mark.parametrize(
    ("api", "says"),
    [
        ("produce", "did you mean 'Produce'"),
        ("JOIN_GROUP", "did you mean 'JoinGroup'"),
        ("Publish", "did you mean|as in Produce, Fetch or Metadata"),
        ("xyzzy", "as in Produce, Fetch or Metadata"),
        ("WriteTxnMarkers", "between brokers"),
        ("ApiVersions", "kproxy answers it itself; leave it out"),
        ("SaslAuthenticate", "logins are never held up; leave it out"),
        (0, "not the name of an API"),
        (None, "nothing is not the name"),
    ],
)
def test_an_api_that_cannot_be_limited_is_refused(api: object, says: str) -> None:
    """Only Kafka's own names of what clients may ask for; the rest is told what was probably meant."""
    with pytest.raises(ValueError, match=says):
        parse_api(api)


def test_every_other_api_can_be_limited() -> None:
    """The names are those of the API table."""
    assert {parse_api(name) for name in API_NAMES} == API_NAMES
    assert not API_NAMES & NEVER_LIMITED.keys()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("10.1.2.3/8", r"write 10\.0\.0\.0/8, or 10\.1\.2\.3 for that one alone"),
        ("2001:db8::1/32", r"write 2001:db8::/32, or 2001:db8::1 for that one alone"),
        ("::ffff:10.0.0.1", r"takes as IPv4; write 10\.0\.0\.1$"),
        ("::ffff:10.0.0.0/104", r"takes as IPv4; write 10\.0\.0\.0/8$"),
        ("fe80::1%eth0", "is no network"),
        ("kafka1", "is no network"),
        ("10.0.0.0/33", "is no network"),
        ("", "is no network"),
        (5, "is no network"),
        (None, "nothing is no network"),
        ([], "a list is no network"),
    ],
)
def test_what_is_no_network_is_refused_with_the_right_one(text: object, says: str) -> None:
    """Where it can be told what was meant, it is."""
    with pytest.raises(ValueError, match=says):
        parse_network(text)


@pytest.mark.parametrize("text", ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.7/32", "2001:db8::/32", "::/0"])
def test_networks_are_read_and_written_back(text: str) -> None:
    """IPv4 and IPv6, the whole of either too."""
    network = parse_network(text)
    assert str(network) == text
    assert parse_network(network) is network
