r"""Read and write any message by its shape, where nothing faster is needed: what rules on topics have to look into.

A body is read into a dict of field names, values and ``Rows``, which know where each of their elements stands, so that
a message is changed by cutting and inserting bytes and all that is not understood stays as it was. OffsetFetch v1 of
group g, topics a and b without partitions, and the same without topic a::

    >>> body = bytes.fromhex("0001 67 00000002 0001 61 00000000 0001 62 00000000")
    >>> values, end = read(request(9, 1), body)
    >>> values["group"], [topic["name"] for topic in values["topics"]]
    ('g', ['a', 'b'])
    >>> splice(body, edits(request(9, 1), values["topics"], drop={0})).hex(" ", -4)
    '00016700 00000100 01620000 0000'

A reader raises Short where the bytes end early and Malformed where they cannot be such a message. A writer fills in
what it is not given with the defaults of ``schemas``. Values of type b are read as where they stand, (begin, end), and
written from bytes. Never here: the data path, on which a walk by shape is ten times too slow.
"""

import re
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from kproxy.errors import Short, Unsupported
from kproxy.wire import primitives
from kproxy.wire.apis import APIS, is_flexible
from kproxy.wire.primitives import INT16, INT32, UUID_BYTES
from kproxy.wire.schemas import SCHEMAS

Values = dict[str, Any]
"""A struct's fields by name: int, float, bool, str, None, (begin, end), bytes of a UUID, Values, or Rows."""

Edit = tuple[int, int, bytes]
"""What replaces the bytes from a position up to another."""

_FIXED = {
    "i8": struct.Struct(">b"),
    "i16": INT16,
    "i32": INT32,
    "i64": struct.Struct(">q"),
    "u16": struct.Struct(">H"),
    "f64": struct.Struct(">d"),
    "bool": struct.Struct(">?"),
}
_NULL_STRUCT, _STRUCT = b"\xff", b"\x01"


class Field(NamedTuple):
    """One field. ``kind``: a type, or rows, bare, struct, nullable."""

    name: str
    kind: str
    fields: tuple["Field", ...]
    default: str | None


class Shape(NamedTuple):
    """The fields of a body, or of an array's elements (``bare``: of which each is one plain value)."""

    fields: tuple[Field, ...]
    flexible: bool
    bare: bool = False

    def of(self, name: str) -> "Shape":
        """Return the shape of an array's elements, or of a struct."""
        field = next(field for field in self.fields if field.name == name)
        return Shape(field.fields, self.flexible, field.kind == "bare")

    def has(self, name: str) -> bool:
        """Whether there is such a field in this version."""
        return any(field.name == name for field in self.fields)


class Rows(list[Values]):
    """An array's elements, and where they stand."""

    def __init__(self, begin: int) -> None:
        super().__init__()
        self.begin = begin
        """Of the count."""
        self.first = begin
        """Of the first element: behind the count."""
        self.spans: list[tuple[int, int]] = []
        """From where to where each element goes."""


def request(key: int, version: int) -> Shape:
    """Return the shape of a request's body. Raises Unsupported for what is not in the table."""
    return _shape(key, version, 0)


def response(key: int, version: int) -> Shape:
    """Return the shape of an answer's body. Raises Unsupported for what is not in the table."""
    return _shape(key, version, 1)


# The table.


@cache
def _texts() -> dict[tuple[int, int], str]:
    texts: dict[tuple[int, int], str] = {}
    key, which = -1, 0
    for line in SCHEMAS.splitlines():
        if line[:1].isdigit():
            key = int(line.split(" ", 1)[0])
        elif line[2:3] in ("<", ">"):
            which = int(line[2] == "<")
            texts[key, which] = line[4:]
        elif line:
            texts[key, which] += f" {line.strip()}"
    return texts


@cache
def _shape(key: int, version: int, which: int) -> Shape:
    text = _texts().get((key, which))
    api = APIS.get(key)
    if text is None or api is None or not api.min_version <= version <= api.max_version:
        raise Unsupported(f"API key {key} version {version}")
    words = iter(re.findall(r"\w+(?:\*?\[|\??\{)|[]}](?:[@=][^\s\]}]*)?|[^\s\]}]+", text))
    return Shape(_fields(words, version)[0], is_flexible(key, version))


def _fields(words: Iterator[str], version: int) -> tuple[tuple[Field, ...], str]:
    """Read fields up to where their struct is closed; return them and what says so, with its mark."""
    fields: list[Field] = []
    for word in words:
        if word[0] in "]}":
            return tuple(fields), word[1:]
        opened = re.fullmatch(r"(\w+)(\*?\[|\??\{)", word)
        if opened:
            name, kind = opened[1], {"[": "rows", "*[": "bare", "{": "struct", "?{": "nullable"}[opened[2]]
            inner, mark = _fields(words, version)
        else:
            name, _, rest = word.partition(":")
            kind = re.split(r"[@=]", rest)[0]
            inner, mark = (), rest[len(kind) :]
        versions, _, default = mark.partition("=")
        if _holds(versions, version):
            fields.append(Field(name, kind, inner, default or None))
    return tuple(fields), ""


def _holds(versions: str, version: int) -> bool:
    if not versions:
        return True
    low, dash, high = versions[1:].rstrip("+").partition("-")
    return int(low or 0) <= version and (not dash or version <= int(high))


# Reading.


def read(shape: Shape, data: bytes, pos: int = 0, until: str = "") -> tuple[Values, int]:
    """Read a struct that begins at ``pos``, or its fields before ``until``; return them and where they end."""
    values: Values = {}
    flexible = shape.flexible
    for name, kind, fields, _ in shape.fields:
        if name == until:
            return values, pos
        fixed = _FIXED.get(kind)
        if fixed is not None:
            end = pos + fixed.size
            if end > len(data):
                raise Short(name)
            (values[name],) = fixed.unpack_from(data, pos)
            pos = end
        elif kind == "s":
            values[name], pos = (primitives.compact_nullable_string if flexible else primitives.nullable_string)(
                data, pos
            )
        elif kind in {"rows", "bare"}:
            values[name], pos = _rows(Shape(fields, flexible, kind == "bare"), data, pos)
        elif kind == "b":
            values[name], pos = _bytes(flexible, data, pos)
        elif kind == "u":
            end = primitives.skip(data, pos, UUID_BYTES)
            values[name] = data[pos:end]
            pos = end
        else:
            there = True
            if kind == "nullable":
                mark, pos = primitives.int8(data, pos)
                there = mark >= 0
            values[name], pos = read(Shape(fields, flexible), data, pos) if there else (None, pos)
    if flexible and not shape.bare:
        pos = pos + 1 if data[pos : pos + 1] == b"\0" else primitives.skip_tags(data, pos)
    return values, pos


def count(shape: Shape, data: bytes, pos: int) -> tuple[int, int]:
    """Read an array's count (-1: null); return it and where the elements begin."""
    return primitives.compact_array(data, pos) if shape.flexible else primitives.array(data, pos)


def _rows(shape: Shape, data: bytes, pos: int) -> tuple[Rows | None, int]:
    rows = Rows(pos)
    many, pos = count(shape, data, pos)
    if many < 0:
        return None, pos
    rows.first = pos
    for _ in range(many):
        begin = pos
        values, pos = read(shape, data, pos)
        rows.append(values)
        rows.spans.append((begin, pos))
    return rows, pos


def _bytes(flexible: bool, data: bytes, pos: int) -> tuple[tuple[int, int] | None, int]:
    size, pos = primitives.compact_array(data, pos) if flexible else primitives.int32(data, pos)
    if size < 0:
        return None, pos
    end = primitives.skip(data, pos, size)
    return (pos, end), end


# Writing.


def write(shape: Shape, values: Mapping[str, Any]) -> bytes:
    """Write a struct; a field that is not among ``values`` gets its default, or nought, or nothing."""
    out = [_field(shape.flexible, field, values.get(field.name, _default(field))) for field in shape.fields]
    if shape.flexible and not shape.bare:
        out.append(b"\0")
    return b"".join(out)


def _default(field: Field) -> Any:  # noqa: ANN401 - of the field's own type
    if field.kind in _FIXED:
        return int(field.default or 0)
    if field.kind == "s":
        return None if field.default == "null" else ""
    if field.kind == "u":
        return bytes(UUID_BYTES)
    if field.kind == "b":
        return b""
    return {"rows": (), "bare": (), "struct": {}}.get(field.kind)


def _field(flexible: bool, field: Field, value: Any) -> bytes:  # noqa: ANN401 - of the field's own type
    kind = field.kind
    fixed = _FIXED.get(kind)
    if fixed is not None:
        return fixed.pack(value)
    if kind == "s":
        return (primitives.put_compact_string if flexible else primitives.put_string)(value)
    if kind == "b":
        size = -1 if value is None else len(value)
        return (primitives.put_uvarint(size + 1) if flexible else INT32.pack(size)) + (value or b"")
    if kind == "u":
        return bytes(value)
    if kind in {"rows", "bare"}:
        shape = Shape(field.fields, flexible, kind == "bare")
        return put_count(shape, value) + b"".join(write(shape, row) for row in value or ())
    if value is None:
        return _NULL_STRUCT
    return (_STRUCT if kind == "nullable" else b"") + write(Shape(field.fields, flexible), value)


def put_count(shape: Shape, rows: Collection[object] | None) -> bytes:
    """Write an array's count."""
    many = -1 if rows is None else len(rows)
    return primitives.put_uvarint(many + 1) if shape.flexible else INT32.pack(many)


# Changing.


def edits(shape: Shape, rows: Rows, drop: Collection[int] = (), add: Collection[bytes] = ()) -> list[Edit]:
    """Say how to take elements out of an array, by index, and put others, already written, in front of it."""
    if not drop and not add:
        return []
    many = range(len(rows) - len(drop) + len(add))
    return [
        (rows.begin, rows.first, put_count(shape, many) + b"".join(add)),
        *((*rows.spans[index], b"") for index in sorted(drop)),
    ]


def splice(data: bytes, changes: Iterable[Edit]) -> bytes:
    """Make edits, no two of which overlap."""
    pieces: list[bytes] = []
    pos = 0
    for begin, end, instead in sorted(changes):
        pieces += (data[pos:begin], instead)
        pos = end
    pieces.append(data[pos:])
    return b"".join(pieces)
