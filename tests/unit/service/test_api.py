"""The admin API before a house of which everything can be said, over a real server on a socket of its own."""

import asyncio
import os
import socket
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from clients.admin import Admin, Answer

from kproxy.config import values
from kproxy.config.admin import Admin as Configured
from kproxy.config.diff import Plan, Step
from kproxy.config.load import load
from kproxy.config.model import Config
from kproxy.errors import KproxyError
from kproxy.service.admin import AdminServer, unix_socket
from kproxy.service.api import BODY_BYTES_MAX, House
from kproxy.service.clients import CLIENTS_MAX, Clients
from kproxy.service.desk import Desk
from kproxy.service.openapi import ENDPOINTS, RELOADING, document
from kproxy.service.reloads import Origin, Reloads
from kproxy.service.supervisor import bound_socket

CONFIG = """\
clusters: {main: {bootstrap: [kafka1:9092], sasl: {username: u, password: hunter2}}}
listeners: {public: {bind: 127.0.0.1:9092}}
limits: [{name: calm, leaky_bucket: {rate: 1}}]
"""

UP = {"open": {"public": True}, "clusters": {"main": {"cluster_id": "c", "brokers": {"1": {"up": True}}}}}


def client(listener: str, number: int, **more: Any) -> dict[str, Any]:
    """Return what a worker tells of one."""
    told = {"number": number, "listener": listener, "client_id": None, "principal": "p", "software": None, "since": 1.0}
    return told | {"tls": None, "apis": {}, "requests": 0, "bytes_in": 0, "bytes_out": 0} | more


class Workers(Desk):
    """A desk whose workers answer what the test says."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        super().__init__()
        self.asked = 0
        self.answers: dict[int, dict[str, Any] | None] = dict(enumerate(answers, 100))
        for pid in self.answers:
            self.attach(pid, lambda _: None)

    async def tell(self, pid: int, message: dict[str, Any]) -> dict[str, Any] | None:
        """Answer."""
        self.asked += 1
        if "close" in message:
            return {"closed": message["close"] == ["public", 1]} if pid in self.answers else None
        answer = self.answers.get(pid)
        return None if answer is None else {**UP, **answer}


Ask = Callable[..., Awaitable[Answer]]


@asynccontextmanager
async def served(desk: Desk, reloads: Reloads | None = None, **house: Any) -> AsyncIterator[Ask]:
    """Serve a house; ask it with (method, path, body)."""
    admin = Admin()
    told: dict[str, Any] = {
        "draining": lambda: False,
        "drain": lambda: None,
        "pid": os.getpid(),
        "reloads": reloads,
        "config": lambda: load(CONFIG).config,
    } | house
    configured = Configured(bind=admin.address)  # type: ignore[arg-type]  # pydantic reads it
    server = AdminServer(configured, House(desk=desk, **told), bound_socket)
    server.open()

    async def ask(method: str, path: str, body: bytes | None = None) -> Answer:
        return await asyncio.to_thread(admin.send, method, path, body, {})

    try:
        yield ask
    finally:
        await server.close()


async def test_why_it_is_not_ready() -> None:
    """Each reason is told once; one worker that is not ready is enough."""
    closed = {"open": {"public": False}}
    down = {"clusters": {"main": {"cluster_id": None, "brokers": {"1": {"up": False}}}}}
    unknown: dict[str, Any] = {"clusters": {"main": {"cluster_id": None, "brokers": {}}}}
    for desk, reasons in (
        (Workers(), ["no worker runs"]),
        (Workers({}), []),
        (Workers({}, closed, closed), ["listener public: not open"]),
        (Workers({}, down, unknown), ["cluster main: no broker answers"]),
    ):
        async with served(desk) as ask:
            answer = await ask("GET", "/readyz")
            assert answer.json == ({"ready": False, "reasons": reasons} if reasons else {"ready": True})
            assert answer.status == (503 if reasons else 200)
    desk = Workers({}, {})
    desk.answers[101] = None
    async with served(desk) as ask:
        assert (await ask("GET", "/readyz")).json["reasons"] == ["worker 101 does not answer"]


async def test_a_broker_is_up_where_all_workers_reach_it() -> None:
    """What one worker cannot reach is down; what only one knows is told."""
    one = {"clusters": {"main": {"cluster_id": None, "brokers": {"1": {"up": True}, "2": {"up": True}}}}}
    other = {"clusters": {"main": {"cluster_id": "c", "brokers": {"1": {"up": False}, "3": {"up": True}}}}}
    async with served(Workers(one, other)) as ask:
        told = (await ask("GET", "/clusters")).json["clusters"]
    brokers = {"1": {"up": False}, "2": {"up": True}, "3": {"up": True}}
    assert told == {"main": {"cluster_id": "c", "brokers": brokers}}


async def test_clients_of_all_workers() -> None:
    """They are one list, in the same order whoever answers first, selected and cut into pages."""
    listed = [client("public", 2, client_id="a"), client("public", 10), client("other.one", 1, client_id="a")]
    async with served(Workers({"clients": listed}, {"clients": [client("public", 1, client_id="a")]})) as ask:
        everybody = (await ask("GET", "/clients")).json
        ids = ["100.other.one.1", "100.public.2", "100.public.10", "101.public.1"]
        assert [told["id"] for told in everybody["clients"]] == ids
        selected = (await ask("GET", "/clients?client_id=a&listener=public")).json
        assert [told["id"] for told in selected["clients"]] == ["100.public.2", "101.public.1"]
        page = (await ask("GET", "/clients?client_id=a&limit=2")).json
        assert ([told["id"] for told in page["clients"]], page["total"]) == (["100.other.one.1", "100.public.2"], 3)
        rest = (await ask("GET", f"/clients?client_id=a&after={page['next']}")).json
        assert ([told["id"] for told in rest["clients"]], rest["next"]) == (["101.public.1"], None)
        gone = (await ask("GET", "/clients?after=100.public.9")).json  # whoever stood there has left meanwhile
        assert [told["id"] for told in gone["clients"]] == ids[2:]


async def test_who_would_break() -> None:
    """Clients can be selected by TLS, and by using versions that a release of Kafka dropped, which are then told."""
    listed = [
        client("public", 1, tls="TLSv1.2", apis={"Fetch": {"3": 1, "4": 9, "10": 2}, "Produce": {"2": 5}}),
        client("public", 2, tls="TLSv1.3", apis={"JoinGroup": {"1": 1}, "Metadata": {"0": 1}}),
        client("public", 3, apis={"ShareFetch": {"0": 1}}),
        client("public", 4, tls="TLSv1.2", apis={"Fetch": {"4": 1}, "ApiVersions": {"0": 1}}),
    ]
    async with served(Workers({"clients": listed})) as ask:

        async def found(query: str) -> dict[str, Any]:
            answer = (await ask("GET", f"/clients?{query}")).json
            assert answer["total"] == len(answer["clients"])
            return {told["id"].rpartition(".")[2]: told.get("breaks") for told in answer["clients"]}

        assert await found("tls=TLSv1.2") == {"1": None, "4": None}
        assert await found("tls=none") == {"3": None}
        first = {"1": {"Produce": [2], "Fetch": [3]}}
        assert await found("breaks_at=4.0") == first | {"2": {"JoinGroup": [1]}}
        assert await found("breaks_at=4.1") == first | {"3": {"ShareFetch": [0]}}
        assert await found("breaks_at=4.0&tls=TLSv1.3") == {"2": {"JoinGroup": [1]}}


async def test_rates() -> None:
    """They are what was moved between two looks, also of who came in between; of whom nothing was told before: null."""
    later = time.time() + 1000
    looks = [
        {"clients": [client("public", 1, requests=100, bytes_in=1000, bytes_out=50), client("public", 2, requests=7)]},
        {
            "clients": [
                client("public", 1, requests=130, bytes_in=1000, bytes_out=53),
                client("public", 2, requests=3, since=later),  # another one, by the same number
                client("public", 3, requests=10, bytes_in=20, since=later),
                client("public", 4, requests=10),
            ]
        },
    ]
    now = 100.0
    desk = Workers(looks[0])

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds + 1.0  # somebody was late
        desk.answers[100] = looks[1]

    clients = Clients(desk, lambda: now, sleep)
    told = await clients.page({"rates": "2s", "limit": "2"})
    rest = await clients.page({"rates": "2s", "after": told["next"]})
    assert desk.asked == 2
    assert [one["rates"] for one in told["clients"] + rest["clients"]] == [
        {"requests": 10.0, "bytes_in": 0.0, "bytes_out": 1.0},
        {"requests": 1.0, "bytes_in": 0.0, "bytes_out": 0.0},
        {"requests": 3.333, "bytes_in": 6.667, "bytes_out": 0.0},
        None,
    ]
    assert "rates" not in (await clients.page({}))["clients"][0]


async def test_two_who_ask_at_once() -> None:
    """They get the same answer of the workers, and each its own."""
    async with served(Workers({"clients": [client("public", 1)]})) as ask:
        answers = await asyncio.gather(*(ask("GET", "/clients") for _ in range(10)))
    assert {answer.status for answer in answers} == {200}
    clients = Clients(Workers({"clients": [client("public", 1)]}), lambda: 0.0)
    pages = await asyncio.gather(clients.page({}), clients.page({}))
    assert pages[0] == pages[1]


async def test_turning_pages_costs_workers_nothing() -> None:
    """Within a second the list is the same; then it is asked for anew, and at once when somebody was closed."""
    now = 0.0
    desk = Workers({"clients": [client("public", 1)]})
    async with served(desk, clock=lambda: now) as ask:
        for _ in range(5):
            await ask("GET", "/clients")
        assert desk.asked == 1
        now = 1.5
        await ask("GET", "/clients")
        assert desk.asked == 2
        await ask("POST", "/clients/100.public.1/close")
        await ask("GET", "/clients")
        assert desk.asked == 4


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("limit=0", "limit must be a number from 1 to 1000"),
        (f"limit={CLIENTS_MAX + 1}", "limit must be"),
        ("limit=-1", "limit must be"),
        ("limit=9999999999999999999999", "limit must be"),
        ("limit=%D9%A3", "limit must be"),
        (
            "clientid=a",
            "unknown parameter 'clientid'; known: limit, after, listener, principal, client_id, software, tls",
        ),
        ("tls=1.2", "tls must be TLSv1.2, TLSv1.3 or none"),
        ("tls=", "tls must be"),
        ("breaks_at=4", "breaks_at must be 4.0 or 4.1; the last is for later ones, too"),
        ("rates=true", "rates must be a duration from 100ms to 10s, as in 1s"),
        ("rates=11s", "rates must be"),
        ("rates=99ms", "rates must be"),
        ("rates=-1s", "rates must be"),
    ],
)
async def test_a_query_that_is_not_right(query: str, text: str) -> None:
    """It is refused with a line that says what is."""
    async with served(Workers({})) as ask:
        answer = await ask("GET", f"/clients?{query}")
    assert answer.status == 400
    assert answer.json["error"].startswith(text)


@pytest.mark.parametrize(
    "client_id",
    ["100.public.2", "100.other.1", "999.public.1", "public.1", "x.public.1", "100..", "9" * 99, "..", "%00"],
)
async def test_a_client_that_is_not_there(client_id: str) -> None:
    """Closing it is a 404, whatever it is called."""
    async with served(Workers({})) as ask:
        assert (await ask("POST", f"/clients/{client_id}/close")).status == 404
        assert (await ask("POST", "/clients/100.public.1/close")).json == {"closed": "100.public.1"}


async def test_limits_are_as_configured() -> None:
    """Each limit is told with its options, and what every worker made of it."""
    async with served(Workers({"limits": {"calm": {"asked": 1}}}, {"limits": {"calm": {"asked": 2}}})) as ask:
        (limit,) = (await ask("GET", "/limits")).json["limits"]
    assert (limit["name"], limit["limit"]["leaky_bucket"]["rate"]) == ("calm", 1)
    assert limit["workers"] == [{"asked": 1}, {"asked": 2}]


async def test_no_secret_is_told() -> None:
    """Neither the configuration nor anything else shows the password."""
    async with served(Workers({})) as ask:
        for endpoint in ENDPOINTS:
            if endpoint.method == "GET":
                assert "hunter2" not in (await ask("GET", endpoint.path)).body


async def test_a_bug_is_a_500() -> None:
    """What fails is told without details, and the next request is served."""
    desk = Workers({})
    desk.answers[100] = {"clients": "nonsense"}
    async with served(desk) as ask:
        answer = await ask("GET", "/clients")
        assert (answer.status, answer.json) == (500, {"error": "failed; see kproxy's log"})
        assert (await ask("GET", "/healthz")).status == 200


class Changed:
    """A configuration that changes, or for which that is refused."""

    def __init__(self) -> None:
        self.config = load(CONFIG).config
        self.error: KproxyError | None = None
        self.reloads = Reloads(Origin(), lambda: self.config, self.change, lambda: None)

    async def change(self, config: Config, plan: Plan) -> None:
        """Carry a plan out."""
        assert plan
        if self.error is not None:
            raise self.error
        self.config = config


async def test_a_configuration_can_be_sent() -> None:
    """It is applied, and the plan is told; mistakes come back line by line, and what cannot be applied says why."""
    house = Changed()
    slower = CONFIG + "drain_timeout: 5s\n"
    async with served(Workers({}), house.reloads) as ask:
        applied = (await ask("PUT", "/config", f"{slower}# é".encode())).json
        assert applied["applied"] is True
        assert applied["plan"] == [str(Step(**step)) for step in applied["steps"]]
        assert house.config.drain_timeout == 5.0
        assert (await ask("PUT", "/config", slower.encode())).json["plan"] == []
        bad = await ask("PUT", "/config", b"clusters: {}")
        assert bad.status == 400
        assert bad.json["error"] == "refused; nothing has changed"
        assert bad.json["mistakes"][0].startswith("config:1:")
        assert (await ask("PUT", "/config", b"\xff")).status == 400
        assert (await ask("PUT", "/config", bytes(BODY_BYTES_MAX + 1))).status == 413
        house.error = KproxyError("worker 0 did not get ready")
        late = await ask("PUT", "/config", CONFIG.encode())
        assert (late.status, late.json) == (409, {"error": "worker 0 did not get ready; nothing has changed"})
        none = await ask("POST", "/reload")
        assert (none.status, "without --config" in none.json["error"]) == (409, True)
        scrape = (await ask("GET", "/metrics")).body
        status = (await ask("GET", "/status")).json
        described = (await ask("GET", "/openapi.json")).json["paths"]
    assert 'kproxy_reloads_total{result="succeeded"} 2.0' in scrape
    assert 'kproxy_reloads_total{result="refused"} 3.0' in scrape
    assert "kproxy_last_reload_time_seconds 1" in scrape
    assert (status["reloads"]["succeeded"], status["reloads"]["refused"]) == (2, 3)
    assert status["reloads"]["changed_at"] > 1
    assert (status["workers"], status["connections_max"]) == (1, {"public": 10_000})
    told = described["/status"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]["properties"]
    assert status.keys() == told.keys()
    assert described["/config"].keys() == {"get", "put"}
    assert described["/config"]["put"]["requestBody"]["content"].keys() == {"application/yaml", "application/json"}
    assert "put" not in document()["paths"]["/config"]


async def test_what_is_shown_can_be_sent_back() -> None:
    """PUT of what GET gave changes nothing; a secret that is not shown is asked for, and not replaced by its mask."""
    house = Changed()
    house.config = load(CONFIG.replace("password: hunter2", "password: {env: PATH}")).config
    async with served(Workers({}), house.reloads, config=lambda: house.config) as ask:
        shown = await ask("GET", "/config")
        told = await ask("PUT", "/config", shown.body.encode())
        assert (told.status, told.json["plan"]) == (200, [])
        house.config = load(CONFIG).config
        refused = await ask("PUT", "/config", (await ask("GET", "/config")).body.encode())
        assert refused.status == 400
        (mistake,) = refused.json["mistakes"]
        assert "clusters.main.sasl.password: *** stands for a secret that is not shown" in mistake
        assert house.config == load(CONFIG).config


async def test_a_plan_can_be_asked_for() -> None:
    """With dry_run=true nothing is applied or counted; a parameter that is not known is refused."""
    house = Changed()
    slower = (CONFIG + "drain_timeout: 5s\n").encode()
    async with served(Workers({}), house.reloads) as ask:
        told = (await ask("PUT", "/config?dry_run=true", slower)).json
        assert (told["applied"], len(told["plan"])) == (False, 1)
        assert (await ask("PUT", "/config?dry_run=yes", slower)).status == 400
        assert (await ask("PUT", "/config?dry-run=true", slower)).status == 400
    assert house.config == load(CONFIG).config
    assert house.reloads.counts() == {"succeeded": 0, "refused": 0, "changed_at": None}


def test_the_document_is_whole() -> None:
    """Each operation has a name of its own, a summary, and a description of each answer and parameter."""
    operations = [
        operation for path in document(ENDPOINTS + RELOADING)["paths"].values() for operation in path.values()
    ]
    names = [operation["operationId"] for operation in operations]
    assert len(names) == len(set(names)) == len(ENDPOINTS + RELOADING)
    for operation in operations:
        assert operation["summary"]
        assert all(answer["description"] for answer in operation["responses"].values())
        assert all(parameter["description"] for parameter in operation.get("parameters", ()))


# Its place.


async def test_a_socket_in_use_is_left_alone(tmp_path: Path) -> None:
    """A path that somebody listens on, or that is no socket, is refused; one that is left over is replaced."""
    path = tmp_path / "admin.sock"
    first = unix_socket(path)
    first.listen()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(OSError, match="in use"):
        unix_socket(path)
    first.close()
    unix_socket(path).close()
    file = tmp_path / "file"
    file.write_text("precious")
    server = AdminServer(Configured(bind=values.SocketPath(str(file))), house_of_nobody(), bound_socket)
    with pytest.raises(KproxyError, match=rf"^admin: {file}: address already in use$"):
        server.open()
    assert file.read_text() == "precious"
    with pytest.raises(KproxyError, match="no such file or directory"):
        AdminServer(
            Configured(bind=values.SocketPath(str(tmp_path / "gone" / "x"))), house_of_nobody(), bound_socket
        ).open()


async def test_a_port_in_use_is_told() -> None:
    """The line names the address and the reason."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = values.HostPort("127.0.0.1", taken.getsockname()[1])
        server = AdminServer(Configured(bind=bind), house_of_nobody(), bound_socket)
        with pytest.raises(KproxyError, match=rf"^admin: {bind}: address already in use$"):
            server.open()


def house_of_nobody() -> House:
    """Return a house without workers."""
    return House(lambda: load(CONFIG).config, Desk(), lambda: False, lambda: None, os.getpid())
