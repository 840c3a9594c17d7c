"""The program with a configuration file of its own, which changes, before FakeBrokers that live on the test's loop.

::

    async with staged(tmp_path) as stage, RawClient(stage.run.address) as client:
        await stage.send("PUT", "/config", stage.text(more="drain_timeout: 5s"))
        await client.heartbeat()
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from clients.admin import Admin, Answer
from clients.program import Run
from clients.raw import HEARTBEAT_OK
from kproxy.testing.fakebroker import FakeCluster
from kproxy.testing.ports import free_port_block
from kproxy.testing.proxy import ConfiguredProxy
from kproxy.wire.apis import ApiKey


class Stage:
    """The program with a file of its own, before FakeBrokers."""

    def __init__(self, folder: Path, cluster: FakeCluster) -> None:
        self.path = folder / "kproxy.yaml"
        self.port, self.other_port = free_port_block(2), free_port_block(2)
        self.admin = Admin()
        self.cluster = cluster
        self.run: Run

    def text(self, options: str = "", more: str = "", port: int | None = None) -> str:
        """Return a configuration: options for its listener, and further lines."""
        return (
            f"clusters: {{main: {{bootstrap: [{self.cluster.bootstrap}]}}}}\n"
            f"listeners: {{public: {{bind: '127.0.0.1:{port or self.port}', addressing: single{options}}}}}\n"
            f"admin: {{bind: '{self.admin.address}'}}\n{more}"
        )

    def write(self, text: str) -> None:
        """Put another file in the place of the one there is, as editors do."""
        new = self.path.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        new.rename(self.path)

    def change(self, text: str, signal_it: bool = True) -> None:
        """Change the file, and say so."""
        self.write(text)
        if signal_it:
            self.run.proxy.signal(signal.SIGHUP)

    async def send(self, method: str, path: str, body: str = "") -> Answer:
        """Ask the admin API."""
        return await asyncio.to_thread(self.admin.send, method, path, body.encode(), {})

    async def told(self, event: str, many: int = 1) -> dict[str, Any]:
        """Wait for so many log lines; return the last one."""
        await self.run.until(lambda: len(self.run.lines(event)) >= many, f"{many} times: {event}")
        return self.run.lines(event)[-1]


@contextlib.asynccontextmanager
async def staged(
    folder: Path,
    *arguments: str,
    options: str = "",
    more: str = "",
    users: Mapping[str, str] | None = None,
    edit: Callable[[Stage], str] | None = None,
) -> AsyncIterator[Stage]:
    """Run it all; ``users``: of the brokers. ``edit`` writes the first configuration."""
    async with FakeCluster(1, users) as cluster:
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        stage = Stage(folder, cluster)
        stage.write(stage.text(options, more) if edit is None else edit(stage))
        proxy = ConfiguredProxy(folder, stage.path, f"127.0.0.1:{stage.port}", "--log-format", "json", *arguments)
        stage.run = Run(proxy)
        proxy.launch()
        try:
            await asyncio.to_thread(proxy.wait_ready)
            yield stage
        finally:
            await asyncio.to_thread(proxy.finish)
