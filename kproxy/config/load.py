"""From a file, a text or flags to a checked Config, or to every mistake at once.

A mistake is one line, ``path:line:column: where: what is wrong; what to do``; one made on the command line names
the flag instead of a position::

    kproxy.yaml:7:5: listeners.public.advertize: unknown key; did you mean 'advertise'?
    --listen: ':9092' names no host; write 0.0.0.0:9092 to listen on every interface, or ...

No line, and nothing else that leaves here, holds a secret or quotes a value from where one belongs.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from kproxy.config import admin as admin_checks
from kproxy.config import checks, doorchecks, limitchecks, requestlog
from kproxy.config.admin import Admin
from kproxy.config.advice import about_key, advice, echoes, place
from kproxy.config.draft import Draft, drafted, file_text
from kproxy.config.flags import Flags, lay_over
from kproxy.config.limits import Limit
from kproxy.config.model import CROSS_FIELD, Cluster, Config, Listener, with_only_cluster
from kproxy.config.problems import Loc, Problem
from kproxy.config.requestlog import RequestLog
from kproxy.config.values import Surroundings
from kproxy.errors import ConfigError

_K = TypeVar("_K", str, int)
_M = TypeVar("_M", bound=BaseModel)


class Loaded(NamedTuple):
    """A configuration that can be run, and what its author should know: one line per warning."""

    config: Config
    warnings: tuple[str, ...]
    told: Callable[[Problem], str]
    """Writes what is found later, in a file that the configuration names, as the lines of all else are."""


def load(config: Path | str, *, environ: Mapping[str, str] = os.environ) -> Loaded:
    """Read a configuration: a Path is a file to open, a string is the YAML text itself.

    Raises:
        ConfigError: one line for each mistake.
    """
    return _finish(_read(config), environ)


def from_flags(
    flags: Flags,
    config: Path | str | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    directory: Path = Path(),
) -> Loaded:
    """Make the same configuration from flags, or lay them over a file, where they win.

    Beside a file, listen, advertise and addressing set the file's only listener; bootstrap, mechanism, username and
    password_file its only cluster; where the file has several, giving one of them is a mistake. A file without any
    gets one. KPROXY_USERNAME and KPROXY_PASSWORD fill in what neither a flag nor the file's only cluster gives.

    ``directory``: where relative paths of a text begin; a file's begin where it stands.

    Raises:
        ConfigError: one line for each mistake.
    """
    if config is None:
        missing = [name for name, value in (("--listen", flags.listen), ("--bootstrap", flags.bootstrap)) if not value]
        if missing:
            example = "--listen 127.0.0.1:9092 --bootstrap kafka1:9092"
            raise ConfigError(f"{' and '.join(missing)} missing; give {example}, or --config FILE")
    draft = _read(config, directory) if config is not None else Draft({"clusters": {}, "listeners": {}}, Path())
    if isinstance(draft.data, dict):
        lay_over(draft, flags, environ)
    return _finish(draft, environ)


def _read(config: Path | str, directory: Path = Path()) -> Draft:
    if isinstance(config, Path):
        # Whole, as paths are shown whole, and may be sent back.
        return drafted(file_text(config, "this is no configuration of kproxy"), config.parent.absolute(), str(config))
    return drafted(config, directory, "config")


def _finish(draft: Draft, environ: Mapping[str, str]) -> Loaded:
    """Validate the draft; tell everything that is wrong, in the order of the file."""
    data = with_only_cluster(draft.data)
    around = Surroundings(environ, draft.directory)
    result: Config | None = None
    errors: list[ErrorDetails] = []
    try:
        result = Config.model_validate(data, context=around)
    except ValidationError as error:
        errors = [detail for detail in error.errors(include_url=False) if detail["type"] != CROSS_FIELD]
    told = echoes(errors)
    for detail in errors:
        if detail["loc"] not in told and not draft.lost(place(detail["loc"])):
            draft.refuse(Problem(place(detail["loc"]), advice(detail, data)), key=about_key(detail))
    if result is None:
        for problem in _between_fields(data, errors, around):
            draft.refuse(problem)
    draft.raise_mistakes()
    if result is None:
        raise AssertionError("a refused configuration without a mistake to tell")  # a bug: better loud
    doubts = [
        *checks.doubts(result),
        *doorchecks.doubts(result),
        *limitchecks.doubts(result),
        *requestlog.doubts(result),
        *admin_checks.doubts(result.admin),
    ]
    return Loaded(result, tuple(draft.line(problem) for problem in doubts), draft.line)


def _between_fields(data: Any, errors: list[ErrorDetails], around: Surroundings) -> list[Problem]:  # noqa: ANN401 - YAML
    """Check between the entries that are well-formed, when others are not."""
    sections = [data.get(key) if isinstance(data, dict) else None for key in ("clusters", "listeners")]
    clusters, listeners = (section if isinstance(section, dict) else {} for section in sections)
    references = {
        name: entry["cluster"]
        for name, entry in listeners.items()
        if isinstance(entry, dict) and isinstance(entry.get("cluster"), str)
    }
    if not clusters:
        references = {}  # told already, and not once per listener
    unknown = {detail["loc"] for detail in errors if detail["type"] == "extra_forbidden"}
    sound_clusters = dict(_sound(Cluster, "clusters", clusters, unknown, around))
    sound_listeners = dict(_sound(Listener, "listeners", listeners, unknown, around))
    cluster_names = {str(name) for name in clusters}
    found = checks.mistakes(cluster_names, references, sound_clusters, sound_listeners)
    found += doorchecks.mistakes(sound_clusters, sound_listeners)
    admin = _at(data, "admin")
    for _, sound_admin in _sound(Admin, "", {"admin": admin} if admin is not None else {}, unknown, around):
        found += admin_checks.mistakes(sound_admin, sound_listeners)
    entries = data.get("limits") if isinstance(data, dict) else None
    limits = dict(enumerate(entries)) if isinstance(entries, list) else {}
    names = {index: name for index, entry in limits.items() if isinstance(name := _at(entry, "name"), str)}
    named: dict[Loc, str] = {
        ("limits", index, "match", "listeners", at): name
        for index, entry in limits.items()
        if listeners and isinstance(listed := _at(entry, "match", "listeners"), list)
        for at, name in enumerate(listed)
        if isinstance(name, str)
    }
    sound = dict(_sound(Limit, "limits", limits, unknown, around))
    found += limitchecks.mistakes(names, named, sound, {str(name) for name in listeners})
    return found + _about_the_log(data, cluster_names, sound_listeners, {str(name) for name in listeners}, around)


def _about_the_log(
    data: Any,  # noqa: ANN401 - YAML
    cluster_names: Collection[str],
    sound_listeners: Mapping[str, Listener],
    listener_names: Collection[str],
    around: Surroundings,
) -> list[Problem]:
    """Check between the request log and the entries, when something is ill-formed."""
    entry = _at(data, "request_log")
    found: list[Problem] = []
    try:
        log = RequestLog.model_validate(entry, context=around)
    except ValidationError:
        pass  # told field by field already
    else:
        found += requestlog.mistakes(log, cluster_names or {log.cluster or ""}, sound_listeners)
    matched = _at(entry, "match", "listeners")
    if listener_names and isinstance(matched, list):
        named = {index: name for index, name in enumerate(matched) if isinstance(name, str)}
        found += requestlog.unknown_listeners(named, listener_names)
    return found


def _at(data: Any, *keys: str) -> Any:  # noqa: ANN401 - YAML
    """Return what stands there, if anything does."""
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def _sound(
    model: type[_M], section: str, entries: Mapping[_K, Any], unknown: Collection[Loc], around: Surroundings
) -> Iterator[tuple[_K, _M]]:
    """Yield the entries that are well-formed but, perhaps, for unknown keys, which change nothing between fields."""
    for name, entry in entries.items():
        try:
            here = (section, name) if section else (name,)
            yield name, model.model_validate(_known(entry, here, unknown), context=around)
        except ValidationError:
            continue  # told field by field already


def _known(data: Any, here: Loc, unknown: Collection[Loc]) -> Any:  # noqa: ANN401 - YAML
    """Return the data without its unknown keys."""
    if not isinstance(data, dict):
        return data  # the lists within an entry have no keys
    return {key: _known(value, (*here, key), unknown) for key, value in data.items() if (*here, key) not in unknown}
