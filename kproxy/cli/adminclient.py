"""A client of the admin API, for commands: over TCP or a unix socket, one line for everything that can go wrong.

::

    client = AdminClient("127.0.0.1:9090", key)
    client.get("/status")                        # what the answer's JSON holds

No proxy of the environment's is used: the key goes to that address and nowhere else.
"""

import http.client
import json
import os
import socket
from pathlib import Path
from typing import Any

from kproxy.config.values import HostPort, SocketPath, parse_admin_bind
from kproxy.errors import ConfigError, KproxyError

TIMEOUT_SECONDS = 5.0
"""The API itself waits two seconds for a worker."""

ANSWER_BYTES_MAX = 16 * 1024 * 1024
"""A page of 1,000 clients is half a megabyte."""

KEY_BYTES_MAX = 64 * 1024
"""As for other secrets (config.values)."""


def read_key(path: Path | None) -> str | None:
    """Return the key in a file, or else the environment's; None where there is none. Raises ConfigError."""
    if path is None:
        return os.environ.get("KPROXY_ADMIN_KEY") or None
    try:
        with path.open("rb") as file:
            key = file.read(KEY_BYTES_MAX).decode("ascii").strip()
    except OSError as error:
        raise ConfigError(f"--api-key-file: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        key = ""
    if not key or not all("!" <= character <= "~" for character in key):
        raise ConfigError(f"--api-key-file: {path} holds no key; write the key into it, and nothing else")
    return key


class AdminClient:
    """See the module. One connection, kept as long as it holds."""

    def __init__(self, address: str, key: str | None, option: str = "--admin") -> None:
        """Prepare to ask the API at an address, host:port or a path, that ``option`` gave. Raises ConfigError."""
        try:
            self._bind = parse_admin_bind(address)
        except ValueError as error:
            raise ConfigError(f"{option}: {error}") from None
        self.address = str(self._bind)
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._has_key = key is not None
        self._connection: http.client.HTTPConnection | None = None

    def get(self, path: str) -> Any:  # noqa: ANN401 - JSON is anything
        """Return what an answer holds. Raises KproxyError."""
        return self._send("GET", path, None)

    def _send(self, method: str, path: str, sent: bytes | None) -> Any:  # noqa: ANN401 - JSON is anything
        try:
            status, body = self._ask(method, path, sent)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise KproxyError(
                f"no admin API at {self.address}: {_reason(error)}; does kproxy run, with --admin?"
            ) from None
        if status in {401, 403}:
            advice = "the key is wrong" if self._has_key else "it wants a key: give --api-key-file, or KPROXY_ADMIN_KEY"
            raise KproxyError(f"the admin API at {self.address} refuses: {advice}")
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if status == 200 and answer is not None:
            return answer
        if sent is not None and isinstance(answer, dict) and status in {400, 409}:
            if "mistakes" in answer:
                raise ConfigError("\n".join(answer["mistakes"]))
            raise KproxyError(f"the admin API at {self.address} refuses: {answer.get('error')}")
        raise KproxyError(f"what answers at {self.address} is no admin API of kproxy (HTTP {status} to {path})")

    def put(self, path: str, body: bytes) -> Any:  # noqa: ANN401 - JSON is anything
        """Return what an answer holds. Raises ConfigError for mistakes in what was sent, KproxyError for all else."""
        return self._send("PUT", path, body)

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, method: str, path: str, sent: bytes | None) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = _connect(self._bind)
        try:
            self._connection.request(method, path, sent, self._headers)
            response = self._connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            # It was idle for too long; on a new one whatever is wrong shows.
            self._connection.close()
            self._connection = _connect(self._bind)
            self._connection.request(method, path, sent, self._headers)
            response = self._connection.getresponse()
        body = response.read(ANSWER_BYTES_MAX + 1)
        if len(body) > ANSWER_BYTES_MAX:
            raise http.client.HTTPException("the answer is too long")
        return response.status, body


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        """See http.client."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(self._path)


def _connect(bind: HostPort | SocketPath) -> http.client.HTTPConnection:
    if isinstance(bind, SocketPath):
        return _UnixConnection(bind.path)
    return http.client.HTTPConnection(bind.host, bind.port, timeout=TIMEOUT_SECONDS)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return str(error).lower() or type(error).__name__
