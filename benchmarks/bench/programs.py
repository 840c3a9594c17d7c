"""Starts what is measured and what it is measured with: the null broker, HAProxy in TCP mode, kproxy.

Each is a ``Target``: a port for the load and the process whose CPU counts. All listen on 127.0.0.1 only, write their
logs into the run's folder, and end with the ``with`` block, however it is left::

    with NullBroker(folder) as broker, KproxyTarget(folder, broker.port, "ports") as proxy:
        proxy.port      # where a client of node 1 connects
        proxy.pid       # the supervisor; the worker is its child
"""

import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from bench.build import BenchmarkError, build
from bench.pin import pinned
from kproxy.testing.certificates import Authority
from kproxy.testing.ports import free_port_block
from kproxy.testing.processes import GuardedProcess
from kproxy.testing.waiting import wait_until

START_SECONDS = 20
NODE_ID = 1
"""Of the null broker, and of the one Kafka broker that the clients meet."""

HAPROXY_CONFIG = """\
global
    nbthread 1
    maxconn 6000
defaults
    mode tcp
    timeout connect 5s
    timeout client 10m
    timeout server 10m
listen relay
    bind 127.0.0.1:{port}{bind_options}
    server broker {upstream}{server_options}
"""

API_VERSIONS_V0 = bytes.fromhex("0000000b 0012 0000 00000001 0001 62")


class Target:
    """Something that listens for Kafka clients; ``pid`` is None when nothing stands between client and broker."""

    def __init__(self, name: str, port: int, child: GuardedProcess | None = None, log: Path | None = None) -> None:
        self.name = name
        self.port = port
        self._child = child
        self._log = log

    @property
    def pid(self) -> int | None:
        """The process whose tree is measured."""
        return self._child.process.pid if self._child else None

    def __enter__(self) -> Self:
        """Wait until a request is answered.

        Raises:
            BenchmarkError: the program ended instead, or does not answer.
        """
        try:
            wait_until(self._answers, START_SECONDS, f"{self.name} to answer at 127.0.0.1:{self.port}")
        except TimeoutError as error:
            self.__exit__(None, None, None)
            raise BenchmarkError(f"{error}\n{self._log_tail()}") from None
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the program."""
        if self._child is None:
            return
        if self._child.process.poll() is None:
            self._child.kill()
        else:
            self._child.close()

    def _answers(self) -> bool:
        if self._child is not None and self._child.process.poll() is not None:
            raise BenchmarkError(f"{self.name} ended with {self._child.process.returncode}:\n{self._log_tail()}")
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as probe:
                probe.sendall(API_VERSIONS_V0)
                return len(probe.recv(8)) == 8
        except OSError:
            return False

    def _log_tail(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-2000:] if self._log else ""


def spawn(log: Path, command: Sequence[str], role: Literal["proxy", "peer"] = "proxy") -> GuardedProcess:
    """Start a program that writes into a log; ``role``: see pin."""
    with log.open("ab") as output, pinned(role):
        return GuardedProcess(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)


class NullBroker(Target):
    """The null broker: also what ``direct`` means."""

    def __init__(self, folder: Path, answer_bytes: int = 100) -> None:
        port, log = free_port_block(1), folder / "nullbroker.log"
        arguments = ["--port", str(port), "--node-id", str(NODE_ID), "--answer-bytes", str(answer_bytes)]
        super().__init__("direct", port, spawn(log, [str(build("nullbroker")), *arguments], "peer"), log)

    @property
    def pid(self) -> int | None:
        """Nothing stands in between: there is no proxy whose CPU could be counted."""
        return None


class HAProxyTarget(Target):
    """HAProxy as a TCP relay with one thread: the reference. With ``tls`` it ends its clients' TLS."""

    def __init__(self, folder: Path, upstream: str, port: int | None = None, *, tls: bool = False) -> None:
        port = port or free_port_block(1)
        name = f"haproxy{TLS if tls else ''}"
        options = f" ssl crt {certificate(folder)[0]}" if tls else ""
        command, log = _haproxy(folder, name, port, upstream, bind_options=options)
        super().__init__(name, port, spawn(log, command), log)


def _haproxy(
    folder: Path, name: str, port: int, upstream: str, *, bind_options: str = "", server_options: str = ""
) -> tuple[list[str], Path]:
    """Write a configuration; return the command that runs it, and its log."""
    config = folder / f"{name}-{port}.cfg"
    text = HAPROXY_CONFIG.format(port=port, upstream=upstream, bind_options=bind_options, server_options=server_options)
    config.write_text(text, encoding="ascii")
    return [haproxy_program() or "haproxy", "-db", "-f", str(config)], folder / f"{name}.log"


def certificate(folder: Path) -> tuple[Path, Path]:
    """Return the server's certificate with its key in one file, as HAProxy has it, and the folder of both."""
    both = folder / "both.pem"
    if not both.exists():
        files = Authority().server("127.0.0.1").write(folder, "server")
        both.write_bytes(files.cert_file.read_bytes() + files.key_file.read_bytes())
    return both, folder


class TlsClient(Target):
    """What makes the load speak TLS: an HAProxy before the target, on the load's side, whose CPU is not counted."""

    def __init__(self, folder: Path, target: Target) -> None:
        port, name = free_port_block(1), f"{target.name}-client"
        options = " ssl verify none"
        command, log = _haproxy(folder, name, port, f"127.0.0.1:{target.port}", server_options=options)
        super().__init__(target.name, port, spawn(log, command, "peer"), log)
        self._target = target

    @property
    def pid(self) -> int | None:
        """The target's: its CPU is what counts."""
        return self._target.pid

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End both."""
        super().__exit__(kind, error, trace)
        self._target.__exit__(kind, error, trace)


class KproxyTarget(Target):
    """kproxy in one of its addressing modes, with SASL/PLAIN towards the broker."""

    def __init__(
        self,
        folder: Path,
        upstream: str,
        addressing: str,
        command: Sequence[str] | None = None,
        *,
        variant: str = "",
    ) -> None:
        # Node N's port is the bootstrap port + 1 + N; the load goes there as a client's would.
        bind = free_port_block(2 + NODE_ID)
        self.bootstrap_port = bind
        name = f"kproxy-{addressing}{variant}"
        log, password, more = folder / f"{name}.log", folder / "password", folder / f"{name}.yaml"
        password.write_text("gateway-secret\n", encoding="ascii")
        more.write_text(json.dumps(VARIANTS.get(variant)), encoding="ascii")
        child = spawn(
            log,
            [
                *(command or kproxy_command()),
                *("run", "--listen", f"127.0.0.1:{bind}", "--bootstrap", upstream, "--addressing", addressing),
                *("--username", "gateway", "--password-file", str(password)),
                *(("--config", str(more)) if variant else ()),
            ],
        )
        super().__init__(name, bind + 1 + NODE_ID if addressing == "ports" else bind, child, log)


def haproxy_program() -> str | None:
    """Return HAProxy's path, or None where it is not installed (/usr/sbin may not be on the PATH)."""
    return shutil.which("haproxy") or shutil.which("haproxy", path="/usr/local/sbin:/usr/sbin:/sbin")


def haproxy_version() -> str | None:
    """Return HAProxy's version, or None where it is not installed."""
    if (program := haproxy_program()) is None:
        return None
    text = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"version (\S+)", text)
    return found[1] if found else "unknown"


def kproxy_command() -> list[str]:
    """Return how to start the kproxy that belongs to this Python.

    Raises:
        BenchmarkError: it is not installed.
    """
    beside = Path(sys.executable).with_name("kproxy")
    program = str(beside) if beside.exists() else shutil.which("kproxy")
    if program is None:
        raise BenchmarkError("there is no kproxy command beside this Python: pip install -e . first")
    return [program]


LIMITED, WATCHED, GUARDED, TLS = "-limited", "-watched", "-guarded", "-tls"
"""Behind a name: with three limits; with latency histograms and a request log; under access rules; with TLS."""

NAMES = ("direct", "haproxy", "kproxy-ports", "kproxy-single")
"""What is measured unless something else is asked for."""

LIMITED_NAMES = ("kproxy-ports", f"kproxy-ports{LIMITED}", "kproxy-single", f"kproxy-single{LIMITED}")
GUARDED_NAMES = ("kproxy-ports", f"kproxy-ports{GUARDED}", "kproxy-single", f"kproxy-single{GUARDED}")
TLS_NAMES = (f"haproxy{TLS}", f"kproxy-ports{TLS}", f"kproxy-single{TLS}")
WATCHED_NAMES = ("kproxy-ports", f"kproxy-ports{WATCHED}", "kproxy-single", f"kproxy-single{WATCHED}")

LIMITS = [
    {"name": "bucket", "leaky_bucket": {"rate": 1e9, "burst": 1e9, "nodelay": True}, "key": ["client_ip"]},
    {"name": "window", "fixed_window": {"count": 2_000_000_000, "window": "1h"}, "key": ["client_id"]},
    {"name": "slots", "concurrency": {"max": 1_000_000, "count_long_polls": True}},
]
"""Three limits that count every request and hold none up."""

RULES = [{"principal": "User:*", "operations": ["all"], "topic": "secret-*", "effect": "deny"}]
"""A rule that every topic is held against, and that none meets."""

VARIANTS: dict[str, dict[str, object]] = {
    GUARDED: {"listeners": {"public": {"access": {"default": "allow", "rules": RULES}}}},
    TLS: {"listeners": {"public": {"tls": {"cert_file": "server.pem", "key_file": "server.key"}}}},
    LIMITED: {"limits": LIMITS},
    # The log is written beside the configuration, and removed with it.
    WATCHED: {"metrics": {"latency": True}, "request_log": {"to": "file", "path": "requests.jsonl", "sample": 0.01}},
}
"""What stands in the configuration of each."""


def plain_name(name: str) -> str:
    """Return the name of the same program without limits, or unwatched."""
    for variant in VARIANTS:
        name = name.removesuffix(variant)
    return name


@contextmanager
def targets(folder: Path, names: Sequence[str], kproxy: Sequence[str] | None = None) -> Iterator[list[Target]]:
    """Start the null broker and the proxies ``names`` before it, all at once; idle ones cost nothing.

    HAProxy is left out, with a line that says so, where it is not installed.
    """
    with ExitStack() as stack:
        broker = stack.enter_context(NullBroker(folder))
        upstream = f"127.0.0.1:{broker.port}"
        started: list[Target] = []
        for name in names:
            if name == "direct":
                started.append(broker)
                continue
            plain = plain_name(name)
            variant, tls = name.removeprefix(plain), name.endswith(TLS)
            if not haproxy_program() and (tls or plain == "haproxy"):
                print(f"haproxy is not installed (apt-get install haproxy): {name} is left out", file=sys.stderr)
                continue
            if tls:
                certificate(folder)
            target: Target
            if plain == "haproxy":
                target = HAProxyTarget(folder, upstream, tls=tls)
            else:
                target = KproxyTarget(folder, upstream, plain.removeprefix("kproxy-"), kproxy, variant=variant)
            started.append(stack.enter_context(TlsClient(folder, target) if tls else target))
        yield started
