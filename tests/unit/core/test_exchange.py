"""Exchange against the model of whole frames: every conversation, however slow the broker and however it is cut."""

from random import Random

import pytest
from conversations import OFFER, Cut, Talk, advertise, at_random, conversation, one_byte, one_frame, whole

from kproxy.core.exchange import CLIENT_ID_BYTES_MAX, OWN_ANSWERS_MAX, Exchange, Front
from kproxy.core.offer import make_offer
from kproxy.core.tally import Tally
from kproxy.errors import Malformed, Unsupported
from kproxy.wire import apiversions, frames
from kproxy.wire.apis import ApiKey
from kproxy.wire.apiversions import ApiVersionsAnswer, ClientSoftware

FETCH = frames.request(ApiKey.FETCH, 11, 1, "c", b"fetch")
FETCHED = frames.response(1, ApiKey.FETCH, 11, b"records")
API_VERSIONS = frames.request(ApiKey.API_VERSIONS, 0, 2, "c", b"")
OFFERED = frames.response(2, ApiKey.API_VERSIONS, 0, apiversions.response(0, OFFER.answer))


def exchange() -> Exchange:
    """Make one that offers everything."""
    return Exchange(Front(OFFER, Tally()), advertise)


@pytest.mark.parametrize("cut", [whole, one_byte, one_frame, at_random])
@pytest.mark.parametrize("seed", range(25))
def test_conversations(seed: int, cut: Cut) -> None:
    """However both streams are cut and the answers delayed, broker and client get the model's bytes in their order."""
    rng = Random(seed)
    Talk(conversation(rng, rng.choice((1, 5, 25)))).run(rng, cut)


def test_plain_bytes_are_not_copied() -> None:
    """Whole plain frames leave as the very object that came, in both directions, and so does the middle of one."""
    each = exchange()
    assert each.from_client(FETCH) is FETCH
    assert each.from_broker(FETCHED) is FETCHED
    each.from_client(FETCH[:20])
    middle = FETCH[20:-1]
    assert each.from_client(middle) is middle
    assert each.from_broker(b"") == each.from_client(b"") == b""


def test_our_answer_at_once() -> None:
    """While the broker owes nothing, what kproxy answers by itself is there when ``from_client`` returns."""
    each = exchange()
    assert each.from_client(API_VERSIONS * 2) == b""
    assert each.replies == [OFFERED, OFFERED]
    assert each.begun
    assert each.idle


@pytest.mark.parametrize("cut", [0, 3, 4, 10, len(FETCHED)])
def test_our_answer_waits(cut: int) -> None:
    """Our answer never comes before, or within, the broker's answer to an earlier request."""
    each = exchange()
    assert each.from_client(FETCH) == FETCH
    assert each.from_broker(FETCHED[:cut]) == FETCHED[: cut if cut >= 4 else 0]
    each.from_client(API_VERSIONS)
    if cut == len(FETCHED):
        assert each.replies == [OFFERED]
        return
    assert each.replies == []
    each.from_client(FETCH)
    rest = FETCHED[cut if cut >= 4 else 0 :]
    assert each.from_broker(FETCHED[cut:] + FETCHED) == rest + OFFERED + FETCHED
    assert each.idle


def test_our_answers_are_bounded() -> None:
    """A flood of requests that kproxy answers, behind one that the broker does not, ends the connection."""
    each = exchange()
    each.from_client(FETCH)
    each.from_client(API_VERSIONS * OWN_ANSWERS_MAX)
    with pytest.raises(Malformed, match="without reading"):
        each.from_client(API_VERSIONS)


def test_what_the_client_says_of_itself() -> None:
    """The last valid name of the client's software is known."""
    each = exchange()
    for name in ("one", "two", "-bad-"):
        body = apiversions.request(3, ClientSoftware(name, "1.0"))
        each.from_client(frames.request(ApiKey.API_VERSIONS, 3, 1, None, body))
    assert (each.software, each.client_id) == (ClientSoftware("two", "1.0"), b"")
    each.from_client(frames.request(ApiKey.API_VERSIONS, 0, 1, "n" * 300, b""))
    assert each.client_id == b"n" * CLIENT_ID_BYTES_MAX


def test_an_attempt_to_log_in_is_told() -> None:
    """The shell learns that the client tried to log in."""
    each = exchange()
    each.from_client(API_VERSIONS)
    assert not each.sasl_refused
    each.from_client(frames.request(ApiKey.SASL_HANDSHAKE, 1, 1, "c", b"\x00\x05PLAIN"))
    assert each.sasl_refused


@pytest.mark.parametrize(("key", "tied"), [(ApiKey.SHARE_FETCH, True), (ApiKey.METADATA, False)])
def test_a_share_session_ties(key: ApiKey, *, tied: bool) -> None:
    """A share consumer's session ends with the broker's connection, and the shell knows."""
    each = exchange()
    each.from_client(frames.request(key, 1, 1, "c", b"\x00"))
    assert each.tied == tied


def test_offer_is_that_of_the_last_answer() -> None:
    """A new offer holds for a connection from its next ApiVersions on, and not before."""
    front = Front(OFFER, Tally())
    each = Exchange(front, advertise)
    front.offer = less = make_offer([ApiVersionsAnswer(ranges={1: (0, 4)})])
    assert each.from_client(FETCH) == FETCH
    each.from_broker(FETCHED)
    with pytest.raises(Unsupported, match="Fetch version 11: offered are versions 0 to 4"):
        each.from_client(API_VERSIONS + FETCH)
    assert each.offer is less


@pytest.mark.parametrize(
    "request_", [FETCH, frames.request(ApiKey.PRODUCE, 9, 1, "c", b"\x00\x00\x01"), frames.request(3, 9, 1, "c", b"")]
)
def test_offer_changes_between_two_alike(request_: bytes) -> None:
    """A request like the one before is refused all the same when an ApiVersions in between has taken it away."""
    front = Front(OFFER, Tally())
    each = Exchange(front, advertise)
    front.offer = make_offer([ApiVersionsAnswer(ranges={0: (0, 8), 1: (0, 4)})])
    with pytest.raises(Unsupported):
        each.from_client(request_ * 2 + API_VERSIONS + request_)
    front.offer = OFFER
    each = Exchange(front, advertise)
    each.from_client(request_ * 2)
    front.offer = make_offer([ApiVersionsAnswer(ranges={0: (0, 8), 1: (0, 4)})])
    each.from_client(API_VERSIONS)
    with pytest.raises(Unsupported):
        each.from_client(request_)


def test_progress() -> None:
    """Whatever comes from either side is progress, requests without an answer and parts of any frame included."""
    each = exchange()
    unanswered = frames.request(ApiKey.PRODUCE, 7, 1, "c", b"\xff\xff\x00\x00")
    seen = {each.progress}
    for data in (unanswered, unanswered, FETCH[:1], FETCH[1:15], FETCH[15:]):
        each.from_client(data)
        seen.add(each.progress)
    for data in (FETCHED[:1], FETCHED[1:]):
        each.from_broker(data)
        seen.add(each.progress)
    assert len(seen) == 8


def test_an_answer_is_outstanding_to_its_end() -> None:
    """A drain that waits for nothing to be outstanding never cuts an answer, nor our own behind it."""
    each = exchange()
    each.from_client(FETCH + API_VERSIONS)
    each.from_broker(FETCHED[:-1])
    assert (each.asked, each.answered, each.outstanding, each.idle) == (1, 1, 1, False)
    assert each.from_broker(FETCHED[-1:]) == FETCHED[-1:] + OFFERED
    assert (each.outstanding, each.idle) == (0, True)


BEAT = frames.request(ApiKey.CONSUMER_GROUP_HEARTBEAT, 0, 3, "c", b"\x02g")
BEATEN, NOT_FOUND, UNKNOWN = (
    frames.response(3, ApiKey.CONSUMER_GROUP_HEARTBEAT, 0, bytes(4) + bytes((0, code)) + bytes(9))
    for code in (0, 69, 25)
)


@pytest.mark.parametrize("cut", [*range(len(NOT_FOUND) + 1)])
def test_a_group_that_is_gone(cut: int) -> None:
    """A member whose group the broker does not know is told to join anew; if there is no way, it learns that next."""
    each = exchange()

    def shown(answer: bytes, cut: int = 0) -> bytes:
        assert each.from_client(BEAT) == BEAT
        return each.from_broker(answer[:cut]) + each.from_broker(answer[cut:])

    assert shown(BEATEN, cut) == BEATEN
    assert shown(NOT_FOUND, cut) == UNKNOWN
    assert shown(NOT_FOUND, cut) == NOT_FOUND
    assert shown(BEATEN) == BEATEN
    assert shown(NOT_FOUND) == UNKNOWN
    assert each.idle
