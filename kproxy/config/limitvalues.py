"""Values of limits as people write them: rates, bursts and counts, and which requests are meant.

Each parser returns the plain value, or raises ValueError with the whole advice, as those of ``values`` do. Whether an
amount is of requests or of bytes is said by the ``unit`` beside it, which is read first; sizes are for bytes only::

    >>> parse_network("10.1.2.0/24")
    IPv4Network('10.1.2.0/24')
    >>> parse_api("produce")
    Traceback (most recent call last):
    ValueError: there is no API 'produce'; did you mean 'Produce'?
"""

import ipaddress
import re
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PlainValidator, StringConstraints, ValidationInfo, WithJsonSchema

from kproxy.config.problems import nearest
from kproxy.config.values import AS_NUMBER, AS_TEXT, parse_size, quoted
from kproxy.wire.apis import APIS, BROKER_ONLY

Unit = Literal["requests", "bytes_in", "bytes_out"]
KeyPart = Literal["client_ip", "principal", "client_id", "listener"]
OnExceed = Literal["delay", "throttle", "reject", "close"]

AMOUNT_MAX = 2**53
"""A float above it no longer counts one by one (IEEE 754)."""

NEVER_LIMITED = {
    "ApiVersions": "kproxy answers it itself",
    "SaslHandshake": "logins are never held up",
    "SaslAuthenticate": "logins are never held up",
}
"""APIs that no limit may name, with the reason."""

API_NAMES = frozenset(api.name for api in APIS.values()) - NEVER_LIMITED.keys()
"""APIs that a limit may name, by Kafka's names."""

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_SIZE = re.compile(r"[0-9]{1,15}(KiB|MiB|GiB)")
_GLOB = re.compile(r"[*?\[]")
_IPV4_WITHIN_IPV6 = IPv6Network("::ffff:0:0/96")  # RFC 4291, 2.5.5.2


def parse_rate(value: object, info: ValidationInfo) -> float:
    """Turn ``100``, ``0.5`` or, in a unit of bytes, ``2MiB`` into so many a second, above zero."""
    return _rate(value, info.data.get("unit"))


def parse_connection_rate(value: object) -> float:
    """Turn ``100`` or ``0.5`` into so many connections a second, above zero."""
    return _rate(value, "connections")


def parse_burst(value: object, info: ValidationInfo) -> float:
    """Turn ``50`` or, in a unit of bytes, ``2MiB`` into an amount, zero or more."""
    return _burst(value, info.data.get("unit"))


def parse_connection_burst(value: object) -> float:
    """Turn ``50`` into a number of connections, zero or more."""
    return _burst(value, "connections")


def parse_count(value: object, info: ValidationInfo) -> int:
    """Turn ``1000`` or, in a unit of bytes, ``100MiB`` into a whole number, one or more."""
    count = _amount(value, info.data.get("unit"), "a count")
    if count < 1 or not count.is_integer():
        raise ValueError(f"{quoted(value)} is not a count; write a whole number from 1 on")
    return int(count)


def _rate(value: object, unit: str | None) -> float:
    rate = _amount(value, unit, "a rate")
    if rate <= 0:
        raise ValueError(f"{quoted(value)} lets nothing pass; write a rate above zero, as in 0.5 or 100")
    return rate


def _burst(value: object, unit: str | None) -> float:
    burst = _amount(value, unit, "a burst")
    if burst < 0:
        raise ValueError(f"{quoted(value)} is below zero; write 0 or more")
    return burst


def _amount(value: object, unit: str | None, noun: str) -> float:
    """Read a number or a size; ``unit`` is None where that is wrong itself, which is told already."""
    in_bytes = unit not in {"requests", "connections"}
    what = f"{'bytes' if in_bytes else unit}{' per second' if noun == 'a rate' else ''}"
    if isinstance(value, str) and _SIZE.fullmatch(value):
        if not in_bytes:
            instead = ", or set unit: bytes_in or bytes_out" if unit == "requests" else ""
            raise ValueError(f"{quoted(value)} is a size; write {what} as a number{instead}")
        amount: float = parse_size(value)
    elif isinstance(value, str) and _NUMBER.fullmatch(value):
        amount = float(value)
    elif isinstance(value, int | float) and not isinstance(value, bool) and value == value:  # noqa: PLR0124 - not NaN
        amount = value
    else:
        example = "or as in 64KiB, 1MiB or 1GiB" if in_bytes else "as in 100"
        raise ValueError(f"{quoted(value)} is not {noun}; write {what} as a number, {example}")
    if amount > AMOUNT_MAX:
        raise ValueError(f"{quoted(value)} is too high; {AMOUNT_MAX} at most")
    return float(amount)


def parse_api(value: object) -> str:
    """Check the name of an API, as Kafka writes it."""
    if not isinstance(value, str):
        raise ValueError(f"{quoted(value)} is not the name of an API; write one, as in Produce")  # noqa: TRY004 - pydantic
    if value in NEVER_LIMITED:
        raise ValueError(f"{value} cannot be limited, as {NEVER_LIMITED[value]}; leave it out")
    if value in BROKER_ONLY.values():
        raise ValueError(f"{value} is an API between brokers, which kproxy refuses to clients anyway; leave it out")
    if value not in API_NAMES:
        close = nearest(value, API_NAMES)
        advice = f"did you mean {close!r}?" if close else "write Kafka's own name, as in Produce, Fetch or Metadata"
        raise ValueError(f"there is no API {quoted(value)}; {advice}")
    return value


def parse_network(value: object) -> IPv4Network | IPv6Network:
    """Turn ``10.0.0.0/8``, ``2001:db8::/32`` or a single address into a network. A network, from Python, is kept."""
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    shown = quoted(value)
    try:
        text = value if isinstance(value, str) and "%" not in value else ""  # an interface means nothing here
        address = ipaddress.ip_address(text.partition("/")[0])
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        example = "10.0.0.0/8 or 2001:db8::/32"
        raise ValueError(f"{shown} is no network; write an address or a network, as in {example}") from None
    if address != network.network_address:
        raise ValueError(f"{shown} is an address within a network; write {network}, or {address} for that one alone")
    if isinstance(network, IPv6Network) and network.subnet_of(_IPV4_WITHIN_IPV6):
        mapped = IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
        instead = mapped.network_address if mapped.prefixlen == 32 else mapped
        raise ValueError(f"{shown} is IPv4 within IPv6, which kproxy takes as IPv4; write {instead}")
    return network


def check_principal(value: str) -> str:
    """Refuse a principal that no client can ever have."""
    if ":" not in value and not _GLOB.search(value):
        example = quoted(f"User:{value or 'alice'}")
        raise ValueError(f"{quoted(value)} names no type; write it as Kafka does, as in {example}")
    return value


def check_match(values: tuple[object, ...]) -> tuple[object, ...]:
    """Refuse a list that matches nothing."""
    if not values:
        raise ValueError("matches nothing; leave it out to match all")
    return values


def check_key(parts: tuple[KeyPart, ...]) -> tuple[KeyPart, ...]:
    """Refuse a key that holds a part twice."""
    for index, part in enumerate(parts):
        if part in parts[:index]:
            raise ValueError(f"holds {part} twice; write it once")
    return parts


def _amount_schema(number: dict[str, object], *examples: float | str) -> WithJsonSchema:
    text = {"type": "string", "pattern": f"^{_SIZE.pattern}$"}
    return WithJsonSchema({"anyOf": [number, text], "examples": list(examples)})


_ABOVE_ZERO: dict[str, object] = {"type": "number", "exclusiveMinimum": 0}
_ZERO_OR_MORE: dict[str, object] = {"type": "number", "minimum": 0}
_FROM_ONE: dict[str, object] = {"type": "integer", "minimum": 1}
_PATTERN = StringConstraints(max_length=1024)
_NOT_EMPTY = AfterValidator(check_match)
_ENTRIES = Field(max_length=1000, json_schema_extra={"minItems": 1})  # none is told in other words

Rate = Annotated[float, PlainValidator(parse_rate), AS_NUMBER, _amount_schema(_ABOVE_ZERO, 100, 0.5, "2MiB")]
Burst = Annotated[float, PlainValidator(parse_burst), AS_NUMBER, _amount_schema(_ZERO_OR_MORE, 50, "2MiB")]
Amount = Annotated[int, PlainValidator(parse_count), _amount_schema(_FROM_ONE, 1000, "100MiB")]
ConnectionRate = Annotated[float, PlainValidator(parse_connection_rate), AS_NUMBER, WithJsonSchema(_ABOVE_ZERO)]
ConnectionBurst = Annotated[float, PlainValidator(parse_connection_burst), AS_NUMBER, WithJsonSchema(_ZERO_OR_MORE)]
Waiting = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
Key = Annotated[tuple[KeyPart, ...], AfterValidator(check_key), Field(json_schema_extra={"uniqueItems": True})]

Api = Annotated[str, PlainValidator(parse_api), WithJsonSchema({"type": "string", "enum": sorted(API_NAMES)})]
Network = Annotated[
    IPv4Network | IPv6Network,
    PlainValidator(parse_network),
    WithJsonSchema({"type": "string", "examples": ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"]}),
    AS_TEXT,
]
Principal = Annotated[str, _PATTERN, AfterValidator(check_principal)]
Listeners = Annotated[tuple[str, ...], _ENTRIES, _NOT_EMPTY]
Apis = Annotated[tuple[Api, ...], _ENTRIES, _NOT_EMPTY]
Principals = Annotated[tuple[Principal, ...], _ENTRIES, _NOT_EMPTY]
ClientIds = Annotated[tuple[Annotated[str, _PATTERN], ...], _ENTRIES, _NOT_EMPTY]
Networks = Annotated[tuple[Network, ...], _ENTRIES, _NOT_EMPTY]
