"""What a test can tell a FakeBroker to do with a request: answer, or fail in one of the ways that brokers do.

A play is an answer's body, a fault, or a function of the request that returns one of these; faults wrap plays::

    HEARTBEAT_OK = bytes(6)
    Delay(0.5, HEARTBEAT_OK)          # the answer, half a second late
    Cut(10, DEFAULT)                  # ten bytes of what a broker would answer, then the end of the connection
    lambda request: None              # nothing: the request wanted no answer
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum


@dataclass(frozen=True)
class Request:
    """One request as it came: its header's fields, its body, and the number of its connection (from 1)."""

    key: int
    version: int
    correlation_id: int
    client_id: str | None
    body: bytes = field(repr=False)
    connection: int


class Fault(Enum):
    """What a broker can do instead of answering."""

    DROP = "never answer, and read on"
    CLOSE = "close the connection"
    DEFAULT = "answer as if nothing had been told"


DROP, CLOSE, DEFAULT = Fault.DROP, Fault.CLOSE, Fault.DEFAULT


@dataclass(frozen=True)
class Delay:
    """Play it after so many seconds; later requests of the connection wait too, as on a broker."""

    delay_seconds: float
    play: "Play"


@dataclass(frozen=True)
class Hold:
    """Play it when the event is set."""

    until: asyncio.Event
    play: "Play"


@dataclass(frozen=True)
class Cut:
    """Send so many bytes of the answer's frame, size prefix included, then close the connection."""

    after_bytes: int
    play: "Play"


@dataclass(frozen=True)
class Raw:
    """Send these bytes as they are, without size or header: garbage, or an answer to something else."""

    data: bytes


Answer = bytes | Fault | Delay | Hold | Cut | Raw
Play = Answer | Callable[[Request], "Answer | None"]
"""A function may return None: the request wants no answer (Produce with acks=0)."""
