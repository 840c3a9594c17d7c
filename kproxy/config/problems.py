"""What a mistake or a doubt is, how its place is written, and what to advise where a name is not known.

Never here: a rule. Those are in ``checks`` and ``limitchecks``::

    >>> where(("limits", 1, "leaky_bucket", "rate"))
    'limits[1].leaky_bucket.rate'
    >>> suggestion("mian", ["main", "audit"])
    "did you mean 'main'?"
"""

import difflib
from collections.abc import Collection, Iterable
from typing import NamedTuple

Loc = tuple[str | int, ...]

_LISTS = frozenset({"limits", "key", "listeners", "apis", "principals", "client_ids", "client_ips"})
"""The lists within and around ``limits``."""

_OTHER_LISTS = frozenset(
    {
        "bootstrap",
        "mechanisms",
        "principal_rules",
        "trusted_proxies",
        "cidrs",
        "rules",
        "principals",
        "operations",
        "deny",
        "presets",
    }
)
"""The lists elsewhere, where other numbers are keys."""

_LISTS_OF_LOG = _LISTS | {"bootstrap", "fields"}


class Problem(NamedTuple):
    """One mistake or doubt: the field it is about, and a line of text that ends with what to do."""

    loc: Loc
    text: str


def where(loc: Loc) -> str:
    """Write a place as ``clusters.main.bootstrap[1]``; a dictionary's numeric key is written as ``.1``."""
    text = ""
    for index, part in enumerate(loc):
        around = loc[index - 1] if index else None
        lists = _LISTS if loc[0] == "limits" else _LISTS_OF_LOG if loc[0] == "request_log" else _OTHER_LISTS
        text += f"[{part}]" if isinstance(part, int) and around in lists else f".{part}"
    return text.removeprefix(".")


def nearest(word: str, known: Collection[str]) -> str | None:
    """Return the known name that was probably meant; a difference in capitals is the smallest one."""
    written = {name.casefold(): name for name in sorted(known)}
    close = difflib.get_close_matches(word.casefold(), written, n=1, cutoff=0.6)
    return written[close[0]] if close else None


def suggestion(word: str, known: Collection[str]) -> str:
    """Advise on a name that is not known: the one that was probably meant, or all there are."""
    close = nearest(word, known)
    if close:
        return f"did you mean {close!r}?"
    return f"known: {', '.join(sorted(known))}" if known else "none is known here"


def listed(names: Iterable[str]) -> str:
    """Write names as people list them, each once; nothing for none."""
    *others, last = dict.fromkeys(names) or [""]
    return f"{', '.join(others)} and {last}" if others else last
