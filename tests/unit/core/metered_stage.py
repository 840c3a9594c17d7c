"""Client connections under limits, on plain bytes and a clock that is moved by hand: what Exchange's shell does.

A Wire is one connection. What went to the broker and to the client is kept; ``until`` moves the clock, and each
connection goes on when its time has come or when it was woken, as in the gate::

    stage = Stage(bucket("two", rate=2))
    wire = stage.wire("alice")
    wire.send(fetch(1) + fetch(2))
    wire.broker_got                        # [1]: correlation ids
    stage.until(stage.clock.now + 0.5)
    wire.broker_got                        # [1, 2]
"""

from collections.abc import Callable, Sequence

from conversations import OFFER, advertise

from kproxy.core.directory import Directory
from kproxy.core.exchange import Front
from kproxy.core.limits import (
    Action,
    Client,
    Concurrency,
    Connections,
    FixedWindow,
    LeakyBucket,
    Limit,
    Limits,
    Rule,
    Unit,
)
from kproxy.core.metered import Metered, MeteredExchange, MeteredRoutedExchange
from kproxy.core.offer import Offer
from kproxy.core.tally import Tally
from kproxy.wire import frames
from kproxy.wire.apis import ApiKey
from kproxy.wire.primitives import INT16, INT32, INT64, put_compact_string, put_string

START = 1000.0


def bucket(name: str = "limit", action: Action = Action.DELAY, unit: Unit = Unit.REQUESTS, **more: object) -> Rule:
    """Make a leaky bucket; ``more`` is the bucket's or the rule's."""
    return _rule(LeakyBucket, name, action, {"unit": unit, "rate": 1.0, "burst": 0.0, **more})


def window(name: str = "limit", action: Action = Action.DELAY, unit: Unit = Unit.REQUESTS, **more: object) -> Rule:
    """Make a fixed window."""
    return _rule(FixedWindow, name, action, {"unit": unit, "count": 1, "window_seconds": 1.0, **more})


def slots(name: str = "limit", action: Action = Action.DELAY, **more: object) -> Rule:
    """Make a limit on concurrency."""
    return _rule(Concurrency, name, action, {"max_in_flight": 1, **more})


def doors(name: str = "limit", **more: object) -> Rule:
    """Make a limit on connections."""
    return _rule(Connections, name, Action.CLOSE, more)


def _rule(kind: type, name: str, action: Action, more: dict[str, object]) -> Rule:
    of_kind = {field: more.pop(field) for field in list(more) if field in kind.__dataclass_fields__}  # type: ignore[attr-defined]
    return Rule(name, kind(**of_kind), action=action, **more)  # type: ignore[arg-type]


# Requests and answers.


def fetch(number: int, *, wait_ms: int = 0, version: int = 11, client_id: str | None = "c", size: int = 40) -> bytes:
    """Write a Fetch request that is answered at once, or may wait at the broker."""
    replica = b"" if version >= 15 else INT32.pack(-1)
    body = replica + INT32.pack(wait_ms) + INT32.pack(1) + bytes(size)
    return frames.request(ApiKey.FETCH, version, number, client_id, body)


def fetched(number: int, throttle_ms: int = 0, size: int = 30) -> bytes:
    """Write the answer to ``fetch``."""
    return frames.response(number, ApiKey.FETCH, 11, INT32.pack(throttle_ms) + bytes(size))


def heartbeat(number: int, client_id: str = "c") -> bytes:
    """Write a Heartbeat request v3."""
    body = put_string("g") + INT32.pack(1) + put_string("m") + put_string(None)
    return frames.request(ApiKey.HEARTBEAT, 3, number, client_id, body)


def produce(number: int, acks: int = -1, version: int = 11, records: bytes = b"r" * 20) -> bytes:
    """Write a Produce request for partition 0 of topic "t", of v3 to v12."""
    start = (b"\x00" if version >= 9 else put_string(None)) + INT16.pack(acks) + INT32.pack(1000)
    if version >= 9:
        partition = INT32.pack(0) + bytes([len(records) + 1]) + records + b"\x00"
        body = start + b"\x02" + put_compact_string("t") + b"\x02" + partition + b"\x00\x00"
    else:
        partition = INT32.pack(0) + INT32.pack(len(records)) + records
        body = start + INT32.pack(1) + put_string("t") + INT32.pack(1) + partition
    return frames.request(ApiKey.PRODUCE, version, number, "c", body)


def produced(number: int, version: int = 11, throttle_ms: int = 0) -> bytes:
    """Write the answer to ``produce``."""
    partition = (
        INT32.pack(0) + INT16.pack(0) + INT64.pack(7) + INT64.pack(-1) + (INT64.pack(0) if version >= 5 else b"")
    )
    if version >= 9:
        partition += b"\x01\x00\x00"
        body = b"\x02" + put_compact_string("t") + b"\x02" + partition + b"\x00" + INT32.pack(throttle_ms) + b"\x00"
    else:
        partition += INT32.pack(0) + put_string(None) if version == 8 else b""
        body = INT32.pack(1) + put_string("t") + INT32.pack(1) + partition + INT32.pack(throttle_ms)
    return frames.response(number, ApiKey.PRODUCE, version, body)


def split(stream: bytes) -> list[bytes]:
    """Cut a stream into its frames; all of it must be there."""
    found = []
    while stream:
        end = 4 + INT32.unpack_from(stream)[0]
        assert len(stream) >= end
        found.append(stream[:end])
        stream = stream[end:]
    return found


def whole_request_ids(stream: bytes) -> list[int]:
    """List the correlation ids of the requests that are there to their end."""
    found = []
    pos = 0
    while len(stream) >= pos + 4 and len(stream) >= (end := pos + 4 + INT32.unpack_from(stream, pos)[0]):
        found.append(INT32.unpack_from(stream, pos + 8)[0])
        pos = end
    return found


def told(stream: bytes) -> list[tuple[int, int]]:
    """List correlation id and throttle time of answers to ``fetch`` or ``heartbeat``."""
    return [(INT32.unpack_from(frame, 4)[0], INT32.unpack_from(frame, 8)[0]) for frame in split(stream)]


# Connections.


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


class Wire:
    """One connection, with everything that passes it."""

    def __init__(self, stage: "Stage", exchange: Metered, client_ip: str) -> None:
        self.stage = stage
        self.exchange = exchange
        self.to_broker = b""
        self.to_client = b""
        self.times: list[tuple[int, float]] = []
        """Correlation ids of what the broker has got, and when: seconds since the start. Of whole requests."""
        self.broker: Callable[[int], bytes] | None = None
        """What answers every request at once."""
        self.woken = False
        exchange.meter(
            stage.limits,
            Client("public", client_ip, "User:ANONYMOUS", ""),
            stage.clock,
            lambda: setattr(self, "woken", True),
        )

    def send(self, data: bytes) -> None:
        """Let the client send something."""
        self._upstream(self.exchange.from_client(data))

    def answer(self, data: bytes) -> None:
        """Let the broker send something."""
        self.to_client += self.exchange.from_broker(data)

    def go_on_in_time(self) -> bool:
        """Go on if it is time to; tell whether it was."""
        exchange = self.exchange
        due = exchange.waits and exchange.refused_by is None and exchange.wake_at <= self.stage.clock.now
        self.woken = False
        if due:
            self._upstream(exchange.go_on())
        return due

    def flush(self) -> None:
        """Let through what is held: the connection ends."""
        self._upstream(self.exchange.flush())

    def close(self) -> None:
        """End the connection."""
        self.exchange.leave()
        self.stage.wires.remove(self)

    def _upstream(self, out: bytes) -> None:
        before = len(self.times)
        self.to_broker += out
        self.to_client += b"".join(self.exchange.replies)
        self.exchange.replies.clear()
        now = round(self.stage.clock.now - START, 6)
        self.times += [(number, now) for number in whole_request_ids(self.to_broker)[before:]]
        if self.broker is not None:
            self.answer(b"".join(self.broker(number) for number, _ in self.times[before:]))

    @property
    def broker_got(self) -> list[int]:
        """The correlation ids of what the broker has got, as whole requests."""
        return [number for number, _ in self.times]

    @property
    def client_got(self) -> list[tuple[int, int]]:
        """Correlation id and throttle time of the answers that the client has got."""
        return told(self.to_client)


class Stage:
    """Limits, a clock, and the connections under them."""

    def __init__(self, *rules: Rule, offer: Offer = OFFER) -> None:
        self.clock = Clock()
        self.limits = Limits(rules)
        self.wires: list[Wire] = []
        self.tally = Tally()
        self._front = Front(offer, self.tally)

    @property
    def limit(self) -> Limit:
        """The first of the limits."""
        return self.limits.limits[0]

    def wire(self, client_ip: str = "10.0.0.1") -> Wire:
        """Connect a client, with one broker behind it."""
        return self._connect(MeteredExchange(self._front, advertise), client_ip)

    def routed_wire(self, directory: Directory) -> Wire:
        """Connect a client, with every broker behind it; 1 is connected."""
        exchange = MeteredRoutedExchange(self._front, advertise, directory)
        exchange.reached(1)
        return self._connect(exchange, "10.0.0.1")

    def _connect(self, exchange: Metered, client_ip: str) -> Wire:
        self.wires.append(Wire(self, exchange, client_ip))
        return self.wires[-1]

    def until(self, when: float) -> None:
        """Move the clock; whoever waits goes on in its time."""
        while True:
            while any(wire.go_on_in_time() for wire in self.wires):
                pass
            due = [
                wire.exchange.wake_at for wire in self.wires if wire.exchange.waits and wire.exchange.refused_by is None
            ]
            if not due or min(due) > when:
                break
            self.clock.now = min(due)
        self.clock.now = when

    def after(self, seconds: float) -> None:
        """Move the clock by so much."""
        self.until(self.clock.now + seconds)

    def check_idle(self) -> None:
        """Nobody holds anything any more."""
        for limit in self.limits.limits:
            for _, meter in limit.meters():
                assert meter.users == 0
                assert not getattr(meter, "flying", 0)
                assert not getattr(meter, "waiters", None)
                assert not getattr(meter, "opened", 0)


def in_pieces(data: bytes, size: int) -> Sequence[bytes]:
    """Cut bytes into pieces."""
    return [data[start : start + size] for start in range(0, len(data), size)]
