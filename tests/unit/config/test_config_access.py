"""Access: what may be written, what is refused with its place, and what becomes of it in core."""

import json
from ipaddress import ip_network
from pathlib import Path

import pytest
from click.testing import CliRunner

from kproxy.cli.main import main
from kproxy.config.access import OPERATIONS, RESOURCES, Access, AccessRule
from kproxy.config.load import load
from kproxy.config.schema import schema
from kproxy.core.access import Operation, Resource, Rule
from kproxy.errors import ConfigError
from kproxy.service import build
from kproxy.wire.apis import ApiKey

BASE = """\
clusters: {main: {bootstrap: [k:1]}}
listeners:
  public:
    bind: 127.0.0.1:9092
    access:
"""

GOOD = """\
      cidrs: [10.0.0.0/8, "2001:db8::/32"]
      rules:
        - {principal: "User:alice", operations: [read, describe], topic: "orders-*", effect: allow}
        - {principals: ["User:b*", "Group:team-a"], operations: [all], group: "*"}
        - {principal: "*", operations: [write], transactional_id: t, effect: deny}
        - {principal: "User:admin", operations: [alter], cluster: true}
        - {principal: "User:root", operations: [all], any: true}
      apis: {deny: [DeleteTopics], presets: [read_only]}
      dry_run: true
"""


def access(text: str) -> Access:
    """Return the access of a file that raises no doubt."""
    config, warnings, _ = load(BASE + text)
    assert warnings == ()
    found = config.listeners["public"].access
    assert found is not None
    return found


def refused(text: str) -> list[str]:
    """Return the mistakes of a file, without its name; the first line is line 6."""
    with pytest.raises(ConfigError) as caught:
        load(BASE + text)
    return [line.removeprefix("config:") for line in str(caught.value).splitlines()]


def rule(text: str) -> str:
    """Return the only mistake of a file with this rule."""
    (line,) = refused(f"      rules: [{text}]\n")
    return line.split(": ", 2)[2]


def test_a_good_file_is_read_whole() -> None:
    """Networks, rules and APIs arrive."""
    found = access(GOOD)
    assert found.cidrs == (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))
    assert found.rules[0] == AccessRule(principal="User:alice", operations=("read", "describe"), topic="orders-*")
    assert found.rules[2].effect == "deny"
    assert (found.dry_run, found.default, found.default_effect) == (True, None, "deny")


def test_it_becomes_rules_of_core() -> None:
    """Each rule is one of core's, whatever its resource, and presets are lists of APIs."""
    core = build.access(access(GOOD))
    assert core is not None
    everything = frozenset(Operation)
    assert core.rules == (
        Rule(("User:alice",), frozenset({Operation.READ, Operation.DESCRIBE}), Resource.TOPIC, "orders-*", True),
        Rule(("User:b*", "Group:team-a"), everything, Resource.GROUP, "*", True),
        Rule(("*",), frozenset({Operation.WRITE}), Resource.TXN, "t", False),
        Rule(("User:admin",), frozenset({Operation.ALTER}), Resource.CLUSTER, "*", True),
        Rule(("User:root",), everything, None, "*", True),
    )
    assert {ApiKey.DELETE_TOPICS, ApiKey.PRODUCE, ApiKey.CREATE_ACLS} <= core.denied_apis
    assert ApiKey.FETCH not in core.denied_apis
    assert (core.dry_run, core.default_allow) == (True, False)


@pytest.mark.parametrize(
    ("text", "default"),
    [
        ("{apis: {deny: [DeleteTopics]}}", "allow"),
        ("{cidrs: [10.0.0.0/8]}", "allow"),
        ('{rules: [{principal: "User:a", operations: [read], topic: t, effect: deny}]}', "allow"),
        ('{rules: [{principal: "User:a", operations: [read], topic: t}]}', "deny"),
        ('{default: deny, rules: [{principal: "User:a", operations: [read], topic: t, effect: deny}]}', "deny"),
    ],
)
def test_the_default_is_what_rules_need(text: str, default: str) -> None:
    """Where nothing is said of a default, rules that allow make it deny, and all else leaves it allow."""
    assert access(f"      {text}\n").default_effect == default


def test_networks_alone_cost_no_request() -> None:
    """Where there are networks only, no request is held against anything."""
    assert build.access(None) is None
    assert build.access(access("      {cidrs: [10.0.0.0/8]}\n")) is None


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("{operations: [read], topic: t}", "give principal or principals, one of them"),
        ('{principal: "User:a", principals: ["User:b"], operations: [read], topic: t}', "one of them"),
        ('{principal: "User:a", operations: [read]}', "names no resource; give one of topic, group"),
        ('{principal: "User:a", operations: [read], cluster: false}', "names no resource"),
        ('{principal: "User:a", operations: [read], topic: t, group: g}', "topic and group are 2 resources"),
        ('{principal: "User:a", operations: [write], group: g}', "write is nothing that is done to a group"),
        ("{principal: alice, operations: [read], topic: t}", "'alice' names no type; write it as Kafka does"),
        ('{principal: "User:a", operations: [], topic: t}', "matches nothing"),
        ('{principal: "User:a", operations: [reed], topic: t}', "is not supported; write 'all', 'read'"),
        ('{principal: "User:a", operations: read, topic: t}', "must be a list, as in [read, describe]"),
        ('{principal: "User:a", operations: [read], topics: t}', "unknown key; did you mean 'topic'?"),
        ('{principal: "User:a", topic: t}', "is missing; add it"),
        ('{principal: "User:a", operations: [read], topic: ""}', "is empty; write a text"),
        (
            '{principal: "User:a", operations: [read], topic: t, effect: no}',
            "is not supported; write 'allow' or 'deny'",
        ),
    ],
)
def test_mistakes_of_a_rule(text: str, mistake: str) -> None:
    """A rule that means nothing is one line that says what to do."""
    assert mistake in rule(text)


def test_places_of_mistakes() -> None:
    """A mistake names its place, with indexes where lists are."""
    lines = refused(
        """      cidrs: [10.0.0.1/8]
      rules:
        - {principal: "User:a", operations: [read, reed], topic: t}
      apis: {deny: [DeleteTopic], presets: [admin]}
      defualt: deny
"""
    )
    assert [line.split(": ")[1] for line in lines] == [
        "listeners.public.access.cidrs[0]",
        "listeners.public.access.rules[0].operations[1]",
        "listeners.public.access.apis.deny[0]",
        "listeners.public.access.apis.presets[0]",
        "listeners.public.access.defualt",
    ]
    assert lines[0].startswith("6:")
    assert "did you mean 'DeleteTopics'?" in lines[2]
    assert "did you mean 'default'?" in lines[4]


@pytest.mark.parametrize(
    ("text", "doubt"),
    [
        ('{default: allow, rules: [{principal: "*", operations: [read], topic: t}]}', "rules that allow say nothing"),
        ("{default: deny}", "nobody may do anything"),
        ('{rules: [{principal: "*", operations: [read], topic: "[ab]*"}]}', "only * and ? stand for others"),
    ],
)
def test_doubts(text: str, doubt: str) -> None:
    """What works but is probably not meant is a warning."""
    (warning,) = load(f"{BASE}      {text}\n").warnings
    assert doubt in warning


def test_what_there_is_to_do() -> None:
    """Each type of resource has operations, all of them Kafka's, and each of these is done to something."""
    assert set(OPERATIONS) == {str(resource) for resource in Resource} == set(RESOURCES) - {"any"}
    assert set().union(*OPERATIONS.values()) == {str(operation) for operation in Operation}


def test_editors_know_it() -> None:
    """The schema has rules, their operations and resources."""
    text = json.dumps(schema())
    assert all(f'"{word}"' in text for word in ("access_rule", "transactional_id", "idempotent_write", "no_admin"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            GOOD,
            "; 5 rules, otherwise deny; without read_only, DeleteTopics (dry run)",
        ),
        ('      {rules: [{principal: "*", operations: [read], topic: t}]}\n', "; access 1 rule, otherwise deny"),
        ("      {dry_run: false}\n", "; access for all"),
    ],
)
def test_check_tells_it(text: str, told: str, tmp_path: Path) -> None:
    """``kproxy check`` tells what would run."""
    path = tmp_path / "kproxy.yaml"
    path.write_text(BASE + text, encoding="utf-8")
    result = CliRunner().invoke(main, ["check", str(path)])
    assert result.exit_code == 0
    assert f"{told}\n" in result.stdout
