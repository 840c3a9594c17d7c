"""What is done to the answer of a request that rules have changed: elements joined, or taken out.

- Join: denied elements stand in front of what the broker said. Only the answer's head is held, up to the array's count,
  so that a Fetch answer still streams by. An answer with an error of its own stays as it is.
- Rework: the answer is held whole, and changed by a function of its body.

OffsetCommit v0, topic b answered by the broker, topic a denied (29)::

    broker   00000001 0001 62 ...                          client   00000002 0001 61 00000001 00000000 001d  0001 62 ...
"""

from collections.abc import Callable, Collection, Sequence

from kproxy.core.access import Operation, Permissions, Resource
from kproxy.core.decision import topics_of_group
from kproxy.core.needs import GROUPS_SHOWN, NAMES, SHOWN, TOPIC_AUTHORIZATION_FAILED, Need
from kproxy.core.refusals import refused_elements
from kproxy.core.rewrite import Sink
from kproxy.errors import FrameTooLarge, Malformed, Short
from kproxy.wire import frames, shapes
from kproxy.wire.apis import ApiKey
from kproxy.wire.primitives import INT32
from kproxy.wire.shapes import Edit, Values, edits, put_count

HEAD_BYTES_MAX = 64 * 1024
"""How much of an answer may stand before the array that is joined: at most two strings."""


class Join:
    """Put elements, already written, in front of an answer's array. A Sink (see rewrite)."""

    left = 0

    def __init__(
        self,
        key: int,
        version: int,
        array: str,
        elements: Collection[bytes],
        seen: Callable[[Values], Collection[bytes]] | None = None,
    ) -> None:
        """``seen`` is told what stands before the array, and may give other elements for it."""
        self._key = key
        self._version = version
        self._array = array
        self._elements = elements
        self._seen = seen
        self._held = b""
        self._frame_bytes = 0

    def expect(self, frame_bytes: int) -> "Join":
        """Begin with a frame of that size, its size prefix included."""
        self._frame_bytes = frame_bytes
        return self

    @property
    def missing(self) -> int:
        """See Sink."""
        return self._frame_bytes - len(self._held)

    def feed(self, data: bytes, pos: int) -> tuple[bytes, int, bool]:
        """See Sink."""
        end = min(len(data), pos + self.missing)
        held = self._held + data[pos:end]
        try:
            changed = self._change(held)
        except Short:
            if len(held) == self._frame_bytes:
                raise Malformed("an answer ends before what was asked for") from None
            if len(held) > HEAD_BYTES_MAX:
                raise FrameTooLarge(f"{HEAD_BYTES_MAX} bytes of an answer before what was asked for") from None
            self._held = held
            return b"", end, False
        self.left = self._frame_bytes - len(held)
        self._held = b""
        return changed, end, True

    def apply(self, frame: bytes) -> bytes:
        """Change a whole frame."""
        return self.expect(len(frame)).feed(frame, 0)[0]

    def _change(self, held: bytes) -> bytes:
        shape = shapes.response(self._key, self._version)
        body_at = frames.response_body_at(held, 4, self._key, self._version)
        values, at = shapes.read(shape, held, body_at, until=self._array)
        many, first = shapes.count(shape, held, at)
        elements = self._elements if self._seen is None else self._seen(values)
        if not elements or values.get("error"):
            return held
        added = put_count(shape, range(max(many, 0) + len(elements))) + b"".join(elements)
        size = self._frame_bytes - 4 + len(added) - (first - at)
        return b"".join((INT32.pack(size), held[4:at], added, held[first:]))


class Piped:
    """One Sink's bytes, whose number it does not change, through a Join."""

    left = 0

    def __init__(self, first: Sink, join: Join) -> None:
        self._first = first
        self._join: Join | None = join

    @property
    def missing(self) -> int:
        """See Sink."""
        return self._first.missing

    def feed(self, data: bytes, pos: int) -> tuple[bytes, int, bool]:
        """See Sink."""
        out, pos, done = self._first.feed(data, pos)
        if self._join is not None:
            out, _, joined = self._join.feed(out, 0)
            if joined:
                self._join = None
        return out, pos, done


Rework = Callable[[bytes], bytes]
"""A whole answer's body -> the client's; the same object where nothing changes."""

Amendment = Join | Rework


def apply(frame: bytes, key: int, version: int, rework: Rework) -> bytes:
    """Change a whole answer's body."""
    body_at = frames.response_body_at(frame, 4, key, version)
    body = frame[body_at:]
    changed = rework(body)
    if changed is body:
        return frame
    return b"".join((INT32.pack(body_at - 4 + len(changed)), frame[4:body_at], changed))


# What one may not describe is left out.


def shown(permissions: Permissions, key: int, version: int, body: bytes) -> bytes:
    """Leave out of an answer what its client may not describe; the same object where that is nothing."""
    if key == ApiKey.LIST_GROUPS and permissions.allows(Operation.DESCRIBE, Resource.CLUSTER):
        return body
    shape = shapes.response(key, version)
    values, _ = shapes.read(shape, body)
    changes: list[Edit] = []
    if key in GROUPS_SHOWN:
        changes = _groups_shown(permissions, key, version, values["groups"] or shapes.Rows(0))
    for need in SHOWN.get(key, ()):
        outer, _, inner = need.field.partition(".")
        rows = values.get(outer)
        if rows and not inner:
            changes += edits(shape.of(outer), rows, _hidden(permissions, need, rows))
        elif rows:
            for row in rows:
                hidden = _hidden(permissions, need, row[inner] or ())
                if hidden:
                    changes += edits(shape.of(outer).of(inner), row[inner], hidden)
    return shapes.splice(body, changes) if changes else body


def _hidden(permissions: Permissions, need: Need, rows: Sequence[Values]) -> set[int]:
    """Return the elements that one may not describe; one that names nothing hides nothing."""
    hidden = set()
    for index, row in enumerate(rows):
        name = row.get(NAMES[need.resource])
        if name is None and "id" in row:
            name = permissions.access.names.find(row["id"])
            if name is None:
                if not permissions.always(need.operation, need.resource):
                    hidden.add(index)
                continue
        if name is not None and not row.get("error") and not permissions.allows(need.operation, need.resource, name):
            hidden.add(index)
    return hidden


def _groups_shown(permissions: Permissions, key: int, version: int, rows: shapes.Rows) -> list[Edit]:
    changes = []
    for row, (begin, end) in zip(rows, rows.spans, strict=True):
        if any(not permissions.allows(Operation.DESCRIBE, Resource.TOPIC, name) for name in topics_of_group(row)):
            (refused,) = refused_elements(key, version, "groups", [row], [TOPIC_AUTHORIZATION_FAILED])
            changes.append((begin, end, refused))
    return changes
