"""What ``kproxy doctor`` makes of answers, without a socket."""

import time
from email.utils import formatdate

import pytest

from kproxy.service.doctor import judge
from kproxy.service.doctor.findings import Finding, Level, fail, ok, skip, warn, worst
from kproxy.testing import fakeanswers
from kproxy.testing.fakeanswers import ClusterState
from kproxy.wire.apis import APIS, ApiKey
from kproxy.wire.apiversions import ApiVersionsAnswer

PROXY = frozenset({"10.0.0.5"})
OWN = judge.Own(frozenset({"kafka.example.com"}), PROXY, loopback=False)
TOLD = {1: ("kafka.example.com", 9094), 2: ("kafka.example.com", 9095)}
KPROXYS = {int(key): (api.min_version, api.max_version) for key, api in APIS.items()}


def texts(findings: list[Finding]) -> list[str]:
    """Return what they say."""
    return [finding.text for finding in findings]


def test_the_worst_counts() -> None:
    """Fail is worse than warn, that than what was not looked at, that than ok; nothing is ok."""
    found = [ok("a", ""), skip("a", ""), warn("a", "", ""), fail("a", "", "")]
    assert [worst(found[:end]) for end in range(5)] == [Level.OK, *Level]


@pytest.mark.parametrize(
    ("told", "ips", "text"),
    [
        (("0.0.0.0", 9095), {"0.0.0.0"}, "means every interface of a machine and is no address"),
        (("::", 9095), {"::"}, "means every interface of a machine and is no address"),
        (("", 9095), set(), "means every interface of a machine and is no address"),
        (("localhost", 9095), {"127.0.0.1", "::1"}, "is each client's own machine"),
        (("127.0.0.1", 9095), {"127.0.0.1"}, "is each client's own machine"),
        (("kproxy-7d9f", 9095), set(), "cannot be resolved here"),
        (("kafka.example.com", 0), PROXY, "has no port"),
        (("kafka.example.com", 65_536), PROXY, "has no port"),
        (("kafka2", 9092), {"10.0.0.12"}, "is not the proxy: a leak"),
    ],
)
def test_an_address_that_is_none_for_clients_is_told(told: judge.Address, ips: set[str], text: str) -> None:
    """Each kind of wrong address is named for what it is, and has a remedy."""
    finding = judge.address(2, told, frozenset(ips), OWN)
    assert finding is not None
    assert finding.level is Level.FAIL
    assert finding.text.startswith("broker 2 is told to be at ")
    assert finding.text.endswith(text)
    assert finding.remedy


@pytest.mark.parametrize(
    ("told", "ips", "own"),
    [
        (("KAFKA.example.com", 9095), {"192.0.2.1"}, OWN),
        (("another-name", 9095), {"10.0.0.5", "10.0.0.6"}, OWN),
        (("127.0.0.1", 9095), {"127.0.0.1"}, judge.Own(frozenset(), frozenset({"127.0.0.1"}), loopback=True)),
    ],
)
def test_an_address_of_the_proxy_is_good(told: judge.Address, ips: set[str], own: judge.Own) -> None:
    """By name or by what the name leads to; loopback where the proxy itself was reached so."""
    assert judge.address(2, told, frozenset(ips), own) is None


def test_shared_addresses() -> None:
    """One for all is a design that one client cannot use; one for some is a mistake; none is good."""
    assert judge.shared(TOLD) is None
    assert judge.shared({1: TOLD[1]}) is None
    single = judge.shared({1: TOLD[1], 2: TOLD[1]})
    assert single is not None
    assert (single.level, single.text) == (
        Level.WARN,
        "one address for all brokers, kafka.example.com:9094 for 1, 2: kafkajs loses records",
    )
    mistake = judge.shared({**TOLD, 3: TOLD[2]})
    assert mistake is not None
    assert (mistake.level, mistake.text) == (
        Level.FAIL,
        "some brokers share an address, kafka.example.com:9095 for 2, 3: requests end at the wrong one",
    )


def test_what_other_answers_name_must_be_what_metadata_told() -> None:
    """Another address for a broker, or a broker that Metadata does not have, is a leak."""
    assert list(judge.leaks("FindCoordinator", TOLD.items(), TOLD)) == []
    assert texts(list(judge.leaks("Produce", [(2, ("kafka2", 9092)), (3, ("kafka3", 9092))], TOLD))) == [
        "Produce names broker 2 at kafka2:9092; Metadata says kafka.example.com:9095",
        "Produce names broker 3 at kafka3:9092; Metadata does not know it",
    ]


@pytest.mark.parametrize("version", [0, 8, 9, 13])
def test_a_known_broker_is_found_anywhere_in_an_answer(version: int) -> None:
    """By host and port side by side, plain or compact; a host alone is none."""
    body = fakeanswers.metadata(version, ClusterState(brokers={1: ("kafka1", 9092)}), [])
    brokers = [("kafka1", 9092), ("kafka1", 9093), ("kafka2", 9092)]
    assert texts(list(judge.hidden("Metadata", body, brokers))) == [
        "Metadata holds the address of a broker, kafka1:9092"
    ]


def test_answers_name_what_they_name() -> None:
    """Metadata, FindCoordinator and DescribeCluster are read for nodes; what cannot be read says so."""
    state = ClusterState(brokers={1: ("kafka1", 9092), 2: ("kafka2", 9093)})
    named = list(state.brokers.items())
    assert judge.endpoints(ApiKey.METADATA, 12, fakeanswers.metadata(12, state, [])) == named
    assert judge.endpoints(ApiKey.DESCRIBE_CLUSTER, 1, fakeanswers.describe_cluster(1, state)) == named
    body = fakeanswers.find_coordinator(4, state, ["g"])
    assert judge.readable("FindCoordinator", 4, ApiKey.FIND_COORDINATOR, body) == (named[:1], None)
    none, finding = judge.readable("FindCoordinator", 4, ApiKey.FIND_COORDINATOR, body + b"\0")
    assert none == []
    assert finding is not None
    assert finding.text == "FindCoordinator v4 is offered, but its answer cannot be read: 1 bytes behind the body"


def test_a_kproxys_offer_is_good() -> None:
    """What kproxy itself can offer gives nothing to say."""
    assert list(judge.offer(ApiVersionsAnswer(ranges=KPROXYS))) == []


@pytest.mark.parametrize(
    ("changed", "level", "text"),
    [
        ({10_000: (0, 1), 10_003: (0, 0)}, Level.WARN, "API keys that Apache Kafka does not have: 10000, 10003"),
        ({int(ApiKey.METADATA): (0, 14)}, Level.WARN, "newer than this kproxy understands: Metadata v14"),
        ({int(ApiKey.PRODUCE): (0, 2)}, Level.FAIL, "not offered, not even so old: Produce v3"),
    ],
)
def test_an_offer_that_is_none_of_kproxys(changed: dict[int, tuple[int, int]], level: Level, text: str) -> None:
    """Unknown keys and versions are warned of, missing ones fail."""
    (finding,) = judge.offer(ApiVersionsAnswer(ranges=KPROXYS | changed))
    assert (finding.level, finding.text) == (level, text)


def test_apis_between_brokers_are_no_strangers() -> None:
    """Brokers do offer some of theirs to clients."""
    assert list(judge.offer(ApiVersionsAnswer(ranges=KPROXYS | {27: (0, 1)}))) == []


def test_metadata_without_brokers_or_controller() -> None:
    """No brokers is a failure, no controller among them a warning."""
    assert [finding.level for finding in judge.metadata({}, -1)] == [Level.FAIL]
    assert [finding.level for finding in judge.metadata(TOLD, 7)] == [Level.WARN]
    assert list(judge.metadata(TOLD, 2)) == []


def test_replicas() -> None:
    """Two replicas tell the same, or it is said what is different: cluster, ports, hosts, brokers."""
    there = "kproxy2:9092"
    assert texts(list(judge.replicas(there, TOLD, dict(TOLD), ("c", "c")))) == [f"{there} tells clients the same"]
    (other,) = judge.replicas(there, TOLD, TOLD, ("c", "d"))
    assert other.text == f"{there} leads to cluster d, this one to c"
    moved = {1: TOLD[1], 2: ("kafka.example.com", 9100)}
    (ports,) = judge.replicas(there, TOLD, moved, ("c", "c"))
    assert (ports.level, ports.text) == (Level.FAIL, f"{there} gives other ports: broker 2: 9095 here, 9100 there")
    elsewhere = {node: ("kproxy2", port) for node, (_, port) in TOLD.items()}
    (hosts,) = judge.replicas(there, TOLD, elsewhere, ("c", "c"))
    assert (hosts.level, hosts.text) == (Level.WARN, f"{there} gives another host: kproxy2, not kafka.example.com")
    (fewer,) = judge.replicas(there, TOLD, {1: TOLD[1]}, ("c", "c"))
    assert (fewer.level, fewer.text) == (Level.WARN, f"{there} does not know the same brokers: 2")


def test_addresses_of_one_proxy_agree() -> None:
    """A broker that one address tells to be elsewhere is a failure; one that it does not know is none."""
    assert judge.agree("here", {1: TOLD[1]}, TOLD) is None
    finding = judge.agree("here", {2: ("kafka2", 9092)}, TOLD)
    assert finding is not None
    assert finding.text == "here says broker 2 is at kafka2:9092, others say kafka.example.com:9095"


@pytest.mark.parametrize(
    ("broker", "level", "text"),
    [
        (1000.2, Level.OK, "the broker's is within 30 s of this machine's"),
        (971.0, Level.OK, "the broker's is within 30 s of this machine's"),
        (1031.0, Level.OK, "the broker's is within 30 s of this machine's"),
        (400.0, Level.WARN, "the broker's is 600 s behind this machine's"),
        (4601.0, Level.WARN, "the broker's is 3,600 s ahead of this machine's"),
    ],
)
def test_clocks(broker: float, level: Level, text: str) -> None:
    """A record sent at 1,000 and acknowledged at 1,001 was stamped between the two, give or take 30 s."""
    finding = judge.clock(1000, 1001, round(broker * 1000))
    assert (finding.level, finding.text) == (level, text)


@pytest.mark.parametrize(("days", "warned"), [(3.2, True), (15.2, False)])
def test_a_certificate_that_ends_soon(days: float, warned: bool) -> None:
    """Two weeks before its end a certificate is warned of; without one there is nothing to say."""
    now = time.time()
    day, month, year, clock = formatdate(now + days * 86_400, usegmt=True).split()[1:5]
    finding = judge.certificate({"notAfter": f"{month} {int(day):2d} {clock} {year} GMT"}, now)
    assert (finding is not None) == warned
    if finding:
        assert finding.text == "the certificate ends in 3 days"
    assert judge.certificate({}, now) is None
