"""Doors: from the configuration and its files to TLS, mechanisms and credentials, at the start and as files change."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from kproxy.config.load import load
from kproxy.config.model import Config
from kproxy.config.requestlog import RequestLog
from kproxy.config.users import changing
from kproxy.config.values import Surroundings
from kproxy.core.acceptor import Accepted, Challenge, Identity, Refused, Step, Work
from kproxy.core.addressbook import Layout, NameLayout, PortLayout, SingleLayout
from kproxy.core.credentials import HASHES, User, derive
from kproxy.core.oauthbearer import Initial, Oauthbearer, build_initial
from kproxy.core.sasl import Mechanism, Plain
from kproxy.core.scram import Scram
from kproxy.errors import AuthError, ConfigError
from kproxy.service import build, freshness
from kproxy.service.doors import Doors
from kproxy.service.layouts import layout, name_layout
from kproxy.testing.certificates import Authority
from kproxy.testing.oidc import TokenIssuer

DEADLINE_SECONDS = 30.0

Data = dict[str, Any]

OWN: Data = {"username": "kp", "password": "hunter2"}


class Files:
    """A folder with what a configuration may name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.users = folder / "users.yaml"

    def add(self, name: str, password: str, *groups: str) -> None:
        """Write a user into the users file."""
        credentials = {mechanism: derive(password, mechanism, 4096) for mechanism in HASHES}
        with changing(self.users, create=True) as file:
            file.users[name] = User(name, credentials, frozenset(groups))

    def certificates(self, authority: Authority | None = None) -> Authority:
        """Write c.pem, c.key and ca.pem."""
        authority = authority or Authority()
        authority.server("kafka.example.com").write(self.folder, "c")
        authority.write(self.folder, "ca")
        return authority

    def config(self, cluster: Data | None = None, **listeners: Data) -> Config:
        """Make a configuration of one cluster."""
        ports = iter(range(9100, 9900, 100))
        data = {
            "clusters": {"main": {"bootstrap": ["k:1"], **(cluster or {})}},
            "listeners": {
                name: {"bind": f"127.0.0.1:{next(ports)}", **entry}
                for name, entry in (listeners or {"open": {}}).items()
            },
        }
        return Config.model_validate(data, context=Surroundings({}, self.folder))

    def doors(self, cluster: Data | None = None, **listeners: Data) -> Doors:
        """Make Doors of that."""
        return Doors(self.config(cluster, **listeners))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """An empty folder."""
    return Files(tmp_path)


def client_sasl(*mechanisms: str, **more: Any) -> Data:
    """Make a listener whose clients log in."""
    return {
        "sasl": {"mechanisms": list(mechanisms), "users_file": "users.yaml", **more},
        "tls": {"cert_file": "c.pem", "key_file": "c.key"},
    }


def finished(step: Step) -> Step:
    """Do the work of a step."""
    return step.run() if isinstance(step, Work) else step


def by_plain(doors: Doors, listener: str, name: str, password: str) -> Step:
    """Log in at a listener."""
    terms = doors.terms(listener)
    assert terms is not None
    return finished(terms.mechanisms["PLAIN"].session().respond(f"\0{name}\0{password}".encode()))


async def until(true: Callable[[], bool]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not true():  # noqa: ASYNC110  what threads do is seen by looking
            await asyncio.sleep(0.01)


# What there is.


def test_nothing_is_asked_for(files: Files) -> None:
    """Without TLS and logins there is none of either, and kproxy does not log in."""
    doors = files.doors()
    assert (doors.server_tls("open"), doors.client_tls("main"), doors.terms("open")) == (None, None, None)
    assert doors.principal_of("open") is None
    assert doors.own_mechanism("main") is None
    assert doors.mechanism_for("main")(Identity("User:alice")) is None
    assert list(doors.doubts()) == []


def test_terms_per_listener(files: Files) -> None:
    """Each listener has its mechanisms, in their order, its users and its lifetime."""
    files.certificates()
    files.add("alice", "wonderland", "team")
    files.users.rename(files.folder / "others.yaml")
    files.add("bob", "builder")
    doors = files.doors(
        plain=client_sasl("SCRAM-SHA-256", "PLAIN", session_lifetime="1h"),
        scram=client_sasl("SCRAM-SHA-512", users_file="others.yaml"),
        others=client_sasl("PLAIN", users_file="others.yaml"),
        open={},
    )
    plain, scram = doors.terms("plain"), doors.terms("scram")
    assert plain is not None
    assert scram is not None
    assert (list(plain.mechanisms), plain.session_lifetime_seconds) == (["SCRAM-SHA-256", "PLAIN"], 3600)
    assert (list(scram.mechanisms), scram.session_lifetime_seconds) == (["SCRAM-SHA-512"], 0)
    assert (plain.judged_upstream, doors.terms("open")) == (False, None)
    assert isinstance(by_plain(doors, "plain", "bob", "builder"), Accepted)
    assert isinstance(by_plain(doors, "plain", "alice", "wonderland"), Refused)
    accepted = by_plain(doors, "others", "alice", "wonderland")
    assert isinstance(accepted, Accepted)
    assert accepted.identity == Identity("User:alice", frozenset({"team"}))
    assert list(doors._users) == [files.folder / "users.yaml", files.folder / "others.yaml"]


def test_passed_through(files: Files) -> None:
    """With passthrough everybody is taken at their word, to be judged upstream, where their own password is used."""
    files.certificates()
    listener = client_sasl("PLAIN")
    del listener["sasl"]["users_file"]
    doors = files.doors({"passthrough": "plain", "sasl": OWN}, passed=listener)
    terms = doors.terms("passed")
    assert terms is not None
    assert terms.judged_upstream
    step = by_plain(doors, "passed", "alice", "wonderland")
    assert isinstance(step, Accepted)
    assert doors.mechanism_for("main")(step.identity) == Plain("alice", "wonderland")
    assert doors.mechanism_for("main")(Identity("User:nobody")) == Plain("nobody", "")
    assert doors.own_mechanism("main") == Plain("kp", "hunter2")


def test_tokens_of_clients(files: Files) -> None:
    """OAUTHBEARER is checked against the keys of a file, which are read before anything is served."""
    with TokenIssuer() as issuer:
        issuer.write_jwks(files.folder / "keys.json")
        oauth = {"jwks_file": "keys.json", "issuer": issuer.url, "audience": "kafka"}
        doors = files.doors(tokens={"sasl": {"mechanisms": ["OAUTHBEARER"], "oauth": oauth}})
        terms = doors.terms("tokens")
        assert terms is not None
        good, bad = issuer.mint("alice"), issuer.mint("alice", aud="other")
        said = [
            finished(terms.mechanisms["OAUTHBEARER"].session().respond(build_initial(Initial(token))))
            for token in (good, bad)
        ]
    assert isinstance(said[0], Accepted)
    assert said[0].identity.principal == "User:alice"
    assert isinstance(said[1], Refused)


def test_keys_at_an_address(files: Files) -> None:
    """An issuer that is down for a moment does not keep kproxy down: nothing is fetched before the start."""
    oauth = {"jwks_url": "http://127.0.0.1:1/jwks", "issuer": "i", "audience": "a"}
    doors = files.doors(tokens={"sasl": {"mechanisms": ["OAUTHBEARER"], "oauth": oauth}})
    terms = doors.terms("tokens")
    assert terms is not None
    assert list(terms.mechanisms) == ["OAUTHBEARER"]


@pytest.mark.parametrize("client_auth", ["none", "optional", "required"])
def test_principals_of_certificates(files: Files, client_auth: str) -> None:
    """A certificate names its client by the listener's rules, where one is asked for."""
    files.certificates()
    tls: Data = {"cert_file": "c.pem", "key_file": "c.key", "client_auth": client_auth}
    if client_auth != "none":
        tls |= {"client_ca_file": "ca.pem", "principal_rules": ["RULE:^CN=([^,]*).*$/$1/L"]}
    doors = files.doors(public={"tls": tls})
    assert doors.server_tls("public") is not None
    principal_of = doors.principal_of("public")
    if client_auth == "none":
        assert principal_of is None
    else:
        assert principal_of is not None
        assert principal_of({"subject": ((("commonName", "Alice"),),)}) == "User:alice"
        assert principal_of(None) == "User:ANONYMOUS"


SNI: Data = {"addressing": "sni", "advertise": "b{node}.x:9093", "bootstrap_name": "kafka.x"}


def test_names(files: Files) -> None:
    """With addressing sni a listener's TLS knows the names of its brokers and its bootstrap name, and no others."""
    files.certificates()
    tls = files.doors(names=SNI | {"tls": {"cert_file": "c.pem", "key_file": "c.key"}}).server_tls("names")
    assert tls is not None
    assert tls._names is not None
    assert [tls._names(name) for name in ("b3.x", "kafka.x", "other", None)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("entries", "made", "address"),
    [
        ({}, PortLayout(9100, 9100), ("kp", 9104)),
        (
            {"advertise": "k.x:19100", "broker_ports": {3: 9500}},
            PortLayout(9100, 19100, None, {3: 9500}),
            ("kp", 19500),
        ),
        ({"addressing": "single"}, SingleLayout(9100), ("kp", 9100)),
        ({"addressing": "single", "advertise": "k.x:19100"}, SingleLayout(19100), ("kp", 19100)),
        (SNI, NameLayout("b{node}.x", "kafka.x", 9093), ("b3.x", 9093)),
    ],
)
def test_layouts(files: Files, entries: Data, made: Layout, address: tuple[str, int]) -> None:
    """What clients are told of a listener's brokers follows from its configuration alone, whatever is in its files."""
    tls = {"tls": {"cert_file": "no.pem", "key_file": "no.key"}} if entries is SNI else {}
    listener = files.config(one=entries | tls).listeners["one"]
    assert layout(listener) == made
    assert layout(listener).address(3, "kp") == address
    assert name_layout(listener) == (made if isinstance(made, NameLayout) else None)


# Whose identity.

TEAM = {"mechanism": "SCRAM-SHA-256", "username": "t", "password": "p"}
ALICE = {"username": "a", "password": "p"}
DEFAULT = {"mechanism": "SCRAM-SHA-512", "username": "d", "password": "p"}


@pytest.mark.parametrize(
    ("user", "found"),
    [
        ("alice", Plain("a", "p")),
        ("team-1", Scram("t", "p", "SCRAM-SHA-256")),
        ("team-", Scram("t", "p", "SCRAM-SHA-256")),
        ("team-9", Plain("nine", "p")),
        ("bob", Scram("d", "p", "SCRAM-SHA-512")),
        ("ALICE", Scram("d", "p", "SCRAM-SHA-512")),
        ("default", Scram("d", "p", "SCRAM-SHA-512")),
        ("ANONYMOUS", Scram("d", "p", "SCRAM-SHA-512")),
    ],
)
def test_mapped_credentials(files: Files, user: str, found: Mechanism) -> None:
    """A client's own name goes first, wherever it stands; then the first pattern that fits, then the default."""
    nine = {"username": "nine", "password": "p"}
    credentials = {"team-*": TEAM, "t*": ALICE, "alice": ALICE, "team-9": nine, "default": DEFAULT}
    doors = files.doors({"credentials": credentials, "sasl": OWN})
    assert doors.mechanism_for("main")(Identity(f"User:{user}")) == found
    assert doors.own_mechanism("main") == Plain("kp", "hunter2")


def test_clients_without_credentials(files: Files) -> None:
    """Without a default the cluster's own login is it; without that there is no way, and the error names the client."""
    doors = files.doors({"credentials": {"alice": ALICE}, "sasl": OWN})
    assert doors.mechanism_for("main")(Identity("User:bob")) == Plain("kp", "hunter2")
    doors = files.doors({"credentials": {"alice": ALICE}})
    assert doors.mechanism_for("main")(Identity("User:alice")) == Plain("a", "p")
    with pytest.raises(AuthError, match="there are no credentials at the brokers for User:bob"):
        doors.mechanism_for("main")(Identity("User:bob"))


def test_one_login_for_all(files: Files) -> None:
    """Without credentials everybody's connections log in as kproxy."""
    doors = files.doors({"sasl": OWN | {"mechanism": "SCRAM-SHA-512"}})
    assert doors.mechanism_for("main")(Identity("User:alice")) == Scram("kp", "hunter2", "SCRAM-SHA-512")


# What is wrong.


def test_all_mistakes_are_told_at_once(files: Files) -> None:
    """Whatever files are missing or no good, one run tells each with the place that names it, and no secret."""
    files.certificates()
    (files.folder / "users.yaml").write_text("users: {alice: {zoo: hunter2}, bob: {}}\n")
    (files.folder / "keys.json").write_text("{}")
    (files.folder / "bad.pem").write_text("hunter2")
    oauth = {"jwks_file": "keys.json", "issuer": "i", "audience": "a"}
    token = {"token_url": "https://x/", "client_id": "c", "client_secret": "hunter2", "ca_file": "bad.pem"}
    config = files.config(
        {
            "tls": {"ca_file": "no.pem"},
            "sasl": {"mechanism": "OAUTHBEARER", "oauth": token},
            "credentials": {"team-*": {"mechanism": "OAUTHBEARER", "oauth": token | {"ca_file": "no.pem"}}},
        },
        users=client_sasl("PLAIN", "SCRAM-SHA-512"),
        tokens={"sasl": {"mechanisms": ["OAUTHBEARER"], "oauth": oauth}},
        tls={"tls": {"cert_file": "bad.pem", "key_file": "c.key"}},
    )
    with pytest.raises(ConfigError) as caught:
        Doors(config)
    lines = str(caught.value).splitlines()
    assert "hunter2" not in str(caught.value)
    assert [line.split(": ")[0] for line in lines] == [
        "clusters.main.sasl.oauth.ca_file",
        "clusters.main.credentials.team-*.oauth.ca_file",
        "clusters.main.tls.ca_file",
        "listeners.users.sasl.users_file",
        "listeners.users.sasl.users_file",
        "listeners.tokens.sasl.oauth.jwks_file",
        "listeners.tls.tls.cert_file",
    ]
    assert "users.yaml:1:17: users.alice.zoo: unknown key" in lines[3]
    assert "no.pem" in lines[2]


LINES = """\
clusters:
  main:
    bootstrap: [k:1]
    tls:
      ca_file: CA
      cert_file: c.pem
      key_file: c.key
listeners:
  open:
    bind: 127.0.0.1:9100
    tls:
      cert_file: CERT
      key_file: KEY
    sasl:
      mechanisms: [OAUTHBEARER]
      oauth:
        jwks_file: JWKS
        issuer: i
        audience: a
request_log:
  to: kafka
  topic: requests
  bootstrap: [k:1]
  tls:
    ca_file: LOG CA
    cert_file: LOG CERT
    key_file: c.key
"""


@pytest.mark.parametrize(
    ("option", "place"),
    [
        ("CA", "5:16: clusters.main.tls.ca_file"),
        ("CERT", "12:18: listeners.open.tls.cert_file"),
        ("KEY", "13:17: listeners.open.tls.key_file"),
        ("JWKS", "17:20: listeners.open.sasl.oauth.jwks_file"),
        ("LOG CA", "25:14: request_log.tls.ca_file"),
        ("LOG CERT", "26:16: request_log.tls.cert_file"),
    ],
)
def test_a_mistake_in_a_file_has_its_options_place(files: Files, option: str, place: str) -> None:
    """A file that is not there, or holds what is none of it, is told with line and column of the option naming it."""
    files.certificates()
    with TokenIssuer() as issuer:
        issuer.write_jwks(files.folder / "jwks.json")
    (files.folder / "odd").write_text("odd")
    path = files.folder / "kproxy.yaml"
    right = {"CA": "ca.pem", "CERT": "c.pem", "KEY": "c.key", "JWKS": "jwks.json"}
    right |= {"LOG CA": "ca.pem", "LOG CERT": "c.pem"}
    for wrong in ("absent", "odd"):
        text = LINES
        for name, file in (right | {option: wrong}).items():
            text = text.replace(f": {name}\n", f": {file}\n")
        path.write_text(text)
        loaded = load(path)
        with pytest.raises(ConfigError) as caught:
            Doors(loaded.config, told=loaded.told)
        assert str(caught.value).startswith(f"{path}:{place}: ")
        assert len(str(caught.value).splitlines()) == 1


async def test_a_log_opens_its_own_key(files: Files) -> None:
    """The password of the key that the log, or its cluster, shows is given to librdkafka; without it nothing starts."""
    files.certificates().client("CN=kproxy").write(files.folder, "log", password="hunter2")
    tls = {"cert_file": "log.pem", "key_file": "log.key", "key_password": "hunter2"}
    own = {"to": "kafka", "topic": "t", "bootstrap": ["k:1"], "tls": tls}
    for cluster, section in (({}, own), ({"tls": tls}, {"to": "kafka", "topic": "t", "cluster": "main"})):
        config = files.config(cluster)
        log = RequestLog.model_validate(section, context=Surroundings({}, files.folder))
        config = config.model_copy(update={"request_log": log})
        Doors(config)
        opened = build.request_log(config)
        assert opened is not None
        await opened.close()
    del tls["key_password"]
    log = RequestLog.model_validate(own, context=Surroundings({}, files.folder))
    with pytest.raises(ConfigError, match=r"request_log\.tls\.key_file: .* is encrypted; give key_password"):
        Doors(files.config().model_copy(update={"request_log": log}))


@pytest.mark.parametrize("where", ["sasl", "credentials: {team: ", "credentials: {default: "])
def test_a_file_without_a_token_is_a_doubt(files: Files, where: str) -> None:
    """A token's file that is not there, or holds none, is told at its option, and does not end the start."""
    login = "{mechanism: OAUTHBEARER, oauth: {token_file: token}}"
    entry = f"{where}{login}}}" if "{" in where else f"{where}: {login}"
    path = files.folder / "kproxy.yaml"
    path.write_text(
        f"clusters:\n  main:\n    bootstrap: [k:1]\n    tls: {{}}\n    {entry}\n"
        "listeners: {open: {bind: '127.0.0.1:9100'}}\n"
    )

    def doubts() -> list[str]:
        loaded = load(path)
        return [doubt for doubt in Doors(loaded.config, told=loaded.told).doubts() if "token" in doubt]

    column = 5 + len(entry) - len("token}}") - (1 if "{" in where else 0)
    (missing,) = doubts()
    assert missing.startswith(f"{path}:5:{column}: clusters.main.")
    assert ".oauth.token_file: the token file " in missing
    assert missing.endswith("token cannot be read: No such file or directory")
    (files.folder / "token").write_text("no token\n")
    assert "holds no token" in doubts()[0]
    with TokenIssuer() as issuer:
        (files.folder / "token").write_text(issuer.mint("kproxy"))
    assert doubts() == []


def test_what_was_loaded_shows_no_secret(files: Files) -> None:
    """The repr of a configuration with all that belongs to it does not tell its secrets."""
    path = files.folder / "kproxy.yaml"
    sasl = "{mechanism: PLAIN, username: kp, password: hunter2}"
    path.write_text(
        f"clusters: {{main: {{bootstrap: [k:1], sasl: {sasl}}}}}\nlisteners: {{open: {{bind: '127.0.0.1:9100'}}}}\n"
    )
    assert "hunter2" not in repr(load(path))


def test_a_missing_users_file(files: Files) -> None:
    """A listener whose users file is not there is refused with its path."""
    files.certificates()
    with pytest.raises(ConfigError) as caught:
        files.doors(users=client_sasl("PLAIN"))
    assert (
        str(caught.value)
        == f"listeners.users.sasl.users_file: {files.users}: cannot be read: No such file or directory"
    )


def test_doubts(files: Files) -> None:
    """What works and should be known of files is told: secrets that others can read."""
    files.certificates()
    files.add("alice", "wonderland")
    listener = client_sasl("PLAIN")
    assert list(files.doors(users=listener).doubts()) == []
    files.users.chmod(0o644)
    (files.folder / "c.key").chmod(0o644)
    key, users = files.doors(users=listener).doubts()
    assert key.startswith("listeners.users.tls: ")
    assert users == f"the users file {files.users} can be read by everybody; chmod 600 it"


def test_brokers_that_are_not_verified_are_warned_of_once(files: Files) -> None:
    """``verify: false`` has one warning at a start, of those of the configuration and those of its files."""
    path = files.folder / "kproxy.yaml"
    path.write_text(
        "clusters: {main: {bootstrap: [k:1], tls: {verify: false}}}\nlisteners: {open: {bind: '127.0.0.1:9100'}}\n"
    )
    loaded = load(path)
    (warning,) = [*loaded.warnings, *Doors(loaded.config).doubts()]
    assert "clusters.main.tls.verify: " in warning


def test_decoys_without_a_key_of_their_own(files: Files) -> None:
    """Processes that are given one key tell unknown users the same salt; that a start brings another is warned of."""
    files.certificates()
    files.add("alice", "wonderland")
    text = files.users.read_text()
    files.users.write_text(text[: text.index("decoy_key")])
    config = files.config(users=client_sasl("SCRAM-SHA-512"))

    def told(name: str, key: bytes | None) -> bytes:
        terms = Doors(config, key).terms("users")
        assert terms is not None
        step = terms.mechanisms["SCRAM-SHA-512"].session().respond(b"n,,n=%b,r=nonce" % name.encode())
        assert isinstance(step, Challenge)
        return step.token.split(b",")[1]

    assert told("eve", bytes(32)) == told("eve", bytes(32)) != told("eve", bytes(31) + b"1")
    assert told("alice", bytes(32)) == told("alice", None)
    (warning,) = Doors(config).doubts()
    assert warning.startswith(f"the users file {files.users} has no decoy_key")


# As files change.


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at users files all the time."""
    monkeypatch.setattr(freshness, "LOOK_SECONDS", 0.01)


def told(logs: Sequence[Mapping[str, Any]], errors: int) -> bool:
    """Whether so many errors have been logged."""
    return [log["log_level"] for log in logs].count("error") == errors


@pytest.mark.usefixtures("quick")
async def test_users_are_read_again(files: Files) -> None:
    """A users file that changes counts at the next login; a bad or missing one is told once, and changes nothing."""
    files.certificates()
    files.add("alice", "wonderland")
    doors = files.doors(users=client_sasl("PLAIN"))
    with capture_logs() as logs:
        await doors.start()
        try:
            assert doors.executor is not None
            assert isinstance(by_plain(doors, "users", "bob", "builder"), Refused)
            files.add("bob", "builder")
            await until(lambda: isinstance(by_plain(doors, "users", "bob", "builder"), Accepted))
            for number in (1, 2):
                if number == 1:
                    files.users.write_text("users: {bob: [hunter2]}")
                else:
                    files.users.unlink()
                await until(partial(told, logs, number))
                assert isinstance(by_plain(doors, "users", "bob", "builder"), Accepted)
            files.add("carol", "changes")
            await until(lambda: isinstance(by_plain(doors, "users", "carol", "changes"), Accepted))
            assert isinstance(by_plain(doors, "users", "bob", "builder"), Refused)
        finally:
            await doors.close()
    events = [(log["event"], log["log_level"]) for log in logs]
    again = ("users file read again", "info")
    bad = ("users file is no good; those that were read before stay", "error")
    assert [event for event, after in zip(events, [*events[1:], None], strict=True) if event != after] == [
        again,
        bad,
        again,
    ]
    assert events.count(bad) == 2
    assert "hunter2" not in str(logs)


async def test_certificates_are_read_again(files: Files) -> None:
    """New certificates are taken up, on both sides, with what is to be said of them; bad ones leave the old in use."""
    authority = files.certificates()
    tls = {"cert_file": "c.pem", "key_file": "c.key", "reload_interval": "10ms"}
    doors = files.doors({"tls": {"ca_file": "ca.pem", "reload_interval": "10ms"}}, public={"tls": tls})
    server, client = doors.server_tls("public"), doors.client_tls("main")
    assert server is not None
    assert client is not None
    first = (server.context, client.context)
    with capture_logs() as logs:
        await doors.start()
        try:
            (files.folder / "c.pem").write_text("hunter2")
            await until(lambda: told(logs, 1))
            assert (server.context, client.context) == first
            authority.server("kafka.example.com", expired=True).write(files.folder, "c")
            authority.write(files.folder, "ca")
            await until(lambda: server.context is not first[0] and client.context is not first[1])
            await until(lambda: len({log["whose"] for log in logs if log["event"] == "TLS files read again"}) == 2)
        finally:
            await doors.close()
    assert any(log["log_level"] == "warning" and "expired" in log["event"] for log in logs)
    error = next(log for log in logs if log["log_level"] == "error")
    assert (error["event"], error["whose"]) == (
        "new TLS files are no good; the old ones stay in use",
        "listener public",
    )
    assert "hunter2" not in str(logs)


async def test_keys_are_fetched(files: Files) -> None:
    """The keys at an address are fetched from the start on, so that tokens are good soon after."""
    with TokenIssuer() as issuer:
        oauth = {"jwks_url": issuer.jwks_url, "issuer": issuer.url, "audience": "kafka"}
        doors = files.doors(tokens={"sasl": {"mechanisms": ["OAUTHBEARER"], "oauth": oauth}})
        terms = doors.terms("tokens")
        assert terms is not None
        token = build_initial(Initial(issuer.mint("alice")))
        try:
            await doors.start()
            await until(lambda: isinstance(terms.mechanisms["OAUTHBEARER"].session().respond(token), Accepted))
        finally:
            await doors.close()


async def test_a_start_waits_for_a_token(files: Files) -> None:
    """A start returns once there is a token for the brokers, which later logins then have."""
    with TokenIssuer(clients={"kp": "hunter2"}) as issuer:
        token = {"token_url": issuer.token_url, "client_id": "kp", "client_secret": "hunter2", "extensions": {"a": "b"}}
        doors = files.doors({"sasl": {"mechanism": "OAUTHBEARER", "oauth": token}})
        own = doors.own_mechanism("main")
        assert isinstance(own, Oauthbearer)
        with pytest.raises(AuthError, match="no token for the brokers yet"):
            own.session().first()
        try:
            await doors.start()
            assert b"auth=Bearer ey" in own.session().first()
            assert own.extensions == {"a": "b"}
        finally:
            await doors.close()


async def test_a_start_does_not_wait_for_ever(files: Files) -> None:
    """Without a token a start goes on after a while, and the log says why there is none."""
    doors = files.doors({"sasl": {"mechanism": "OAUTHBEARER", "oauth": {"token_file": "token"}}})
    with capture_logs() as logs:
        try:
            assert not await doors.start(0.2)
        finally:
            await doors.close()
    assert doors.executor is None
    assert [log["event"] for log in logs] == ["no new token for the brokers"]
