"""The real program, `kproxy run`, as a process of its own behind a Tap.

The checks that every end-to-end test wants are made in ``finish``: no address of a broker went to a client, SIGTERM
ended the proxy with exit code 0, and nothing it wrote holds a traceback, or a secret that was configured or used::

    proxy = ProxyProcess(tmp_path, cluster.sasl_bootstrap, login=("gateway", "gateway-secret"))
    proxy.start()
    Producer({"bootstrap.servers": proxy.address})
    proxy.finish()
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from kproxy.errors import KproxyError
from kproxy.testing.ports import free_port_block
from kproxy.testing.processes import GuardedProcess
from kproxy.testing.tap import Tap
from kproxy.testing.waiting import wait_until

SECRETS: set[str] = set()
"""Passwords that clients use; whoever makes one adds it."""

_CONFIGURED = re.compile(r"""(?:password|client_secret|api_key)["']?\s*:\s*["']?([^"'\s,{}\[\]]{6,})""")


class ProxyError(KproxyError):
    """The proxy did not do what every run of it must; the text holds the end of its log."""


class ProxyProcess:
    """One run of the program.

    Args:
        folder: For its output and the password file.
        bootstrap: host:port, comma between, as ``--bootstrap`` takes it.
        arguments: More of the command line, last.
        login: User name and password for the brokers.
        addressing: "ports" or "single".
        node_id_max: With "ports": the highest node id there will be; a port is kept for each.
        forbidden: What no client may be sent; empty where an administrator asks for the brokers' own configuration.

    Attributes:
        tap: Between clients and the proxy.
        output: Its standard output: a line per listener once it can serve.
        log: Its standard error.
    """

    def __init__(
        self,
        folder: Path,
        bootstrap: str,
        *arguments: str,
        login: tuple[str, str] | None = None,
        addressing: str = "ports",
        node_id_max: int = 5,
        forbidden: tuple[bytes, ...] = (b"127.0.1.",),
    ) -> None:
        ports = 2 + node_id_max if addressing == "ports" else 1
        self.port = free_port_block(ports)
        self.tap = Tap(free_port_block(ports), self.port, ports, forbidden=forbidden)
        self.output = folder / f"kproxy-{self.port}.out"
        self.log = folder / f"kproxy-{self.port}.log"
        self._arguments = [
            *("--listen", f"127.0.0.1:{self.port}", "--advertise", self.tap.address),
            *("--bootstrap", bootstrap, "--addressing", addressing),
            *self._login_arguments(folder, login),
            *arguments,
        ]
        self._child: GuardedProcess | None = None
        self._secrets = set() if login is None else {login[1]}

    @property
    def address(self) -> str:
        """What clients are given, as host:port: the tap's."""
        return self.tap.address

    @property
    def pid(self) -> int:
        """The process id of the program (with workers: of their supervisor).

        Raises:
            ProxyError: it does not run.
        """
        return self._running().process.pid

    def launch(self) -> None:
        """Start it and return at once; ``wait_ready`` comes next."""
        self.tap.start()
        with self.output.open("wb") as output, self.log.open("wb") as log:
            self._child = GuardedProcess(
                [sys.executable, "-m", "kproxy.cli", "run", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )

    def start(self, timeout_seconds: float = 30) -> None:
        """Start it, and wait until it can serve.

        Raises:
            ProxyError: it ended instead.
            TimeoutError: it took too long.
        """
        self.launch()
        self.wait_ready(timeout_seconds)

    def wait_ready(self, timeout_seconds: float = 30) -> None:
        """Wait for the line that tells clients where to go."""

        def told() -> bool:
            self._running()
            return self.address in self.output.read_text(encoding="utf-8")

        wait_until(told, timeout_seconds, lambda: f"kproxy to serve:\n{self.log_tail()}")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._running().signal(number)

    def kill(self) -> None:
        """End it at once (SIGKILL); ``finish`` then says nothing of its exit code."""
        self._running().kill()
        self._child = None

    def finish(self, timeout_seconds: float = 30) -> None:
        """Ask it to end (SIGTERM) unless it was killed, and make the checks that every run must pass.

        Raises:
            ProxyError: an address leaked, it did not end with exit code 0, or it wrote a traceback or a secret.
        """
        try:
            code = 0 if self._child is None else self._child.stop(timeout_seconds)
        finally:
            self._child = None
            self.tap.stop()
        text = self.output.read_text(encoding="utf-8") + self.log.read_text(encoding="utf-8")
        if self.tap.leaks:
            raise ProxyError(f"addresses of brokers went to clients: {self.tap.leaks[:3]}")
        if told := [secret for secret in self._secrets | SECRETS if secret in text]:
            raise ProxyError(f"{self.log} or {self.output} holds a secret, {told[0]!r}")
        if code != 0 or "Traceback" in text:
            raise ProxyError(f"kproxy ended with exit code {code}:\n{self.log_tail()}")

    def log_tail(self, lines: int = 40) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def _running(self) -> GuardedProcess:
        if self._child is None or self._child.process.poll() is not None:
            raise ProxyError(f"kproxy does not run:\n{self.log_tail() if self.log.exists() else ''}")
        return self._child

    def _login_arguments(self, folder: Path, login: tuple[str, str] | None) -> list[str]:
        if login is None:
            return []
        path = folder / f"kproxy-{self.port}.password"
        path.write_text(login[1], encoding="utf-8")
        path.chmod(0o600)
        return ["--username", login[0], "--password-file", str(path)]


class ConfiguredProxy(ProxyProcess):
    """A run with a configuration of its own, whatever listeners it has, and no Tap before it.

    For TLS, whose bytes tell a Tap nothing; the other checks of ``finish`` are made all the same.

    Args:
        folder: For its output.
        config: The file.
        address: What it says that clients should use, of any of its listeners: then all are open.
        arguments: More of the command line.
    """

    def __init__(self, folder: Path, config: Path, address: str, *arguments: str) -> None:
        self.port = int(address.rpartition(":")[2])
        self.tap = Tap(self.port, self.port, ports=0)
        self.output = folder / f"kproxy-{self.port}.out"
        self.log = folder / f"kproxy-{self.port}.log"
        self._address = address
        self._arguments = ["--config", str(config), *arguments]
        self._child: GuardedProcess | None = None
        self._secrets = set(_CONFIGURED.findall(config.read_text(encoding="utf-8")))

    @property
    def address(self) -> str:
        """See the class."""
        return self._address
