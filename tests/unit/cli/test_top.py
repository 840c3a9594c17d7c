"""``kproxy top``: what it shows for what it is told, and one line for whatever can go wrong."""

import json
import os
import pty
import re
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len
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


def client(name: str | None, requests: int, **others: Any) -> dict[str, Any]:
    """Return one client as the API tells it."""
    told = {
        "id": f"1.public.{name}",
        "client_id": name,
        "principal": "User:alice",
        "address": "10.0.0.1:5",
        "software": "apache-kafka-java",
        "software_version": "4.1.0",
        "requests": requests,
        "bytes_in": 0,
        "bytes_out": 0,
        "in_flight": 1,
        "apis": {"Fetch": {"11": 1, "4": 2}},
    }
    return told | others


def shown(before: Sample, after: Sample, width: int = 200, rows: int = 40) -> str:
    """Return what is printed on a terminal, none of whose lines is too long."""
    console = Console(width=width, height=rows, force_terminal=False)
    with console.capture() as capture:
        console.print(view(before, after, width, rows))
    assert max(map(cell_len, capture.get().splitlines())) <= width
    return capture.get()


def row_of(text: str, start: str) -> list[str]:
    """Return the words of the line that begins so."""
    (line,) = (line for line in text.splitlines() if line.startswith(start))
    return line.split()


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
    assert [(row[0], row[3]) for row in rows] == [("[red]new", "30"), ("orders", "20")]
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


ORDERS = "orders-3f2c1b6e-8f3e-4a54-9b1e-0d2c1b6e8f3e-StreamThread-1-consumer"
JAVA = ["apache-kafka-java", "4.1.0", "Fetch", "v11"]
BUSY = {"requests": 1_234_567, "bytes_in": 1_047_552, "bytes_out": 1_047_552, "in_flight": 12_345}
NUMBERS = ["1,234,567", "1023", "KiB", "1023", "KiB", "12345"]


@pytest.mark.parametrize(
    ("width", "client_id", "rest"),
    [
        (80, "orders-3f…-consumer", []),
        (100, "orders-3f2c1b6e-…Thread-1-consumer", []),
        (120, "orders-3f2c1b6e-8f3e…reamThread-1-consumer", ["User:alice"]),
        (160, "orders-3f2c1b6e-8f3e-4…StreamThread-1-consumer", ["User:alice", *JAVA]),
        (200, ORDERS, ["User:alice", *JAVA]),
    ],
)
def test_every_width_shows_what_matters(width: int, client_id: str, rest: list[str]) -> None:
    """Numbers and addresses are whole, ids keep both ends; who it is, and with which software, comes where it fits."""
    busy = client(ORDERS, 0) | BUSY | {"address": "192.168.100.107:50122"}
    after = Sample(1.0, status(1_234_567), [busy, client("quiet", 0)], 2)
    text = shown(Sample(0.0, status(0), [], 0), after, width, 24)
    assert len(text.splitlines()) <= 24
    assert row_of(text, "orders") == [client_id, *rest[:1], "192.168.100.107:50122", *NUMBERS, *rest[1:]]
    assert row_of(text, "public")[:3] == ["public", "2", "1,234,567"]
    assert row_of(text, "calm") == ["calm", "1,234,567", "0", "617,283", "0", "0", "3"]
    assert row_of(text, "main") == ["main", "2", "of", "2", "up", "-"]


def test_a_narrow_terminal_drops_columns_and_cuts_no_number() -> None:
    """At any width a column of numbers is whole or not there; the name is there to the last."""
    after = Sample(1.0, status(1_234_567), [client(ORDERS, 0) | BUSY], 1)
    for width in range(10, 80):
        row = row_of(shown(Sample(0.0, status(0), [], 0), after, width), "ord")
        numbers = [word for word in row[1:] if ":" not in word]
        assert numbers == NUMBERS[: len(numbers)]
        assert row[0].endswith("er")


def test_a_list_is_cut_between_its_parts() -> None:
    """A rate among the APIs most asked for is whole, too; what is left out leaves a mark."""
    asked = status(0)
    asked["counters"]["listeners"]["public"]["requests"] = {"Fetch": 200_000, "Produce": 150_000, "Metadata": 4000}
    text = shown(Sample(0.0, status(0)), Sample(1.0, asked), 80)
    assert " ".join(row_of(text, "public")[7:]) == "Fetch 200,000, Produce 150,000, …"
    down = status(0)
    down["clusters"]["main"]["brokers"] = {str(node): {"up": False} for node in range(1000, 1100)}
    text = shown(Sample(0.0, status(0)), Sample(1.0, down), 40)
    assert row_of(text, "main") == ["main", "0", "of", "100", "up", "1000,", "1001,", "1002,", "…"]


def test_names_cannot_harm_the_terminal() -> None:
    """What clients call themselves is printed without control characters, and wide letters are counted as such."""
    names = ["\x1b[31mred\n", "日本語" * 30, None]
    text = shown(Sample(0.0, status(0)), Sample(1.0, status(0), [client(name, 1) for name in names], 3), 80)
    assert "?[31mred? " in text
    assert "日本語日本語日本語…日本語日本語日本語 10.0.0.1:5" in text
    assert "\x1b" not in text
    assert row_of(text, "- ")[1] == "10.0.0.1:5"


def test_a_low_terminal_keeps_room_for_clients() -> None:
    """Of many listeners, limits and clusters those that matter most stay, and a line says how many there are."""
    many = status(0)
    counters, clusters = many["counters"], many["clusters"]
    (listener,), (limit,) = counters["listeners"].values(), counters["limits"].values()
    counters["listeners"] = {f"l{n}": listener | {"requests": {"Fetch": n}} for n in range(20)}
    counters["limits"] = {f"r{n}": limit | {"asked": 100 - n, "delayed": n} for n in range(20)}
    clusters |= {f"k{n}": {"brokers": {"1": {"up": n != 7}}} for n in range(20)}
    text = shown(Sample(0.0, status(0)), Sample(1.0, many, [client(f"c{n}", n) for n in range(50)], 50), 80, 24)
    assert len(text.splitlines()) <= 24
    assert [line.split()[0] for line in text.splitlines() if line[:1] in "lrkc" and line[1:2].isdigit()] == [
        *("l19", "l18", "r19", "r18", "k7", "c49", "c48", "c47", "c46", "c45")
    ]
    assert "2 of 20 listeners, the busiest" in text
    assert "2 of 20 limits, those that hold most up" in text
    assert "2 of 21 clusters, those with most brokers down" in text
    assert "5 of 50 clients, the busiest" in text


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


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_once_at_every_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """What is printed once has the whole numbers and the client's id as well, and more lines than a terminal."""
    monkeypatch.setattr(module, "ONCE_SECONDS", 0.01)
    clients = [client("orders", 0, address="192.168.100.107:50122", in_flight=123456)]
    clients += [client(f"c{n}", 0) for n in range(29)]
    pages = {
        "/status": (200, status(5)),
        "/clients": (200, {"clients": clients, "total": 30, "next": None}),
    }
    with serving(pages) as address:
        done = run("--admin", address, "--once", COLUMNS=str(width), LINES="24")
    assert (done.exit_code, done.stderr) == (0, "")
    row = [word for word in row_of(done.stdout, "orders") if word != "User:alice"]
    assert row[:8] == ["orders", "192.168.100.107:50122", "0", "0", "B", "0", "B", "123456"]
    assert sum("10.0.0.1:5" in line for line in done.stdout.splitlines()) == 29


@pytest.mark.parametrize("width", [80, 120])
def test_live_at_every_width(width: int) -> None:
    """On a terminal of 24 lines the busiest client stands there whole, beneath all the rest; q ends it."""
    pages = {
        "/status": (200, status(1_234_567)),
        "/clients": (200, {"clients": [client("orders", 0) | BUSY], "total": 30, "next": None}),
    }
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, width))
    with serving(pages) as address:
        command = [sys.executable, "-m", "kproxy", "top", "--admin", address]
        unset = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
        live = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=unset | {"TERM": "xterm"})
        os.close(theirs)
        seen = b""
        while b"1 of 30 clients, the busiest" not in seen:
            seen += os.read(ours, 4096)
        os.write(ours, b"q")
        assert live.wait(10) == 0
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode())
    lines = text.partition("looking ...")[2].partition("kproxy 1.2.3")[2].splitlines()
    assert len(lines) <= 24
    words = [word for word in row_of("\n".join(lines), "orders") if word != "User:alice"]
    assert words[:8] == ["orders", "10.0.0.1:5", "0", "0", "B", "0", "B", "12345"]


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
