r"""YAML text as plain data, together with the line and column of everything in it.

The data are only dictionaries, lists, texts, whole numbers, truth values and None, so that a value means what it
looks like: ``12:30`` and ``2026-01-01`` are texts, ``no`` is a text, ``1.5`` is a text. What YAML has beyond that
(tags, aliases, several documents, keys written twice) is a mistake here. No mistake's text quotes a value, as it
may be a password that was not put in quotes::

    >>> read("clusters:\n  main: {}\n").mark(("clusters", "main"))
    Mark(line=2, column=9)
"""

import re
from typing import Any, NamedTuple

import yaml

from kproxy.config.problems import Loc, Problem

_TAG = "tag:yaml.org,2002:"
_NO_TAG = "a tag ('!') is not supported; leave it out, or put the text in quotes"

DEPTH_MAX = 20
"""Nesting; the model needs five levels. PyYAML recurses, so a deeper text is refused before it is composed."""


class Mark(NamedTuple):
    """A place in the text, both counted from 1."""

    line: int
    column: int


class Broken(Exception):  # noqa: N818 - not an error of kproxy's tree: load makes a ConfigError of it
    """The text is not YAML; nothing of it can be used."""

    def __init__(self, mark: Mark, text: str) -> None:
        super().__init__(text)
        self.mark = mark
        self.text = text


class Source(NamedTuple):
    """What a text holds."""

    data: Any
    problems: list[tuple[Mark, Problem]]
    values: dict[Loc, Mark]
    keys: dict[Loc, Mark]
    lost: set[Loc]
    """Places whose value could not be read; the data have None there."""

    def mark(self, loc: Loc, *, key: bool = False) -> Mark:
        """Return where ``loc`` stands (with ``key``, its key), or else the nearest place around it."""
        first, second = (self.keys, self.values) if key else (self.values, self.keys)
        while loc:
            if found := first.get(loc) or second.get(loc):
                return found
            loc, first, second = loc[:-1], self.keys, self.values
        return Mark(1, 1)


class _Loader(yaml.SafeLoader):
    """PyYAML's reader with the few scalar types of this module."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own shape


for _tag, _pattern, _first in (
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(_TAG + _tag, re.compile(f"^(?:{_pattern})$"), list(_first))

# PyYAML's texts can quote the input, so each gets a text of ours; the first one that begins alike is taken.
_ADVICE = (
    ("mapping values are not allowed", "a second ':' in one line; check the indentation, or put the text in quotes"),
    ("found character '\\t'", "a tab; indent with spaces"),
    ("could not find expected ':'", "a line that is no 'key: value'; check the indentation, or add the ':'"),
    ("expected <block end>", "a line that does not fit the ones before it; check the indentation"),
    ("found unexpected end of stream", "a quote that is never closed; close it"),
    ("found undefined alias", "'*' begins an alias in YAML; put the text in quotes"),
    ("second occurrence", "'&' begins an anchor in YAML, here one that exists already; put the text in quotes"),
    ("but found another document", "a second document; keep everything in one, without '---'"),
    ("found unknown escape character", "an unknown escape; write '\\\\' for a backslash, or use single quotes"),
    ("expected ',' or '}'", "a '{' without its '}', or a comma that is missing; add it, or put the text in quotes"),
    ("expected the node content", "something is missing before this, as behind a '{', '[' or ','; add it, or close it"),
    ("expected ',' or ']'", "a '[' without its ']', or a comma that is missing; add it, or put the text in quotes"),
)


def read(text: str) -> Source:
    """Read one YAML document.

    Raises:
        Broken: it is not YAML.
    """
    try:
        _check_depth(text)
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise _broken(error, text) from None
    except yaml.reader.ReaderError as error:
        mark = Mark(text.count("\n", 0, error.position) + 1, error.position - text.rfind("\n", 0, error.position))
        raise Broken(mark, "a control character; remove it, or write it as an escape in double quotes") from None
    source = Source(None, [], {}, {}, set())
    if root is None:
        raise Broken(Mark(1, 1), "there is nothing in it; give clusters and listeners")
    return source._replace(data=_value(root, (), source, set()))


def _check_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEPTH_MAX:
                raise Broken(_mark(event.start_mark), "nested too deeply; nothing in a configuration is")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _broken(error: yaml.MarkedYAMLError, text: str) -> Broken:
    mark = error.problem_mark or error.context_mark
    problem = error.problem or ""
    advice = next((ours for theirs, ours in _ADVICE if problem.startswith(theirs)), None)
    line = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
    if "{node}" in line:
        advice = "'{' begins a mapping in YAML; put a text with {node} in quotes"
    return Broken(
        _mark(mark) if mark else Mark(1, 1),
        advice or "this is not YAML; check the indentation, and put texts with special characters in quotes",
    )


def _mark(mark: Any) -> Mark:  # noqa: ANN401 - PyYAML's marks have no type of their own
    return Mark(mark.line + 1, mark.column + 1)


def _value(node: yaml.Node, loc: Loc, source: Source, seen: set[int]) -> Any:  # noqa: ANN401 - YAML is anything
    """Build the data of ``node``, noting marks and problems in ``source``."""
    mark = source.values[loc] = _mark(node.start_mark)
    if id(node) in seen:
        mark = source.values[loc] = source.keys.get(loc, mark)  # the node itself stands where its anchor is
        # Aliases are what makes a small text a huge one.
        source.lost.add(loc)
        source.problems.append((mark, Problem(loc, "an alias ('*') is not supported; write the value out again")))
        return None
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        return _mapping(node, loc, source, seen)
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        return [_value(item, (*loc, index), source, seen) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, loc, source)
    source.lost.add(loc)
    source.problems.append((mark, Problem(loc, _NO_TAG)))
    return None


def _scalar(node: yaml.ScalarNode, loc: Loc, source: Source) -> str | int | bool | None:
    text: str = node.value
    match node.tag.removeprefix(_TAG):
        case "str":
            return text
        case "int" if re.fullmatch(r"[-+]?[0-9]{1,18}", text):
            return int(text)
        case "int" if re.fullmatch(r"[-+]?[0-9]+", text):
            return text  # longer than any number here: as a text it is refused with the advice of its field
        case "bool" if text.lower() in {"true", "false"}:
            return text.lower() == "true"
        case "null":
            return None
    source.lost.add(loc)
    source.problems.append((_mark(node.start_mark), Problem(loc, _NO_TAG)))
    return None


def _mapping(node: yaml.MappingNode, loc: Loc, source: Source, seen: set[int]) -> dict[str | int, Any]:
    data: dict[str | int, Any] = {}
    for key_node, value_node in node.value:
        mark = _mark(key_node.start_mark)
        key = _scalar(key_node, loc, source) if isinstance(key_node, yaml.ScalarNode) else None
        if key is None or isinstance(key, bool):
            source.problems.append((mark, Problem(loc, "a key must be a word or a number; write 'key: value'")))
            continue
        here = (*loc, key)
        if key in data:
            text = f"stands here a second time, first in line {source.keys[here].line}; remove one of the two"
            source.problems.append((mark, Problem(here, text)))
            continue
        source.keys[here] = mark
        data[key] = _value(value_node, here, source, seen)
    return data
