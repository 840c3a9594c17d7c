"""A listener that expects a PROXY header: whether the doctor may send one itself, and the header that it sends.

Its header is that of a load balancer's own health checks, which names nobody, so that the connection's own addresses
hold::

    >>> expected = ProxyHeader((ip_network("127.0.0.0/8"),), lambda port: port == 9092)
    >>> expected.sender("127.0.0.1", ("127.0.0.1", 9092))
    <Sender.DOCTOR: 'doctor'>
    >>> expected.sender("10.0.0.5", ("10.0.0.9", 9092))           # elsewhere: a load balancer, which sends its own
    <Sender.OTHER: 'other'>
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import Final

from kproxy.core.addresses import Network, within
from kproxy.errors import UpstreamError

LOCAL: Final = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
"""Version 2, command LOCAL, no addresses (section 2.2 of the specification)."""


class UntrustedError(UpstreamError):
    """The listener believes no header that comes from here; the text says from where."""


class Sender(Enum):
    """Who sends the header of a connection."""

    DOCTOR = "doctor"
    OTHER = "other"
    NOBODY = "nobody"
    """The listener itself is reached, and would not believe it."""


@dataclass(frozen=True)
class ProxyHeader:
    """What a listener's configuration says of it; ``owns``: whether a port is the listener's."""

    trusted: tuple[Network, ...]
    owns: Callable[[int], bool]

    def sender(self, ours: str, theirs: tuple[str, int]) -> Sender:
        """Tell who sends the header on a connection between two addresses.

        The system gives a connection within this machine the same address at both ends, or loopback.
        """
        host, port = theirs
        within_machine = ours == host or (ip_address(ours).is_loopback and ip_address(host).is_loopback)
        if not within_machine or not self.owns(port):
            return Sender.OTHER
        return Sender.DOCTOR if within(ours, self.trusted) else Sender.NOBODY
