"""What the supervisor knows of its workers: answers, silence, ends; and that counters never go down."""

import asyncio
import json
import os
from typing import Any

import pytest
from clients.proc import open_descriptors

from kproxy.service import desk as module
from kproxy.service.desk import QUESTIONS_MAX, Desk
from kproxy.service.usage import usage

LONG = 30.0


class Worker:
    """A worker that answers when it is told to."""

    def __init__(self, desk: Desk, pid: int) -> None:
        self.asked: list[dict[str, Any]] = []
        self._desk = desk
        desk.attach(pid, self.asked.append)

    def answer(self, document: dict[str, Any], at: int = 0) -> None:
        """Answer the question that came first, or a later one."""
        descriptor = os.memfd_create("answer")
        os.write(descriptor, json.dumps(document).encode())
        assert self._desk.heard({"status": self.asked.pop(at)["status"]}, [descriptor])


def begin(desk: Desk, part: str) -> asyncio.Task[dict[int, Any]]:
    """Ask, and go on meanwhile."""
    return asyncio.ensure_future(desk.ask(part))  # noqa: TID251  the test awaits it


async def turn() -> None:
    """Let others run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_every_worker_is_asked_at_once() -> None:
    """Answers are told by worker, whoever answers first; the descriptors are closed."""
    desk = Desk(LONG)
    first, second = Worker(desk, 1), Worker(desk, 2)
    before = open_descriptors(os.getpid())
    asking = begin(desk, "health")
    await turn()
    second.answer({"b": 2})
    first.answer({"a": 1})
    assert await asking == {1: {"a": 1}, 2: {"b": 2}}
    assert open_descriptors(os.getpid()) == before


async def test_who_asks_the_same_shares_the_answer() -> None:
    """However many ask the same at once, a worker is asked once; one that gives up does not spoil it for others."""
    desk = Desk(LONG)
    worker = Worker(desk, 1)
    asking = [begin(desk, "clients") for _ in range(50)]
    await turn()
    assert len(worker.asked) == 1
    asking[0].cancel()
    await turn()
    worker.answer({"clients": []})
    assert await asyncio.gather(*asking[1:]) == [{1: {"clients": []}}] * 49


async def test_a_worker_that_hangs() -> None:
    """Nobody waits for it for long, it is not asked any more than it may leave unanswered, and may answer late."""
    desk = Desk(0.01)
    worker = Worker(desk, 1)
    for number in range(QUESTIONS_MAX + 3):
        assert await desk.ask(str(number)) == {}
    assert len(worker.asked) == QUESTIONS_MAX
    for _ in range(QUESTIONS_MAX):
        worker.answer({"late": True})
    desk = Desk(LONG)
    worker = Worker(desk, 1)
    asking = begin(desk, "health")
    await turn()
    worker.answer({"open": {}})
    assert await asking == {1: {"open": {}}}


async def test_a_worker_that_ends_while_it_is_asked() -> None:
    """Whoever waits for it hears so at once."""
    desk = Desk(LONG)
    Worker(desk, 1)
    asking = begin(desk, "health")
    await turn()
    desk.detach(1)
    desk.detach(1)
    assert await asking == {}
    assert await desk.tell(1, {}) is None
    assert desk.pids == []


async def test_a_worker_that_cannot_answer() -> None:
    """An error instead of a descriptor, or more than anybody can need, is no answer; other messages are not ours."""
    desk = Desk(LONG)
    worker = Worker(desk, 1)
    asking = begin(desk, "health")
    await turn()
    assert desk.heard({"status": worker.asked[0]["status"], "error": "too many open files"}, [])
    assert await asking == {}
    assert not desk.heard({"tally": {}}, [])


async def test_an_answer_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not read."""
    monkeypatch.setattr(module, "ANSWER_BYTES_MAX", 10)
    desk = Desk(LONG)
    worker = Worker(desk, 1)
    asking = begin(desk, "health")
    await turn()
    worker.answer({"text": "x" * 100})
    assert await asking == {}


async def test_counters_never_go_down() -> None:
    """What a worker had counted when it was last asked stays after its end; what was at the moment goes with it."""
    desk = Desk(LONG)
    for generation in range(3):
        worker = Worker(desk, generation)
        asking = begin(desk, "counters")
        await turn()
        worker.answer({"counters": {"listeners": {"public": {"opened": 5, "connections": 2}}, "lag": [1, 2]}})
        await asking
        opened = 5 * (generation + 1)
        assert desk.counters() == {
            "listeners": {"public": {"opened": opened, "connections": 2}},
            "lag": [generation + 1, 2 * (generation + 1)],
        }
        desk.detach(generation)
        assert desk.counters()["listeners"] == {"public": {"opened": opened}}
    assert desk.started == 3


def test_usage_is_of_a_process() -> None:
    """A process that is there uses something; one that is not is not told."""
    mine = usage(os.getpid())
    assert mine is not None
    assert mine.resident_bytes > 10_000_000
    assert mine.cpu_seconds > 0
    assert mine.descriptors > 2
    assert usage(2**22 + 1) is None
