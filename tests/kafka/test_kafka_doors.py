"""Doors before a real Kafka: every way in for Kafka's own Java clients, and every way on to brokers with TLS.

One broker, whose client listener speaks TLS and knows all mechanisms; librdkafka, aiokafka and kafka-python go through
the doors in tests/embedded.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from clients.aio import Aio
from clients.confluent import Confluent
from clients.kafkapython import KafkaPython
from clients.library import consume, produce
from clients.records import assert_exact, make_records, new_name
from clients.security import Security
from clients.traffic import Traffic
from clients.verifiable import Verifiable
from confluent_kafka.admin import (
    AdminClient,
    NewTopic,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from kproxy.config import users as users_file
from kproxy.core.credentials import User, derive
from kproxy.testing.certificates import Authority, Files
from kproxy.testing.java import JavaTools, Tool, kafka_jars
from kproxy.testing.kafka import CURRENT, KafkaCluster
from kproxy.testing.oidc import TokenIssuer
from kproxy.testing.proxy import ProxyProcess
from kproxy.testing.waiting import wait_until

PARTITIONS = 4
GATEWAY, GATEWAY_PASSWORD = "gateway", "gateway-secret"
ALICE, ALICE_PASSWORD = "alice", "in-wonderland"
TOKEN_CLIENT, TOKEN_SECRET = "kproxy-client", "client-secret"

LIBRARIES = (Confluent(), Aio(), KafkaPython())


@dataclass
class Stage:
    """What these tests play on."""

    folder: Path
    authority: Authority
    stranger: Authority
    issuer: TokenIssuer
    cluster: KafkaCluster

    @property
    def bootstrap(self) -> str:
        """The TLS addresses of the brokers, with the name that is in their certificates."""
        return self.cluster.sasl_bootstrap

    def topic(self) -> str:
        """Make a topic, past the proxy."""
        name = new_name()
        admin = AdminClient({"bootstrap.servers": self.cluster.plain_bootstrap, "log_level": 0})
        admin.create_topics([NewTopic(name, PARTITIONS, 1)])[name].result(20)
        return name


def pem_store(files: Files, folder: Path) -> Path:
    """Write a key and its certificate into one file, as Java reads a PEM keystore."""
    path = folder / f"{files.cert_file.stem}.store.pem"
    path.write_bytes(files.key_file.read_bytes() + files.cert_file.read_bytes())
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def stage(require_kafka: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:  # noqa: ARG001 - a condition
    """One broker with everything that can be logged in by, behind TLS; sessions of 3 s."""
    folder = tmp_path_factory.mktemp("doors")
    authority = Authority("brokers")
    authority.write(folder)
    store = pem_store(authority.server("127.0.1.1", "broker.test").write(folder, "broker"), folder)
    with TokenIssuer({TOKEN_CLIENT: TOKEN_SECRET}) as issuer:
        here = "listener.name.sasl_plaintext."
        oauth = f"{here}oauthbearer.sasl."
        properties = {
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_SSL",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
            f"{here}connections.max.reauth.ms": "3000",
            f"{here}ssl.keystore.type": "PEM",
            f"{here}ssl.keystore.location": str(store),
            f"{here}scram-sha-256.sasl.jaas.config": f"{SCRAM_MODULE} required;",
            f"{here}scram-sha-512.sasl.jaas.config": f"{SCRAM_MODULE} required;",
            f"{oauth}jaas.config": f"{OAUTH_MODULE} required;",
            f"{oauth}server.callback.handler.class": f"{OAUTH}OAuthBearerValidatorCallbackHandler",
            f"{here}sasl.oauthbearer.jwks.endpoint.url": issuer.jwks_url,
            f"{here}sasl.oauthbearer.expected.audience": "kafka",
        }
        flags = (f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={issuer.jwks_url}",)
        with KafkaCluster(folder / "kafka", 1, properties=properties, jvm_flags=flags) as cluster:
            admin = AdminClient({"bootstrap.servers": cluster.plain_bootstrap, "log_level": 0})
            for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
                made = UserScramCredentialUpsertion(
                    GATEWAY, ScramCredentialInfo(mechanism, 4096), GATEWAY_PASSWORD.encode()
                )
                admin.alter_user_scram_credentials([made])[GATEWAY].result(20)
            yield Stage(folder, authority, Authority("strangers"), issuer, cluster)


OAUTH = "org.apache.kafka.common.security.oauthbearer."
OAUTH_MODULE = f"{OAUTH}OAuthBearerLoginModule"
SCRAM_MODULE = "org.apache.kafka.common.security.scram.ScramLoginModule"
PLAIN_MODULE = "org.apache.kafka.common.security.plain.PlainLoginModule"

STRANGERS = {"ssl.truststore.location": "{folder}/strangers.pem"}

Serve = Callable[..., ProxyProcess]
"""Starts a proxy: the cluster's part and the listener's part of a configuration."""


@pytest.fixture
def serve(stage: Stage, tmp_path: Path) -> Iterator[Serve]:
    """Run kproxy with a configuration; it must end well."""
    started: list[ProxyProcess] = []

    def start(cluster: Mapping[str, Any], listener: Mapping[str, Any], **settings: Any) -> ProxyProcess:
        config = {
            "clusters": {"main": {"bootstrap": ["127.0.0.1:1"], **cluster}},
            "listeners": {"public": {"bind": "127.0.0.1:1234", **listener}},
        }
        path = stage.folder / f"{new_name('config')}.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        proxy = ProxyProcess(tmp_path, stage.bootstrap, "--config", str(path), **settings)
        started.append(proxy)
        proxy.start()
        return proxy

    yield start
    for proxy in started:
        proxy.finish()


def password(text: str) -> dict[str, Any]:
    """Write a password into a configuration."""
    return {"username": GATEWAY, "password": text}


def upstream(stage: Stage, mechanism: str) -> dict[str, Any]:
    """Return how kproxy logs in to the broker."""
    if mechanism == "OAUTHBEARER":
        oauth = {"token_url": stage.issuer.token_url, "client_id": TOKEN_CLIENT, "client_secret": TOKEN_SECRET}
        return {"tls": {"ca_file": "ca.pem"}, "sasl": {"mechanism": mechanism, "oauth": oauth}}
    return {"tls": {"ca_file": "ca.pem"}, "sasl": {"mechanism": mechanism, **password(GATEWAY_PASSWORD)}}


TOKEN_FILE = "client.token"

MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")


@pytest.mark.parametrize(
    ("mechanism", "addressing"),
    [
        ("PLAIN", "ports"),
        ("SCRAM-SHA-256", "single"),
        ("SCRAM-SHA-512", "ports"),
        ("OAUTHBEARER", "ports"),
        pytest.param("PLAIN", "single", marks=pytest.mark.matrix),
        pytest.param("SCRAM-SHA-256", "ports", marks=pytest.mark.matrix),
        pytest.param("SCRAM-SHA-512", "single", marks=pytest.mark.matrix),
        pytest.param("OAUTHBEARER", "single", marks=pytest.mark.matrix),
    ],
)
def test_upstream(stage: Stage, serve: Serve, mechanism: str, addressing: str) -> None:
    """By TLS and any mechanism, past the end of the broker's sessions: what goes in comes out, nobody is cut off."""
    proxy = serve(upstream(stage, mechanism), {}, addressing=addressing)
    topic, records = stage.topic(), make_records(400, PARTITIONS)
    library = LIBRARIES[MECHANISMS.index(mechanism) % len(LIBRARIES)]
    with library.producer(proxy.address) as producer:
        failures: list[Exception] = []
        until = time.monotonic() + 5  # the broker closes a session that is not renewed after 3 s
        for sent, record in enumerate(records):
            producer.send(topic, record, lambda _, error: failures.append(error) if error else None)
            pause = (until - time.monotonic()) / (len(records) - sent)
            time.sleep(max(pause, 0))
        producer.flush()
    assert failures == []
    produce(library, proxy.address, topic, [], partitions=PARTITIONS)
    assert_exact(records, consume(library, proxy.address, topic, PARTITIONS))
    assert "client connection closed" not in proxy.log.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"tls": {}}, "signed by an authority that is not in ca_file"),
        ({"tls": {"ca_file": "ca.pem", "server_name": "other.test"}}, "certificate is for another name"),
        ({"tls": None}, "is this a Kafka listener without TLS?"),
        ({"sasl": {"mechanism": "SCRAM-SHA-512", **password("wrong")}}, "login refused"),
        ({"sasl": {"mechanism": "OAUTHBEARER", "oauth": {"token_file": "bad.token"}}}, "login refused"),
    ],
    ids=["unknown authority", "another name", "no TLS", "wrong password", "bad token"],
)
def test_upstream_mistakes(stage: Stage, tmp_path: Path, change: dict[str, Any], told: str) -> None:
    """What is wrong between kproxy and a broker is said in the log in a line, without the password, and clients end."""
    (stage.folder / "bad.token").write_text(stage.issuer.mint("x", aud="others"), encoding="ascii")
    cluster = {"bootstrap": ["127.0.0.1:1"], **upstream(stage, "PLAIN"), **change}
    listener = {"bind": "127.0.0.1:1234"}
    path = stage.folder / f"{new_name('config')}.yaml"
    path.write_text(yaml.safe_dump({"clusters": {"main": cluster}, "listeners": {"public": listener}}))
    proxy = ProxyProcess(tmp_path, stage.bootstrap, "--config", str(path))
    proxy.launch()
    try:
        deadline = time.monotonic() + 20
        while told not in proxy.log.read_text(encoding="utf-8") and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        proxy.finish()
    log = proxy.log.read_text(encoding="utf-8")
    assert told in log
    assert GATEWAY_PASSWORD not in log
    assert "eyJ" not in log  # how every JWT begins


# Java's clients.


def door(stage: Stage, mechanisms: Sequence[str] = MECHANISMS) -> dict[str, Any]:
    """Return a listener that asks its clients for TLS and a login, anew every 3 s."""
    credentials = {name: derive(ALICE_PASSWORD, name, 4096) for name in ("SCRAM-SHA-256", "SCRAM-SHA-512")}
    with users_file.changing(stage.folder / "users.yaml", create=True) as users:
        users.users[ALICE] = User(ALICE, credentials)
    stage.authority.server("127.0.0.1").write(stage.folder, "proxy")
    stage.issuer.write_jwks(stage.folder / "jwks.json")
    oauth = {"jwks_file": "jwks.json", "issuer": stage.issuer.url, "audience": "kafka"}
    sasl: dict[str, Any] = {"mechanisms": list(mechanisms), "users_file": "users.yaml", "session_lifetime": "3s"}
    if "OAUTHBEARER" in mechanisms:
        sasl["oauth"] = oauth
    return {"tls": {"cert_file": "proxy.pem", "key_file": "proxy.key"}, "sasl": sasl}


@pytest.fixture
def guarded(stage: Stage, serve: Serve) -> ProxyProcess:
    """A proxy whose clients log in by whatever they like."""
    return serve(upstream(stage, "PLAIN"), door(stage))


def java(stage: Stage, *, trusted: str = "ca.pem", **more: str) -> dict[str, str]:
    """Return what a Java client is told to speak TLS with the proxy."""
    return {
        "security.protocol": "SSL",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(stage.folder / trusted),
        **{name.replace("_", "."): value for name, value in more.items()},
    }


def java_login(stage: Stage, mechanism: str, word: str = ALICE_PASSWORD) -> dict[str, str]:
    """Return what a Java client is told to log in to the proxy."""
    jaas = f'{PLAIN_MODULE if mechanism == "PLAIN" else SCRAM_MODULE} required username="{ALICE}" password="{word}";'
    more = {}
    if mechanism == "OAUTHBEARER":
        secret = TOKEN_SECRET if word == ALICE_PASSWORD else word
        jaas = f'{OAUTH_MODULE} required clientId="{TOKEN_CLIENT}" clientSecret="{secret}";'
        more = {
            "sasl.login.callback.handler.class": f"{OAUTH}OAuthBearerLoginCallbackHandler",
            "sasl.oauthbearer.token.endpoint.url": stage.issuer.token_url,
        }
    login = {"security.protocol": "SASL_SSL", "sasl.mechanism": mechanism, "sasl.jaas.config": jaas}
    return java(stage) | login | more


def tools(stage: Stage) -> JavaTools:
    """Return Kafka's programs, which may ask the issuer for tokens."""
    allowed = "-Dorg.apache.kafka.sasl.oauthbearer.allowed"
    token_file = stage.folder / TOKEN_FILE
    flags = (f"{allowed}.urls={stage.issuer.token_url},{token_file.as_uri()}", f"{allowed}.files={token_file}")
    return JavaTools(kafka_jars(CURRENT), flags=flags)


def written(stage: Stage, properties: Mapping[str, str]) -> str:
    """Write a client's properties to a file."""
    path = stage.folder / f"{new_name('client')}.properties"
    path.write_text("".join(f"{key}={value}\n" for key, value in properties.items()), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_java_logs_in(stage: Stage, guarded: ProxyProcess, mechanism: str) -> None:
    """ProducerPerformance and ConsumerPerformance get in by each mechanism, and stay past the end of their login."""
    topic, config = stage.topic(), written(stage, java_login(stage, mechanism))
    target = ("--bootstrap-server", guarded.address, "--topic", topic, "--command-config", config)
    sizes = ("--num-records", "500", "--record-size", "100", "--throughput", "100")  # for 5 s
    printed = tools(stage).check(Tool.PRODUCER_PERFORMANCE, *target, *sizes)
    assert "500 records sent" in printed
    printed = tools(stage).check(Tool.CONSUMER_PERFORMANCE, *target, "--num-records", "500", "--timeout", "30000")
    assert printed.splitlines()[-1].split(", ")[4] == "500"
    assert "session expired" not in guarded.log.read_text(encoding="utf-8")


SESSIONS_SECONDS, PER_SECOND = 30, 100


@pytest.mark.matrix
@pytest.mark.parametrize("addressing", ["ports", "single"])
@pytest.mark.parametrize("library", [Confluent.name, KafkaPython.name])
def test_sessions_of_both_sides(stage: Stage, serve: Serve, library: str, addressing: str) -> None:
    """While logins end after 3 s at kproxy and at the broker, nobody is cut off in 30 s, and nothing is lost.

    Without aiokafka, which does not know KIP-368: test_embedded_sessions has it.
    """
    proxy = serve(upstream(stage, "PLAIN"), door(stage), addressing=addressing)
    alice = Security(stage.folder / "ca.pem", None, "SCRAM-SHA-512", ALICE, ALICE_PASSWORD)
    topic, begun = stage.topic(), time.monotonic()
    with Traffic(alice.library(library), proxy.address, topic, PARTITIONS, PER_SECOND) as traffic:
        traffic.wait_read(SESSIONS_SECONDS * PER_SECOND, 2 * SESSIONS_SECONDS)
        wait_until(lambda: time.monotonic() - begun > SESSIONS_SECONDS, SESSIONS_SECONDS, "30 s of traffic")
    traffic.check()
    log = proxy.log.read_text(encoding="utf-8")
    assert "client connection closed" not in log
    assert "session expired" not in log


@pytest.mark.matrix
def test_java_through_sessions(stage: Stage, guarded: ProxyProcess, tmp_path: Path) -> None:
    """Java writes and reads for 30 s while logins end after 3 s on both sides, and is not cut off once by kproxy.

    Java itself may stall at a renewal until request.timeout.ms (30 s); it does before a bare broker, too.
    """
    settings = java_login(stage, "SCRAM-SHA-512")
    with Verifiable(tools(stage), guarded.address, stage.topic(), tmp_path, settings=settings) as verifiable:
        verifiable.wait_read(SESSIONS_SECONDS * PER_SECOND, 4 * SESSIONS_SECONDS)
        verifiable.finish()
        log = guarded.log.read_text(encoding="utf-8")
    verifiable.check(stage.cluster.plain_bootstrap)
    assert "client connection closed" not in log
    assert "session expired" not in log


def test_java_with_certificates(stage: Stage, serve: Serve) -> None:
    """By mTLS a Java client is let in; with none, a stranger's or an expired one it is not, and is told so."""
    stage.authority.server("127.0.0.1").write(stage.folder, "proxy")
    tls = {"cert_file": "proxy.pem", "key_file": "proxy.key", "client_auth": "required", "client_ca_file": "ca.pem"}
    proxy = serve(upstream(stage, "PLAIN"), {"tls": tls})
    store = pem_store(stage.authority.client("CN=alice,O=org").write(stage.folder, "alice"), stage.folder)
    bad = pem_store(stage.stranger.client("CN=mallory").write(stage.folder, "mallory"), stage.folder)
    past = pem_store(stage.authority.client("CN=alice", expired=True).write(stage.folder, "past"), stage.folder)
    shown = {"ssl.keystore.type": "PEM", "ssl.keystore.location": str(store)}
    assert listed(stage, proxy, java(stage) | shown).returncode == 0
    others = [java(stage) | shown | {"ssl.keystore.location": str(other)} for other in (bad, past)]
    for properties in (java(stage), *others):
        done = listed(stage, proxy, properties)
        assert done.returncode != 0
        assert "SslAuthenticationException" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("properties", "told"),
    [
        (lambda stage: java_login(stage, "SCRAM-SHA-512", "wrong"), "SaslAuthenticationException"),
        (lambda stage: java_login(stage, "PLAIN", "wrong"), "SaslAuthenticationException"),
        (lambda stage: java_login(stage, "OAUTHBEARER", "wrong"), "invalid_client|401"),
        (lambda stage: java_login(stage, "PLAIN") | STRANGERS, "SslAuthenticationException"),
    ],
    ids=["scram", "plain", "token", "authority"],
)
def test_java_is_refused(
    stage: Stage, guarded: ProxyProcess, properties: Callable[[Stage], dict[str, str]], told: str
) -> None:
    """A wrong password or authority ends a Java client at once, with the exception that says what is wrong."""
    stage.stranger.write(stage.folder, "strangers")
    told_properties = {key: value.format(folder=stage.folder) for key, value in properties(stage).items()}
    done = listed(stage, guarded, told_properties)
    assert done.returncode != 0
    assert any(text in done.stdout + done.stderr for text in told.split("|")), done.stdout + done.stderr


def token_of(stage: Stage, **claims: Any) -> dict[str, str]:
    """Return what a Java client is told to log in with a token that it is handed, good or not."""
    path = stage.folder / TOKEN_FILE
    path.write_text(stage.issuer.mint("carol", **claims), encoding="ascii")
    return java_login(stage, "OAUTHBEARER") | {"sasl.oauthbearer.token.endpoint.url": path.as_uri()}


def hours_ago(hours: int) -> int:
    """Return a time that is over, as a JWT has it."""
    return int(time.time()) - hours * 3600


JAVA_TOLD: dict[str, tuple[Sequence[str], Callable[[Stage], dict[str, str]], str, str]] = {
    "a token for others": (
        MECHANISMS,
        lambda stage: token_of(stage, aud="others"),
        "SaslAuthenticationException",
        "login refused",
    ),
    "an expired token": (
        MECHANISMS,
        lambda stage: token_of(stage, iat=hours_ago(2), exp=hours_ago(1)),
        "SaslAuthenticationException",
        "login refused",
    ),
    "a mechanism that is not offered": (
        ("PLAIN",),
        lambda stage: java_login(stage, "SCRAM-SHA-256"),
        "UnsupportedSaslMechanismException",
        "login refused",
    ),
    "no login": (("PLAIN",), java, "TimeoutException", "login required"),
    "no TLS": (
        ("PLAIN",),
        lambda stage: java_login(stage, "PLAIN") | {"security.protocol": "SASL_PLAINTEXT"},
        "TimeoutException",
        "tls handshake failed",
    ),
}
"""What Java tries -> what the door offers, what Java has, its exception, and the cause in our log."""


@pytest.mark.matrix
@pytest.mark.parametrize("case", JAVA_TOLD)
def test_java_is_told(stage: Stage, serve: Serve, case: str) -> None:
    """A Java client that logs in by the wrong way ends with the exception of README's table; our log has the reason."""
    mechanisms, properties, told, cause = JAVA_TOLD[case]
    proxy = serve(upstream(stage, "PLAIN"), door(stage, mechanisms))
    done = listed(stage, proxy, properties(stage))
    assert done.returncode != 0
    assert told in done.stdout + done.stderr
    assert cause in proxy.log.read_text(encoding="utf-8")


def listed(stage: Stage, proxy: ProxyProcess, properties: Mapping[str, str]) -> Any:
    """List the topics with Kafka's own program."""
    config = written(stage, dict(properties) | {"default.api.timeout.ms": "15000", "request.timeout.ms": "10000"})
    target = ("--bootstrap-server", proxy.address, "--command-config", config)
    return tools(stage).run(Tool.TOPICS, *target, "--list")
