"""A client of the admin API that hides nothing: status, headers and body, over TCP or a unix socket."""

import http.client
import json
import socket
from collections.abc import Mapping
from typing import Any, NamedTuple

from kproxy.testing.ports import free_port_block
from kproxy.testing.waiting import wait_until

TIMEOUT_SECONDS = 20


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: str
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        """What the body holds."""
        return json.loads(self.body)


class Admin:
    """Asks one question per connection.

    Args:
        address: host:port, or the path of a unix socket; None: a free port of this machine.
        key: For the Authorization header.
    """

    def __init__(self, address: str | None = None, key: str | None = None) -> None:
        self.address = address or f"127.0.0.1:{free_port_block(1)}"
        self.key = key

    def get(self, path: str, **headers: str) -> Answer:
        """Ask."""
        return self.send("GET", path, None, headers)

    def post(self, path: str, **headers: str) -> Answer:
        """Do."""
        return self.send("POST", path, None, headers)

    def send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        """Send one request; ``_`` stands for ``-`` in names of headers."""
        connection = _connection(self.address)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.key is not None:
            sent["Authorization"] = f"Bearer {self.key}"
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            return Answer(response.status, response.read().decode(), dict(response.getheaders()))
        finally:
            connection.close()

    def wait(self, path: str, status: int) -> Answer:
        """Wait until a path answers so."""
        last: list[Answer] = []

        def answered() -> bool:
            last[:] = [self.get(path)]
            return last[0].status == status

        wait_until(answered, 20, lambda: f"{status} of {path}; last {last}")
        return last[0]


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        """See http.client."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(self._path)


def _connection(address: str) -> http.client.HTTPConnection:
    if address.startswith("/"):
        return _Unix(address)
    return http.client.HTTPConnection(address, timeout=TIMEOUT_SECONDS)
