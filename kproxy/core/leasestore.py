"""The store of leases: it knows the truth about each key that several processes limit together (see leases).

An account is one key's. A FlowAccount keeps the level of the whole bucket, to which it adds whatever any process has
charged, and shares the rate out: who wants more gets an equal part per connection of what the others do not use. A
StockAccount knows how many tokens each process has in hand; who lacks some gets them from what is left, else the others
are asked to give back what is above their part. When there are fewer tokens than processes that want one, they take
turns of TURN_SECONDS.

A process that has died is forgotten, and what it had is there again for the others::

    store.heard(0, entries, now)        what a process has reported
    store.outgoing(0)                   what is to be told to it
    store.tick(now)                     every TICK_SECONDS: turns, and who is silent for too long
    store.forget(1)                     it has died

Never here: a socket, a loop, a clock.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from math import exp, inf
from typing import TYPE_CHECKING, Any, Final

from kproxy.core.leases import DRY, ENTRIES_MAX, WAIT, Entry
from kproxy.core.meters import GRACE_SECONDS

if TYPE_CHECKING:
    from kproxy.core.limits import Limit

MEMORY_SECONDS: Final = 0.2
"""What a process uses of a rate is averaged over about so long."""

HEADROOM: Final = 1.25
"""Who is content keeps so much more than it uses, as far as it is there."""

SHARE_MIN: Final = 0.01
"""A share is never less, so that who begins to send counts for something until the next renewal."""

LAG_SECONDS: Final = 0.05
"""How late a charge may be told without being counted as if it were new: two renewals."""

RESHARE_SECONDS: Final = 0.1
"""How often shares follow what is used, while somebody wants more."""

TURN_SECONDS: Final = 0.025
TICK_SECONDS: Final = 0.025

SILENT_SECONDS: Final = 5.0
"""A process that has said nothing for so long has lost its leases: it is stopped, or as good as dead."""

SWEPT: Final = 100
"""How many accounts a tick looks at for whether anybody needs them."""


def divide(total: float, wants: Mapping[int, tuple[float, float]]) -> dict[int, float]:
    """Share ``total`` out among those who want (so much, with a weight); what is left is not handed out.

    Nobody gets more than wanted, nor less while another has more per weight.

    >>> divide(10, {0: (2, 1), 1: (20, 1), 2: (5, 1)})
    {0: 2, 1: 4.0, 2: 4.0}
    """
    left, weights = total, sum(weight for _, weight in wants.values())
    given = dict.fromkeys(wants, 0.0)
    for who, (want, weight) in sorted(wants.items(), key=lambda item: item[1][0] / item[1][1]):
        given[who] = min(want, max(left, 0.0) * weight / weights)
        left -= given[who]
        weights -= weight
    return given


class FlowTenant:
    """A process that shares a rate."""

    __slots__ = ("at", "hungry", "share", "used", "users")

    def __init__(self, now: float) -> None:
        """Begin without a share."""
        self.at = now
        self.used = 0.0
        """A second, of late."""
        self.share = 0.0
        self.hungry = False
        self.users = 1


class FlowAccount:
    """One key of a leaky bucket."""

    def __init__(self, limit: "Limit", now: float) -> None:
        """Begin empty, with nothing to catch up with but what leaks before the first charge is told."""
        self._limit = limit
        self._lowest = limit.lowest - limit.rate * LAG_SECONDS
        self.level = -limit.rate * LAG_SECONDS
        self._at = now
        self._shared_at = now
        self.tenants: dict[int, FlowTenant] = {}

    def settle(self, now: float) -> float:
        """Let leak out what has; return the level. What leaked since a charge, of which it is told later, counts."""
        self.level = max(self.level - (now - self._at) * self._limit.rate, self._lowest)
        self._at = now
        return self.level

    def heard(self, who: int, told: Entry, now: float) -> list[int]:
        """Take a report; return whose share has changed by it."""
        spent, hungry, users = told
        self.settle(now)
        self.level += spent
        if self._limit.level_max:
            self.level = min(self.level, self._limit.level_max)
        tenant = self.tenants.get(who)
        changed = tenant is None
        if tenant is None:
            tenant = self.tenants[who] = FlowTenant(now)
        tenant.used = tenant.used * exp((tenant.at - now) / MEMORY_SECONDS) + spent / MEMORY_SECONDS
        tenant.at = now
        users = max(users, 1)
        changed = changed or tenant.hungry != bool(hungry) or tenant.users != users
        tenant.hungry, tenant.users = bool(hungry), users
        late = now - self._shared_at >= RESHARE_SECONDS and any(t.hungry for t in self.tenants.values())
        return self.share_out(now) if changed or late else []

    def share_out(self, now: float) -> list[int]:
        """Share the rate out anew; return whose share has changed."""
        self._shared_at = now
        rate = self._limit.rate
        wants: dict[int, tuple[float, float]] = {}
        for who, tenant in self.tenants.items():
            used = tenant.used * exp((tenant.at - now) / MEMORY_SECONDS)
            wants[who] = (inf if tenant.hungry else used * HEADROOM / rate, tenant.users)
        parts = divide(1.0, wants)
        spare = max(1.0 - sum(parts.values()), 0.0)
        users = sum(tenant.users for tenant in self.tenants.values())
        changed = []
        for who, tenant in self.tenants.items():
            share = min(max(parts[who] + spare * tenant.users / users, SHARE_MIN), 1.0)
            if abs(share - tenant.share) > 0.02 * tenant.share:
                tenant.share = share
                changed.append(who)
        return changed

    def leave(self, who: int, now: float) -> list[int]:
        """End a process's part; return whose share has changed."""
        if self.tenants.pop(who, None) is None:
            return []
        return self.share_out(now)

    def over(self, now: float) -> bool:
        """Whether nobody needs it."""
        return not self.tenants and self.settle(now) <= 0.0


class StockTenant:
    """A process that has tokens."""

    __slots__ = ("answer", "given", "have", "hungry", "in_use", "keep", "served_at", "want")

    def __init__(self) -> None:
        """Begin with none."""
        self.have = 0
        self.in_use = 0
        self.want = 0
        self.hungry = False
        self.answer = 0
        """What it has been told to that, since its last report."""
        self.keep: int | None = None
        """What it has been asked to keep at most, since its last report."""
        self.given: list[tuple[int, int]] = []
        """Grants that it has not told to have got: (number, tokens)."""
        self.served_at = -inf

    @property
    def out(self) -> int:
        """How many it may have."""
        return max(self.have + sum(tokens for _, tokens in self.given), self.in_use)


class StockAccount:
    """One key of a window, of slots or of connections."""

    def __init__(self, limit: "Limit") -> None:
        """Begin with all tokens there."""
        self._limit = limit
        self.used = 0
        """Of this window."""
        self.ends = 0.0
        """When that is over; 0.0: it has not begun."""
        self._seq = 0
        self._first_seq = 0  # of this window's grants
        self.tenants: dict[int, StockTenant] = {}

    @property
    def bank(self) -> int:
        """How many are in nobody's hands."""
        return self._limit.count - self.used - sum(tenant.out for tenant in self.tenants.values())

    @property
    def hungry(self) -> bool:
        """Whether somebody lacks some."""
        return any(tenant.hungry for tenant in self.tenants.values())

    def settle(self, now: float) -> None:
        """End the window whose time is over: what is out in hands is worth nothing any more."""
        if self.ends and self.ends - now < GRACE_SECONDS:
            self.used = 0
            self.ends = 0.0
            self._seq += 1
            self._first_seq = self._seq
            for tenant in self.tenants.values():
                tenant.have = 0
                tenant.given.clear()

    def heard(self, who: int, told: Entry, now: float) -> None:
        """Take a report."""
        seq, have, spent, want, hungry, in_use = told
        self.settle(now)
        tenant = self.tenants.setdefault(who, StockTenant())
        tenant.keep = None
        if seq < self._first_seq:  # it is about the window before
            tenant.keep = 0 if have > 0 else None
            have = spent = 0
        if spent and self._limit.window_seconds:
            self.used += spent
            self.ends = self.ends or now + self._limit.window_seconds
        tenant.have, tenant.in_use, tenant.want = have, in_use, want
        tenant.given = [(number, tokens) for number, tokens in tenant.given if number > seq]
        tenant.hungry = bool(hungry) and not tenant.given
        tenant.answer = 0

    def decide(self, now: float) -> dict[int, list[int | float | None]]:
        """Hand out what is to be handed out; return what to tell whom, as in ``marker`` and ``window``."""
        told: dict[int, list[int | float | None]] = {}
        bank, tenants = self.bank, self.tenants
        targets = self._targets(now)
        for who in sorted(tenants, key=lambda who: (not tenants[who].hungry, tenants[who].served_at)):
            tenant = tenants[who]
            out = tenant.out
            lacking = min(tenant.want, targets[who]) - out
            spare = bank if len(tenants) == 1 else bank // (2 * len(tenants))
            grant = min(bank, max(lacking, spare)) if tenant.want > out or tenant.hungry else 0
            if grant > 0:
                bank -= grant
                self._seq += 1
                tenant.given.append((self._seq, grant))
                tenant.served_at = now
                tenant.hungry = False
                tenant.keep = None
                told[who] = [self._seq, grant, None, 0]  # and no more is asked back
        if self.hungry:
            answer = WAIT if self._ask_back(targets, told) else DRY
            for who, tenant in tenants.items():
                if tenant.hungry and tenant.answer != answer:
                    tenant.answer = answer
                    told[who] = self.marker(who, answer)
        return {who: [*entry, *self.window(now)] for who, entry in told.items()}

    def _ask_back(self, targets: Mapping[int, int], told: dict[int, list[int | float | None]]) -> bool:
        """Ask those back who have more than their part; tell whether anything is still to come."""
        asked = False
        hungry = sum(tenant.hungry for tenant in self.tenants.values())
        for who, tenant in self.tenants.items():
            if tenant.out > targets[who] and hungry > tenant.hungry:
                asked = True
                if tenant.keep != targets[who]:
                    tenant.keep = targets[who]
                    told[who] = self.marker(who, 0)
        return asked

    def marker(self, who: int, answer: int) -> list[int | float | None]:
        """Return what tells a process nothing but this, and up to which grant it has been told all."""
        return [self._seq, 0, self.tenants[who].keep, answer]

    def window(self, now: float) -> tuple[float, int]:
        """Return what is told with all of this: how long the window lasts, 0 if it has not begun, and what is left."""
        return (self.ends - now if self.ends else 0), max(self._limit.count - self.used, 0)

    def _targets(self, now: float) -> dict[int, int]:
        """Return what each may have in hand at most while others lack some."""
        total = max(self._limit.count - self.used, 0)
        parts = divide(total, {who: (tenant.want, 1) for who, tenant in self.tenants.items()})
        targets = {who: int(part) for who, part in parts.items()}
        left = total - sum(targets.values())
        for who in sorted(self.tenants, key=lambda who: self._turn(self.tenants[who], now)):
            tenant = self.tenants[who]
            if left > 0 and targets[who] < tenant.want:
                targets[who] += 1
                left -= 1
                if now - tenant.served_at >= TURN_SECONDS:
                    tenant.served_at = now
        return targets

    def _turn(self, tenant: StockTenant, now: float) -> tuple[bool, float]:
        """Order processes: first who has its turn now, then who was served the longest ago."""
        return not (tenant.out and now - tenant.served_at < TURN_SECONDS), tenant.served_at

    def leave(self, who: int) -> None:
        """End a process's part; what it had is there again."""
        self.tenants.pop(who, None)

    def over(self, now: float) -> bool:
        """Whether nobody needs it."""
        self.settle(now)
        return not self.tenants and not self.ends


class Account:
    """One key of one limit."""

    __slots__ = ("flow", "stock")

    def __init__(self, limit: "Limit", now: float) -> None:
        """Begin as the limit's kind says."""
        self.flow = FlowAccount(limit, now) if limit.rate else None
        self.stock = StockAccount(limit) if limit.count else None

    def over(self, now: float) -> bool:
        """Whether nobody needs it."""
        return (self.flow is None or self.flow.over(now)) and (self.stock is None or self.stock.over(now))


Place = tuple[str, str]
"""A limit's id and a key."""

Told = list[Any]
"""What is to be told of a flow or a stock."""


class Store:
    """All accounts. See the module."""

    def __init__(self, limits: Iterable["Limit"]) -> None:
        """Begin with no key."""
        self._limits = {limit.id: limit for limit in limits}
        self._accounts: dict[Place, Account] = {}
        self._hungry: dict[Place, None] = {}
        self._swept: deque[Place] = deque()
        self._heard_at: dict[int, float] = {}
        self._lost: set[int] = set()
        self._out: dict[int, dict[Place, tuple[Told | None, Told | None]]] = {}

    def change(self, limits: Iterable["Limit"]) -> None:
        """Keep leases of these limits from now on; those that were there before keep theirs."""
        self._limits = {limit.id: self._limits.get(limit.id, limit) for limit in limits}
        for place in [place for place in self._accounts if place[0] not in self._limits]:
            del self._accounts[place]
            self._hungry.pop(place, None)
            for out in self._out.values():
                out.pop(place, None)
        self._swept = deque(place for place in self._swept if place in self._accounts)

    def heard(self, who: int, entries: Iterable[Entry], now: float) -> bool:
        """Take what a process has reported; False: it had been given up, and must begin anew (``Tenant.reset``)."""
        self._heard_at[who] = now
        known = who not in self._lost
        self._lost.discard(who)
        for limit_id, key, flow, stock in entries:
            limit = self._limits.get(limit_id)
            if limit is None:  # a worker that has not got the new configuration yet
                continue
            place = limit_id, key
            if flow is None and stock is None:
                self._leave(who, place, now)
                continue
            account = self._accounts.get(place)
            if account is None:
                account = self._accounts[place] = Account(limit, now)
                self._swept.append(place)
            if flow is not None and account.flow is not None:
                self._flow(who, place, account.flow, flow, now)
            if stock is not None and account.stock is not None and known:
                account.stock.heard(who, stock, now)
                self._decide(place, account.stock, now, who)
        return known

    def _flow(self, who: int, place: Place, account: FlowAccount, told: Entry, now: float) -> None:
        for changed in account.heard(who, told, now):
            self._tell_share(changed, place, account)
        tenant = account.tenants[who]
        self._tell(who, place, [tenant.share, account.level], None)

    def _tell_share(self, who: int, place: Place, account: FlowAccount) -> None:
        waiting = self._out.get(who, {}).get(place, (None, None))[0]
        self._tell(who, place, [account.tenants[who].share, waiting[1] if waiting else None], None)

    def _decide(self, place: Place, account: StockAccount, now: float, reporter: int | None) -> None:
        told = account.decide(now)
        if reporter is not None and reporter not in told:
            told[reporter] = [*account.marker(reporter, 0), *account.window(now)]
        for who, entry in told.items():
            self._tell(who, place, None, entry)
        if account.hungry:
            self._hungry[place] = None
        else:
            self._hungry.pop(place, None)

    def _tell(self, who: int, place: Place, flow: Told | None, stock: Told | None) -> None:
        out = self._out.setdefault(who, {})
        before = out.get(place, (None, None))
        if stock is not None and before[1] is not None:
            stock[1] += before[1][1]
        out[place] = flow or before[0], stock or before[1]

    def outgoing(self, who: int) -> list[Entry]:
        """Return what is to be told to a process, so much as goes into a message."""
        out = self._out.get(who, {})
        entries: list[Entry] = []
        for place in list(out)[:ENTRIES_MAX]:
            flow, stock = out.pop(place)
            entries.append((*place, flow, stock))
        return entries

    def waiting(self) -> list[int]:
        """Return to whom there is something to be told."""
        return [who for who, out in self._out.items() if out]

    def _leave(self, who: int, place: Place, now: float) -> None:
        account = self._accounts.get(place)
        if account is None:
            return
        self._out.get(who, {}).pop(place, None)
        if account.flow is not None:
            for changed in account.flow.leave(who, now):
                self._tell_share(changed, place, account.flow)
        if account.stock is not None:
            account.stock.leave(who)
            self._decide(place, account.stock, now, None)

    def forget(self, who: int, now: float) -> None:
        """A process is no more: what it had is there again."""
        self._out.pop(who, None)
        self._heard_at.pop(who, None)
        self._lost.discard(who)
        for place in list(self._accounts):
            self._leave(who, place, now)

    def tick(self, now: float) -> None:
        """See to turns, and to who is silent; forget what nobody needs."""
        for who, at in list(self._heard_at.items()):
            if now - at >= SILENT_SECONDS:
                self.forget(who, now)
                self._lost.add(who)
        for place in list(self._hungry):
            account = self._accounts[place].stock
            assert account is not None  # noqa: S101  it is hungry
            account.settle(now)
            self._decide(place, account, now, None)
        for _ in range(min(len(self._swept), SWEPT)):
            place = self._swept.popleft()
            if self._accounts[place].over(now):
                del self._accounts[place]
                self._hungry.pop(place, None)
            else:
                self._swept.append(place)
