"""The request log's section: what may be written, what is refused with its place, and what is doubted."""

import pickle
from importlib.machinery import ModuleSpec
from ipaddress import ip_network
from pathlib import Path

import pytest

from kproxy.config import requestlog
from kproxy.config.load import load
from kproxy.config.model import Config
from kproxy.config.requestlog import FIELDS, LogTls, RequestLog
from kproxy.errors import ConfigError

BASE = """\
clusters: {main: {bootstrap: [k:1]}, audit: {bootstrap: [a:1]}}
listeners: {public: {cluster: main, bind: 127.0.0.1:9092, advertise: "kafka.example.com:9092"}}
"""
SCRAM = "sasl: {mechanism: SCRAM-SHA-512, username: log, password: {env: PW}}"
OWN = f"to: kafka, topic: requests, bootstrap: [a:1, b:2], {SCRAM}"


def log_of(text: str) -> RequestLog:
    """Return the log of a file that raises no doubt."""
    config, warnings, _ = load(f"{BASE}request_log: {{{text}}}\n", environ={"PW": "hunter2"})
    assert warnings == ()
    assert config.request_log is not None
    return config.request_log


def refused(text: str, base: str = BASE) -> list[str]:
    """Return the mistakes of a file with this log, in line 3, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        load(f"{base}request_log: {{{text}}}\n", environ={"PW": "hunter2"})
    assert "hunter2" not in str(caught.value)
    return [line.removeprefix("config:") for line in str(caught.value).splitlines()]


def test_whole() -> None:
    """Each option arrives: durations as seconds, files beside the configuration, the rest as it was written."""
    log = log_of(
        f"{OWN}, tls: {{ca_file: ca.pem, cert_file: /c.pem, key_file: k.pem}}, key: client_id, acks: all,"
        " delivery_timeout: 1m, sample: 0.25, fields: [time, client_id], queue_max: 7, linger: 100ms,"
        " flush_timeout: 2s, match: {listeners: [public], apis: [ApiVersions, Fetch], principals: ['User:a*'],"
        " client_ids: [''], client_ips: [10.0.0.0/8]}"
    )
    assert (log.to, log.topic, log.cluster, log.key, log.acks) == ("kafka", "requests", None, "client_id", "all")
    assert [str(address) for address in log.bootstrap or ()] == ["a:1", "b:2"]
    assert log.tls == LogTls(ca_file=Path("ca.pem"), cert_file=Path("/c.pem"), key_file=Path("k.pem"))
    assert log.sasl is not None
    assert (log.sasl.mechanism, log.sasl.password.reveal()) == ("SCRAM-SHA-512", "hunter2")
    assert (log.sample, log.fields, log.queue_max) == (0.25, ("time", "client_id"), 7)
    assert (log.delivery_timeout, log.linger, log.flush_timeout) == (60.0, 0.1, 2.0)
    assert (log.match.apis, log.match.client_ids) == (("ApiVersions", "Fetch"), ("",))
    assert log.match.client_ips == (ip_network("10.0.0.0/8"),)


@pytest.mark.parametrize(
    "text",
    ["to: stdout", "to: file, path: requests.jsonl", "to: kafka, topic: t, cluster: audit", "to: stdout, sample: 1"],
)
def test_small(text: str) -> None:
    """A log needs little; the defaults say the rest."""
    log = log_of(text)
    assert (log.sample, log.fields, log.key, log.queue_max, log.linger) == (1.0, None, None, 10_000, 1.0)


def test_none() -> None:
    """Without the section there is no log, and nothing is timed."""
    config = load(BASE).config
    assert config.request_log is None
    assert not config.metrics.latency
    assert load(BASE + "metrics: {latency: true}").config.metrics.latency


def test_paths_begin_at_the_file(tmp_path: Path) -> None:
    """A relative path begins at the folder of the configuration file."""
    path = tmp_path / "kproxy.yaml"
    path.write_text(BASE + "request_log: {to: file, path: log/requests.jsonl}")
    log = load(path).config.request_log
    assert log is not None
    assert log.path == tmp_path / "log" / "requests.jsonl"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("path: x", "3:1: request_log.to: is missing; add it"),
        ("to: syslog", "3:19: request_log.to: is not supported; write 'kafka', 'file' or 'stdout'"),
        ("to: file", "3:14: request_log: give path, the file to append to"),
        ("to: file, path: 3", "request_log.path: '3' is not the path of a file; write one"),
        ("to: file, path: ''", "request_log.path: '' is not the path of a file; write one"),
        ("to: stdout, path: x", "request_log: path belongs to to: file; leave it out, or log there"),
        ("to: stdout, topic: x", "request_log: topic belongs to to: kafka; leave it out, or log there"),
        ("to: file, path: x, key: client_id", "request_log: key belongs to to: kafka"),
        ("to: kafka, cluster: main", "request_log: give topic, where entries are written to"),
        ("to: kafka, topic: t", "request_log: it is not said which cluster is meant; give cluster, a name of"),
        ("to: kafka, topic: t, cluster: main, bootstrap: [a:1]", "cluster and bootstrap are two places; give"),
        (f"to: kafka, topic: t, cluster: main, {SCRAM}", "request_log: sasl goes with bootstrap, and a cluster has"),
        ("to: kafka, topic: t, cluster: main, tls: {}", "request_log: tls goes with bootstrap, and a cluster has"),
        ("to: kafka, topic: a b, cluster: main", "request_log.topic: 'a b' is no name of a topic; use letters"),
        ("to: kafka, topic: .., cluster: main", "request_log.topic: '..' is no name of a topic; use letters"),
        ("to: kafka, topic: 3, cluster: main", "request_log.topic: '3' is no name of a topic; use letters"),
        ("to: kafka, topic: t, cluster: mian", "3:45: request_log.cluster: there is no cluster 'mian'; did you mean"),
        ("to: kafka, topic: t, bootstrap: []", "request_log.bootstrap: is empty; add one at least"),
        ("to: kafka, topic: t, bootstrap: a:1", "request_log.bootstrap: must be a list, as in [kafka1:9092"),
        ("to: kafka, topic: t, bootstrap: [a]", "request_log.bootstrap[0]: 'a' has no port"),
        ("to: kafka, topic: t, bootstrap: [a:1, 127.0.0.1:9092]", "request_log.bootstrap[1]: 127.0.0.1:9092 is list"),
        ("to: kafka, topic: t, bootstrap: [kafka.example.com:9092]", "is listener 'public' itself, so that each"),
        (f"{OWN}, acks: 2", "request_log.acks: is not supported; write 1 or 'all'"),
        (f"{OWN}, key: partition", "request_log.key: is not supported; write 'client_id', 'client_ip', 'principal'"),
        (f"{OWN}, tls: {{ca: x}}", "request_log.tls.ca: unknown key; known: ca_file, cert_file, key_file, key_"),
        (f"{OWN}, tls: {{cert_file: x}}", "request_log.tls: cert_file and key_file belong together; give both"),
        (f"{OWN}, tls: 3", "request_log.tls: must be a mapping; known keys: ca_file, cert_file, key_file, key_"),
        (OWN.replace("username", "user"), "request_log.sasl.user: unknown key; did you mean 'username'?"),
        (OWN.replace("{env: PW}", "[hunter2]"), "request_log.sasl.password: is not a secret; write {env: NAME}"),
        ("to: stdout, sample: 1.5", "request_log.sample: '1.5' is no part of the whole; write a number from 0 to 1"),
        ("to: stdout, sample: true", "request_log.sample: 'true' is no part of the whole"),
        ("to: stdout, sample: 1e-2", "request_log.sample: '1e-2' is no part of the whole"),
        ("to: stdout, sample: -1", "request_log.sample: '-1' is no part of the whole"),
        ("to: stdout, fields: []", "request_log.fields: tells nothing; leave it out to tell all"),
        ("to: stdout, fields: time", "request_log.fields: must be a list, as in [time, client_id, api, latency_ms]"),
        ("to: stdout, fields: [time, api, time]", "request_log.fields: holds time twice; write it once"),
        ("to: stdout, fields: [time, tme]", "request_log.fields[1]: is not supported; write 'time', 'listener'"),
        ("to: stdout, sampel: 1", "request_log.sampel: unknown key; did you mean 'sample'?"),
        ("to: stdout, queue_max: 0", "request_log.queue_max: is too low; 1 at least"),
        ("to: stdout, linger: 1", "request_log.linger: '1' is not a duration"),
        ("to: stdout, match: {apis: [produce]}", "match.apis[0]: there is no API 'produce'; did you mean 'Produce'?"),
        ("to: stdout, match: {apis: [3]}", "match.apis[0]: there is no API '3'; write Kafka's own name"),
        ("to: stdout, match: {api: [Fetch]}", "request_log.match.api: unknown key; did you mean 'apis'?"),
        ("to: stdout, match: {client_ips: []}", "request_log.match.client_ips: matches nothing; leave it out"),
        ("to: stdout, match: {listeners: [publik]}", "match.listeners[0]: there is no listener 'publik'; did you mean"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line_with_its_place(text: str, told: str) -> None:
    """A log with one mistake is refused with one line: position, place, what is wrong, what to do."""
    (line,) = refused(text)
    assert told in line


def test_beside_other_mistakes() -> None:
    """What lies between the log and others is told also where something else is ill-formed."""
    wrong = BASE.replace("bind: 127.0.0.1:9092,", "bind: 127.0.0.1:9092, backlog: 0,")
    lines = refused("to: kafka, topic: t, cluster: mian, match: {listeners: [publik]}", wrong)
    assert [line.partition(": ")[2].partition(":")[0] for line in lines] == [
        "listeners.public.backlog",
        "request_log.cluster",
        "request_log.match.listeners[0]",
    ]
    assert len(refused("to: kafka, topic: t, cluster: main, match: {listeners: 3}", wrong)) == 2
    no_clusters = "clusters: {}\n" + BASE.partition("\n")[2]
    assert refused("to: kafka, topic: t, cluster: main", no_clusters) == ["1:11: clusters: is empty; add one at least"]


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log to Kafka is refused where confluent-kafka is missing, with what to install; others do not need it."""

    def missing(_name: str) -> ModuleSpec | None:
        return None

    monkeypatch.setattr(requestlog, "find_spec", missing)
    (line,) = refused("to: kafka, topic: t, cluster: main")
    assert "request_log.to: kafka needs the package confluent-kafka, which is not installed; pip install" in line
    assert log_of("to: stdout").to == "stdout"


@pytest.mark.parametrize(
    ("text", "doubt"),
    [
        (OWN.replace("{env: PW}", "hunter2"), "request_log.sasl.password: the password stands in the file; write"),
        ("to: stdout, sample: 0", "request_log.sample: nothing is ever logged; raise it"),
        (f"{OWN}, key: client_id, fields: [time]", "request_log.key: client_id is the key of each message, though"),
        (f"{OWN}, tls: {{verify: false}}", "request_log.tls.verify: whoever is in between can read the log"),
        (
            f"{OWN}, tls: {{cert_file: c, key_file: k, key_password: hunter2}}",
            "request_log.tls.key_password: the password stands in the file; write",
        ),
    ],
)
def test_doubts(text: str, doubt: str) -> None:
    """What works but is probably not meant is a warning, without a secret."""
    _, (warning,), _ = load(f"{BASE}request_log: {{{text}}}\n", environ={"PW": "x"})
    assert doubt in warning
    assert "hunter2" not in warning


def test_brokers_by_another_name() -> None:
    """A cluster whose brokers are known by another name is doubted: librdkafka cannot ask for it."""
    base = BASE.replace("audit: {bootstrap: [a:1]}", "audit: {bootstrap: [a:1], tls: {server_name: kafka.example.com}}")
    _, (warning,), _ = load(f"{base}request_log: {{to: kafka, topic: t, cluster: audit}}\n", environ={})
    assert "request_log.cluster: the log's brokers must be in their certificates by their own names, not as" in warning


def test_what_a_program_may_give() -> None:
    """From Python a log is made as from a file, it survives the way to a worker, and shows no password."""
    config = Config.model_validate(
        {
            "clusters": {"main": {"bootstrap": ["k:1"]}},
            "listeners": {"public": {"bind": "127.0.0.1:9092"}},
            "request_log": {
                "to": "kafka",
                "topic": "t",
                "bootstrap": ["a:1"],
                "sasl": {"username": "u", "password": "hunter2"},
            },
        }
    )
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301  our own bytes
    for shown in (repr(config), str(config), config.model_dump_json()):
        assert "hunter2" not in shown
    with pytest.raises(ValueError, match=r"request_log\.cluster: there is no cluster 'x'"):
        Config.model_validate(
            {
                "clusters": {"main": {"bootstrap": ["k:1"]}},
                "listeners": {"public": {"bind": "127.0.0.1:9092"}},
                "request_log": {"to": "kafka", "topic": "t", "cluster": "x"},
            }
        )


def test_fields() -> None:
    """A key can only be what is told as a field."""
    assert {"client_id", "client_ip", "principal", "listener", "api", "topic"} <= set(FIELDS)
