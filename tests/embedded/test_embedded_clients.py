"""Three client libraries through the proxy to the mock cluster: what goes in comes out, and no address leaks."""

from collections.abc import Iterator

import pytest
from clients import ADDRESSINGS
from clients.aio import Aio
from clients.confluent import Confluent
from clients.kafkapython import KafkaPython
from clients.library import Library, Member, consume, produce, send_all
from clients.records import assert_exact, ends, make_records, new_name

from kproxy.testing.embedded import EmbeddedCluster
from kproxy.testing.proxy import ProxyProcess
from kproxy.testing.waiting import wait_until

PARTITIONS = 4
"""The mock makes topics with so many."""

LIBRARIES = (Confluent(), Aio(), KafkaPython())
each_library = pytest.mark.parametrize("library", LIBRARIES, ids=lambda one: one.name)


@pytest.fixture(scope="module", params=ADDRESSINGS)
def proxy(
    request: pytest.FixtureRequest,
    embedded_cluster: EmbeddedCluster,
    needles: tuple[bytes, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ProxyProcess]:
    """One proxy for all tests of this file."""
    proxy = ProxyProcess(
        tmp_path_factory.mktemp("proxy"),
        embedded_cluster.bootstrap,
        addressing=request.param,
        forbidden=needles,
    )
    proxy.start()
    yield proxy
    proxy.finish()


@each_library
def test_records_come_out_as_they_went_in(proxy: ProxyProcess, library: Library) -> None:
    """Every record comes out exactly once, with its key, in the order of its partition."""
    topic = new_name()
    records = make_records(5000, PARTITIONS, value_bytes=100)
    produce(library, proxy.address, topic, records, partitions=PARTITIONS)
    assert_exact(records, consume(library, proxy.address, topic, PARTITIONS))


@each_library
def test_big_records(proxy: ProxyProcess, library: Library) -> None:
    """Records just below 1 MiB come out as they went in."""
    topic = new_name()
    records = make_records(12, PARTITIONS, value_bytes=1_000_000)
    produce(library, proxy.address, topic, records, partitions=PARTITIONS)
    assert_exact(records, consume(library, proxy.address, topic, PARTITIONS))


@pytest.mark.parametrize(
    ("library", "codec"),
    [(library, codec) for library in LIBRARIES for codec in library.codecs if codec != "none"],
    ids=lambda one: one if isinstance(one, str) else one.name,
)
def test_compression(proxy: ProxyProcess, library: Library, codec: str) -> None:
    """Compressed batches pass untouched."""
    topic = new_name()
    records = make_records(2000, PARTITIONS, value_bytes=200)
    produce(library, proxy.address, topic, records, partitions=PARTITIONS, compression=codec)
    assert_exact(records, consume(library, proxy.address, topic, PARTITIONS))


def test_a_group_grows(proxy: ProxyProcess) -> None:
    """A second member of a group gets half of the partitions, and every record is read by one of the two.

    Only with librdkafka: the mock breaks the groups of the two others, with or without a proxy before it.
    """
    topic, group = new_name(), new_name("group")
    first, second = make_records(1000, PARTITIONS), make_records(1000, PARTITIONS, first=1000)
    produce(Confluent(), proxy.address, topic, first)
    members: list[Member] = [Confluent().member(proxy.address, topic, PARTITIONS, group=group) for _ in range(2)]
    with members[0] as alone:
        alone.wait(lambda: len(alone.records) == 1000, "the first half")
        with members[1]:
            wait_until(lambda: shared(members), 40, lambda: f"halves: {told(members)}")
            produce(Confluent(), proxy.address, topic, second, partitions=PARTITIONS)
            wait_until(lambda: members[0].ended | members[1].ended == {*range(PARTITIONS)}, 20, lambda: told(members))
    assert {*members[0].records, *members[1].records} == {*first, *second}


def test_a_group_of_one(proxy: ProxyProcess) -> None:
    """An aiokafka consumer joins, and reads all."""
    topic, records = new_name(), make_records(1000, PARTITIONS)
    produce(Aio(), proxy.address, topic, records, partitions=PARTITIONS)
    assert_exact(records, consume(Aio(), proxy.address, topic, PARTITIONS, group=new_name("group")))


def shared(members: list[Member]) -> bool:
    """Tell whether each has two partitions, all of them together."""
    both = [member.assignment for member in members]
    return all(len(one) == PARTITIONS // 2 for one in both) and len(frozenset().union(*both)) == PARTITIONS


def told(members: list[Member]) -> str:
    """Describe what they have."""
    return ", ".join(f"{set(member.assignment)} with {len(member.records)} records" for member in members)


def test_transactions(proxy: ProxyProcess) -> None:
    """Committed records come out.

    Only with librdkafka: the mock spoils the batches of the two others, with or without a proxy before it.
    """
    topic = new_name()
    batches = [make_records(200, PARTITIONS, first=at) for at in (0, 200)]
    with Confluent().producer(proxy.address, transactional_id=new_name("transaction")) as producer:
        for batch in (*batches, ends(PARTITIONS)):
            producer.begin()
            check = send_all(producer, topic, batch)
            producer.commit()
            check()
    records = [*batches[0], *batches[1]]
    assert_exact(records, consume(Confluent(), proxy.address, topic, PARTITIONS, read_committed=True))
