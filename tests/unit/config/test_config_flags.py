"""Flags: alone, beside a file, and the environment below both."""

from pathlib import Path

import pytest

from kproxy.config.flags import Flags
from kproxy.config.load import from_flags
from kproxy.config.sasl import Sasl
from kproxy.errors import ConfigError

ALONE = Flags(listen="127.0.0.1:9092", bootstrap="kafka1:9092, kafka2:9092")
FILE = """\
clusters:
  prod: {bootstrap: [kafka1:9092], sasl: {username: gateway, password: {env: PW}}}
listeners:
  edge: {bind: 127.0.0.1:9092}
"""
TWO = FILE + "  other: {bind: 127.0.0.1:9500}\n"


def refused(flags: Flags, config: str | None = None, **environ: str) -> list[str]:
    """Return the mistakes."""
    with pytest.raises(ConfigError) as caught:
        from_flags(flags, config, environ=environ)
    assert "hunter2" not in str(caught.value)
    return str(caught.value).splitlines()


def sasl(flags: Flags, config: str | None = None, **environ: str) -> Sasl:
    """Return the login that comes out."""
    (cluster,) = from_flags(flags, config, environ=environ).config.clusters.values()
    assert cluster.sasl is not None
    return cluster.sasl


def test_flags_alone_make_a_whole_configuration() -> None:
    """Two flags are enough; the others set what the file's keys of the same meaning would."""
    config, warnings, _ = from_flags(ALONE, environ={})
    assert warnings == ()
    assert config.clusters["main"].bootstrap == (("kafka1", 9092), ("kafka2", 9092))
    assert config.clusters["main"].sasl is None
    assert (config.listeners["public"].bind, config.listeners["public"].cluster) == (("127.0.0.1", 9092), "main")
    single = from_flags(ALONE._replace(addressing="single", advertise="k-{node}:1"), environ={}).config
    assert single.listeners["public"].addressing == "single"
    assert single.listeners["public"].advertise == ("k-{node}", 1)


def test_what_is_missing_is_asked_for() -> None:
    """Without a file, both addresses are needed, and the line shows what to give."""
    assert refused(Flags()) == [
        "--listen and --bootstrap missing; give --listen 127.0.0.1:9092 --bootstrap kafka1:9092, or --config FILE"
    ]
    assert refused(Flags(listen="127.0.0.1:9092"))[0].startswith("--bootstrap missing")


def test_a_mistake_names_the_flag() -> None:
    """All mistakes of the command line come at once, each with its flag; a warning likewise."""
    lines = refused(Flags(listen=":9092", bootstrap="kafka1", advertise="k:0"))
    assert [line.split(": ")[0] for line in lines] == ["--bootstrap", "--listen", "--advertise"]
    warnings = from_flags(ALONE._replace(listen="0.0.0.0:9092"), environ={}).warnings
    assert [line.split(": ")[0] for line in warnings] == ["--listen"]


def test_credentials_come_from_flags_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag wins over the environment, and a password file is found from where the user stands."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text("from file\n")
    environ = {"KPROXY_USERNAME": "env", "KPROXY_PASSWORD": "hunter2"}
    from_environment = sasl(ALONE, **environ)
    assert (from_environment.username, from_environment.revealed()) == ("env", "hunter2")
    login = sasl(ALONE._replace(username="flag", password_file="secret", mechanism="PLAIN"), **environ)
    assert (login.username, login.revealed()) == ("flag", "from file")


@pytest.mark.parametrize(
    ("flags", "environ", "told"),
    [
        (
            ALONE._replace(username="u"),
            {},
            "--username: there is no password to it; give --password-file or KPROXY_PASS",
        ),
        (ALONE._replace(mechanism="PLAIN"), {}, "--mechanism: there is no username to it"),
        (ALONE._replace(password_file="f"), {}, "--password-file: there is no username to it"),
        (ALONE, {"KPROXY_USERNAME": "u"}, "KPROXY_USERNAME: there is no password to it"),
        (ALONE, {"KPROXY_PASSWORD": "hunter2"}, "KPROXY_PASSWORD: there is no username to it"),
        (ALONE._replace(username=""), {"KPROXY_PASSWORD": "hunter2"}, "--username: is empty"),
        (ALONE._replace(username="u", password_file="/no/such"), {}, "--password-file: the secret file /no/such"),
    ],
)
def test_half_a_login_is_refused(flags: Flags, environ: dict[str, str], told: str) -> None:
    """A username without a password, or the reverse, is one line that says what to add."""
    (line,) = refused(flags, **environ)
    assert told in line


def test_flags_win_over_the_files_only_entries(tmp_path: Path) -> None:
    """Flags set the file's only listener and cluster, whatever their names; what they leave alone stays."""
    (tmp_path / "secret").write_text("from flag")
    flags = Flags("127.0.0.1:80", "k9:9", "k.example.com:80", "ports", "PLAIN", "me", str(tmp_path / "secret"))
    config = from_flags(flags, FILE, environ={"PW": "hunter2"}).config
    assert config.listeners["edge"].bind == ("127.0.0.1", 80)
    assert config.listeners["edge"].advertise == ("k.example.com", 80)
    assert config.clusters["prod"].bootstrap == (("k9", 9),)
    login = sasl(flags, FILE)
    assert (login.username, login.revealed()) == ("me", "from flag")
    kept = sasl(Flags(username="me"), FILE, PW="hunter2")
    assert (kept.username, kept.revealed()) == ("me", "hunter2")


def test_the_environment_gives_way_to_the_file() -> None:
    """KPROXY_USERNAME and KPROXY_PASSWORD fill in what the file leaves out, and change nothing that it says."""
    login = sasl(Flags(), FILE, PW="hunter2", KPROXY_USERNAME="env", KPROXY_PASSWORD="env")
    assert (login.username, login.revealed()) == ("gateway", "hunter2")
    half = FILE.replace(", password: {env: PW}", "")
    assert sasl(Flags(), half, KPROXY_PASSWORD="hunter2").revealed() == "hunter2"
    without = FILE.replace(", sasl: {username: gateway, password: {env: PW}}", "")
    assert sasl(Flags(), without, KPROXY_USERNAME="env", KPROXY_PASSWORD="hunter2").username == "env"


def test_a_flag_for_one_of_several_is_refused() -> None:
    """Which of two listeners or clusters is meant cannot be told; the environment is no such request."""
    assert refused(Flags(listen="127.0.0.1:1"), TWO, PW="x") == [
        "--listen: the file has several listeners (edge, other); set it there, for the one meant"
    ]
    clusters = FILE.replace("listeners:", "  test: {bootstrap: [k:1]}\nlisteners:").replace(
        "bind", "cluster: test, bind"
    )
    (line,) = refused(Flags(username="u"), clusters, PW="x")
    assert line.startswith("--username: the file has several clusters (prod, test)")
    config = from_flags(Flags(), clusters, environ={"PW": "x", "KPROXY_USERNAME": "env"}).config
    assert config.clusters["test"].sasl is None


def test_flags_complete_a_file_without_entries() -> None:
    """A file may leave the listener, or the cluster, to the command line."""
    config = from_flags(ALONE, "drain_timeout: 5s", environ={}).config
    assert (list(config.clusters), list(config.listeners), config.drain_timeout) == (["main"], ["public"], 5.0)
    config = from_flags(ALONE, "clusters: {main: }\nlisteners:\n", environ={}).config
    assert config.listeners["public"].cluster == "main"


@pytest.mark.parametrize("config", ["- a", "clusters: []", "clusters: {main: []}", "clusters: {main: {sasl: []}}"])
def test_flags_beside_a_broken_file_do_not_hide_its_mistakes(config: str) -> None:
    """What is no mapping in the file is told as such, with its place."""
    lines = refused(ALONE._replace(username="u"), config, KPROXY_PASSWORD="x")
    assert any("must be a mapping" in line and line.startswith("config:1:") for line in lines)


def test_workers() -> None:
    """--workers is for all of it, and wins over the file; a number that makes no sense is refused, with the flag."""
    two = "{clusters: {a: {bootstrap: [k:1]}}, listeners: {b: {bind: h:1}, c: {bind: h:999}}, workers: 2}"
    assert from_flags(Flags(), two, environ={}).config.workers == 2
    assert from_flags(Flags(workers=3), two, environ={}).config.workers == 3
    for number in (0, 65):
        with pytest.raises(ConfigError, match="--workers: is too"):
            from_flags(Flags(workers=number), two, environ={})
