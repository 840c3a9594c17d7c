r"""The PROXY protocol's header, versions 1 and 2: whom a load balancer is speaking for.

Facts from the specification, https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt (sections 2.1 and 2.2). The
header comes once, before anything else, TLS included, and only a listener that expects it may look for it: a client
that is believed without reason chooses its own address. Version 1 is a line of text, version 2 is binary; the first
bytes tell them apart. TLVs of version 2 are skipped unread::

    >>> parse(b"PROXY TCP4 10.0.0.7 10.0.0.1 50312 9092\r\n\x00\x00\x00\x17...").source_host
    '10.0.0.7'
    >>> parse(b"PROXY TCP4 10.0")          # more is to come
    >>> parse(b"PROXY UNKNOWN\r\n").local    # the load balancer speaks for itself, or does not know for whom
    True
"""

import struct
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import NamedTuple

from kproxy.errors import Malformed

V1_BYTES_MAX = 107
"""The longest line that version 1 allows, its CRLF included."""

V2_BODY_BYTES_MAX = 4096
"""Addresses and TLVs of version 2: room for what HAProxy, Envoy and AWS add (ALPN, names, a VPC endpoint's id)."""

HEADER_BYTES_MAX = 16 + V2_BODY_BYTES_MAX
"""The longest header of all."""

_V1 = b"PROXY "
_V2 = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_HEAD_BYTES = 16
_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21
# AF_UNSPEC, UDP over IPv4 and IPv6, UNIX streams and datagrams: valid, but no address of a TCP client.
_NO_TCP_CLIENT = frozenset({0x00, 0x12, 0x22, 0x31, 0x32})
_ADDRESSES4 = struct.Struct(">4s4sHH")
_ADDRESSES6 = struct.Struct(">16s16sHH")
_LENGTH = struct.Struct(">H")


class Header(NamedTuple):
    """A PROXY header. What follows it begins at ``header_bytes``.

    ``local`` means that it names nobody: the connection's own addresses hold, and the fields here are empty.
    IPv4 addresses that are written as IPv6 ones (::ffff:10.0.0.7) are given as IPv4, so that rules for them match.
    """

    source_host: str
    source_port: int
    destination_host: str
    destination_port: int
    local: bool
    header_bytes: int


def parse(data: bytes) -> Header | None:
    """Read the header at the beginning of ``data``; None: come again with more bytes.

    As soon as no further byte can make a header of it, and at the latest after 107 bytes (version 1) or 4,112
    (version 2), it is refused, so the caller's buffer is bounded.

    Raises:
        Malformed: this is no PROXY header; the connection must be closed, as the specification demands.
    """
    if data.startswith(_V1):
        return _line(data)
    if data.startswith(_V2):
        return _binary(data)
    if _V1.startswith(data) or _V2.startswith(data):
        return None
    raise Malformed("no PROXY header where one is expected")


def _line(data: bytes) -> Header | None:
    end = data.find(b"\r\n", 0, V1_BYTES_MAX)
    if end < 0:
        if len(data) >= V1_BYTES_MAX:
            raise Malformed(f"a PROXY header of version 1 is longer than {V1_BYTES_MAX} bytes")
        return None
    header_bytes = end + 2
    family, *fields = data[len(_V1) : end].split(b" ")
    if family == b"UNKNOWN":
        return _nobody(header_bytes)  # whatever else stands there must be ignored
    if family not in {b"TCP4", b"TCP6"} or len(fields) != 4:
        raise Malformed("a PROXY header of version 1 that is neither TCP4, TCP6 nor UNKNOWN")
    host = _host4 if family == b"TCP4" else _host6
    source, destination, source_port, destination_port = fields
    return Header(host(source), _port(source_port), host(destination), _port(destination_port), False, header_bytes)


def _binary(data: bytes) -> Header | None:
    if len(data) < _V2_HEAD_BYTES:
        return None
    command, family = data[12], data[13]
    (body_bytes,) = _LENGTH.unpack_from(data, 14)
    if command not in {_LOCAL, _PROXY}:
        raise Malformed(f"a PROXY header of version {command >> 4} with command {command & 0xF}")
    if body_bytes > V2_BODY_BYTES_MAX:
        raise Malformed(f"a PROXY header of version 2 is longer than {V2_BODY_BYTES_MAX} bytes")
    header_bytes = _V2_HEAD_BYTES + body_bytes
    if command == _PROXY and family not in {_TCP4, _TCP6} and family not in _NO_TCP_CLIENT:
        raise Malformed(f"a PROXY header of an unknown address family, {family:#04x}")
    addresses = _ADDRESSES4 if family == _TCP4 else _ADDRESSES6
    named = command == _PROXY and family in {_TCP4, _TCP6}
    if named and body_bytes < addresses.size:
        raise Malformed("a PROXY header of version 2 that is too short for its addresses")
    if len(data) < header_bytes:
        return None
    if not named:
        return _nobody(header_bytes)
    source, destination, source_port, destination_port = addresses.unpack_from(data, _V2_HEAD_BYTES)
    return Header(_packed(source), source_port, _packed(destination), destination_port, False, header_bytes)


def _nobody(header_bytes: int) -> Header:
    return Header("", 0, "", 0, True, header_bytes)


def _packed(address: bytes) -> str:
    return str(IPv4Address(address)) if len(address) == 4 else _unmapped(IPv6Address(address))


def _unmapped(address: IPv6Address) -> str:
    return str(address.ipv4_mapped or address)


def _host4(text: bytes) -> str:
    try:
        return str(IPv4Address(text.decode("ascii")))
    except (AddressValueError, UnicodeDecodeError):
        raise Malformed("a PROXY header with something else than an IPv4 address in it") from None


def _host6(text: bytes) -> str:
    try:
        address = IPv6Address(text.decode("ascii"))
    except (AddressValueError, UnicodeDecodeError):
        raise Malformed("a PROXY header with something else than an IPv6 address in it") from None
    if address.scope_id is not None:
        raise Malformed("a PROXY header with the name of an interface in it")
    return _unmapped(address)


def _port(text: bytes) -> int:
    """Read a decimal port, without leading zeros, as the specification wants it."""
    if not text.isdigit() or len(text) > 5 or (text[:1] == b"0" and text != b"0") or int(text) > 65535:
        raise Malformed("a PROXY header with something else than a port in it")
    return int(text)
