"""What pydantic found, said as what is wrong and what to do.

Only keys are ever quoted, and the values that a parser of ``values`` chose to quote: an input may be a password::

    {"type": "extra_forbidden", "loc": ("listeners", "public", "advertize"), ...}
    -> "unknown key; did you mean 'advertise'?"
"""

from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from kproxy.config.access import Access, AccessApis, AccessRule
from kproxy.config.admin import Admin
from kproxy.config.limits import Concurrency, Connections, FixedWindow, LeakyBucket, Limit, Match
from kproxy.config.metrics import Metrics
from kproxy.config.model import Cluster, Config, Listener
from kproxy.config.oauth import ClientOauth, UpstreamOauth
from kproxy.config.problems import Loc, nearest, suggestion
from kproxy.config.requestlog import LogMatch, LogSasl, LogTls, RequestLog
from kproxy.config.sasl import ClientSasl, Sasl
from kproxy.config.tls import ClusterTls, ListenerTls


def place(loc: Loc) -> Loc:
    """Drop what pydantic adds to a place: a mark that the key of a mapping is meant."""
    return loc[:-1] if loc and loc[-1] == "[key]" else loc


_MODELS: dict[str, type[BaseModel]] = {"clusters": Cluster, "listeners": Listener, "limits": Limit}
_OF_LIMITS: dict[str, type[BaseModel]] = {
    "leaky_bucket": LeakyBucket,
    "fixed_window": FixedWindow,
    "concurrency": Concurrency,
    "connections": Connections,
    "match": Match,
}
_SECTIONS: dict[str, type[BaseModel]] = {"admin": Admin, "metrics": Metrics, "request_log": RequestLog}
_OF_LOG: dict[str, type[BaseModel]] = {"sasl": LogSasl, "tls": LogTls, "match": LogMatch}
_NOT_A_MAPPING = frozenset({"dict_type", "model_type", "model_attributes_type"})


def about_key(detail: ErrorDetails) -> bool:
    """True when the key stands at the mistake's position rather than the value."""
    return detail["type"] in {"extra_forbidden", "missing"} or detail["loc"][-1:] == ("[key]",)


def echoes(errors: list[ErrorDetails]) -> set[Loc]:
    """Return the places of errors that only follow from another one, which is told.

    They are a missing key that is there misspelt, and a list called empty as pydantic counts its sound entries alone.
    """
    unknown = [detail["loc"] for detail in errors if detail["type"] == "extra_forbidden"]
    meant = [(*loc[:-1], nearest(str(loc[-1]), _known_keys(loc[:-1]))) for loc in unknown]
    around = [detail["loc"][:-1] for detail in errors]
    return {
        detail["loc"]
        for detail in errors
        if (detail["type"] == "missing" and detail["loc"] in meant)
        or (detail["type"] == "too_short" and detail["loc"] in around)
    }


def advice(detail: ErrorDetails, data: Any) -> str:  # noqa: ANN401 - YAML is anything
    """Say a pydantic error as what is wrong and what to do. Only keys are quoted, never a value."""
    loc, kind, context = detail["loc"], detail["type"], detail.get("ctx", {})
    if loc and loc[-1] == "[key]":
        if loc[2:3] == ("credentials",):
            return _NO_USER
        if kind in {"string_type", "string_pattern_mismatch"}:
            return _NO_NAME
        return "not a node id; write a whole number from 0 on"
    if kind == "extra_forbidden":
        return f"unknown key; {suggestion(str(loc[-1]), _known_keys(loc[:-1]))}"
    if kind == "missing":
        names = data.get("clusters") if isinstance(data, dict) else None
        if loc[-1] == "cluster" and isinstance(names, dict):
            return f"is missing; name one of {', '.join(str(name) for name in names)}"
        return "is missing; add it"
    if kind == "value_error":
        return str(context["error"])
    if kind in _NOT_A_MAPPING:
        return f"must be a mapping; known keys: {', '.join(_known_keys(loc))}" if _known_keys(loc) else _ENTRIES
    if kind == "too_short":
        return "is empty; add one at least"
    if kind == "tuple_type":
        return _NO_LIST.format(_LISTS[loc[-1]])
    if kind == "string_pattern_mismatch" and loc[-1] == "name":
        return _NO_NAME
    if kind == "string_pattern_mismatch" and loc[-1] == "scope":
        return "holds what a scope cannot; write words with spaces in between, of ASCII, without quotes"
    return _KINDS[kind].format(**context) if kind in _KINDS else detail["msg"]


_ENTRIES = "must be a mapping of names to entries, as in 'main: {...}'"
_NO_NAME = "not a name; use letters, digits, '.', '_' and '-', beginning with a letter or digit, 63 at most"
_NO_USER = "not a user name or a pattern; write one of 1 to 255 characters, a number in quotes, as in 'team-*'"
_NO_LIST = "must be a list, as in {}"
_LISTS: dict[str | int, str] = {
    "bootstrap": "[kafka1:9092, kafka2:9092]",
    "mechanisms": "[SCRAM-SHA-512, PLAIN]",
    "principal_rules": '["RULE:^CN=([^,]*).*$/$1/", DEFAULT]',
    "trusted_proxies": "[10.0.0.0/8]",
    "limits": "[{name: calm, leaky_bucket: {rate: 100}}]",
    "key": "[client_ip]",
    "listeners": "[public]",
    "apis": "[Produce, Fetch]",
    "principals": '["User:alice"]',
    "client_ids": '["batch-*"]',
    "client_ips": "[10.0.0.0/8]",
    "cidrs": "[10.0.0.0/8]",
    "rules": '[{principal: "User:alice", operations: [read], topic: "orders-*"}]',
    "operations": "[read, describe]",
    "deny": "[DeleteTopics]",
    "presets": "[no_admin]",
    "fields": "[time, client_id, api, latency_ms]",
}
_KINDS = {
    "string_type": "must be a text; put it in quotes",
    "string_too_short": "is empty; write a text",
    "string_too_long": "is too long; {max_length} characters at most",
    "string_pattern_mismatch": "holds a NUL character; remove it",
    "bool_type": "must be true or false, without quotes",
    "int_type": "must be a whole number, without quotes",
    "greater_than_equal": "is too low; {ge} at least",
    "less_than_equal": "is too high; {le} at most",
    "too_long": "has too many entries; {max_length} at most",
    "literal_error": "is not supported; write {expected}",
}


def _known_keys(loc: Loc) -> list[str]:
    """Return the keys of the model that stands at a place, none where it is a mapping of names."""
    match loc:
        case ():
            model: type[BaseModel] = Config
        case (str(section),) if section in _SECTIONS:
            model = _SECTIONS[section]
        case ("request_log", str(part)) if part in _OF_LOG:
            model = _OF_LOG[part]
        case (str(section), _) if section in _MODELS:
            model = _MODELS[section]
        case ("clusters", _, "sasl") | ("clusters", _, "credentials", _):
            model = Sasl
        case ("clusters", _, "tls"):
            model = ClusterTls
        case ("clusters", _, *_, "oauth"):
            model = UpstreamOauth
        case ("listeners", _, "tls"):
            model = ListenerTls
        case ("listeners", _, "sasl"):
            model = ClientSasl
        case ("listeners", _, "sasl", "oauth"):
            model = ClientOauth
        case ("limits", _, str(part)) if part in _OF_LIMITS:
            model = _OF_LIMITS[part]
        case ("listeners", _, "access"):
            model = Access
        case ("listeners", _, "access", "apis"):
            model = AccessApis
        case ("listeners", _, "access", "rules", int()):
            model = AccessRule
        case _:
            return []
    return list(model.model_fields)
