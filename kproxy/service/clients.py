"""The list of clients that the admin API tells: those of all workers, selected, with rates, and cut into pages.

::

    clients = Clients(desk, time.monotonic)
    await clients.page({"listener": "public", "limit": "2"})    {"clients": [...], "total": 7, "next": "71.public.4"}
    await clients.page({"breaks_at": "4.0"})                    each has breaks: {"Fetch": [2]}
    await clients.page({"rates": "1s"})                         each has rates: {"requests": 12.0, ...}

Rates are what workers tell twice, so far apart: nothing is kept for them, and they are of that time alone. Never here:
what a worker knows of a client (net.inventory).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from starlette.exceptions import HTTPException

from kproxy.config.values import parse_duration
from kproxy.service.desk import Desk, Document
from kproxy.wire.dropped import FIRST_VERSIONS

CLIENTS_MAX = 1000
"""How many clients one answer tells, half a megabyte; ``next`` leads to more."""

STALE_SECONDS = 1.0
"""For so long a list of clients serves those who turn its pages, so that 10,000 clients are not looked up ten times."""

RATES_SECONDS_MIN, RATES_SECONDS_MAX = 0.1, 10.0
"""What rates may be taken over: below it is chance, and above it whoever asks has other means, as Prometheus."""

RATES = ("requests", "bytes_in", "bytes_out")

NO_TLS = "none"
TLS_VERSIONS = ("TLSv1.2", "TLSv1.3")
"""Those that a listener may speak (tls.min_version)."""

_SAME = ("listener", "principal", "client_id", "software")
PARAMETERS = ("limit", "after", *_SAME, "tls", "breaks_at", "rates")


class Clients:
    """See the module."""

    def __init__(
        self,
        desk: Desk,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """Ask the workers of ``desk``."""
        self._desk = desk
        self._clock = clock
        self._sleep = sleep
        self._listed: list[Document] = []
        self._listed_for: float | None = None
        """Over how many seconds the list's rates are; None: it has none."""
        self._listed_at: float | None = None

    async def page(self, query: Mapping[str, str]) -> Document:
        """Return those who match, one page of them. Raises HTTPException for a query that is not right."""
        many, over_seconds = _checked(query)
        wanted = [client for client in await self._everybody(over_seconds) if _matches(client, query)]
        begin = 0
        if (after := query.get("after")) is not None:
            place = place_of(after)
            begin = sum(1 for client in wanted if place_of(client["id"]) <= place)
        page = wanted[begin : begin + many]
        more = begin + len(page) < len(wanted)
        if (release := query.get("breaks_at")) is not None:
            page = [client | {"breaks": _dropped(client, release)} for client in page]
        return {"clients": page, "total": len(wanted), "next": page[-1]["id"] if more else None}

    async def close(self, client_id: str) -> None:
        """End a client's connection. Raises HTTPException where there is none."""
        pid, listener, number = place_of(client_id)
        answer = await self._desk.tell(pid, {"close": [listener, number]})
        if answer is None or not answer.get("closed"):
            raise HTTPException(404, "there is no such client; GET /clients lists those there are")
        self._listed_at = None

    async def _everybody(self, over_seconds: float | None) -> list[Document]:
        at = self._listed_at
        if at is None or self._clock() - at > STALE_SECONDS or over_seconds != self._listed_for:
            listed = await (self._ask() if over_seconds is None else self._ask_twice(over_seconds))
            self._listed, self._listed_for, self._listed_at = listed, over_seconds, self._clock()
            return listed
        return self._listed

    async def _ask(self) -> list[Document]:
        answers = await self._desk.ask("clients")  # which others may have got as well, so they stay as they are
        found = [
            {"id": f"{pid}.{client['listener']}.{client['number']}"} | client
            for pid, answer in answers.items()
            for client in answer.get("clients", [])
        ]
        for client in found:
            del client["number"]
        return sorted(found, key=lambda client: place_of(client["id"]))

    async def _ask_twice(self, over_seconds: float) -> list[Document]:
        """List everybody with rates: null for one of whom a worker should have told the first time, and did not."""
        asked_at = time.time()
        before = {(client["id"], client["since"]): client for client in await self._ask()}
        began = self._clock()
        await self._sleep(over_seconds)
        listed = await self._ask()
        seconds = max(self._clock() - began, RATES_SECONDS_MIN)
        for client in listed:
            then = before.get((client["id"], client["since"]))
            if then is None and client["since"] >= asked_at:
                then = dict.fromkeys(RATES, 0)
            client["rates"] = then and {name: round((client[name] - then[name]) / seconds, 3) for name in RATES}
        return listed


def place_of(client_id: str) -> tuple[int, str, int]:
    """Take a client's id apart: its worker's pid, its listener, its number there; sorted so, a list keeps its order.

    Raises HTTPException where it is none.
    """
    pid, _, rest = client_id.partition(".")
    listener, _, number = rest.rpartition(".")
    if not all(part.isascii() and part.isdigit() and len(part) <= 18 for part in (pid, number)):
        raise HTTPException(404, "there is no such client; ids are those of GET /clients")
    return int(pid), listener, int(number)


def _checked(query: Mapping[str, str]) -> tuple[int, float | None]:
    """Return how many are wanted at most, and over how many seconds rates are, None: there are none."""
    unknown = set(query) - set(PARAMETERS)
    if unknown:
        raise HTTPException(400, f"unknown parameter {min(unknown)!r}; known: {', '.join(PARAMETERS)}")
    many = query.get("limit", str(CLIENTS_MAX))
    if not (many.isascii() and many.isdigit() and len(many) <= 9 and 1 <= int(many) <= CLIENTS_MAX):
        raise HTTPException(400, f"limit must be a number from 1 to {CLIENTS_MAX}")
    if query.get("tls", NO_TLS) not in (*TLS_VERSIONS, NO_TLS):
        raise HTTPException(400, f"tls must be {', '.join(TLS_VERSIONS)} or {NO_TLS}")
    if query.get("breaks_at", "4.0") not in FIRST_VERSIONS:
        raise HTTPException(400, f"breaks_at must be {' or '.join(FIRST_VERSIONS)}; the last is for later ones, too")
    return int(many), _over_seconds(query["rates"]) if "rates" in query else None


def _over_seconds(text: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError:
        seconds = 0.0
    if not RATES_SECONDS_MIN <= seconds <= RATES_SECONDS_MAX:
        bounds = f"{RATES_SECONDS_MIN * 1000:g}ms to {RATES_SECONDS_MAX:g}s"
        raise HTTPException(400, f"rates must be a duration from {bounds}, as in 1s")
    return seconds


def _matches(client: Document, query: Mapping[str, str]) -> bool:
    if any(client[name] != query[name] for name in _SAME if name in query):
        return False
    if "tls" in query and (client["tls"] or NO_TLS) != query["tls"]:
        return False
    return "breaks_at" not in query or bool(_dropped(client, query["breaks_at"]))


def _dropped(client: Document, release: str) -> dict[str, list[int]]:
    """Return the versions that a client uses and a release of Kafka no longer takes, by API."""
    found: dict[str, list[int]] = {}
    for api, first in FIRST_VERSIONS[release].items():
        if versions := sorted(version for version in map(int, client["apis"].get(api, ())) if version < first):
            found[api] = versions
    return found
