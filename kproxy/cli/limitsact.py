"""The second act of ``kproxy demo``: a polite and a greedy producer, and what a limit on each client id does to either.

First the polite one is alone, then the greedy one is beside it, both without a limit; then both go through the kproxy
that has one. Both send one record a request, each at a pace of its own that nothing slows down, to one partition, so
that they share all there is; a latency is what an application sees, from the call that produces a record until it is
told of the acknowledgement::

                      client id     tries      gets   latency p50          p99
    with the limit    polite         50/s      50/s        0.3 ms       0.6 ms
                      greedy      2,000/s     210/s      987.9 ms   2,203.9 ms
"""

import math
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from confluent_kafka import Producer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from kproxy.errors import KproxyError

if TYPE_CHECKING:
    from kproxy.cli.stage import Proxy, Stop

NAME = "fair-share"
LIMITS = f"""\
limits:
  - name: {NAME}
    leaky_bucket: {{rate: 200, burst: 25, nodelay: true}}
    key: [client_id]
    match: {{apis: [Produce]}}
    on_exceed: throttle
"""
"""The burst is what the polite one sends in half a second: a machine that stumbles does not make it greedy."""

POLITE, GREEDY = ("polite", 50), ("greedy", 2_000)
"""Client id, and how many records a second it tries to send."""

TOPIC = "fair-share"
RECORD_BYTES = 100
CONNECT_SECONDS = 20
POLL_SECONDS = 0.05
STEP_SECONDS = 0.0002
"""How exactly an acknowledgement is timed."""
DRAW_SECONDS = 0.2

Row = tuple[str, ...]
"""What the table says of one producer in one scene."""


def perform(console: Console, free: "Proxy", limited: "Proxy", stop: "Stop") -> None:
    """Show it; ``limited`` has been launched with LIMITS. Raises KproxyError, or click.Abort when told to stop."""
    told = "Two producers, a polite one and a greedy one, and a second kproxy with a limit for each client id:"
    console.print("", told, sep="\n", style="dim")
    console.print(f"$ {' '.join(limited.command)}", soft_wrap=True, style="bold")
    console.print(LIMITS, markup=False)
    limited.wait_ready()
    scenes = (
        Scene("no limit, alone", free, 1.0, (POLITE,)),
        Scene("no limit", free, 1.0, (POLITE, GREEDY)),
        Scene("with the limit", limited, 2.5, (POLITE, GREEDY)),
    )
    done: list[Row] = []
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def draw(rows: list[Row]) -> None:
            live.update(_table([*done, *rows]), refresh=True)

        for scene in scenes:
            done.extend(scene.play(stop, draw))
    console.print(_table(done))
    console.print("", _counters(limited.tally()["limits"][NAME]), sep="\n")


def _table(rows: Iterable[Row]) -> Table:
    table = Table("", "client id")
    for title in ("tries", "gets", "latency p50", "p99"):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def _counters(limit: dict[str, Any]) -> Table:
    """Return what the proxy itself says of the limit."""
    figures = Table.grid(padding=(0, 2))
    figures.add_row("limit", f"{NAME}: {limit['asked']:,} requests, {limit['throttled']:,} of them throttled")
    seconds = limit["top"]  # by client id, of those that were held up at all
    held = [f"{name} for {seconds[name]:.1f} s" if name in seconds else f"{name} never" for name, _ in (POLITE, GREEDY)]
    figures.add_row("held up", ", ".join(held))
    return figures


class Scene(NamedTuple):
    """Producers side by side for some seconds."""

    title: str
    proxy: "Proxy"
    seconds: float
    cast: tuple[tuple[str, int], ...]

    def play(self, stop: "Stop", draw: Callable[[list[Row]], object]) -> list[Row]:
        """Let them send; ``draw`` is called now and then with what there is, which is returned in the end."""
        with ExitStack() as stack:
            senders = [stack.enter_context(Sender(self.proxy.address, *role, stop)) for role in self.cast]
            began = time.monotonic()
            elapsed = drawn = 0.0
            while elapsed < self.seconds:
                stop.check()
                for sender in senders:
                    sender.step(elapsed)
                # Drawing takes milliseconds: while the polite one waits for an answer it would count as latency.
                if elapsed > drawn + DRAW_SECONDS and not senders[0].waiting:
                    self.proxy.check()
                    draw(self._rows(senders, elapsed))
                    drawn = elapsed
                time.sleep(STEP_SECONDS)
                elapsed = time.monotonic() - began
            return self._rows(senders, elapsed)

    def _rows(self, senders: "list[Sender]", elapsed: float) -> list[Row]:
        return [("" if number else self.title, *sender.row(elapsed)) for number, sender in enumerate(senders)]


class Sender:
    """An ordinary producer with a client id, which goes on at its pace whatever becomes of its records."""

    def __init__(self, address: str, client_id: str, pace: int, stop: "Stop") -> None:
        one_a_request = {"batch.num.messages": 1, "linger.ms": 0}
        self._producer: Any = Producer(
            {"bootstrap.servers": address, "client.id": client_id, "log_level": 0} | one_a_request
        )
        self._client_id, self._pace, self._stop = client_id, pace, stop
        self._tried = 0
        self._latencies: list[float] = []
        self._error: object = None

    def __enter__(self) -> Self:
        """Connect, with a record that does not count."""
        self._producer.produce(TOPIC, bytes(RECORD_BYTES), partition=0)
        self._stop.wait_for(lambda: not self._producer.flush(POLL_SECONDS), CONNECT_SECONDS, "a producer to connect")
        return self

    def __exit__(self, *_: object) -> None:
        """Forget what is on its way, and disconnect."""
        self._producer.purge()
        self._producer.close()

    @property
    def waiting(self) -> bool:
        """Records of its are on their way."""
        return len(self._latencies) < self._tried

    def step(self, elapsed: float) -> None:
        """Send what is due so many seconds after the beginning, and see what was acknowledged."""
        while self._tried < self._pace * elapsed:
            self._producer.produce(TOPIC, bytes(RECORD_BYTES), partition=0, on_delivery=self._on_delivery)
            self._tried += 1
        self._producer.poll(0)
        if self._error is not None:
            raise KproxyError(f"a record was not delivered: {self._error}")

    def row(self, elapsed: float) -> Row:
        """Return its figures as the table has them."""
        got = sorted(self._latencies)
        rates = (f"{count / elapsed:,.0f}/s" for count in (self._tried, len(got)))
        waits = (f"{got[math.ceil(len(got) * share) - 1] * 1e3:,.1f} ms" if got else "" for share in (0.5, 0.99))
        return (self._client_id, *rates, *waits)

    def _on_delivery(self, error: object, message: Any) -> None:  # noqa: ANN401 - the library has no types
        if error is None:
            self._latencies.append(message.latency())
        else:
            self._error = error
