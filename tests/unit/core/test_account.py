"""What a connection moved reaches the listener's tally once, and its client id is known."""

import doctest
from random import Random

from conversations import OFFER, advertise, answer_frame, request_frame

from kproxy.core import account as module
from kproxy.core import lag
from kproxy.core.account import CLIENT_ID_CHARS_MAX, Account
from kproxy.core.exchange import Exchange, Front
from kproxy.core.tally import OTHERS, ClientIds, Tally
from kproxy.wire import frames
from kproxy.wire.apis import ApiKey

METADATA_12 = ApiKey.METADATA << 16 | 12


def test_examples() -> None:
    """The examples in the modules' docstrings are true."""
    assert doctest.testmod(module) == (0, 5)
    assert doctest.testmod(lag) == (0, 3)


def test_everything_arrives_once() -> None:
    """Whenever and however often an account is folded, the tally has in the end what was counted."""
    rng, tally, account = Random(1), Tally(), Account(1, 0.0)
    tally.client_ids = ClientIds(10)
    account.client_id = "orders"
    for _ in range(100):
        account.bytes_in += 3
        account.bytes_out += 2
        account.requests[METADATA_12] += 1
        if rng.random() < 0.3:
            account.fold(tally)
    account.fold(tally)
    account.fold(tally)
    assert (tally.bytes_in, tally.bytes_out, tally.requests[METADATA_12]) == (300, 200, 100)
    assert (account.bytes_in, account.bytes_out, account.requests[METADATA_12]) == (300, 200, 100)
    assert tally.snapshot()["client_ids"] == {"orders": [100, 300, 200]}


def test_client_ids_are_bounded() -> None:
    """The first client ids are told apart for good, all others together; who has none is told as nothing."""
    tally = Tally()
    tally.client_ids = ClientIds(2)
    for client_id in ("a", None, "b", "c", "a"):
        account = Account(1, 0.0)
        account.client_id = client_id
        account.bytes_in = 1
        account.fold(tally)
    assert tally.client_ids.sums == {"a": [0, 2, 0], "": [0, 1, 0], OTHERS: [0, 2, 0]}


def test_the_client_id_is_read_off_the_first_bytes() -> None:
    """However long it is, a bounded part is kept; null, cut and odd ones stay unknown."""
    request = frames.request(ApiKey.METADATA, 12, 7, "orders", b"")
    for data, expected in (
        (request, "orders"),
        (request + b"more", "orders"),
        (request[: 4 + 10 + 6], "orders"),
        (request[: 4 + 10 + 5], None),
        (request[:8], None),
        (frames.request(ApiKey.METADATA, 12, 7, None, b""), None),
        (frames.request(ApiKey.METADATA, 12, 7, "é" * 1000, b""), "é" * CLIENT_ID_CHARS_MAX),
        (request[:12] + b"\x80\x00" + request[14:], None),
    ):
        account = Account(1, 0.0)
        account.introduce(data)
        assert account.client_id == expected


def test_an_exchange_counts_where_it_is_told() -> None:
    """With an account of its own nothing is counted in the tally until it is folded, and then all."""
    tally, account, rng = Tally(), Account(1, 0.0), Random(1)
    exchange = Exchange(Front(OFFER, tally), advertise)
    exchange.count_in(account.requests)
    fetch = request_frame(rng, ApiKey.FETCH, 11, 1, bytes(20))
    api_versions = request_frame(rng, ApiKey.API_VERSIONS, 0, 2, b"")
    assert exchange.from_client(fetch + fetch + api_versions) == fetch + fetch
    exchange.from_broker(answer_frame(ApiKey.FETCH, 11, 1, bytes(10)))
    assert not any(tally.requests.values())
    assert account.apis() == {"Fetch": {11: 2}, "ApiVersions": {0: 1}}
    account.fold(tally)
    assert tally.snapshot()["requests"] == {"Fetch": 2, "ApiVersions": 1}
