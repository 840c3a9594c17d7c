"""A client's login, on bytes that a foreign codec writes and reads: who gets in, and what all others are told."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

import pytest
from conversations import OFFER
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import KIO, ORACLES, KafkaPython, Kio, Tree

from kproxy.core.acceptor import Accepted, Challenge, Identity, Refused, ServerMechanism, ServerSession, Step, Work
from kproxy.core.clientlogin import (
    FAILED,
    FRAME_BYTES_MAX,
    LIFETIME_SECONDS_MAX,
    REQUESTS_MAX,
    ClientLogin,
    Entrance,
    Proven,
    Terms,
)
from kproxy.core.exchange import Front
from kproxy.core.offer import make_offer
from kproxy.core.plain import PassthroughPlain
from kproxy.core.tally import Tally
from kproxy.errors import FrameTooLarge, Malformed, ProtocolError, Unsupported
from kproxy.wire import apiversions, frames, handshake
from kproxy.wire.apis import APIS, is_flexible
from kproxy.wire.apiversions import ApiVersionsAnswer, ClientSoftware
from kproxy.wire.primitives import INT16, INT32

NOW = 1_700_000_000.0
ALICE = Identity("User:alice", frozenset({"team"}))

API_VERSIONS, HANDSHAKE, AUTHENTICATE = 18, 17, 36

Oracle = Kio | KafkaPython


@dataclass
class Script:
    """A mechanism whose sessions say one step after the other."""

    name: str
    steps: Sequence[Step]
    tokens: list[bytes] = field(default_factory=list)
    """What the sessions were told."""

    def session(self) -> ServerSession:
        """Begin anew."""
        return _Session(self)


class _Session:
    def __init__(self, script: Script) -> None:
        self._script = script
        self._steps = iter(script.steps)

    def respond(self, token: bytes) -> Step:
        self._script.tokens.append(token)
        return next(self._steps)


def one_round(identity: Identity = ALICE) -> Script:
    """Make a mechanism that lets everybody in, as one."""
    return Script("PLAIN", [Accepted(identity, b"welcome")])


def two_rounds(identity: Identity = ALICE) -> Script:
    """Make one that asks once more before."""
    return Script("SCRAM-SHA-512", [Challenge(b"salt"), Accepted(identity, b"proof")])


def terms(*mechanisms: ServerMechanism, lifetime_seconds: float = 0.0, judged_upstream: bool = False) -> Terms:
    """Say how clients log in; PLAIN and SCRAM by default."""
    by_name = {mechanism.name: mechanism for mechanism in mechanisms or (two_rounds(), one_round())}
    return Terms(by_name, lambda: NOW, lifetime_seconds, judged_upstream)


def entrance(on: Terms | None = None) -> Entrance:
    """Let a client begin."""
    return Entrance(Front(OFFER, Tally()), on or terms())


# What a client sends.


def request(key: int, version: int, tree: Tree, number: int = 1) -> bytes:
    """Write a request by a foreign codec."""
    oracle = next(oracle for oracle in ORACLES if version in oracle.versions(key))
    return frames.request(key, version, number, "c", oracle.encode(key, version, "request", tree))


def introduces(version: int = 3, number: int = 1, name: str = "librdkafka") -> bytes:
    """Write ApiVersions."""
    body = apiversions.request(version, ClientSoftware(name, "2.4.0"))
    return frames.request(API_VERSIONS, version, number, "c", body)


def chooses(mechanism: str, version: int = 1, number: int = 2) -> bytes:
    """Write SaslHandshake."""
    return request(HANDSHAKE, version, {"mechanism": mechanism}, number)


def proves(token: bytes, version: int = 2, number: int = 3) -> bytes:
    """Write SaslAuthenticate."""
    return request(AUTHENTICATE, version, {"auth_bytes": token}, number)


def bare(token: bytes) -> bytes:
    """Write a token as it follows a SaslHandshake v0."""
    return INT32.pack(len(token)) + token


# What it is told.


def split(stream: bytes) -> list[bytes]:
    """Cut a stream into its frames, without their sizes; all of it must be there."""
    found = []
    while stream:
        end = 4 + INT32.unpack_from(stream)[0]
        assert len(stream) >= end
        found.append(stream[4:end])
        stream = stream[end:]
    return found


def answer(frame: bytes, key: int, version: int, number: int, oracle: Oracle = KIO) -> Tree:
    """Read an answer by a foreign codec."""
    assert INT32.unpack_from(frame)[0] == number
    tagged = key != API_VERSIONS and is_flexible(key, version)
    assert not tagged or frame[4] == 0
    return oracle.decode(key, version, "response", frame[5 if tagged else 4 :])


def told(out: bytes, *asked: tuple[int, int]) -> list[Tree]:
    """Read the answers to requests numbered from 1 on."""
    answers = split(out)
    return [
        answer(frame, key, version, number)
        for number, (frame, (key, version)) in enumerate(zip(answers, asked, strict=True), 1)
    ]


@pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: oracle.name)
@pytest.mark.parametrize("version", [0, 1, 2])
def test_a_login(oracle: Oracle, version: int) -> None:
    """A client that introduces itself, chooses and proves is in, and both codecs read every answer."""
    script = two_rounds()
    each = entrance(terms(script, one_round(), lifetime_seconds=60))
    stream = introduces() + chooses("SCRAM-SHA-512") + proves(b"me", version) + proves(b"key", version, 4)
    first, second, third, fourth = split(each.receive(stream))
    assert answer(first, API_VERSIONS, 3, 1, oracle)["error_code"] == 0
    offered = answer(second, HANDSHAKE, 1, 2, oracle)
    assert (offered["error_code"], offered["mechanisms"]) == (0, ["SCRAM-SHA-512", "PLAIN"])
    challenge = answer(third, AUTHENTICATE, version, 3, oracle)
    assert (challenge["error_code"], challenge["auth_bytes"]) == (0, b"salt")
    consent = answer(fourth, AUTHENTICATE, version, 4, oracle)
    assert (consent["error_code"], consent["error_message"], consent["auth_bytes"]) == (0, None, b"proof")
    assert script.tokens == [b"me", b"key"]
    assert each.login.proven == Proven(ALICE, "SCRAM-SHA-512", 60_000)
    assert (each.login.over, each.login.refused, each.leftover) == (True, None, b"")
    assert (each.offer, each.software) == (OFFER, ClientSoftware("librdkafka", "2.4.0"))
    counted = {key: count for key, count in each._front.tally.requests.items() if count}
    assert counted == {18 << 16 | 3: 1, 17 << 16 | 1: 1, 36 << 16 | version: 2}


def test_bare_tokens() -> None:
    """After a SaslHandshake v0 tokens come and go without headers, empty ones too (KIP-152)."""
    script = Script("SCRAM-SHA-512", [Challenge(b""), Challenge(b"salt"), Accepted(ALICE, b"proof")])
    each = entrance(terms(script))
    out = each.receive(chooses("SCRAM-SHA-512", version=0, number=1) + bare(b"") + bare(b"me") + bare(b"key") + b"rest")
    assert split(out)[1:] == [b"", b"salt", b"proof"]
    assert answer(split(out)[0], HANDSHAKE, 0, 1)["error_code"] == 0
    assert script.tokens == [b"", b"me", b"key"]
    assert (each.login.proven, each.leftover) == (Proven(ALICE, "SCRAM-SHA-512", 0), b"rest")


def test_a_refusal_of_bare_tokens_has_no_form() -> None:
    """After a SaslHandshake v0 a client that is refused is told nothing: the connection just ends, as at a broker."""
    each = entrance(terms(Script("PLAIN", [Refused("wrong password")])))
    assert len(split(each.receive(chooses("PLAIN", 0) + bare(b"me")))) == 1
    assert (each.login.refused, each.login.proven) == ("wrong password", None)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_a_refusal_tells_no_reason(version: int) -> None:
    """A client learns that it failed, and never why; nothing behind that is looked at."""
    each = entrance(terms(Script("PLAIN", [Refused("wrong password of alice")])))
    out = each.receive(chooses("PLAIN", number=1) + proves(b"me", version, 2) + introduces())
    _, refusal = told(out, (HANDSHAKE, 1), (AUTHENTICATE, version))
    assert (refusal["error_code"], refusal["error_message"], refusal["auth_bytes"]) == (58, FAILED, b"")
    assert (each.login.refused, each.login.over) == ("wrong password of alice", True)
    assert each.receive(proves(b"me")) == b""


@pytest.mark.parametrize("version", range(5))
def test_an_introduction(version: int) -> None:
    """ApiVersions is answered before a login as behind one, in each version, and as often as a client likes."""
    each = entrance()
    first, again = split(each.receive(introduces(version) + introduces(version, 2)))
    expected = apiversions.response(version, OFFER.answer)
    assert (first[4:], again[4:]) == (expected, expected)
    assert answer(first, API_VERSIONS, version, 1)["error_code"] == 0
    assert (each.begun, each.login.over) == (True, False)
    assert each.software == (ClientSoftware("librdkafka", "2.4.0") if version >= 3 else None)
    assert each.client_id == b"c"


@pytest.mark.parametrize("version", [5, 9, 32_767])
def test_an_introduction_of_the_future(version: int) -> None:
    """An ApiVersions that kproxy does not know gets error 35 in v0, and the client may try another."""
    each = entrance()
    frame = INT16.pack(API_VERSIONS) + INT16.pack(version) + INT32.pack(1) + INT16.pack(-1) + b"?????"
    unknown, known = split(each.receive(INT32.pack(len(frame)) + frame + introduces(0, 2)))
    tree = answer(unknown, API_VERSIONS, 0, 1)
    assert (tree["error_code"].name, [(key["api_key"], key["max_version"]) for key in tree["api_keys"]]) == (
        "unsupported_version",
        [(18, 4)],
    )
    assert answer(known, API_VERSIONS, 0, 2)["error_code"] == 0
    assert each._front.tally.requests[18 << 16] == 2


def test_an_introduction_under_a_name_that_is_none() -> None:
    """A bad software name is told so, as brokers do, and what was known before stays (KIP-511)."""
    each = entrance()
    _, bad = told(each.receive(introduces() + introduces(3, 2, "-bad-")), (API_VERSIONS, 3), (API_VERSIONS, 3))
    assert bad["error_code"] == 42
    assert each.software == ClientSoftware("librdkafka", "2.4.0")


def test_the_newest_offer() -> None:
    """What a client is told last is what holds for it, however the cluster has changed since it came."""
    front = Front(OFFER, Tally())
    each = Entrance(front, terms())
    front.offer = make_offer([ApiVersionsAnswer(ranges={3: (0, 9)})])
    assert each.offer is OFFER
    each.receive(introduces())
    assert each.offer is front.offer


# Who is out of place.


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("asked", ["GSSAPI", "", "plain", "x" * 300, "\x1b[31m"])
def test_an_unknown_mechanism(version: int, asked: str) -> None:
    """A mechanism that is not offered is refused with those that are; the log is told in a short, plain line."""
    each = entrance()
    (tree,) = told(each.receive(chooses(asked, version, 1)), (HANDSHAKE, version))
    assert (tree["error_code"].name, tree["mechanisms"]) == ("unsupported_sasl_mechanism", ["SCRAM-SHA-512", "PLAIN"])
    assert each.login.refused is not None
    assert each.login.refused.endswith("this listener has SCRAM-SHA-512, PLAIN")
    assert len(each.login.refused) < 120
    assert each.login.refused.isprintable()


@pytest.mark.parametrize("version", [0, 1])
def test_a_second_handshake(version: int) -> None:
    """A client chooses once."""
    each = entrance()
    _, tree = told(
        each.receive(chooses("PLAIN", number=1) + chooses("PLAIN", version, 2)), (HANDSHAKE, 1), (HANDSHAKE, version)
    )
    assert tree["error_code"].name == "illegal_sasl_state"
    assert each.login.refused == "a second SaslHandshake"


def test_a_token_before_the_handshake() -> None:
    """A token means nothing before a mechanism is chosen."""
    each = entrance()
    (tree,) = told(each.receive(proves(b"me", number=1)), (AUTHENTICATE, 2))
    assert (tree["error_code"], tree["error_message"]) == (58, FAILED)
    assert each.login.refused == "a token before a SaslHandshake"


EARLY = [(key, api.min_version) for key, api in APIS.items() if key not in (API_VERSIONS, HANDSHAKE, AUTHENTICATE)]


@pytest.mark.parametrize(
    ("key", "version"), [*EARLY, (4, 0), (999, 0), (-1, 0), (18, -1), (17, 2), (17, -1), (36, 3), (36, -1)]
)
@pytest.mark.parametrize("before", [b"", introduces() + chooses("PLAIN")])
def test_anything_else_before_a_login(key: int, version: int, before: bytes) -> None:
    """Nothing but ApiVersions and SASL, in versions that were offered, is even looked at before a login."""
    each = entrance()
    with pytest.raises(Unsupported, match=f"version {version} before a login"):
        each.receive(before + INT32.pack(20) + INT16.pack(key) + INT16.pack(version) + bytes(16))
    assert sum(each._front.tally.requests.values()) == (2 if before else 0)


@pytest.mark.parametrize(
    ("first", "error", "text"),
    [
        (INT32.pack(FRAME_BYTES_MAX + 1), FrameTooLarge, "frame of 524289 bytes before a login; the maximum is 524288"),
        (INT32.pack(2**31 - 1), FrameTooLarge, "frame of 2147483647 bytes"),
        (b"GET / HTTP/1.1\r\n", FrameTooLarge, "before a login"),
        (b"\x16\x03\x01\x02\x00\x01\x00", FrameTooLarge, "before a login"),
        (INT32.pack(9), Malformed, "frame of 9 bytes before a login"),
        (INT32.pack(0), Malformed, "frame of 0 bytes"),
        (INT32.pack(-1), Malformed, "frame of -1 bytes"),
        (INT32.pack(-(2**31)), Malformed, "frame of -2147483648 bytes"),
    ],
)
def test_sizes(first: bytes, error: type[ProtocolError], text: str) -> None:
    """A size that cannot be ends a connection at its fourth byte, so that no more is kept than is allowed."""
    each = entrance()
    assert each.receive(introduces() + first[:3])
    with pytest.raises(error, match=text):
        each.receive(first[3:4])
    assert not entrance().begun


def test_the_largest_frame() -> None:
    """A frame of just the maximum is taken, as by Kafka, and no more is kept of it than it is long."""
    script = two_rounds()
    each = entrance(terms(script))
    each.receive(chooses("SCRAM-SHA-512"))
    token = b"t" * (FRAME_BYTES_MAX - len(proves(b"", 0)) + 4)
    frame = proves(token, 0)
    assert each.receive(frame[:-1]) == b""
    assert each.held_bytes == FRAME_BYTES_MAX + 3
    assert each.receive(frame[-1:])
    assert (script.tokens, each.held_bytes) == ([token], 0)


@pytest.mark.parametrize("size", [-1, FRAME_BYTES_MAX + 1])
def test_sizes_of_bare_tokens(size: int) -> None:
    """A bare token may be empty, but neither null nor too long."""
    each = entrance()
    each.receive(chooses("PLAIN", 0))
    with pytest.raises(ProtocolError, match=f"frame of {size} bytes"):
        each.receive(INT32.pack(size))


@pytest.mark.parametrize("stranger", [introduces(), bare(b"again")])
def test_too_many_requests(stranger: bytes) -> None:
    """A login is not drawn out without end, by introductions or by tokens."""
    script = Script("PLAIN", [Challenge(b"more")] * 100)
    each = entrance(terms(script))
    if stranger == bare(b"again"):
        each.receive(chooses("PLAIN", 0) + stranger * (REQUESTS_MAX - 1))
    else:
        each.receive(stranger * REQUESTS_MAX)
    assert not each.login.over
    with pytest.raises(Malformed, match=f"more than {REQUESTS_MAX} requests before a login"):
        each.receive(stranger)


# What takes long.


def hard(found: Accepted | Challenge | Refused) -> Script:
    """Make a mechanism that has to work for its only step."""
    return Script("PLAIN", [Work(lambda: found), Accepted(ALICE, b"second")])


@pytest.mark.parametrize("version", [-1, 0, 1, 2])
def test_work(version: int) -> None:
    """While a token is worked on nothing more is taken, however much comes; then the client is in, or goes on."""
    each = entrance(terms(hard(Challenge(b"more"))))
    first, second = (bare(b"1"), bare(b"2")) if version < 0 else (proves(b"1", version, 2), proves(b"2", version, 3))
    assert len(split(each.receive(chooses("PLAIN", min(1, version + 1)) + first))) == 1
    assert (each.pending, each.login.over) == (True, False)
    assert each.receive(second + b"rest") == b""
    assert each.receive(b" of it") == b""
    assert each.held_bytes == len(second) + 10
    work = each.work
    assert work is not None
    out = split(each.worked(work.run()))
    assert b"more" in out[0]
    assert b"second" in out[1]
    assert (each.pending, each.login.proven, each.leftover) == (False, Proven(ALICE, "PLAIN", 0), b"rest of it")


def test_work_in_vain() -> None:
    """Hard work may end with a refusal, told as any other."""
    each = entrance(terms(hard(Refused("wrong password"))))
    each.receive(chooses("PLAIN") + proves(b"me"))
    assert each.work is not None
    (refusal,) = split(each.worked(each.work.run()))
    assert answer(refusal, AUTHENTICATE, 2, 3)["error_code"] == 58
    assert each.login.refused == "wrong password"


def test_a_claim_is_judged_upstream() -> None:
    """Where the brokers judge, whom the mechanism believes is not in before they have agreed."""
    each = entrance(terms(PassthroughPlain(), judged_upstream=True))
    each.receive(chooses("PLAIN") + proves(b"\0alice\0wonderland"))
    claim = each.claim
    assert claim is not None
    assert (claim.identity.principal, claim.identity.password) == ("User:alice", "wonderland")
    assert (each.pending, each.work, each.login.proven) == (True, None, None)
    assert each.receive(b"more") == b""
    (consent,) = split(each.worked(claim))
    assert answer(consent, AUTHENTICATE, 2, 3)["error_code"] == 0
    assert each.login.proven is not None
    assert "wonderland" not in repr(each.login)
    assert (each.pending, each.leftover) == (False, b"more")


def test_a_claim_that_the_brokers_refuse() -> None:
    """Whom the brokers do not believe is refused as anybody else."""
    each = entrance(terms(PassthroughPlain(), judged_upstream=True))
    each.receive(chooses("PLAIN") + proves(b"\0alice\0wonderland"))
    (refusal,) = split(each.worked(Refused("the brokers do not let it in")))
    assert answer(refusal, AUTHENTICATE, 2, 3)["error_message"] == FAILED
    assert (each.login.refused, each.claim) == ("the brokers do not let it in", None)


def test_a_refusal_needs_no_judge() -> None:
    """What is no token at all is refused without asking the brokers."""
    each = entrance(terms(PassthroughPlain(), judged_upstream=True))
    assert len(split(each.receive(chooses("PLAIN") + proves(b"alice")))) == 2
    assert (each.pending, each.login.over) == (False, True)


# For how long.


@pytest.mark.parametrize(
    ("session_lifetime_seconds", "expires_in_seconds", "lifetime_ms"),
    [
        (0.0, None, 0),
        (3600.0, None, 3_600_000),
        (0.0, 90.5, 90_500),
        (3600.0, 90.0, 90_000),
        (60.0, 90.0, 60_000),
        (0.0, 0.0001, 1),
        (0.0001, None, 1),
        (0.0, 1e12, int(LIFETIME_SECONDS_MAX * 1000)),
        (0.0, 0.0, None),
        (60.0, -5.0, None),
    ],
)
def test_lifetimes(session_lifetime_seconds: float, expires_in_seconds: float | None, lifetime_ms: int | None) -> None:
    """A login holds as long as the listener and what proved it say, whichever ends first; if at all.

    The client is told how long that is, in a form that no client fails to count.
    """
    identity = Identity("User:alice", expires_at=None if expires_in_seconds is None else NOW + expires_in_seconds)
    login = ClientLogin(terms(one_round(identity), lifetime_seconds=session_lifetime_seconds))
    login.handshake(handshake.sasl_handshake_request("PLAIN"))
    step = login.respond(b"me")
    assert isinstance(step, Accepted)
    said = login.answer(step)
    if lifetime_ms is None:
        assert (said.error_code, said.error_message, said.token) == (58, FAILED, b"")
        assert (login.proven, login.refused) == (None, "what proves it has just ended")
    else:
        assert (said.error_code, said.session_lifetime_ms) == (0, lifetime_ms)
        assert login.proven == Proven(identity, "PLAIN", lifetime_ms)
        assert said.session_lifetime_ms * 1_000_000 < 2**63


# Anew.


def again(mechanism: str, identity: Identity) -> ClientLogin:
    """Log in by a mechanism where alice had logged in by PLAIN."""
    login = ClientLogin(terms(one_round(identity), two_rounds(identity)), Proven(ALICE, "PLAIN", 5))
    answered = handshake.parse_sasl_handshake_response(login.handshake(handshake.sasl_handshake_request(mechanism)))
    assert (answered.error_code == 0) == (login.refused is None)
    return login


def test_a_new_login() -> None:
    """Whoever is the same as before, and proves it the same way, is in again; groups may have changed."""
    now = Identity("User:alice", frozenset({"another team"}))
    login = again("PLAIN", now)
    step = login.respond(b"me")
    assert isinstance(step, Accepted)
    assert login.answer(step).error_code == 0
    assert login.proven == Proven(now, "PLAIN", 0)


def test_a_new_login_by_another_mechanism() -> None:
    """How a client proves who it is does not change within a connection (KIP-368)."""
    login = again("SCRAM-SHA-512", ALICE)
    assert login.refused == "it asks for SCRAM-SHA-512 where it had logged in by PLAIN"


def test_a_new_login_as_another() -> None:
    """Who a client is does not change within a connection (KIP-368)."""
    login = again("PLAIN", Identity("User:bob"))
    step = login.respond(b"me")
    assert isinstance(step, Accepted)
    said = login.answer(step)
    assert (said.error_code, said.error_message) == (58, FAILED)
    assert (login.refused, login.proven) == ("it was User:alice and is User:bob now", None)


# However it is cut.


def conversation(rng: Random) -> tuple[Terms, bytes]:
    """Make a login of any form, and what comes behind it."""
    version = rng.choice((-1, 0, 1, 2))
    mechanism = rng.choice(("PLAIN", "SCRAM-SHA-512"))
    end = rng.choice((Accepted(ALICE, b"proof"), Accepted(ALICE, b"proof"), Refused("no")))
    steps: list[Step] = [Challenge(rng.randbytes(rng.randrange(50))) for _ in range(rng.randrange(3))]
    steps.append(Work(lambda: end) if rng.random() < 0.5 else end)
    stream = b"".join(introduces(rng.randrange(5), 7) for _ in range(rng.randrange(3)))
    stream += chooses(rng.choice((mechanism,) * 9 + ("GSSAPI",)), version=int(version >= 0))
    for _ in steps:
        token = rng.randbytes(rng.randrange(60))
        stream += bare(token) if version < 0 else proves(token, version)
    stream += frames.request(1, 11, 9, "c", b"fetch") * rng.randrange(3)
    return terms(Script(mechanism, steps), lifetime_seconds=60), stream


def play(on: Terms, stream: bytes, cut: Callable[[], int]) -> tuple[bytes, Entrance]:
    """Send a stream in parts; what takes long is done some time later."""
    each = entrance(on)
    out, rest = b"", stream
    while rest:
        size = cut()
        out += each.receive(rest[:size])
        rest = rest[size:]
        if each.work is not None and (not rest or size % 2):
            out += each.worked(each.work.run())
    return out, each


@settings(deadline=None)
@given(seed=st.integers(0, 2**32))
def test_however_it_is_cut(seed: int) -> None:
    """Whole, byte by byte or in any parts, the same bytes lead to the same answers, the same end, the same rest."""
    rng = Random(seed)
    on, stream = conversation(rng)
    cuts = (lambda: len(stream), lambda: 1, lambda: rng.choice((1, 2, 3, 7, 40, 90)))
    results = [play(on, stream, cut) for cut in cuts]
    for out, each in results:
        assert out == results[0][0]
        assert each.leftover == results[0][1].leftover
        assert (each.login.proven, each.login.refused) == (results[0][1].login.proven, results[0][1].login.refused)
        assert each.login.over
        assert each.software == results[0][1].software
        if each.login.proven is not None:
            assert stream.endswith(each.leftover)
            assert len(split(each.leftover)) * len(frames.request(1, 11, 9, "c", b"fetch")) == len(each.leftover)


@settings(deadline=None)
@given(
    parts=st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.sampled_from([introduces(), chooses("PLAIN"), chooses("PLAIN", 0), proves(b"me"), proves(b"me", 0)]),
            st.builds(
                lambda key, version, body: frames.request(key, version, 1, "c", body),
                st.sampled_from((17, 18, 36)),
                st.integers(0, 4),
                st.binary(max_size=40),
            ),
        ),
        max_size=8,
    )
)
def test_garbage(parts: list[bytes]) -> None:
    """Whatever a stranger sends, nothing but a ProtocolError is raised, and no more is kept than it has sent."""
    each = entrance(terms(hard(Challenge(b"more")), judged_upstream=True))
    with suppress(ProtocolError):
        for part in parts:
            each.receive(part)
            assert each.held_bytes <= sum(map(len, parts))
            if each.work is not None:
                each.worked(each.work.run())
            elif each.claim is not None:
                each.worked(each.claim)
