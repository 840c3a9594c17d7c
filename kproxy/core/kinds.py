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
from kproxy.core.metered import MeteredExchange, MeteredRoutedExchange
from kproxy.core.observed import Observed, ObservedRouting
from kproxy.core.routed import RoutedExchange


@cache
def exchange_class(*, routed: bool, limited: bool, observed: bool) -> Any:  # noqa: ANN401  its arguments differ
    """Return the class; a routed one takes a Directory as well. It is to be ``meter``ed, and ``observe``d, as asked."""
    base: type[Exchange]
    if routed:
        base = MeteredRoutedExchange if limited else RoutedExchange
    else:
        base = MeteredExchange if limited else Exchange
    if not observed:
        return base
    inner = {"_inner_from_client": base.from_client, "_inner_from_broker": base.from_broker}
    mixin = ObservedRouting if routed else Observed
    return type(f"Observed{base.__name__}", (mixin, base), inner)
