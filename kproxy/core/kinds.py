"""Which class of exchange a connection gets: the plain one, under what is configured, so that nobody pays for more.

A capability is a mixin before an exchange, the outermost first: what is observed begins before any limit. A class is
made once for each combination::

    >>> exchange_class(routed=False, limited=True, observed=True).__mro__[1:3]
    (<class 'kproxy.core.observed.Observed'>, <class 'kproxy.core.metered.MeteredExchange'>)

Never here: an exchange, or a choice while one lives.
"""

from functools import cache
from typing import Any

from kproxy.core.exchange import Exchange
from kproxy.core.guarded import (
    GuardedExchange,
    GuardedMeteredExchange,
    GuardedMeteredRoutedExchange,
    GuardedRoutedExchange,
)
from kproxy.core.metered import MeteredExchange, MeteredRoutedExchange
from kproxy.core.observed import Observed, ObservedRouting
from kproxy.core.routed import RoutedExchange

# By: routed, guarded, limited.
_BASES: dict[tuple[bool, bool, bool], type[Exchange]] = {
    (False, False, False): Exchange,
    (False, False, True): MeteredExchange,
    (False, True, False): GuardedExchange,
    (False, True, True): GuardedMeteredExchange,
    (True, False, False): RoutedExchange,
    (True, False, True): MeteredRoutedExchange,
    (True, True, False): GuardedRoutedExchange,
    (True, True, True): GuardedMeteredRoutedExchange,
}


@cache
def exchange_class(*, routed: bool, limited: bool, observed: bool, guarded: bool = False) -> Any:  # noqa: ANN401  its arguments differ
    """Return the class; a routed one takes a Directory as well.

    It is to be put under what was asked for: ``guard``, ``meter``, ``observe``.
    """
    base = _BASES[routed, guarded, limited]
    if not observed:
        return base
    inner = {"_inner_from_client": base.from_client, "_inner_from_broker": base.from_broker}
    mixin = ObservedRouting if routed else Observed
    return type(f"Observed{base.__name__}", (mixin, base), inner)
