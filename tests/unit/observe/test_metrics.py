"""What a scrape holds for what was counted: names, types, bounds of labels, histograms summed up."""

from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from kproxy.core.errorcounts import UNKNOWN
from kproxy.core.lag import BOUNDS_SECONDS, Lag
from kproxy.core.latency import BOUNDS_SECONDS as LATENCY_BOUNDS_SECONDS
from kproxy.core.latency import Latencies
from kproxy.core.limits import Action, Client, LeakyBucket, Limits, Rule
from kproxy.core.tally import OTHERS, Tally
from kproxy.observe.metrics import PRINCIPALS_TOLD, Kept, Process, Snapshot, expose
from kproxy.service.tallies import ended, join
from kproxy.wire.apis import ApiKey


def snapshot(**counters: Any) -> Snapshot:
    """Make one of a program with these counters."""
    return Snapshot(
        version="1.2.3",
        started_at=1000.5,
        ready=True,
        draining=False,
        workers=1,
        workers_started=3,
        counters=counters,
        clusters={"main": {"brokers": {"1": {"up": True}, "2": {"up": False}}}},
        listener_clusters={"public": "main", "other": "main"},
        connections_max={"public": 100},
        descriptors_max=1024,
        processes=[Process("supervisor", 11, 1000, 2.5, 7, 4), Process("worker-0", 12, 1, 1, 1, 9, 3)],
    )


def scrape(taken: Snapshot, kept: Kept | None = None, bounds: tuple[float, ...] = ()) -> dict[str, Metric]:
    """Return the families by name."""
    text, content_type = expose(taken, "", kept or Kept(10), bounds)
    assert content_type.startswith("text/plain")
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def values(family: Metric) -> dict[tuple[str, ...], float]:
    """Return the values by labels, in the order of the labels' names."""
    return {
        tuple(label for _, label in sorted(sample.labels.items())): sample.value
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_a_program_that_has_just_begun() -> None:
    """Nothing counted is no error: what the program is, is told."""
    families = scrape(snapshot())
    assert values(families["kproxy_build_info"]) == {("1.2.3",): 1}
    assert values(families["kproxy_workers_started"]) == {(): 3}
    assert values(families["kproxy_process_cpu_seconds"])["supervisor",] == 2.5
    assert values(families["kproxy_connections_max"]) == {("public",): 100}
    assert "over all workers" in families["kproxy_connections_max"].documentation
    assert values(families["kproxy_process_max_descriptors"]) == {(): 1024}
    assert values(families["kproxy_process_open_descriptors"])["supervisor",] == 7
    assert values(families["kproxy_process_tasks"]) == {("supervisor",): 4, ("worker-0",): 9}
    assert values(families["kproxy_process_connections"]) == {("worker-0",): 3}
    assert values(families["kproxy_broker_up"]) == {("1", "main"): 1, ("2", "main"): 0}
    assert "kproxy_worker_loop_lag_seconds" not in families


def test_what_a_tally_counts_is_told() -> None:
    """Every number of a tally and of a limit is a series, with names as labels."""
    tally = Tally()
    for name in ("opened", "connections", "bytes_in", "bytes_out", "lost_bytes", "reauthentications"):
        setattr(tally, name, 5)
    tally.requests[3 << 16 | 12] += 2
    tally.dials_by_broker[1] += 4
    tally.dial_failures_by_broker[1] += 1
    limits = Limits([Rule("calm", LeakyBucket(rate=1, burst=0), key=("client_id",), action=Action.THROTTLE)])
    limits.enter(Client("public", "10.0.0.1", "User:ANONYMOUS", "a"), 0)
    told = tally.snapshot()
    families = scrape(
        snapshot(
            listeners={"public": told | {"in_flight": 3}, "other": told},
            limits=limits.counters(),
            login_failures={"main": 3},
        )
    )
    assert values(families["kproxy_requests"]) == {("Metadata", "public"): 2, ("Metadata", "other"): 2}
    assert values(families["kproxy_requests_in_flight"]) == {("public",): 3}
    assert values(families["kproxy_upstream_dials"]) == {("1", "main"): 8}
    assert values(families["kproxy_upstream_dial_failures"]) == {("1", "main"): 2}
    assert values(families["kproxy_upstream_login_failures"]) == {("main",): 3}
    for name in ("connections_opened", "connections", "received_bytes", "sent_bytes", "lost_bytes"):
        assert values(families[f"kproxy_{name}"]) == {("public",): 5, ("other",): 5}
    assert values(families["kproxy_limit_keys"]) == {("calm",): 1}
    decisions = ("delayed", "throttled", "rejected", "closed")
    assert values(families["kproxy_limit_decisions"]) == {(decision, "calm"): 0 for decision in decisions}


def test_the_request_log() -> None:
    """What a log has counted is told, of workers that have ended, too; nothing where there is none."""
    counts = {"entries": 10, "dropped": 4, "missed": 1, "waiting": 2}
    families = scrape(snapshot(request_log=join([counts, ended(counts)])))
    told = {name: values(families[f"kproxy_request_log_{name}"])[()] for name in counts}
    assert told == {"entries": 20, "dropped": 8, "missed": 2, "waiting": 2}
    assert "kproxy_request_log_waiting" not in scrape(snapshot(request_log=ended(counts)))
    assert not any("request_log" in name for name in scrape(snapshot(request_log={})))


def test_a_listener_of_dead_workers_only() -> None:
    """What stays of workers that have ended has no connections, and is told all the same."""
    families = scrape(snapshot(listeners={"public": {"opened": 2, "bytes_in": 3}}))
    assert values(families["kproxy_connections_opened"]) == {("public",): 2}
    assert values(families["kproxy_connections"]) == {}


def test_principals_are_bounded() -> None:
    """Those with the most connections are told apart, the rest together; the sum is that of all."""
    principals = {f"User:{number}": number for number in range(1, 101)} | {OTHERS: 7}
    told = values(scrape(snapshot(principals=principals))["kproxy_principal_connections"])
    assert len(told) == PRINCIPALS_TOLD + 1
    assert told[("User:100",)] == 100
    assert ("User:50",) not in told
    assert sum(told.values()) == sum(principals.values())


def test_client_ids_keep_their_series() -> None:
    """A client id that was told apart once is so for good; later ones are told together, and no sum goes down."""
    kept = Kept(2)
    first = {"public": {"client_ids": {"a": [1, 10, 100], "b": [2, 20, 200]}}}
    later = {"public": {"client_ids": {"c": [9, 90, 900], "a": [1, 10, 100], "b": [3, 20, 200], OTHERS: [1, 0, 0]}}}
    assert values(scrape(snapshot(listeners=first), kept)["kproxy_client_id_requests"]) == {("a",): 1, ("b",): 2}
    families = scrape(snapshot(listeners=later), kept)
    assert values(families["kproxy_client_id_requests"]) == {("a",): 1, ("b",): 3, (OTHERS,): 10}
    assert values(families["kproxy_client_id_sent_bytes"]) == {("a",): 100, ("b",): 200, (OTHERS,): 900}


@pytest.mark.parametrize("client_id", ['"quoted"', "new\nline", "back\\slash", "", "ключ", "}{"])
def test_odd_client_ids_are_escaped(client_id: str) -> None:
    """Whatever clients call themselves, the scrape can be read, and says the same."""
    families = scrape(snapshot(listeners={"public": {"client_ids": {client_id: [1, 2, 3]}}}))
    assert values(families["kproxy_client_id_requests"]) == {(client_id,): 1}


def test_histograms_are_summed_up() -> None:
    """Buckets are told as Prometheus has them, up to +Inf, for the loop's lag and for what else is measured."""
    lag = Lag()
    for seconds in (0.0, 0.02, 100.0):
        lag.note(seconds)
    latency = {"Fetch": {"kproxy": {"buckets": [1, 2, 3], "sum_seconds": 4.5}}}
    families = scrape(snapshot(loop_lag=lag.snapshot(), listeners={"public": {"latency": latency}}), bounds=(0.5, 1.0))
    told = {sample.labels["le"]: sample.value for sample in families["kproxy_worker_loop_lag_seconds"].samples[:-2]}
    assert len(told) == len(BOUNDS_SECONDS) + 1
    assert (told["0.001"], told["0.025"], told["5.0"], told["+Inf"]) == (1, 2, 2, 3)
    assert "kproxy_timed_errors" not in families
    durations = families["kproxy_request_duration_seconds"].samples
    assert [sample.value for sample in durations] == [1, 3, 6, 6, 4.5]
    assert durations[0].labels == {"listener": "public", "api": "Fetch", "part": "kproxy", "le": "0.5"}


def test_errors_by_api_and_name() -> None:
    """Errors of answers that were timed are told by API and name, beside how many answers that were."""
    tally = Tally()
    tally.latencies = Latencies()
    for code in (0, 27, 27, 25, 31999, 32000):
        tally.latencies.note(ApiKey.HEARTBEAT, 0.0, 0.1)
        if code:
            tally.latencies.errors.note(ApiKey.HEARTBEAT, code)
    families = scrape(snapshot(listeners={"public": join([tally.snapshot()] * 2)}), bounds=LATENCY_BOUNDS_SECONDS)
    assert values(families["kproxy_timed_errors"]) == {
        ("Heartbeat", "REBALANCE_IN_PROGRESS", "public"): 4,
        ("Heartbeat", "UNKNOWN_MEMBER_ID", "public"): 2,
        ("Heartbeat", UNKNOWN, "public"): 4,
    }
    counts = {
        sample.labels["part"]: sample.value
        for sample in families["kproxy_request_duration_seconds"].samples
        if sample.name.endswith("_count")
    }
    assert counts == {"kproxy": 12, "upstream": 12}
