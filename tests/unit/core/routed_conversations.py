"""A reference for RoutedExchange: a client before a whole cluster, each request made with where it must go.

The model follows the requests one by one, in their order, with a foreign codec's tree in hand: the *lane* is the broker
of the last request that named one. So every broker's stream is known before a byte is cut, and the client's is the
answers in the order of the requests. ``RoutedTalk`` plays the shell, too: it finds out what is looked up, waits for
quiet, joins, and holds against the model that one broker at a time owes answers::

    RoutedTalk(Random(7), turns=30).run(cut=at_random)     # raises AssertionError at the first byte that differs
"""

from dataclasses import dataclass
from random import Random
from typing import Any

from conversations import BROKER_HOST, OFFER, Cut, advertise, answer_frame, nodes, oracle_for, request_frame
from oracles import Tree, random_text
from test_routing import expected

from kproxy.core.directory import Directory
from kproxy.core.exchange import Front
from kproxy.core.routed import POLICY_VIOLATION, FanOut, Lookup, Reach, RoutedExchange, Turn
from kproxy.core.sasl import Ask
from kproxy.core.tally import Tally
from kproxy.wire import answers, apiversions, frames
from kproxy.wire.apis import APIS, ApiKey
from kproxy.wire.cluster import NO_TOPIC_ID, Coordinator, Partition, Topic
from kproxy.wire.endpoints import is_rewritten
from kproxy.wire.primitives import INT32, put_tags
from kproxy.wire.routing import Route, Target
from kproxy.wire.sharefetch import ShareFetchWalk

ANY_NODE = 1
"""Where the model's shell sends what may go to any broker while there is no lane."""

ROUTED = (0, 0, 0, 1, 1, 1, 1, 2, 8, 9, 11, 12, 12, 13, 15, 21, 22, 23, 24, 26, 28, 32, 42, 44, 61, 65, 68, 78, 79)
ANYWHERE = (ApiKey.METADATA, ApiKey.FIND_COORDINATOR, ApiKey.DESCRIBE_CLUSTER, ApiKey.CREATE_TOPICS)
TELEMETRY = (ApiKey.GET_TELEMETRY_SUBSCRIPTIONS, ApiKey.PUSH_TELEMETRY)
LISTS = (ApiKey.LIST_GROUPS, ApiKey.LIST_TRANSACTIONS)
LOG_DIRS = (ApiKey.DESCRIBE_LOG_DIRS, ApiKey.ALTER_REPLICA_LOG_DIRS)


@dataclass
class Turn_:  # noqa: N801  Turn is what RoutedExchange calls a change of lanes
    """One request, and all that must become of it."""

    key: int
    version: int
    request: bytes
    route: Route
    forwarded: bytes | None
    answer: bytes | None
    for_client: bytes
    bodies: list[bytes] | None = None
    """What the brokers say to a fan-out."""
    node: int | None = None


def node_of(route: Route) -> int | None:
    """Say who leads or coordinates what; None: nobody knows."""
    dice = Random(f"{route.target}{route.name}{route.topic_id.hex()}{route.partition}")
    if route.target is Target.NODE:
        return route.number
    if route.target is Target.FETCH_SESSION:
        return (2, 3)[route.number & 1] if route.number in (1, 7, 2**31 - 1) else None
    if route.target is Target.LEADER_ID and route.topic_id == NO_TOPIC_ID:
        return None
    return dice.choice((1, 1, 2, 2, 3, 3, None))


def _marked(tree: Any) -> None:
    """Change the names in an answer, so that what is learnt from it meets no request."""
    if isinstance(tree, dict):
        for name in ("name", "key", "topic_name"):
            if isinstance(tree.get(name), str):
                tree[name] = "m-" + tree[name]
        for value in tree.values():
            _marked(value)
    elif isinstance(tree, list):
        for value in tree:
            _marked(value)


def _answers(rng: Random, key: int, version: int, correlation_id: int) -> tuple[bytes, bytes]:
    """Make a broker's answer, and what the client gets: our addresses and no racks, by a foreign codec."""
    if key != ApiKey.FETCH and not is_rewritten(key, version):
        noise = rng.randbytes(rng.choice((0, 30, 3_000)))
        if key == ApiKey.CONSUMER_GROUP_HEARTBEAT:
            noise = b"\0" + noise  # its header is looked at: no tags
        frame = INT32.pack(4 + len(noise)) + INT32.pack(correlation_id) + noise
        return frame, frame
    oracle = oracle_for(rng, key, version)
    assert oracle is not None
    tree = oracle.message(rng, key, version, "response")
    _marked(tree)
    if key == ApiKey.FETCH and version >= 7:
        tree["session_id"] = 0
    for node in nodes(tree):
        node.update(host=BROKER_HOST, port=9092)
        node["node_id" if "node_id" in node else "broker_id"] = rng.choice((0, 1, 7))
    body = oracle.encode(key, version, "response", tree)
    for node in nodes(tree):
        node["host"], node["port"] = advertise(node["node_id" if "node_id" in node else "broker_id"], BROKER_HOST, 9092)
        if "rack" in node:
            node["rack"] = None
    ours = oracle.encode(key, version, "response", tree)
    if key == ApiKey.SHARE_FETCH:
        ours = ShareFetchWalk(version, len(body)).feed(body)
    tags = put_tags([])
    return answer_frame(key, version, correlation_id, body, tags), answer_frame(
        key, version, correlation_id, ours, tags
    )


class Model:
    """Makes a conversation; remembers what the order of the requests decides."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.lane: int | None = None
        self.share_lane: int | None = None
        self.sticky_lane: int | None = None
        self.racked: bool | None = None

    def turn(self, correlation_id: int, last: Turn_ | None) -> Turn_:
        """Make a request of any kind, or one like the last, as clients mostly do."""
        if last is not None and last.forwarded is not None and self.rng.random() < 0.4:
            return self._again(correlation_id, last)
        return self._new(correlation_id)

    def _again(self, correlation_id: int, last: Turn_) -> Turn_:
        request, forwarded = (
            frame[:8] + INT32.pack(correlation_id) + frame[12:] for frame in (last.request, last.forwarded or b"")
        )
        theirs, ours = _answers(self.rng, last.key, last.version, correlation_id)
        turn = Turn_(last.key, last.version, request, last.route, forwarded, theirs, ours)
        if last.answer is None:
            turn.answer, turn.for_client = None, b""
        self._place(turn)
        return turn

    def _new(self, correlation_id: int) -> Turn_:
        rng = self.rng
        kind = rng.choice("rrrrrrrrrraaatlvd")
        if kind == "v":
            return self._own(correlation_id)
        key = {"r": ROUTED, "a": ANYWHERE, "t": TELEMETRY, "l": LISTS, "d": LOG_DIRS}[kind]
        chosen = rng.choice(key)
        version = rng.randrange(APIS[chosen].min_version, APIS[chosen].max_version + 1)
        oracle = oracle_for(rng, chosen, version)
        if oracle is None:
            return self._new(correlation_id)
        tree = oracle.message(rng, chosen, version, "request")
        if chosen == ApiKey.FIND_COORDINATOR and version < 4:
            tree["key"] = "m-" + random_text(rng)
        if chosen == ApiKey.FETCH and version >= 7 and rng.random() < 0.6:
            tree["session_id"] = 0
        if chosen == ApiKey.PRODUCE:
            tree["acks"] = rng.choice((0, 1, -1))
        state = rng.getstate()
        request = request_frame(rng, chosen, version, correlation_id, oracle.encode(chosen, version, "request", tree))
        if kind == "l":
            return self._list(chosen, version, correlation_id, request)
        if kind == "d":
            return self._refused(chosen, version, correlation_id, request)
        if chosen == ApiKey.FETCH and tree.get("rack_id") and request.endswith(b"\x01\x00"):
            return self._new(correlation_id)  # tags that look like no rack: see blank_fetch_rack
        forwarded = request
        if self._names_rack(chosen, version, tree):
            tree["rack_id"] = "\0" * len(tree["rack_id"].encode())
            rng.setstate(state)
            body = oracle.encode(chosen, version, "request", tree)
            forwarded = request_frame(rng, chosen, version, correlation_id, body)
        theirs, ours = _answers(rng, chosen, version, correlation_id)
        route = Route(Target.ANY, 0)
        if kind == "r":
            route = expected(chosen, version, tree)
        elif kind == "t":
            route = Route(Target.STICKY, 0)
        turn = Turn_(chosen, version, request, route, forwarded, theirs, ours)
        if chosen == ApiKey.PRODUCE and tree["acks"] == 0:
            turn.answer, turn.for_client = None, b""
        self._place(turn)
        return turn

    def _names_rack(self, key: int, version: int, tree: Tree) -> bool:
        """Whether a rack is blanked: all are from the first Fetch on, until one names none."""
        if key != ApiKey.FETCH or version < 11 or self.racked is False:
            return False
        self.racked = tree["rack_id"] != ""
        return self.racked

    def _place(self, turn: Turn_) -> None:
        target = turn.route.target
        node = None
        if target is Target.SHARE_SESSION:
            node = self.share_lane
        elif target is Target.STICKY:
            node = self.sticky_lane
        elif target is not Target.ANY:
            node = node_of(turn.route)
        self.lane = turn.node = next(n for n in (node, self.lane, ANY_NODE) if n is not None)
        if turn.key in (ApiKey.SHARE_FETCH, ApiKey.SHARE_ACKNOWLEDGE):
            self.share_lane = self.lane
        if target is Target.STICKY:
            self.sticky_lane = self.lane

    def _own(self, correlation_id: int) -> Turn_:
        body = apiversions.request(3, apiversions.ClientSoftware("c", "1"))
        request = request_frame(self.rng, 18, 3, correlation_id, body)
        ours = answer_frame(18, 3, correlation_id, apiversions.response(3, OFFER.answer))
        return Turn_(18, 3, request, Route(Target.ANY, 0), None, None, ours)

    def _list(self, key: int, version: int, correlation_id: int, request: bytes) -> Turn_:
        bodies = []
        for _ in range(self.rng.randrange(4)):
            oracle = oracle_for(self.rng, key, version)
            assert oracle is not None
            bodies.append(oracle.encode(key, version, "response", oracle.message(self.rng, key, version, "response")))
        join = answers.join_list_groups if key == ApiKey.LIST_GROUPS else answers.join_list_transactions
        ours = answer_frame(key, version, correlation_id, join(version, bodies))
        return Turn_(key, version, request, Route(Target.ALL, 0), None, None, ours, bodies)

    def _refused(self, key: int, version: int, correlation_id: int, request: bytes) -> Turn_:
        body = request[frames.request_body_at(request, 4, len(request)) :]
        refusal = answers.refuse_log_dirs(key, version, body, POLICY_VIOLATION)
        ours = answer_frame(key, version, correlation_id, refusal)
        return Turn_(key, version, request, Route(Target.REFUSE, 0), None, None, ours)


class RoutedTalk:
    """Plays one conversation through a RoutedExchange, as the shell does, and holds each step against the model."""

    def __init__(self, rng: Random, turns: int) -> None:
        self.rng = rng
        self.tally = Tally()
        self.directory = Directory()
        self.exchange = RoutedExchange(Front(OFFER, self.tally), advertise, self.directory)
        for session in (1, 7, 2**31 - 1):
            self.directory.learn_session(session, node_of(Route(Target.FETCH_SESSION, 0, number=session)) or 0)
        model = Model(rng)
        self.turns: list[Turn_] = []
        for _ in range(turns):
            last = self.turns[-1] if self.turns else None
            self.turns.append(model.turn(rng.choice((0, 1, 2, -1, 2**31 - 1)), last))
        self._unsent = b"".join(turn.request for turn in self.turns)
        self.for_client = b"".join(turn.for_client for turn in self.turns)
        self.got = 0
        self.expected: dict[int, bytes] = {}
        self._unasked: dict[int, list[Turn_]] = {}
        for turn in self.turns:
            if turn.forwarded is not None and turn.node is not None:
                self.expected[turn.node] = self.expected.get(turn.node, b"") + turn.forwarded
                self._unasked.setdefault(turn.node, []).append(turn)
        self._fan_outs = [turn.bodies for turn in self.turns if turn.bodies is not None]
        self.received: dict[int, bytes] = {}
        self._unread: dict[int, bytes] = {}
        self._answers: dict[int, bytes] = {}
        self._owner: int | None = None  # whom bytes went to last
        self._own_asks: dict[bytes, bytes] = {}
        self.own_answered: list[bytes] = []
        self.switches = 0

    def run(self, cut: Cut, hold_share: float = 0.0) -> None:
        """Play to the end; at any step a login may be renewed."""
        rng, exchange = self.rng, self.exchange
        patience = rng.choice((0.05, 0.5, 0.95))
        held = asked = False
        renewals = 0
        while self._unsent or any(self._answers.values()) or exchange.pending is not None or held:
            if not held and rng.random() < hold_share:
                held, asked = True, False
                renewals += 1
                exchange.hold()
            if held:
                asked = self._renew_step(asked=asked)
                if len(self.own_answered) == renewals:
                    held = False
                    assert exchange.release() == b""
            if exchange.pending is not None and rng.random() < 0.5:
                self._pending_step()
            elif self._unsent and rng.random() < patience:
                size = cut(rng, self._unsent, 0)
                data, self._unsent = self._unsent[:size], self._unsent[size:]
                self._upstream(exchange.from_client(data))
            elif owing := [node for node, unsent in self._answers.items() if unsent]:
                assert len(owing) == 1
                self._broker_step(owing[0], cut)
        self._check_end()

    def _renew_step(self, *, asked: bool) -> bool:
        """Ask something of our own once a request boundary is there; tell whether it was asked."""
        exchange = self.exchange
        if asked or not exchange.at_boundary:
            return asked
        if exchange.lane is None:
            self.own_answered.append(b"")
            return True
        ask = Ask(frames.request(17, 1, 99, "own", b"\x00\x05PLAIN"), 99, 17, 1)
        self._own_asks[ask.frame] = b"own-answer"
        self._hand(exchange.lane, exchange.ask(ask, self.own_answered.append))
        return True

    def _pending_step(self) -> None:
        """Do what the shell does with what is pending."""
        exchange, pending = self.exchange, self.exchange.pending
        if isinstance(pending, Turn):
            if exchange.quiet:
                self._upstream(exchange.proceed())
        elif isinstance(pending, Lookup):
            node = node_of(pending.route)
            if node is not None:
                self._teach(pending.route, node)
            self._upstream(exchange.proceed(give_up=node is None))
        elif isinstance(pending, Reach):
            exchange.reached(ANY_NODE if pending.node_id is None else pending.node_id)
            self._upstream(exchange.proceed())
        elif isinstance(pending, FanOut):
            exchange.join(pending, self._fan_outs.pop(0))
            self._upstream(exchange.proceed())

    def _teach(self, route: Route, node: int) -> None:
        if route.target in (Target.GROUP, Target.TXN):
            self.directory.learn_coordinators(int(route.target is Target.TXN), [route.name], [_coordinator(node)])
            return
        name = route.name if route.target is Target.LEADER_NAME else f"id-{route.topic_id.hex()}"
        partitions = [Partition(0, route.partition, node, -1)]
        self.directory.learn_topics([Topic(0, name, route.topic_id or NO_TOPIC_ID, partitions)])

    def _upstream(self, out: bytes) -> None:
        exchange = self.exchange
        if out:
            node = exchange.lane
            assert node in exchange._open
            if node != self._owner:
                assert not any(self._answers.values())
                self.switches += self._owner is not None
                self._owner = node
            self.received[node] = self.received.get(node, b"") + out
            assert self.expected[node].startswith(self.received[node])
            self._hand(node, out)
        self._client_gets(b"".join(exchange.replies))
        exchange.replies.clear()

    def _hand(self, node: int, data: bytes) -> None:
        """Let a broker read requests and answer each in its turn."""
        unread = self._unread.get(node, b"") + data
        while len(unread) >= 4 and len(unread) >= (end := 4 + INT32.unpack_from(unread)[0]):
            frame, unread = unread[:end], unread[end:]
            if frame in self._own_asks:
                answer: bytes | None = frames.response(99, 17, 1, self._own_asks.pop(frame))
            else:
                turn = self._unasked[node].pop(0)
                assert frame == turn.forwarded
                answer = turn.answer
            self._answers[node] = self._answers.get(node, b"") + (answer or b"")
        self._unread[node] = unread

    def _broker_step(self, node: int, cut: Cut) -> None:
        size = cut(self.rng, self._answers[node], 0)
        data, self._answers[node] = self._answers[node][:size], self._answers[node][size:]
        self._client_gets(self.exchange.from_broker(data))

    def _client_gets(self, out: bytes) -> None:
        assert self.for_client.startswith(out, self.got)
        self.got += len(out)

    def _check_end(self) -> None:
        exchange = self.exchange
        assert self.received == self.expected
        assert self.got == len(self.for_client)
        assert exchange.idle
        assert exchange.quiet
        assert not exchange._awaited
        assert not exchange._own
        assert not exchange._asked_coordinators
        counted: dict[int, int] = {}
        for turn in self.turns:
            counted[turn.key << 16 | turn.version] = counted.get(turn.key << 16 | turn.version, 0) + 1
        assert {key: count for key, count in self.tally.requests.items() if count} == counted


def _coordinator(node: int) -> Coordinator:
    return Coordinator(None, node, BROKER_HOST, 9092, 0)
