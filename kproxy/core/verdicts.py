"""From a verdict to deeds: what is answered here, and what goes to the broker instead of a request, to be amended.

``judge`` returns None for a request that passes as it is and whose answer needs no look. Otherwise a Found says what
the client gets at once, or what the broker gets and what is then done to its answer. A Produce of topics t and secret::

    Found(answer=None, body=<the body with t alone>, amendment=<puts secret, 29 into the answer>, closes=False)

Metadata and Fetch have rules of their own: Metadata must still tell the brokers, and must not create topics for who may
not; Fetch has sessions. Never here: frames, or when something is sent.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from kproxy.core import amendments
from kproxy.core.access import Denial, Operation, Resource
from kproxy.core.amendments import Amendment, Join
from kproxy.core.decision import Verdict, decide
from kproxy.core.needs import (
    FETCH_SESSION_ID_NOT_FOUND,
    GROUPS_SHOWN,
    SHOWN,
    TOPIC_AUTHORIZATION_FAILED,
    UNKNOWN_TOPIC_ID,
)
from kproxy.core.refusals import api_error, refuse, refuse_elements, refused_elements
from kproxy.errors import Malformed
from kproxy.wire import shapes
from kproxy.wire.apis import APIS, ApiKey
from kproxy.wire.primitives import INT32
from kproxy.wire.shapes import Edit, Rows, Shape, Values, edits, splice

if TYPE_CHECKING:
    from kproxy.core.guardedanswers import GuardedAnswers

DENIED_PARTITIONS_MAX = 10_000
"""How many denied partitions of a Fetch session are remembered, to be told again with each answer."""

_PRODUCE, _FETCH, _METADATA = int(ApiKey.PRODUCE), int(ApiKey.FETCH), int(ApiKey.METADATA)
_SHARE_FETCH = int(ApiKey.SHARE_FETCH)
_CREATE_TOPICS = int(ApiKey.CREATE_TOPICS)

_ALL_IF_NULL = {
    int(ApiKey.OFFSET_FETCH): True,
    int(ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS): True,
}
"""APIs whose answers hold more than was named only where nothing was."""


class Asked(NamedTuple):
    """A request, read."""

    key: int
    version: int
    shape: Shape
    values: Values
    body: bytes


@dataclass(slots=True)
class Found:
    """See the module."""

    answer: bytes | None = None
    """The body of the answer to give here."""
    body: bytes | None = None
    """What the broker gets; None: nothing."""
    amendment: Amendment | None = None
    """What is done to its answer."""
    closes: bool = False
    """The connection ends with it."""


def judge(exchange: "GuardedAnswers", asked: Asked) -> Found | None:
    """Hold a request against the rules; see the module."""
    key, version, values = asked.key, asked.version, asked.values
    permissions = exchange.permissions
    access = permissions.access
    denied_api = key in access.denied_apis
    if denied_api:
        access.deny(Denial(permissions.principal, APIS[key].name, "api", "", APIS[key].name, access.dry_run))
    if key == _METADATA:
        return None if access.dry_run and not denied_api else _Metadata(exchange, asked).judge()
    if denied_api and not access.dry_run:
        if key == _PRODUCE and values["acks"] == 0:
            return Found(closes=True)
        return Found(refuse(key, version, values, api_error(key, values)))
    verdict = decide(permissions, key, values)
    for operation, resource, name in verdict.denied:
        access.deny(Denial(permissions.principal, operation, resource, name, APIS[key].name, access.dry_run))
    if access.dry_run:
        return None
    if key == _PRODUCE and values["acks"] == 0 and not verdict.allowed:
        left = not verdict.code and len(verdict.cut["topics"]) < len(values["topics"])
        return Found(body=_cut(asked, verdict) if left else None, closes=True)
    if verdict.code:
        return Found(refuse(key, version, values, verdict.code))
    if key == _FETCH:
        return _fetch(exchange, asked, verdict)
    array = next(iter(verdict.cut), "")
    rows = values[array] if array else Rows(0)
    going_on = key == _SHARE_FETCH and values["share_session_epoch"] > 0
    if array and len(verdict.cut[array]) == len(rows) and not going_on:
        return Found(refuse_elements(key, version, array, rows, [verdict.cut[array][at] for at in range(len(rows))]))
    looks = _is_shown(exchange, key, values)
    if verdict.allowed and not looks:
        return None
    changed = _cut(asked, verdict)
    elements = _refused(key, version, array, rows, verdict.cut.get(array, {}))
    if key == _SHARE_FETCH:
        return Found(body=changed, amendment=Join(key, version, array, elements))
    nested = {
        values["groups"][at]["group"]: _refused(key, version, "groups.topics", values["groups"][at]["topics"], denied)
        for at, denied in verdict.nested.items()
    }
    return Found(
        body=changed,
        amendment=partial(
            _amend,
            shown_to=exchange if looks else None,
            key=key,
            version=version,
            array=array,
            elements=elements,
            nested=nested,
        ),
    )


def _is_shown(exchange: "GuardedAnswers", key: int, values: Values) -> bool:
    """Whether the answer tells of what the request did not name."""
    if key in exchange.ANSWERED_HERE:
        return False  # see GuardedAnswers._shown
    if key in _ALL_IF_NULL:
        groups = values.get("groups", (values,)) or ()
        return any(group["topics"] is None for group in groups)
    return key in SHOWN or key in GROUPS_SHOWN


def _cut(asked: Asked, verdict: Verdict) -> bytes:
    """Take out what is denied."""
    shape, values, body = asked.shape, asked.values, asked.body
    changes: list[Edit] = []
    for array, denied in verdict.cut.items():
        changes += edits(shape.of(array), values[array], denied)
    for index, denied in verdict.nested.items():
        changes += edits(shape.of("groups").of("topics"), values["groups"][index]["topics"], denied)
    return splice(body, changes) if changes else body


def _refused(key: int, version: int, array: str, rows: Rows, denied: dict[int, int]) -> list[bytes]:
    if not denied:
        return []
    return refused_elements(key, version, array, [rows[at] for at in denied], list(denied.values()))


def _amend(
    body: bytes,
    *,
    shown_to: "GuardedAnswers | None",
    key: int,
    version: int,
    array: str,
    elements: list[bytes],
    nested: dict[str, list[bytes]],
) -> bytes:
    """Leave out of an answer what one may not see, and put in what was denied."""
    if shown_to is not None:
        body = amendments.shown(shown_to.permissions, key, version, body)
    if not elements and not nested:
        return body
    shape = shapes.response(key, version)
    values, _ = shapes.read(shape, body)
    if values.get("error"):
        return body
    changes: list[Edit] = []
    if elements:
        if values[array] is None:
            raise Malformed("an answer without what was asked for")
        changes += edits(shape.of(array), values[array], add=elements)
    for row in values["groups"] if nested else ():
        if row["group"] in nested and not row["error"]:
            changes += edits(shape.of("groups").of("topics"), row["topics"], add=nested[row["group"]])
    return splice(body, changes)


# Fetch.


def _fetch(exchange: "GuardedAnswers", asked: Asked, verdict: Verdict) -> Found | None:
    _, version, shape, values, body = asked
    sessions = exchange.fetch_sessions
    session_id, epoch = values.get("session_id", 0), values.get("session_epoch", -1)
    rows = values["topics"] or Rows(0)
    cut = verdict.cut.get("topics", {})
    changes = edits(shape.of("topics"), rows, cut)
    if session_id and session_id not in sessions:
        # Not made on this connection. One that is to be closed is let be, as it may be another client's.
        if epoch > 0:
            return _session_not_found(version)
        _, at = shapes.read(shape, body, until="session_id")
        changes.append((at, at + 4, bytes(4)))
    made = session_id if epoch > 0 else 0
    denied = sessions.get(made, {}) if made else {}
    if made and any(code == UNKNOWN_TOPIC_ID and exchange.knows(name) for name, _, code in denied.values()):
        del sessions[made]
        return _session_not_found(version)  # so that it is made anew, with the topic whose name is known by now
    for at, row in enumerate(rows):
        name = row.get("name") or row.get("id")
        for partition in row["partitions"] or ():
            if at in cut and len(denied) < DENIED_PARTITIONS_MAX:
                denied[name, partition["index"]] = (name, partition["index"], cut[at])
            else:
                denied.pop((name, partition["index"]), None)
    for row in values.get("forgotten") or ():
        name = row.get("name") or row.get("id")
        for partition in row["partitions"] or ():
            denied.pop((name, partition["index"]), None)
    if rows and len(cut) == len(rows) and epoch <= 0:
        return Found(refuse_elements(_FETCH, version, "topics", rows, [cut[at] for at in range(len(rows))]))
    if not denied and not changes and epoch != 0:
        return None
    elements = _denied_partitions(version, denied)

    def seen(head: Values) -> list[bytes]:
        session_id = head.get("session_id", 0)
        if session_id and not head["error"]:
            exchange.saw_session(session_id)
            if epoch == 0 and exchange.fetch_sessions is sessions:  # or other rules hold by now
                exchange.remember_session(session_id, denied)
        return elements

    return Found(body=splice(body, changes), amendment=Join(_FETCH, version, "topics", elements, seen))


def _session_not_found(version: int) -> Found:
    return Found(shapes.write(shapes.response(_FETCH, version), {"error": FETCH_SESSION_ID_NOT_FOUND}))


def _denied_partitions(
    version: int, denied: "dict[tuple[str | bytes, int], tuple[str | bytes, int, int]]"
) -> list[bytes]:
    topics: dict[tuple[str | bytes, int], Values] = {}
    for name, index, code in denied.values():
        topic = topics.setdefault(
            (name, code), {"name": name, "partitions": []} if isinstance(name, str) else {"id": name, "partitions": []}
        )
        topic["partitions"].append({"index": index})
    return refused_elements(_FETCH, version, "topics", list(topics.values()), [code for _, code in topics])


# Metadata.


class _Metadata:
    """One Metadata request."""

    def __init__(self, exchange: "GuardedAnswers", asked: Asked) -> None:
        _, version, shape, values, body = asked
        self._exchange = exchange
        self._permissions = exchange.permissions
        self._version = version
        self._shape = shape
        self._rows: Rows | None = values["topics"]
        self._values = values
        self._body = body

    def judge(self) -> Found | None:
        rows, version = self._rows, self._version
        access = self._permissions.access
        if access.dry_run:
            return None
        if rows is None or (version == 0 and not rows):
            return None  # all topics: whoever takes the answer sees what is shown
        denied = self._denied(rows)
        named = [row["name"] for at, row in enumerate(rows) if at not in denied and row["name"] is not None]
        by_id = any(row["name"] is None for row in rows)
        elements = _refused(_METADATA, version, "topics", rows, denied)
        end = rows.spans[-1][1] if rows.spans else rows.first
        creates = self._values.get("allow_auto_topic_creation", True) and not all(map(self._may_create, named))
        if (creates and version < 4) or (version == 0 and len(denied) == len(rows)):
            # Only where all topics are asked for are none created.
            asked = INT32.pack(0 if version == 0 else -1)
            changed = splice(self._body, [(rows.begin, end, asked)])
            only: frozenset[str] | None = frozenset(named)
        else:
            only = None
            changes = edits(self._shape.of("topics"), rows, denied)
            if creates:
                changes.append((end, end + 1, b"\0"))
            if not changes and not by_id:
                return None
            changed = splice(self._body, changes)
        return Found(
            body=changed,
            amendment=partial(self._exchange.metadata_shown, version, elements=elements, only=only, by_id=by_id),
        )

    def _denied(self, rows: Rows) -> dict[int, int]:
        permissions = self._permissions
        access = permissions.access
        denied = {}
        for at, row in enumerate(rows):
            # An id that nobody knows is asked for all the same: the answer has the name.
            name = row["name"] if row["name"] is not None else access.names.find(row.get("id", b""))
            hidden = _METADATA in access.denied_apis
            if hidden or (name is not None and not permissions.allows(Operation.DESCRIBE, Resource.TOPIC, name)):
                denied[at] = TOPIC_AUTHORIZATION_FAILED
                if name is not None and not hidden:
                    what = (permissions.principal, Operation.DESCRIBE, Resource.TOPIC, name, "Metadata", False)
                    access.deny(Denial(*what))
        return denied

    def _may_create(self, name: str) -> bool:
        permissions = self._permissions
        if _CREATE_TOPICS in permissions.access.denied_apis:
            return False
        return permissions.allows(Operation.CREATE, Resource.CLUSTER) or permissions.allows(
            Operation.CREATE, Resource.TOPIC, name
        )
