"""Looking up leaders and coordinators for ``single`` addressing, over the link's own connections.

Lookups for the same thing share one request. What is learnt goes into the cluster's Directory.
"""

import asyncio
import random
from collections.abc import Hashable
from contextlib import suppress

from kproxy.core.directory import KEY_TYPE_GROUP, KEY_TYPE_TXN, Directory
from kproxy.errors import KproxyError
from kproxy.net.link import ClusterLink
from kproxy.net.tasks import Tasks
from kproxy.wire.apis import ApiKey
from kproxy.wire.cluster import (
    find_coordinator_request,
    metadata_request,
    parse_find_coordinator_response,
    parse_metadata_response,
)
from kproxy.wire.routing import Route, Target

RETRY_SECONDS = 0.2
"""Between two questions after a leader that is not elected yet."""

ANSWER_SECONDS = 5.0

SLOW_SECONDS = 0.5
"""A broker that has not answered by then may hang: another one is asked, and at most ASKED_MAX in all."""

ASKED_MAX = 3

_METADATA_VERSION_MAX = 12  # topic ids; v13 only adds an error
_FIND_COORDINATOR_VERSION_MAX = 3  # one key a request

_UNKNOWN_TOPIC_OR_PARTITION, _INVALID_TOPIC, _TOPIC_AUTHORIZATION, _UNKNOWN_TOPIC_ID = 3, 17, 29, 100
_FINAL = frozenset({_UNKNOWN_TOPIC_OR_PARTITION, _INVALID_TOPIC, _TOPIC_AUTHORIZATION, _UNKNOWN_TOPIC_ID})

_LOADING, _NOT_AVAILABLE, _NOT_COORDINATOR = 14, 15, 16
_PASSING = frozenset({0, _LOADING, _NOT_AVAILABLE, _NOT_COORDINATOR})


class _Question:
    """Something that is being asked; whoever wants to know the same waits for the same task."""

    task: asyncio.Task[None] | None = None
    worth_it = True
    """Asking again may help."""


class Finder:
    """Looks things up for the connections of one cluster."""

    def __init__(self, link: ClusterLink, directory: Directory) -> None:
        """Ask through ``link``, teach ``directory``."""
        self._link = link
        self._directory = directory
        self._tasks = Tasks()
        self._asking: dict[Hashable, _Question] = {}

    async def close(self) -> None:
        """End what is being asked."""
        await self._tasks.close()

    async def ask(self, route: Route) -> bool:
        """Ask once where a route leads; False when asking again would be in vain: there is no such topic, say."""
        key = (route.target, route.name or route.topic_id)
        question = self._asking.get(key)
        if question is None:
            question = self._asking[key] = _Question()
            question.task = self._tasks.spawn(f"lookup {route.target}", self._ask(key, question, route))
        assert question.task is not None  # noqa: S101  set where it was made
        await asyncio.shield(question.task)
        return question.worth_it

    async def find(self, route: Route, timeout_seconds: float) -> int | None:
        """Ask until the directory knows, it is certain that nobody does, or the time is over."""
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        while True:
            worth_it = await self.ask(route)
            node_id = self._directory.find(route)
            if node_id is not None or not worth_it:
                return node_id
            if asyncio.get_running_loop().time() >= deadline:
                return None
            await asyncio.sleep(RETRY_SECONDS)

    async def _ask(self, key: Hashable, question: "_Question", route: Route) -> None:
        try:
            if route.target in (Target.LEADER_NAME, Target.LEADER_ID):
                question.worth_it = await self._ask_leader(route)
            elif route.target in (Target.GROUP, Target.TXN):
                question.worth_it = await self._ask_coordinator(route)
            else:
                question.worth_it = False
        except KproxyError:
            await self._link.wait_up(None, RETRY_SECONDS)
        finally:
            del self._asking[key]

    async def _ask_leader(self, route: Route) -> bool:
        version = self._version(ApiKey.METADATA, _METADATA_VERSION_MAX)
        topic: str | bytes = route.name if route.target is Target.LEADER_NAME else route.topic_id
        body = await self._ask_any(ApiKey.METADATA, version, metadata_request(version, [topic]))
        answer = parse_metadata_response(version, body)
        self._directory.learn_topics(answer.topics)
        return not all(found.error_code in _FINAL for found in answer.topics)

    async def _ask_coordinator(self, route: Route) -> bool:
        version = self._version(ApiKey.FIND_COORDINATOR, _FIND_COORDINATOR_VERSION_MAX)
        key_type = KEY_TYPE_GROUP if route.target is Target.GROUP else KEY_TYPE_TXN
        request = find_coordinator_request(version, route.name, key_type)
        body = await self._ask_any(ApiKey.FIND_COORDINATOR, version, request)
        found = parse_find_coordinator_response(version, body)
        self._directory.learn_coordinators(key_type, [route.name], found)
        return all(coordinator.error_code in _PASSING for coordinator in found)

    async def _ask_any(self, key: int, version: int, body: bytes) -> bytes:
        """Ask brokers that are up, one after the other, until one answers; raises as ClusterLink.ask."""
        up = self._link.up_nodes()
        nodes = random.sample(up, min(len(up), ASKED_MAX))
        for node_id in nodes[:-1]:
            with suppress(TimeoutError, KproxyError):
                async with asyncio.timeout(SLOW_SECONDS):
                    return await self._link.ask(node_id, key, version, body, ANSWER_SECONDS)
        return await self._link.ask(nodes[-1] if nodes else None, key, version, body, ANSWER_SECONDS)

    def _version(self, key: int, highest: int) -> int:
        offer = self._link.view.offer
        known = offer.answer.ranges.get(key, (0, 1)) if offer is not None else (0, 1)
        return min(known[1], highest)
