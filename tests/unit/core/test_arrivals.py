"""How often one address may connect."""

import doctest

from kproxy.core import arrivals
from kproxy.core.arrivals import ArrivalRate


def test_the_example() -> None:
    """The module's example is so."""
    assert doctest.testmod(arrivals).failed == 0


def test_never_more_than_the_rate_and_a_second_of_it() -> None:
    """However often an address comes, so many get in a second; another address has a bucket of its own."""
    rate = ArrivalRate(10)
    let_in = sum(rate.allows("a", step / 1000) for step in range(5000))
    assert 50 <= let_in <= 60
    assert rate.allows("b", 5)


def test_the_memory_is_bounded() -> None:
    """Of too many addresses the one that came the longest ago is forgotten."""
    rate = ArrivalRate(1, hosts_max=2)
    assert [rate.allows(host, 0) for host in "abca"] == [True] * 4
    assert not rate.allows("c", 0)
