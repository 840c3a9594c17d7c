"""``kproxy doctor`` on the command line: what is wrong usage, what is written, and how it ends."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trustme
from click.testing import CliRunner, Result

from kproxy.cli.main import main
from kproxy.config.values import HostPort
from kproxy.service.doctor.client import Client
from kproxy.service.doctor.findings import Finding, fail, ok, skip, warn

FOUND = [
    ok("connect", "in 1 ms")._replace(place="kproxy1:9092"),
    skip("scratch", "not asked for")._replace(place="kproxy1:9092"),
    warn("versions", "odd", "mend it")._replace(place="cluster main"),
    fail("address", "none", "give one")._replace(place="cluster main"),
]


class Walk(ModuleType):
    """Stands for the walk: notes what it was told, and finds what the test says."""

    def __init__(self) -> None:
        super().__init__("kproxy.service.doctor.walk")
        self.found: list[Finding] = []
        self.calls: list[tuple[Any, ...]] = []

    def diagnose(self, client: Client, target: HostPort, report: Any, **options: Any) -> None:
        """Walk one proxy."""
        self.calls.append((client, target, options))
        for finding in self.found:
            report(finding)

    def diagnose_config(self, config: Any, client: Client, report: Any, **options: Any) -> None:
        """Walk a configuration."""
        self.diagnose(client, next(iter(config.listeners.values())).bind, report, **options)


@pytest.fixture
def walk(monkeypatch: pytest.MonkeyPatch) -> Walk:
    """The walk replaced."""
    module = Walk()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def doctor(*arguments: object) -> Result:
    """Run it in this process; no test may see a password in what it says."""
    result = CliRunner().invoke(main, ["doctor", *map(str, arguments)])
    assert "hunter2" not in result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file with a password."""
    path = tmp_path / "secret"
    path.write_text("hunter2\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(("count", "code", "sum_of_all"), [(2, 0, "all is well"), (3, 0, "1 warned")])
def test_what_is_written_and_the_exit_code(walk: Walk, count: int, code: int, sum_of_all: str) -> None:
    """A line for each finding under what was walked; a warning alone leaves the exit code at 0."""
    walk.found = FOUND[:count]
    result = doctor("kproxy1:9092")
    assert (result.exit_code, result.stderr) == (code, "")
    lines = result.stdout.splitlines()
    assert lines[:3] == ["kproxy1:9092", "  ok    connect    in 1 ms", "  skip  scratch    not asked for"]
    assert lines[-1] == sum_of_all


def test_a_failure_is_told_with_its_remedy_and_code_1(walk: Walk) -> None:
    """Each remedy is below its finding, each place above its own; no colour where there is no terminal."""
    walk.found = FOUND
    result = doctor("kproxy1:9092")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[3:] == [
        "cluster main",
        "  warn  versions   odd",
        "                   -> mend it",
        "  fail  address    none",
        "                   -> give one",
        "1 failed, 1 warned",
    ]


def test_json_for_programs(walk: Walk) -> None:
    """All findings with their fields, and the worst level; the exit code is the same."""
    walk.found = FOUND
    result = doctor("kproxy1:9092", "--json")
    assert result.exit_code == 1
    written = json.loads(result.stdout)
    assert written["worst"] == "fail"
    assert [found["level"] for found in written["findings"]] == ["ok", "skip", "warn", "fail"]
    assert written["findings"][3] == {
        "level": "fail",
        "step": "address",
        "text": "none",
        "remedy": "give one",
        "place": "cluster main",
    }


def test_every_option_reaches_the_walk(walk: Walk, secret: Path, tmp_path: Path) -> None:
    """TLS, the login, the client id, and what to walk besides."""
    authority = trustme.CA()
    ca_file, cert_file = tmp_path / "ca.pem", tmp_path / "cert.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    authority.issue_cert("client@example.com").private_key_and_cert_chain_pem.write_to_path(str(cert_file))
    tls = ["--tls", "--ca-file", ca_file, "--cert-file", cert_file, "--server-name", "kafka.test"]
    login = ["--username", "gateway", "--password-file", secret]
    more = [
        "--client-id",
        "me",
        "--scratch-topic",
        "s",
        "--compare",
        "k2:1",
        "--own",
        "a",
        "--own",
        "b",
        "--timeout",
        2,
    ]
    assert doctor("kproxy1:9092", *tls, *login, *more).exit_code == 0
    ((client, target, options),) = walk.calls
    assert target == HostPort("kproxy1", 9092)
    assert options == {"scratch_topic": "s", "compare": HostPort("k2", 1), "own_hosts": ("a", "b")}
    assert client.tls is not None
    assert (client.server_name, client.client_id, client.timeout_seconds) == ("kafka.test", "me", 2.0)
    assert (client.protocol, client.mechanism.password) == ("SASL_SSL", "hunter2")
    assert "hunter2" not in repr(client)


def test_a_configuration_is_walked(walk: Walk, tmp_path: Path) -> None:
    """With --config there is no address to give."""
    path = tmp_path / "kproxy.yaml"
    path.write_text("clusters: {main: {bootstrap: [k:1]}}\nlisteners: {a: {bind: 127.0.0.1:1}}", encoding="utf-8")
    assert doctor("--config", path, "--scratch-topic", "s").exit_code == 0
    ((_, target, options),) = walk.calls
    assert target == HostPort("127.0.0.1", 1)
    assert options == {"listeners": (), "logins": [], "scratch_topic": "s", "own_hosts": ()}


def test_a_configuration_is_walked_with_what_its_listeners_may_ask_for(
    walk: Walk, secret: Path, tmp_path: Path
) -> None:
    """Only the listeners that are named; a login in each mechanism, unless one is named; TLS is not asked for."""
    path = tmp_path / "kproxy.yaml"
    listeners = "a: {bind: 127.0.0.1:1}, b: {bind: 127.0.0.1:10}, c: {bind: 127.0.0.1:20}"
    path.write_text(f"clusters: {{main: {{bootstrap: [k:1]}}}}\nlisteners: {{{listeners}}}", encoding="utf-8")
    login = ["--username", "gateway", "--password-file", secret]
    given = ["--config", path, "--listener", "b", "--listener", "c", "--server-name", "kafka.test", *login]
    assert doctor(*given).exit_code == 0
    assert doctor(*given, "--mechanism", "SCRAM-SHA-512").exit_code == 0
    (client, _, options), (_, _, named) = walk.calls
    assert options["listeners"] == ("b", "c")
    assert (client.server_name, client.tls is not None) == ("kafka.test", True)
    assert [login.name for login in options["logins"]] == ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
    assert [login.name for login in named["logins"]] == ["SCRAM-SHA-512"]
    walk.calls.clear()
    result = doctor("--config", path, "--listener", "d")
    assert (result.exit_code, walk.calls) == (2, [])
    assert result.stderr == "kproxy: --listener: there is no d; there are: a, b, c\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give either HOST:PORT, as a client has it, or --config FILE"),
        (["k:1", "--config", "f"], "give either HOST:PORT, as a client has it, or --config FILE"),
        (["--config", "f", "--compare", "k:1"], "--compare goes with HOST:PORT, not with --config"),
        (["k:1", "--listener", "a"], "--listener goes with --config"),
        (["kafka"], "HOST:PORT: 'kafka' "),
        (["k:1", "--compare", ":2"], "--compare: ':2' names no host"),
        (["k:1", "--ca-file", "f"], "--ca-file needs --tls"),
        (["k:1", "--insecure"], "--insecure needs --tls"),
        (["k:1", "--tls", "--key-file", "f"], "--key-file needs --cert-file"),
        (["k:1", "--tls", "--ca-file", "/no/such"], "--ca-file: /no/such cannot be used: No such file or directory"),
        (["k:1", "--tls", "--ca-file", __file__], f"--ca-file: {__file__} cannot be used: "),
        (["k:1", "--tls", "--cert-file", __file__], f"--cert-file: {__file__} with the key in it cannot be used: "),
        (["k:1", "--username", "u"], "--username and --password-file go together"),
        (["k:1", "--username", "u", "--password-file", "/no/such"], "--password-file: the secret file /no/such cannot"),
        (["k:1", "--mechanism", "GSSAPI"], "Invalid value for '--mechanism'"),
        (["k:1", "--timeout", "0"], "Invalid value for '--timeout'"),
        (["--config", "/no/such.yaml"], "/no/such.yaml: cannot be read"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(walk: Walk, arguments: list[str], told: str) -> None:
    """Nothing is walked, and one line on stderr says why."""
    result = doctor(*arguments)
    assert (result.exit_code, result.stdout, walk.calls) == (2, "", [])
    assert result.stderr.startswith(f"kproxy: {told}")
    assert len(result.stderr.splitlines()) == 1
