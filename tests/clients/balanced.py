"""Two kproxies behind a load balancer, of which one drains while producers of three libraries send all the time."""

import json
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from clients.aio import Aio
from clients.confluent import Confluent
from clients.kafkapython import KafkaPython
from clients.library import Library
from clients.traffic import Stream, streams
from kproxy.testing.ports import free_port_block
from kproxy.testing.proxy import ConfiguredProxy, ProxyError
from kproxy.testing.tap import Tap
from kproxy.testing.waiting import wait_until

LIBRARIES: tuple[Library, ...] = (Confluent(), Aio(), KafkaPython())


def drain_one(
    folder: Path, cluster: Mapping[str, Any], topics: Sequence[str], partitions: int, forbidden: Sequence[bytes]
) -> list[Stream]:
    """Drain one of two; return what each library has sent, and has acknowledged, to a topic of its own.

    Fails if a send did, or a client was told a broker's address. ``cluster``: as the configuration has it.
    """
    first, second = free_port_block(1), free_port_block(1)
    with Tap(free_port_block(1), first, forbidden=forbidden) as balancer, ExitStack() as proxies:
        leaving, staying = (
            _proxy_in(folder / str(port), cluster, port, balancer.address, proxies) for port in (first, second)
        )
        with streams(LIBRARIES, balancer.address, topics, partitions) as sending:
            for stream in sending:
                stream.wait_acked(100)
            leaving.signal(signal.SIGTERM)
            wait_until(lambda: "not ready" in leaving.log.read_text("utf-8"), 10, "it to be no longer ready")
            balancer.target_port = second
            leaving.finish()
            for stream in sending:
                stream.wait_acked(100)
                stream.stop()
        staying.finish()
        assert balancer.leaks == []
    for stream, library in zip(sending, LIBRARIES, strict=True):
        assert stream.failed == [], library.name
    return sending


def _proxy_in(folder: Path, cluster: Mapping[str, Any], port: int, advertise: str, stack: ExitStack) -> ConfiguredProxy:
    folder.mkdir()
    path = folder / "kproxy.yaml"
    config = {
        "clusters": {"main": cluster},
        "listeners": {"public": {"bind": f"127.0.0.1:{port}", "advertise": advertise, "addressing": "single"}},
        "drain_grace": "1s",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config), encoding="utf-8")
    proxy = ConfiguredProxy(folder, path, advertise, "--log-format", "json")
    stack.callback(_kill, proxy)
    proxy.start()
    return proxy


def _kill(proxy: ConfiguredProxy) -> None:
    """End what a failed test has left running."""
    try:
        proxy.kill()
    except ProxyError:  # it has ended
        return
