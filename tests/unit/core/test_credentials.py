"""Credentials of kproxy's own users: what proves a password, and that nobody learns who has one."""

import hashlib
import hmac

import pytest

from kproxy.core.credentials import (
    HASHES,
    ITERATIONS,
    NAME_BYTES_MAX,
    PASSWORD_BYTES_MAX,
    Credential,
    User,
    Users,
    derive,
    derive_keys,
    name_problem,
    prepared,
    shown,
    verify,
)

SECRET = "s3cret pä55"
KEY = bytes(32)


def user(
    name: str, *mechanisms: str, iterations: int = 4096, salt: bytes = b"saltsalt", disabled: bool = False
) -> User:
    """Make a user whose password is SECRET."""
    return User(name, {each: derive(SECRET, each, iterations, salt) for each in mechanisms}, disabled=disabled)


@pytest.fixture
def derivations(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Note each derivation: its hash and iterations, which is what takes time."""
    real, seen = hashlib.pbkdf2_hmac, list[tuple[str, int]]()

    def noting(name: str, password: bytes, salt: bytes, iterations: int) -> bytes:
        seen.append((name, iterations))
        return real(name, password, salt, iterations)

    monkeypatch.setattr(hashlib, "pbkdf2_hmac", noting)
    return seen


@pytest.mark.parametrize("mechanism", HASHES)
def test_a_credential_is_the_one_of_rfc_5802(mechanism: str) -> None:
    """StoredKey and ServerKey are what section 3 says, with Hi() written out."""
    name = HASHES[mechanism]
    block = hmac.digest(b"pencil", b"saltsalt\0\0\0\1", name)
    salted = int.from_bytes(block)
    for _ in range(4095):
        block = hmac.digest(b"pencil", block, name)
        salted ^= int.from_bytes(block)
    key = salted.to_bytes(len(block))
    credential = derive("pencil", mechanism, 4096, b"saltsalt")
    assert credential.stored_key == hashlib.new(name, hmac.digest(key, b"Client Key", name)).digest()
    assert credential.server_key == hmac.digest(key, b"Server Key", name)


@pytest.mark.parametrize("mechanism", HASHES)
def test_only_the_password_verifies(mechanism: str) -> None:
    """The password is right, another one and one that cannot be are wrong; each credential has a salt of its own."""
    credential = derive(SECRET, mechanism)
    assert credential.iterations == ITERATIONS
    assert verify(SECRET, credential)
    assert not verify(SECRET + " ", credential)
    assert not verify("", credential)
    assert not verify("\n", credential)
    assert derive(SECRET, mechanism).salt != credential.salt


def test_no_secret_shows() -> None:
    """A repr has neither salt nor keys, in whatever it stands."""
    each = derive(SECRET, "SCRAM-SHA-256", 4096, b"saltsalt")
    keys = derive_keys(b"x", "SCRAM-SHA-256", b"saltsalt", 1)
    table = Users([User("alice", {each.mechanism: each})])
    told = f"{each!r} {keys!r} {table!r} {list(table)} {table.lookup('alice')}"
    for secret in (each.salt, each.stored_key, each.server_key, keys.client_key):
        assert repr(secret)[2:-1] not in told
    assert repr(each) == "Credential(mechanism='SCRAM-SHA-256', iterations=4096)"


@pytest.mark.parametrize(
    ("password", "form"),
    [
        ("plain ASCII, with spaces!", "plain ASCII, with spaces!"),
        ("I\u00adX", "IX"),  # the examples of RFC 4013 section 3
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("pa\u0308ss", "p\u00e4ss"),
        ("\u0627\u0628", "\u0627\u0628"),
    ],
)
def test_a_password_has_one_form(password: str, form: str) -> None:
    """However a client composes its characters, a password is derived in the form of RFC 4013."""
    assert prepared(password) == form
    assert verify(password, derive(form, "SCRAM-SHA-256", 4096))


@pytest.mark.parametrize(
    ("password", "told"),
    [
        ("", "is empty"),
        ("\u00ad", "is empty"),
        ("hunter\x072", "holds a character that no password may"),
        ("hunter\x00", "holds a character that no password may"),
        ("hunter\ue000", "holds a character that no password may"),
        ("hunter\U0001f600", "a recent emoji"),
        ("hunter\ud800", "holds a character that no password may"),
        ("\u06271", "runs to the left"),
        ("\u0627a\u0628", "runs to the left"),
        ("h" * (PASSWORD_BYTES_MAX + 1), "is too long; 1024 bytes"),
    ],
)
def test_what_cannot_be_a_password_is_refused_unquoted(password: str, told: str) -> None:
    """A password that cannot be one makes no credential, and the error does not quote it."""
    with pytest.raises(ValueError, match=told) as caught:
        derive(password, "SCRAM-SHA-256", 4096)
    assert "hunter" not in str(caught.value)


def test_names() -> None:
    """A name is a printable text of bounded length, and is written shortened into a reason."""
    assert name_problem("alice smith, ärzte") is None
    assert "empty" in str(name_problem(""))
    assert "printed" in str(name_problem("a\nb"))
    assert "too long" in str(name_problem("ä" * (NAME_BYTES_MAX // 2 + 1)))
    assert name_problem("ä" * (NAME_BYTES_MAX // 2)) is None
    assert shown("alice") == "'alice'"
    assert len(shown("a" * 1000)) < 70


def test_a_table_knows_its_users() -> None:
    """A user is found with the credential of the mechanism; PLAIN, which has none, takes the best there is."""
    both, old = user("alice", "SCRAM-SHA-256", "SCRAM-SHA-512"), user("bob", "SCRAM-SHA-256")
    table = Users([both, old])
    assert (len(table), [each.name for each in table], table.get("bob"), table.get("eve")) == (
        2,
        ["alice", "bob"],
        old,
        None,
    )
    assert table.lookup("alice", "SCRAM-SHA-256") == (both.credentials["SCRAM-SHA-256"], both, "")
    assert table.lookup("alice").credential.mechanism == "SCRAM-SHA-512"
    assert table.lookup("bob").credential.mechanism == "SCRAM-SHA-256"
    assert both.principal == "User:alice"


@pytest.mark.parametrize("mechanism", [*HASHES, None])
def test_an_unknown_user_looks_like_a_real_one(mechanism: str | None) -> None:
    """A decoy has the same salt at every try and after the table changed, and another one per name and key."""
    table = Users([user("alice", *HASHES, iterations=5000, salt=b"0123456789")], KEY)
    decoy = table.lookup("eve", mechanism)
    real = table.lookup("alice", mechanism).credential
    assert (decoy.user, decoy.problem) == (None, "no such user")
    for each in (decoy.credential, real):
        sizes = len(each.salt), len(each.stored_key), len(each.server_key)
        assert sizes == (10, *[hashlib.new(HASHES[each.mechanism]).digest_size] * 2)
    assert (decoy.credential.mechanism, decoy.credential.iterations) == (real.mechanism, 5000)
    later = Users([*table, user("bob", *HASHES, iterations=5000, salt=b"9876543210")], KEY)
    assert later.lookup("eve", mechanism) == decoy
    others = [table.lookup("Eve", mechanism), Users(table, b"another").lookup("eve", mechanism)]
    assert decoy.credential.salt not in [other.credential.salt for other in others]
    assert Users().lookup("eve", mechanism).credential.iterations == ITERATIONS
    assert Users().lookup("eve", mechanism) == Users().lookup("eve", mechanism)


def test_decoys_are_as_mixed_as_real_credentials() -> None:
    """Where users differ in iterations, so do decoys, about as often: the number tells nothing of a name."""
    table = Users(
        [*(user(f"u{i}", "SCRAM-SHA-256") for i in range(3)), user("slow", "SCRAM-SHA-512", iterations=9000)], KEY
    )
    found = [table.lookup(f"nobody{i}").credential for i in range(400)]
    slow = [each for each in found if (each.mechanism, each.iterations) == ("SCRAM-SHA-512", 9000)]
    fast = [each for each in found if (each.mechanism, each.iterations) == ("SCRAM-SHA-256", 4096)]
    assert len(slow) + len(fast) == 400
    assert 50 < len(slow) < 150
    # Per mechanism there is only one number of iterations.
    assert {table.lookup(f"nobody{i}", "SCRAM-SHA-256").credential.iterations for i in range(50)} == {4096}


def test_who_may_not_log_in_is_found_without_a_user() -> None:
    """A disabled user keeps its salt, one without the mechanism gets a decoy's; neither is somebody."""
    off, old = user("off", "SCRAM-SHA-256", disabled=True), user("old", "SCRAM-SHA-256")
    table = Users([off, old, User("none", {})])
    assert table.lookup("off", "SCRAM-SHA-256") == (off.credentials["SCRAM-SHA-256"], None, "the user is disabled")
    assert table.lookup("old", "SCRAM-SHA-512")[1:] == (None, "the user has no credential for SCRAM-SHA-512")
    assert table.lookup("none")[1:] == (None, "the user has no credential for any mechanism")


@pytest.mark.parametrize("mechanism", [*HASHES, None])
def test_everybody_costs_the_same_work(
    mechanism: str | None, derivations: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A right, a wrong and an unknown login take one derivation of the same kind, and equally many hashes."""
    table = Users([user("alice", *HASHES), user("off", *HASHES, disabled=True)], KEY)
    hashes = list[str]()
    real = hmac.digest

    def noting(key: bytes, message: bytes, name: str) -> bytes:
        hashes.append(name)
        return real(key, message, name)

    monkeypatch.setattr(hmac, "digest", noting)
    costs = []
    for name, password in (("alice", SECRET), ("alice", "wrong"), ("eve", SECRET), ("off", SECRET), ("off", "wrong")):
        derivations.clear()
        hashes.clear()
        verify(password, table.lookup(name, mechanism).credential)
        costs.append((derivations[:], hashes[:]))
    assert len(costs[0][0]) == 1
    assert costs == [costs[0]] * 5


def test_a_credential_of_the_wrong_size_is_nobodys() -> None:
    """A credential that is damaged verifies nothing, and raises nothing."""
    assert not verify(SECRET, Credential("SCRAM-SHA-256", b"saltsalt", 4096, b"short", b""))
