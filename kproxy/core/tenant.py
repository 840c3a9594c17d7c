"""One process's leases: which of its meters have something to tell the store, and when that is worth a message.

Meters that somebody is held for are urgent; the others are reported at the next renewal, after RENEW_SECONDS. What was
not used for LEAVE_SECONDS is given back. The shell carries ``report`` to the store and its answer to ``renewed``, one
report at a time::

    tenant.wake()                      called by it: something is to be reported, at once if ``urgent``
    entries = tenant.report(now)
    tenant.renewed(answer, now, answered=True)

Never here: a socket, a loop; the clock is handed in.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from kproxy.core.leased import LEASED, Leased
from kproxy.core.leases import ENTRIES_MAX, Entry, key_of
from kproxy.core.meters import Meter

RENEW_SECONDS: Final = 0.025
"""How soon what was taken is told: in a lease's time a bucket of 100 a second leaks 2.5."""

LEAVE_SECONDS: Final = 5.0
"""What nobody used for so long is given back."""

LOOKED_AT: Final = 50
"""How many keys are looked at, each time something is reported, for whether they have been left."""


class Tenant:
    """One process's leases. Carry what ``report`` returns to the store, and what that answers to ``renewed``."""

    def __init__(self, processes: int, clock: Callable[[], float]) -> None:
        """Begin with none, as one of so many processes."""
        self.processes = processes
        self.clock = clock
        self.wake: Callable[[], None] = lambda: None
        """Called when there is something to report: at once if ``urgent``, else at the next renewal."""
        self._meters: dict[tuple[str, str], Leased] = {}
        self._urgent: dict[Leased, None] = {}
        self._active: dict[Leased, None] = {}
        self._asking: dict[Leased, None] = {}  # reported, and not answered
        self._left: dict[tuple[str, str], None] = {}
        self._listed: deque[Leased] = deque()

    @property
    def urgent(self) -> bool:
        """Somebody is held until the store has answered."""
        return bool(self._urgent)

    @property
    def active(self) -> bool:
        """There is something to report."""
        return bool(self._urgent or self._active or self._left)

    @property
    def crowded(self) -> bool:
        """There is more to report than goes into a message."""
        return len(self._urgent) + len(self._active) + len(self._left) > ENTRIES_MAX

    # What meters and limits say.

    def kind(self, plain: type[Meter]) -> type[Meter]:
        """Return the class of meters that take from leases, for one that does not."""
        return LEASED[plain]

    def began(self, meter: Meter, key: str, now: float) -> None:
        """Give leases to a meter that has just been made."""
        assert isinstance(meter, Leased)  # noqa: S101  by ``kind``
        key = key_of(key)
        self._meters[meter.limit.id, key] = meter
        meter.lease(self, key, now)

    def touch(self, meter: Leased) -> None:
        """See Leased."""
        meter.active = True
        self._active[meter] = None
        self._enlist(meter)
        self.wake()

    def urge(self, meter: Leased) -> None:
        """Report a meter at once."""
        self._urgent[meter] = None
        self._enlist(meter)
        self.wake()

    def _enlist(self, meter: Leased) -> None:
        if not meter.listed:
            meter.listed = True
            self._listed.append(meter)

    def forget(self, meter: Leased) -> None:
        """There is no such key any more."""
        if self._meters.pop((meter.limit.id, meter.key), None) is not None and meter.listed:
            self._leave(meter)

    def _leave(self, meter: Leased) -> None:
        for place in (self._urgent, self._active, self._asking):
            place.pop(meter, None)
        meter.active = meter.listed = False
        self._left[meter.limit.id, meter.key] = None

    # What is said to the store, and by it.

    def report(self, now: float) -> list[Entry]:
        """Return what there is to tell, the urgent first, so much as goes into a message."""
        self._look_for_left(now)
        entries: list[Entry] = []
        for left in list(self._left)[:ENTRIES_MAX]:
            del self._left[left]
            entries.append((*left, None, None))
        for meter in list({**self._urgent, **self._active})[: ENTRIES_MAX - len(entries)]:
            self._urgent.pop(meter, None)
            self._active.pop(meter, None)
            entries.append(meter.report(now))
            self._asking[meter] = None
            meter.used_at = now
            meter.active = meter.stays()
            if meter.active:
                self._active[meter] = None
        return entries

    def _look_for_left(self, now: float) -> None:
        for _ in range(min(len(self._listed), LOOKED_AT)):
            meter = self._listed.popleft()
            if not meter.listed:
                continue
            busy = meter.active or meter in self._urgent or meter.in_use()
            if busy or now - meter.used_at < LEAVE_SECONDS:
                self._listed.append(meter)
                continue
            self._leave(meter)
            meter.reset()

    def renewed(self, entries: Iterable[Entry], now: float, *, answered: bool) -> None:
        """Take what the store has said; ``answered``: it has heard the last report."""
        if answered:
            self._asking.clear()
        for limit_id, key, flow, stock in entries:
            meter = self._meters.get((limit_id, key))
            if meter is not None and meter.listed:
                meter.renewed(flow, stock, now)

    def silence(self) -> None:
        """The store has said nothing for HOLD_SECONDS: go on without it as far as may be."""
        for meter in self._asking:
            meter.silence()

    def reset(self) -> None:
        """The store has forgotten this process: begin anew."""
        self._left.clear()
        for meter in self._meters.values():
            if meter.listed:
                meter.reset()
                self.touch(meter)
