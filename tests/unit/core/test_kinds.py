"""Which class of exchange a connection gets: nothing of what is not configured is in it."""

import gc
import math
from collections.abc import Iterator

import pytest
from conversations import OFFER, advertise
from metered_stage import fetch, fetched, produce, produced
from test_exchange_cost import calls

from kproxy.core.exchange import Exchange, Front
from kproxy.core.kinds import exchange_class
from kproxy.core.latency import BOUNDS_SECONDS, Latencies
from kproxy.core.limits import Client
from kproxy.core.metered import Metered, MeteredExchange, MeteredRoutedExchange
from kproxy.core.observed import Observed, Picks, Watch
from kproxy.core.routed import RoutedExchange
from kproxy.core.tally import Tally
from kproxy.wire.apis import APIS, ApiKey

CLIENT = Client("public", "10.0.0.1", "User:ANONYMOUS", "")


@pytest.mark.parametrize(
    ("routed", "limited", "plain"),
    [
        (False, False, Exchange),
        (False, True, MeteredExchange),
        (True, False, RoutedExchange),
        (True, True, MeteredRoutedExchange),
    ],
)
def test_kinds(plain: type[Exchange], *, routed: bool, limited: bool) -> None:
    """Unwatched it is the class that there always was; watched it is that one behind the watch, made once."""
    assert exchange_class(routed=routed, limited=limited, observed=False) is plain
    watched = exchange_class(routed=routed, limited=limited, observed=True)
    assert watched is exchange_class(routed=routed, limited=limited, observed=True)
    order = list(watched.__mro__)
    assert plain in order
    assert order.index(Observed) < order.index(plain)
    assert (Metered in order) == limited
    assert (RoutedExchange in order) == routed


def watched(watch: Watch) -> Exchange:
    """Make a watched connection."""
    made: Exchange = exchange_class(routed=False, limited=False, observed=True)(Front(OFFER, Tally()), advertise)
    assert isinstance(made, Observed)
    made.observe(watch, CLIENT, 1, None)
    return made


@pytest.fixture(autouse=True)
def no_garbage() -> Iterator[None]:
    """Let nobody's finalizers be counted."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("many", [1, 16])
def test_calls_per_read(many: int) -> None:
    """A read that is not looked at costs one call more each way, however many requests it brings; another, a few."""

    def never(_: object) -> None:
        raise AssertionError("told")

    for request, answer in ((fetch(1), fetched(1)), (produce(1, version=9), produced(1, version=9))):
        rarely = watched(Watch(lambda: 1.0, lambda: 0.99, None, never, Picks(sample=0.001)))
        rarely.from_client(request)
        rarely.from_broker(answer)
        unwatched = Exchange(Front(OFFER, Tally()), advertise)
        unwatched.from_client(request)
        unwatched.from_broker(answer)
        assert calls(rarely.from_client, request * many) == calls(unwatched.from_client, request * many) + 1
        assert calls(rarely.from_broker, answer * many) == calls(unwatched.from_broker, answer * many) + 1
        always = watched(Watch(lambda: 1.0, lambda: 0.0, Latencies()))
        always.from_client(request)
        always.from_broker(answer)
        assert calls(always.from_client, request * many) <= 8
        assert calls(always.from_broker, answer * many) <= 6


def test_histograms() -> None:
    """Each time falls into the bucket of the least bound that is not below it, those above all bounds into the last."""
    latencies = Latencies()
    for upstream in (0.0, 0.0005, 0.00051, 30.0, 31.0):
        latencies.note(ApiKey.FETCH, kproxy_seconds=0.2, upstream_seconds=upstream)
    fetch_ = latencies.snapshot()["Fetch"]
    assert list(latencies.snapshot()) == ["Fetch"]
    upstream_buckets = fetch_["upstream"]["buckets"]
    assert isinstance(upstream_buckets, dict)
    assert {bound: count for bound, count in upstream_buckets.items() if count} == {
        "0.0005": 2,
        "0.001": 1,
        "30.0": 1,
        "inf": 1,
    }
    assert list(upstream_buckets) == [*map(str, BOUNDS_SECONDS), "inf"]
    assert [float(bound) for bound in upstream_buckets][-1] == math.inf
    assert fetch_["upstream"]["sum_seconds"] == pytest.approx(61.00101)
    kproxy = fetch_["kproxy"]["buckets"]
    assert isinstance(kproxy, dict)
    assert kproxy["0.25"] == 5


def test_every_api_can_be_timed() -> None:
    """There is a histogram for each API, and a tally tells of them only where they are kept."""
    tally = Tally()
    assert "latency" not in tally.snapshot()
    tally.latencies = Latencies()
    for key in APIS:
        tally.latencies.note(key, 0.0, 0.1)
    tally.latencies.errors.note(ApiKey.FETCH, 70)
    assert tally.snapshot()["timed_errors"] == {"Fetch": {"FETCH_SESSION_ID_NOT_FOUND": 1}}
    told = tally.snapshot()["latency"]
    assert isinstance(told, dict)
    assert set(told) == {api.name for api in APIS.values()}
