"""What being watched costs: nanoseconds per request of from_client and from_broker, plain and watched, in one run.

``python benchmarks/observed_cost.py [--rounds N]``. Each figure is the best of the rounds, whose turns alternate.
"""

import argparse
import random
import time
from collections.abc import Callable

from kproxy.core.exchange import Exchange, Front
from kproxy.core.kinds import exchange_class
from kproxy.core.latency import Latencies
from kproxy.core.limits import Client, FixedWindow, LeakyBucket, Limits, Rule
from kproxy.core.observed import Picks, Watch
from kproxy.core.offer import make_offer
from kproxy.core.tally import Tally
from kproxy.wire import frames
from kproxy.wire.apis import APIS, ApiKey
from kproxy.wire.apiversions import ApiVersionsAnswer
from kproxy.wire.primitives import INT16, INT32, INT64, put_compact_string

CALLS = 4000
THREE = (
    Rule("per address", LeakyBucket(rate=1e9, burst=1e9), key=("client_ip",)),
    Rule("per client", FixedWindow(count=1 << 40, window_seconds=1.0), key=("client_id",)),
    Rule("all", LeakyBucket(rate=1e9, burst=1e9)),
)
OFFER = make_offer([ApiVersionsAnswer(ranges={api.key: (api.min_version, api.max_version) for api in APIS.values()})])
CLIENT = Client("public", "10.0.0.1", "User:ANONYMOUS", "")


def advertise(_node_id: int, host: str, port: int) -> tuple[str, int]:
    """Name no other address than the broker's."""
    return host, port


def fetch() -> tuple[bytes, bytes]:
    """Write a Fetch request for a session, and its answer without records."""
    body = INT32.pack(-1) + INT32.pack(0) + INT32.pack(1) + bytes(40)
    answer = frames.response(1, ApiKey.FETCH, 11, bytes(34))
    return frames.request(ApiKey.FETCH, 11, 1, "app", body), answer


def produce() -> tuple[bytes, bytes]:
    """Write a Produce request for partition 0 of topic "t", and its answer."""
    partition = INT32.pack(0) + bytes([21]) + b"r" * 20 + b"\x00"
    start = b"\x00" + INT16.pack(-1) + INT32.pack(1000)
    body = start + b"\x02" + put_compact_string("t") + b"\x02" + partition + b"\x00\x00"
    answered = INT32.pack(0) + INT16.pack(0) + INT64.pack(7) + INT64.pack(-1) + INT64.pack(0) + b"\x01\x00\x00"
    answer = b"\x02" + put_compact_string("t") + b"\x02" + answered + b"\x00" + INT32.pack(0) + b"\x00"
    return frames.request(ApiKey.PRODUCE, 11, 1, "app", body), frames.response(1, ApiKey.PRODUCE, 11, answer)


def exchange(watch: Watch | None, *, limited: bool) -> Exchange:
    """Make a connection's machine."""
    made = exchange_class(routed=False, limited=limited, observed=watch is not None)(Front(OFFER, Tally()), advertise)
    if limited:
        made.meter(Limits(THREE), CLIENT, time.monotonic, lambda: None)
    if watch is not None:
        made.observe(watch, CLIENT, 1, 0)
    return made  # type: ignore[no-any-return]


def one_round(made: Exchange, request: bytes, answer: bytes) -> float:
    """Return nanoseconds per read there and back."""
    there, back = made.from_client, made.from_broker
    began = time.perf_counter_ns()
    for _ in range(CALLS):
        there(request)
        back(answer)
    return (time.perf_counter_ns() - began) / CALLS


def nothing(_: object) -> None:
    """Take an observation, as a log does whose own cost is not meant here."""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds

    def watch(sample: float, *, latency: bool) -> Watch:
        log = nothing if sample else None
        return Watch(time.monotonic, random.random, Latencies() if latency else None, log, Picks(sample=sample))

    watches: dict[str, Callable[[], Watch | None]] = {
        "plain": lambda: None,
        "latency": lambda: watch(0, latency=True),
        "log 0.01": lambda: watch(0.01, latency=False),
        "latency, log 0.01": lambda: watch(0.01, latency=True),
        "log 1.0": lambda: watch(1.0, latency=False),
        "latency, log 1.0": lambda: watch(1.0, latency=True),
    }
    for limited in (False, True):
        for name, (request, answer) in (("Fetch", fetch()), ("Produce", produce())):
            for many in (1, 16):
                made = {what: exchange(make(), limited=limited) for what, make in watches.items()}
                best = dict.fromkeys(made, float("inf"))
                for _ in range(rounds):
                    for what, one in made.items():
                        best[what] = min(best[what], one_round(one, request * many, answer * many) / many)
                limits = ", three limits" if limited else ""
                print(f"{name}, {many} a read{limits}: ns per request there and back")
                for what, took in best.items():
                    print(f"  {what:20} {took:7.0f}  {took - best['plain']:+7.0f}")


if __name__ == "__main__":
    main()
