"""What becomes of a client when its broker's connection ends."""

import asyncio
from dataclasses import replace

import pytest
from test_gate import connected as pausable
from test_relay_cost import ANSWER, HEARTBEAT, HEARTBEAT_VERSION, connected, requests

from kproxy.core.causes import Cause
from kproxy.core.sasl import Login, Plain
from kproxy.net import relay
from kproxy.net.relay import ClientSide
from kproxy.wire import frames


@pytest.mark.parametrize("renewing", [False, True])
async def test_broker_gone_while_nothing_is_under_way(monkeypatch: pytest.MonkeyPatch, *, renewing: bool) -> None:
    """An idle client is kept, but for one whose upstream login was just being renewed: its requests are held back."""
    client, broker, _, _ = connected("ports")
    client.data_received(requests(0, 1))
    broker.data_received(frames.response(0, HEARTBEAT, HEARTBEAT_VERSION, ANSWER))
    if renewing:  # the last answer of the renewal has come, and its end has not been seen to yet
        client._login = Login(Plain("gateway", "secret"))
    ended: list[Cause] = []
    monkeypatch.setattr(ClientSide, "end", lambda _client, cause, **_fields: ended.append(cause))
    broker.connection_lost(None)
    assert ended == ([Cause.BROKER_CLOSED] if renewing else [])
    assert client.broker is None


@pytest.mark.parametrize("tls", [None, "TLSv1.3"])
async def test_the_end_comes_by_itself(monkeypatch: pytest.MonkeyPatch, tls: str | None) -> None:
    """The end follows the last answer after a while, for who finds both in one read may lose either.

    What comes meanwhile goes nowhere; the end of a connection that broke off does not wait.
    """
    monkeypatch.setattr(relay, "LAST_ANSWER_SECONDS", 0.01)
    monkeypatch.setattr(relay, "PARTING_SECONDS", 0.02)
    for cause, at_once in ((Cause.DRAINED, False), (Cause.BROKER_CLOSED, False), (Cause.MALFORMED_ANSWER, True)):
        client, _, to_client, to_broker = pausable()
        client.guest = replace(client.guest, tls=tls)
        client.pause(relay.DRAINING)
        client.end(cause)
        assert (to_client.closing, to_client.half_closed) == (at_once, False)
        assert at_once or to_client.reading
        await asyncio.sleep(0.1)
        assert (to_client.closing, to_client.half_closed) == (True, tls is None and not at_once)
        assert to_broker.written == []
