"""The admin API: what is asked over HTTP, and what is answered. ``admin`` serves it, ``guard`` stands before it.

::

    GET  /healthz               200 while the process lives
    GET  /readyz                200 while clients can be served: listeners are open, every cluster has a broker that
                                answers, and no drain has begun; 503 otherwise
    GET  /metrics               Prometheus
    GET  /status                the same as one JSON document
    GET  /config                the configuration at work, without secrets
    GET  /clients               who is connected, what each uses; POST /clients/ID/close ends one
    GET  /limits                each limit, what it does, and whom it holds up
    GET  /clusters              brokers, and whether they are up
    POST /drain                 stop as SIGTERM does
    GET  /openapi.json          all of this, for programs

    PUT  /config                apply a configuration; with ?dry_run=true tell what would be done
    POST /reload                apply the configuration file as it is now
"""

import asyncio
import resource
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kproxy import __version__
from kproxy.config.masked import masked
from kproxy.config.model import Config
from kproxy.core.latency import BOUNDS_SECONDS
from kproxy.errors import ConfigError, KproxyError
from kproxy.observe.metrics import Kept, Process, Snapshot, expose
from kproxy.service.clients import Clients
from kproxy.service.desk import Desk, Document
from kproxy.service.guard import AUTHORIZED
from kproxy.service.openapi import ENDPOINTS, RELOADING, document
from kproxy.service.reloads import Reloads
from kproxy.service.usage import usage

BODY_BYTES_MAX = 1024 * 1024
"""As a configuration file's (config.load)."""


@dataclass(slots=True)
class House:
    """What the API looks at, and what it can do."""

    config: Callable[[], Config]
    """The configuration at work."""
    desk: Desk
    draining: Callable[[], bool]
    drain: Callable[[], None]
    """Begin a drain, once."""
    pid: int
    """The supervisor's own."""
    started_at: float = field(default_factory=time.time)
    clock: Callable[[], float] = time.monotonic
    reloads: Reloads | None = None
    """None: the configuration cannot be changed while kproxy runs."""


class Api:
    """See the module; ``app`` is the ASGI application."""

    def __init__(self, house: House) -> None:
        """Look at ``house``."""
        self._house = house
        self._kept = Kept(house.config().metrics.max)
        self._clients = Clients(house.desk, house.clock)
        self._document: Document | None = None
        handlers: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "healthz": self.healthz,
            "readyz": self.readyz,
            "metrics": self.metrics,
            "status": self.status,
            "config": self.config,
            "clients": self.clients,
            "close_client": self.close_client,
            "limits": self.limits,
            "clusters": self.clusters,
            "drain": self.drain,
            "openapi": self.openapi,
        }
        self._endpoints = ENDPOINTS if house.reloads is None else ENDPOINTS + RELOADING
        if house.reloads is not None:
            handlers |= {"put_config": self.put_config, "reload": self.reload}
        routes = [Route(at.path, handlers[at.name], methods=[at.method], name=at.name) for at in self._endpoints]
        self.app = Starlette(routes=routes, exception_handlers={HTTPException: _refused, Exception: _failed})

    # Health.

    async def healthz(self, request: Request) -> Response:  # noqa: ARG002 - a handler's signature, here and below
        """Tell that the process lives."""
        return JSONResponse({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """Tell whether clients can be served, and to whom it may concern why not."""
        reasons = await self._not_ready()
        told: Document = {"ready": not reasons}
        if reasons and request.scope[AUTHORIZED]:
            told["reasons"] = reasons
        return JSONResponse(told, 503 if reasons else 200)

    async def _not_ready(self) -> list[str]:
        if self._house.draining():
            return ["draining"]
        return _reasons(await self._house.desk.ask("health"), self._house.desk.pids)

    # Looking in.

    async def metrics(self, request: Request) -> Response:
        """Write a scrape."""
        snapshot, _ = await self._snapshot()
        self._kept.ids_max = self._house.config().metrics.max
        text, content_type = expose(
            snapshot, request.headers.get("accept", ""), self._kept, latency_bounds=BOUNDS_SECONDS
        )
        return Response(text, headers={"Content-Type": content_type})

    async def status(self, request: Request) -> Response:  # noqa: ARG002
        """Tell the same as JSON."""
        now, reasons = await self._snapshot()
        return JSONResponse(
            {
                "version": now.version,
                "started_at": now.started_at,
                "ready": now.ready,
                "reasons": reasons,
                "draining": now.draining,
                "workers": now.workers,
                "workers_started": now.workers_started,
                "reloads": now.reloads,
                "connections_max": now.connections_max,
                "descriptors_max": now.descriptors_max,
                "processes": [
                    {
                        "name": process.name,
                        "pid": process.pid,
                        "resident_bytes": process.resident_bytes,
                        "cpu_seconds": process.cpu_seconds,
                        "descriptors": process.descriptors,
                        "tasks": process.tasks,
                        "connections": process.connections,
                    }
                    for process in now.processes
                ],
                "counters": now.counters,
                "clusters": now.clusters,
            }
        )

    async def _snapshot(self) -> tuple[Snapshot, list[str]]:
        house = self._house
        answers = await house.desk.ask("health", "counters", "use")
        reasons = ["draining"] if house.draining() else _reasons(answers, house.desk.pids)
        named = {"supervisor": house.pid} | {f"worker-{n}": pid for n, pid in enumerate(house.desk.pids)}
        used = {pid: answer.get("use", {}) for pid, answer in answers.items()}
        used[house.pid] = {"tasks": len(asyncio.all_tasks()), "connections": None}
        snapshot = Snapshot(
            version=__version__,
            started_at=house.started_at,
            ready=not reasons,
            draining=house.draining(),
            workers=len(house.desk.pids),
            workers_started=house.desk.started,
            counters=house.desk.counters(),
            clusters=_joined_clusters(answers),
            listener_clusters={name: listener.cluster for name, listener in house.config().listeners.items()},
            connections_max={name: listener.connections_max for name, listener in house.config().listeners.items()},
            descriptors_max=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            processes=[
                Process(name, pid, *found, **used.get(pid, {}))
                for name, pid in named.items()
                if (found := usage(pid)) is not None
            ],
            reloads={} if house.reloads is None else house.reloads.counts(),
        )
        return snapshot, reasons

    async def config(self, request: Request) -> Response:  # noqa: ARG002
        """Tell the configuration at work, without secrets."""
        return JSONResponse(masked(self._house.config()))

    async def clients(self, request: Request) -> Response:
        """List clients, those that match the query, page by page."""
        return JSONResponse(await self._clients.page(request.query_params))

    async def close_client(self, request: Request) -> Response:
        """End one client's connection."""
        client_id = request.path_params["client_id"]
        await self._clients.close(client_id)
        return JSONResponse({"closed": client_id})

    async def limits(self, request: Request) -> Response:  # noqa: ARG002
        """Tell each limit as it is configured, and what each worker makes of it."""
        answers = await self._house.desk.ask("limits")
        told = [
            {
                "name": limit.name,
                "limit": masked(limit),
                "workers": [
                    answer["limits"][limit.name]
                    for answer in answers.values()
                    if limit.name in answer.get("limits", {})  # a worker may be about to get it
                ],
            }
            for limit in self._house.config().limits
        ]
        return JSONResponse({"limits": told})

    async def clusters(self, request: Request) -> Response:  # noqa: ARG002
        """Tell brokers, and whether they are up."""
        return JSONResponse({"clusters": _joined_clusters(await self._house.desk.ask("health"))})

    # Doing.

    async def drain(self, request: Request) -> Response:  # noqa: ARG002
        """Begin to stop."""
        self._house.drain()
        return JSONResponse({"draining": True}, 202)

    async def put_config(self, request: Request) -> Response:
        """Apply the configuration that is sent, all or nothing; or tell what would be done."""
        query = request.query_params
        if set(query) - {"dry_run"} or query.get("dry_run", "false") not in {"true", "false"}:
            raise HTTPException(400, "unknown parameter; known: dry_run=true, dry_run=false")
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > BODY_BYTES_MAX:
                raise HTTPException(413, f"above {BODY_BYTES_MAX} bytes; this is no configuration of kproxy")
        try:
            text = body.decode()
        except UnicodeDecodeError:
            raise HTTPException(400, "not UTF-8; send the configuration as YAML in UTF-8") from None
        reloads = self._reloads()
        if query.get("dry_run") == "true":
            return await self._answered(reloads.plan(text))
        return await self._answered(reloads.apply(text, "admin API"))

    async def reload(self, request: Request) -> Response:  # noqa: ARG002
        """Apply the configuration file as it is now."""
        return await self._answered(self._reloads().apply(None, "admin API"))

    def _reloads(self) -> Reloads:
        assert self._house.reloads is not None  # noqa: S101  or there would be no such path
        return self._house.reloads

    async def _answered(self, change: Coroutine[Any, Any, Document]) -> Response:
        # A client that goes away amid it must not leave it half done.
        task = asyncio.ensure_future(change)  # noqa: TID251  shielded, and it ends by itself
        try:
            return JSONResponse(await asyncio.shield(task))
        except ConfigError as error:
            return JSONResponse({"error": "refused; nothing has changed", "mistakes": str(error).splitlines()}, 400)
        except KproxyError as error:
            return JSONResponse({"error": f"{error}; nothing has changed"}, 409)

    async def openapi(self, request: Request) -> Response:  # noqa: ARG002
        """Describe all of this."""
        if self._document is None:
            self._document = document(self._endpoints)
        return JSONResponse(self._document)


def _reasons(answers: Mapping[int, Document], pids: list[int]) -> list[str]:
    """Tell why clients cannot be served; nothing where they can."""
    if not pids:
        return ["no worker runs"]
    reasons = [f"worker {pid} does not answer" for pid in pids if pid not in answers]
    for answer in answers.values():
        reasons += [f"listener {name}: not open" for name, is_open in answer["open"].items() if not is_open]
        reasons += [
            f"cluster {name}: no broker answers"
            for name, cluster in answer["clusters"].items()
            if not any(broker["up"] for broker in cluster["brokers"].values())
        ]
    return list(dict.fromkeys(reasons))


def _joined_clusters(answers: Mapping[int, Document]) -> Document:
    """Join what workers know: a broker is up where it is so for all who know it."""
    joined: Document = {}
    for answer in answers.values():
        for name, cluster in answer["clusters"].items():
            known = joined.setdefault(name, {"cluster_id": cluster["cluster_id"], "brokers": {}})
            known["cluster_id"] = known["cluster_id"] or cluster["cluster_id"]
            for node_id, broker in cluster["brokers"].items():
                before = known["brokers"].setdefault(node_id, broker)
                known["brokers"][node_id] = before | {"up": before["up"] and broker["up"]}
    return joined


async def _refused(request: Request, error: Exception) -> Response:  # noqa: ARG001
    assert isinstance(error, HTTPException)  # noqa: S101  registered for these
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _failed(request: Request, error: Exception) -> Response:  # noqa: ARG001 - uvicorn logs it
    return JSONResponse({"error": "failed; see kproxy's log"}, 500)
