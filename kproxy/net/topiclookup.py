"""Learning the names of topics that a client told by ids nobody has seen: after a start, from the metadata it has.

The client is not kept waiting: it gets UNKNOWN_TOPIC_ID, asks for Metadata, and comes back, by when the name is known.
Metadata can be asked by id from v12 on (KIP-516); where a broker cannot, the client's own Metadata answer teaches it.
"""

from contextlib import suppress

from kproxy.core.access import TopicNames
from kproxy.errors import KproxyError
from kproxy.net.link import ClusterLink
from kproxy.net.tasks import Tasks
from kproxy.wire.apis import ApiKey
from kproxy.wire.cluster import NO_TOPIC_ID, metadata_request, parse_metadata_response

ASKED_MAX = 100
"""How many ids are asked for at once; who invents ids learns nothing and keeps nobody else waiting for long."""

ANSWER_SECONDS = 5.0

_VERSION = 12


class TopicLookup:
    """Call it with an id that is wanted."""

    def __init__(self, link: ClusterLink, names: TopicNames, tasks: Tasks) -> None:
        """Ask through ``link``, teach ``names``."""
        self._link = link
        self._names = names
        self._tasks = tasks
        self._asking: set[bytes] = set()

    def __call__(self, topic_id: bytes) -> None:
        """Ask for a topic's name unless that is being done."""
        offer = self._link.view.offer
        if offer is None or offer.answer.ranges.get(ApiKey.METADATA, (0, 0))[1] < _VERSION:
            return
        if len(topic_id) != len(NO_TOPIC_ID) or topic_id == NO_TOPIC_ID or topic_id in self._asking:
            return
        if len(self._asking) < ASKED_MAX:
            self._asking.add(topic_id)
            self._tasks.spawn("look up a topic", self._ask(topic_id))

    async def _ask(self, topic_id: bytes) -> None:
        try:
            with suppress(KproxyError):  # the client asks again, and so do we
                request = metadata_request(_VERSION, [topic_id])
                body = await self._link.ask(None, ApiKey.METADATA, _VERSION, request, ANSWER_SECONDS)
                for topic in parse_metadata_response(_VERSION, body).topics:
                    if topic.name is not None and topic.topic_id == topic_id:
                        self._names.learn(topic_id, topic.name)
        finally:
            self._asking.discard(topic_id)
