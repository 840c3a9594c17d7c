"""Client connections under access rules, on plain bytes: what the shell of Guarded does.

A Guard is one connection to a broker that answers when it is told to. What the broker got and the client got is kept,
frame by frame, and decoded by another codec::

    guard = Guard(access(allow("orders", Operation.WRITE)))
    guard.send(request(0, 9, 7, tree))
    guard.broker_got, guard.client_got
"""

from collections.abc import Callable
from typing import Any

from conversations import OFFER, advertise
from oracles import KAFKA_PYTHON, KIO, KafkaPython, Kind, Kio, Tree

from kproxy.core.access import Access, Denial, Operation, Permissions, Resource, Rule
from kproxy.core.directory import Directory
from kproxy.core.exchange import Front
from kproxy.core.guarded import (
    GuardedExchange,
    GuardedMeteredExchange,
    GuardedMeteredRoutedExchange,
    GuardedRoutedExchange,
)
from kproxy.core.limits import Client, Concurrency, LeakyBucket, Limits, Unit
from kproxy.core.limits import Rule as Limit
from kproxy.core.tally import Tally
from kproxy.wire import frames

EVERYTHING = Rule(("*",), frozenset(Operation), None, "*", True)
ALICE = "User:alice"


def allow(pattern: str, *operations: Operation, resource: Resource | None = Resource.TOPIC) -> Rule:
    """Allow everybody something."""
    return Rule(("*",), frozenset(operations or Operation), resource, pattern, True)


def deny(pattern: str, *operations: Operation, resource: Resource | None = Resource.TOPIC) -> Rule:
    """Deny everybody something."""
    return Rule(("*",), frozenset(operations or Operation), resource, pattern, False)


def oracle(key: int, version: int) -> Kio | KafkaPython:
    """Return a codec that knows this version."""
    return next(each for each in (KIO, KAFKA_PYTHON) if version in each.versions(key))


def request(key: int, version: int, correlation_id: int, tree: Tree, client_id: str = "c") -> bytes:
    """Write a request by another codec."""
    body = oracle(key, version).encode(key, version, "request", tree)
    return frames.request(key, version, correlation_id, client_id, body)


def answer(key: int, version: int, correlation_id: int, tree: Tree) -> bytes:
    """Write an answer by another codec."""
    return frames.response(correlation_id, key, version, oracle(key, version).encode(key, version, "response", tree))


def split(data: bytes) -> list[bytes]:
    """Cut a stream into its frames."""
    found = []
    while data:
        size = 4 + int.from_bytes(data[:4])
        assert len(data) >= size
        found.append(data[:size])
        data = data[size:]
    return found


def body_of(key: int, version: int, frame: bytes, kind: Kind) -> Tree:
    """Read a frame's body by another codec."""
    if kind == "request":
        at = frames.request_body_at(frame, 4, len(frame))
    else:
        at = frames.response_body_at(frame, 4, key, version)
    return oracle(key, version).decode(key, version, kind, frame[at:])


def errors(tree: Any) -> set[Any]:
    """Return all error codes that an answer holds."""
    if isinstance(tree, dict):
        codes = {getattr(value, "value", value) for name, value in tree.items() if name.endswith("error_code")}
        return codes.union(*map(errors, tree.values()))
    return set[Any]().union(*map(errors, tree)) if isinstance(tree, list) else set()


class Guard:
    """See the module. ``kinds``: single addressing, limits."""

    def __init__(
        self, access: Access, *, routed: bool = False, metered: bool = False, slots: int = 0, principal: str = ALICE
    ) -> None:
        self.told: list[Denial] = []
        access.tell = self.told.append
        self.tally = Tally()
        self.closed = 0
        self.front = Front(OFFER, self.tally)
        self.directory = Directory()
        self.limits: Limits | None = None
        kinds: dict[tuple[bool, bool], Callable[..., Any]] = {
            (False, False): GuardedExchange,
            (False, True): GuardedMeteredExchange,
            (True, False): GuardedRoutedExchange,
            (True, True): GuardedMeteredRoutedExchange,
        }
        arguments = (self.front, advertise, self.directory) if routed else (self.front, advertise)
        exchange: Any = kinds[routed, metered](*arguments)
        self.exchange = exchange
        self.exchange.guard(Permissions(access, principal, frozenset({"team-a"})), self._close)
        if metered:
            much: Any = Concurrency(slots, 100, True) if slots else LeakyBucket(1e9, 1e9, False, Unit.REQUESTS)
            self.limits = Limits([Limit("much", much)])
            self.exchange.meter(self.limits, Client("l", "10.0.0.1", principal, ""), lambda: 1000.0, lambda: None)
        if routed:
            self.exchange.reached(1)
        self.to_broker = b""
        self.to_client = b""

    def _close(self) -> None:
        self.closed += 1

    def send(self, data: bytes) -> bytes:
        """Let the client send something; return what the broker gets of it."""
        out: bytes = self.exchange.from_client(data)
        self.to_broker += out
        self._replies()
        return out

    def reply(self, data: bytes) -> bytes:
        """Let the broker send something; return what the client gets of it."""
        out: bytes = self.exchange.from_broker(data)
        self.to_client += out
        self._replies()
        return out

    def _replies(self) -> None:
        self.to_client += b"".join(self.exchange.replies)
        self.exchange.replies.clear()

    def proceed(self) -> bytes:
        """Do what is pending: the only broker has it all."""
        out: bytes = self.exchange.proceed(give_up=True)
        self.to_broker += out
        self._replies()
        return out

    @property
    def client_got(self) -> list[bytes]:
        """Whole frames."""
        return split(self.to_client)

    @property
    def broker_got(self) -> list[bytes]:
        """Whole frames."""
        return split(self.to_broker)
