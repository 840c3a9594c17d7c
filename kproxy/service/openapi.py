"""What the admin API consists of, as a table, and as an OpenAPI document made of it.

The table is what ``api`` makes its routes of, so that no path can be missing in the document.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from kproxy import __version__
from kproxy.service.clients import CLIENTS_MAX, NO_TLS, RATES, TLS_VERSIONS
from kproxy.wire.dropped import FIRST_VERSIONS


class Endpoint(NamedTuple):
    """One thing that can be asked, or done."""

    method: str
    path: str
    name: str
    summary: str
    answers: dict[int, str]
    """Status -> what it means."""
    schema: dict[str, Any] | None = None
    """Of a 2xx answer; None: it is no JSON."""
    parameters: tuple[tuple[str, str, str], ...] = ()
    """Name, where it stands ("query" or "path"), what it means."""


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def _map(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": of}


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


_TEXT = {"type": "string"}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_NUMBER = {"type": "number"}
_INTEGER = {"type": "integer"}
_INTEGER_OR_NULL = {"type": ["integer", "null"]}
_BOOLEAN = {"type": "boolean"}
_ANYTHING = {"type": "object"}

CLIENT = _object(
    id=_TEXT | {"description": "For POST /clients/{client_id}/close"},
    listener=_TEXT,
    address=_TEXT | {"description": "host:port that the client connects from"},
    principal=_TEXT,
    client_id=_TEXT_OR_NULL | {"description": "Of its first request to a broker; null: there was none, or it has none"},
    software=_TEXT_OR_NULL | {"description": "What the client calls itself (KIP-511); null: it did not say"},
    software_version=_TEXT_OR_NULL,
    apis=_map(_map(_INTEGER)) | {"description": "API -> version -> requests"},
    since=_NUMBER | {"description": "Seconds since 1970"},
    requests=_INTEGER,
    in_flight=_INTEGER | {"description": "Requests that a broker has yet to answer"},
    bytes_in=_INTEGER,
    bytes_out=_INTEGER,
    broker={"type": ["integer", "null"], "description": "The broker of the port it came to; null: any"},
    tls=_TEXT_OR_NULL | {"description": "The version of TLS; null: none"},
    breaks=_map(_list(_INTEGER)) | {"description": "With ``breaks_at``: API -> versions in ``apis`` that are dropped"},
    rates={
        "type": ["object", "null"],
        "properties": dict.fromkeys(RATES, _NUMBER),
        "description": "With ``rates``: per second; null: it is not known what there had been before",
    },
)
_BROKER = _object(host=_TEXT, port=_INTEGER, rack=_TEXT_OR_NULL, up=_BOOLEAN, in_metadata=_BOOLEAN)
_CLUSTERS = _map(_object(cluster_id=_TEXT_OR_NULL, brokers=_map(_BROKER)))
_PROCESS = _object(
    name=_TEXT,
    pid=_INTEGER,
    resident_bytes=_INTEGER,
    cpu_seconds=_NUMBER,
    descriptors=_INTEGER,
    tasks=_INTEGER_OR_NULL | {"description": "Of asyncio's; null: it did not tell in time"},
    connections=_INTEGER_OR_NULL | {"description": "Of clients; null: it did not tell in time, or is the supervisor"},
)
_READY = _object(ready=_BOOLEAN, reasons=_list(_TEXT) | {"description": "Only for who may see it"})

ENDPOINTS = (
    Endpoint("GET", "/healthz", "healthz", "The process lives", {200: "It does"}, _object(status=_TEXT)),
    Endpoint(
        "GET",
        "/readyz",
        "readyz",
        "Clients can be served",
        {200: "They can", 503: "They cannot: a drain has begun, a listener is not open, or a cluster does not answer"},
        _READY,
    ),
    Endpoint("GET", "/metrics", "metrics", "Metrics for Prometheus", {200: "A scrape"}),
    Endpoint(
        "GET",
        "/status",
        "status",
        "Counters, processes and clusters at once",
        {200: "As metrics have them"},
        _object(
            version=_TEXT,
            started_at=_NUMBER,
            ready=_BOOLEAN,
            reasons=_list(_TEXT),
            draining=_BOOLEAN,
            workers=_INTEGER,
            workers_started=_INTEGER,
            reloads=_object(
                succeeded=_INTEGER,
                refused=_INTEGER,
                changed_at={"type": ["number", "null"], "description": "Seconds since 1970; null: not since the start"},
            ),
            connections_max=_map(_INTEGER) | {"description": "By listener, over all workers"},
            descriptors_max=_INTEGER | {"description": "Of each process"},
            processes=_list(_PROCESS),
            counters=_ANYTHING,
            clusters=_CLUSTERS,
        ),
    ),
    Endpoint(
        "GET",
        "/config",
        "config",
        "The configuration at work",
        {200: "As PUT takes it, but for secrets: ***"},
        _ANYTHING,
    ),
    Endpoint(
        "GET",
        "/clients",
        "clients",
        "Clients that are connected",
        {200: "One page of them", 400: "A parameter that is not known, or not right"},
        _object(clients=_list(CLIENT), total=_INTEGER, next=_TEXT_OR_NULL | {"description": "For ``after``"}),
        (
            ("listener", "query", "Only of this listener"),
            ("principal", "query", "Only of this principal"),
            ("client_id", "query", "Only with this client id"),
            ("software", "query", "Only of this software"),
            ("tls", "query", "Only with this version of TLS; none: without TLS"),
            ("breaks_at", "query", "Only who uses versions that this release of Kafka, or one before it, dropped"),
            ("rates", "query", "Tell rates over so long, 100ms to 10s, for which the answer waits"),
            ("limit", "query", f"How many at most, 1 to {CLIENTS_MAX}"),
            ("after", "query", "Those behind this id: the ``next`` of the page before"),
        ),
    ),
    Endpoint(
        "POST",
        "/clients/{client_id}/close",
        "close_client",
        "End a client's connection",
        {200: "It is closed, once what was queued for it is written", 404: "There is no such client"},
        _object(closed=_TEXT),
        (("client_id", "path", "The ``id`` of GET /clients"),),
    ),
    Endpoint(
        "GET",
        "/limits",
        "limits",
        "Limits: how each is configured, what it has done, and whom it holds up",
        {200: "In the order of the configuration"},
        _object(limits=_list(_object(name=_TEXT, limit=_ANYTHING, workers=_list(_ANYTHING)))),
    ),
    Endpoint("GET", "/clusters", "clusters", "Brokers, and whether they are up", {200: "By cluster"}, _CLUSTERS),
    Endpoint("POST", "/drain", "drain", "Stop, as SIGTERM does", {202: "It has begun"}, _object(draining=_BOOLEAN)),
    Endpoint("GET", "/openapi.json", "openapi", "This document", {200: "OpenAPI 3.1"}, _ANYTHING),
)


_CHANGED = {
    200: "It is applied, or would be; what has changed",
    400: "It has mistakes, and nothing has changed",
    409: "It cannot be applied now, and nothing has changed",
}
_STEP = _object(kind=_TEXT, what=_TEXT, details=_list(_TEXT), effect=_TEXT)
_PLAN = _object(
    applied=_BOOLEAN | {"description": "False: it was a dry run"},
    plan=_list(_TEXT) | {"description": "A line for each step; none: there is nothing to do"},
    steps=_list(_STEP) | {"description": "The same in parts; details are the options that differ"},
    warnings=_list(_TEXT),
)

RELOADING = (
    Endpoint(
        "PUT",
        "/config",
        "put_config",
        "Apply the configuration that is sent, as YAML or JSON; the file stays as it is, and a later change of it wins",
        _CHANGED,
        _PLAN,
        (("dry_run", "query", "true: change nothing, and tell what would be done"),),
    ),
    Endpoint("POST", "/reload", "reload", "Apply the configuration file as it is now", _CHANGED, _PLAN),
)
"""What there is besides where the configuration can be changed."""


def document(endpoints: Sequence[Endpoint] = ENDPOINTS) -> dict[str, Any]:
    """Return the OpenAPI document."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": "kproxy admin API", "version": __version__},
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            }
        },
        # Both, or nothing where no key is configured.
        "security": [{"bearer": []}, {"header": []}, {}],
    }


_VALUES: dict[str, dict[str, Any]] = {
    "limit": _INTEGER | {"minimum": 1, "maximum": CLIENTS_MAX},
    "tls": _TEXT | {"enum": [*TLS_VERSIONS, NO_TLS]},
    "breaks_at": _TEXT | {"enum": [*FIRST_VERSIONS]},
    "rates": _TEXT | {"examples": ["1s"]},
}
"""What parameters may be; all others are any text."""


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, meaning in endpoint.answers.items():
        responses[str(status)] = {"description": meaning}
        if endpoint.schema is None:
            responses[str(status)]["content"] = {"text/plain": {"schema": _TEXT}}
        else:
            good = status < 400 or endpoint.name == "readyz"
            schema = endpoint.schema if good else _object(error=_TEXT)
            responses[str(status)]["content"] = {"application/json": {"schema": schema}}
    operation: dict[str, Any] = {"operationId": endpoint.name, "summary": endpoint.summary, "responses": responses}
    if endpoint.parameters:
        operation["parameters"] = [
            {
                "name": name,
                "in": where,
                "required": where == "path",
                "description": text,
                "schema": _VALUES.get(name, _TEXT),
            }
            for name, where, text in endpoint.parameters
        ]
    if endpoint.method == "PUT":
        kinds = ("application/yaml", "application/json")
        operation["requestBody"] = {"required": True, "content": {kind: {"schema": _ANYTHING} for kind in kinds}}
    if endpoint.name in {"healthz", "readyz"}:
        operation["security"] = [{}]
    return operation
