"""The admin API's place and key.

::

    admin: {bind: 127.0.0.1:9090, api_key: {env: KPROXY_ADMIN_KEY}}

Who can reach the API can see every client and end every connection. So without a key it may only be bound where nobody
but this machine, or with a path this user, can reach it. Never here: a socket.
"""

import ipaddress
from collections.abc import Mapping
from typing import TYPE_CHECKING

from kproxy.config.base import Model
from kproxy.config.problems import Problem
from kproxy.config.values import AdminBind, HostPort, Password, SocketPath

if TYPE_CHECKING:
    from kproxy.config.model import Listener


class Admin(Model):
    """Where the admin API is served; left out, there is none."""

    bind: AdminBind
    """The local address to serve on, or the absolute path of a unix socket."""
    api_key: Password | None = None
    """{env: NAME} or {file: PATH}; without one only a loopback address or a unix socket may be bound."""


def loopback(address: HostPort | SocketPath) -> bool:
    """Whether nobody but this machine can reach an address."""
    if isinstance(address, SocketPath) or address.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:  # a name, which may lead anywhere
        return False


def mistakes(admin: Admin | None, listeners: "Mapping[str, Listener]") -> list[Problem]:
    """Find what cannot work, or must not."""
    if admin is None:
        return []
    found = []
    if admin.api_key is None and not loopback(admin.bind):
        text = f"{admin.bind} can be reached by others; give admin.api_key, or bind 127.0.0.1 or a unix socket"
        found.append(Problem(("admin", "bind"), text))
    key = "" if admin.api_key is None else admin.api_key.reveal()
    if not all("!" <= character <= "~" for character in key):
        text = "holds what an HTTP header cannot carry; use letters and digits, as from: openssl rand -hex 32"
        found.append(Problem(("admin", "api_key"), text))
    if isinstance(admin.bind, HostPort):
        for name, listener in listeners.items():
            if listener.bind.port == admin.bind.port and listener.bind.shares_interface(admin.bind):
                text = f"{admin.bind} is in use by listener {name!r}; choose another port or host"
                found.append(Problem(("admin", "bind"), text))
    return found


def doubts(admin: Admin | None) -> list[Problem]:
    """Find what works but is probably not meant."""
    if admin is None:
        return []
    found = []
    if admin.api_key is not None and admin.api_key.source == "literal":
        text = "the key stands in the file; write {env: NAME} or {file: PATH} instead"
        found.append(Problem(("admin", "api_key"), text))
    if not loopback(admin.bind):
        text = (
            f"{admin.bind} serves plain HTTP, which shows the key to whoever can listen in; keep it within your network"
        )
        found.append(Problem(("admin", "bind"), text))
    return found
