"""Limits that several processes hold together: what one of them may take by itself, and how it learns how much that is.

The truth about a key is with a store (see leasestore). A process takes from what it was given, never waits for the
store on the path of a request, and tells it in the background what it has taken, some 40 times a second. There are two
kinds of leases; a meter has one, or (for connections) both:

- A **Flow** is a share of a rate. The meter keeps the level of the whole bucket as the store told it last; what this
  process charges counts 1 / share times, as the others charge meanwhile, until the store has told the next. Nothing
  charged is ever lost, so the rate holds exactly over time, and within a renewal by the shares, whose sum is one. What
  the level is at least is known, too, as what was told last and what this process charged itself (``low``).
- A **Stock** is a number of tokens: requests or bytes of a window, which are spent, or slots and connections, which
  come back. Their sum over all is never more than the limit.

A yes is local and at once. So is a no that is one by what is known; otherwise the request is held where it is
(``unsure``) for the milliseconds that it takes to ask the store, while everybody else goes on. A store that says
nothing for HOLD_SECONDS is not waited for: then each takes an equal part. Two processes, a window of ten::

    worker 0    ["w", "alice", null, [0, 0, 0, 1, 1, 0]]         has none, wants one, lacks it
    store       ["w", "alice", null, [1, 10, null, 0, 0, 10]]     nobody else is there: take all ten
    worker 1    ["w", "alice", null, [0, 0, 0, 1, 1, 0]]
    store       ["w", "alice", null, [1, 0, 2, 0, 59.1, 9]]       to worker 0: keep two; for 59.1 s nine are left

Never here: a socket, a loop, a clock, or how messages are carried; Redis could stand where the supervisor does.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final

HOLD_SECONDS: Final = 0.05
"""How long a request is held for the store's word: several renewals; a store that takes longer is as good as gone."""

LINGER_SECONDS: Final = 1.0
"""How long a flow counts as wanting more after it was told no: beyond the gaps of a client that waits as told."""

ENTRIES_MAX: Final = 100
"""How many keys one message is about, which then has 60 KiB at most (a channel takes 128)."""

KEY_CHARS_MAX: Final = 64
"""A longer key, or one that JSON makes longer, is told by its digest."""

WAIT, DRY = 1, 2
"""What the store answers to who wants more: others are asked for it; there is nothing to be had."""

Entry = Sequence[Any]
"""[limit's id, key, flow or None, stock or None]; see ``report`` and ``renewed`` of the two."""


def key_of(key: str) -> str:
    """Write a key so that it is short in every message."""
    if len(key) <= KEY_CHARS_MAX and key.isascii():
        return key
    return blake2b(key.encode(errors="surrogatepass"), digest_size=16).hexdigest()


class Flow:
    """A share of a rate."""

    __slots__ = ("asked_at", "asking", "hungry", "known", "refused_at", "spent", "weight")

    def __init__(self, weight: float) -> None:
        """Begin without a share: then what is charged counts so many times."""
        self.weight = weight
        self.known = False
        """The store has told something."""
        self.spent = 0.0
        """Charged since the last report."""
        self.hungry = False
        """Something did not pass of late: it wants more."""
        self.refused_at = 0.0
        self.asking = False
        """Something is held until the store has told the level again."""
        self.asked_at = 0.0

    def miss(self, now: float) -> None:
        """Note that something did not pass."""
        self.refused_at = now
        self.hungry = True

    def ask(self, now: float) -> bool:
        """Note that the level must be known; tell whether the store is to be asked at once."""
        if self.asking:
            return False
        self.asking = True
        self.asked_at = now
        return True

    def report(self, now: float, users: int) -> Entry:
        """Return [spent since the last report, whether it wants more, how many connections count on the key]."""
        if self.hungry and now - self.refused_at >= LINGER_SECONDS:
            self.hungry = False
        spent, self.spent = self.spent, 0.0
        return spent, int(self.hungry), users

    def renewed(self, share: float, level: float | None) -> None:
        """Take a share of the whole, and the level if it is told."""
        self.weight = 1.0 / share
        if level is not None:
            self.known = True
            self.asking = False


class Stock:
    """Tokens in hand."""

    __slots__ = ("alone", "answer", "asked_at", "have", "hungry", "keep", "need", "seq", "spent", "want")

    def __init__(self) -> None:
        """Begin with none."""
        self.have = 0
        """What is in hand; of what comes back, with what is in use."""
        self.spent = 0
        """Since the last report."""
        self.want = 0
        """How many it told the store that it would have in hand."""
        self.need = 0
        """How many it lacks."""
        self.hungry = False
        """It lacks some."""
        self.answer = 0
        """What the store said to that."""
        self.alone = False
        """The store says nothing, and what there is to be had without it has been taken."""
        self.asked_at = 0.0
        self.seq = 0
        """Of the last grant."""
        self.keep: int | None = None
        """The store wants back what is above it."""

    def miss(self, now: float, need: int) -> bool:
        """Note that so many are lacking; tell whether the store is to know at once."""
        if self.hungry and need <= self.need:
            return False
        if not self.hungry:
            self.hungry = True
            self.answer = 0
            self.alone = False
            self.asked_at = now
        self.need = need
        return self.answer != DRY

    def unsure(self, now: float) -> bool:
        """Whether a no is not to be believed yet."""
        return self.answer != DRY and not self.alone and now - self.asked_at < HOLD_SECONDS

    def silence(self, credit: int) -> bool:
        """The store says nothing: take so many, once; tell whether any were taken."""
        if not self.hungry or self.answer or self.alone:
            return False
        self.alone = True
        self.have += credit
        return True

    def report(self, want: int, in_use: int = 0) -> Entry:
        """Return [last grant, in hand, spent since the last report, wanted in hand, whether it lacks any, in use]."""
        spent, self.spent = self.spent, 0
        self.want = want
        return self.seq, self.have, spent, want, int(self.hungry), in_use

    def renewed(self, seq: int, grant: int, keep: int | None, answer: int) -> None:
        """Take a grant, or what there was to say instead."""
        self.seq = seq
        self.have += grant
        self.keep = keep
        self.answer = answer
        if grant > 0:
            self.hungry = False
            self.need = 0

    def give_up(self, in_use: int = 0) -> bool:
        """Give up what the store wants back and is not in use; tell whether that was anything."""
        keep = self.keep
        if keep is None:
            return False
        least = max(keep, min(in_use, self.have))
        if least <= keep:
            self.keep = None
        given = least < self.have
        self.have = min(self.have, least)
        return given

    def forget(self) -> None:
        """What there is is worth nothing any more."""
        self.have = self.spent = self.want = self.need = 0
        self.hungry = False
        self.keep = None
