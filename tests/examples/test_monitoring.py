"""The dashboard and the alert rules speak of metrics, labels and causes that there are."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from kproxy.core.causes import Cause
from kproxy.core.lag import Lag
from kproxy.core.latency import BOUNDS_SECONDS, Latencies
from kproxy.observe.metrics import Kept, Process, Snapshot, expose
from kproxy.wire.apis import ApiKey
from kproxy.wire.errorcodes import ERROR_NAMES

EXAMPLES = Path(__file__).parents[2] / "examples"

OURS = re.compile(r"kproxy_[a-z_]+")
PROMETHEUS_OWN = {"instance", "job", "le"}


def everything() -> Snapshot:
    """Make a snapshot with at least one sample of each metric."""
    limit = dict.fromkeys(
        ("asked", "delayed", "throttled", "rejected", "closed", "delay_seconds", "keys", "keys_refused"), 1
    )
    numbers = ("opened", "connections", "in_flight", "bytes_in", "bytes_out", "lost_bytes", "reauthentications")
    listener: dict[str, Any] = dict.fromkeys(numbers, 1)
    listener |= {"requests": {"Fetch": 1}, "closed": {"idle": 1}, "client_ids": {"a": [1, 1, 1]}}
    listener |= {"dials_by_broker": {"1": 1}, "dial_failures_by_broker": {"1": 1}}
    latencies = Latencies()
    latencies.note(ApiKey.FETCH, 0.0, 0.1)
    latencies.errors.note(ApiKey.FETCH, 70)
    listener |= {"latency": latencies.snapshot(), "timed_errors": latencies.errors.snapshot()}
    counters = {
        "listeners": {"public": listener},
        "principals": {"User:a": 1},
        "limits": {"calm": limit},
        "login_failures": {"main": 1},
        "loop_lag": Lag().snapshot(),
        "request_log": dict.fromkeys(("entries", "dropped", "missed", "waiting"), 1),
    }
    return Snapshot(
        version="1",
        started_at=0,
        ready=True,
        draining=False,
        workers=1,
        workers_started=1,
        counters=counters,
        clusters={"main": {"brokers": {"1": {"up": True}}}},
        listener_clusters={"public": "main"},
        connections_max={"public": 1},
        processes=[Process("supervisor", 1, 1, 1, 1, 1, 1)],
        descriptors_max=1,
    )


@pytest.fixture(scope="module")
def known() -> dict[str, set[str]]:
    """Return the labels of each series that there is, by its name."""
    text, _ = expose(everything(), "", Kept(10), BOUNDS_SECONDS)
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def dashboard_expressions() -> list[str]:
    """Return what the dashboard asks Prometheus."""
    dashboard = json.loads((EXAMPLES / "grafana-dashboard.json").read_text(encoding="utf-8"))
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    return found + [at["query"] for at in dashboard["templating"]["list"] if at["type"] == "query"]


def rules() -> list[dict[str, Any]]:
    """Return the alert rules."""
    document = yaml.safe_load((EXAMPLES / "prometheus-alerts.yml").read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def check(expression: str, known: dict[str, set[str]]) -> None:
    """See that names and labels exist."""
    names = set(OURS.findall(expression))
    assert names <= known.keys(), names - known.keys()
    labels = set().union(PROMETHEUS_OWN, *(known[name] for name in names))
    used = set(re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)\s*\"", expression))
    for group in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression):
        used |= {label.strip() for label in group.split(",")}
    assert used <= labels, used - labels


def test_the_dashboard_shows_what_there_is(known: dict[str, set[str]]) -> None:
    """Each panel asks for metrics that exist, by labels they have, and none has the place of another."""
    expressions = dashboard_expressions()
    assert len(expressions) > 20
    for expression in expressions:
        check(expression, known)
    panels = json.loads((EXAMPLES / "grafana-dashboard.json").read_text(encoding="utf-8"))["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        for target in panel.get("targets", ()):
            shown = set(re.findall(r"{{([a-z_]+)}}", target.get("legendFormat", "")))
            grouped = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"\bby\s*\(([^)]*)\)", target["expr"]))))
            assert shown <= grouped, panel["title"]


def test_the_alerts_watch_what_there_is(known: dict[str, set[str]]) -> None:
    """Each rule is about metrics and causes that exist, has a severity, and says what to do."""
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names) > 10
    for rule in rules():
        check(rule["expr"], known)
        for causes in re.findall(r'cause=~"([^"]*)"', rule["expr"]):
            assert set(causes.split("|")) <= {str(cause) for cause in Cause}
        for errors in re.findall(r'error!?~"([^"]*)"', rule["expr"]):
            assert set(errors.split("|")) <= set(ERROR_NAMES.values())
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]


def test_most_of_what_there_is_is_shown(known: dict[str, set[str]]) -> None:
    """No metric is forgotten: each is in the dashboard or an alert, but for those that only explain others."""
    text = "\n".join(dashboard_expressions() + [rule["expr"] for rule in rules()])
    # client ids only where they are asked for
    unseen = {
        name for name in known if not name.startswith("kproxy_client_id_") and not re.search(rf"\b{name}\b", text)
    }
    assert unseen == {
        "kproxy_request_duration_seconds_sum",
        "kproxy_start_time_seconds",
        "kproxy_workers",
        "kproxy_worker_loop_lag_seconds_count",
        "kproxy_worker_loop_lag_seconds_sum",
    }
