"""A configuration file: what it may say, and each mistake as one line with its place."""

import json
import pickle
import traceback
from pathlib import Path

import pytest

from kproxy.config.draft import FILE_BYTES_MAX
from kproxy.config.load import load
from kproxy.config.model import Config
from kproxy.errors import ConfigError

GOOD = """\
clusters:
  main:
    bootstrap: [kafka1:9092, "[::1]:9092"]
    sasl: {mechanism: PLAIN, username: gateway, password: {env: PW}}
    refresh_interval: 15s
listeners:
  public:
    cluster: main
    bind: 127.0.0.1:9092
    advertise: kafka.example.com:19092
    request_bytes_max: 50MiB
  inside:
    bind: 127.0.0.1:9292
    addressing: single
    advertise: kafka-{node}.example.com:9092
drain_timeout: 10s
"""

SMALL = "clusters: {main: {bootstrap: [k:1]}}\n"
"""A cluster in one line, so that listeners begin in line 2."""


def mistakes(text: str, **environ: str) -> list[str]:
    """Return the lines that refuse ``text``, which all begin with its name."""
    with pytest.raises(ConfigError) as caught:
        load(text, environ=environ)
    # A traceback shows the error's whole chain.
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    lines = str(caught.value).splitlines()
    assert all(line.startswith("config:") for line in lines)
    return [line.removeprefix("config:") for line in lines]


def test_a_good_file_is_read_whole() -> None:
    """Every kind of value arrives, defaults fill the rest, and the only cluster need not be named."""
    config, warnings, _ = load(GOOD, environ={"PW": "hunter2"})
    assert warnings == ()
    main, public, inside = config.clusters["main"], config.listeners["public"], config.listeners["inside"]
    assert main.bootstrap == (("kafka1", 9092), ("::1", 9092))
    assert main.sasl is not None
    assert main.sasl.revealed() == "hunter2"
    assert (main.refresh_interval, main.dial_timeout, main.login_timeout) == (15.0, 5.0, 10.0)
    assert (main.dial_patience, main.dial_patience_max) == (1.0, 10.0)
    assert public.advertise == ("kafka.example.com", 19092)
    assert (public.request_bytes_max, inside.request_bytes_max) == (50 << 20, 100 << 20)
    assert (inside.cluster, inside.addressing, inside.idle_timeout) == ("main", "single", 600.0)
    assert config.drain_timeout == 10.0


def test_a_configuration_is_frozen_and_can_be_handed_to_another_process() -> None:
    """Nobody changes a configuration in place; a worker gets an equal one."""
    config = load(GOOD, environ={"PW": "hunter2"}).config
    with pytest.raises(ValueError, match="frozen"):
        config.drain_timeout = 1.0
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301 - our own bytes


def test_no_way_of_writing_a_configuration_out_shows_a_secret() -> None:
    """Text, repr, JSON, a dump and the error of a mistake elsewhere: the password is in none."""
    config = load(GOOD, environ={"PW": "hunter2"}).config
    shown = f"{config} {config!r} {config.model_dump()} {config.model_dump_json()}"
    assert "gateway" in shown
    assert "hunter2" not in shown
    with pytest.raises(ValueError, match="extra_forbidden") as caught:
        Config.model_validate({"clusters": {"main": {"sasl": {"password": "hunter2", "hunter": 1}}}})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD.replace("sasl", "sassl"), "4:5: clusters.main.sassl: unknown key; did you mean 'sasl'?"),
        (GOOD.replace("advertise: kafka.", "advertize: kafka."), "10:5: listeners.public.advertize: unknown key"),
        (
            GOOD + "quotas: []\n",
            "17:1: quotas: unknown key; known: admin, clusters, drain_grace, drain_rebootstrap, drain_timeout, limits,",
        ),
        (GOOD.replace("username", "user"), "did you mean 'username'?"),
        (GOOD.replace("cluster: main", "cluster: mian"), "8:14: listeners.public.cluster: there is no cluster 'mian'"),
        (GOOD.replace("15s", "15"), "5:23: clusters.main.refresh_interval: '15' is not a duration"),
        (GOOD.replace("50MiB", "50MB"), "11:24: listeners.public.request_bytes_max: '50MB' is not a size"),
        (GOOD.replace("kafka1:9092", "kafka1"), "3:17: clusters.main.bootstrap[0]: 'kafka1' has no port"),
        (GOOD.replace("127.0.0.1:9092", '":9092"'), "9:11: listeners.public.bind: ':9092' names no host"),
        (GOOD.replace("PLAIN", "GSSAPI"), "4:23: clusters.main.sasl.mechanism: is not supported; write 'PLAIN'"),
        (GOOD.replace("single", "sna"), "14:17: listeners.inside.addressing: is not supported; write 'ports', 's"),
        (GOOD.replace("username: gateway, ", ""), "4:11: clusters.main.sasl: username missing; add it"),
        (GOOD.replace("gateway", '""'), "4:40: clusters.main.sasl.username: is empty"),
        (GOOD.replace("gateway", "7"), "4:40: clusters.main.sasl.username: must be a text; put it in quotes"),
        (GOOD.replace("gateway", '"a\\0b"'), "4:40: clusters.main.sasl.username: holds a NUL"),
        (GOOD.replace("gateway", "a" * 1025), "4:40: clusters.main.sasl.username: is too long; 1024 characters"),
        (GOOD.replace("{env: PW}", "{env: QW}"), "password: the environment variable QW is not set"),
        (GOOD.replace("{env: PW}", "{file: /no/such}"), "password: the secret file /no/such cannot be read"),
        (GOOD.replace("{env: PW}", "{hunter2: PW}"), "4:59: clusters.main.sasl.password: is not a secret"),
        (GOOD.replace("{env: PW}", "[hunter2]"), "4:59: clusters.main.sasl.password: is not a secret"),
        (GOOD.replace("{env: PW}", "0123"), "4:59: clusters.main.sasl.password: is a number"),
        (GOOD.replace("  inside:", "  public:"), "12:3: listeners.public: stands here a second time, first in line 7"),
        (GOOD.replace("  inside:", "  in side:"), "12:3: listeners.in side: not a name"),
        (GOOD.replace("  inside:", "  12:"), "12:3: listeners.12: not a name"),
        (GOOD.replace("  inside:", "  true:"), "12:3: listeners: a key must be a word"),
        (GOOD.replace("  inside:", "  [a]:"), "12:3: listeners: a key must be a word"),
        (GOOD.replace("15s", "&x 15s\n    dial_timeout: *x"), "6:5: clusters.main.dial_timeout: an alias ('*')"),
        (GOOD.replace("15s", "!hunter2 15s"), "5:23: clusters.main.refresh_interval: a tag"),
        (GOOD.replace("15s", "!!int 15s"), "5:23: clusters.main.refresh_interval: a tag"),
        (GOOD.replace('[kafka1:9092, "[::1]:9092"]', "kafka1:9092"), "3:16: clusters.main.bootstrap: must be a list"),
        (GOOD.replace('[kafka1:9092, "[::1]:9092"]', "[]"), "3:16: clusters.main.bootstrap: is empty"),
        ("clusters: {}\nlisteners: {a: {cluster: b, bind: h:1}}", "1:11: clusters: is empty; add one at least"),
        ("listeners: {a: {cluster: b, bind: h:1}}", "1:1: clusters: is missing; add it"),
        (SMALL + "listeners:\n", "listeners: must be a mapping of names to entries"),
        (SMALL + "listeners: {a: []}", "2:16: listeners.a: must be a mapping; known keys: cluster, bind"),
        (SMALL + "listeners: {a: {bind: h:1, backlog: 0}}", "2:37: listeners.a.backlog: is too low; 1 at least"),
        (SMALL + "listeners: {a: {bind: h:1, backlog: 99999}}", "2:37: listeners.a.backlog: is too high; 65535"),
        (SMALL + "listeners: {a: {bind: h:1, backlog: '9'}}", "2:37: listeners.a.backlog: must be a whole number"),
        (SMALL + "listeners: {a: {bind: h:1, broker_ports: {x: 9}}}", "2:43: listeners.a.broker_ports.x: not a node"),
        (SMALL + "listeners: {a: {bind: h:1, broker_ports: {-1: 9}}}", "broker_ports.-1: not a node id"),
        (SMALL + "listeners: {a: {bind: h:1, broker_ports: {1: 0}}}", "2:46: listeners.a.broker_ports.1: is too low"),
        (SMALL + f"listeners: {{a: {{bind: h:1, backlog: {'9' * 5000}}}}}", "backlog: must be a whole number"),
        ("clusters: {a: {bootstrap: [k:1]}, b: {bootstrap: [k:1]}}\nlisteners: {c: {bind: h:1}}",
         "2:13: listeners.c.cluster: is missing; name one of a, b"),
        ("- a", "1:1: must be a mapping; known keys: clusters, listeners, limits, admin, metrics, request_log, work"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line_with_its_place(text: str, told: str) -> None:
    """A file with one mistake is refused with one line: position, place, what is wrong, what to do."""
    (line,) = mistakes(text, PW="hunter2")
    assert told in line


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "1:1: YAML: there is nothing in it"),
        ("# only a remark\n", "1:1: YAML: there is nothing in it"),
        ("clusters:\n\tmain: 1", "2:1: YAML: a tab; indent with spaces"),
        ("a: b: hunter2", "1:5: YAML: a second ':' in one line"),
        ("a:\n  b: 1\n c: hunter2", "3:2: YAML: a line that does not fit"),
        ("a: 1\nhunter2\nb: 2", "YAML: a line that is no 'key: value'"),
        ("a: 'hunter2", "YAML: a quote that is never closed"),
        ("a: {b: hunter2", "YAML: a '{' without its '}'"),
        ("a: [hunter2\nb: 1", "YAML: a '[' without its ']'"),
        ("a: {\n", "YAML: something is missing before this"),
        ("a: 1\n---\nhunter2: 2", "2:1: YAML: a second document"),
        ("password: *hunter2", "1:11: YAML: '*' begins an alias"),
        ("a: &hunter2 b\nc: &hunter2 d\n", "2:4: YAML: '&' begins an anchor"),
        ("password: !hunter2!x y", "YAML: this is not YAML"),
        ("password: @hunter2", "1:11: YAML: this is not YAML"),
        ('password: "hunter2\\q"', "YAML: an unknown escape"),
        ("a: b\nc: hunter2\x07", "2:11: YAML: a control character"),
        ("[" * 5000, "1:21: YAML: nested too deeply"),
        ("listeners:\n  a:\n    advertise: {node}.example.com:9092", "3:22: YAML: '{' begins a mapping in YAML"),
    ],
)
def test_what_is_no_yaml_is_refused_without_being_quoted(text: str, told: str) -> None:
    """A broken text is told by its place and our own words: PyYAML's may quote a password."""
    lines = mistakes(text)
    assert any(told in line for line in lines), lines


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    """One run finds everything: wrong fields, unknown names, and what lies between entries that are sound."""
    text = """\
clusters:
  main: {bootstrap: [kafka1], refresh_interval: 5}
listeners:
  one: {cluster: mian, bind: ":9092", zoo: 1}
  two: {bind: 127.0.0.1:9500, broker_port_start: 9500, zoo: 1}
  three: {bind: 127.0.0.1:9500, cluster: no}
drain_timeout: now
"""
    assert [line.split(": ")[0] for line in mistakes(text)] == [
        "2:22", "2:49", "4:18", "4:30", "4:39", "5:50", "5:56", "6:17", "6:42", "7:16",
    ]  # fmt: skip


def test_values_mean_what_they_look_like() -> None:
    """A name such as ``no`` or a port such as 12:30 is never turned into something else by YAML."""
    text = "clusters: {no: {bootstrap: [12:30]}}\nlisteners: {on: {bind: 127.0.0.1:80}}"
    with pytest.raises(ConfigError, match=r"config:1:29: clusters\.no\.bootstrap\[0\]: '12:30' holds no valid IPv4"):
        load(text)


def test_a_key_with_a_newline_stays_on_one_line() -> None:
    """What a terminal would act upon is written as an escape."""
    lines = mistakes(GOOD + '"a\\nb\\e[31m": 1\n', PW="x")
    assert lines == [
        (
            "17:1: a\\nb\\x1b[31m: unknown key; "
            "known: admin, clusters, drain_grace, drain_rebootstrap, drain_timeout, limits, listeners, metrics, "
            "request_log, workers"
        )
    ]


def test_a_file_is_named_as_it_was_given_and_secrets_are_found_beside_it(tmp_path: Path) -> None:
    """Errors begin with the path, even with a colon in it, and a relative secret file begins at the file's folder."""
    (tmp_path / "secret").write_text("hunter2\n")
    path = tmp_path / "a:1:2.yaml"
    path.write_text("\ufeff" + GOOD.replace("{env: PW}", "{file: secret}"), encoding="utf-8")
    sasl = load(path, environ={}).config.clusters["main"].sasl
    assert sasl is not None
    assert sasl.revealed() == "hunter2"
    path.write_text("zoo: 1\nbar: 1")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).splitlines()[0].startswith(f"{path}:1:1: ")


def test_a_secret_that_everybody_can_read(tmp_path: Path) -> None:
    """Its place is told in a warning, and not what it holds; one that is its owner's or its group's is left alone."""
    secret, path = tmp_path / "secret", tmp_path / "k.yaml"
    secret.write_text("hunter2\n")
    path.write_text(GOOD.replace("{env: PW}", "{file: secret}"), encoding="utf-8")
    for mode, warned in ((0o644, 1), (0o640, 0), (0o600, 0)):
        secret.chmod(mode)
        warnings = [line for line in load(path).warnings if "sasl.password: everybody can read that file" in line]
        assert len(warnings) == warned
        assert "hunter2" not in str(warnings)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    """A missing file, a folder, another encoding and something huge are each told in a line."""
    (tmp_path / "latin").write_bytes(b"a: 1\nb: \xff\n")
    (tmp_path / "huge").write_bytes(b" " * (FILE_BYTES_MAX + 1))
    for name, says in (
        ("absent", "cannot be read: No such file or directory"),
        (".", "cannot be read: Is a directory"),
        ("latin", ":2:1: not UTF-8; save the file as UTF-8"),
        ("huge", "this is no configuration"),
    ):
        with pytest.raises(ConfigError) as caught:
            load(tmp_path / name)
        assert says in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


def test_python_may_make_a_configuration_directly() -> None:
    """Validated without a file, the same rules hold, those between fields too; the process's environment is used."""
    listener = {"bind": "127.0.0.1:9092"}
    config = Config.model_validate({"clusters": {"main": {"bootstrap": ["k:1"]}}, "listeners": {"a": listener}})
    assert json.loads(config.model_dump_json())["listeners"]["a"]["bind"] == "127.0.0.1:9092"
    with pytest.raises(ValueError, match=r"listeners\.b\.bind: 127\.0\.0\.1:9092 is in use by listener 'a'"):
        Config.model_validate({"clusters": config.clusters, "listeners": {"a": listener, "b": listener}})
