"""One node of a real Apache Kafka: the process, its folder, its properties, and how to tell that it serves.

A node serves when its own Metadata names it, which is asked by hand, over plain TCP::

    >>> ask_brokers("127.0.1.1", 9092)
    {1: '127.0.1.1:9092', 2: '127.0.1.2:9092', 3: '127.0.1.3:9092'}

Never here: what the nodes of a cluster have in common; that is KafkaCluster's.
"""

import signal
import socket
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kproxy.errors import KproxyError
from kproxy.testing.java import JavaTools, Tool, kafka_jars
from kproxy.testing.ports import free_port_block
from kproxy.testing.processes import GuardedProcess
from kproxy.testing.waiting import wait_until
from kproxy.wire import primitives as p

METADATA_V1 = bytes.fromhex("0003 0001 00000001 0007") + b"testing" + bytes(4)
"""Metadata v1 that asks for no topic: key 3, version 1, correlation id 1, client id, an empty array."""


class ClusterError(KproxyError):
    """A broker did not do what a test asked of it; the text holds the end of its log."""


@dataclass(frozen=True)
class Shared:
    """What all nodes of a cluster have in common; ``properties`` is asked before each start."""

    data_dir: Path
    cluster_id: str
    heap: str
    jvm_flags: tuple[str, ...]
    properties: Callable[[], Mapping[str, str]]


class Broker:
    """One node: its folder, its ports, and its process when it runs.

    Args:
        shared: The cluster's part.
        node_id: Its id, 1 to 254: it listens on 127.0.1.<node_id>.
        version: Of Kafka.
        controller: Whether it takes part in the quorum too.
    """

    def __init__(self, shared: Shared, node_id: int, version: str, *, controller: bool) -> None:
        self.node_id = node_id
        self.host = f"127.0.1.{node_id}"
        self.controller = controller
        self.sasl_port, self.plain_port, self.controller_port = self._free_ports()
        self.folder = shared.data_dir / f"node-{node_id}"
        self.log_path = shared.data_dir / f"node-{node_id}.log"
        self.version = version
        self._shared = shared
        self._child: GuardedProcess | None = None
        self._paused = False

    def _free_ports(self) -> tuple[int, int, int]:
        base = free_port_block(3, self.host)
        return base, base + 1, base + 2

    @property
    def sasl_address(self) -> str:
        """Where clients log in, as host:port."""
        return f"{self.host}:{self.sasl_port}"

    @property
    def plain_address(self) -> str:
        """Where nobody has to log in, as host:port."""
        return f"{self.host}:{self.plain_port}"

    @property
    def address(self) -> str:
        """What a proxy is given: the SASL address."""
        return self.sasl_address

    @property
    def is_running(self) -> bool:
        """Whether the process lives, paused or not."""
        return self._child is not None and self._child.process.poll() is None

    @property
    def answers(self) -> bool:
        """Whether the process lives and is not paused."""
        return self.is_running and not self._paused

    @property
    def pid(self) -> int:
        """The process id.

        Raises:
            ClusterError: it does not run.
        """
        return self._running().process.pid

    def launch(self, version: str | None = None, properties: Mapping[str, str] | None = None) -> None:
        """Start the process and return at once; ``wait_ready`` comes next. Arguments as for ``start``."""
        if self.is_running:
            raise ClusterError(f"node {self.node_id} runs already")
        self._discard()
        self.version = version or self.version
        tools = JavaTools(kafka_jars(self.version), self._shared.heap, self._shared.jvm_flags)
        path = self._write_properties(properties or {})
        with self.log_path.open("ab") as log:
            command = tools.command("kafka.Kafka", str(path))
            self._child = GuardedProcess(
                [command[0], f"-Xms{self._shared.heap}", *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def start(
        self,
        version: str | None = None,
        properties: Mapping[str, str] | None = None,
        timeout_seconds: float = 60,
    ) -> None:
        """Start, or start again on the same folder, and wait until it serves.

        Args:
            version: Another Kafka version's jars (an upgrade), kept for later starts; None: as before.
            properties: Set over the cluster's own, for this run.
            timeout_seconds: How long it may take.

        Raises:
            ClusterError: it ended instead.
            TimeoutError: it took too long.
        """
        self.launch(version, properties)
        self.wait_ready(timeout_seconds)

    def stop(self, timeout_seconds: float = 60) -> None:
        """Stop it as an operator does (SIGTERM): leaders move first. Nothing happens if it does not run."""
        if self.is_running:
            self.resume()
            self._running().stop(timeout_seconds)
        self._discard()

    def kill(self) -> None:
        """End it at once (SIGKILL), as a power cut does."""
        self._running().kill()
        self._discard()

    def pause(self) -> None:
        """Let it stop answering with its connections open (SIGSTOP)."""
        self._running().signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """Let it go on after ``pause`` (SIGCONT)."""
        self._running().signal(signal.SIGCONT)
        self._paused = False

    def move(self, host: str | None = None, timeout_seconds: float = 60) -> None:
        """Stop it, and start it again on other ports (and another 127.0.1.x, if given), as a reinstalled broker.

        Its controller, if it has one, stays where it is: the quorum's addresses are fixed (controller.quorum.voters).
        """
        self.stop(timeout_seconds)
        self.host = host or self.host
        self.sasl_port, self.plain_port, _ = self._free_ports()
        self.start(timeout_seconds=timeout_seconds)

    def wait_ready(self, timeout_seconds: float = 60) -> None:
        """Wait until it answers Metadata with itself among the brokers."""
        wait_until(lambda: self.node_id in self.nodes_seen(), timeout_seconds, self._explain("to serve"))

    def nodes_seen(self) -> set[int]:
        """Return the ids of the brokers that its Metadata names; none while it does not answer.

        Raises:
            ClusterError: the process has ended by itself.
        """
        if self._child is not None and (code := self._child.process.poll()) is not None:
            raise ClusterError(f"node {self.node_id} ended with {code}:\n{self.log_tail()}")
        try:
            return set(ask_brokers(self.host, self.plain_port))
        except OSError:
            return set()

    def log_tail(self, lines: int = 30) -> str:
        """Return the end of its log."""
        if not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def _running(self) -> GuardedProcess:
        if self._child is None or not self.is_running:
            raise ClusterError(f"node {self.node_id} does not run:\n{self.log_tail()}")
        return self._child

    def _discard(self) -> None:
        if self._child is not None:
            self._child.close()
        self._child = None
        self._paused = False

    def _explain(self, what: str) -> str:
        return f"node {self.node_id} {what} (log: {self.log_path})"

    def _write_properties(self, overrides: Mapping[str, str]) -> Path:
        properties = self._listener_properties() | dict(self._shared.properties()) | dict(overrides)
        if self.version.startswith("3."):
            properties = {key: value for key, value in properties.items() if not key.startswith("share.")}
        path = self._shared.data_dir / f"node-{self.node_id}.properties"
        path.write_text("".join(f"{key}={value}\n" for key, value in properties.items()), encoding="utf-8")
        return path

    def _listener_properties(self) -> dict[str, str]:
        advertised = f"SASL_PLAINTEXT://{self.sasl_address},PLAINTEXT://{self.plain_address}"
        # The controller's own address never moves, even where the broker's host does.
        controller = f",CONTROLLER://127.0.1.{self.node_id}:{self.controller_port}" if self.controller else ""
        return {
            "node.id": str(self.node_id),
            "process.roles": "broker,controller" if self.controller else "broker",
            "listeners": advertised + controller,
            "advertised.listeners": advertised,
            "log.dirs": str(self.folder),
        }

    def format(self) -> subprocess.Popen[bytes]:
        """Start writing the folder's identity; the caller waits for the process and looks at its exit code."""
        tools = JavaTools(kafka_jars(self.version))
        arguments = ("format", "-t", self._shared.cluster_id, "-c", str(self._write_properties({})))
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                tools.command(Tool.STORAGE, *arguments), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )


def ask_brokers(host: str, port: int, timeout_seconds: float = 2) -> dict[int, str]:
    """Return the brokers that a node's Metadata names, as {node id: "host:port"}.

    Raises:
        OSError: it cannot be reached, or does not answer in time.
    """
    with socket.create_connection((host, port), timeout_seconds) as connection:
        connection.settimeout(timeout_seconds)
        connection.sendall(p.INT32.pack(len(METADATA_V1)) + METADATA_V1)
        size = p.INT32.unpack(_read_exactly(connection, 4))[0]
        body = _read_exactly(connection, size)
    brokers: dict[int, str] = {}
    count, pos = p.array(body, 4)  # behind the correlation id
    for _ in range(count):
        node_id, pos = p.int32(body, pos)
        name, pos = p.string(body, pos)
        number, pos = p.int32(body, pos)
        pos = p.skip_string(body, pos)  # rack
        brokers[node_id] = f"{name}:{number}"
    return brokers


def _read_exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionResetError("closed in the middle of an answer")
        data += part
    return bytes(data)
