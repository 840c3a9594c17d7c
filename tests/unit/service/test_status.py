"""A worker's answers to the supervisor, without a worker."""

import errno
import json
import os
from typing import Any

import pytest
from clients.proc import open_descriptors

from kproxy.core.limits import FixedWindow, Limits, Rule
from kproxy.service.status import Status


async def answer(status: Status, *parts: str, **more: Any) -> Any:
    """Ask; return the document in the descriptor, or the message where there is none."""
    sent: list[tuple[dict[str, Any], tuple[int, ...]]] = []

    def send(message: dict[str, Any], descriptors: tuple[int, ...]) -> None:
        sent.append((message, tuple(map(os.dup, descriptors))))

    await status.answer({"status": 7, "parts": list(parts)} | more, send)
    ((message, descriptors),) = sent
    assert message["status"] == 7
    if not descriptors:
        return message
    with os.fdopen(descriptors[0], "rb") as file:
        file.seek(0)
        return json.load(file)


@pytest.mark.parametrize(
    "parts", [(), ("health",), ("clients",), ("health", "clients"), ("limits",), ("counters",), ("use",)]
)
async def test_every_answer_is_json(parts: tuple[str, ...]) -> None:
    """Whatever is asked for comes, and nothing else, also where there is nothing at all; no descriptor is left."""
    before = open_descriptors(os.getpid())
    found = await answer(Status({}, {}, lambda: None), *parts)
    keys = {
        "health": {"open", "clusters"},
        "clients": {"clients"},
        "counters": {"counters"},
        "limits": set[str](),
        "use": {"use"},
    }
    assert found.keys() == set().union(*(keys[part] for part in parts))
    assert open_descriptors(os.getpid()) == before


async def test_limits_are_told() -> None:
    """Numbers come with the counters; whom a limit holds up only where limits are asked for."""
    limits = Limits([Rule("window", FixedWindow(5, 60))])
    status = Status({}, {}, lambda: limits)
    assert (await answer(status, "counters"))["counters"]["limits"]["window"]["asked"] == 0
    assert (await answer(status, "limits"))["limits"]["window"].keys() >= {"asked", "windows", "top"}


async def test_the_request_log_is_told() -> None:
    """What it has counted comes with the counters."""
    status = Status({}, {}, lambda: None, lambda: {"entries": 3})
    assert (await answer(status, "counters"))["counters"]["request_log"] == {"entries": 3}


async def test_a_client_of_no_listener_is_not_closed() -> None:
    """The answer says so."""
    assert await answer(Status({}, {}, lambda: None), close=["gone", 1]) == {"status": 7, "closed": False}


async def test_out_of_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no file can be made the supervisor hears why, and the worker goes on."""

    def refuse(_: str) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "memfd_create", refuse)
    assert await answer(Status({}, {}, lambda: None), "health") == {"status": 7, "error": "Too many open files"}
