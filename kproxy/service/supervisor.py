"""The supervisor process: it owns the listening sockets, starts the worker, replaces one that died, and ends it.

No traffic passes here, so nothing here can delay traffic. A replaced worker takes the sockets over as they are: no
client is refused in between. Signals: SIGTERM and SIGINT drain, a second one stops at once; SIGUSR1 logs the counters.
"""

import asyncio
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click
import structlog

from kproxy.config.model import Config
from kproxy.errors import KproxyError
from kproxy.observe import log
from kproxy.service import build, loop
from kproxy.service.channel import Channel, Message
from kproxy.service.desk import Desk
from kproxy.service.worker import Order

if TYPE_CHECKING:
    from kproxy.service.admin import AdminServer

_log = structlog.get_logger(__name__)

RESTART_SECONDS = 0.1
RESTART_SECONDS_MAX = 5.0
FAILURES_MAX = 5
"""A worker that dies so often without ever having served is not started again."""

ECHO_SECONDS = 0.1
"""A second signal to stop so soon after the first is its echo: uvloop can deliver one twice when another arrives at the
same moment, such as a SIGUSR1 before it (seen with uvloop 0.23 in one of three tries)."""

KILL_AFTER_SECONDS = 5.0
"""What a worker may take beyond its drain before it is killed."""


def run(config: Config, *, log_format: log.LogFormat, log_level: log.LogLevel) -> int:
    """Serve until asked to stop; return the exit code: 0 stopped cleanly, 1 failed."""
    raise_descriptor_limit()
    return loop.run(_serve(Order(config, log_format, log_level)))


async def _serve(order: Order) -> int:
    return await Supervisor(order).run()


def raise_descriptor_limit() -> None:
    """Take as many file descriptors as the system lets us; two are needed per client."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # an unlimited hard limit may be above what the kernel takes
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _log.info("file descriptors", limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0], clients_about=hard // 2)


class Supervisor:
    """One running kproxy."""

    def __init__(self, order: Order) -> None:
        """Prepare to run what ``order`` says."""
        self._order = order
        self._hosts = build.bind_hosts(order.config)
        self._sockets: dict[tuple[str, int | None], socket.socket] = {}
        self._worker: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._failed: str | None = None
        self._served = False
        self._stops = 0
        self._stopped_at = 0.0
        self._stop = asyncio.Event()
        self._desk = Desk()
        self._admin: AdminServer | None = None

    async def run(self) -> int:
        """Keep a worker running until told to stop; return the exit code."""
        running = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            running.add_signal_handler(number, self._asked_to_stop)
        running.add_signal_handler(signal.SIGUSR1, self._asked_for_tally)
        failures, pause = 0, RESTART_SECONDS
        try:
            self._open_admin()
        except KproxyError as error:
            click.echo(f"kproxy: {error}", err=True)
            return 1
        try:
            while True:
                self._served = False
                code = await self._run_worker()
                if self._stops:
                    return 0 if code == 0 or self._stops > 1 else 1
                if self._failed is not None:
                    click.echo(f"kproxy: {self._failed}", err=True)
                    return 1
                failures = 0 if self._served else failures + 1
                _log.error("worker died; starting another", exit_code=code)
                if failures >= FAILURES_MAX:
                    click.echo(f"kproxy: the worker died {failures} times before it could serve; see its log", err=True)
                    return 1
                pause = RESTART_SECONDS if self._served else min(pause * 2, RESTART_SECONDS_MAX)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._stop.wait()
                        return 0
        finally:
            self._close_sockets()
            if self._admin is not None:
                await self._admin.close()

    def _open_admin(self) -> None:
        """Serve the admin API, where there is to be one. Raises KproxyError."""
        admin = self._order.config.admin
        if admin is None:
            return
        api, server = import_module("kproxy.service.api"), import_module("kproxy.service.admin")
        house = api.House(
            config=lambda: self._order.config,
            desk=self._desk,
            draining=lambda: self._stops > 0,
            drain=lambda: None if self._stops else self._asked_to_stop(),
            pid=os.getpid(),
        )
        self._admin = server.AdminServer(admin, house, bound_socket)
        self._admin.open()

    async def _run_worker(self) -> int:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._worker = subprocess.Popen(  # noqa: ASYNC220, S603  our own program; it returns at once
                [sys.executable, "-m", "kproxy.service.worker", str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=self._stdout(),
                pass_fds=(theirs.fileno(),),
            )
        assert self._worker.stdin is not None  # noqa: S101  asked for above
        with suppress(BrokenPipeError), self._worker.stdin as pipe:
            pickle.dump(self._order, pipe)
        self._channel = Channel(ours, self._heard)
        self._desk.attach(self._worker.pid, self._channel.send)
        if self._stops:
            self._channel.send({"drain": True})
        exited = asyncio.get_running_loop().run_in_executor(None, self._worker.wait)
        code = await self._wait_for(exited)
        self._desk.detach(self._worker.pid)
        self._channel.close()
        return code

    def _stdout(self) -> int | None:
        """A worker writes nothing but the request log to standard output, where that is wanted there."""
        log = self._order.config.request_log
        return None if log is not None and log.to == "stdout" else subprocess.DEVNULL

    async def _wait_for(self, exited: asyncio.Future[int]) -> int:
        await asyncio.wait(
            (exited, stop := asyncio.ensure_future(self._stop.wait())),  # noqa: TID251  awaited here
            return_when=asyncio.FIRST_COMPLETED,
        )
        stop.cancel()
        if not exited.done():
            config = self._order.config
            flush = config.request_log.flush_timeout if config.request_log else 0.0
            limit = config.drain_timeout + flush + KILL_AFTER_SECONDS
            with suppress(TimeoutError):
                async with asyncio.timeout(limit):
                    await asyncio.shield(exited)
            if not exited.done() and self._worker is not None:
                _log.error("worker does not end; killing it")
                self._worker.kill()
        return await exited

    def _asked_to_stop(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._stops and now - self._stopped_at < ECHO_SECONDS:
            return
        self._stopped_at = now
        self._stops += 1
        self._stop.set()
        if self._stops == 1:
            _log.info("draining", timeout_seconds=self._order.config.drain_timeout)
            self._close_sockets()
            if self._channel is not None:
                self._channel.send({"drain": True})
        elif self._worker is not None:
            _log.info("stopping at once")
            self._worker.kill()

    def _asked_for_tally(self) -> None:
        """Have the worker send its counters now; they are logged as at the end."""
        if self._channel is not None:
            self._channel.send({"tally": True})

    def _heard(self, message: Message, descriptors: list[int]) -> None:
        if self._desk.heard(message, descriptors):
            return
        for descriptor in descriptors:  # workers send none
            os.close(descriptor)
        if "socket" in message:
            self._hand_over(message)
        elif "release" in message:
            sock = self._sockets.pop((message["release"], message["node_id"]), None)
            if sock is not None:
                sock.close()
        elif "ready" in message:
            self._served = True
            for name, address in message["ready"]:
                click.echo(f"{name}: clients connect to {address}")
        elif "failed" in message:
            self._failed = message["failed"]
            if self._worker is not None:
                self._worker.terminate()
        elif "tally" in message:
            _log.info("tally", **message["tally"])

    def _hand_over(self, message: Message) -> None:
        assert self._channel is not None  # noqa: S101  the message came through it
        answer: dict[str, Any] = {"socket": message["socket"]}
        name, node_id = message["listener"], message["node_id"]
        sock = self._sockets.get((name, node_id))
        if sock is None:
            host, port = self._hosts[name], message["port"]
            try:
                sock = bound_socket(host, port)
            except OSError as error:
                reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
                whose = "" if node_id is None else f" for broker {node_id}"
                self._channel.send(answer | {"error": f"listener {name}: {host}:{port}{whose}: {reason}"})
                return
            self._sockets[name, node_id] = sock
        self._channel.send(answer, (sock.fileno(),))

    def _close_sockets(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a TCP socket bound to host and port, not listening yet. Raises OSError where it can't be had."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock
