"""Plans from one configuration to another: what starts, stops and changes, and what takes a restart."""

import pytest

from kproxy.config.diff import Plan, Step, diff, replaced
from kproxy.config.load import load
from kproxy.config.model import Config
from kproxy.errors import ConfigError

BASE = """
clusters:
  main:
    bootstrap: [kafka1:9092]
    sasl: {mechanism: PLAIN, username: gateway, password: first-secret}
    credentials:
      team-*: {mechanism: PLAIN, username: team, password: team-secret}
      alice: {mechanism: PLAIN, username: alice, password: alice-secret}
listeners:
  public: {bind: "127.0.0.1:9092", access: {cidrs: [127.0.0.0/8]}}
limits:
  - {name: calm, leaky_bucket: {rate: 100}}
  - {name: few, connections: {max: 10}}
request_log: {to: kafka, topic: requests, cluster: main}
admin: {bind: "127.0.0.1:9990", api_key: admin-secret}
"""


def config(*changes: tuple[str, str], base: str = BASE) -> Config:
    """Return the base configuration with texts replaced; each must stand there."""
    for old, new in changes:
        assert old in base
        base = base.replace(old, new)
    return load(base, environ={}).config


def plan(*changes: tuple[str, str]) -> Plan:
    """Return the plan from the base to the base with changes."""
    return diff(config(), config(*changes))


def test_nothing_to_do() -> None:
    """The same configuration, written or read once more, gives an empty plan."""
    assert not plan()
    assert plan() == Plan(())
    assert plan().lines() == []


CALM, FEW = "  - {name: calm, leaky_bucket: {rate: 100}}\n", "  - {name: few, connections: {max: 10}}\n"
WHO_MAY_COME = "for new connections; one that could not come in now leaves when idle"
AT_ONCE = "from the next request, on open connections too"
LOGIN = "(for new connections to brokers; clients of another login leave when idle)"


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ("[kafka1:9092]", "[kafka2:9092]", [
            "changes cluster main: bootstrap (for new connections to brokers)",
            "changes request_log: cluster (opens again, and what waits is written first)",
        ]),
        ("alice-secret", "another", [f"changes cluster main: credentials {LOGIN}"]),
        ("password: first-secret", "password: second-secret", [
            f"changes cluster main: sasl.password {LOGIN}",
            "changes request_log: cluster (opens again, and what waits is written first)",
        ]),
        ('bind: "127.0.0.1:9092"', 'bind: "127.0.0.1:9192", idle_timeout: 5m', [
            "changes listener public: bind, idle_timeout (drains and opens again)",
        ]),
        ('bind: "127.0.0.1:9092"', 'bind: "127.0.0.1:9092", idle_timeout: 5m', [
            "changes listener public: idle_timeout (for new connections)",
        ]),
        ("127.0.0.0/8]", "10.0.0.0/8], apis: {deny: [DeleteTopics]}", [
            f"changes listener public: access.cidrs ({WHO_MAY_COME})",
            f"changes listener public: access.apis ({AT_ONCE})",
        ]),
        (", access: {cidrs: [127.0.0.0/8]}", "", [f"changes listener public: access ({AT_ONCE})"]),
        ("rate: 100", "rate: 200", [f"changes limit calm: leaky_bucket.rate ({AT_ONCE}; counts anew)"]),
        ("leaky_bucket: {rate: 100}", "concurrency: {max: 5}", [
            f"changes limit calm: leaky_bucket, concurrency ({AT_ONCE}; counts anew)",
        ]),
        ("name: calm", "name: quiet", [f"starts limit quiet ({AT_ONCE})", f"stops limit calm ({AT_ONCE})"]),
        (CALM + FEW, FEW + CALM, [f"changes limits: order ({AT_ONCE})"]),
        ("topic: requests", "topic: requests, sample: 0.5", [f"changes request_log: sample ({AT_ONCE})"]),
        ("topic: requests", "topic: others", [
            "changes request_log: topic (opens again, and what waits is written first)",
        ]),
        ("request_log: {to: kafka, topic: requests, cluster: main}\n", "", ["stops request_log"]),
        ("admin-secret", "another", ["changes admin: api_key (from the next request)"]),
        ("127.0.0.1:9990", "127.0.0.1:9991", ["changes admin: bind (opens again)"]),
        ('admin: {bind: "127.0.0.1:9990", api_key: admin-secret}\n', "", ["stops admin"]),
        ("\nlimits:", "\nmetrics: {latency: true}\nlimits:", ["changes metrics: latency (for new connections)"]),
        ("\nlimits:", "\ndrain_timeout: 5s\nlimits:", ["changes drain_timeout (from now on)"]),
        ("\nlimits:", "\ndrain_rebootstrap: false\nlimits:", ["changes drain_rebootstrap (from now on)"]),
    ],
)  # fmt: skip
def test_what_a_plan_tells(old: str, new: str, lines: list[str]) -> None:
    """Each change is told by what it is about, the options that differ, and for whom it counts."""
    assert plan((old, new)).lines() == lines


def test_what_starts() -> None:
    """A cluster starts before the listener that leads to it."""
    spare = "  spare: {bootstrap: [kafka9:9092]}\nlisteners:\n  more: {bind: '127.0.0.1:9999', cluster: spare}"
    changed = plan(("listeners:", spare), ("public: {", "public: {cluster: main, "))
    assert changed.lines() == ["starts cluster spare", "starts listener more"]


def test_what_is_gone_stops_last() -> None:
    """A cluster stops after its listeners, and one that takes its place starts before them."""
    renamed = plan(("  main:\n", "  other:\n"), ("cluster: main", "cluster: other"))
    assert renamed.lines() == [
        "starts cluster other",
        "changes listener public: cluster (drains and opens again)",
        "stops cluster main",
        "changes request_log: cluster (opens again, and what waits is written first)",
    ]
    moved = plan(("public: {", "inside: {"))
    assert moved.lines() == ["starts listener inside", "stops listener public (drains)"]


def test_the_order_of_credentials_counts() -> None:
    """The first pattern that fits gives a client its login, so another order is another configuration."""
    team = "      team-*: {mechanism: PLAIN, username: team, password: team-secret}\n"
    alice = "      alice: {mechanism: PLAIN, username: alice, password: alice-secret}\n"
    assert plan((team + alice, alice + team)).lines() == [f"changes cluster main: credentials {LOGIN}"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ([("\nlimits:", "\nworkers: 2\nlimits:")], "workers: 1 run, and 2 would take another process"),
        (
            [("to: kafka, topic: requests, cluster: main", "to: stdout")],
            "request_log.to: workers have no standard output",
        ),
    ],
)
def test_what_takes_a_restart(changes: list[tuple[str, str]], text: str) -> None:
    """What cannot change while kproxy runs is refused in one line that says to restart."""
    with pytest.raises(ConfigError, match=text) as caught:
        plan(*changes)
    assert "restart kproxy" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_secret_in_a_plan() -> None:
    """Neither lines, nor what JSON gets, nor a repr hold a secret, old or new."""
    secrets = ("first-secret", "alice-secret", "admin-secret", "team-secret")
    changed = plan(*((secret, f"new-{secret}") for secret in secrets))
    told = repr(changed) + str(changed.lines()) + str(changed.document())
    assert "sasl.password" in told
    assert "secret" not in told


def test_steps_as_json() -> None:
    """A document has what a line has, in parts."""
    changed = plan(('bind: "127.0.0.1:9092"', 'bind: "127.0.0.1:9092", idle_timeout: 5m'))
    assert changed.document() == [
        {"kind": "changes", "what": "listener public", "details": ("idle_timeout",), "effect": "for new connections"}
    ]
    assert str(Step("starts", "listener public")) == "starts listener public"


def test_which_listeners_are_replaced() -> None:
    """A listener is another one when clients were told of what has changed."""
    old = config().listeners["public"]
    assert not replaced(old, config(('"127.0.0.1:9092"', '"127.0.0.1:9092", idle_timeout: 5m')).listeners["public"])
    assert replaced(old, config(('"127.0.0.1:9092"', '"127.0.0.1:9092", addressing: single')).listeners["public"])
