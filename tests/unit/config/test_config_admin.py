"""Where the admin API may be, by whom it may be used, and that its configuration can be shown."""

import json
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from kproxy.config.flags import Flags
from kproxy.config.load import from_flags, load
from kproxy.config.masked import masked
from kproxy.config.model import Config
from kproxy.config.values import SOCKET_PATH_BYTES_MAX, HostPort, Secret, SocketPath, parse_admin_bind
from kproxy.errors import ConfigError

GOOD = """\
clusters: {main: {bootstrap: [kafka1:9092], sasl: {username: u, password: hunter2}}}
listeners: {public: {bind: 127.0.0.1:9092}}
"""


def mistakes(text: str, **environ: str) -> list[str]:
    """Return the lines that a configuration is refused with."""
    with pytest.raises(ConfigError) as caught:
        load(GOOD + text, environ=environ)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    "bind", ["127.0.0.1:9090", "127.9.9.9:9090", '"[::1]:9090"', "localhost:9090", "/run/kproxy/admin.sock"]
)
def test_without_a_key_only_this_machine(bind: str) -> None:
    """What nobody else can reach needs no key, and gives no doubt."""
    loaded = load(GOOD + f"admin: {{bind: {bind}}}\n")
    assert loaded.config.admin is not None
    assert str(loaded.config.admin.bind) == bind.strip('"')
    assert not any("admin" in warning for warning in loaded.warnings)


@pytest.mark.parametrize("bind", ["0.0.0.0:9090", "10.0.0.5:9090", '"[::]:9090"', "kafka.example.com:9090"])
def test_others_need_a_key(bind: str) -> None:
    """What others can reach is refused without a key; with one it is served, with a warning that it is plain HTTP."""
    (line,) = mistakes(f"admin: {{bind: {bind}}}\n")
    assert line.startswith("config:3:15: admin.bind: ")
    assert "can be reached by others; give admin.api_key" in line
    loaded = load(GOOD + f"admin: {{bind: {bind}, api_key: {{env: KEY}}}}\n", environ={"KEY": "k"})
    assert sum("plain HTTP" in warning for warning in loaded.warnings) == 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("admin: {}", "3:1: admin.bind: is missing; add it"),
        ("admin: {bind: ':9090'}", "admin.bind: ':9090' names no host"),
        ("admin: {bind: 9090}", "admin.bind: '9090' is not an address"),
        ("admin: {bnd: 1, bind: 127.0.0.1:1}", "admin.bnd: unknown key; did you mean 'bind'?"),
        ("admin: []", "3:8: admin: must be a mapping; known keys: bind, api_key"),
        ("admin: {bind: 127.0.0.1:9092}", "admin.bind: 127.0.0.1:9092 is in use by listener 'public'"),
        ("admin: {bind: '/tmp/%s'}" % ("x" * 200), "is no path for a socket; 107 bytes at most"),
        ('admin: {bind: 127.0.0.1:1, api_key: "a b"}', "admin.api_key: holds what an HTTP header cannot carry"),
        ("admin: {bind: 127.0.0.1:1, api_key: {env: GONE}}", "admin.api_key: the environment variable GONE is not set"),
        ("metrics: {max: 0}", "metrics.max: is too low; 1 at least"),
        ("metrics: {max: 10001}", "metrics.max: is too high; 10000 at most"),
        ('metrics: {per_client_id: "yes"}', "metrics.per_client_id: must be true or false"),
        ("metrics: {per_client: true}", "metrics.per_client: unknown key; did you mean 'per_client_id'?"),
    ],
)
def test_each_mistake_is_one_line(text: str, line: str) -> None:
    """Whatever is wrong is told once, where it is, with what to do; no key is quoted."""
    (told,) = mistakes(text + "\n")
    assert line in told
    assert "a b" not in told


def test_mistakes_are_told_beside_others() -> None:
    """What lies between fields is found as well while something else is wrong."""
    lines = mistakes("admin: {bind: 0.0.0.0:9090, other: 1}\ndrain_timeout: soon\n")
    assert [line.split(": ")[1] for line in lines] == ["admin.bind", "admin.other", "drain_timeout"]


def test_a_key_in_the_file_is_a_doubt() -> None:
    """A literal key works, with a warning that does not show it."""
    loaded = load(GOOD + "admin: {bind: 127.0.0.1:9090, api_key: sesame}\n")
    assert loaded.config.admin is not None
    (doubt,) = (warning for warning in loaded.warnings if "admin" in warning)
    assert "the key stands in the file" in doubt
    assert "sesame" not in doubt + repr(loaded)


def test_the_flag() -> None:
    """--admin wins over the file; a key comes from the environment where the file has none."""
    flags = Flags(listen="127.0.0.1:9092", bootstrap="kafka1:9092", admin="127.0.0.1:9090")
    plain = from_flags(flags, environ={}).config.admin
    assert plain is not None
    assert (plain.bind, plain.api_key) == (HostPort("127.0.0.1", 9090), None)
    keyed = from_flags(flags, environ={"KPROXY_ADMIN_KEY": "k"}).config.admin
    assert keyed is not None
    assert keyed.api_key == Secret("k", "env KPROXY_ADMIN_KEY")
    file = GOOD + "admin: {bind: 127.0.0.1:1, api_key: {env: MINE}}\n"
    both = from_flags(Flags(admin="/a.sock"), file, environ={"KPROXY_ADMIN_KEY": "k", "MINE": "m"}).config.admin
    assert both is not None
    assert (both.bind, both.api_key) == (SocketPath("/a.sock"), Secret("m", "env MINE"))
    assert from_flags(Flags(), GOOD, environ={"KPROXY_ADMIN_KEY": "k"}).config.admin is None
    with pytest.raises(ConfigError, match=r"^--admin: 0\.0\.0\.0:9090 can be reached by others"):
        from_flags(Flags(admin="0.0.0.0:9090"), GOOD, environ={})
    with pytest.raises(ConfigError, match="admin: must be a mapping"):
        from_flags(Flags(admin="127.0.0.1:9090"), GOOD + "admin: [1]\n", environ={})


def test_a_socket_path_is_bounded() -> None:
    """A path as long as the kernel takes is taken; a value that is one already stays."""
    path = "/" + "x" * (SOCKET_PATH_BYTES_MAX - 1)
    assert parse_admin_bind(parse_admin_bind(path)) == SocketPath(path)
    with pytest.raises(ValueError, match="no path for a socket"):
        parse_admin_bind(path + "x")


def test_masked(tmp_path: Path) -> None:
    """What is shown has every option and no secret; a reference to one is shown as it is written."""
    secret = tmp_path / "key"
    secret.write_text("sesame")
    text = GOOD + f"admin: {{bind: 127.0.0.1:9090, api_key: {{file: {secret}}}}}\n"
    text += "limits: [{name: a, leaky_bucket: {rate: 1}, key: [client_ip], match: {client_ips: [10.0.0.0/8]}}]\n"
    config = load(text).config
    shown = masked(config)
    written = json.dumps(shown)
    assert "hunter2" not in written
    assert "sesame" not in written
    assert shown["clusters"]["main"]["sasl"]["password"] == "***"
    assert shown["admin"]["api_key"] == {"file": str(secret)}
    assert shown["clusters"]["main"]["bootstrap"] == ["kafka1:9092"]
    assert shown["limits"][0]["match"]["client_ips"] == ["10.0.0.0/8"]
    assert shown.keys() == Config.model_fields.keys()


WHOLE = """\
clusters:
  main:
    bootstrap: [kafka1:9092, "[::1]:9093"]
    sasl: {mechanism: SCRAM-SHA-512, username: gateway, password: {env: KEY}}
    credentials: {"team-*": {username: team, password: {env: KEY}}}
    tls: {cert_file: a.pem, key_file: k.pem, key_password: {env: KEY}, server_name: k.internal, reload_interval: 90s}
    refresh_interval: 1.5s
  issued:
    bootstrap: [kafka2:9092]
    tls: {}
    sasl:
      mechanism: OAUTHBEARER
      oauth: {token_url: "https://id.example.com/t", client_id: k, client_secret: {env: KEY}, extensions: {cluster: c}}
  held: {bootstrap: [kafka3:9092], sasl: {mechanism: OAUTHBEARER, oauth: {token_file: token}}, tls: {verify: false}}
  passed: {bootstrap: [kafka4:9092], sasl: {username: gateway, password: {env: KEY}}, passthrough: plain}
listeners:
  public:
    cluster: main
    bind: 0.0.0.0:9092
    advertise: kafka.example.com:9092
    broker_port_start: 9200
    broker_ports: {101: 9150, 102: 9151}
    tls:
      cert_file: a.pem
      key_file: k.pem
      client_auth: required
      client_ca_file: ca.pem
      principal_rules: ["RULE:^CN=([^,]+),.*$/$1/L", DEFAULT]
      min_version: 1.3
    sasl:
      mechanisms: [SCRAM-SHA-512, OAUTHBEARER]
      users_file: users.yaml
      session_lifetime: 1h
      oauth: {jwks_url: "https://id.example.com/jwks", issuer: i, audience: kafka, leeway: 100ms}
    proxy_protocol: true
    trusted_proxies: [10.0.0.0/8]
    request_bytes_max: 1000001
    access:
      cidrs: [10.0.0.0/8, "2001:db8::/32"]
      default: deny
      rules:
        - {principals: ["User:a*"], operations: [read], topic: "orders-*"}
        - {principal: "*", operations: [all], any: true, effect: deny}
      apis: {presets: [no_admin], deny: [DeleteTopics]}
      dry_run: true
  single: {cluster: issued, bind: 127.0.0.1:9500, addressing: single, advertise: "k{node}.example.com:9500"}
  names:
    cluster: held
    bind: 127.0.0.1:9600
    addressing: sni
    advertise: "b{node}.example.com:9600"
    bootstrap_name: b.example.com
    tls: {cert_file: a.pem, key_file: k.pem}
  passed: {cluster: passed, bind: 127.0.0.1:9700, sasl: {mechanisms: [PLAIN], allow_plaintext_passwords: true}}
limits:
  - name: spread
    leaky_bucket: {rate: 0.5, burst: 3, nodelay: true}
    key: [client_ip, principal]
    match:
      listeners: [public]
      apis: [Produce]
      principals: ["User:a"]
      client_ids: ["b-*"]
      client_ips: [10.0.0.0/8]
    on_exceed: reject
    reject_produce: true
    max_wait: 1m
  - {name: tiny, leaky_bucket: {rate: 0.00001}}
  - {name: bytes, leaky_bucket: {unit: bytes_out, rate: 2MiB, burst: 1.5}}
  - {name: window, fixed_window: {unit: bytes_in, count: 100MiB, window: 90m}, dry_run: true}
  - {name: slots, concurrency: {max: 4, waiting: 0, count_long_polls: true}, on_exceed: delay}
  - {name: doors, connections: {max: 5, rate: 2, burst: 0.5}, key: [client_ip]}
admin: {bind: 127.0.0.1:9090, api_key: {env: KEY}}
metrics: {latency: true, per_client_id: true, max: 7}
workers: 2
drain_grace: 7s
drain_rebootstrap: false
"""

LOGS = (
    "{to: file, path: log, sample: 0.00001, match: {listeners: [public], apis: [Fetch]}, fields: [time, api]}",
    "{to: stdout}",
    "{to: kafka, topic: t, cluster: main, key: api, acks: all}",
    "{to: kafka, topic: t, bootstrap: [log:9092], sasl: {username: u, password: {env: KEY}}, tls: {ca_file: ca.pem}}",
)


@pytest.mark.parametrize("log", LOGS)
def test_what_is_shown_can_be_sent_back(log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is configured is shown so that it is read as the same, as JSON and as YAML, wherever it is read."""
    monkeypatch.chdir(tmp_path)
    path = Path("etc/kproxy.yaml")
    path.parent.mkdir()
    path.write_text(f"{WHOLE}request_log: {log}\n", encoding="utf-8")
    environ = {"KEY": "sesame"}
    config = load(path, environ=environ).config
    shown = masked(config)
    assert "sesame" not in json.dumps(shown)
    for text in (json.dumps(shown), json.dumps(shown, indent=2), yaml.safe_dump(shown)):
        assert load(text, environ=environ).config == config


def test_what_is_shown_is_what_a_user_writes() -> None:
    """Durations and sizes have units, and numbers no needless fraction."""
    shown = masked(load(WHOLE, environ={"KEY": "k"}).config)
    main, public, limits = shown["clusters"]["main"], shown["listeners"]["public"], shown["limits"]
    assert (main["refresh_interval"], main["tls"]["reload_interval"], main["login_timeout"]) == ("1500ms", "90s", "10s")
    assert (public["request_bytes_max"], public["buffered_bytes_max"]) == (1_000_001, "512MiB")
    assert limits[1]["leaky_bucket"] == {"unit": "requests", "rate": "0.00001", "burst": 0, "nodelay": False}
    assert limits[3]["fixed_window"]["window"] == "90m"
    assert json.dumps(limits[2]["leaky_bucket"]["rate"]) == "2097152"


def test_a_mask_is_no_secret() -> None:
    """Sending back what is not shown is refused by the place where it stands, and replaces no secret."""
    shown = masked(load(GOOD).config)
    with pytest.raises(ConfigError) as caught:
        load(json.dumps(shown), environ={})
    (line,) = str(caught.value).splitlines()
    assert "clusters.main.sasl.password: *** stands for a secret that is not shown; write the secret" in line


def test_a_secret_anywhere_is_masked() -> None:
    """Where a secret stands makes no difference, also in a part that is added tomorrow."""

    class Part(BaseModel, arbitrary_types_allowed=True):
        inner: dict[int, tuple[Secret, ...]]

    assert masked(Part(inner={1: (Secret("x", "literal"), Secret("y", "env Y"))})) == {
        "inner": {"1": ["***", {"env": "Y"}]}
    }
