"""``kproxy top``: what it shows for what it is told, and one line for whatever can go wrong."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from kproxy.cli import topscreen as module
from kproxy.cli.main import main
from kproxy.cli.topview import Sample, view
from kproxy.testing.ports import free_port_block


def status(requests: int, *, ready: bool = True) -> dict[str, Any]:
    """Return what the API tells."""
    limit = {"asked": requests, "delayed": 0, "throttled": requests // 2, "rejected": 0, "closed": 0, "keys": 3}
    listener = {"requests": {"Fetch": requests}, "connections": 2, "bytes_in": requests * 1024, "bytes_out": 0}
    return {
        "version": "1.2.3",
        "started_at": 0.0,
        "ready": ready,
        "reasons": [] if ready else ["cluster main: no broker answers"],
        "processes": [{"name": "supervisor", "resident_bytes": 1, "cpu_seconds": 1.0, "descriptors": 1}],
        "counters": {"listeners": {"public": listener}, "limits": {"calm": limit}},
        "clusters": {"main": {"cluster_id": "c", "brokers": {"1": {"up": True}, "2": {"up": ready}}}},
    }


def client(name: str | None, requests: int) -> dict[str, Any]:
    """Return one client as the API tells it."""
    return {
        "id": f"1.public.{name}",
        "client_id": name,
        "address": "10.0.0.1:5",
        "software": "apache-kafka-java",
        "software_version": "4.1.0",
        "requests": requests,
        "bytes_in": 0,
        "bytes_out": 0,
        "in_flight": 1,
        "apis": {"Fetch": {"11": 1, "4": 2}},
    }


def shown(before: Sample, after: Sample) -> str:
    """Return what is printed on a wide terminal."""
    console = Console(width=200, height=40, force_terminal=False)
    with console.capture() as capture:
        console.print(view(before, after, 40))
    return capture.get()


def test_rates_are_between_two_looks() -> None:
    """What grew by 1,000 in two seconds is 500 a second; whoever came in between is there with what it did."""
    before = Sample(10.0, status(1000), [client("orders", 100)], 1)
    after = Sample(12.0, status(2000), [client("orders", 140), client("[red]new", 60)], 2)
    text = shown(before, after)
    assert "kproxy 1.2.3" in text
    assert "Fetch 500" in text
    assert "500 KiB" in text
    (limit,) = (line.split() for line in text.splitlines() if "calm" in line)
    assert limit == ["calm", "500", "0", "250", "0", "0", "3"]
    rows = [line.split() for line in text.splitlines() if "10.0.0.1" in line]
    assert [(row[0], row[4]) for row in rows] == [("[red]new", "30"), ("orders", "20")]
    assert "Fetch v11" in text
    assert "2 of 2 up" in text


def test_trouble_is_seen() -> None:
    """Why kproxy is not ready, and which brokers are down, stands there."""
    text = shown(Sample(0.0, status(0)), Sample(0.0, status(0, ready=False)))
    assert "not ready: cluster main: no broker answers" in text
    (line,) = (line.split() for line in text.splitlines() if "1 of 2 up" in line)
    assert line[-1] == "2"


def test_many_clients_are_cut() -> None:
    """As many as fit are shown, the busiest; the rest is told as a number."""
    before = Sample(0.0, status(0), [client(f"c{n}", 0) for n in range(100)], 5000)
    after = Sample(1.0, status(0), [client(f"c{n}", n) for n in range(100)], 5000)
    text = shown(before, after)
    assert "c99" in text
    assert "c10 " not in text
    assert "5,000 clients, the busiest (of 100 that were looked at)" in text


@contextmanager
def serving(answers: dict[str, tuple[int, Any]], seen: list[tuple[str, str | None]] | None = None) -> Iterator[str]:
    """Serve answers by path; note paths and keys."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if seen is not None:
                seen.append((self.path, self.headers["Authorization"]))
            code, document = answers.get(self.path, (404, {}))
            body = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def run(*arguments: str, **environ: str) -> Result:
    """Run the command."""
    return CliRunner(env={"KPROXY_ADMIN_KEY": "", "COLUMNS": "200"} | environ).invoke(main, ["top", *arguments])


def test_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It looks twice, page by page, with the key, and ends with code 0."""
    monkeypatch.setattr(module, "ONCE_SECONDS", 0.01)
    key = tmp_path / "key"
    key.write_text("sesame\n")
    pages = {
        "/status": (200, status(5)),
        "/clients": (200, {"clients": [client("a", 1)], "total": 2, "next": "1.public.a"}),
        "/clients?after=1.public.a": (200, {"clients": [client("b", 1)], "total": 2, "next": None}),
    }
    seen: list[tuple[str, str | None]] = []
    with serving(pages, seen) as address:
        done = run("--admin", address, "--once", "--api-key-file", str(key))
    assert (done.exit_code, done.stderr) == (0, "")
    assert "10.0.0.1:5" in done.stdout
    assert seen == [(path, "Bearer sesame") for path in pages] * 2


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ((401, {}), "the admin API at {} refuses: it wants a key: give --api-key-file, or KPROXY_ADMIN_KEY"),
        ((404, {}), "what answers at {} is no admin API of kproxy (HTTP 404 to /status)"),
        ((200, b"<html>"), "what answers at {} is no admin API of kproxy (HTTP 200 to /status)"),
    ],
)
def test_somebody_else_answers(answer: tuple[int, Any], line: str) -> None:
    """One line says what is wrong."""
    with serving({"/status": answer}) as address:
        done = run("--admin", address, "--once")
    assert (done.exit_code, done.stderr) == (1, f"kproxy: {line.format(address)}\n")


def test_a_wrong_key_is_not_shown() -> None:
    """The line says that it is wrong, and no more."""
    with serving({"/status": (401, {})}) as address:
        done = run("--admin", address, "--once", KPROXY_ADMIN_KEY="sesame")
    assert done.stderr == f"kproxy: the admin API at {address} refuses: the key is wrong\n"


def test_nobody_answers(tmp_path: Path) -> None:
    """Where nothing listens, or what does says no HTTP, one line says so."""
    address = f"127.0.0.1:{free_port_block(1)}"
    done = run("--admin", address, "--once")
    line = f"kproxy: no admin API at {address}: connection refused; does kproxy run, with --admin?\n"
    assert (done.exit_code, done.stderr) == (1, line)
    done = run("--admin", str(tmp_path / "gone"), "--once")
    assert "no such file or directory; does kproxy run" in done.stderr
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_say_garbage, args=(server,))
        thread.start()
        done = run("--admin", f"127.0.0.1:{server.getsockname()[1]}", "--once")
        thread.join()
    assert (done.exit_code, len(done.stderr.splitlines())) == (1, 1)


def _say_garbage(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(1000)
        connection.sendall(b"\x00\x00\x00\x04garbage\r\n\r\n")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "cannot be read: No such file or directory"),
        ("", "holds no key"),
        ("two words", "holds no key"),
        ("é", "holds no key"),
    ],
)
def test_a_key_file_that_is_none(content: str | None, line: str, tmp_path: Path) -> None:
    """It is refused before anybody is asked."""
    path = tmp_path / "key"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    done = run("--api-key-file", str(path), "--once")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"kproxy: --api-key-file: {path} {line}")


def test_wrong_usage() -> None:
    """An address that is none, and no terminal without --once, are told before anybody is asked."""
    assert run("--admin", "nowhere", "--once").stderr.startswith("kproxy: --admin: 'nowhere' has no port")
    done = run()
    assert (done.exit_code, done.stderr) == (2, "kproxy: the output is no terminal; give --once\n")


def test_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rich is not installed one line says how to come by it."""
    monkeypatch.setattr("kproxy.cli.top.find_spec", lambda _: None)
    done = run("--once")
    assert (done.exit_code, done.stderr) == (1, "kproxy: top needs rich: pip install 'kproxy[top]'\n")
