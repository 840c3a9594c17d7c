"""The end of a run: what comes when, and what the log tells of it."""

import asyncio

import pytest
from structlog.testing import capture_logs

from kproxy.service import stopping
from kproxy.service.stopping import Stopping, tell_left


async def test_a_grace_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The drain begins after the grace; from then on the log has the sum of what workers have left, to the end."""
    monkeypatch.setattr(stopping, "TELL_SECONDS", 0.02)
    drained = asyncio.Event()
    end = Stopping(drained.set)
    with capture_logs() as logs:
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            running = group.create_task(end.run(0.05, 30.0))
            await asyncio.sleep(0.01)
            assert not drained.is_set()
            await drained.wait()
            end.heard(0, (5, 2))
            end.heard(1, (3, 0))
            await asyncio.sleep(0.05)
            running.cancel()
        end.over()
    first, second, third, *_, last = logs
    assert (first["event"], first["grace_seconds"]) == ("stopping: not ready from now on, and serving on", 0.05)
    assert (second["event"], second["timeout_seconds"]) == ("draining", 30.0)
    assert (third["event"], third["connections"], third["busy"]) == ("still draining", 8, 2)
    assert last["event"] == "drained"


async def test_an_end_without_a_drain_tells_of_none() -> None:
    """Where there is no grace the drain begins at once; where there was no drain none is said to be over."""
    drained: list[bool] = []
    end = Stopping(lambda: drained.append(True))
    with capture_logs() as logs:
        end.over()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(end.run(0.0, 1.0))
            await asyncio.sleep(0)
            assert drained
            running.cancel()
    assert [log["event"] for log in logs] == ["draining"]


async def test_a_worker_tells_what_it_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells at once, and again and again."""
    monkeypatch.setattr(stopping, "LEFT_SECONDS", 0.001)
    told: list[tuple[int, int]] = []
    many = iter(range(100))
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        telling = group.create_task(tell_left(lambda: (next(many), 0), told.append))
        while len(told) < 3:  # noqa: ASYNC110  it ends with the timeout
            await asyncio.sleep(0.001)
        telling.cancel()
    assert told[:3] == [(0, 0), (1, 0), (2, 0)]
