"""The ways in for another configuration: read, planned, carried out or refused, counted; the file watched."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kproxy.config.diff import Plan
from kproxy.config.flags import Flags
from kproxy.config.load import load
from kproxy.config.model import Config
from kproxy.errors import ConfigError, KproxyError
from kproxy.service import reloads
from kproxy.service.reloads import Origin, Reloads

TEXT = "{clusters: {main: {bootstrap: [kafka1:9092]}}, listeners: {public: {bind: 127.0.0.1:9092}}}"
OTHER = TEXT[:-1] + ", drain_timeout: 5s}"
BROKEN = TEXT.replace("bind", "bin")
LOOK_SECONDS = 0.01


class World:
    """What a supervisor has, and what it was told to change."""

    def __init__(self, path: Path | None, flags: Flags | None = None) -> None:
        self.config = load(TEXT).config
        self.plans: list[Plan] = []
        self.looks = 0
        self.error: str | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.reloads = Reloads(Origin(flags or Flags(), path), lambda: self.config, self.change, self.look)

    def look(self) -> None:
        """Look at files."""
        self.looks += 1

    async def change(self, config: Config, plan: Plan) -> None:
        """Carry a plan out."""
        await self.gate.wait()
        if self.error is not None:
            raise KproxyError(self.error)
        self.config = config
        self.plans.append(plan)

    @property
    def counts(self) -> tuple[int, int]:
        """How many succeeded, and how many were refused."""
        counts = self.reloads.counts()
        return counts["succeeded"], counts["refused"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a file that holds the configuration at work."""
    path = tmp_path / "kproxy.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


async def until(condition: Callable[[], object]) -> None:
    """Wait for something."""
    deadline = asyncio.get_running_loop().time() + 10
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.002)


async def test_a_file_is_applied(path: Path) -> None:
    """What the file holds now is planned against what is at work, carried out, told, and counted with its time."""
    world = World(path)
    assert world.reloads.counts() == {"succeeded": 0, "refused": 0, "changed_at": None}
    write(path, OTHER)
    told = await world.reloads.apply(None, "test")
    assert told["plan"] == ["changes drain_timeout (from now on)"]
    assert (told["applied"], told["warnings"], world.config.drain_timeout) == (True, [], 5.0)
    assert world.counts == (1, 0)
    assert world.reloads.changed_at is not None


async def test_nothing_to_do_is_no_change(path: Path) -> None:
    """The same configuration once more succeeds, with an empty plan, and nobody is told to change."""
    world = World(path)
    assert (await world.reloads.apply(None, "test"))["plan"] == []
    assert (world.plans, world.counts, world.looks) == ([], (1, 0), 1)  # certificates may be others


async def test_a_plan_alone_changes_nothing(path: Path) -> None:
    """A dry run tells the plan, and is neither carried out nor counted; mistakes are told as ever."""
    world = World(path)
    told = await world.reloads.plan(OTHER)
    assert (told["applied"], len(told["steps"])) == (False, 1)
    with pytest.raises(ConfigError, match="unknown key"):
        await world.reloads.plan(BROKEN)
    assert (world.plans, world.counts) == ([], (0, 0))


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (BROKEN, "did you mean 'bind'"),
        (TEXT[:-1] + ", workers: 3}", "restart kproxy"),
        (TEXT.replace("9092}", "9092, tls: {cert_file: no.pem, key_file: no.pem}}"), "no.pem"),
    ],
)
async def test_mistakes_are_refused(path: Path, text: str, wrong: str) -> None:
    """What is wrong in the text, takes a restart, or names a file that cannot be used is refused, and counted."""
    world = World(path)
    with pytest.raises(ConfigError, match=wrong):
        await world.reloads.apply(text, "test")
    assert (world.plans, world.counts, world.looks) == ([], (0, 1), 0)


async def test_workers_refuse(path: Path) -> None:
    """What cannot be carried out is refused, and the next one finds the configuration as it was."""
    world = World(path)
    world.error = "listener public: address already in use"
    with pytest.raises(KproxyError, match="already in use"):
        await world.reloads.apply(OTHER, "test")
    world.error = None
    assert (await world.reloads.apply(OTHER, "test"))["plan"]
    assert world.counts == (1, 1)


async def test_one_at_a_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second change waits for its turn, and is planned from what the first has made; a crowd is turned away."""
    monkeypatch.setattr(reloads, "WAITING_MAX", 2)
    world = World(path)
    world.gate.clear()
    both = asyncio.gather(world.reloads.apply(OTHER, "test"), world.reloads.apply(OTHER, "test"))
    await asyncio.sleep(0)
    with pytest.raises(KproxyError, match="too many"):
        await world.reloads.apply(OTHER, "test")
    world.gate.set()
    first, second = await both
    assert (len(first["plan"]), second["plan"]) == (1, [])


async def test_flags_win_again(path: Path) -> None:
    """The flags of the start are laid over what is read later, too; paths in a text begin where the file stands."""
    world = World(path, Flags(listen="127.0.0.1:9092", workers=1))
    (path.parent / "key").write_text("hunter2", encoding="utf-8")
    admin = ", workers: 5, admin: {bind: '127.0.0.1:9', api_key: {file: key}}}"
    world.config = load(TEXT[:-1] + ", admin: {bind: '127.0.0.1:9'}}").config
    told = await world.reloads.apply(TEXT.replace("9092}}", "9999}}")[:-1] + admin, "test")
    assert told["plan"] == ["changes admin: api_key (from the next request)"]


async def test_without_a_file() -> None:
    """Without --config there is nothing to read again, and nothing to watch; a text can still be applied."""
    world = World(None)
    with pytest.raises(KproxyError, match="without --config"):
        await world.reloads.apply(None, "test")
    await world.reloads.reload("SIGHUP")
    await world.reloads.watch(LOOK_SECONDS)
    assert (await world.reloads.apply(OTHER, "test"))["plan"]


async def test_a_changed_file_is_noticed(path: Path) -> None:
    """A file that changes is applied; a bad one is refused once, however often its time changes."""
    world = World(path)
    watch = asyncio.ensure_future(world.reloads.watch(LOOK_SECONDS))  # noqa: TID251
    await asyncio.sleep(0)
    write(path, BROKEN)
    await until(lambda: world.counts == (0, 1))
    looked: list[float] = []
    for time in (1_000_000_000, 1_000_000_001):
        os.utime(path, (time, time))
        await until(lambda: looks(watch, looked))
    assert world.counts == (0, 1)
    write(path, OTHER)
    await until(lambda: world.counts == (1, 1))
    assert world.config.drain_timeout == 5.0
    os.unlink(path)  # noqa: PTH108 - an editor that replaces it
    await until(lambda: world.counts == (1, 2))
    watch.cancel()


def write(path: Path, text: str) -> None:
    """Change the file."""
    path.write_text(text, encoding="utf-8")


def looks(watch: "asyncio.Future[None]", looked: list[float]) -> bool:
    """Whether the watch has had the time for some looks."""
    assert not watch.done()
    looked.append(0)
    return len(looked) % 20 == 0


async def test_links_that_are_turned(tmp_path: Path) -> None:
    """A ConfigMap's file is a link to a link that is turned to another folder, as Kubernetes does: that is a change."""
    for name, text in (("one", TEXT), ("two", OTHER)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kproxy.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "data").symlink_to("one")
    (tmp_path / "kproxy.yaml").symlink_to("data/kproxy.yaml")
    world = World(tmp_path / "kproxy.yaml")
    watch = asyncio.ensure_future(world.reloads.watch(LOOK_SECONDS))  # noqa: TID251
    await asyncio.sleep(0)
    (tmp_path / "turned").symlink_to("two")
    (tmp_path / "turned").rename(tmp_path / "data")
    await until(lambda: world.counts == (1, 0))
    assert world.config.drain_timeout == 5.0
    watch.cancel()
