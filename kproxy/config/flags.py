"""Flags of the command line, laid over the data of a configuration file, or standing for one.

A flag wins over the file. But for --workers it belongs to the file's only listener or only cluster; which of several is
meant cannot be told, and that is a mistake. The environment gives way to both::

    kproxy run --config kproxy.yaml --listen 127.0.0.1:19092     the file's only listener, on another port
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from kproxy.config.draft import Draft
from kproxy.config.problems import Loc

CLUSTER_NAME = "main"
LISTENER_NAME = "public"
"""What the cluster and the listener are called that were given by flags alone."""


class Flags(NamedTuple):
    """What ``kproxy run`` was told on the command line; None where nothing was."""

    listen: str | None = None
    bootstrap: str | None = None
    advertise: str | None = None
    addressing: str | None = None
    mechanism: str | None = None
    username: str | None = None
    password_file: str | None = None
    admin: str | None = None
    tls_upstream: bool = False
    workers: int | None = None


def lay_over(draft: Draft, flags: Flags, environ: Mapping[str, str]) -> None:
    """Put the flags into the draft's data, a mapping, each with its origin."""
    if flags.workers is not None:
        _put(draft, ("workers",), flags.workers, "--workers")
    listener = _given(("bind", flags.listen), ("advertise", flags.advertise), ("addressing", flags.addressing))
    if listener and (at := _only(draft, "listeners", LISTENER_NAME, [_FLAGS[key] for key in listener])):
        for key, value in listener.items():
            _put(draft, (*at, key), value, _FLAGS[key])
    login = _given(("mechanism", flags.mechanism), ("username", flags.username), ("password", flags.password_file))
    _put_admin(draft, flags.admin, environ)
    cluster = _given(("bootstrap", flags.bootstrap)) | login
    clusters = draft.data.get("clusters")
    if cluster or flags.tls_upstream:
        at = _only(draft, "clusters", CLUSTER_NAME, [_FLAGS[key] for key in cluster] or ["--tls-upstream"])
    else:
        # The environment is no request by itself: where it cannot be told which cluster is meant, it is ignored.
        at = ("clusters", next(iter(clusters))) if isinstance(clusters, dict) and len(clusters) == 1 else None
    if not at:
        return
    if flags.tls_upstream and not _has_tls(draft, at):
        _put(draft, (*at, "tls"), {}, "--tls-upstream")
    if flags.bootstrap is not None:
        _put(draft, (*at, "bootstrap"), [part.strip() for part in flags.bootstrap.split(",")], "--bootstrap")
    _put_login(draft, at, login, environ)


def _has_tls(draft: Draft, at: Loc) -> bool:
    """Whether the cluster has TLS already, which says more than a flag can."""
    return bool(draft.data[at[0]][at[1]].get("tls"))


_FLAGS = {
    "bind": "--listen",
    "advertise": "--advertise",
    "addressing": "--addressing",
    "bootstrap": "--bootstrap",
    "mechanism": "--mechanism",
    "username": "--username",
    "password": "--password-file",
}


def _given(*values: tuple[str, str | None]) -> dict[str, str]:
    return {key: value for key, value in values if value is not None}


def _only(draft: Draft, section: str, name: str, flags: list[str]) -> Loc | None:
    """Return the place of the section's only entry, made where there is none; None where there is no such place."""
    entries = draft.data.get(section)
    if entries is None:
        entries = draft.data[section] = {}
    if not isinstance(entries, dict):
        return None  # the model will say what is wrong with it
    if len(entries) > 1:
        names = ", ".join(str(entry) for entry in entries)
        for flag in flags:
            draft.refuse_flag(flag, f"the file has several {section} ({names}); set it there, for the one meant")
        return None
    entry = next(iter(entries), name)
    if entries.get(entry) is None:
        entries[entry] = {}
    return (section, entry) if isinstance(entries[entry], dict) else None


def _put_login(draft: Draft, at: Loc, login: Mapping[str, str], environ: Mapping[str, str]) -> None:
    """Lay the login's flags, and what the environment has for the rest, over the cluster's own."""
    cluster = draft.data[at[0]][at[1]]
    sasl = cluster.get("sasl", {}) if isinstance(cluster, dict) else []
    sasl = {} if sasl is None else sasl
    if not isinstance(sasl, dict):
        return  # the model will say what is wrong with it
    put: dict[str, tuple[object, str]] = {key: (value, _FLAGS[key]) for key, value in login.items()}
    if "password" in login:
        # A flag's path begins where the user stands, a file's where the file stands.
        put["password"] = ({"file": str(Path(login["password"]).absolute())}, _FLAGS["password"])
    for key, variable in (("username", "KPROXY_USERNAME"), ("password", "KPROXY_PASSWORD")):
        if key not in put and key not in sasl and environ.get(variable):
            put[key] = (environ[variable] if key == "username" else {"env": variable}, variable)
    for key, advice in _NEEDED.items():
        if put and not sasl and key not in put:
            draft.refuse_flag(next(iter(put.values()))[1], f"there is no {key} to it; give {advice}")
            return
    if put:
        cluster["sasl"] = dict(sasl)
    for key, (value, flag) in put.items():
        _put(draft, (*at, "sasl", key), value, flag)


def _put_admin(draft: Draft, bind: str | None, environ: Mapping[str, str]) -> None:
    """Lay --admin over the file's own, and where the file has no key the environment's."""
    if bind is None:
        return
    if draft.data.get("admin") is None:
        draft.data["admin"] = {}
    admin = draft.data["admin"]
    if not isinstance(admin, dict):
        return  # the model will say what is wrong with it
    _put(draft, ("admin", "bind"), bind, "--admin")
    if "api_key" not in admin and environ.get("KPROXY_ADMIN_KEY"):
        _put(draft, ("admin", "api_key"), {"env": "KPROXY_ADMIN_KEY"}, "KPROXY_ADMIN_KEY")


_NEEDED = {"username": "--username or KPROXY_USERNAME", "password": "--password-file or KPROXY_PASSWORD"}


def _put(draft: Draft, loc: Loc, value: object, flag: str) -> None:
    target = draft.data
    for part in loc[:-1]:
        target = target[part]
    target[loc[-1]] = value
    draft.origins[loc] = flag
