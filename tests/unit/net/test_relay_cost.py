"""What one read costs: Python calls and socket writes, however many frames it brings."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import cast

import pytest

from kproxy.core.directory import Directory
from kproxy.core.exchange import Front
from kproxy.core.offer import make_offer
from kproxy.core.tally import Tally
from kproxy.net.dial import Dialler
from kproxy.net.entry import Entry
from kproxy.net.finder import Finder
from kproxy.net.link import ClusterLink, ClusterSettings, Opened
from kproxy.net.relay import BrokerSide, ClientSide, Shared
from kproxy.net.routed import LaneSide, RoutedClientSide, Routing
from kproxy.net.tasks import Tasks
from kproxy.net.threshold import Guest
from kproxy.wire import frames
from kproxy.wire.apis import APIS
from kproxy.wire.apiversions import ApiVersionsAnswer
from kproxy.wire.cluster import Coordinator

HEARTBEAT, HEARTBEAT_VERSION = 12, 3
BODY = b"\x00\x01g\x00\x00\x00\x01\x00\x00\xff\xff"  # group "g", generation 1, member "", no group instance id
ANSWER = b"\x00\x00\x00\x00\x00\x00"  # not throttled, no error


class FakeTransport:
    """Counts what is written; everything else about it is quiet."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Count a write."""
        self.written.append(data)

    def get_extra_info(self, name: str) -> object:
        """Know an address, no socket."""
        return None if name == "socket" else ("127.0.0.1", 9092)

    def set_write_buffer_limits(self, high: int) -> None:
        """Buffer nothing."""

    def set_protocol(self, protocol: object) -> None:
        """Serve whoever asks."""

    def is_closing(self) -> bool:
        """Stay open."""
        return False


class FakeConversation:
    """A broker connection that has been opened."""

    def __init__(self) -> None:
        self.transport = FakeTransport()


async def not_dialled(_client: ClientSide) -> Opened:
    """There is a broker connection already."""
    raise AssertionError("dialled")


def shared(link: ClusterLink) -> Shared:
    """Everything that a connection of a listener needs."""
    table = ApiVersionsAnswer(ranges={key: (api.min_version, api.max_version) for key, api in APIS.items()})
    front = Front(make_offer([table]), Tally())
    return Shared(
        name="l",
        front=front,
        link=link,
        entry=Entry("l", front, Tasks()),
        advertise_for=lambda _host: lambda _n, h, p: (h, p),
        open_broker=not_dialled,
        mechanism_for=lambda _identity: None,
    )


def connected(addressing: str) -> tuple[ClientSide, BrokerSide, FakeTransport, FakeTransport]:
    """Make a client's connection with a broker behind it, on transports that count."""
    link = ClusterLink(ClusterSettings("c", (("127.0.0.1", 1),)), lambda _change: None)
    opened = Opened(cast("object", FakeConversation()), 0, 0, None, ("b", 1), None)  # type: ignore[arg-type]
    to_client = FakeTransport()
    common = shared(link)
    if addressing == "ports":
        client = ClientSide(common, Guest("127.0.0.1", 5), 1)
        client.connection_made(to_client)  # type: ignore[arg-type]
        broker = BrokerSide(client, opened)
    else:
        directory = Directory()
        directory.learn_coordinators(0, ["g"], [Coordinator(None, 1, "b", 1, 0)])
        routing = Routing(directory, Finder(link, directory), Dialler(link, Tally()))
        client = RoutedClientSide(common, Guest("127.0.0.1", 5), routing)
        client.connection_made(to_client)  # type: ignore[arg-type]
        broker = LaneSide(client, opened, 1)
        client._lane = client.exchange.lane = 1
    client._attach(broker)
    return client, broker, to_client, cast("FakeTransport", broker.transport)


def requests(first_id: int, count: int) -> bytes:
    """Write requests of the plainest kind."""
    ids = range(first_id, first_id + count)
    return b"".join(frames.request(HEARTBEAT, HEARTBEAT_VERSION, number, "c", BODY) for number in ids)


def answers(first_id: int, count: int) -> bytes:
    """Write the answers to ``requests``."""
    ids = range(first_id, first_id + count)
    return b"".join(frames.response(number, HEARTBEAT, HEARTBEAT_VERSION, ANSWER) for number in ids)


def python_calls(work: Callable[[], None]) -> int:
    """Count the Python functions that ``work`` enters, itself left out."""
    calls = 0

    def profile(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls - 1


@pytest.mark.parametrize("addressing", ["ports", "single"])
async def test_calls_per_read(addressing: str) -> None:
    """A read of many plain frames enters as few Python functions as a read of one: a frame never costs a call."""
    client, broker, _, _ = connected(addressing)
    client.data_received(requests(0, 2))
    broker.data_received(answers(0, 2))
    one, many = requests(2, 1), requests(3, 64)
    answer, more = answers(2, 1), answers(3, 64)
    assert python_calls(lambda: client.data_received(one)) == python_calls(lambda: client.data_received(many))
    assert python_calls(lambda: broker.data_received(answer)) == python_calls(lambda: broker.data_received(more))
    # data_received and the exchange; single has a method between them, and the test's transport counts as one.
    again, last = requests(67, 1), answers(67, 1)
    assert python_calls(lambda: client.data_received(again)) <= 4
    assert python_calls(lambda: broker.data_received(last)) <= 5


@pytest.mark.parametrize("addressing", ["ports", "single"])
async def test_one_write_per_read(addressing: str) -> None:
    """What one read brings leaves in one write, on both sides, at any number of frames and wherever they are cut."""
    client, broker, to_client, to_broker = connected(addressing)
    asked, answered = requests(0, 40), answers(0, 40)
    client.data_received(asked[:30])  # the first frame and a little more: its broker has been found
    for start in range(30, len(asked), 97):
        before = len(to_broker.written)
        client.data_received(asked[start : start + 97])
        assert len(to_broker.written) == before + 1
    assert b"".join(to_broker.written) == asked
    for start in range(0, len(answered), 61):
        before = len(to_client.written)
        broker.data_received(answered[start : start + 61])
        assert len(to_client.written) == before + 1
    assert b"".join(to_client.written) == answered
