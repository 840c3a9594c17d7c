"""PLAIN for clients of ours: who is let in, what is remembered, and what is passed through."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kproxy.core.acceptor import Accepted, Identity, Refused, ServerMechanism, Step, Work
from kproxy.core.credentials import PASSWORD_BYTES_MAX, User, Users, derive
from kproxy.core.plain import PASSED_BYTES_MAX, PassthroughPlain, PasswordCache, PlainServer

SECRET = "s3cret pä55"
GROUPS = frozenset({"team-a"})


def someone(name: str, password: str = SECRET, **more: bool) -> User:
    """Make a user with one credential."""
    return User(name, {"SCRAM-SHA-256": derive(password, "SCRAM-SHA-256", 4096)}, GROUPS, **more)


TABLE = Users([someone("alice"), someone("bob", "other"), someone("off", disabled=True)])


def token(name: str, password: str, authzid: str = "") -> bytes:
    """Write a token of PLAIN."""
    return f"{authzid}\0{name}\0{password}".encode()


def ask(mechanism: ServerMechanism, said: bytes) -> Step:
    """Log in, and do the work there is."""
    step = mechanism.session().respond(said)
    return step.run() if isinstance(step, Work) else step


@pytest.fixture
def derivations(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Note each derivation."""
    real, seen = hashlib.pbkdf2_hmac, list[tuple[str, int]]()

    def noting(name: str, password: bytes, salt: bytes, iterations: int) -> bytes:
        seen.append((name, iterations))
        return real(name, password, salt, iterations)

    monkeypatch.setattr(hashlib, "pbkdf2_hmac", noting)
    return seen


@pytest.mark.parametrize("authzid", ["", "alice"])
@pytest.mark.parametrize("keep", [False, True])
def test_the_right_password_is_let_in(authzid: str, keep: bool) -> None:
    """Name and password make the identity with its groups; the password is kept only where it is asked for."""
    mechanism = PlainServer(lambda: TABLE, PasswordCache(), keep_password=keep)
    assert mechanism.name == "PLAIN"
    identity = Identity("User:alice", GROUPS, password=SECRET if keep else None)
    said = token("alice", SECRET, authzid)
    assert isinstance(mechanism.session().respond(said), Work)
    assert ask(mechanism, said) == Accepted(identity)  # worked out
    assert mechanism.session().respond(said) == Accepted(identity)  # remembered


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (token("alice", "other"), "wrong password: 'alice'"),
        (token("alice", "\x07"), "wrong password: 'alice'"),
        (token("bob", SECRET), "wrong password: 'bob'"),
        (token("eve", SECRET), "no such user: 'eve'"),
        (token("Alice", SECRET), "no such user: 'Alice'"),
        (token("off", SECRET), "the user is disabled: 'off'"),
        (token("alice", SECRET, "root"), "user 'alice' asks to be somebody else (authorization id)"),
        (token("alice", ""), "no password: 'alice'"),
        (token("", SECRET), "a user name that is empty"),
        (token("a\nb", SECRET), "a user name that holds a control character, or another one that cannot be printed"),
        (token("a" * 1025, SECRET), "a user name that is too long; 1024 bytes at most"),
        (token("alice", "p" * (PASSWORD_BYTES_MAX + 1)), "a password above 1024 bytes: 'alice'"),
        (b"a" * 10_000, "a token that is too long"),
        (b"\0alice\0\xff", "a token that is not UTF-8"),
        (b"", "no token of PLAIN: it is not authzid NUL name NUL password"),
        (b"alice\0" + SECRET.encode(), "no token of PLAIN: it is not authzid NUL name NUL password"),
        (token("alice", SECRET + "\0"), "no token of PLAIN: it is not authzid NUL name NUL password"),
    ],
)
def test_everything_else_is_refused(said: bytes, reason: str) -> None:
    """Whatever is wrong is Refused, with a reason that has no password in it, however often it is tried."""
    mechanism = PlainServer(lambda: TABLE, PasswordCache())
    for _ in range(2):
        assert ask(mechanism, said) == Refused(reason)
    assert "s3cret" not in reason


def test_there_is_one_try_per_login() -> None:
    """After its token a client has nothing more to say."""
    for mechanism in (PlainServer(lambda: TABLE, PasswordCache()), PassthroughPlain()):
        session = mechanism.session()
        session.respond(token("alice", "other"))
        assert session.respond(token("alice", SECRET)) == Refused("the login is over already")


def test_everybody_costs_the_same_work(derivations: list[tuple[str, int]]) -> None:
    """Right, wrong, unknown, disabled: one derivation of the same kind each, as long as nobody got in before."""
    costs = []
    for name, password in (("alice", SECRET), ("alice", "wrong"), ("eve", SECRET), ("off", SECRET)):
        ask(PlainServer(lambda: TABLE, PasswordCache()), token(name, password))
        costs.append(derivations[:])
        derivations.clear()
    assert costs == [[("sha256", 4096)]] * 4


def test_who_was_let_in_and_is_disabled_costs_the_same(derivations: list[tuple[str, int]]) -> None:
    """A success that is remembered neither lets a disabled or removed user in, nor answers it faster."""
    alice = someone("alice")
    tables = {"now": Users([alice])}
    mechanism = PlainServer(lambda: tables["now"], PasswordCache())
    assert isinstance(ask(mechanism, token("alice", SECRET)), Accepted)
    tables["now"] = Users([User("alice", alice.credentials, disabled=True)])
    derivations.clear()
    assert ask(mechanism, token("alice", SECRET)) == Refused("the user is disabled: 'alice'")
    tables["now"] = Users()
    assert ask(mechanism, token("alice", SECRET)) == Refused("no such user: 'alice'")
    assert len(derivations) == 2


def test_many_clients_at_once_derive_once(derivations: list[tuple[str, int]]) -> None:
    """Of many clients of one user who wait for the pool of threads only the first one's password is derived."""
    mechanism = PlainServer(lambda: TABLE, PasswordCache())
    steps = [mechanism.session().respond(token("alice", SECRET)) for _ in range(20)]
    derivations.clear()
    with ThreadPoolExecutor(1) as pool:
        results = list(pool.map(lambda step: step.run() if isinstance(step, Work) else step, steps))
    assert results == [Accepted(Identity("User:alice", GROUPS))] * 20
    assert len(derivations) == 1


def test_a_changed_password_is_not_remembered() -> None:
    """When the table has a new credential for a user, the old password misses the cache and is wrong."""
    tables = {"now": Users([someone("alice", "old")])}
    mechanism = PlainServer(lambda: tables["now"], PasswordCache())
    assert isinstance(ask(mechanism, token("alice", "old")), Accepted)
    tables["now"] = Users([someone("alice", "new")])
    assert ask(mechanism, token("alice", "old")) == Refused("wrong password: 'alice'")
    assert isinstance(ask(mechanism, token("alice", "new")), Accepted)


def test_the_cache_is_bounded_and_keeps_what_is_used() -> None:
    """The success that was not used for the longest time is forgotten."""
    cache, credential = PasswordCache(entries_max=3), derive(SECRET, "SCRAM-SHA-256", 4096)
    for number in range(3):
        cache.add(f"user{number}", SECRET, credential)
    assert cache.known("user0", SECRET, credential)
    cache.add("user1", SECRET, credential)
    cache.add("user3", SECRET, credential)
    assert [cache.known(f"user{number}", SECRET, credential) for number in range(4)] == [True, True, False, True]
    assert len(cache) == 3


def test_the_cache_tells_everything_apart() -> None:
    """Another name, password, credential or cut between name and password misses, and so does another key."""
    cache, credential = PasswordCache(key=b"k"), derive(SECRET, "SCRAM-SHA-256", 4096)
    cache.add("alice", SECRET, credential)
    assert cache.known("alice", SECRET, credential)
    other = derive(SECRET, "SCRAM-SHA-256", 4096)
    assert not cache.known("alice", SECRET, other)
    assert not cache.known("bob", SECRET, credential)
    assert not cache.known("alice", "other", credential)
    assert not cache.known("alices", SECRET[1:], credential)
    foreign = PasswordCache()
    foreign._entries.update(cache._entries)
    assert not foreign.known("alice", SECRET, credential)


def test_passthrough_believes_everybody() -> None:
    """Any well-formed name and password is an identity with its password, for the brokers to check."""
    mechanism = PassthroughPlain()
    assert mechanism.name == "PLAIN"
    assert ask(mechanism, token("eve", SECRET)) == Accepted(Identity("User:eve", password=SECRET))
    long = "t" * PASSED_BYTES_MAX
    assert ask(mechanism, token("eve", long)) == Accepted(Identity("User:eve", password=long))
    assert ask(mechanism, token("eve", long + "t")) == Refused("a password above 16384 bytes: 'eve'")
    assert isinstance(ask(mechanism, token("eve", SECRET, "root")), Refused)


@settings(deadline=None)  # busy machines
@given(st.binary(max_size=60) | st.text(alphabet="\0alice", max_size=20).map(str.encode))
def test_no_garbage_is_let_in(said: bytes) -> None:
    """Whatever token comes, it neither raises nor gets in."""
    assert isinstance(ask(PlainServer(lambda: TABLE, PasswordCache()), said), Refused)
    assert isinstance(ask(PassthroughPlain(), said), Accepted | Refused)


def test_no_secret_shows() -> None:
    """No repr on the way shows the password: of the step, of what remembers it, of the identity that keeps it."""
    cache = PasswordCache()
    mechanism = PlainServer(lambda: TABLE, cache, keep_password=True)
    session = mechanism.session()
    work = session.respond(token("alice", SECRET))
    assert isinstance(work, Work)
    told = f"{mechanism!r} {session!r} {work!r} {work.run()!r} {cache!r} {vars(cache)}"
    assert "s3cret" not in told
    assert "User:alice" in told
