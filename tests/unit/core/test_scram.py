"""SCRAM, both sides: RFC 7677's conversation, each other, kafka-python's client, and everything that is not genuine."""

import base64
import hashlib
import hmac
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kproxy.core.acceptor import Accepted, Challenge, Identity, Refused, ServerMechanism
from kproxy.core.credentials import HASHES, User, Users, derive
from kproxy.core.sasl import Login, Mechanism
from kproxy.core.scram import ITERATIONS_UPSTREAM_MAX, TOKEN_BYTES_MAX, Scram, ScramServer
from kproxy.errors import AuthError
from kproxy.wire.handshake import sasl_handshake_response
from kproxy.wire.primitives import INT16, INT32, INT64

SECRET = "s3cret pä55"
PENCIL = "pencil"
NONCE, SERVER_NONCE = "rOprNGfwEbeRWgbNEkqO", "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")

CLIENT_FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
UNPROVEN = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
CLIENT_FINAL = UNPROVEN + b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
"""The conversation of RFC 7677 section 3: user "user", password "pencil"."""


def someone(name: str, password: str = SECRET, **more: Any) -> User:
    """Make a user with both credentials."""
    credentials = {mechanism: derive(password, mechanism, 4096, SALT) for mechanism in HASHES}
    return User(name, credentials, frozenset({"team-a"}), **more)


AWKWARD = "a=b,c=2C ärger"
TABLE = Users([someone("user", "pencil"), someone("alice"), someone(AWKWARD), someone("off", disabled=True)])


def server(mechanism: str = "SCRAM-SHA-256", users: Users = TABLE) -> ScramServer:
    """Make a server whose nonces are RFC 7677's."""
    return ScramServer(mechanism, lambda: users, lambda: SERVER_NONCE)


def client(username: str = "user", secret: str = PENCIL, mechanism: str = "SCRAM-SHA-256", nonce: str = NONCE) -> Scram:
    """Make a client whose nonces are RFC 7677's."""
    return Scram(username, secret, mechanism, lambda: nonce)


def converse(scram: Mechanism, acceptor: ServerMechanism) -> Identity | str:
    """Let the two talk; return who was let in, or why not."""
    speaker, listener = scram.session(), acceptor.session()
    token: bytes | None = speaker.first()
    while True:
        assert token is not None
        step = listener.respond(token)
        if isinstance(step, Refused):
            return step.reason
        assert isinstance(step, Challenge | Accepted)
        token = speaker.challenge(step.token)
        if isinstance(step, Accepted):
            assert token is None
            return step.identity


def test_the_server_speaks_as_in_rfc_7677() -> None:
    """The RFC's client is let in, and gets the RFC's answers."""
    session = server().session()
    assert session.respond(CLIENT_FIRST) == Challenge(SERVER_FIRST)
    assert session.respond(CLIENT_FINAL) == Accepted(Identity("User:user", frozenset({"team-a"})), SERVER_FINAL)
    assert session.respond(CLIENT_FINAL) == Refused("the login is over already")


def test_the_client_speaks_as_in_rfc_7677() -> None:
    """Against the RFC's server the client says what the RFC's client says, and believes it in the end."""
    session = client().session()
    assert session.first() == CLIENT_FIRST
    assert session.challenge(SERVER_FIRST) == CLIENT_FINAL
    assert session.challenge(SERVER_FINAL) is None
    with pytest.raises(AuthError, match="goes on after the end"):
        session.challenge(SERVER_FINAL)


@pytest.mark.parametrize("mechanism", HASHES)
@pytest.mark.parametrize("username", ["alice", AWKWARD])
def test_our_client_at_our_server(username: str, mechanism: str) -> None:
    """The two sides get on, with random nonces and awkward names; a wrong password is refused."""
    acceptor = ScramServer(mechanism, lambda: TABLE)
    assert acceptor.name == mechanism
    assert converse(Scram(username, SECRET, mechanism), acceptor) == Identity(f"User:{username}", frozenset({"team-a"}))
    assert converse(Scram(username, "pencil", mechanism), acceptor) == f"wrong password: {username!r}"


@pytest.mark.parametrize("mechanism", HASHES)
@pytest.mark.parametrize("password", [SECRET, "pencil"])
def test_kafka_pythons_client_at_our_server(mechanism: str, password: str) -> None:
    """kafka-python's own client is let in with the right password only, and takes our signature for genuine."""
    from kafka.net.sasl.scram import ScramClient

    theirs, session = ScramClient("alice", password, mechanism), ScramServer(mechanism, lambda: TABLE).session()
    challenge = session.respond(theirs.first_message())
    assert isinstance(challenge, Challenge)
    theirs.process_server_first_message(challenge.token)
    step = session.respond(theirs.final_message())
    if password == SECRET:
        assert isinstance(step, Accepted)
        theirs.process_server_final_message(step.token)
    else:
        assert step == Refused("wrong password: 'alice'")


@pytest.mark.parametrize(
    ("first", "channel"),
    [
        (b"y,,n=user,r=abc", b"y,,"),
        (b"n,a=user,n=user,r=abc", b"n,a=user,"),
        (b"n,,n=user,r=abc,x=1,tokenauth=false", b"n,,"),
        (b"n,,n=user,r=abc,tokenauth=truely", b"n,,"),
    ],
)
def test_what_else_a_client_may_say(first: bytes, channel: bytes) -> None:
    """'y' for no channel binding, one's own name as authorization id, and extensions nobody knows are all right."""
    session = server().session()
    challenge = session.respond(first)
    assert isinstance(challenge, Challenge)
    unproven = b"c=" + base64.b64encode(channel) + b",r=abc" + SERVER_NONCE.encode() + b",x=y"
    step = session.respond(proven(first[len(channel) :], challenge.token, unproven))
    assert isinstance(step, Accepted)


def proven(bare: bytes, server_first: bytes, unproven: bytes) -> bytes:
    """Write a client-final-message of "user", whatever it says."""
    salted = hashlib.pbkdf2_hmac("sha256", b"pencil", SALT, 4096)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    message = b",".join((bare, server_first, unproven))
    signature = hmac.digest(hashlib.sha256(client_key).digest(), message, "sha256")
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    return unproven + b",p=" + base64.b64encode(proof)


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (b"", "no client-first-message"),
        (b"n,,n=user", "no client-first-message"),
        (b"n,,n=,r=abc", "no client-first-message"),
        (b"n,,n=us=er,r=abc", "no client-first-message"),
        (b"n,,n=us=2cer,r=abc", "no client-first-message"),
        (b"n,,n=us\0er,r=abc", "no client-first-message"),
        (b"n,,n=user,r=", "no client-first-message"),
        (b"n,,n=user,r=a b", "no client-first-message"),
        (b"n,,n=user,r=abc,", "no client-first-message"),
        (b"\0user\0pencil", "no client-first-message"),
        (CLIENT_FINAL, "no client-first-message"),
        (b"n,,n=\xff,r=abc", "not UTF-8"),
        (b"n,,n=u,r=" + b"a" * TOKEN_BYTES_MAX, "above 8192 bytes"),
        (b"p=tls-unique,,n=user,r=abc", "channel binding"),
        (b"n,,m=must,n=user,r=abc", "insists on an extension"),
        (b"n,,n=user,r=abc,tokenauth=true", "delegation token"),
        (b"n,,n=user,r=abc,x=1,tokenauth=TRUE,y=2", "delegation token"),
        (b"n,,n=us\ner,r=abc", "cannot be printed"),
        (b"n,,n=" + b"u" * 1025 + b",r=abc", "too long"),
        (b"n,a=root,n=user,r=abc", "user 'user' asks to be somebody else"),
    ],
)
def test_a_first_message_that_is_refused(token: bytes, reason: str) -> None:
    """What is not SCRAM, or asks for what there is not, is refused with its reason, and the login is over."""
    session = server().session()
    step = session.respond(token)
    assert isinstance(step, Refused)
    assert reason in step.reason
    assert session.respond(CLIENT_FIRST) == Refused("the login is over already")


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (b"", "no client-final-message"),
        (UNPROVEN, "no client-final-message"),
        (CLIENT_FINAL + b",x=y", "no client-final-message"),
        (CLIENT_FINAL[:-2], "no client-final-message"),
        (CLIENT_FINAL.replace(b"biws", b"eSws"), "channel binding"),
        (CLIENT_FINAL.replace(b"$k0", b"$k1"), "nonce"),
        (CLIENT_FINAL.replace(b"%hvY", b"hvY"), "nonce"),
        (UNPROVEN + b",p=AAAA", "wrong length"),
        (UNPROVEN + b",p=", "wrong length"),
        (CLIENT_FINAL.replace(b"p=dHz", b"p=dHy"), "wrong password: 'user'"),
        (UNPROVEN + b",x=y" + CLIENT_FINAL[len(UNPROVEN) :], "wrong password: 'user'"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_a_final_message_that_is_refused(token: bytes, reason: str) -> None:
    """Whatever differs from what was agreed, or is not proven, is refused, and there is no second try."""
    session = server().session()
    session.respond(CLIENT_FIRST)
    step = session.respond(token)
    assert isinstance(step, Refused)
    assert reason in step.reason
    assert session.respond(CLIENT_FINAL) == Refused("the login is over already")


def test_nobody_learns_who_is_there() -> None:
    """An unknown, a disabled and a real user get challenges of one shape, the same at each try; only the log knows."""
    shapes = set()
    for name, reason in (("nobody", "no such user: 'nobody'"), ("off", "the user is disabled: 'off'")):
        for _ in range(2):
            session = server().session()
            challenge = session.respond(f"n,,n={name},r={NONCE}".encode())
            assert isinstance(challenge, Challenge)
            _, salt, iterations = challenge.token.split(b",")
            shapes.add((name, salt))
            assert (len(base64.b64decode(salt[2:])), iterations) == (len(SALT), b"i=4096")
        assert converse(client(name, SECRET), server()) == reason
    assert len(shapes) == 2


@pytest.mark.parametrize("mechanism", HASHES)
def test_everybody_costs_the_same_hashes(mechanism: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server does the same work for a right, a wrong, an unknown and a disabled login."""
    done = list[str]()
    real = hmac.digest

    def noting(key: bytes, message: bytes, name: str) -> bytes:
        done.append(name)
        return real(key, message, name)

    costs = []
    for name, password in (("alice", SECRET), ("alice", "wrong"), ("nobody", SECRET), ("off", SECRET)):
        speaker, listener = client(name, password, mechanism).session(), server(mechanism).session()
        monkeypatch.setattr(hmac, "digest", noting)
        challenge = listener.respond(speaker.first())
        monkeypatch.setattr(hmac, "digest", real)
        assert isinstance(challenge, Challenge)
        final = speaker.challenge(challenge.token)
        assert final is not None
        monkeypatch.setattr(hmac, "digest", noting)
        listener.respond(final)
        monkeypatch.setattr(hmac, "digest", real)
        costs.append(done[:])
        done.clear()
    assert costs == [costs[0]] * 4
    assert costs[0]


@settings(deadline=None)  # busy machines
@given(st.lists(st.binary(max_size=100) | st.sampled_from([CLIENT_FIRST, UNPROVEN, CLIENT_FINAL]), max_size=4))
def test_no_garbage_is_let_in(tokens: list[bytes]) -> None:
    """Whatever tokens come, none raises, and only the RFC's conversation is accepted."""
    session = server().session()
    steps = [session.respond(token) for token in tokens]
    accepted = [isinstance(step, Accepted) for step in steps]
    assert any(accepted) == (tokens[:2] == [CLIENT_FIRST, CLIENT_FINAL])


@settings(deadline=None)  # busy machines
@given(st.text(alphabet="nyp=,amr2C3D\0x e", max_size=40), st.text(alphabet="cr=,pbiws+/AAAAvi0", max_size=60))
def test_no_near_miss_is_let_in(first: str, final: str) -> None:
    """Texts made of SCRAM's own characters neither raise nor get in."""
    session = server().session()
    assert not isinstance(session.respond(first.encode()), Accepted)
    assert not isinstance(session.respond(final.encode()), Accepted)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (b"", "first message is not one of SCRAM"),
        (b"\xff", "not UTF-8"),
        (b"r=" + b"a" * TOKEN_BYTES_MAX, "above 8192 bytes"),
        (SERVER_FINAL, "first message is not one of SCRAM"),
        (b"e=other-error", "SCRAM-SHA-256 login refused: other-error"),
        (b"e=a\nb", r"login refused: a\?b"),
        (b"m=must," + SERVER_FIRST, "insists on an extension"),
        (SERVER_FIRST.replace(b"r=r", b"r=s"), "not genuine: its nonce"),
        (SERVER_FIRST.replace(SERVER_NONCE.encode(), b""), "not genuine: its nonce"),
        (SERVER_FIRST.replace(b"4096", b"4095"), "asks for 4095 iterations; 4096 to 131072 are accepted"),
        (SERVER_FIRST.replace(b"4096", b"131073"), "asks for 131073 iterations"),
        (SERVER_FIRST.replace(b"4096", b"9" * 5000), "asks for 9{20} iterations"),
        (SERVER_FIRST.replace(b"4096", b"-1"), "first message is not one of SCRAM"),
        (SERVER_FIRST.replace(b"gQ==", b"gQ="), "first message is not one of SCRAM"),
    ],
)
def test_a_brokers_first_message_that_is_refused(message: bytes, told: str) -> None:
    """A broker that is not genuine, or asks for too little or too much work, is told apart with a clear text."""
    with pytest.raises(AuthError, match=told) as raised:
        client().session().challenge(message)
    assert "pencil" not in str(raised.value)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (b"", "not genuine: it could not prove"),
        (SERVER_FIRST, "not genuine: it could not prove"),
        (b"v=", "not genuine: it could not prove"),
        (SERVER_FINAL.replace(b"v=6", b"v=7"), "not genuine: it could not prove"),
        (b"e=invalid-proof", "SCRAM-SHA-256 login refused: invalid-proof"),
    ],
)
def test_a_brokers_last_message_that_is_refused(message: bytes, told: str) -> None:
    """A broker that says yes but does not know the credential is not believed."""
    session = client().session()
    session.challenge(SERVER_FIRST)
    with pytest.raises(AuthError, match=told):
        session.challenge(message)


@settings(deadline=None)  # busy machines
@given(st.lists(st.binary(max_size=60) | st.sampled_from([SERVER_FIRST, b"e=", b"v=AAAA"]), min_size=1, max_size=3))
def test_no_garbage_is_believed(messages: list[bytes]) -> None:
    """Whatever a broker says, short of its signature, ends in AuthError or in one more token; never in a login."""
    mechanism = REMEMBERING
    session = mechanism.session()
    try:
        for message in messages:
            assert session.challenge(message) is not None
    except AuthError:
        pass


REMEMBERING = client()


@pytest.fixture
def derivations(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Note the salt of each derivation."""
    real, seen = hashlib.pbkdf2_hmac, list[bytes]()

    def noting(name: str, password: bytes, salt: bytes, iterations: int) -> bytes:
        seen.append(salt)
        return real(name, password, salt, iterations)

    monkeypatch.setattr(hashlib, "pbkdf2_hmac", noting)
    return seen


def test_many_logins_derive_once(derivations: list[bytes]) -> None:
    """However many connections log in with one salt, the password is derived once; few salts are remembered."""
    mechanism = Scram("user", "pencil", "SCRAM-SHA-256")
    acceptor = server()
    for _ in range(50):
        assert converse(mechanism, acceptor) == Identity("User:user", frozenset({"team-a"}))
    assert derivations == [SALT]
    for number in range(20):
        mechanism.keys(b"%08d" % number, 4096)
    assert len(derivations) == 21
    assert len(mechanism._keys) == 4
    mechanism.keys(b"00000019", 4096)
    assert len(derivations) == 21


def test_a_broker_may_ask_for_the_most_iterations() -> None:
    """The upper bound itself is accepted."""
    most = b"%d" % ITERATIONS_UPSTREAM_MAX
    assert client().session().challenge(SERVER_FIRST.replace(b"4096", most)) is not None


def test_it_is_a_mechanism_of_logins(derivations: list[bytes]) -> None:
    """Login speaks SCRAM with a broker in two rounds, as with any mechanism."""

    def said(token: bytes, lifetime_ms: int = 0) -> bytes:
        """Write a SaslAuthenticate v1 answer."""
        return INT16.pack(0) + INT16.pack(-1) + INT32.pack(len(token)) + token + INT64.pack(lifetime_ms)

    login = Login(client())
    login.begin()
    first = login.answer(sasl_handshake_response(0, ["SCRAM-SHA-256"]))
    second = login.answer(said(SERVER_FIRST))
    assert first is not None
    assert second is not None
    assert first.frame.endswith(CLIENT_FIRST)
    assert second.frame.endswith(CLIENT_FINAL)
    assert login.answer(said(SERVER_FINAL, lifetime_ms=5000)) is None
    assert login.session_lifetime_ms == 5000
    assert len(derivations) == 1


def test_no_secret_shows() -> None:
    """Neither credentials nor a login shows the password or a key in its repr."""
    mechanism = Scram("user", SECRET)
    session = mechanism.session()
    mechanism.keys(SALT, 4096)
    told = f"{mechanism!r} {session!r} {server()!r} {server().session()!r}"
    assert "s3cret" not in told
    assert repr(mechanism) == "Scram(username='user', name='SCRAM-SHA-512')"


def test_other_mechanisms_are_refused() -> None:
    """A mechanism that is not SCRAM is a mistake of the caller."""
    with pytest.raises(ValueError, match="SCRAM-SHA-1 is not a SCRAM mechanism; known: SCRAM-SHA-512, SCRAM-SHA-256"):
        Scram("user", "pencil", "SCRAM-SHA-1")
    with pytest.raises(KeyError):
        server("PLAIN")


def test_a_new_table_counts_at_once() -> None:
    """Users are looked up when a client comes, not when the listener was made."""
    tables = [Users(), TABLE]
    users: Callable[[], Users] = lambda: tables.pop(0)  # noqa: E731  one line says it
    acceptor = ScramServer("SCRAM-SHA-256", users)
    assert converse(client(), acceptor) == "no such user: 'user'"
    assert converse(client(), acceptor) == Identity("User:user", frozenset({"team-a"}))
