"""The supervisor's signals, without a worker."""

import asyncio
import subprocess
import sys

import pytest

from kproxy.config.load import load
from kproxy.service import supervisor
from kproxy.service.supervisor import Supervisor
from kproxy.service.worker import Order

ADMIN_ONLY = ("starlette", "uvicorn", "prometheus_client")
"""What only the admin API stands on."""

CONFIG = "{clusters: {main: {bootstrap: [kafka1:9092]}}, listeners: {public: {bind: 127.0.0.1:9092}}}"


async def test_an_echo_of_a_signal_is_no_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that comes twice at once, as uvloop can deliver it, still drains; one that comes later stops at once."""
    monkeypatch.setattr(supervisor, "ECHO_SECONDS", 0.05)
    running = Supervisor(Order(load(CONFIG).config, "json", "info"))
    running._asked_to_stop()
    running._asked_to_stop()
    assert running._stops == 1
    await asyncio.sleep(0.06)
    running._asked_to_stop()
    assert running._stops == 2


@pytest.mark.parametrize("module", ["supervisor", "worker"])
def test_who_has_no_admin_api_does_not_load_it(module: str) -> None:
    """What the admin API stands on is loaded where it is configured, and never by a worker."""
    code = f"import sys, kproxy.service.{module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not set(ADMIN_ONLY) & set(done.stdout.split())
