"""Who gets in, and as whom, in the configuration: each mistake and each doubt as one line with its place."""

import json
import pickle
from pathlib import Path

import pytest

from kproxy.config.flags import Flags
from kproxy.config.load import from_flags, load
from kproxy.config.model import Config
from kproxy.config.sasl import Sasl
from kproxy.errors import ConfigError

ENVIRON = {"PW": "hunter2"}

BROKER_LOGIN = ", sasl: {username: kp, password: {env: PW}}"
PASSTHROUGH = ", passthrough: plain" + BROKER_LOGIN
TLS = ", tls: {cert_file: c.pem, key_file: k.pem}"
OAUTH = "oauth: {jwks_file: j.json, issuer: i, audience: a}"


def written(cluster: str = "", listener: str = "") -> str:
    """Write a configuration of one cluster, in line 1, and one listener, in line 2, with more entries for each."""
    return f"clusters: {{main: {{bootstrap: [k:1]{cluster}}}}}\nlisteners: {{out: {{bind: h:1{listener}}}}}\n"


def lines_of(error: ConfigError) -> list[str]:
    """Return the lines that refuse ``written``, without its name."""
    lines = str(error).splitlines()
    assert "hunter2" not in str(error)
    assert all(line.startswith("config:") for line in lines)
    return [line.removeprefix("config:") for line in lines]


def mistakes(cluster: str = "", listener: str = "") -> list[str]:
    """Return the lines that refuse a configuration."""
    with pytest.raises(ConfigError) as caught:
        load(written(cluster, listener), environ=ENVIRON)
    return lines_of(caught.value)


def doubts(cluster: str = "", listener: str = "") -> list[str]:
    """Return what is told of a configuration that can be run, but for what is about its addresses."""
    _, warnings, _ = load(written(cluster, listener), environ=ENVIRON)
    assert "hunter2" not in "".join(warnings)
    return [line.removeprefix("config:") for line in warnings]


EVERYTHING = """\
clusters:
  main:
    bootstrap: [kafka1:9092]
    sasl: {mechanism: SCRAM-SHA-512, username: kp, password: {env: PW}}
    tls: {ca_file: ca.pem, cert_file: c.pem, key_file: k.pem, key_password: {env: PW}, server_name: kafka}
    credentials:
      alice: {username: a, password: {env: PW}}
      "team-*": {mechanism: SCRAM-SHA-256, username: t, password: {env: PW}}
      default:
        mechanism: OAUTHBEARER
        oauth: {token_url: "https://id/token", client_id: kp, client_secret: {env: PW}, extensions: {cluster: x}}
  passed:
    bootstrap: [kafka2:9092]
    passthrough: plain
    sasl: {mechanism: OAUTHBEARER, oauth: {token_file: token}}
listeners:
  names:
    cluster: main
    bind: 127.0.0.1:9093
    addressing: sni
    advertise: b{node}.kafka.example.com:9093
    bootstrap_name: kafka.example.com
    tls: {cert_file: c.pem, key_file: k.pem, client_auth: required, client_ca_file: ca.pem, principal_rules: [DEFAULT]}
    proxy_protocol: true
    trusted_proxies: [10.0.0.0/8, "2001:db8::/32"]
    login_timeout: 5s
    unauthenticated_max: 50
  users:
    cluster: main
    bind: 127.0.0.1:9400
    sasl:
      mechanisms: [SCRAM-SHA-512, SCRAM-SHA-256, OAUTHBEARER]
      users_file: users.yaml
      session_lifetime: 1h
      oauth: {jwks_url: "https://id/jwks", issuer: i, audience: a, groups_claim: groups}
  passed:
    cluster: passed
    bind: 127.0.0.1:9600
    tls: {cert_file: c.pem, key_file: k.pem}
    sasl: {mechanisms: [PLAIN]}
"""


def test_everything_is_read(tmp_path: Path) -> None:
    """All that may be written arrives, without a doubt, and files begin at the configuration's folder."""
    path = tmp_path / "kproxy.yaml"
    path.write_text(EVERYTHING)
    config, warnings, _ = load(path, environ=ENVIRON)
    assert warnings == ()
    main, passed = config.clusters["main"], config.clusters["passed"]
    assert list(main.credentials) == ["alice", "team-*", "default"]
    assert main.credentials["team-*"].mechanism == "SCRAM-SHA-256"
    assert main.credentials["alice"].revealed() == "hunter2"
    assert main.tls is not None
    assert main.tls.ca_file == tmp_path / "ca.pem"
    assert (passed.passthrough, main.passthrough) == ("plain", None)
    names, users = config.listeners["names"], config.listeners["users"]
    assert (names.bootstrap_name, names.proxy_protocol) == ("kafka.example.com", True)
    assert names.trusted_proxies is not None
    assert [str(network) for network in names.trusted_proxies] == ["10.0.0.0/8", "2001:db8::/32"]
    assert (names.login_timeout, names.unauthenticated_max) == (5.0, 50)
    assert users.sasl is not None
    assert users.sasl.users_file == tmp_path / "users.yaml"
    assert (users.sasl.session_lifetime, users.sasl.by_password) == (3600.0, ["SCRAM-SHA-512", "SCRAM-SHA-256"])
    assert [config.listeners[name].tells_principals for name in ("names", "users", "passed")] == [True] * 3


def test_defaults() -> None:
    """Nothing of it is asked for unless it is written, and what is not written is bounded all the same."""
    config = load(written(), environ={}).config
    cluster, listener = config.clusters["main"], config.listeners["out"]
    assert (cluster.sasl, cluster.tls, cluster.credentials, cluster.passthrough) == (None, None, {}, None)
    assert (listener.sasl, listener.tls, listener.proxy_protocol, listener.tells_principals) == (
        None,
        None,
        False,
        False,
    )
    assert (listener.login_timeout, listener.unauthenticated_max) == (10.0, 1000)


def test_it_travels_and_tells_no_secret() -> None:
    """A worker gets an equal configuration by pickle; in no way of writing it out is a password shown."""
    config = load(EVERYTHING, environ=ENVIRON).config
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301 - our own bytes
    shown = f"{config} {config!r} {config.model_dump()} {config.model_dump_json()}"
    assert "team-*" in shown
    assert "hunter2" not in shown
    assert json.loads(config.model_dump_json())["listeners"]["names"]["trusted_proxies"][0] == "10.0.0.0/8"


OUT, MAIN = "listeners.out", "clusters.main"
SCRAM = "mechanisms: [SCRAM-SHA-512]"
PUBLIC = "mechanisms: [PLAIN], users_file: u"


@pytest.mark.parametrize(
    ("listener", "told"),
    [
        # Names that TLS asks for.
        (", addressing: @sni, advertise: 'b{node}.x:1', bootstrap_name: x",
         f"{OUT}.addressing: sni tells brokers apart by the name that TLS asks for; add tls"),
        (f", addressing: @sni, bootstrap_name: x{TLS}", f"{OUT}.addressing: sni needs advertise with {{node}} in it"),
        (f", addressing: @sni, bootstrap_name: x, advertise: 'b.x:1'{TLS}",
         f"{OUT}.addressing: sni needs advertise with {{node}} in it, as in b{{node}}.kafka.example.com:9092"),
        (f", addressing: sni, bootstrap_name: x, advertise: @'b{{node}}.{{node}}.x:1'{TLS}",
         f"{OUT}.advertise: with sni {{node}} tells the broker; write it once"),
        (f", addressing: @sni, advertise: 'b{{node}}.x:1'{TLS}", f"{OUT}.addressing: sni needs bootstrap_name, the"),
        (f", addressing: sni, bootstrap_name: @B7.x, advertise: 'b{{node}}.x:1'{TLS}",
         f"{OUT}.bootstrap_name: is the name of broker 7 by advertise; choose another"),
        (f", addressing: sni, bootstrap_name: @'x:1', advertise: 'b{{node}}.x:1'{TLS}",
         f"{OUT}.bootstrap_name: 'x:1' is no host name; write one without a port"),
        (", bootstrap_name: @x", f"{OUT}.bootstrap_name: is for addressing: sni; leave it out, or set that"),
        # The PROXY header.
        (", proxy_protocol: @true",
         f"{OUT}.proxy_protocol: anybody could claim any address; list the load balancers' networks in trusted_prox"),
        (", trusted_proxies: @[10.0.0.0/8]", f"{OUT}.trusted_proxies: is for proxy_protocol: true; add that, or leave"),
        (", proxy_protocol: true, trusted_proxies: @[]", f"{OUT}.trusted_proxies: is empty; add one at least"),
        (", trusted_proxies: @10.0.0.0/8", f"{OUT}.trusted_proxies: must be a list, as in [10.0.0.0/8]"),
        (", proxy_protocol: true, trusted_proxies: ['::1', @10.0.0.1/8]",
         f"{OUT}.trusted_proxies[1]: '10.0.0.1/8' is an address within a network; write 10.0.0.0/8"),
        (", proxy_protocol: @1", f"{OUT}.proxy_protocol: must be true or false, without quotes"),
        # Logins.
        (f", sasl: @{{{PUBLIC}}}",
         f"{OUT}.sasl: PLAIN without TLS shows the passwords to everybody on the way; add tls, use SCRAM-SHA-512, or"),
        (", sasl: @{mechanisms: [SCRAM-SHA-256]}", f"{OUT}.sasl: users_file missing; SCRAM-SHA-256 needs it (see"),
        (f", sasl: @{{mechanisms: [SCRAM-SHA-512, PLAIN]}}{TLS}",
         f"{OUT}.sasl: users_file missing; SCRAM-SHA-512 and PLAIN need it (see kproxy users --help)"),
        (f", sasl: {{mechanisms: [OAUTHBEARER], users_file: @u, {OAUTH}}}",
         f"{OUT}.sasl.users_file: is not used by OAUTHBEARER; leave it out"),
        (", sasl: @{mechanisms: [OAUTHBEARER]}", f"{OUT}.sasl: oauth missing; OAUTHBEARER needs it"),
        (f", sasl: @{{{SCRAM}, users_file: u, {OAUTH}}}",
         f"{OUT}.sasl: oauth is not used; add OAUTHBEARER to the mechanisms, or leave it out"),
        (", sasl: @{mechanisms: [PLAIN, PLAIN], users_file: u}", f"{OUT}.sasl: mechanisms names one twice; name each"),
        (", sasl: {mechanisms: @[], users_file: u}", f"{OUT}.sasl.mechanisms: is empty; add one at least"),
        (", sasl: {mechanisms: @PLAIN, users_file: u}",
         f"{OUT}.sasl.mechanisms: must be a list, as in [SCRAM-SHA-512, PLAIN]"),
        (", sasl: {mechanisms: [PLAIN, @GSSAPI], users_file: u}",
         f"{OUT}.sasl.mechanisms[1]: is not supported; write 'PLAIN', 'SCRAM-SHA-256', 'SCRAM-SHA-512' or 'OAUTHB"),
        (", @sasl: {users_file: u}", f"{OUT}.sasl.mechanisms: is missing; add it"),
        (", sasl: @[]", f"{OUT}.sasl: must be a mapping; known keys: mechanisms, users_file, session_lifetime, oauth"),
        (f", sasl: {{{SCRAM}, users_file: @7}}", f"{OUT}.sasl.users_file: '7' is not the path of a file"),
        (f", sasl: {{{SCRAM}, users_file: u, session_lifetime: @60}}",
         f"{OUT}.sasl.session_lifetime: '60' is not a duration; write a number and a unit"),
        (f", sasl: {{{PUBLIC}, allow_plaintext_passwords: @yes}}",
         f"{OUT}.sasl.allow_plaintext_passwords: must be true or false"),
        (", login_timeout: @0s", f"{OUT}.login_timeout: '0s' is no time at all; write a duration above zero"),
        (", unauthenticated_max: @0", f"{OUT}.unauthenticated_max: is too low; 1 at least"),
        # TLS.
        (", @tls: {cert_file: c}", f"{OUT}.tls.key_file: is missing; add it"),
        (", tls: @[]", f"{OUT}.tls: must be a mapping; known keys: cert_file, key_file, key_password, client_auth"),
        (", tls: @{cert_file: c, key_file: k, client_auth: required}",
         f"{OUT}.tls: client_auth: required needs client_ca_file, the authorities of clients"),
        (", tls: {cert_file: c, key_file: k, client_auth: required, client_ca_file: a, principal_rules: @DEFAULT}",
         f"{OUT}.tls.principal_rules: must be a list, as in ["),
        (", tls: {cert_file: c, key_file: k, client_auth: required, client_ca_file: a, principal_rules: [DEFAULT, @5]}",
         f"{OUT}.tls.principal_rules[1]: must be a text; put it in quotes"),
    ],
)  # fmt: skip
def test_mistakes_in_a_listener(listener: str, told: str) -> None:
    """A listener with one mistake is refused with one line: position, place, what is wrong, what to do."""
    assert_told("", listener, told)


@pytest.mark.parametrize(
    ("cluster", "told"),
    [
        (", sasl: @{}", f"{MAIN}.sasl: username and password missing; add both"),
        (", sasl: @{username: u}", f"{MAIN}.sasl: password missing; add it"),
        (", sasl: @{mechanism: SCRAM-SHA-512, password: {env: PW}}", f"{MAIN}.sasl: username missing; add it"),
        (", sasl: @{mechanism: OAUTHBEARER}", f"{MAIN}.sasl: oauth missing; add it"),
        (", sasl: @{mechanism: OAUTHBEARER, username: u, password: {env: PW}, oauth: {token_file: t}}",
         f"{MAIN}.sasl: username and password not used by OAUTHBEARER; leave out"),
        (", sasl: @{username: u, password: {env: PW}, oauth: {token_file: t}}",
         f"{MAIN}.sasl: oauth not used by PLAIN; leave out"),
        (', sasl: {mechanism: OAUTHBEARER, oauth: {token_file: t, scope: @"a\\nb"}}',
         f"{MAIN}.sasl.oauth.scope: holds what a scope cannot; write words with spaces in between"),
        (", sasl: {mechanism: OAUTHBEARER, oauth: {token_file: t, extensions: @[]}}",
         f"{MAIN}.sasl.oauth.extensions: must be a mapping of names to entries"),
        (", passthrough: @scram", f"{MAIN}.passthrough: is not supported; write 'plain'"),
        (", credentials: @[]", f"{MAIN}.credentials: must be a mapping of names to entries"),
        (", credentials: {alice: @[]}", f"{MAIN}.credentials.alice: must be a mapping; known keys: mechanism, user"),
        (", credentials: {alice: @{username: a}}", f"{MAIN}.credentials.alice: password missing; add it"),
        (", credentials: {@1: {username: a, password: {env: PW}}}", f"{MAIN}.credentials.1: not a user name or a patt"),
        (", credentials: {@'': {username: a, password: {env: PW}}}", f"{MAIN}.credentials.: not a user name or a patt"),
        (f", credentials: {{@{'x' * 256}: {{username: a, password: {{env: PW}}}}}}", "not a user name or a pattern;"),
        (", tls: @{cert_file: c}", f"{MAIN}.tls: cert_file needs key_file, the certificate's key"),
    ],
)  # fmt: skip
def test_mistakes_in_a_cluster(cluster: str, told: str) -> None:
    """A cluster with one mistake is refused with one line, and no password is in it."""
    assert_told(cluster, "", told)


@pytest.mark.parametrize(
    ("cluster", "listener", "told"),
    [
        (", passthrough: @plain", f", sasl: {{mechanisms: [PLAIN]}}{TLS}",
         f"{MAIN}.passthrough: kproxy asks the brokers for itself, too; add sasl, its own login"),
        (f", passthrough: @plain{BROKER_LOGIN}, credentials: {{a: {{username: a, password: {{env: PW}}}}}}",
         f", sasl: {{mechanisms: [PLAIN]}}{TLS}",
         f"{MAIN}.passthrough: clients are either given credentials or use their own; leave one of the two out"),
        (PASSTHROUGH, "@", f"{OUT}: cluster 'main' has passthrough: plain; set mechanisms: [PLAIN], and nothing else"),
        (PASSTHROUGH, f", sasl: @{{mechanisms: [PLAIN, SCRAM-SHA-512], users_file: u}}{TLS}",
         f"{OUT}.sasl: cluster 'main' has passthrough: plain; set mechanisms: [PLAIN], and nothing else"),
        (PASSTHROUGH, f", sasl: {{mechanisms: [PLAIN], users_file: @u}}{TLS}",
         f"{OUT}.sasl.users_file: the brokers judge the passwords (passthrough: plain); leave it out"),
        (PASSTHROUGH, ", sasl: @{mechanisms: [PLAIN]}", f"{OUT}.sasl: PLAIN without TLS shows the passwords"),
    ],
)  # fmt: skip
def test_mistakes_between_a_listener_and_its_cluster(cluster: str, listener: str, told: str) -> None:
    """Where the two do not fit together, that is one line as well."""
    if listener == "@":  # the listener itself
        (line,) = mistakes(cluster, "")
        assert line.startswith(f"2:18: {told}")
        return
    assert_told(cluster, listener, told)


def assert_told(cluster: str, listener: str, told: str) -> None:
    """See that a configuration is refused with a line about where an @ stands; that is taken out before."""
    before, _, behind = written(cluster, listener).partition("@")
    with pytest.raises(ConfigError) as caught:
        load(before + behind, environ=ENVIRON)
    (line,) = lines_of(caught.value)
    assert told in line
    assert line.startswith(f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}: ")


@pytest.mark.parametrize(
    ("cluster", "listener", "told"),
    [
        ("", ", tls: {@cert: c, key_file: k}", f"{OUT}.tls.cert: unknown key; did you mean 'cert_file'?"),
        ("", ", tls: {cert_file: c, key_file: k, @mim_version: 1.3}", "tls.mim_version: unknown key; did you mean 'mi"),
        ("", ", sasl: {@mechanism: [PLAIN]}", f"{OUT}.sasl.mechanism: unknown key; did you mean 'mechanisms'?"),
        ("", ", sasl: {mechanisms: [OAUTHBEARER], oauth: {@jwks_uri: 'https://x/', issuer: i, audience: a}}",
         f"{OUT}.sasl.oauth.jwks_uri: unknown key; did you mean 'jwks_url'?"),
        (", tls: {@cafile: c}", "", f"{MAIN}.tls.cafile: unknown key; did you mean 'ca_file'?"),
        (", sasl: {@user: u, password: {env: PW}}", "", f"{MAIN}.sasl.user: unknown key; did you mean 'username'?"),
        (", sasl: {mechanism: OAUTHBEARER, oauth: {@tokenfile: t}}", "",
         f"{MAIN}.sasl.oauth.tokenfile: unknown key; did you mean 'token_file'?"),
        (", credentials: {'team-*': {@usrname: u, password: {env: PW}}}", "",
         f"{MAIN}.credentials.team-*.usrname: unknown key; did you mean 'username'?"),
        (", credentials: {a: {mechanism: OAUTHBEARER, oauth: {@token_fle: u}}}", "",
         f"{MAIN}.credentials.a.oauth.token_fle: unknown key; did you mean 'token_file'?"),
        (", @credential: {}", "", f"{MAIN}.credential: unknown key; did you mean 'credentials'?"),
        (", @pass_through: plain", "", f"{MAIN}.pass_through: unknown key; did you mean 'passthrough'?"),
        ("", ", @proxy_protocoll: true", f"{OUT}.proxy_protocoll: unknown key; did you mean 'proxy_protocol'?"),
        ("", ", @trusted_proxy: []", f"{OUT}.trusted_proxy: unknown key; did you mean 'trusted_proxies'?"),
    ],
)  # fmt: skip
def test_an_unknown_key_suggests_the_nearest(cluster: str, listener: str, told: str) -> None:
    """However deep a misspelt key stands, the one that was meant is told, and nothing that only follows from it."""
    assert_told(cluster, listener, told)


FILE_ADVICE = "stands in the file; write {env: NAME} or {file: PATH} instead"


@pytest.mark.parametrize(
    ("cluster", "listener", "told"),
    [
        (", sasl: {username: u, password: hunter2}", "", [f"1:67: {MAIN}.sasl.password: the password {FILE_ADVICE}"]),
        (", credentials: {a: {username: u, password: hunter2}}", "",
         [f"1:78: {MAIN}.credentials.a.password: the password {FILE_ADVICE}"]),
        (", sasl: {mechanism: OAUTHBEARER, oauth: {token_url: 'http://x/', client_id: a, client_secret: hunter2}}", "",
         [f"{MAIN}.sasl.oauth.token_url: without TLS whoever is on the way can read the secret; use https",
          f"{MAIN}.sasl.oauth.client_secret: the secret {FILE_ADVICE}"]),
        (", tls: {verify: false}", "",
         [f"1:51: {MAIN}.tls.verify: whoever answers at a broker's address gets the password and the data; give ca_f"]),
        ("", f", sasl: {{{PUBLIC}, allow_plaintext_passwords: true}}",
         [f"2:100: {OUT}.sasl.allow_plaintext_passwords: passwords cross the network in the clear, and everybody"]),
        ("", f", sasl: {{{PUBLIC}, allow_plaintext_passwords: true}}{TLS}", []),
        ("", f", sasl: {{{SCRAM}, users_file: u, allow_plaintext_passwords: true}}", []),
        ("", ", sasl: {mechanisms: [OAUTHBEARER], oauth: {jwks_url: 'http://x/', issuer: i, audience: a}}",
         [f"{OUT}.sasl.oauth.jwks_url: without TLS whoever is on the way can choose whose tokens are good; use https"]),
        ("", f", sasl: {{mechanisms: [OAUTHBEARER], {OAUTH}}}", []),
        (BROKER_LOGIN, f", addressing: sni, bootstrap_name: x, advertise: 'b{{node}}.x:1'{TLS}", []),
        (PASSTHROUGH, f", sasl: {{mechanisms: [PLAIN]}}{TLS}", []),
    ],
)  # fmt: skip
def test_doubts(cluster: str, listener: str, told: list[str]) -> None:
    """What works but has a price is told at its place, in a line each; what is well is not."""
    lines = doubts(cluster, listener)
    assert len(lines) == len(told)
    for line, text in zip(lines, told, strict=True):
        assert text in line


def test_all_mistakes_are_told_at_once() -> None:
    """One run finds what is wrong within entries and what is wrong between those that are sound."""
    text = """\
clusters:
  main: {bootstrap: [k:1], passthrough: plain, tls: {zoo: 1}}
  other: {bootstrap: [k:2], credentials: {a: {}}}
listeners:
  one: {cluster: main, bind: h:1, sasl: {mechanisms: PLAIN}}
  two: {cluster: main, bind: h:300, proxy_protocol: true, bootstrap_name: x}
"""
    with pytest.raises(ConfigError) as caught:
        load(text, environ={})
    assert [line.split(": ")[1] for line in lines_of(caught.value)] == [
        "clusters.main.passthrough",
        "clusters.main.tls.zoo",
        "clusters.other.credentials.a",
        "listeners.one.sasl.mechanisms",
        "listeners.two",
        "listeners.two.proxy_protocol",
        "listeners.two.bootstrap_name",
    ]


def test_python_is_told_the_same() -> None:
    """Validated without a file, a configuration is held to the same rules."""
    clusters = {"main": {"bootstrap": ["k:1"]}}
    with pytest.raises(ValueError, match=r"listeners\.out\.proxy_protocol: anybody could claim any address"):
        Config.model_validate({"clusters": clusters, "listeners": {"out": {"bind": "h:1", "proxy_protocol": True}}})


def test_a_login_without_a_password_has_none_to_reveal() -> None:
    """Asking a login by token for its password is a mistake of ours, told so."""
    sasl = Sasl.model_validate({"mechanism": "OAUTHBEARER", "oauth": {"token_file": "t"}})
    with pytest.raises(ValueError, match="OAUTHBEARER has no password"):
        sasl.revealed()


def test_flags_keep_what_a_file_says_of_doors() -> None:
    """Flags that are laid over a file change neither its listener's logins nor its cluster's credentials."""
    text = written(
        ", credentials: {a: {username: a, password: {env: PW}}}",
        f", sasl: {{mechanisms: [PLAIN], users_file: u}}{TLS}",
    )
    config = from_flags(Flags(bootstrap="kafka9:9092"), text, environ=ENVIRON).config
    assert config.clusters["main"].bootstrap[0].host == "kafka9"
    assert list(config.clusters["main"].credentials) == ["a"]
    assert config.listeners["out"].sasl is not None
