"""OAUTHBEARER on both sides: what is said is read as meant, what cannot be read lets nobody in, no token shows."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.core.acceptor import Accepted, Challenge, Identity, Refused, ServerSession, Step, Work
from kproxy.core.oauthbearer import (
    ERROR_CHARACTERS_MAX,
    INITIAL_BYTES_MAX,
    Initial,
    Oauthbearer,
    OauthServer,
    build_error,
    build_initial,
    parse_error,
    parse_initial,
    valid_token,
)
from kproxy.core.sasl import Login, Session
from kproxy.errors import AuthError, Malformed
from kproxy.wire import handshake

TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2ln-_~+/=="
ALICE = Accepted(Identity("User:alice"))
EXTENSIONS = {"logicalCluster": "lkc-1", "traceId": "a b\tc=d"}


class Keeper:
    """A validator that lets one token in, at once or after some work."""

    def __init__(self, *, works: bool = False) -> None:
        self.works = works

    def validate(self, token: str) -> Accepted | Refused | Work:
        """Compare."""
        step = ALICE if token == TOKEN else Refused("another token")
        return Work(lambda: step) if self.works else step


def worked(step: Step) -> Step:
    """Do what there is to do."""
    return step.run() if isinstance(step, Work) else step


def session(*, works: bool = False, tells_errors: bool = False) -> ServerSession:
    """Begin a login."""
    server = OauthServer(Keeper(works=works), tells_errors)
    assert server.name == "OAUTHBEARER"
    return server.session()


def test_the_bytes() -> None:
    """A message has the bytes of RFC 7628, with Kafka's extensions behind the token."""
    assert build_initial(Initial("T")) == b"n,,\x01auth=Bearer T\x01\x01"
    built = build_initial(Initial("T", "a,b=c", {"x": "1", "y": "2"}))
    assert built == b"n,a=a=2Cb=3Dc,\x01auth=Bearer T\x01x=1\x01y=2\x01\x01"
    assert build_error() == b'{"status":"invalid_token"}'


@pytest.mark.parametrize("extensions", [{}, EXTENSIONS])
def test_clients(extensions: Mapping[str, str]) -> None:
    """What kafka-python and aiokafka send is read as they mean it."""
    import aiokafka.abc
    from aiokafka.conn import OAuthAuthenticator
    from kafka.net.sasl.oauth import AbstractTokenProvider, SaslMechanismOAuth

    class Provider(AbstractTokenProvider):  # type: ignore[misc]  # no types
        def token(self) -> str:
            return TOKEN

        def extensions(self) -> dict[str, str]:
            return dict(extensions)

    class AioProvider(aiokafka.abc.AbstractTokenProvider):  # type: ignore[misc]  # no types
        async def token(self) -> str:
            return TOKEN

        def extensions(self) -> dict[str, str]:
            return dict(extensions)

    sync = SaslMechanismOAuth(sasl_oauth_token_provider=Provider()).auth_bytes()
    aio, _ = asyncio.run(OAuthAuthenticator(sasl_oauth_token_provider=AioProvider()).step(None))
    ours = Oauthbearer(lambda: TOKEN, extensions).session().first()
    for message in (sync, aio, ours):
        assert parse_initial(message) == Initial(TOKEN, "", extensions)
        assert session().respond(message) == ALICE
    assert sync == aio == ours


NAMES = st.text(st.characters(exclude_characters="\x00\x01", exclude_categories=["Cs"]), max_size=20)
VALUES = st.text(st.sampled_from([chr(code) for code in range(0x21, 0x7F)] + list(" \t\r\n")), min_size=1, max_size=20)
KEYS = st.from_regex(r"[A-Za-z]{1,10}", fullmatch=True).filter(lambda name: name != "auth")
TOKENS = st.from_regex(r"[A-Za-z0-9._~+/-]{1,50}={0,2}", fullmatch=True)


@given(TOKENS, NAMES, st.dictionaries(KEYS, VALUES, max_size=5))
def test_there_and_back(token: str, authzid: str, extensions: dict[str, str]) -> None:
    """Whatever can be said is read back."""
    initial = Initial(token, authzid, extensions)
    assert valid_token(token)
    assert parse_initial(build_initial(initial)) == initial


def test_lenient_where_kafka_is() -> None:
    """The scheme may be in any case and have spaces behind it, and the token may come last (RFC 7235, Kafka)."""
    assert parse_initial(b"n,,\x01host=h\x01auth=bEARER   T\x01\x01") == Initial("T", "", {"host": "h"})


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x01",
        b"n,,",
        b"n,,\x01\x01",
        b"n,,\x01auth=Bearer T",
        b"n,,\x01auth=Bearer T\x01",
        b"n,,\x01auth=Bearer T\x01\x01\x01",
        b"n,,\x01auth=Bearer T\x01\x01x",
        b"n,,\x01auth=Bearer \x01\x01",
        b"n,,\x01auth=Bearer T U\x01\x01",
        b"n,,\x01auth=Bearer T,\x01\x01",
        b"n,,\x01auth=BearerT\x01\x01",
        b"n,,\x01auth=Basic T\x01\x01",
        b"n,,\x01auth=\x01\x01",
        b"n,,\x01bearer=Bearer T\x01\x01",
        b"n,,\x01auth=Bearer T\x01auth=Bearer T\x01\x01",
        b"n,,\x01auth=Bearer T\x01x=1\x01x=2\x01\x01",
        b"n,,\x01auth=Bearer T\x01x1=1\x01\x01",
        b"n,,\x01auth=Bearer T\x01novalue\x01\x01",
        b"n,,\x01auth=Bearer T\x01x=\x00\x01\x01",
        b"n,,auth=Bearer T",
        b",,\x01auth=Bearer T\x01\x01",
        b"n,\x01auth=Bearer T\x01\x01",
        b"n,,,\x01auth=Bearer T\x01\x01",
        b"y,,\x01auth=Bearer T\x01\x01",
        b"p=tls-unique,,\x01auth=Bearer T\x01\x01",
        b"n,alice,\x01auth=Bearer T\x01\x01",
        b"n,a=,\x01auth=Bearer T\x01\x01",
        b"n,a=b=c,\x01auth=Bearer T\x01\x01",
        b"n,a=\x00,\x01auth=Bearer T\x01\x01",
        b"n,,\x01auth=Bearer \xff\x01\x01",
        b"n,,\x01auth=Bearer " + b"T" * INITIAL_BYTES_MAX + b"\x01\x01",
    ],
)
def test_what_is_no_message(message: bytes) -> None:
    """Anything else is refused in one line that quotes nothing."""
    with pytest.raises(Malformed, match=r"^an OAUTHBEARER message [a-z0-9 ,-]+") as raised:
        parse_initial(message)
    assert "Bearer" not in str(raised.value)
    assert session(tells_errors=True).respond(message) == Refused(str(raised.value))


GARBAGE = st.one_of(
    st.binary(max_size=200),
    st.lists(
        st.sampled_from([b"n", b",", b"\x01", b"auth=", b"Bearer ", b"T", b"a=", b"=2C", b"x=1", b"\xff", b"\0"])
    ).map(b"".join),
)


@given(GARBAGE, st.booleans(), st.booleans())
def test_garbage(message: bytes, works: bool, tells_errors: bool) -> None:
    """Whatever else a stranger sends, nothing is raised and nobody is let in."""
    login = session(works=works, tells_errors=tells_errors)
    for _ in range(2):
        assert not isinstance(worked(login.respond(message)), Accepted)


@pytest.mark.parametrize("works", [False, True])
def test_accepted(works: bool) -> None:
    """A good token lets in, at once or after the validator's work, and only once."""
    login = session(works=works)
    message = build_initial(Initial(TOKEN))
    step = login.respond(message)
    assert isinstance(step, Work) == works
    assert worked(step) == ALICE
    assert login.respond(message) == Refused("an OAUTHBEARER message too many")


@pytest.mark.parametrize("works", [False, True])
@pytest.mark.parametrize("authzid", ["alice", "bob"])
def test_authorization_id(works: bool, authzid: str) -> None:
    """A client may name itself, and nobody else."""
    step = worked(session(works=works).respond(build_initial(Initial(TOKEN, authzid))))
    expected = ALICE if authzid == "alice" else Refused("the client asks to be another than its token says")
    assert step == expected


@pytest.mark.parametrize("works", [False, True])
def test_refused_at_once(works: bool) -> None:
    """A bad token is refused with the validator's reason, without an exchange that some clients misread."""
    login = session(works=works)
    assert worked(login.respond(build_initial(Initial("BAD")))) == Refused("another token")


@pytest.mark.parametrize("works", [False, True])
@pytest.mark.parametrize("reply", [b"\x01", b"", build_initial(Initial(TOKEN))])
def test_refused_as_kafka_does(works: bool, reply: bytes) -> None:
    """Where errors are told first, whatever the client answers, a good token even, is refused for the same reason."""
    login = session(works=works, tells_errors=True)
    assert worked(login.respond(build_initial(Initial("BAD")))) == Challenge(build_error())
    assert login.respond(reply) == Refused("another token")


def authenticated(token: bytes = b"") -> bytes:
    """Write a SaslAuthenticate answer that is no refusal."""
    return handshake.sasl_authenticate_response(1, handshake.SaslAuthenticateAnswer(0, None, token, 0))


def begun(mechanism: Oauthbearer) -> Login:
    """Log in up to the broker's answer to the token."""
    login = Login(mechanism)
    login.begin()
    assert login.answer(handshake.sasl_handshake_response(0, ["OAUTHBEARER"])) is not None
    return login


def test_our_login() -> None:
    """Kproxy's own login is one message, and is done when the broker says nothing."""
    assert begun(Oauthbearer(lambda: TOKEN)).answer(authenticated()) is None


def test_the_newest_token() -> None:
    """Each login asks for the token anew."""
    tokens = iter(["first", "second"])
    mechanism = Oauthbearer(lambda: next(tokens))
    assert [parse_initial(mechanism.session().first()).token for _ in range(2)] == ["first", "second"]


def test_an_error_that_is_told() -> None:
    """A broker's error is answered by one byte; then its refusal is told, or the error, should it say nothing."""
    login = begun(Oauthbearer(lambda: TOKEN))
    ask = login.answer(authenticated(build_error("insufficient_scope")))
    assert ask is not None
    assert handshake.parse_sasl_authenticate_request(1, ask.frame[-5:]) == b"\x01"
    with pytest.raises(AuthError, match=r"^OAUTHBEARER login refused: insufficient_scope$"):
        login.answer(authenticated())


def test_both_sides() -> None:
    """Kproxy's client and its server agree, in consent as in refusal."""
    for token in (TOKEN, "BAD"):
        ours: Session = Oauthbearer(lambda token=token: token).session()  # type: ignore[misc]
        theirs = session(tells_errors=True)
        step = theirs.respond(ours.first())
        if token == TOKEN:
            assert step == ALICE
            assert ours.challenge(ALICE.token) is None
        else:
            assert isinstance(step, Challenge)
            answer = ours.challenge(step.token)
            assert answer == b"\x01"
            assert isinstance(theirs.respond(answer), Refused)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (build_error("expired"), "expired"),
        (json.dumps({"status": "s" * 1000}).encode(), "s" * ERROR_CHARACTERS_MAX),
        (b'{"status":"two\\nlines"}', "with an error that cannot be read"),
        (b'{"status":1}', "with an error that cannot be read"),
        (b'{"scope":"x"}', "with an error that cannot be read"),
        (b"[]", "with an error that cannot be read"),
        (b"1", "with an error that cannot be read"),
        (b"\xff", "with an error that cannot be read"),
        (b"[" * 60_000, "with an error that cannot be read"),
    ],
)
def test_errors_of_brokers(message: bytes, text: str) -> None:
    """A broker's error is told in a short line, whatever it holds."""
    assert parse_error(message) == text


def test_extensions_that_cannot_be_sent() -> None:
    """An extension that would break the message is refused before it is sent, and not quoted."""
    for extensions in ({"auth": "x"}, {"a1": "x"}, {"x": ""}, {"x": "s3cret\x01auth=y"}):
        with pytest.raises(ValueError, match="is no SASL extension, or its value cannot be sent") as raised:
            Oauthbearer(lambda: TOKEN, extensions)
        assert "s3cret" not in str(raised.value)


def test_no_token() -> None:
    """Where there is no token, or something else, the login fails with a reason and without it."""

    def none() -> str:
        raise AuthError("no token yet")

    with pytest.raises(AuthError, match="no token yet"):
        begun(Oauthbearer(none))
    for odd in ("", "s3cret\n", "s3cret\x01x=y", "s3crét"):
        with pytest.raises(AuthError, match="holds characters that no token has") as raised:
            begun(Oauthbearer(lambda odd=odd: odd))  # type: ignore[misc]
        assert "s3cr" not in str(raised.value)


def test_no_token_shows() -> None:
    """No repr, nor an error in which the broker quotes it, shows a token."""
    mechanism = Oauthbearer(lambda: TOKEN, {"x": "y"})
    login = begun(mechanism)
    ask: Any = login.answer(authenticated(json.dumps({"status": f"bad {TOKEN}"}, ensure_ascii=False).encode()))
    server = session()
    parsed = parse_initial(mechanism.session().first())
    server.respond(build_initial(parsed))
    with pytest.raises(AuthError, match=r"bad \*\*\*$"):
        login.answer(authenticated())
    for each in (mechanism, login, ask, parsed, server, OauthServer(Keeper())):
        assert TOKEN[:20] not in f"{each!r} {each} {[each]}"
