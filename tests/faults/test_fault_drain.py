"""A stop: not ready at once, a grace, the drain with its progress told, and another kproxy that takes over."""

import asyncio
import signal
from pathlib import Path

import pytest
from clients.gateway import on_uvloop
from clients.raw import HEARTBEAT_OK, RawClient, heartbeat
from clients.stage import staged

from kproxy.testing.fakebroker import Delay
from kproxy.wire.apis import ApiKey


@on_uvloop
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_grace_for_load_balancers(tmp_path: Path, workers: int) -> None:
    """From the signal on /readyz fails, and all is served, new clients too; after the grace it drains, and tells."""
    async with staged(tmp_path, "--workers", str(workers), more="drain_grace: 1s\n") as stage:
        async with RawClient(stage.run.address) as before, RawClient(stage.run.address) as busy:
            await before.heartbeat()
            assert (await stage.send("GET", "/readyz")).status == 200
            stage.run.proxy.signal(signal.SIGTERM)
            await stage.told("stopping: not ready")
            assert (await stage.send("GET", "/readyz")).status == 503
            assert (await stage.send("GET", "/healthz")).status == 200
            async with RawClient(stage.run.address) as new:
                await new.heartbeat()
            await before.heartbeat()
            stage.cluster.on(ApiKey.HEARTBEAT, Delay(4.0, HEARTBEAT_OK))
            await busy.send(ApiKey.HEARTBEAT, 3, heartbeat())
            await before.assert_closed()
            progress = await stage.told("still draining")
            assert (progress["connections"], progress["busy"]) == (1, 1)
            assert (await busy.receive()).endswith(HEARTBEAT_OK)
            await busy.assert_closed()
        assert await stage.run.exit_code() == 0
        events = [line["event"] for line in stage.run.lines("")]
        wanted = ["stopping: not ready from now on, and serving on", "draining", "still draining", "drained", "tally"]
        assert [event for event in events if event in wanted] == wanted


@on_uvloop
async def test_a_second_signal_ends_a_grace(tmp_path: Path) -> None:
    """A second signal stops at once, amid the grace as amid the drain."""
    async with staged(tmp_path, more="drain_grace: 1h\n") as stage, RawClient(stage.run.address) as client:
        await client.heartbeat()
        stage.run.proxy.signal(signal.SIGTERM)
        await stage.told("stopping: not ready")
        await asyncio.sleep(0.2)  # what comes sooner is taken for an echo
        stage.run.proxy.signal(signal.SIGTERM)
        await client.assert_closed()
        assert await stage.run.exit_code() == 0
