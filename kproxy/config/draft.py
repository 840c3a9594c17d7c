"""Data on their way to a Config, that remember where each of them came from.

A problem becomes the one line that a user reads: with the flag that caused it, else with its place in the file::

    kproxy.yaml:7:5: listeners.public.advertize: unknown key; did you mean 'advertise'?
    --listen: ':9092' names no host; write 0.0.0.0:9092 to listen on every interface, or ...
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kproxy.config import source
from kproxy.config.problems import Loc, Problem, where
from kproxy.config.source import Mark
from kproxy.errors import ConfigError

FILE_BYTES_MAX = 1024 * 1024
"""A configuration of a thousand listeners has about 200 KiB, a file of 2,000 users with two credentials each this much;
reading so much takes PyYAML seconds."""

_OF_FLAGS = Mark(0, 0)


@dataclass(repr=False)
class Draft:
    """Data on their way to a Config, and where each of them came from. The repr, like all, shows no secret."""

    data: Any
    directory: Path
    label: str = ""
    text: source.Source | None = None
    origins: dict[Loc, str] = field(default_factory=dict)
    """The flag, or environment variable, behind a place in ``data``."""
    mistakes: list[tuple[Mark, str]] = field(default_factory=list)
    """Each with its place, by which they are told in order; those of flags come first."""

    def refuse(self, problem: Problem, mark: Mark | None = None, *, key: bool = False) -> None:
        """Note a mistake, at ``mark`` or else where ``problem`` says (with ``key``: at its key)."""
        self.mistakes.append(self._told(problem, mark, key=key))

    def refuse_flag(self, flag: str, text: str) -> None:
        """Note a mistake of the command line or the environment."""
        self.mistakes.append((_OF_FLAGS, one_line(f"{flag}: {text}")))

    def raise_mistakes(self) -> None:
        """Raise ConfigError with all mistakes noted, each once, in the order of the file; or return."""
        if self.mistakes:
            in_order = sorted(self.mistakes, key=lambda mistake: mistake[0])
            raise ConfigError("\n".join(dict.fromkeys(line for _, line in in_order)))

    def lost(self, loc: Loc) -> bool:
        """True where the model stumbles over a value that could not be read, which is told already."""
        return self.text is not None and any(loc[:end] in self.text.lost for end in range(len(loc) + 1))

    def line(self, problem: Problem) -> str:
        """Write a problem as the one line that the user reads."""
        return self._told(problem)[1]

    def _told(self, problem: Problem, mark: Mark | None = None, *, key: bool = False) -> tuple[Mark, str]:
        for end in range(len(problem.loc), 0, -1):
            if flag := self.origins.get(problem.loc[:end]):
                return _OF_FLAGS, one_line(f"{flag}: {problem.text}")
        place = f"{where(problem.loc)}: " if problem.loc else ""
        if not self.text:
            return _OF_FLAGS, one_line(f"{place}{problem.text}")
        mark = mark or self.text.mark(problem.loc, key=key)
        return mark, one_line(f"{self.label}:{mark.line}:{mark.column}: {place}{problem.text}")


def drafted(text: str, directory: Path, label: str, *, when_empty: str | None = None) -> Draft:
    """Read a YAML text into a draft; ``label`` is what its lines begin with, ``when_empty`` what an empty one is told.

    Raises:
        ConfigError: it is no YAML. Lesser mistakes are noted in the draft.
    """
    try:
        read = source.read(text)
    except source.Broken as broken:
        told = broken.text if when_empty is None or text.strip() else when_empty
        raise ConfigError(one_line(f"{label}:{broken.mark.line}:{broken.mark.column}: YAML: {told}")) from None
    draft = Draft(read.data, directory, label, read)
    for mark, problem in read.problems:
        draft.refuse(problem, mark)
    return draft


def file_text(path: Path, when_large: str) -> str:
    """Read a file's text, at most FILE_BYTES_MAX of it; ``when_large`` is what one that is larger is told.

    Raises:
        ConfigError: it cannot be read, is larger, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(one_line(f"{path}: cannot be read: {error.strerror or type(error).__name__}")) from None
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigError(one_line(f"{path}: above {FILE_BYTES_MAX} bytes; {when_large}"))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(one_line(f"{path}:{line}:1: not UTF-8; save the file as UTF-8")) from None


def one_line(text: str) -> str:
    """Keep what a user named in odd ways (a key with a newline in it) on one line and harmless to a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
