"""A whole cluster replaced by another at other addresses, while clients send and read: its bootstrap is changed hot.

The old cluster's leaders have higher epochs than the new one's, as an older cluster's have.
"""

import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import confluent_kafka as ck
import pytest
from clients.aio import Aio
from clients.confluent import Confluent
from clients.fixtures import LOGIN
from clients.kafkapython import KafkaPython
from clients.library import Library, Member, Producer
from clients.records import END, Record, assert_exact, new_name
from clients.traffic import streams
from clients.verifiable import events
from confluent_kafka.admin import AdminClient, NewTopic

from kproxy.testing.java import Tool
from kproxy.testing.kafka import KafkaCluster
from kproxy.testing.ports import free_port_block
from kproxy.testing.proxy import ConfiguredProxy
from kproxy.testing.waiting import wait_until

LIBRARIES: tuple[Library, ...] = (Confluent(), Aio(), KafkaPython())

PARTITIONS = 4
COUNT = 1000
TRIES = 3

COORDINATOR_BEGINS = (
    ck.KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    ck.KafkaError.COORDINATOR_NOT_AVAILABLE,
    ck.KafkaError.NOT_COORDINATOR,
)

CONFIG = """
clusters: {{main: {{bootstrap: [{bootstrap}], sasl: {{username: {user}, password: {password}}}}}}}
listeners: {{public: {{bind: "127.0.0.1:{port}", addressing: {addressing}}}}}
"""

each_addressing = pytest.mark.parametrize("addressing", ["ports", "single"])


class Move:
    """Two clusters with the same topics, and a kproxy that is before the old one until ``go``."""

    def __init__(self, folder: Path, addressing: str, old: KafkaCluster, new: KafkaCluster) -> None:
        self.old, self.new = old, new
        self._addressing, self._port, self._path = addressing, free_port_block(4), folder / "kproxy.yaml"
        self._path.touch(mode=0o600)
        self._write(old)
        self.proxy = ConfiguredProxy(folder, self._path, f"127.0.0.1:{self._port}", "--log-format", "json")

    def _write(self, cluster: KafkaCluster) -> None:
        user, password = LOGIN
        bootstrap, port, addressing = cluster.sasl_bootstrap, self._port, self._addressing
        text = CONFIG.format(bootstrap=bootstrap, user=user, password=password, port=port, addressing=addressing)
        self._path.write_text(text, encoding="utf-8")

    def topics(self, count: int) -> list[str]:
        """Make topics in both."""
        names = [new_name() for _ in range(count)]
        for cluster in (self.old, self.new):
            admin = AdminClient({"bootstrap.servers": cluster.plain_bootstrap})
            for future in admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names]).values():
                future.result(30)
        return names

    def go(self) -> None:
        """Change the bootstrap, and wait until the new cluster is known."""
        self._write(self.new)
        self.proxy.signal(signal.SIGHUP)
        wait_until(lambda: "it is another cluster now" in self.proxy.log.read_text("utf-8"), 30, "the new cluster")


@contextmanager
def moving(folder: Path, addressing: str) -> Iterator[Move]:
    """Start all of it."""
    with KafkaCluster(folder / "old", 1) as old, KafkaCluster(folder / "new", 1) as new:
        move = Move(folder, addressing, old, new)
        move.proxy.start()
        yield move
        move.proxy.finish()


def age(cluster: KafkaCluster) -> None:
    """Raise the epochs of all leaders; if a producer has had an id of it, the next one's is from another thousand."""
    cluster.broker(1).stop()
    cluster.broker(1).start()


def fill(cluster: KafkaCluster, topics: Sequence[str], what: str, count: int) -> list[bytes]:
    """Write so many records to each topic, past the proxy; return their values."""
    values = [f"{what}-{number}".encode() for number in range(count)]
    producer = ck.Producer({"bootstrap.servers": cluster.plain_bootstrap})
    for topic in topics:
        for number, value in enumerate(values):
            producer.produce(topic, value, b"key", number % PARTITIONS)
        assert producer.flush(30) == 0
    return values


def stored(cluster: KafkaCluster, topic: str, isolation: str = "read_uncommitted") -> list[Record]:
    """Return what a topic holds, in the order of each partition."""
    address = cluster.plain_bootstrap
    options = {"bootstrap.servers": address, "group.id": "none", "log_level": 0, "isolation.level": isolation}
    consumer = ck.Consumer(options | {"enable.partition.eof": True})
    consumer.assign([ck.TopicPartition(topic, at, 0) for at in range(PARTITIONS)])
    found: list[Record] = []
    ended: set[int] = set()
    while len(ended) < PARTITIONS:
        for message in consumer.consume(500, 10):
            if (error := message.error()) is not None:
                assert error.code() == ck.KafkaError._PARTITION_EOF
                ended.add(message.partition())
            else:
                found.append(Record(message.partition(), message.key(), message.value()))
    consumer.close()
    return [record for record in found if record.value != END]


@pytest.mark.timeout(300)
@each_addressing
def test_another_cluster(tmp_path: Path, addressing: str) -> None:
    """No send fails; each record is in the old cluster or in the new one, once, and the new one has what came last."""
    with moving(tmp_path, addressing) as move:
        topics = move.topics(len(LIBRARIES))
        age(move.old)
        with streams(LIBRARIES, move.proxy.address, topics, PARTITIONS) as sending:
            for stream in sending:
                stream.wait_acked(500)
            move.go()
            for stream in sending:
                stream.wait_acked(500)
                stream.stop()
        for stream, library, topic in zip(sending, LIBRARIES, topics, strict=True):
            before, after = stored(move.old, topic), stored(move.new, topic)
            print(library.name, len(stream.sent), len(stream.failed), len(before), len(after))  # noqa: T201
            assert stream.failed == [], library.name
            assert after
            assert_exact(stream.sent, before + after)


@pytest.mark.timeout(300)
@each_addressing
@pytest.mark.parametrize("mirrored", [False, True], ids=["empty", "mirrored"])
def test_consumers(tmp_path: Path, addressing: str, *, mirrored: bool) -> None:
    """Whoever reads goes on by itself, and is given all that is written once its group is in the new cluster.

    Mirrored: half of the records are there beforehand, under other offsets, and the groups' offsets behind them.
    """
    # Two that differ in nothing that kproxy can see are taken for one client, of which one is sent back.
    classic, newest, alone = (
        Confluent(client_id="classic"),
        Confluent(client_id="newest", group_protocol="consumer"),
        Confluent(client_id="alone"),
    )
    others = LIBRARIES[1:]
    with moving(tmp_path, addressing) as move, ExitStack() as stack:
        kinds = [(library, True) for library in (classic, *others, newest)]
        kinds += [(library, False) for library in (alone, *others)]
        protocols = ("classic", "consumer")
        topics = move.topics(len(kinds) + len(protocols))
        groups = [new_name("group") for _ in topics]
        age(move.old)
        age(move.old)
        fill(move.old, topics, "old", COUNT)
        if mirrored:
            fill(move.new, topics, "old", COUNT // 2)
            admin = AdminClient({"bootstrap.servers": move.new.plain_bootstrap})
            for topic, group in zip(topics, groups, strict=True):
                offsets = [ck.TopicPartition(topic, at, COUNT // 2 // PARTITIONS) for at in range(PARTITIONS)]
                wanted = [ck.ConsumerGroupTopicPartitions(group, offsets)]
                admin.alter_consumer_group_offsets(wanted)[group].result(30)
        members: list[Member] = []
        for (library, grouped), topic, group in zip(kinds, topics, groups, strict=False):
            member = library.member(move.proxy.address, topic, PARTITIONS, group=group if grouped else None)
            members.append(stack.enter_context(member))
        outputs = [tmp_path / protocol for protocol in protocols]
        for protocol, output, topic, group in zip(protocols, outputs, topics[-2:], groups[-2:], strict=True):
            arguments = ("--bootstrap-server", move.proxy.address, "--topic", topic, "--group-id", group, "--verbose")
            more = ("--group-protocol", protocol, "--reset-policy", "earliest")
            with output.open("wb") as file:
                stack.callback(move.old.tools.popen(Tool.VERIFIABLE_CONSUMER, *arguments, *more, stdout=file).kill)
        for member in members:
            member.wait(lambda member=member: len(member.records) >= COUNT, "the old cluster's")  # type: ignore[misc]
        for output in outputs:
            wait_until(lambda output=output: _java_read(output, "old").total() >= COUNT, 60, "Java")  # type: ignore[misc]
        move.go()
        admin = AdminClient({"bootstrap.servers": move.new.plain_bootstrap})
        joined = [*groups[: len(LIBRARIES) + 1], *groups[-2:]]
        wait_until(lambda: _stable(admin, joined), 60, "the groups in the new cluster")
        values = Counter(fill(move.new, topics, "new", COUNT))
        for (library, grouped), member in zip(kinds, members, strict=True):
            member.wait(lambda member=member: set(_read(member, "new")) == set(values), library.name)  # type: ignore[misc]
            again = _read(member, "old").total() - COUNT
            twice = (_read(member, "new") - values).total()
            print(library.name, library is newest, grouped, "mirrored", again, "new ones twice", twice)  # noqa: T201
            assert mirrored or again == 0
        for protocol, output in zip(protocols, outputs, strict=True):
            wait_until(lambda output=output: set(_java_read(output, "new")) == set(values), 60, protocol)  # type: ignore[misc]
            print("Java", protocol, _java_read(output, "old").total() - COUNT)  # noqa: T201


def _goes_on(library: Library, producer: Producer, topic: str) -> bool:
    """Abort what has failed, and commit another transaction, as often as an application would try; tell of it."""
    for _ in range(TRIES):
        try:
            producer.abort()
            producer.begin()
            producer.send(topic, Record(0, b"key", b"after"), lambda *_: None)
            producer.commit()
        except Exception as error:  # noqa: BLE001  each library has its own; it is told
            print(library.name, type(error).__name__, error)  # noqa: T201
        else:
            print(library.name, "goes on")  # noqa: T201
            return True
    return False


def _stable(admin: AdminClient, groups: Sequence[str]) -> bool:
    for future in admin.describe_consumer_groups(list(groups)).values():
        error = future.exception(20)
        if isinstance(error, ck.KafkaException) and error.args[0].code() in COORDINATOR_BEGINS:
            return False
        if future.result().state != ck.ConsumerGroupState.STABLE:
            return False
    return True


def _read(member: Member, what: str) -> Counter[bytes]:
    return Counter(record.value for record in member.records if record.value.startswith(what.encode()))


def _java_read(path: Path, what: str) -> Counter[bytes]:
    return Counter(
        str(event["value"]).encode() for event in events(path, "record_data") if event["value"].startswith(what)
    )


@pytest.mark.timeout(300)
@each_addressing
def test_transactions(tmp_path: Path, addressing: str) -> None:
    """One that is open fails, and nothing of it is in the new cluster; a new producer of the same id goes on.

    The new cluster gives out other producer ids than the old one has, so that none is taken for a living other one.
    """
    with moving(tmp_path, addressing) as move:
        topics = move.topics(len(LIBRARIES))
        taken = ck.Producer({"bootstrap.servers": move.new.plain_bootstrap, "enable.idempotence": True})
        taken.produce(topics[0], b"the first thousand of ids is taken", b"key", 2)
        assert taken.flush(30) == 0
        age(move.new)
        producers = []
        for library, topic in zip(LIBRARIES, topics, strict=True):
            producer = library.producer(move.proxy.address, transactional_id=topic)
            for value in (b"committed", b"open"):
                producer.begin()
                producer.send(topic, Record(0, b"key", value), lambda *_: None)
                if value == b"committed":
                    producer.commit()
            producers.append(producer)
        living = Confluent().producer(move.proxy.address)
        results: list[Exception | None] = []
        living.send(topics[0], Record(1, b"key", b"living"), lambda _, error: results.append(error))
        living.flush()
        move.go()
        move.old.stop()  # whoever is still there would commit there
        for library, topic, producer in zip(LIBRARIES, topics, producers, strict=True):
            producer.send(topic, Record(0, b"key", b"open"), lambda *_: None)
            with pytest.raises(Exception, match=r"ProducerIdMapping|INVALID_PRODUCER_ID_MAPPING|batch delivery"):
                producer.commit()
            if not _goes_on(library, producer, topic):
                producer.abandon()
                with library.producer(move.proxy.address, transactional_id=topic) as another:
                    another.begin()
                    another.send(topic, Record(0, b"key", b"after"), lambda *_: None)
                    another.commit()
            else:
                producer.close()
            assert [one.value for one in stored(move.new, topic, "read_committed") if one.partition == 0] == [b"after"]
        for number in range(5):
            living.send(topics[0], Record(1, b"key", b"living"), lambda _, error: results.append(error))
            living.flush()
            with Confluent().producer(move.proxy.address) as fresh:
                fresh.send(topics[0], Record(1, b"key", b"%d" % number), lambda _, error: results.append(error))
        living.close()
        assert results == [None] * 11
        values = [one.value for one in stored(move.new, topics[0]) if one.partition == 1]
        assert sorted(values) == sorted([b"living"] * 5 + [b"%d" % number for number in range(5)])
