"""The program's face: commands, exit codes, and errors of one line."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import structlog
from click.testing import CliRunner, Result

from kproxy import __version__
from kproxy.cli.main import COMMANDS, main
from kproxy.config.model import Config
from kproxy.errors import KproxyError

GOOD = """\
clusters:
  main: {bootstrap: [kafka1:9092, kafka2:9092], sasl: {username: gateway, password: hunter2}}
listeners:
  public: {bind: 0.0.0.0:9092, advertise: kafka.example.com:19092}
  listed: {bind: 127.0.0.1:9300, broker_ports: {1: 9301}}
  both: {bind: 127.0.0.1:9400, broker_ports: {1: 9401}, broker_port_start: 9500}
  single: {bind: 0.0.0.0:9700, addressing: single}
"""


def kproxy(*args: str, **env: str | None) -> Result:
    """Run the program in this process; no test may see a password in what it says."""
    result = CliRunner(env={"KPROXY_USERNAME": None, "KPROXY_PASSWORD": None, **env}).invoke(main, args)
    assert "hunter2" not in result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A good configuration file."""
    path = tmp_path / "kproxy.yaml"
    path.write_text(GOOD)
    return path


class Supervisor(ModuleType):
    """Stands for the service: notes what it was told to run."""

    calls: list[tuple[Config, dict[str, Any]]]
    result: int | BaseException

    def run(self, config: Config, **options: Any) -> int:
        """Note the call; do as the test says."""
        self.calls.append((config, options))
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    """The service replaced, and logging left as it was."""
    module = Supervisor("kproxy.service.supervisor")
    module.calls, module.result = [], 0
    monkeypatch.setitem(sys.modules, module.__name__, module)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield module
    logging.captureWarnings(False)
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_help_names_every_command_without_loading_any() -> None:
    """--help is quick, as it loads none of what serves; no arguments show it too, as wrong usage."""
    code = "import sys; from kproxy.cli.main import main\ntry: main(['--help'])\nfinally: print(sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert all(f"  {name} " in out for name in COMMANDS)
    assert not any(f"'{module}'" in out for module in ("pydantic", "structlog", "yaml", "kproxy.cli.run"))
    empty = kproxy()
    assert empty.exit_code == 2
    assert "Commands:" in empty.stderr


@pytest.mark.parametrize("module", ["kproxy", "kproxy.cli"])
def test_python_m_is_the_same_program(module: str) -> None:
    """``python -m kproxy`` and ``python -m kproxy.cli`` answer as ``kproxy`` does."""
    command = [sys.executable, "-m", module, "--version"]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert out == f"kproxy {__version__}\n"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["runn"], "kproxy: No such command 'runn'"),
        (["run", "--listn", "x"], "kproxy: No such option"),
        (["run"], "kproxy: --listen and --bootstrap missing; give --listen 127.0.0.1:9092 --bootstrap kafka1:9092"),
        (["run", "--listen", ":9092", "--bootstrap", "k:1"], "kproxy: --listen: ':9092' names no host"),
        (["run", "--addressing", "names"], "kproxy: Invalid value for '--addressing'"),
        (["run", "--mechanism", "GSSAPI"], "kproxy: Invalid value for '--mechanism'"),
        (["run", "--config", "/no/such.yaml"], "kproxy: /no/such.yaml: cannot be read: No such file"),
        (["check"], "kproxy: Missing argument 'FILE'"),
        (["check", "/no/such.yaml"], "kproxy: /no/such.yaml: cannot be read: No such file"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(args: list[str], told: str) -> None:
    """Whatever is wrong with a command line, one line on stderr says so, and nothing runs."""
    result = kproxy(*args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(told)
    assert len(result.stderr.splitlines()) == 1


def test_check_tells_every_mistake_at_once(tmp_path: Path) -> None:
    """Each mistake is a line with path, line and column; the exit code is 2."""
    path = tmp_path / "kproxy.yaml"
    path.write_text(GOOD.replace("bootstrap", "boostrap").replace("0.0.0.0:9092", "':9092'"))
    result = kproxy("check", str(path))
    assert result.exit_code == 2
    assert [line.split(": ")[1] for line in result.stderr.splitlines()] == [f"{path}:2:10", f"{path}:4:18"]
    assert "did you mean 'bootstrap'?" in result.stderr


def test_check_tells_what_would_run(config: Path) -> None:
    """A good file is summed up: brokers, login, and the addresses clients use; warnings go to stderr."""
    result = kproxy("check", str(config))
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{config}: ok",
        "  cluster main: kafka1:9092, kafka2:9092; SASL PLAIN as 'gateway'",
        (
            "  listener public: 0.0.0.0:9092 to cluster main; clients use kafka.example.com:19092,"
            " broker N at port 19093 + N"
        ),
        "  listener listed: 127.0.0.1:9300 to cluster main; clients use 127.0.0.1:9300, broker 1 at port 9301",
        (
            "  listener both: 127.0.0.1:9400 to cluster main; clients use 127.0.0.1:9400, broker 1 at port 9401,"
            " any other at port 9500 + N"
        ),
        (
            "  listener single: 0.0.0.0:9700 to cluster main; clients use port 9700 of the address they reach"
            " for all brokers"
        ),
    ]
    warnings = result.stderr.splitlines()
    assert all(line.startswith(f"warning: {config}:") for line in warnings)
    assert any("the password stands in the file" in line for line in warnings)
    assert any("kafkajs" in line for line in warnings)


def test_check_tells_what_limits_there_are(tmp_path: Path) -> None:
    """Each limit is a line: how much of what, per what, for whom, and what happens then."""
    path = tmp_path / "limits.yaml"
    path.write_text(
        """
        clusters: {main: {bootstrap: [kafka1:9092]}}
        listeners: {public: {bind: 127.0.0.1:9092}}
        limits:
          - {name: rate, leaky_bucket: {rate: 0.5}, key: [client_ip, client_id]}
          - {name: big, leaky_bucket: {rate: 10MiB, unit: bytes_in}, match: {apis: [Produce, Fetch]}, on_exceed: delay}
          - {name: window, fixed_window: {count: 1000, window: 20s, unit: bytes_out}, match: {client_ips: [10.0.0.0/8]}}
          - {name: slots, concurrency: {max: 2000}, dry_run: true}
          - {name: doors, connections: {max: 30, rate: 2.5}, key: [listener]}
        """,
        encoding="utf-8",
    )
    result = kproxy("check", str(path))
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line for line in result.stdout.splitlines() if "limit" in line][1:] == [
        "  limit rate: 0.5 requests a second per client_ip and client_id, then throttle",
        "  limit big: 10MiB in a second, all clients together (apis Produce, Fetch), then delay",
        "  limit window: 1,000 bytes out in 20 s, all clients together (client_ips 10.0.0.0/8), then throttle",
        "  limit slots: 2,000 requests in flight, all clients together, then throttle (dry run)",
        "  limit doors: 30 connections and 2.5 new connections a second per listener, then close",
    ]


def test_check_tells_of_the_admin_api(tmp_path: Path) -> None:
    """Where it is, and whether it asks for a key, which is not shown."""
    path = tmp_path / "kproxy.yaml"
    text = "clusters: {main: {bootstrap: [kafka1:9092]}}\nlisteners: {public: {bind: 127.0.0.1:9092}}\n"
    for admin, line in (
        ("{bind: /run/kproxy.sock}", "  admin: /run/kproxy.sock, without a key"),
        ("{bind: 127.0.0.1:9090, api_key: sesame}", "  admin: 127.0.0.1:9090, with a key"),
    ):
        path.write_text(f"{text}admin: {admin}\n", encoding="utf-8")
        result = kproxy("check", str(path))
        assert result.exit_code == 0
        assert result.stdout.splitlines()[-1] == line
        assert "sesame" not in result.output


@pytest.mark.parametrize(("problems", "code"), [([], 0), (["kafka1:9092: refused", "kafka2:9092: refused"], 1)])
def test_check_connect_tries_the_brokers(
    problems: list[str], code: int, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --connect, each problem with a broker is a line, and the exit code is 1."""
    probe = ModuleType("kproxy.service.probe")
    probe.check_connect = lambda config: problems if isinstance(config, Config) else None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, probe.__name__, probe)
    result = kproxy("check", str(config), "--connect")
    assert result.exit_code == code
    told = [line for line in result.stderr.splitlines() if line.startswith("kproxy: ")]
    assert told == [f"kproxy: {problem}" for problem in problems]
    assert ("brokers: ok" in result.stdout) == (not problems)


def test_schema_is_json() -> None:
    """The schema can be written to a file for an editor."""
    result = kproxy("schema")
    assert result.exit_code == 0
    assert "listeners" in json.loads(result.stdout)["properties"]


def test_run_serves_what_flags_say(supervisor: Supervisor, tmp_path: Path) -> None:
    """Every flag reaches the service; a program that reads stderr gets JSON, warnings included."""
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    secret.chmod(0o600)
    flags = (
        "run --listen 0.0.0.0:9092 --bootstrap k:1,k:2 --addressing ports --username u --log-level debug --workers 3"
    )
    result = kproxy(*flags.split(), "--password-file", str(secret))
    assert result.exit_code == 0
    ((config, options),) = supervisor.calls
    sasl = config.clusters["main"].sasl
    assert sasl is not None
    assert (sasl.username, sasl.revealed(), config.workers) == ("u", "hunter2", 3)
    origin = options.pop("origin")
    assert (origin.flags.listen, origin.flags.workers, origin.path) == ("0.0.0.0:9092", 3, None)
    assert options == {"log_format": "json", "log_level": "debug"}
    (warning,) = [json.loads(line) for line in result.stderr.splitlines()]
    assert warning["event"].startswith("--listen: 0.0.0.0:9092 is no address for clients")


def test_run_lays_flags_and_the_environment_over_a_file(supervisor: Supervisor, tmp_path: Path) -> None:
    """--config with flags beside it: the flags win, the environment fills the gaps."""
    path = tmp_path / "kproxy.yaml"
    path.write_text("clusters: {main: {bootstrap: [k:1]}}\nlisteners: {a: {bind: 127.0.0.1:1}}")
    env = {"KPROXY_USERNAME": "u", "KPROXY_PASSWORD": "hunter2"}
    result = kproxy("run", "--config", str(path), "--listen", "127.0.0.1:2", "--log-format", "console", **env)
    assert result.exit_code == 0
    ((config, options),) = supervisor.calls
    assert config.listeners["a"].bind.port == 2
    assert config.clusters["main"].sasl is not None
    origin = options.pop("origin")
    assert (origin.flags.listen, origin.path) == ("127.0.0.1:2", path)
    assert options == {"log_format": "console", "log_level": "info"}


@pytest.mark.parametrize(
    ("outcome", "code", "told"),
    [
        (1, 1, ""),
        (KproxyError("no port\nleft"), 1, "kproxy: no port left\n"),
        (OSError(98, "Address already in use", "127.0.0.1:1"), 1, "kproxy: Address already in use: 127.0.0.1:1\n"),
        (KeyboardInterrupt(), 1, "kproxy: stopped\n"),
    ],
)
def test_a_failure_while_running_is_one_line_and_code_1(
    outcome: int | BaseException, code: int, told: str, supervisor: Supervisor
) -> None:
    """The service's code is the program's; an error that it raises on purpose is told in a line."""
    supervisor.result = outcome
    result = kproxy("run", "--listen", "127.0.0.1:1", "--bootstrap", "k:1")
    assert result.exit_code == code
    assert result.stderr.lstrip() == told  # a line of its own after the terminal's ^C
