"""The answers to a client that is under rules: joined, filtered, and learnt from.

What a changed request's answer needs is kept beside its ordinal (Awaited.amendment), so that it is done when that
answer comes, whole or streaming. Metadata's are all seen: they are filtered, and teach the names of topics by id. Where
kproxy joins what all brokers said (single addressing), ``_shown`` filters that. What is behind an answer's last field
passes as it is, as clients read no further: librdkafka's mock adds a byte to Metadata. Never here: what is denied, or a
request.
"""

from collections.abc import Collection
from functools import partial

from kproxy.core import amendments
from kproxy.core.access import Operation, Permissions, Resource
from kproxy.core.amendments import Amendment, Join, Piped
from kproxy.core.exchange import Awaited, Exchange
from kproxy.core.needs import GROUPS_SHOWN, SHOWN, TOPIC_AUTHORIZATION_FAILED, UNKNOWN_TOPIC_OR_PARTITION
from kproxy.core.refusals import refused_elements
from kproxy.core.rewrite import Collected, Sink
from kproxy.wire import shapes
from kproxy.wire.apis import ApiKey
from kproxy.wire.cluster import NO_TOPIC_ID
from kproxy.wire.shapes import Values, edits, splice

SESSIONS_MAX = 100
"""How many Fetch sessions of a connection are remembered; a client has one per broker."""

_FETCH, _METADATA, _SHARE_FETCH = int(ApiKey.FETCH), int(ApiKey.METADATA), int(ApiKey.SHARE_FETCH)

Denied = dict[tuple[str | bytes, int], tuple[str | bytes, int, int]]
"""Denied partitions of a Fetch session: (topic, index) -> topic, index, error."""


class GuardedAnswers(Exchange):
    """See the module. It has no __slots__, so that it can come before RoutedExchange, too."""

    ANSWERED_HERE: frozenset[int] = frozenset()
    _ahead = False

    def _begin_answers_of(self, permissions: Permissions) -> None:
        self._permit(permissions)
        self._changed_request: tuple[int, int, int, Amendment | None] | None = None  # that has not gone yet

    def _permit(self, permissions: Permissions) -> None:
        self._permissions = self.permissions = permissions
        self.fetch_sessions: dict[int, Denied] = {}
        """Fetch sessions made on this connection under these rules, and what is denied in each."""
        self._sessions = self.fetch_sessions

    # What judges ask.

    def knows(self, topic: str | bytes) -> bool:
        """Whether a topic's name is known."""
        return isinstance(topic, str) or self._permissions.access.names.find(topic) is not None

    def remember_session(self, session_id: int, denied: Denied) -> None:
        """Take the id of a Fetch session that was made on this connection."""
        sessions = self.fetch_sessions
        sessions.pop(session_id, None)
        sessions[session_id] = denied
        if len(sessions) > SESSIONS_MAX:
            del sessions[next(iter(sessions))]

    def saw_session(self, session_id: int) -> None:
        """The broker answers in a Fetch session."""

    # Requests that were changed.

    def _send(self, frame: bytes, correlation_id: int, amendment: Amendment | None) -> bytes:
        """Send a request, alone, whose answer is to be amended."""
        key, version = int.from_bytes(frame[4:6]), int.from_bytes(frame[6:8])
        self._changed_request = (key, version, correlation_id, amendment)
        self._run = None  # a run of Produce answers ends here, as this one must be seen by itself
        out = self._forward(frame)
        self._ahead = self._ahead or bool(out)
        self._gone()
        return out

    def _gone(self) -> None:
        """If the changed request has gone, keep its amendment for its answer."""
        if self._changed_request is None or not super().settled:
            return
        key, version, correlation_id, amendment = self._changed_request
        self._changed_request = None
        if amendment is None:
            return
        last = self._awaited[-1] if self._awaited else None
        if last is None or last.ordinal != self.asked:
            last = Awaited(self.asked, correlation_id, key, version)
            self._await(last)
        elif last.last:  # a run of one Produce
            last.last = 0
            last.correlation_id = correlation_id
            self._run = None
        last.amendment = amendment

    # Broker to client.

    def _make_sink(self, awaited: Awaited, frame_bytes: int) -> Sink:
        """See Exchange."""
        amendment = awaited.amendment
        if awaited.key == _METADATA:
            return Collected(frame_bytes, partial(self._changed, awaited))
        if not isinstance(amendment, Join):
            return super()._make_sink(awaited, frame_bytes)
        if awaited.key == _FETCH:
            return amendment.expect(frame_bytes)
        return Piped(super()._make_sink(awaited, frame_bytes), amendment.expect(frame_bytes))

    def _changed(self, awaited: Awaited, frame: bytes) -> bytes:
        """See Exchange."""
        out = super()._changed(awaited, frame)
        amendment = awaited.amendment
        if awaited.own is not None:
            return out
        if awaited.key == _METADATA and amendment is None:
            amendment = partial(self.metadata_shown, awaited.version)
        if amendment is None:
            return out
        if isinstance(amendment, Join):
            return amendment.apply(out)
        return amendments.apply(out, awaited.key, awaited.version, amendment)

    def _shown(self, key: int, version: int, body: bytes) -> bytes:
        """See Exchange."""
        if self._permissions.access.dry_run or not (key in SHOWN or key in GROUPS_SHOWN):
            return body
        return amendments.shown(self._permissions, key, version, body)

    def metadata_shown(
        self,
        version: int,
        body: bytes,
        *,
        elements: Collection[bytes] = (),
        only: frozenset[str] | None = None,
        by_id: bool = False,
    ) -> bytes:
        """Learn from a Metadata answer, and leave out what the client may not see.

        ``elements``: what was denied, to be put in; ``only``: what was asked for, where the broker was asked for all;
        ``by_id``: a topic that is hidden was asked for by its id, so that it is denied instead.
        """
        shape = shapes.response(_METADATA, version)
        values, _ = shapes.read(shape, body)
        rows = values["topics"]
        permissions = self._permissions
        access = permissions.access
        hidden: set[int] = set()
        added = list(elements)
        there: set[str] = set()
        for at, row in enumerate(rows):
            name, topic_id = row["name"], row.get("id", NO_TOPIC_ID)
            if name is None:
                continue
            if topic_id != NO_TOPIC_ID:
                access.names.learn(topic_id, name)
            allowed = _METADATA not in access.denied_apis and permissions.allows(
                Operation.DESCRIBE, Resource.TOPIC, name
            )
            if only is not None and name not in only:
                hidden.add(at)
            elif allowed:
                there.add(name)
            else:
                hidden.add(at)
                if by_id:
                    denied: Values = {"name": None, "id": topic_id}
                    added += refused_elements(_METADATA, version, "topics", [denied], [TOPIC_AUTHORIZATION_FAILED])
        if access.dry_run:
            return body
        missing: list[Values] = [{"name": name} for name in sorted((only or frozenset()) - there)]
        codes = [UNKNOWN_TOPIC_OR_PARTITION] * len(missing)
        added += refused_elements(_METADATA, version, "topics", missing, codes)
        changes = edits(shape.of("topics"), rows, hidden, added)
        return splice(body, changes) if changes else body
