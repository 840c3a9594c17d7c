"""``kproxy demo``, as a person runs it."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from kproxy.cli.main import main
from kproxy.testing.processes import GuardedProcess
from kproxy.testing.waiting import wait_until

COMMAND = [sys.executable, "-m", "kproxy", "demo"]


class Onlooker:
    """The demo as a process, and what it has written so far."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "screen"
        with self._path.open("wb") as screen:
            environ = os.environ | {"PYTHONUNBUFFERED": "1"}
            self.child = GuardedProcess(
                COMMAND, stdin=subprocess.DEVNULL, stdout=screen, stderr=subprocess.STDOUT, env=environ
            )

    @property
    def screen(self) -> str:
        """All that it has written."""
        return self._path.read_text(encoding="utf-8")

    def wait_for(self, text: str) -> None:
        """Wait until it has written this."""
        wait_until(lambda: text in self.screen, 40, lambda: f"{text!r} on the screen: {self.screen}")

    def interrupt(self) -> int:
        """Press Ctrl-C, wait until it has ended, and return its exit code."""
        self.child.signal(signal.SIGINT)
        return self.child.process.wait(20)


def listens(port: int) -> bool:
    """Tell whether somebody accepts connections there."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def onlooker(tmp_path: Path) -> Iterator[Onlooker]:
    """The demo, started; it must not write a traceback, whatever happens to it."""
    started = Onlooker(tmp_path)
    yield started
    started.child.kill()
    assert "Traceback" not in started.screen


@pytest.fixture(scope="module")
def shown() -> str:
    """Return what ``--once`` prints; it ends in 15 s."""
    began = time.monotonic()
    done = subprocess.run([*COMMAND, "--once"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert time.monotonic() - began < 15
    return done.stdout


def number(text: str) -> float:
    """Read a number as the tables have it."""
    return float(text.replace(",", ""))


def test_once_shows_three_brokers_behind_one_address(shown: str) -> None:
    """Every record goes there and back, and the clients were told addresses of the proxy alone."""
    ((listen, bootstrap),) = re.findall(r"^\$ kproxy run --listen (\S+) --bootstrap (\S+)$", shown, re.MULTILINE)
    rows = re.findall(r"broker (\d)\W+(127\.0\.0\.1:\d+)\W+(127\.0\.0\.1:\d+)", shown)
    port = int(listen.rpartition(":")[2])
    assert [told for _, told, _ in rows] == [f"127.0.0.1:{port + 1 + node}" for node in (1, 2, 3)]
    assert [real for _, _, real in rows] == bootstrap.split(",")
    assert "10,000 of 1,000 bytes, each acknowledged and read back once" in shown
    (spent,) = re.findall(r"kproxy CPU +(\d+) µs per request \([\d.]+ s for ([\d,]+) requests\)", shown)
    assert 1 <= int(spent[0]) <= 10_000
    assert number(spent[1]) > 1_000  # ten records a request, and those that read them


def test_a_limit_holds_the_greedy_one_and_not_the_polite_one(shown: str) -> None:
    """Under the same limit the greedy producer is held at its rate, and the polite one is never held up."""
    (limits,) = re.findall(r"^limits:\n(?:  .+\n)+", shown, re.MULTILINE)
    (limit,) = yaml.safe_load(limits)["limits"]
    rate = limit["leaky_bucket"]["rate"]
    found = re.findall(r"│ (.*?) +│ (polite|greedy) +│ +([\d,]+)/s │ +([\d,]+)/s │ +([\d,.]+) ms │", shown)
    rows = [(title, who, *map(number, figures)) for title, who, *figures in found]
    (_, _, alone, alone_gets, _), (_, _, *before), (_, _, *free), (title, _, *after), (_, _, *held) = rows
    assert title == "with the limit"
    assert alone_gets == pytest.approx(alone, rel=0.3)  # of 50 in a second; a busy machine stumbles
    for tries, gets, p50 in (before, after):
        assert gets == pytest.approx(tries, rel=0.3)
        assert p50 < 100  # as it was; milliseconds here, and far from what the greedy one waits
    assert free[1] > 2 * rate
    assert held[0] > 5 * rate
    assert held[1] == pytest.approx(rate, rel=0.2)
    ((asked, throttled),) = re.findall(rf"limit +{limit['name']}: ([\d,]+) requests, ([\d,]+) of them throttled", shown)
    assert number(asked) > number(throttled) > 0
    (seconds,) = re.findall(r"held up +polite never, greedy for ([\d.]+) s", shown)
    assert float(seconds) > 1


def test_it_serves_any_client_until_ctrl_c(onlooker: Onlooker) -> None:
    """After the summary other clients can use what is there; Ctrl-C then ends it all with exit code 0."""
    from confluent_kafka import Consumer, TopicPartition

    onlooker.wait_for("Serving until Ctrl-C")
    (address,) = re.findall(r"client can use (\S+),", onlooker.screen)
    consumer: Any = Consumer({"bootstrap.servers": address, "group.id": "onlooker", "auto.offset.reset": "earliest"})
    partitions = consumer.list_topics("demo", timeout=20).topics["demo"].partitions
    consumer.assign([TopicPartition("demo", number) for number in partitions])
    assert wait_until(lambda: consumer.poll(0.1), 20, "a record of the demo").error() is None
    consumer.close()
    onlooker.wait_for("With the limit")
    (limited,) = re.findall(r"With the limit: 127\.0\.0\.1:(\d+)\n", onlooker.screen)
    assert listens(int(limited))
    assert onlooker.interrupt() == 0
    assert onlooker.screen.endswith("\nstopped\n")


@pytest.mark.parametrize("act", [0, 1])
def test_ctrl_c_in_its_midst_is_one_word(onlooker: Onlooker, act: int) -> None:
    """Interrupted in either act it says so in a word and leaves nothing running."""
    onlooker.wait_for(("--bootstrap", "on_exceed")[act])
    ports = [int(port) for port in re.findall(r"--listen 127\.0\.0\.1:(\d+)", onlooker.screen)]
    wait_until(lambda: listens(ports[act]), 20, "the proxy")
    assert onlooker.interrupt() == 1
    assert not any(map(listens, ports))
    assert onlooker.screen.endswith("kproxy: stopped\n")


def test_what_is_missing_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra's packages one line says what to install."""
    missing = {"confluent_kafka", "rich"}
    monkeypatch.setattr("kproxy.cli.demo.find_spec", lambda name: None if name in missing else find_spec(name))
    result = CliRunner().invoke(main, ["demo"])
    assert result.exit_code == 1
    assert result.stderr == "kproxy: the demo needs confluent-kafka and rich: pip install 'kproxy[demo]'\n"
