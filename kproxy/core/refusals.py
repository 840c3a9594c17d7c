"""The answers to what is denied: the proper error, where each API and version has its place for one.

Where an answer has an error of its own that is said, and nothing else; elsewhere, and always in Fetch (whose own error
a Java application never sees), everything that was asked for is echoed with it. OffsetDelete of group g, refused as a
whole, and one topic of an OffsetCommit v0::

    >>> refuse(ApiKey.OFFSET_DELETE, 0, {"group": "g", "topics": []}, 30).hex(" ", 2)
    '001e 0000 0000 0000 0000'
    >>> values = {"group": "g", "topics": [{"name": "t", "partitions": [{"index": 1}]}]}
    >>> refused_elements(ApiKey.OFFSET_COMMIT, 0, "topics", values["topics"], [29])[0].hex(" ", 2)
    '00 0174 0000 0001 0000 0001 001d'

Never here: what is denied.
"""

from collections.abc import Sequence
from typing import Any

from kproxy.core.access import Resource
from kproxy.core.needs import CLUSTER_AUTHORIZATION_FAILED, ERRORS, needs
from kproxy.wire import shapes
from kproxy.wire.apis import ApiKey
from kproxy.wire.shapes import Shape, Values

MESSAGE = "denied by kproxy's access rules"

_IDENTITY = frozenset(
    {"name", "id", "group", "txn", "key", "index", "type", "resource", "entity_type", "entity_name", "member_id"}
)
"""What says which element an answer's is about; other fields that both have, like a timestamp, are not echoed."""

_ECHOED = frozenset({"partitions", "entity"})
"""Arrays within an element that are echoed as well."""

_CONFIG_ERRORS = {2: ERRORS[Resource.TOPIC], 32: ERRORS[Resource.GROUP]}
"""By type of config resource (ConfigResource.Type); brokers, loggers and metrics are the cluster's."""


def config_error(resource_type: int) -> int:
    """Return the error for a config resource."""
    return _CONFIG_ERRORS.get(resource_type, CLUSTER_AUTHORIZATION_FAILED)


def api_error(key: int, values: Values) -> int:
    """Return the error for a whole API that is denied, which is that of what it is about.

    Of several the topics' is taken, as a producer stays alive with it and can abort its transaction.
    """
    if key == ApiKey.FIND_COORDINATOR:
        return ERRORS[coordinated(values)]
    if key == ApiKey.INIT_PRODUCER_ID:
        return ERRORS[Resource.CLUSTER if values["txn"] is None else Resource.TXN]
    found = [need.resource for need in needs(key)]
    if key in {ApiKey.PRODUCE, ApiKey.ADD_PARTITIONS_TO_TXN}:
        found = [Resource.TOPIC]
    return ERRORS[found[0] if found else Resource.CLUSTER]


def coordinated(values: Values) -> Resource:
    """Return what a FindCoordinator request's keys are: groups, transactional ids, or share partitions of brokers."""
    return {0: Resource.GROUP, 1: Resource.TXN}.get(values.get("key_type", 0), Resource.CLUSTER)


def refuse(key: int, version: int, values: Values, code: int) -> bytes:
    """Return the body of the answer to a request that is denied as a whole."""
    shape = shapes.response(key, version)
    answer: Values = {name: values[name] for name in _IDENTITY if name in values}
    if shape.has("error") and key != ApiKey.FETCH:
        return shapes.write(shape, answer | {"error": code, "message": MESSAGE})
    for field in shape.fields:
        rows = _asked(key, field.name, values) if field.kind in {"rows", "bare"} else ()
        if rows:
            answer[field.name] = [
                _element(shape.of(field.name), row, config_error(row["type"]) if "type" in row else code)
                for row in rows
            ]
    return shapes.write(shape, answer)


def refuse_elements(key: int, version: int, array: str, rows: Sequence[Values], codes: Sequence[int]) -> bytes:
    """Return the body of the answer to a request all of whose elements are denied, each with a code of its own."""
    shape = shapes.response(key, version)
    inner = shape.of(array)
    return shapes.write(shape, {array: [_element(inner, row, code) for row, code in zip(rows, codes, strict=True)]})


def refused_elements(key: int, version: int, array: str, rows: Sequence[Values], codes: Sequence[int]) -> list[bytes]:
    """Return the elements of an answer's array for those of a request's that are denied; a dot as in Need.field."""
    shape = shapes.response(key, version)
    for name in array.split("."):
        shape = shape.of(name)
    return [shapes.write(shape, _element(shape, row, code)) for row, code in zip(rows, codes, strict=True)]


def _asked(key: int, array: str, values: Values) -> Sequence[Values]:
    if key == ApiKey.ALTER_REPLICA_LOG_DIRS and array == "topics":
        return [topic for each in values["dirs"] or () for topic in each["topics"] or ()]
    if key == ApiKey.ALTER_USER_SCRAM_CREDENTIALS and array == "results":
        users = [row["name"] for change in ("deletions", "upsertions") for row in values[change] or ()]
        return [{"user": user} for user in dict.fromkeys(users)]
    return values.get(array) or ()


def _element(shape: Shape, row: Values, code: int) -> Values:
    out: dict[str, Any] = {"error": code, "message": MESSAGE}
    for field in shape.fields:
        if field.name in row and (field.name in _IDENTITY or field.name == "user"):
            out[field.name] = row[field.name]
        elif field.name in _ECHOED and row.get(field.name):
            inner = shape.of(field.name)
            out[field.name] = [_element(inner, each, code) for each in row[field.name]]
    return out
