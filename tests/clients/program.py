"""The program as a process, beside FakeBrokers that live on the test's own loop.

::

    async with FakeCluster(1) as cluster, running(tmp_path, cluster.bootstrap, "ports", "--workers", "3") as run:
        async with RawClient(run.address) as client:
            await client.heartbeat()
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from kproxy.testing.proxy import ConfiguredProxy, ProxyProcess


class Run:
    """A ProxyProcess, handled without stopping the loop that its brokers live on."""

    def __init__(self, proxy: ProxyProcess) -> None:
        self.proxy = proxy
        self.address = f"127.0.0.1:{proxy.port}"

    def lines(self, *events: str) -> list[dict[str, Any]]:
        """Return the log lines that begin with one of these events."""
        found = []
        for line in self.proxy.log.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if entry["event"].startswith(events):
                found.append(entry)
        return found

    async def until(self, condition: Callable[[], object], what: str, timeout_seconds: float = 15) -> None:
        """Wait for something.

        Raises:
            TimeoutError: it did not come about.
        """
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        while not condition():
            if asyncio.get_running_loop().time() > deadline:
                raise TimeoutError(f"still waiting for {what}; log:\n{self.proxy.log_tail()}")
            await asyncio.sleep(0.02)

    async def until_async(
        self, step: Callable[[], Awaitable[object]], condition: Callable[[], object], what: str
    ) -> None:
        """Do a step again and again until something has come about. Raises as ``until``."""
        deadline = asyncio.get_running_loop().time() + 15
        while not condition():
            if asyncio.get_running_loop().time() > deadline:
                raise TimeoutError(f"still waiting for {what}; log:\n{self.proxy.log_tail()}")
            await step()
            await asyncio.sleep(0.02)

    async def until_told(self, event: str) -> None:
        """Wait for a log line."""
        await self.until(lambda: self.lines(event), event)

    async def exit_code(self, timeout_seconds: float = 15) -> int:
        """Wait for its end."""
        assert self.proxy._child is not None
        return int(await asyncio.to_thread(self.proxy._child.process.wait, timeout_seconds))


@contextlib.asynccontextmanager
async def running(
    folder: Path, bootstrap: str, addressing: str, *arguments: str, ready: bool = True, **settings: Any
) -> AsyncIterator[Run]:
    """Run the program; every run must end cleanly and leak nothing."""
    arguments = ("--log-format", "json", *arguments)
    async with _started(ProxyProcess(folder, bootstrap, *arguments, addressing=addressing, **settings), ready) as run:
        yield run


@contextlib.asynccontextmanager
async def running_by(folder: Path, config: Path, port: int, *arguments: str) -> AsyncIterator[Run]:
    """Run it by a configuration, one of whose listeners has this port; no Tap is before it."""
    proxy = ConfiguredProxy(folder, config, f"127.0.0.1:{port}", "--log-format", "json", *arguments)
    async with _started(proxy) as run:
        yield run


@contextlib.asynccontextmanager
async def _started(proxy: ProxyProcess, ready: bool = True) -> AsyncIterator[Run]:
    run = Run(proxy)
    run.proxy.launch()
    try:
        if ready:
            await asyncio.to_thread(run.proxy.wait_ready)
        yield run
    finally:
        await asyncio.to_thread(run.proxy.finish)
