"""Values as people write them: durations, sizes, addresses, secrets.

Each parser takes what YAML or a flag gave and returns the plain value, or raises ValueError with the whole advice:
what is wrong and what to write instead. No parser of a secret ever puts its input into an error, and a Secret
shows itself to nobody who does not ask for it by name::

    >>> parse_duration("1.5s")
    1.5
    >>> parse_size("64KiB")
    65536
    >>> parse_host_port("[::1]:9092")
    HostPort(host='::1', port=9092)
    >>> Secret("hunter2", "env KAFKA_PASSWORD")
    Secret(***, env KAFKA_PASSWORD)

What is read so is written as JSON in a way that is read as the same, but for secrets (see Secret.told)::

    >>> written_duration(1.5), written_duration(600.0), written_size(65536), written_number(100.0)
    ('1500ms', '10m', '64KiB', 100)
"""

import ipaddress
import os
import re
import stat
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import (
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

NODE = "{node}"
"""Stands for the broker's node id in an advertised host name."""

SECRET_FILE_BYTES_MAX = 64 * 1024
"""A password is short; a larger file is a mistake (RFC 4616 needs only 1..255 octets)."""

MASK = "***"
"""Stands for a secret that is not shown. It is none itself, or sending back what was shown would replace one by it."""

SOCKET_PATH_BYTES_MAX = 107
"""Linux's sockaddr_un holds so many and a NUL (unix(7))."""

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DIGITS = re.compile(r"[0-9]{1,10}")
_SIZE = re.compile(r"([0-9]+)(KiB|MiB|GiB)?")
_BYTES = {None: 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
# Underscores are no part of a DNS host name, but container networks hand out such names.
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?")
_HOST_CHARACTERS_MAX = 253  # RFC 1035, without the root's dot
_WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - recognised here, not bound
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class HostPort(NamedTuple):
    """A host (name or IP address, IPv6 without brackets) and a TCP port, 1 to 65535."""

    host: str
    port: int

    def __str__(self) -> str:
        """Write it as a user does: ``host:port``, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def any_interface(self) -> bool:
        """True when the host means every interface of the machine, so that it is no address for a client."""
        return self.host in _WILDCARDS

    def shares_interface(self, other: Self) -> bool:
        """True when equal ports of the two would be one socket address."""
        return self.any_interface or other.any_interface or self.host.casefold() == other.host.casefold()

    def reached_by(self, other: Self) -> bool:
        """True when dialling ``other`` on this machine surely ends at a socket bound to this address."""
        same_host = self.host.casefold() == other.host.casefold()
        return self.port == other.port and (same_host or (self.any_interface and other.host in _LOOPBACK_NAMES))


class SocketPath(NamedTuple):
    """Where a unix socket is, an absolute path."""

    path: str

    def __str__(self) -> str:
        """Write it as a user does."""
        return self.path


class Secret:
    """A password together with where it came from; only ``reveal()`` gives the password.

    Not a dataclass: those are written out field by field by whoever knows dataclasses (pydantic, ``asdict``).
    """

    __slots__ = ("_value", "exposed", "source")

    def __init__(self, value: str, source: str, *, exposed: bool = False) -> None:
        """Hold ``value``; ``source``: ``literal``, ``env NAME`` or ``file PATH``; ``exposed``: all can read that."""
        self._value = value
        self.source = source
        self.exposed = exposed

    def reveal(self) -> str:
        """Return the password itself; the caller hands it to the peer and to nothing else."""
        return self._value

    def told(self) -> dict[str, str] | str:
        """Return what may be shown: where it comes from, as a configuration says it, and else that it is there."""
        kind, _, where = self.source.partition(" ")
        return {kind: where} if kind in {"env", "file"} else MASK

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """Be masked as JSON wherever it stands, also in a part that somebody adds tomorrow."""
        masked = core_schema.plain_serializer_function_ser_schema(cls.told, when_used="json")
        return core_schema.is_instance_schema(cls, serialization=masked)

    def __repr__(self) -> str:
        return f"Secret({MASK}, {self.source})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and (self._value, self.source) == (other._value, other.source)

    def __hash__(self) -> int:
        return hash((self._value, self.source))


class Surroundings(NamedTuple):
    """What a secret's ``env`` and ``file`` refer to; the context of a pydantic validation."""

    environ: Mapping[str, str]
    directory: Path
    """Relative paths begin here: the folder of the configuration file."""


def parse_duration(value: object) -> float:
    """Turn ``100ms``, ``1.5s``, ``5m`` or ``1h`` into seconds, above zero; a float, from Python, is seconds already."""
    if isinstance(value, float) and 0 < value < float("inf"):
        return value
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise ValueError(f"{quoted(value)} is not a duration; write a number and a unit, as in 100ms, 30s, 5m or 1h")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds <= 0:
        raise ValueError(f"{quoted(value)} is no time at all; write a duration above zero, as in 100ms or 30s")
    return seconds


def parse_size(value: object) -> int:
    """Turn ``1MiB``, ``64KiB``, ``1GiB`` or a plain number into bytes, above zero."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if not match:
        raise ValueError(f"{quoted(value)} is not a size; write bytes as a number, or as in 64KiB, 1MiB or 1GiB")
    size = int(match[1]) * _BYTES[match[2]]
    if size <= 0:
        raise ValueError(f"{quoted(value)} leaves no room at all; write a size above zero, as in 1MiB")
    return size


def written_duration(seconds: float) -> str:
    """Write a duration so that it is read as the same: in the largest unit of which it is a whole number."""
    for unit in ("h", "m", "s", "ms"):
        number = round(seconds / _SECONDS[unit])
        if number * _SECONDS[unit] == seconds:
            return f"{number}{unit}"
    return f"{_decimal(seconds)}s"


def written_size(size: int) -> str | int:
    """Write a size so that it is read as the same: in the largest unit of which it is a whole number."""
    for unit in ("GiB", "MiB", "KiB"):
        if size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return size


def written_number(value: float) -> float | str:
    """Write a number so that it is read as the same: no exponent is, so that a tiny one is a text."""
    if value == int(value):
        return int(value)
    return _decimal(value) if "e" in repr(value) else value


def _decimal(value: float) -> str:
    return format(Decimal(repr(value)), "f")


def parse_key(value: object) -> object:
    """Turn a number that is a text into one, as all keys are texts in JSON."""
    return int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value


def parse_host_port(value: object) -> HostPort:
    """Turn ``kafka1:9092`` or ``[::1]:9092`` into a HostPort."""
    return _host_port(value, example="kafka1:9092")


def parse_bind(value: object) -> HostPort:
    """Turn ``0.0.0.0:9092`` into a HostPort; an omitted host is asked for, as it decides who can connect."""
    if isinstance(value, str) and value.startswith((":", "*:")):
        port = value.rpartition(":")[2]
        raise ValueError(
            f"{quoted(value)} names no host; write 0.0.0.0:{port} to listen on every interface,"
            f" or 127.0.0.1:{port} for this machine only"
        )
    return _host_port(value, example="0.0.0.0:9092")


def parse_admin_bind(value: object) -> HostPort | SocketPath:
    """Turn ``127.0.0.1:9090`` or ``/run/kproxy/admin.sock`` into an address or a path."""
    if isinstance(value, SocketPath):
        return value
    if isinstance(value, str) and value.startswith("/"):
        if len(value.encode(errors="surrogateescape")) > SOCKET_PATH_BYTES_MAX or "\0" in value:
            raise ValueError(f"{quoted(value)} is no path for a socket; {SOCKET_PATH_BYTES_MAX} bytes at most")
        return SocketPath(value)
    if isinstance(value, str) and value.startswith((":", "*:")):
        return parse_bind(value)
    return _host_port(value, example="127.0.0.1:9090 or /run/kproxy/admin.sock")


def parse_advertise(value: object) -> HostPort:
    """Turn ``kafka.example.com:9092`` or ``kafka-{node}.example.com:9092`` into a HostPort, ``{node}`` kept."""
    example = "kafka.example.com:9092"
    if not isinstance(value, str):
        return _host_port(value, example=example)
    address = _host_port(value.replace(NODE, "0"), example=example, shown=value)
    if address.any_interface:
        raise ValueError(f"{quoted(value)} is no address that a client can reach; write one, as in {example}")
    host = value.rpartition(":")[0]
    return HostPort(host, address.port) if NODE in host else address


def _host_port(value: object, *, example: str, shown: str | None = None) -> HostPort:
    """Parse ``value``; errors quote ``shown``, which is what the user wrote. A HostPort, from Python, is kept."""
    if isinstance(value, HostPort):
        return value
    shown = quoted(value if shown is None else shown)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{shown} is not an address; write host:port, as in {example}")
    if "://" in value:
        scheme, _, rest = value.partition("://")
        raise ValueError(f"{shown} begins with a scheme; leave {quoted(scheme + '://')} out: {quoted(rest)}")
    host, colon, port_text = value.rpartition(":")
    if not colon or "]" in port_text:
        raise ValueError(f"{shown} has no port; write host:port, as in {example}")
    if not host:
        raise ValueError(f"{shown} names no host; write host:port, as in {example}")
    if not (port_text.isascii() and port_text.isdigit() and len(port_text) <= 5 and 1 <= int(port_text) <= 65535):
        raise ValueError(f"{shown} has no valid port; write host:port with a port from 1 to 65535, as in {example}")
    if host[0] == "[" and host[-1] == "]":
        host = _ipv6(host[1:-1], shown)
    elif ":" in host:
        raise ValueError(f"{shown} needs its IPv6 address in brackets, as in [::1]:9092")
    else:
        _check_name(host, shown, example)
    return HostPort(host, int(port_text))


def parse_host_name(value: object) -> str:
    """Check a host name without a port."""
    example = "kafka.example.com"
    if not isinstance(value, str) or not value or ":" in value:
        raise ValueError(f"{quoted(value)} is no host name; write one without a port, as in {example}")
    _check_name(value, quoted(value), f"{example}:9092")
    return value


def _ipv6(host: str, shown: str) -> str:
    try:
        return str(ipaddress.IPv6Address(host))
    except ValueError:
        raise ValueError(f"{shown} holds no IPv6 address in its brackets; write it as in [::1]:9092") from None


def _check_name(host: str, shown: str, example: str) -> None:
    if not _HOST.fullmatch(host) or len(host) > _HOST_CHARACTERS_MAX:
        raise ValueError(f"{shown} holds no valid host name; write host:port, as in {example}")
    if host.replace(".", "").isdigit():
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError(f"{shown} holds no valid IPv4 address; write four numbers from 0 to 255") from None


def parse_path(value: object, info: ValidationInfo) -> Path:
    """Turn a path into one that begins at the configuration's folder. A Path, from Python, is kept."""
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{quoted(value)} is not the path of a file; write one, as in certs/kafka.pem")
    around = info.context
    return (around.directory if isinstance(around, Surroundings) else Path()) / value


def parse_secret(value: object, info: ValidationInfo) -> Secret:
    """Turn ``{env: NAME}``, ``{file: PATH}`` or a literal into a Secret; no error quotes a literal or a content."""
    if isinstance(value, Secret):
        return value
    around = info.context if isinstance(info.context, Surroundings) else Surroundings(os.environ, Path())
    match value:
        case {"env": str(name), **rest} if name and not rest:
            return _secret_from_env(name, around)
        case {"file": str(path), **rest} if path and not rest:
            return secret_from_file(path, around)
        case str() if value == MASK:
            raise ValueError(
                f"{MASK} stands for a secret that is not shown; write the secret, {{env: NAME}} or {{file: PATH}}"
            )
        case str() if value:
            return Secret(_checked(value, "the password"), "literal")
        case bool() | int():
            raise ValueError("is a number or a truth value to YAML; put the password in quotes")
        case _:
            raise ValueError("is not a secret; write {env: NAME} or {file: PATH}")


def _secret_from_env(name: str, around: Surroundings) -> Secret:
    text = around.environ.get(name)
    if not text:
        state = "is not set" if text is None else "is empty"
        raise ValueError(f"the environment variable {name} {state}; set it before kproxy starts")
    return Secret(_checked(text, f"the environment variable {name}"), f"env {name}")


def secret_from_file(path: str, around: Surroundings) -> Secret:
    """Read a secret from a file, a newline at its end left out. Raises ValueError, which does not quote the content."""
    full = around.directory / path
    try:
        with full.open("rb") as file:
            exposed = bool(os.fstat(file.fileno()).st_mode & stat.S_IROTH)
            raw = file.read(SECRET_FILE_BYTES_MAX + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"the secret file {full} cannot be read: {reason}") from None
    if len(raw) > SECRET_FILE_BYTES_MAX:
        raise ValueError(f"the secret file {full} is over {SECRET_FILE_BYTES_MAX} bytes; it must hold the secret alone")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        # The error's own text would quote the bytes.
        raise ValueError(f"the secret file {full} is not UTF-8; write it as UTF-8") from None
    # Editors and `echo` end a file with a newline that is no part of the password.
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise ValueError(f"the secret file {full} is empty; write the secret into it")
    return Secret(_checked(text, f"the secret file {full}"), f"file {full}", exposed=exposed)


def _checked(text: str, name: str) -> str:
    """SASL/PLAIN separates its fields with NUL (RFC 4616), so none may be inside."""
    if "\0" in text:
        raise ValueError(f"{name} holds a NUL character, which SASL/PLAIN cannot carry")
    return text


def quoted(value: object) -> str:
    """Write a value of the user's into an error, short and on one line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool | int | float | str):
        text = str(value).lower() if isinstance(value, bool) else str(value)
        return repr(text if len(text) <= 80 else text[:77] + "...")
    return "a mapping" if isinstance(value, dict) else "a list"


_SECRET_SCHEMA = {
    "anyOf": [
        {
            "type": "object",
            "properties": {"env": {"type": "string", "minLength": 1, "description": "Name of an environment variable"}},
            "required": ["env"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {"file": {"type": "string", "minLength": 1, "description": "Path of a file"}},
            "required": ["file"],
            "additionalProperties": False,
        },
        {"type": "string", "minLength": 1, "description": "The secret itself; works, with a warning"},
    ]
}


def _address_schema(*examples: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": "^.+:[0-9]{1,5}$", "examples": list(examples)})


AS_TEXT = PlainSerializer(str, return_type=str, when_used="json")
AS_NUMBER = PlainSerializer(written_number, return_type=float | int | str, when_used="json")

Duration = Annotated[
    float,
    PlainValidator(parse_duration),
    PlainSerializer(written_duration, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": f"^{_DURATION.pattern}$", "examples": ["100ms", "30s", "5m", "1h"]}),
]
Size = Annotated[
    int,
    PlainValidator(parse_size),
    PlainSerializer(written_size, return_type=str | int, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": f"^{_SIZE.pattern}$"}],
            "examples": ["64KiB", "100MiB", "1GiB"],
        }
    ),
]
Address = Annotated[HostPort, PlainValidator(parse_host_port), _address_schema("kafka1:9092"), AS_TEXT]
Bind = Annotated[HostPort, PlainValidator(parse_bind), _address_schema("0.0.0.0:9092", "[::1]:9092"), AS_TEXT]
AdminBind = Annotated[
    HostPort | SocketPath,
    PlainValidator(parse_admin_bind),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": "^(/.+|.+:[0-9]{1,5})$",
            "examples": ["127.0.0.1:9090", "/run/kproxy/admin.sock"],
        }
    ),
    AS_TEXT,
]
Advertise = Annotated[
    HostPort,
    PlainValidator(parse_advertise),
    _address_schema("kafka.example.com:9092", "kafka-{node}.example.com:9092"),
    AS_TEXT,
]
FilePath = Annotated[
    Path,
    PlainValidator(parse_path),
    WithJsonSchema({"type": "string", "minLength": 1, "examples": ["certs/kafka.pem"]}),
    AS_TEXT,
]
HostName = Annotated[
    str,
    PlainValidator(parse_host_name),
    WithJsonSchema({"type": "string", "minLength": 1, "examples": ["kafka.example.com"]}),
]
Password = Annotated[
    Secret,
    PlainValidator(parse_secret),
    WithJsonSchema(_SECRET_SCHEMA),
    PlainSerializer(Secret.told, return_type=dict[str, str] | str, when_used="json"),
]
Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
NodeId = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1), BeforeValidator(parse_key)]
Count = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
Addressing = Literal["ports", "single", "sni"]
