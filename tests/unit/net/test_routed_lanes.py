"""One address before three brokers: where requests go, and what becomes of them when brokers leave."""

import asyncio

import pytest
from routed_stage import PATIENCE_SECONDS, Stage, heartbeat, list_offsets, named, produce, until

from kproxy.core.causes import Cause
from kproxy.net import routed
from kproxy.testing.plays import DEFAULT, Delay, Hold, Raw
from kproxy.wire.apis import ApiKey
from kproxy.wire.cluster import parse_metadata_response
from kproxy.wire.primitives import INT16, INT32, put_string

LIST_OFFSETS, HEARTBEAT, PRODUCE = ApiKey.LIST_OFFSETS, ApiKey.HEARTBEAT, ApiKey.PRODUCE


async def test_requests_reach_leaders_and_coordinators() -> None:
    """Whatever the order, each request is answered by the broker it is about; each broker is dialled once."""
    async with Stage() as stage, stage.client() as client:
        for _ in range(2):
            for partition, leader in enumerate((1, 2, 3, 1)):
                assert await client.ask(LIST_OFFSETS, 1, list_offsets("t", partition)) == b"%d" % leader
                assert await client.ask(HEARTBEAT, 0, heartbeat(f"g{leader}")) == b"%d" % leader
                assert await client.ask(PRODUCE, 7, produce("u", 0, 1, b"")) == b"2"
        assert [stage.connections(node) for node in (1, 2, 3)] == [1, 1, 1]


async def test_a_name_for_each_broker() -> None:
    """With {node} in the advertised host every broker has a name of its own, and clients begin with one of these."""
    async with Stage(advertised_host="b{node}.example.com") as stage, stage.client() as client:
        answer = parse_metadata_response(1, await client.ask(ApiKey.METADATA, 1, INT32.pack(0)))
        named_brokers = [(broker.host, broker.port) for broker in answer.brokers]
        assert named_brokers == [(f"b{node}.example.com", stage.port) for node in (1, 2, 3)]
        assert stage.listener.address == f"b1.example.com:{stage.port}"


async def test_pipelined_requests_are_answered_in_order() -> None:
    """Requests for three brokers in one write are answered in their order, however slow the first broker is."""
    async with Stage() as stage, stage.client() as client:
        stage.brokers[1].on(HEARTBEAT, Delay(0.2, named(stage.brokers[1])))
        groups = (1, 2, 3, 1, 3)
        client.writer.write(b"".join(client.frame(HEARTBEAT, 0, heartbeat(f"g{group}")) for group in groups))
        assert [await client.answer() for _ in groups] == [b"%d" % group for group in groups]


async def test_a_leader_that_died_is_replaced_without_notice() -> None:
    """A client whose lane's broker dies while idle keeps its connection, and its next request finds the new leader."""
    async with Stage() as stage, stage.client() as client:
        assert await client.ask(HEARTBEAT, 0, heartbeat("g3")) == b"3"
        assert await client.ask(LIST_OFFSETS, 1, list_offsets("u", 0)) == b"2"
        stage.cluster.state.topics["u"] = [3]
        await stage.brokers[2].stop()
        assert await client.ask(LIST_OFFSETS, 1, list_offsets("u", 0)) == b"3"
        assert await client.ask(PRODUCE, 7, produce("u", 0, 1, b"")) == b"3"
        assert stage.connections(3) == 1


async def test_each_request_of_a_dead_leader_finds_its_own() -> None:
    """What waits for a leader that died goes, request by request, to whoever leads its partition now."""
    async with Stage() as stage, stage.client() as client:
        stage.cluster.state.topics["w"] = [2, 2, 2]
        for partition in range(3):
            assert await client.ask(LIST_OFFSETS, 1, list_offsets("w", partition)) == b"2"
        stage.cluster.state.topics["w"] = [3, 1, 3]
        await stage.brokers[2].stop()
        sent = [produce("w", partition, 0, b"%d" % number) for number, partition in enumerate((0, 1, 2, 0, 1))]
        client.writer.write(b"".join(client.frame(PRODUCE, 7, body) for body in sent))
        assert await client.ask(LIST_OFFSETS, 1, list_offsets("w", 2)) == b"3"
        await stage.brokers[1].until_asked(PRODUCE, 2)
        await stage.brokers[3].until_asked(PRODUCE, 3)
        assert stage.asked(1, PRODUCE) == [sent[1], sent[4]]
        assert stage.asked(3, PRODUCE) == [sent[0], sent[2], sent[3]]


async def test_a_leader_elected_late_is_waited_for() -> None:
    """Where a leader is dead and no other elected yet, the request waits until one is."""
    async with Stage() as stage, stage.client() as client:
        assert await client.ask(HEARTBEAT, 0, heartbeat("g2")) == b"2"
        assert await client.ask(LIST_OFFSETS, 1, list_offsets("u", 0)) == b"2"
        await stage.brokers[2].stop()
        before = len(stage.brokers[1].of(ApiKey.METADATA) + stage.brokers[3].of(ApiKey.METADATA))
        await client.send(LIST_OFFSETS, 1, list_offsets("u", 0))
        await until(
            lambda: len(stage.brokers[1].of(ApiKey.METADATA) + stage.brokers[3].of(ApiKey.METADATA)) > before + 3
        )
        stage.cluster.state.topics["u"] = [1]
        assert await client.answer() == b"1"
        stage.cluster.state.coordinators["g2"] = 3
        assert await client.ask(HEARTBEAT, 0, heartbeat("g2")) == b"3"


async def test_a_topic_without_a_leader_is_asked_for_again() -> None:
    """A request for a partition without a leader goes once there is one."""
    async with Stage() as stage, stage.client() as client:
        stage.cluster.state.topics["new"] = [-1]
        await client.send(LIST_OFFSETS, 1, list_offsets("new", 0))
        before = len(stage.cluster.requests)
        await until(lambda: len(stage.cluster.requests) >= before + 2)
        stage.cluster.state.topics["new"] = [3]
        assert await client.answer() == b"3"


async def test_what_nobody_knows_any_broker_refuses() -> None:
    """A topic that does not exist and a broker that does not are any broker's to refuse, at once."""
    async with Stage() as stage, stage.client() as client:
        for broker in stage.brokers.values():
            broker.on(ApiKey.DESCRIBE_CONFIGS, named(broker))
        async with asyncio.timeout(3):  # less than the look-up's own patience
            assert await client.ask(LIST_OFFSETS, 1, list_offsets("nowhere", 0)) in (b"1", b"2", b"3")
            of_broker_99 = INT32.pack(1) + b"\x04" + put_string("99") + INT32.pack(-1)
            assert await client.ask(ApiKey.DESCRIBE_CONFIGS, 0, of_broker_99) in (b"1", b"2", b"3")


async def test_lookups_are_shared() -> None:
    """Many clients that want to know the same cause few questions, and none waits for another's answer."""
    async with Stage() as stage:
        clients = [await stage.client().__aenter__() for _ in range(20)]
        before = sum(len(broker.of(ApiKey.METADATA)) for broker in stage.brokers.values())
        for client in clients:
            await client.send(LIST_OFFSETS, 1, list_offsets("nowhere", 0))
        async with asyncio.timeout(3):
            for client in clients:
                assert await client.answer() in (b"1", b"2", b"3")
        asked = sum(len(broker.of(ApiKey.METADATA)) for broker in stage.brokers.values()) - before
        assert asked <= 20
        for client in clients:
            client.writer.close()


async def test_a_broker_that_hangs_is_not_asked_twice() -> None:
    """A broker that answers nothing does not keep a look-up from the others."""
    async with Stage() as stage:
        stage.brokers[1].mute()
        for number in range(6):
            async with stage.client() as client, asyncio.timeout(3):  # less than the time an answer may take
                stage.cluster.state.coordinators[f"group-{number}"] = 2
                assert await client.ask(HEARTBEAT, 0, heartbeat(f"group-{number}")) == b"2"
        stage.brokers[1].unmute()


async def test_nobody_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no broker is up at all the client is closed after a broker's patience, not an election's."""
    monkeypatch.setattr(routed, "LOOKUP_SECONDS", 0.3)
    async with Stage() as stage, stage.client() as client:
        for broker in stage.brokers.values():
            await broker.stop()
        await client.send(HEARTBEAT, 0, heartbeat("g1"))
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await client.ended()
        assert stage.tally.closed[Cause.BROKER_UNREACHABLE] == 1


async def test_lists_are_those_of_all_brokers() -> None:
    """ListGroups is answered with the groups of all brokers, in its place among other answers."""
    async with Stage() as stage, stage.client() as client:
        for node, broker in stage.brokers.items():
            group = put_string(f"g{node}") + put_string("consumer")
            broker.on(ApiKey.LIST_GROUPS, INT16.pack(0) + INT32.pack(1) + group)
        for key, body in ((HEARTBEAT, heartbeat("g2")), (ApiKey.LIST_GROUPS, b""), (HEARTBEAT, heartbeat("g3"))):
            client.writer.write(client.frame(key, 0, body))
        assert await client.answer() == b"2"
        joined = await client.answer()
        assert joined[:6] == INT16.pack(0) + INT32.pack(3)
        assert all(put_string(f"g{node}") in joined for node in stage.brokers)
        assert await client.answer() == b"3"


async def test_log_directories_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """DescribeLogDirs is refused by kproxy itself, and the log says why, once."""
    async with Stage() as stage, stage.client() as client:
        for _ in range(3):
            assert INT16.pack(44) in await client.ask(ApiKey.DESCRIBE_LOG_DIRS, 1, INT32.pack(-1))
    assert capsys.readouterr().out.count("log directories cannot be told") == 1


async def test_a_broker_that_dies_while_it_owes() -> None:
    """Where a broker dies with an answer owed the client is closed; what waits for another broker arrives there."""
    async with Stage() as stage, stage.client() as client:
        stage.brokers[1].on(HEARTBEAT, Hold(asyncio.Event(), DEFAULT))
        assert await client.ask(HEARTBEAT, 0, heartbeat("g2")) == b"2"
        behind = produce("u", 0, 0, b"records")
        client.writer.write(client.frame(HEARTBEAT, 0, heartbeat("g1")) + client.frame(PRODUCE, 7, behind))
        await stage.brokers[1].until_asked(HEARTBEAT)
        await stage.brokers[1].stop()
        assert await client.ended()
        await stage.brokers[2].until_asked(PRODUCE)
        assert stage.asked(2, PRODUCE) == [behind]
        assert stage.tally.closed[Cause.BROKER_CLOSED] == 1


async def test_an_idle_lane_ends_unnoticed() -> None:
    """The end of a lane that is not in use costs the client nothing: it is dialled again when it is wanted."""
    async with Stage() as stage, stage.client() as client:
        for group in (1, 2):
            assert await client.ask(HEARTBEAT, 0, heartbeat(f"g{group}")) == b"%d" % group
        stage.brokers[1].close_connections()
        await stage.brokers[1].until(lambda: stage.brokers[1].open_connections == 1, what="kproxy's own connection")
        for group in (2, 1, 2):
            assert await client.ask(HEARTBEAT, 0, heartbeat(f"g{group}")) == b"%d" % group
        assert stage.tally.closed[Cause.BROKER_CLOSED] == 0


async def test_any_broker_is_another_when_it_died() -> None:
    """What may go to any broker does not wait for one that is gone."""
    async with Stage() as stage, stage.client() as client:
        for broker in stage.brokers.values():
            broker.on(ApiKey.CREATE_TOPICS, named(broker))
        first = int(await client.ask(ApiKey.CREATE_TOPICS, 2, b"any"))
        await stage.brokers[first].stop()
        async with asyncio.timeout(0.9):  # less than a dead broker's patience
            assert int(await client.ask(ApiKey.CREATE_TOPICS, 2, b"any")) != first


async def test_a_broker_nobody_replaces() -> None:
    """Where a leader stays dead and no other is elected the client is closed in the end, and its acks=0 counted."""
    async with Stage() as stage, stage.client() as client:
        assert await client.ask(LIST_OFFSETS, 1, list_offsets("u", 0)) == b"2"
        await stage.brokers[2].stop()
        lost = client.frame(PRODUCE, 7, produce("u", 0, 0, b"records"))
        client.writer.write(lost)
        assert await client.ended()
        assert stage.tally.closed[Cause.BROKER_UNREACHABLE] == 1
        assert stage.tally.lost_bytes == len(lost)


async def test_brokers_that_refuse_our_login() -> None:
    """Where the brokers refuse kproxy's credentials a client is held, not hammered, and closed with that cause."""
    async with Stage() as stage, stage.client() as client:
        stage.brokers[2].users = {"u": "another"}
        await client.send(LIST_OFFSETS, 1, list_offsets("u", 0))
        assert await client.ended()
        assert stage.tally.closed[Cause.BROKER_LOGIN_FAILED] == 1
        assert stage.tally.login_failures == 1


async def test_a_leader_that_only_refuses_us() -> None:
    """A leader that runs and cannot be connected to is asked after, and replaced as soon as another leads."""
    async with Stage() as stage, stage.client() as client:
        stage.brokers[2].refuse()
        before = sum(len(broker.of(ApiKey.METADATA)) for broker in stage.brokers.values())
        await client.send(LIST_OFFSETS, 1, list_offsets("u", 0))
        await until(lambda: sum(len(broker.of(ApiKey.METADATA)) for broker in stage.brokers.values()) > before + 1)
        stage.cluster.state.topics["u"] = [1]
        assert await client.answer() == b"1"


async def test_a_broker_that_breaks_a_listing() -> None:
    """A listing that is none ends the client's connection: half a list would pass for all of it."""
    async with Stage() as stage, stage.client() as client:
        stage.cluster.on(ApiKey.LIST_GROUPS, b"\0\0\7\7\7\7")
        await client.send(ApiKey.LIST_GROUPS, 0, b"")
        assert await client.ended()
        assert stage.tally.closed[Cause.MALFORMED_ANSWER] == 1


async def test_garbage_from_the_client() -> None:
    """What is no request ends the connection at once, or when its turn comes behind a look-up."""
    garbage = INT32.pack(3) + b"???????"
    async with Stage() as stage:
        for before in (b"", heartbeat("g1")):
            async with stage.client() as client:
                client.writer.write((client.frame(HEARTBEAT, 0, before) if before else b"") + garbage)
                assert await client.ended()
        assert stage.tally.closed[Cause.MALFORMED_REQUEST] == 2


async def test_a_share_session_ends_with_its_lane() -> None:
    """A share consumer is closed when the broker that holds its session closes the connection, in use or not."""
    async with Stage() as stage, stage.client() as client:
        stage.brokers[2].on(ApiKey.SHARE_ACKNOWLEDGE, bytes(4 + 2) + b"\0\1\1\0")
        topic_id = stage.cluster.state.topic_id("u")
        session = b"\2g\2m" + INT32.pack(1) + b"\2" + topic_id + b"\2" + INT32.pack(0) + b"\1\0\0\0"
        await client.ask(ApiKey.SHARE_ACKNOWLEDGE, 1, session)
        assert await client.ask(HEARTBEAT, 0, heartbeat("g1")) == b"1"
        stage.brokers[2].close_connections()
        assert await client.ended()


@pytest.mark.parametrize("in_use", [True, False])
async def test_a_lane_that_speaks_out_of_turn(*, in_use: bool) -> None:
    """A broker that sends what nobody asked it for ends the client's connection; nothing of it gets through."""
    async with Stage() as stage, stage.client() as client:
        later = asyncio.Event()
        stage.brokers[1].on(ApiKey.PRODUCE, Hold(later, Raw(b"\0\0\0\6\0\0\0\1ab")))
        client.writer.write(client.frame(PRODUCE, 7, produce("t", 0, 0, b"")))
        if not in_use:
            assert await client.ask(HEARTBEAT, 0, heartbeat("g2")) == b"2"
        later.set()
        assert await client.ended()
        assert stage.tally.closed[Cause.MALFORMED_ANSWER] == 1
