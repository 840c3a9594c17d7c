r"""The users file: who may log in at kproxy, with which credentials, and in which groups they are.

::

    users:
      alice:
        groups: [team-a]
        scram-sha-512: {salt: <base64>, iterations: 8192, stored_key: <base64>, server_key: <base64>}
        scram-sha-256: {...}
        disabled: true                 # keeps the entry, refuses the logins
    decoy_key: <base64>                # what unknown users are told (core.credentials.Users); optional

``kproxy users`` writes it, ``load_users`` reads it for a listener. A mistake is a line as one of the configuration::

    users.yaml:3:5: users.alice.gruops: unknown key; did you mean 'groups'?

No line quotes a salt, a key, or anything else from where one belongs. A file is replaced as a whole, so that who reads
it at any moment sees the old one or the new one.
"""

import base64
import binascii
import fcntl
import json
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from kproxy.config.draft import FILE_BYTES_MAX, Draft, drafted, file_text, one_line
from kproxy.config.problems import Loc, Problem, suggestion
from kproxy.core.credentials import (
    HASHES,
    ITERATIONS_MAX,
    ITERATIONS_MIN,
    SALT_BYTES_MAX,
    SALT_BYTES_MIN,
    Credential,
    User,
    Users,
    name_problem,
)
from kproxy.errors import ConfigError

GROUPS_MAX = 100
GROUP_BYTES_MAX = 255

_KEY_BYTES = {"SCRAM-SHA-512": 64, "SCRAM-SHA-256": 32}
_MECHANISMS = {name.lower(): name for name in HASHES}
_TOP_KEYS = ("users", "decoy_key")
_USER_KEYS = ("groups", *_MECHANISMS, "disabled")
_CREDENTIAL_KEYS = ("salt", "iterations", "stored_key", "server_key")
_TOO_LARGE = "a users file may not be larger"
_DECOY_KEY_BYTES_MIN, _DECOY_KEY_BYTES_MAX = 16, 64


@dataclass
class UsersFile:
    """What a users file holds, to be changed and written again."""

    users: dict[str, User] = field(default_factory=dict)
    decoy_key: bytes | None = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    remarks: str = ""
    """The comment at the head of the file, the only one that outlives a change."""

    def table(self, decoy_key: bytes | None = None) -> Users:
        """Return the table that logins are checked against; ``decoy_key``: for a file that has none."""
        users, key = self.users.values(), self.decoy_key or decoy_key
        return Users(users) if key is None else Users(users, key)


def load_users(path: Path, decoy_key: bytes | None = None) -> Users:
    """Read a users file. Takes 2 to 3 ms per user, so that a big one had better be read beside the event loop.

    ``decoy_key``: what stands in for that of a file that has none; None: one of this process.

    Raises:
        ConfigError: one line for each mistake.
    """
    return read_users(path).table(decoy_key)


def read_users(path: Path) -> UsersFile:
    """Read a users file to change it.

    Raises:
        ConfigError: one line for each mistake.
    """
    text = file_text(path, _TOO_LARGE)
    draft = drafted(text, path.parent, str(path), when_empty="there is nothing in it; make it with 'kproxy users add'")
    remarks = "".join(takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True)))
    users, decoy_key = _Reader(draft).file(draft.data)
    draft.raise_mistakes()
    return UsersFile(users, decoy_key, remarks)


class _Reader:
    """Goes through the data; what is wrong is noted in the draft, and left out."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft

    def file(self, data: Any) -> tuple[dict[str, User], bytes | None]:  # noqa: ANN401 - YAML
        top = self._mapping((), data, _TOP_KEYS)
        if "users" not in top and self._sound((), data, _TOP_KEYS):
            self._refuse(("users",), "is missing; write 'users: {}' for none")
        entries = top.get("users", {})
        if not isinstance(entries, dict):
            self._refuse(("users",), "must be a mapping of names to entries, as in 'alice: {...}'")
            entries = {}
        users = {str(name): self._user(name, entry) for name, entry in entries.items()}
        decoy_key = None
        if "decoy_key" in top:
            bounds = (_DECOY_KEY_BYTES_MIN, _DECOY_KEY_BYTES_MAX)
            decoy_key = self._base64(("decoy_key",), top["decoy_key"], *bounds)
        return users, decoy_key

    def _user(self, name: str | int, data: Any) -> User:  # noqa: ANN401 - YAML
        here: Loc = ("users", name)
        if isinstance(name, int):
            self._refuse(here, "is a number; put the name in quotes", key=True)
        elif problem := name_problem(name):
            self._refuse(here, f"a name that {problem}", key=True)
        entry = self._mapping(here, data, _USER_KEYS)
        credentials = {
            mechanism: self._credential((*here, key), mechanism, entry[key])
            for key, mechanism in _MECHANISMS.items()
            if key in entry
        }
        if not credentials and self._sound(here, data, _USER_KEYS):
            self._refuse(here, f"has no credential; add {' or '.join(_MECHANISMS)} with 'kproxy users add --update'")
        disabled = entry.get("disabled", False)
        if not isinstance(disabled, bool):
            self._refuse((*here, "disabled"), "must be true or false, without quotes")
        return User(str(name), credentials, self._groups((*here, "groups"), entry.get("groups", [])), disabled is True)

    def _groups(self, here: Loc, data: Any) -> frozenset[str]:  # noqa: ANN401 - YAML
        if not isinstance(data, list) or not all(isinstance(group, str) for group in data):
            self._refuse(here, "must be a list of texts, as in [team-a, team-b]")
        elif len(data) > GROUPS_MAX:
            self._refuse(here, f"has too many entries; {GROUPS_MAX} at most")
        elif not all(map(group_fits, data)):
            self._refuse(here, f"holds a name that is empty, above {GROUP_BYTES_MAX} bytes, or cannot be printed")
        else:
            return frozenset(data)
        return frozenset()

    def _credential(self, here: Loc, mechanism: str, data: Any) -> Credential:  # noqa: ANN401 - YAML
        entry = self._mapping(here, data, _CREDENTIAL_KEYS)
        if self._sound(here, data, _CREDENTIAL_KEYS):
            for key in _CREDENTIAL_KEYS:
                if key not in entry:
                    self._refuse((*here, key), "is missing; add it")
        size = _KEY_BYTES[mechanism]
        bounds = {"salt": (SALT_BYTES_MIN, SALT_BYTES_MAX), "stored_key": (size, size), "server_key": (size, size)}
        parts = {
            key: self._base64((*here, key), entry[key], *bound) if key in entry else b""
            for key, bound in bounds.items()
        }
        iterations = entry.get("iterations", ITERATIONS_MIN)
        if isinstance(iterations, bool) or not isinstance(iterations, int):
            self._refuse((*here, "iterations"), "must be a whole number, without quotes")
        elif not ITERATIONS_MIN <= iterations <= ITERATIONS_MAX:
            self._refuse((*here, "iterations"), f"must be from {ITERATIONS_MIN} to {ITERATIONS_MAX}")
        return Credential(mechanism, parts["salt"], iterations, parts["stored_key"], parts["server_key"])

    def _base64(self, here: Loc, data: Any, least: int, most: int) -> bytes:  # noqa: ANN401 - YAML
        size = f"{least} bytes" if least == most else f"{least} to {most} bytes"
        try:
            value = base64.b64decode(data, validate=True) if isinstance(data, str) else b""
        except (binascii.Error, ValueError):
            value = b""
        if not least <= len(value) <= most:
            self._refuse(here, f"must be {size} in base64")
            return b""
        return value

    def _mapping(self, here: Loc, data: Any, known: tuple[str, ...]) -> dict[Any, Any]:  # noqa: ANN401 - YAML
        """Return the known keys of a mapping whose values could be read."""
        if not isinstance(data, dict):
            self._refuse(here, f"must be a mapping; known keys: {', '.join(known)}")
            return {}
        for key in data:
            if key == "password" and len(here) == 2:  # of a user
                self._refuse((*here, key), "passwords do not belong here; use 'kproxy users add'", key=True)
            elif key not in known:
                self._refuse((*here, key), f"unknown key; {suggestion(str(key), known)}", key=True)
        return {key: value for key, value in data.items() if key in known and not self._draft.lost((*here, key))}

    def _sound(self, here: Loc, data: Any, known: tuple[str, ...]) -> bool:  # noqa: ANN401 - YAML
        """Nothing in a mapping is told already that may be what lacks: a misspelt key, a value that cannot be read."""
        return isinstance(data, dict) and all(key in known and not self._draft.lost((*here, key)) for key in data)

    def _refuse(self, here: Loc, text: str, *, key: bool = False) -> None:
        self._draft.refuse(Problem(here, text), key=key)


def group_fits(group: str) -> bool:
    """Tell whether this can be a group's name."""
    return bool(group) and group.isprintable() and len(group.encode()) <= GROUP_BYTES_MAX


@contextmanager
def changing(path: Path, *, create: bool = False) -> Iterator[UsersFile]:
    """Change a users file: what the block leaves in the UsersFile is written, unless it raises.

    Of two programs that change files in one folder at once the second is refused, so that no change is lost. With
    ``create`` a file that does not exist, or is empty, becomes one, readable by its owner alone; else the mode and
    the owner stay as they are.

    Raises:
        ConfigError: the file cannot be read, has mistakes, or cannot be written.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigError(one_line(f"{path.parent}: cannot be opened: {error.strerror}")) from None
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(one_line(f"{path}: another program is changing it; try again")) from None
        new = create and (not path.exists() or path.stat().st_size == 0)
        file = UsersFile() if new else read_users(path)
        yield file
        try:
            _replace(path, _written(file).encode())
            os.fsync(folder)
        except OSError as error:
            raise ConfigError(one_line(f"{path}: cannot be written: {error.strerror}")) from None
    finally:
        os.close(folder)  # and with it the lock


def _replace(path: Path, data: bytes) -> None:
    """Put a new file in the place of the old one."""
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(one_line(f"{path}: would be above {FILE_BYTES_MAX} bytes; {_TOO_LARGE}"))
    old = path.stat() if path.exists() else None
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # its mode is 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            if old is not None:
                status = os.fstat(descriptor)
                if (status.st_uid, status.st_gid) != (old.st_uid, old.st_gid):
                    os.fchown(descriptor, old.st_uid, old.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(name, path)  # noqa: PTH105  a Path of a name that is gone at once says no more
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


_PLAIN_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_+/.=-]*")
_YAML_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
"""The last six are texts to kproxy, but not to everything else that reads YAML."""


def _word(text: str) -> str:
    """Write a text as YAML; quoted as JSON is, where it might be read as something else."""
    plain = _PLAIN_WORD.fullmatch(text) and text.lower() not in _YAML_WORDS
    return text if plain else json.dumps(text, ensure_ascii=False)


def _written(file: UsersFile) -> str:
    lines = [file.remarks, "users:\n" if file.users else "users: {}\n"]
    for name, user in sorted(file.users.items()):
        lines.append(f"  {_word(name)}:\n")
        if user.groups:
            lines.append(f"    groups: [{', '.join(map(_word, sorted(user.groups)))}]\n")
        if user.disabled:
            lines.append("    disabled: true\n")
        lines += [f"    {mechanism.lower()}: {_flow(each)}\n" for mechanism, each in user.credentials.items()]
    if file.decoy_key is not None:
        lines.append(f"decoy_key: {_encoded(file.decoy_key)}\n")
    return "".join(lines)


def _flow(credential: Credential) -> str:
    parts: Mapping[str, str] = {
        "salt": _encoded(credential.salt),
        "iterations": str(credential.iterations),
        "stored_key": _encoded(credential.stored_key),
        "server_key": _encoded(credential.server_key),
    }
    return "{" + ", ".join(f"{key}: {value}" for key, value in parts.items()) + "}"


def _encoded(data: bytes) -> str:
    return _word(base64.b64encode(data).decode())


def open_to(path: Path) -> str | None:
    """Tell who else can read a file with secrets: ``everybody``, ``its group``, or None; for a warning.

    A file that cannot be looked at is for whoever opens it to complain about.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    if mode & stat.S_IROTH:
        return "everybody"
    return "its group" if mode & stat.S_IRGRP else None
