"""PROXY headers: read whole and in pieces, refused early, bounded, and never mistaken for anything else."""

import contextlib
import ipaddress
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.errors import Malformed
from kproxy.wire.proxyprotocol import HEADER_BYTES_MAX, V2_BODY_BYTES_MAX, Header, parse

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
ADDRESSES4 = bytes([10, 0, 0, 7, 10, 0, 0, 1]) + b"\xc4\x88\x23\x84"
ADDRESSES6 = (
    ipaddress.ip_address("2001:db8::7").packed + ipaddress.ip_address("2001:db8::1").packed + b"\xc4\x88\x23\x84"
)
MAPPED = ipaddress.ip_address("::ffff:10.0.0.7").packed + ipaddress.ip_address("::1").packed + b"\xc4\x88\x23\x84"
ONE = ("10.0.0.7", 50312, "10.0.0.1", 9092, False)
SIX = ("2001:db8::7", 50312, "2001:db8::1", 9092, False)
NOBODY = ("", 0, "", 0, True)
TLVS = b"\x04\x00\x03abc\x03\x00\x04\x00\x01\x02\x03"


def v2(command: int, family: int, body: bytes) -> bytes:
    """Write a header of version 2."""
    return SIGNATURE + bytes([command, family]) + len(body).to_bytes(2, "big") + body


GOOD = {
    "v1 tcp4": (b"PROXY TCP4 10.0.0.7 10.0.0.1 50312 9092\r\n", ONE),
    "v1 tcp6": (b"PROXY TCP6 2001:db8::7 2001:DB8:0:0::1 50312 9092\r\n", SIX),
    "v1 longest tcp6": (
        b"PROXY TCP6 " + b" ".join([b"ffff:f:ffff:ffff:ffff:ffff:ffff:ffff"] * 2) + b" 65535 0\r\n",
        ("ffff:f:ffff:ffff:ffff:ffff:ffff:ffff", 65535, "ffff:f:ffff:ffff:ffff:ffff:ffff:ffff", 0, False),
    ),
    "v1 mapped": (b"PROXY TCP6 ::ffff:10.0.0.7 ::1 1 2\r\n", ("10.0.0.7", 1, "::1", 2, False)),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", NOBODY),
    "v1 unknown with more": (b"PROXY UNKNOWN ffff::1 \xff whatever\r\n", NOBODY),
    "v1 unknown, as long as may be": (b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", NOBODY),
    "v2 tcp4": (v2(0x21, 0x11, ADDRESSES4), ONE),
    "v2 tcp4 with tlvs": (v2(0x21, 0x11, ADDRESSES4 + TLVS), ONE),
    "v2 tcp6": (v2(0x21, 0x21, ADDRESSES6), SIX),
    "v2 tcp6 with tlvs": (v2(0x21, 0x21, ADDRESSES6 + TLVS), SIX),
    "v2 mapped": (v2(0x21, 0x21, MAPPED), ("10.0.0.7", 50312, "::1", 9092, False)),
    "v2 longest": (v2(0x21, 0x11, ADDRESSES4.ljust(V2_BODY_BYTES_MAX, b"\x04")), ONE),
    "v2 local": (v2(0x20, 0x00, b""), NOBODY),
    "v2 local with addresses": (v2(0x20, 0x11, ADDRESSES4), NOBODY),
    "v2 local of an odd family": (v2(0x20, 0x77, b"abc"), NOBODY),
    "v2 unspecified": (v2(0x21, 0x00, b""), NOBODY),
    "v2 unix": (v2(0x21, 0x31, bytes(216)), NOBODY),
    "v2 udp": (v2(0x21, 0x12, ADDRESSES4), NOBODY),
}

BAD = {
    "kafka": b"\x00\x00\x00\x17\x00\x12\x00\x03",
    "tls": b"\x16\x03\x01\x02\x00\x01",
    "http": b"GET / HTTP/1.1\r\n",
    "another word": b"PROXY4",
    "small letters": b"proxy TCP4 10.0.0.7 10.0.0.1 1 2\r\n",
    "no family": b"PROXY \r\n",
    "another family": b"PROXY UDP4 10.0.0.7 10.0.0.1 1 2\r\n",
    "a field too few": b"PROXY TCP4 10.0.0.7 10.0.0.1 1\r\n",
    "a field too many": b"PROXY TCP4 10.0.0.7 10.0.0.1 1 2 3\r\n",
    "two spaces": b"PROXY TCP4  10.0.0.7 10.0.0.1 1 2\r\n",
    "six in four": b"PROXY TCP4 ::1 10.0.0.1 1 2\r\n",
    "four in six": b"PROXY TCP6 ::1 10.0.0.1 1 2\r\n",
    "a name": b"PROXY TCP4 localhost 10.0.0.1 1 2\r\n",
    "leading zeros": b"PROXY TCP4 010.0.0.7 10.0.0.1 1 2\r\n",
    "an interface": b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    "no text in four": b"PROXY TCP4 10.0.0.\xff 10.0.0.1 1 2\r\n",
    "no text in six": b"PROXY TCP6 ::1 ::\xff 1 2\r\n",
    "port too high": b"PROXY TCP4 10.0.0.7 10.0.0.1 65536 2\r\n",
    "port too long": b"PROXY TCP4 10.0.0.7 10.0.0.1 100000 2\r\n",
    "port with a zero ahead": b"PROXY TCP4 10.0.0.7 10.0.0.1 01 2\r\n",
    "port with a sign": b"PROXY TCP4 10.0.0.7 10.0.0.1 1 +2\r\n",
    "no port": b"PROXY TCP4 10.0.0.7 10.0.0.1 1 \r\n",
    "endless": b"PROXY UNKNOWN " + b"x" * 93,
    "a byte too long": b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    "v2 of version 1": SIGNATURE + b"\x11\x11\x00\x0c",
    "v2 of another command": SIGNATURE + b"\x22\x11\x00\x0c",
    "v2 of another family": SIGNATURE + b"\x21\x13\x00\x0c",
    "v2 too short for tcp4": SIGNATURE + b"\x21\x11\x00\x0b",
    "v2 too short for tcp6": SIGNATURE + b"\x21\x21\x00\x23",
    "v2 too long": SIGNATURE + b"\x20\x00\x10\x01",
}


@pytest.mark.parametrize("name", GOOD)
def test_a_header_is_read(name: str) -> None:
    """A header is read when its last byte is there, and not before; what follows it is not looked at."""
    data, expected = GOOD[name]
    for end in range(len(data)):
        assert parse(data[:end]) is None, f"{end} of {len(data)} bytes"
    assert parse(data) == Header(*expected, header_bytes=len(data))
    for more in (b"\x00\x00\x00\x17", b"PROXY ", b"\r\n", bytes(10_000)):
        assert parse(data + more) == Header(*expected, header_bytes=len(data))


@pytest.mark.parametrize("name", BAD)
def test_what_is_none(name: str) -> None:
    """Anything else is refused, and stays refused whatever follows; before that, nothing of it passes for a header."""
    data = BAD[name]
    for more in (b"", b"\r\n", bytes(10_000)):
        with pytest.raises(Malformed):
            parse(data + more)
    for end in range(len(data)):
        with contextlib.suppress(Malformed):
            assert parse(data[:end]) is None


@given(
    st.one_of(st.binary(max_size=200), st.builds(bytes.__add__, st.sampled_from([SIGNATURE, b"PROXY "]), st.binary()))
)
def test_any_bytes(data: bytes) -> None:
    """Invariant: any bytes make a header within them, a wish for more within the bound, or Malformed; nothing else."""
    try:
        header = parse(data)
    except Malformed:
        return
    if header is None:
        assert len(data) < HEADER_BYTES_MAX
    else:
        assert 0 < header.header_bytes <= len(data)
        assert parse(data[: header.header_bytes]) == header


@given(st.ip_addresses(), st.data(), st.integers(0, 65535), st.integers(0, 65535), st.binary(max_size=64))
def test_round_trip(
    source: ipaddress.IPv4Address | ipaddress.IPv6Address, draw: st.DataObject, port: int, other: int, tlvs: bytes
) -> None:
    """Any two addresses come through both versions unchanged."""
    destination = draw.draw(st.ip_addresses(v=source.version))
    text = f"PROXY TCP{source.version} {source} {destination} {port} {other}\r\n".encode()
    ports = port.to_bytes(2, "big") + other.to_bytes(2, "big")
    family = 0x11 if source.version == 4 else 0x21
    binary = v2(0x21, family, source.packed + destination.packed + ports + tlvs)
    for data in (text, binary):
        header = parse(data)
        assert header is not None
        said, other_said = (ipaddress.ip_address(host) for host in (header.source_host, header.destination_host))
        for one, original in ((said, source), (other_said, destination)):
            assert one == (getattr(original, "ipv4_mapped", None) or original)
        assert (header.source_port, header.destination_port, header.local) == (port, other, False)


@given(st.sampled_from(sorted(GOOD)), st.integers(min_value=0), st.integers(0, 255))
def test_a_changed_byte(name: str, at: int, value: int) -> None:
    """Invariant: a header with any one byte changed is a header, unfinished, or Malformed."""
    data = bytearray(GOOD[name][0])
    data[at % len(data)] = value
    with contextlib.suppress(Malformed):
        header = parse(bytes(data))
        assert header is None or header.header_bytes <= len(data)


def test_the_first_byte() -> None:
    """No byte that begins a TLS or a Kafka conversation is waited on."""
    waited = [first for first in range(256) if not _refused(bytes([first]))]
    assert waited == [0x0D, ord("P")]
    assert all(_refused(bytes(pair)) for pair in itertools.product(b"P\r", b"\x00\x03"))


def _refused(data: bytes) -> bool:
    try:
        parse(data)
    except Malformed:
        return True
    return False
