"""Logging in to a broker: the right requests, errors that tell what to do, and never the password."""

from random import Random

import pytest
from oracles import KAFKA_PYTHON, KIO

from kproxy.core.sasl import CLIENT_ID, Ask, Login, Plain, Session
from kproxy.errors import AuthError, ProtocolError
from kproxy.wire import handshake
from kproxy.wire.frames import request_body_at
from kproxy.wire.primitives import INT16, INT32, INT64, put_string

SECRET = "s3cret pä55"
HANDSHAKEN = handshake.sasl_handshake_response(0, ["PLAIN"])


def authenticated(error_code: int = 0, message: str | None = None, token: bytes = b"", lifetime_ms: int = 0) -> bytes:
    """Write a SaslAuthenticate v1 answer."""
    text = INT16.pack(-1) if message is None else put_string(message)
    return INT16.pack(error_code) + text + INT32.pack(len(token)) + token + INT64.pack(lifetime_ms)


def body(ask: Ask) -> bytes:
    """Take the body out of a request of ours."""
    assert INT32.unpack_from(ask.frame)[0] == len(ask.frame) - 4
    assert INT16.unpack_from(ask.frame, 4)[0] == ask.key
    assert INT16.unpack_from(ask.frame, 6)[0] == ask.version
    assert INT32.unpack_from(ask.frame, 8)[0] == ask.correlation_id
    assert CLIENT_ID.encode() in ask.frame
    return ask.frame[request_body_at(ask.frame, 4, len(ask.frame)) :]


@pytest.mark.parametrize("version", [0, 1, 2])
def test_plain(version: int) -> None:
    """PLAIN is one handshake and one token; two codecs read both as meant, and the lifetime is the broker's."""
    login = Login(Plain("gateway", SECRET), authenticate_version=version)
    first = login.begin()
    assert KAFKA_PYTHON.decode(17, 1, "request", body(first)) == {"mechanism": "PLAIN"}
    second = login.answer(HANDSHAKEN)
    assert second is not None
    token = f"\0gateway\0{SECRET}".encode()
    assert KAFKA_PYTHON.decode(36, version, "request", body(second)) == {"auth_bytes": token}
    assert second.correlation_id == first.correlation_id + 1 == 2_147_483_641
    oracle = KIO if version in KIO.versions(36) else KAFKA_PYTHON
    tree = oracle.message(Random(1), 36, version, "response") | {"error_message": None, "auth_bytes": b""}
    tree["error_code"] = type(tree["error_code"])(0)
    answer = oracle.encode(36, version, "response", tree)
    assert login.answer(answer) is None
    expected = handshake.parse_sasl_authenticate_response(version, answer).session_lifetime_ms
    assert login.session_lifetime_ms == expected


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        ([(33, ["SCRAM-SHA-256", "OAUTHBEARER"])], "does not offer PLAIN; it offers: SCRAM-SHA-256, OAUTHBEARER"),
        ([(33, [])], "it offers: none"),
        ([(34, [])], "does not use SASL; remove the credentials or use its SASL port"),
        ([(-1, [])], "refused the SASL handshake for PLAIN: error -1"),
    ],
)
def test_refused_handshakes(answers: list[tuple[int, list[str]]], text: str) -> None:
    """A refused handshake tells what is wrong and what to do."""
    login = Login(Plain("gateway", SECRET))
    login.begin()
    with pytest.raises(AuthError, match=text) as raised:
        login.answer(handshake.sasl_handshake_response(*answers[0]))
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (authenticated(58, "Invalid username or password"), "PLAIN login refused: Invalid username or password"),
        (authenticated(58), "PLAIN login refused: error 58"),
    ],
)
def test_refused_credentials(answer: bytes, text: str) -> None:
    """Refused credentials are told in the broker's words."""
    login = Login(Plain("gateway", SECRET))
    login.begin()
    login.answer(HANDSHAKEN)
    with pytest.raises(AuthError, match=text) as raised:
        login.answer(answer)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("cut", [0, 1, 5])
def test_answers_of_nonsense(cut: int) -> None:
    """An answer that cannot be read is a ProtocolError, in either phase."""
    login = Login(Plain("gateway", SECRET))
    login.begin()
    with pytest.raises(ProtocolError):
        login.answer(HANDSHAKEN[:cut])
    login.answer(HANDSHAKEN)
    with pytest.raises(ProtocolError):
        login.answer(authenticated()[:cut])


class Endless:
    """A mechanism that always has one more thing to say."""

    name = "ENDLESS"

    def session(self) -> Session:
        """Begin."""
        return self

    def first(self) -> bytes:
        """Say something."""
        return b"0"

    def challenge(self, token: bytes) -> bytes | None:
        """Say what was said."""
        return token


def test_rounds() -> None:
    """Challenges are answered one by one under ids of Kafka's reserved range, which a login must not leave."""
    login = Login(Endless())
    asks = [login.begin()]
    answer = HANDSHAKEN
    with pytest.raises(AuthError, match="ENDLESS login does not end"):  # noqa: PT012  which round raises is the point
        while ask := login.answer(answer):
            asks.append(ask)
            answer = authenticated(token=b"%d" % len(asks))
    assert [ask.correlation_id for ask in asks] == list(range(2_147_483_640, 2_147_483_648))
    assert [body(ask) for ask in asks[1:4]] == [b"\0\0\0\x010", b"\0\0\0\x012", b"\0\0\0\x013"]


def test_no_secret_shows() -> None:
    """Neither credentials, nor a login, nor a request of one shows the password in its repr."""
    mechanism = Plain("gateway", SECRET)
    login = Login(mechanism)
    login.begin()
    ask = login.answer(HANDSHAKEN)
    assert SECRET.encode() in getattr(ask, "frame", b"")
    for each in (mechanism, login, ask, mechanism.session()):
        shown = f"{each!r} {each} {[each]}"
        assert "s3cret" not in shown
    assert "gateway" in repr(mechanism)
    assert mechanism.name == "PLAIN"
