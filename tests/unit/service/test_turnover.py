"""The supervisor's two phases, against workers' ends of real channels that do what a test says."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from kproxy.config.load import load
from kproxy.config.model import Config
from kproxy.errors import KproxyError
from kproxy.service import turnover
from kproxy.service.channel import Channel, Message
from kproxy.service.desk import Desk
from kproxy.service.memory import unpacked
from kproxy.service.post import Post
from kproxy.service.supervisor import bound_socket
from kproxy.service.turnover import Place, Rebinding, Turnover
from kproxy.service.worker import Order
from kproxy.testing.ports import free_port_block


def config(**listeners: str) -> Config:
    """Return a configuration with these listeners, each by the YAML of its options."""
    told = ", ".join(f"{name}: {{{options}}}" for name, options in listeners.items())
    return load(f"{{clusters: {{main: {{bootstrap: [kafka1:9092]}}}}, listeners: {{{told}}}}}").config


OLD = config(public="bind: 127.0.0.1:9092")
NEW = config(public="bind: 127.0.0.1:9092, idle_timeout: 5m")

Answer = Callable[[Message], Message | None]


def agrees(message: Message) -> Message | None:
    """Answer as a worker that can do everything."""
    if "prepare" in message:
        return {"prepared": message["prepare"]}
    return {"applied": message["apply"], "listeners": [["public", "here:1"]]} if "apply" in message else None


def refuses(message: Message) -> Message | None:
    """Answer as one that cannot."""
    return {"prepared": message["prepare"], "error": "no such file"} if "prepare" in message else None


def prepares_only(message: Message) -> Message | None:
    """Answer as one that hangs while it applies."""
    return agrees(message) if "prepare" in message else None


def silent(_: Message) -> Message | None:
    """Answer as one that hangs."""
    return None


class Stage:
    """Posts with one worker's end each."""

    def __init__(self, *answers: Answer) -> None:
        self.posts = [Seat(number, answer, self) for number, answer in enumerate(answers)]
        self.turnover = Turnover(self.posts, lambda post, new: Order(new, "json", "info", number=post.number))
        self.log: list[str] = []

    def part(self, name: str, error: str | None = None) -> Callable[[], turnover.Staged]:
        """Return a part of the supervisor's that notes what it was told; with ``error`` it cannot be made ready."""

        def make() -> turnover.Staged:
            if error is not None:
                raise KproxyError(error)
            return Part(name, self.log)

        return make

    async def change(self, *parts: Callable[[], turnover.Staged], may: Callable[[], None] = lambda: None) -> object:
        """Turn to the new configuration."""
        return await self.turnover.change(NEW, parts, may)


class Part:
    """See Stage."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def commit(self) -> None:
        """Note it."""
        self.log.append(f"{self.name} commits")

    def undo(self) -> None:
        """Note it."""
        self.log.append(f"{self.name} is undone")


class Seat(Post):
    """A post whose worker lives in this process."""

    def __init__(self, number: int, answer: Answer, stage: Stage) -> None:
        super().__init__(number, lambda *_: None, Desk())
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel = Channel(ours, lambda message, _: self.told(stage, message))
        self.worker = Channel(theirs, self.hears)
        self.answer = answer
        self.heard_of: list[str] = []
        self.orders: list[Order] = []
        self.replaced = 0

    def told(self, stage: Stage, message: Message) -> None:
        """Take a worker's word, as the supervisor does."""
        assert stage.turnover.heard(self, message)

    def hears(self, message: Message, descriptors: list[int]) -> None:
        """Take the supervisor's, as a worker does."""
        self.heard_of += list(message)
        self.orders += map(unpacked, descriptors)
        if (answer := self.answer(message)) is not None:
            self.worker.send(answer)

    def replace(self) -> None:
        """Note it."""
        self.replaced += 1


@pytest.fixture
async def stage() -> AsyncIterator[Callable[..., Stage]]:
    """Make stages, and close what they have open."""
    made: list[Stage] = []

    def make(*answers: Answer) -> Stage:
        made.append(Stage(*answers))
        return made[-1]

    yield make
    for post in (post for one in made for post in one.posts):
        post.worker.close()
        if post.channel is not None:
            post.channel.close()


async def test_all_agree(stage: Callable[..., Stage]) -> None:
    """Each worker gets an order of its own, the supervisor's parts change once all are ready, and then all apply it."""
    here = stage(agrees, agrees)
    assert await here.change(here.part("sockets"), here.part("admin")) == [("public", "here:1")]
    assert here.log == ["sockets commits", "admin commits"]
    for post in here.posts:
        assert post.heard_of == ["prepare", "apply"]
        assert [(order.number, order.config) for order in post.orders] == [(post.number, NEW)]
        assert post.replaced == 0


async def heard(post: Seat, *words: str) -> None:
    """Wait until a worker has heard this."""
    deadline = asyncio.get_running_loop().time() + 5
    while post.heard_of != list(words):
        assert asyncio.get_running_loop().time() < deadline, post.heard_of
        await asyncio.sleep(0.001)


async def test_one_refuses(stage: Callable[..., Stage]) -> None:
    """What one worker refuses, none does: all are told to forget it, and the supervisor's parts are undone."""
    here = stage(agrees, refuses)
    with pytest.raises(KproxyError, match="no such file"):
        await here.change(here.part("sockets"), here.part("admin"))
    assert here.log == ["admin is undone", "sockets is undone"]
    for post in here.posts:
        await heard(post, "prepare", "forget")
        assert post.replaced == 0


async def test_a_part_of_the_supervisor_cannot(stage: Callable[..., Stage]) -> None:
    """When an address cannot be had no worker is asked at all."""
    here = stage(agrees)
    with pytest.raises(KproxyError, match="in use"):
        await here.change(here.part("sockets"), here.part("admin", "in use"))
    assert here.log == ["sockets is undone"]
    await heard(here.posts[0], "forget")


async def test_too_late(stage: Callable[..., Stage]) -> None:
    """A drain that began while workers got ready has precedence."""
    here = stage(agrees)

    def may() -> None:
        raise KproxyError("about to stop")

    with pytest.raises(KproxyError, match="about to stop"):
        await here.change(here.part("sockets"), may=may)
    await heard(here.posts[0], "prepare", "forget")


async def test_one_is_not_ready_in_time(stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that hangs is a refusal, within a bound; its late answer is no answer to the next question."""
    monkeypatch.setattr(turnover, "PREPARE_SECONDS", 0.05)
    here = stage(silent)
    with pytest.raises(KproxyError, match="worker 0 did not get ready within"):
        await here.change()
    here.posts[0].answer = agrees
    here.posts[0].worker.send({"prepared": 1, "error": "late"})
    monkeypatch.setattr(turnover, "PREPARE_SECONDS", 5.0)
    assert await here.change() == [("public", "here:1")]


async def test_one_does_not_apply(stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that does not tell that it applied what all had agreed to is replaced: nothing stays half-old."""
    monkeypatch.setattr(turnover, "APPLY_SECONDS", 0.05)
    here = stage(agrees, prepares_only)
    assert await here.change(here.part("sockets")) == [("public", "here:1")]
    assert here.log == ["sockets commits"]
    assert [post.replaced for post in here.posts] == [0, 1]


async def test_one_dies_amid_it(stage: Callable[..., Stage]) -> None:
    """A worker that dies is not waited for; one that began in its place meanwhile, by the old order, is replaced."""
    here = stage(agrees, silent, silent)
    change = asyncio.ensure_future(here.change())  # noqa: TID251
    await heard(here.posts[2], "prepare")
    dead, reborn = here.posts[1], here.posts[2]
    assert dead.channel is not None
    dead.channel.close()
    dead.channel = None  # its next one begins with the order of the moment
    here.turnover.lost(dead)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    assert reborn.channel is not None
    reborn.channel.close()
    reborn.channel = Channel(ours, lambda *_: None)
    here.turnover.lost(reborn)
    assert await change == [("public", "here:1")]
    assert [post.replaced for post in here.posts] == [0, 0, 1]
    theirs.close()


async def test_nobody_is_there(stage: Callable[..., Stage]) -> None:
    """While all workers are between two lives a change is made all the same; they begin with it."""
    here = stage(agrees)
    assert here.posts[0].channel is not None
    here.posts[0].channel.close()
    here.posts[0].channel = None
    assert await here.change(here.part("sockets")) == []
    assert here.log == ["sockets commits"]


def sockets_of(old: Config) -> dict[Place, socket.socket]:
    """Bind what a supervisor has for a configuration."""
    return {
        (name, None): bound_socket(listener.bind.host, listener.bind.port) for name, listener in old.listeners.items()
    }


def test_sockets_that_stay() -> None:
    """A listener keeps its sockets where their addresses stay; those of brokers whose ports move are given back."""
    port = free_port_block(8)
    before = config(public=f"bind: 127.0.0.1:{port}")
    after = config(public=f"bind: 127.0.0.1:{port}, advertise: kafka.example.com:9092, broker_ports: {{1: {port + 7}}}")
    sockets = sockets_of(before)
    for node_id in (0, 1):
        sockets["public", node_id] = bound_socket("127.0.0.1", port + 1 + node_id)
    kept = sockets["public", None], sockets["public", 0]
    moved = sockets["public", 1]
    users: dict[Place, set[int]] = {place: {0} for place in sockets}
    Rebinding(sockets, users, before, after, bound_socket).commit()
    assert tuple(sockets.values()) == kept
    assert moved.fileno() == -1
    assert set(users) == {("public", None), ("public", 0)}
    for sock in kept:
        sock.close()


def test_sockets_that_change_hands() -> None:
    """A listener of another name at the same address gets the same socket, so that nobody is refused in between."""
    port = free_port_block(2)
    before, after = config(public=f"bind: 127.0.0.1:{port}"), config(inside=f"bind: 127.0.0.1:{port}")
    sockets = sockets_of(before)
    sockets["public", None].listen()
    Rebinding(sockets, {}, before, after, bound_socket).commit()
    assert list(sockets) == [("inside", None)]
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    assert sockets["inside", None].getsockname() == ("127.0.0.1", port)
    sockets["inside", None].close()


@pytest.mark.parametrize(("was", "becomes"), [("127.0.0.1", "0.0.0.0"), ("0.0.0.0", "127.0.0.1")])
def test_a_socket_in_its_own_way(was: str, becomes: str) -> None:
    """A listener's port at another host can be had while the old one has it, which nobody else can, then or later."""
    port = free_port_block(1)
    before, after = (
        config(public=f"bind: {host}:{port}, advertise: 127.0.0.1:{port}, addressing: single")
        for host in (was, becomes)
    )
    sockets = sockets_of(before)
    (old,) = sockets.values()
    old.listen()
    Rebinding(sockets, {}, before, after, bound_socket).undo()
    assert list(sockets.values()) == [old]
    rebinding = Rebinding(sockets, {}, before, after, bound_socket)
    with pytest.raises(OSError, match="Address already in use"):
        bound_socket(becomes, port)
    rebinding.commit()
    with pytest.raises(OSError, match="Address already in use"):
        bound_socket(was, port)
    assert old.fileno() == -1
    (new,) = sockets.values()
    assert new.getsockname() == (becomes, port)
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    assert new.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0
    new.close()


def test_the_port_of_an_own_broker() -> None:
    """A listener that moves to where one of its brokers was takes over the socket."""
    port = free_port_block(4)
    before, after = config(public=f"bind: 127.0.0.1:{port}"), config(public=f"bind: 127.0.0.1:{port + 2}")
    sockets = sockets_of(before)
    broker = sockets["public", 1] = bound_socket("127.0.0.1", port + 2)
    broker.listen()
    Rebinding(sockets, {}, before, after, bound_socket).commit()
    assert list(sockets) == [("public", None)]
    socket.create_connection(("127.0.0.1", port + 2), timeout=5).close()
    sockets["public", None].close()


def test_an_address_that_cannot_be_had() -> None:
    """When one of two new addresses is taken the other is given back, and the error names the listener."""
    port = free_port_block(3)
    before = config(public=f"bind: 127.0.0.1:{port}")
    after = config(
        public=f"bind: 127.0.0.1:{port + 1}, addressing: single", more=f"bind: 127.0.0.1:{port + 2}, addressing: single"
    )
    sockets = sockets_of(before)
    with bound_socket("127.0.0.1", port + 2) as taken:
        taken.listen()
        with pytest.raises(KproxyError, match=f"listener more: 127.0.0.1:{port + 2}: address already in use"):
            Rebinding(sockets, {}, before, after, bound_socket)
    bound_socket("127.0.0.1", port + 1).close()
    assert list(sockets) == [("public", None)]
    sockets["public", None].close()
