"""The worker's answers to the supervisor's questions: counters, health, limits and clients.

A question names its parts; the answer is a JSON document in a file in memory (memfd_create), whose descriptor goes over
the channel, as 10,000 clients do not fit in a message::

    supervisor  {"status": 7, "parts": ["health", "counters"]}
    worker      {"status": 7}  + file descriptor

Traffic has precedence: connections are walked a slice at a time, and between slices the loop serves others. No more
than one question is worked on at a time; those that follow wait.
"""

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kproxy.core.lag import Lag
from kproxy.core.limits import Limits
from kproxy.core.tally import OTHERS
from kproxy.net import inventory
from kproxy.net.link import ClusterLink
from kproxy.net.listeners import Listener
from kproxy.net.relay import ClientSide

SLICE, SLICE_TOLD = 200, 40
"""How many connections are folded, or told of, between two turns of the loop: about a millisecond."""

PRINCIPALS_MAX = 1000
"""How many principals are told apart; the collector shows fewer."""

LAG_SECONDS = 0.1
"""How often the loop's lag is sampled: ten timers a second are nothing, and a stall of a second is seen ten times."""

Document = dict[str, Any]


class Status:
    """What one worker can tell."""

    def __init__(
        self,
        links: Mapping[str, ClusterLink],
        listeners: Mapping[str, Listener],
        limits: Callable[[], Limits | None],
        logged: Callable[[], dict[str, int]] = dict,
    ) -> None:
        """Look at these, which may grow and shrink, and be others; ``logged``: what the request log has counted."""
        self._links = links
        self._listeners = listeners
        self._limits = limits
        self._logged = logged
        self._turn = asyncio.Lock()
        self.lag = Lag()

    async def sample_lag(self) -> None:
        """Measure for ever how late a timer is served, which is how long whatever is ready waits."""
        while True:
            began = time.perf_counter()
            await asyncio.sleep(LAG_SECONDS)
            self.lag.note(max(time.perf_counter() - began - LAG_SECONDS, 0.0))

    async def answer(self, message: Mapping[str, Any], send: Callable[[dict[str, Any], tuple[int, ...]], None]) -> None:
        """Answer a question by ``send``, which takes a message and descriptors with it."""
        number = message["status"]
        if "close" in message:
            listener, client = message["close"]
            served = self._listeners.get(listener)
            send({"status": number, "closed": served is not None and served.close_client(client)}, ())
            return
        async with self._turn:
            try:
                descriptor = os.memfd_create("kproxy status")
            except OSError as error:  # out of descriptors: that is worth telling
                send({"status": number, "error": error.strerror or type(error).__name__}, ())
                return
            try:
                with os.fdopen(os.dup(descriptor), "w", encoding="utf-8") as file:
                    await self._write(file.write, message["parts"])
                send({"status": number}, (descriptor,))
            finally:
                os.close(descriptor)

    async def _write(self, write: Callable[[str], object], parts: list[str]) -> None:
        document: Document = {}
        if "health" in parts:
            document |= self.health()
        if "use" in parts:
            connections = sum(listener.tally.connections for listener in self._listeners.values())
            document["use"] = {"tasks": len(asyncio.all_tasks()), "connections": connections}
        if "counters" in parts:
            document["counters"] = await self._counters()
        limits = self._limits()
        if "limits" in parts and limits is not None:
            document["limits"] = limits.snapshot(asyncio.get_running_loop().time())
        text = json.dumps(document)
        if "clients" not in parts:
            write(text)
            return
        write(text[:-1] + (", " if document else "") + '"clients": [')
        between = ""
        for name, slice_ in self._slices(SLICE_TOLD):
            for client in slice_:
                if client.account is not None and not client.gone:
                    told = {"listener": name} | inventory.describe(client, client.account)
                    write(between + json.dumps(told))
                    between = ", "
            await asyncio.sleep(0)
        write("]}")

    def health(self) -> Document:
        """Return whether listeners are open and brokers are up."""
        return {
            "open": {name: listener.is_open for name, listener in self._listeners.items()},
            "clusters": {name: _cluster(link) for name, link in self._links.items()},
        }

    async def _counters(self) -> Document:
        principals: Counter[str] = Counter()
        in_flight: Counter[str] = Counter()
        for name, slice_ in self._slices(SLICE):
            for client in slice_:
                client.settle_account()
                in_flight[name] += client.exchange.outstanding
                who = inventory.principal(client)
                principals[who if who in principals or len(principals) < PRINCIPALS_MAX else OTHERS] += 1
            await asyncio.sleep(0)
        limits = self._limits()
        return {
            "listeners": {
                name: listener.tally.snapshot() | {"in_flight": in_flight[name]}
                for name, listener in self._listeners.items()
            },
            "principals": dict(principals),
            "limits": {} if limits is None else limits.counters(),
            "login_failures": {name: link.login_failures for name, link in self._links.items()},
            "loop_lag": self.lag.snapshot(),
            "request_log": self._logged(),
        }

    def _slices(self, size: int) -> Iterator[tuple[str, list[ClientSide]]]:
        for name, listener in list(self._listeners.items()):  # a change may come between two slices
            clients = listener.clients
            for begin in range(0, len(clients), size):
                yield name, clients[begin : begin + size]


def _cluster(link: ClusterLink) -> Document:
    up = set(link.up_nodes())
    present = set(link.view.present())
    return {
        "cluster_id": link.view.cluster_id,
        "brokers": {
            str(node_id): {
                "host": broker.host,
                "port": broker.port,
                "rack": broker.rack,
                "up": node_id in up,
                "in_metadata": node_id in present,
            }
            for node_id, broker in sorted(link.view.brokers.items())
        },
    }
