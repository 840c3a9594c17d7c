"""What becomes of a client when its broker's connection ends."""

import pytest
from test_relay_cost import ANSWER, HEARTBEAT, HEARTBEAT_VERSION, connected, requests

from kproxy.core.causes import Cause
from kproxy.core.sasl import Login, Plain
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
