"""Durations, sizes, addresses and secrets as people write them."""

import pickle
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.config.values import (
    SECRET_FILE_BYTES_MAX,
    HostPort,
    Secret,
    Surroundings,
    parse_advertise,
    parse_bind,
    parse_duration,
    parse_host_port,
    parse_secret,
    parse_size,
    written_duration,
    written_number,
    written_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"), [("100ms", 0.1), ("60s", 60.0), ("1.5s", 1.5), ("5m", 300.0), ("1h", 3600.0), (2.5, 2.5)]
)
def test_durations_are_read_as_seconds(text: object, seconds: float) -> None:
    """A duration with its unit becomes seconds; a float, which only Python can give, is seconds already."""
    assert parse_duration(text) == pytest.approx(seconds)


@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False), st.integers(1, 2**53))
def test_what_is_written_is_read_as_the_same(seconds: float, size: int) -> None:
    """Any duration, size or number is the same when it comes back, and no number has an exponent."""
    assert parse_duration(written_duration(seconds)) == seconds
    assert parse_size(written_size(size)) == size
    number = written_number(seconds)
    assert float(number) == seconds
    assert not isinstance(number, str | float) or "e" not in str(number)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.1, "100ms"), (1.5, "1500ms"), (90.0, "90s"), (600.0, "10m"), (7200.0, "2h"), (1e-5, "0.00001s")],
)
def test_durations_are_written_in_a_fitting_unit(seconds: float, text: str) -> None:
    """The largest unit of which it is a whole number."""
    assert written_duration(seconds) == text


@pytest.mark.parametrize(
    "text", ["30", 30, "30 s", "s", "-1s", "1d", "1h30m", "", None, True, [], {}, "0s", 0.0, "\u0661s"]
)
def test_a_duration_without_sense_is_refused_with_an_example(text: object) -> None:
    """What is no duration above zero is refused, and the text shows how to write one."""
    with pytest.raises(ValueError, match="30s"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [(1, 1), ("512", 512), ("64KiB", 65536), ("1MiB", 1 << 20), ("100MiB", 100 << 20), ("1GiB", 1 << 30)],
)
def test_sizes_are_read_as_bytes(text: object, size: int) -> None:
    """A size with its binary unit, or a plain number, becomes bytes."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["1MB", "1M", "1.5MiB", "-1", -1, True, None, "", 0, "0KiB", []])
def test_a_size_without_sense_is_refused_with_an_example(text: object) -> None:
    """What is no size above zero is refused, and the text shows how to write one."""
    with pytest.raises(ValueError, match="1MiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("kafka1:9092", "kafka1", 9092),
        ("a.b-c.example.com.:1", "a.b-c.example.com.", 1),
        ("my_kafka_1:65535", "my_kafka_1", 65535),
        ("10.0.0.7:9092", "10.0.0.7", 9092),
        ("[::1]:9092", "::1", 9092),
        ("[2001:DB8::1]:9092", "2001:db8::1", 9092),
    ],
)
def test_addresses_are_read_and_written_back(text: str, host: str, port: int) -> None:
    """Names, IPv4 and bracketed IPv6 addresses become host and port, and are written as they came."""
    address = parse_host_port(text)
    assert address == (host, port)
    assert str(address) == text.lower()
    assert parse_host_port(address) is address


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kafka1", "has no port"),
        ("[::1]", "has no port"),
        (":9092", "names no host"),
        ("kafka1:", "no valid port"),
        ("kafka1:0", "from 1 to 65535"),
        ("kafka1:65536", "from 1 to 65535"),
        ("kafka1:99999999999999999999", "from 1 to 65535"),
        ("kafka1:\u0669", "no valid port"),
        ("::1:9092", "in brackets"),
        ("[::g]:9092", "no IPv6 address"),
        ("300.1.1.1:9092", "no valid IPv4"),
        ("10.1:9092", "no valid IPv4"),
        ("kaf ka:9092", "no valid host name"),
        ("-kafka:9092", "no valid host name"),
        ("a" * 254 + ":9092", "no valid host name"),
        ("kafka-{node}:9092", "no valid host name"),
        ("SASL_PLAINTEXT://kafka1:9092", "leave 'SASL_PLAINTEXT://' out"),
        ("", "host:port"),
        (9092, "host:port"),
        (None, "nothing is not an address"),
        (["kafka1:9092"], "a list is not an address"),
        ({}, "a mapping is not an address"),
    ],
)
def test_what_is_no_address_is_refused_with_the_reason(text: object, says: str) -> None:
    """An address that cannot be dialled is refused in one short line that says why."""
    with pytest.raises(ValueError, match=says) as caught:
        parse_host_port(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("text", [":9092", "*:9092"])
def test_a_bind_address_without_a_host_asks_who_may_connect(text: str) -> None:
    """No host is never taken for every interface: the text offers both."""
    with pytest.raises(ValueError, match=r"0\.0\.0\.0:9092 .* 127\.0\.0\.1:9092"):
        parse_bind(text)


def test_an_advertised_name_may_hold_the_node() -> None:
    """``{node}`` is kept in the host; in the port, and in what is no name with it, it is refused."""
    assert parse_advertise("kafka-{node}.example.com:9092") == ("kafka-{node}.example.com", 9092)
    assert parse_advertise("kafka.example.com:9092") == ("kafka.example.com", 9092)
    for text in ("kafka:{node}", "kafka-{id}:9092", "-{node}:9092", "0.0.0.0:9092", "[::]:9092", None):
        with pytest.raises(ValueError, match=r"\{node\}|\{id\}|as in"):
            parse_advertise(text)


def test_addresses_know_what_they_share() -> None:
    """A wildcard shares its ports with every host, and is reached by the loopback names."""
    wildcard, local, remote = HostPort("0.0.0.0", 9092), HostPort("localhost", 9092), HostPort("kafka1", 9092)
    assert wildcard.any_interface
    assert wildcard.shares_interface(remote)
    assert not local.shares_interface(remote)
    assert wildcard.reached_by(local)
    assert remote.reached_by(HostPort("KAFKA1", 9092))
    assert not wildcard.reached_by(remote)
    assert not wildcard.reached_by(HostPort("localhost", 9093))


def _secret(value: object, tmp_path: Path, **environ: str) -> Secret:
    info: Any = SimpleNamespace(context=Surroundings(environ, tmp_path))
    return parse_secret(value, info)


def test_secrets_are_read_from_where_they_are(tmp_path: Path) -> None:
    """The environment, a file beside the configuration (its last newline is no part), or the text itself."""
    (tmp_path / "unix").write_bytes(b" hunter2 \n")
    (tmp_path / "dos").write_bytes(b"hunter2\r\n")
    (tmp_path / "two").write_bytes(b"hunter2\n\n")
    assert _secret({"env": "PW"}, tmp_path, PW="hunter2") == Secret("hunter2", "env PW")
    assert _secret({"file": "unix"}, tmp_path).reveal() == " hunter2 "
    assert _secret({"file": str(tmp_path / "dos")}, tmp_path).reveal() == "hunter2"
    assert _secret({"file": "two"}, tmp_path).reveal() == "hunter2\n"
    assert _secret("hunter2", tmp_path) == Secret("hunter2", "literal")


def test_a_secret_that_cannot_be_used_is_named_and_not_shown(tmp_path: Path) -> None:
    """Whatever is wrong with a secret, the text names the variable or the file, never the content."""
    (tmp_path / "empty").write_bytes(b"\n")
    (tmp_path / "latin").write_bytes(b"hunter2\xff")
    (tmp_path / "nul").write_bytes(b"hunter2\x00")
    (tmp_path / "huge").write_bytes(b"hunter2" * SECRET_FILE_BYTES_MAX)
    wrong: list[tuple[object, str]] = [
        ({"env": "PW"}, "PW is not set"),
        ({"env": "EMPTY"}, "EMPTY is empty"),
        ({"env": "NUL"}, "NUL holds a NUL"),
        ({"file": "absent"}, "absent cannot be read: No such file"),
        ({"file": "."}, "cannot be read: Is a directory"),
        ({"file": "empty"}, "empty is empty"),
        ({"file": "latin"}, "latin is not UTF-8"),
        ({"file": "nul"}, "nul holds a NUL"),
        ({"file": "huge"}, "huge is over"),
        ({"hunter2": "x"}, "{env: NAME}"),
        ({"env": "PW", "file": "hunter2"}, "{env: NAME}"),
        (["hunter2"], "{env: NAME}"),
        ("", "{env: NAME}"),
        (None, "{env: NAME}"),
        (12345, "in quotes"),
        (True, "in quotes"),
        ("hunter2\0", "NUL"),
    ]
    for value, says in wrong:
        with pytest.raises(ValueError, match=re.escape(says)) as caught:
            _secret(value, tmp_path, EMPTY="", NUL="hunter2\0")
        assert "hunter2" not in str(caught.value)
        assert "12345" not in str(caught.value)
        assert caught.value.__cause__ is None


def test_a_secret_shows_itself_to_nobody() -> None:
    """No way of writing a secret out writes it, and a copy for another process still has it."""
    secret = Secret("hunter2", "env PW")
    assert "hunter2" not in f"{secret} {secret!r} {[secret]} {vars(type(secret))}"
    assert pickle.loads(pickle.dumps(secret)).reveal() == "hunter2"  # noqa: S301 - our own bytes
