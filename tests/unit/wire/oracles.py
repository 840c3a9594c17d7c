"""Two codecs of Kafka's messages that know nothing of kproxy, nor of each other: kio and kafka-python.

A message is a *tree*: a dict of field names (in snake case: ``node_id``, ``error_code``), whose values are scalars,
lists, dicts or None. Where the two name a field alike, a test can change a tree of either::

    >>> tree = KIO.message(Random(1), 3, 9, "response")
    >>> tree["brokers"] = [{"node_id": 1, "host": "b1", "port": 9092, "rack": None}]
    >>> KIO.decode(3, 9, "response", KIO.encode(3, 9, "response", tree)) == tree
    True

kio knows the versions of Kafka 4.x, unstable and share APIs included; kafka-python those from 0 on of the APIs that
it uses. Scalars are each codec's own (kio has timedelta for milliseconds), so trees of the two are not compared with
each other: compare bytes.
"""

import dataclasses
import datetime as dt
import importlib
import io
import pkgutil
import types
import uuid
import warnings
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Literal, get_args, get_origin

import pytest
from kio.schema.errors import ErrorCode
from kio.schema.index import PayloadEntityType, api_key_map, schema_name_map
from kio.serial import entity_reader, entity_writer
from kio.serial._introspect import get_field_tag, is_optional
from kio.serial._serialize import get_field_writer
from kio.static.constants import EntityType

from kproxy.wire.apis import APIS
from kproxy.wire.primitives import put_uvarint

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # kafka-python reads its schemas with an old importlib call
    import kafka.protocol
    from kafka.protocol.api_message import ApiMessage

    for _module in pkgutil.walk_packages(kafka.protocol.__path__, "kafka.protocol."):
        if ".old" not in _module.name and ".generate" not in _module.name:
            importlib.import_module(_module.name)

Kind = Literal["request", "response"]
Tree = dict[str, Any]

_WORDS = ("", "a", "t-1", "orders", "größe", "ключ", "漢字", "kafka-3.internal.example.com", "x" * 200)
_INTEGER_BITS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}


def random_text(rng: Random) -> str:
    """Pick a string: empty, short, longer than a one-byte length, or not ASCII."""
    return rng.choice(_WORDS)


def random_integer(rng: Random, bits: int) -> int:
    """Pick a signed integer, small or extreme as often as any."""
    edge = 1 << (bits - 1)
    return rng.choice((0, 1, -1, 7, edge - 1, -edge, rng.randrange(-edge, edge)))


def random_tags(rng: Random, above: int = -1) -> list[tuple[int, bytes]]:
    """Make up to two tagged fields that no schema knows, ids ascending from ``above``."""
    ids = sorted({rng.choice((100, 127, 128, 5_000, 2_000_000)) for _ in range(rng.choice((0, 0, 1, 2)))})
    return [(tag, rng.randbytes(rng.choice((0, 1, 5, 130)))) for tag in ids if tag > above]


def _tag_buffer(tags: list[tuple[int, bytes]]) -> bytes:
    out = put_uvarint(len(tags))
    for tag, value in tags:
        out += put_uvarint(tag) + put_uvarint(len(value)) + value
    return out


class Kio:
    """The codec of kio: dataclasses made from the schemas of Kafka 4.x, a reader in Rust."""

    name = "kio"

    def versions(self, key: int) -> range:
        """Say which versions of an API it knows; an empty range: none."""
        name = api_key_map.get(key)
        known = sorted(schema_name_map[name]) if name else []
        return range(known[0], known[-1] + 1) if known else range(0)

    def is_flexible(self, key: int, version: int) -> bool:
        """Whether its schema has tagged fields in the body of this version."""
        return bool(self._type(key, version, "response").__flexible__)

    def header_is_flexible(self, key: int, version: int, kind: Kind) -> bool:
        """Whether its schema gives this message a header with tagged fields."""
        return bool(self._type(key, version, kind).__header_schema__.__flexible__)

    def message(self, rng: Random, key: int, version: int, kind: Kind) -> Tree:
        """Make a random message."""
        return self._random_entity(rng, self._type(key, version, kind))

    def encode(self, key: int, version: int, kind: Kind, tree: Tree, unknown_tags: Random | None = None) -> bytes:
        """Encode a message; with ``unknown_tags``, its structs get some tagged fields that no schema knows.

        Those are the same for the same dice and shape of tree; kio itself cannot read them: compare bytes.
        """
        entity = self._entity(self._type(key, version, kind), tree)
        buffer = io.BytesIO()
        if unknown_tags is None:
            entity_writer(type(entity))(buffer, entity)
        else:
            self._write_tagged(buffer, entity, unknown_tags)
        return buffer.getvalue()

    def decode(self, key: int, version: int, kind: Kind, body: bytes) -> Tree:
        """Decode a whole body; every byte must belong to it."""
        entity, size = entity_reader(self._type(key, version, kind))(body, 0)
        assert size == len(body)
        tree: Tree = self._tree(entity)
        return tree

    def _type(self, key: int, version: int, kind: Kind) -> Any:
        entity_type: PayloadEntityType = EntityType.request if kind == "request" else EntityType.response
        module, name = schema_name_map[api_key_map[key]][version][entity_type].split(":")
        return getattr(importlib.import_module(module), name)

    def _random_entity(self, rng: Random, cls: Any) -> Tree:
        return {field.name: self._random_field(rng, field) for field in dataclasses.fields(cls)}

    def _random_field(self, rng: Random, field: Any) -> Any:
        tagged = get_field_tag(field) is not None
        if tagged and rng.random() < 0.5:
            return _default(self, field)
        inner = _inner(field.type)
        if is_optional(field) and not tagged and rng.random() < 0.3:
            return None
        if get_origin(inner) is tuple:
            element = get_args(inner)[0]
            return [self._random_value(rng, field, element) for _ in range(rng.choice((0, 1, 1, 2, 3)))]
        return self._random_value(rng, field, inner)

    def _random_value(self, rng: Random, field: Any, cls: Any) -> Any:
        if dataclasses.is_dataclass(cls):
            return self._random_entity(rng, cls)
        kind = field.metadata["kafka_type"]
        if kind in _INTEGER_BITS:
            return random_integer(rng, _INTEGER_BITS[kind])
        return _KIO_VALUES[kind](rng)

    def _entity(self, cls: Any, tree: Tree) -> Any:
        values = {}
        for field in dataclasses.fields(cls):
            inner, value = _inner(field.type), tree[field.name]
            element = get_args(inner)[0] if get_origin(inner) is tuple else inner
            if isinstance(value, list):
                value = tuple(self._entity(element, item) if isinstance(item, dict) else item for item in value)
            elif isinstance(value, dict):
                value = self._entity(element, value)
            values[field.name] = value
        return cls(**values)

    def _tree(self, value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {field.name: self._tree(getattr(value, field.name)) for field in dataclasses.fields(value)}
        if isinstance(value, tuple):
            return [self._tree(item) for item in value]
        return value

    def _write_tagged(self, buffer: io.BytesIO, entity: Any, rng: Random) -> None:
        tags = []
        flexible = type(entity).__flexible__
        for field in dataclasses.fields(entity):
            value, tag = getattr(entity, field.name), get_field_tag(field)
            if tag is not None:
                if self._tree(value) != _default(self, field):
                    inside = io.BytesIO()
                    self._write_field(inside, field, value, rng, flexible=flexible)
                    tags.append((int(tag), inside.getvalue()))
            else:
                self._write_field(buffer, field, value, rng, flexible=flexible)
        if flexible:
            tags.sort()
            buffer.write(_tag_buffer(tags + random_tags(rng, tags[-1][0] if tags else -1)))

    def _write_field(self, buffer: io.BytesIO, field: Any, value: Any, rng: Random, *, flexible: bool) -> None:
        inner = _inner(field.type)
        if get_origin(inner) is tuple and dataclasses.is_dataclass(get_args(inner)[0]) and value is not None:
            buffer.write(put_uvarint(len(value) + 1) if flexible else len(value).to_bytes(4, "big"))
            for item in value:
                self._write_tagged(buffer, item, rng)
        elif dataclasses.is_dataclass(inner) and value is not None:
            if is_optional(field) and get_field_tag(field) is None:
                buffer.write(b"\x01")
            self._write_tagged(buffer, value, rng)
        else:
            tagged = get_field_tag(field) is not None
            get_field_writer(field, flexible, is_request_header=False, is_tag=tagged)(buffer, value)


class KafkaPython:
    """The codec of kafka-python: the schemas themselves, read at run time."""

    name = "kafka-python"

    def __init__(self) -> None:
        self._classes: dict[tuple[int, str], Any] = {}
        for cls in ApiMessage.__subclasses__():
            if cls._class_version is None:
                self._classes[cls.API_KEY, cls.type] = cls

    def versions(self, key: int) -> range:
        """Say which versions of an API it knows; an empty range: none."""
        cls = self._classes.get((key, "response"))
        return range(0 if cls is None else cls.max_version + 1)

    def is_flexible(self, key: int, version: int) -> bool:
        """Whether its schema has tagged fields in the body of this version."""
        return bool(self._classes[key, "response"].flexible_version_q(version))

    def message(self, rng: Random, key: int, version: int, kind: Kind) -> Tree:
        """Make a random message."""
        return self._random_struct(rng, self._classes[key, kind]._struct, version)

    def encode(self, key: int, version: int, kind: Kind, tree: Tree) -> bytes:
        """Encode a message."""
        cls = self._classes[key, kind]
        return bytes(cls(version=version, **self._values(cls._struct, version, tree)).encode())

    def decode(self, key: int, version: int, kind: Kind, body: bytes) -> Tree:
        """Decode a whole body; every byte must belong to it."""
        cls = self._classes[key, kind]
        flexible = cls.flexible_version_q(version)
        data = io.BytesIO(body)
        message = cls._struct.decode(data, version=version, compact=flexible, tagged=flexible, data_class=cls)
        assert data.tell() == len(body)
        return self._tree(cls._struct, version, message)

    def _fields(self, struct: Any, version: int) -> Iterator[Any]:
        return (field for field in struct.fields.values() if field.for_version_q(version))

    def _random_struct(self, rng: Random, struct: Any, version: int) -> Tree:
        return {field.name: self._random_field(rng, field, version) for field in self._fields(struct, version)}

    def _random_field(self, rng: Random, field: Any, version: int) -> Any:
        if field.tagged_field_q(version):
            if rng.random() < 0.5:
                return field.default
        elif field.nullable_for_version_q(version) and rng.random() < 0.3:
            return None
        count = rng.choice((0, 1, 1, 2, 3))
        if field.is_struct_array():
            return [self._random_struct(rng, field, version) for _ in range(count)]
        if field.is_struct():
            return self._random_struct(rng, field, version)
        if field.is_array():
            return [self._random_scalar(rng, field.name, field.array_of.type_str) for _ in range(count)]
        return self._random_scalar(rng, field.name, field.type_str)

    def _random_scalar(self, rng: Random, name: str, kind: str) -> Any:
        # kio reads neither an error code that Kafka does not have, nor a time it cannot put in a datetime.
        if name.endswith("error_code"):
            return rng.choice((0, 3, 6, 16, 89))
        if name.endswith("_ms"):
            return rng.choice((0, 1, 30_000))
        if kind in _INTEGER_BITS:
            return random_integer(rng, _INTEGER_BITS[kind])
        return _KAFKA_PYTHON_VALUES[kind](rng)

    def _values(self, struct: Any, version: int, tree: Tree) -> Tree:
        values = {}
        for field in self._fields(struct, version):
            value = tree[field.name]
            if field.is_struct_array() and value is not None:
                value = [field.data_class(version=version, **self._values(field, version, item)) for item in value]
            elif field.is_struct() and value is not None:
                value = field.data_class(version=version, **self._values(field, version, value))
            values[field.name] = value
        return values

    def _tree(self, struct: Any, version: int, message: Any) -> Tree:
        tree: Tree = {}
        for field in self._fields(struct, version):
            value = getattr(message, field.name)
            if field.is_struct_array() and value is not None:
                value = [self._tree(field, version, item) for item in value]
            elif field.is_struct() and value is not None:
                value = self._tree(field, version, value)
            elif isinstance(value, memoryview):
                value = bytes(value)
            tree[field.name] = value
        return tree


def _inner(annotation: Any) -> Any:
    """Take ``None`` out of ``X | None``."""
    if get_origin(annotation) is types.UnionType:
        return next(arg for arg in get_args(annotation) if arg is not types.NoneType)
    return annotation


def _default(oracle: Kio, field: Any) -> Any:
    if field.default is not dataclasses.MISSING:
        return oracle._tree(field.default)
    inner = _inner(field.type)
    if dataclasses.is_dataclass(inner):
        return {each.name: _default(oracle, each) for each in dataclasses.fields(inner)}
    return _ZEROS[field.metadata["kafka_type"]]


_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_ZEROS: dict[str, Any] = dict.fromkeys(_INTEGER_BITS, 0) | {"bool": False, "string": "", "bytes": b"", "uuid": None}


def _uuid(rng: Random) -> uuid.UUID:
    return uuid.UUID(int=rng.getrandbits(128) | 1)


_KIO_VALUES: dict[str, Callable[[Random], Any]] = {
    "uint16": lambda rng: rng.randrange(1 << 16),
    "bool": lambda rng: rng.random() < 0.5,
    "string": random_text,
    "bytes": lambda rng: rng.randbytes(rng.choice((0, 1, 40, 300))),
    "records": lambda rng: rng.randbytes(rng.choice((0, 1, 40, 300))),
    "uuid": _uuid,
    "float64": lambda rng: rng.choice((0.0, -1.5, 1e300)),
    "error_code": lambda rng: rng.choice((ErrorCode.none, *ErrorCode)),
    "timedelta_i32": lambda rng: dt.timedelta(milliseconds=rng.choice((0, 1, 30_000, 2**31 - 1))),
    "timedelta_i64": lambda rng: dt.timedelta(milliseconds=rng.choice((0, 1, 30_000, 10**12))),
    "datetime_i64": lambda rng: _EPOCH + dt.timedelta(milliseconds=rng.randrange(10**12)),
}
_KAFKA_PYTHON_VALUES: dict[str, Callable[[Random], Any]] = {
    "uint16": _KIO_VALUES["uint16"],
    "bool": _KIO_VALUES["bool"],
    "string": random_text,
    "bytes": _KIO_VALUES["bytes"],
    "records": _KIO_VALUES["records"],
    "uuid": _uuid,
    "float64": _KIO_VALUES["float64"],
    "bitfield": lambda rng: set(rng.sample(range(31), rng.choice((0, 1, 3)))),
}

KIO = Kio()
KAFKA_PYTHON = KafkaPython()
ORACLES: tuple[Kio | KafkaPython, ...] = (KIO, KAFKA_PYTHON)


def cases(*keys: int) -> list[Any]:
    """List ``(oracle, key, version)`` for every version of these APIs (none: all) that kproxy and the oracle know.

    For ``pytest.mark.parametrize(("oracle", "key", "version"), cases(3, 60))``.
    """
    return [
        pytest.param(oracle, key, version, id=f"{oracle.name}-{APIS[key].name}-v{version}")
        for oracle in ORACLES
        for key in keys or APIS
        for version in oracle.versions(key)
        if APIS[key].min_version <= version <= APIS[key].max_version
    ]
