"""Who sends the PROXY header of a doctor's connection."""

from ipaddress import ip_network

import pytest

from kproxy.service.doctor.header import LOCAL, ProxyHeader, Sender
from kproxy.wire.proxyprotocol import parse

EXPECTED = ProxyHeader((ip_network("127.0.0.0/8"), ip_network("::1/128")), lambda port: port == 9092)


@pytest.mark.parametrize(
    ("ours", "theirs", "sender"),
    [
        ("127.0.0.1", ("127.0.0.1", 9092), Sender.DOCTOR),
        ("127.0.0.1", ("127.0.0.7", 9092), Sender.DOCTOR),
        ("::1", ("::1", 9092), Sender.DOCTOR),
        ("10.0.0.5", ("10.0.0.5", 9092), Sender.NOBODY),
        ("10.0.0.5", ("10.0.0.9", 9092), Sender.OTHER),
        ("127.0.0.1", ("127.0.0.1", 19092), Sender.OTHER),
    ],
)
def test_who_sends_the_header(ours: str, theirs: tuple[str, int], sender: Sender) -> None:
    """The doctor does where it reaches the listener itself and is trusted; whatever else there is sends its own."""
    assert EXPECTED.sender(ours, theirs) is sender


def test_the_header_names_nobody() -> None:
    """The doctor claims no address: the one that it has holds."""
    header = parse(LOCAL)
    assert header is not None
    assert (header.local, header.header_bytes) == (True, len(LOCAL))
