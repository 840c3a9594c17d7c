"""The users file: what it may say, each mistake as one line without a secret, and changes, whole or not at all."""

import os
import traceback
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kproxy.config import source, users
from kproxy.config.draft import FILE_BYTES_MAX, Draft
from kproxy.config.users import UsersFile, changing, load_users, open_to, read_users
from kproxy.core.credentials import HASHES, User, derive, name_problem
from kproxy.errors import ConfigError

K32 = "aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMmh1bnQ="
K64 = "aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMmh1bnRodW50ZXIyaHVudGVyMmh1bnRlcjJodW50ZXIyaHVudA=="
"""32 and 64 bytes, "hunter2" over and over, which no error may show."""

GOOD = f"""\
# Our users.
users:
  alice:
    groups: [team-a, team-b]
    scram-sha-512: {{salt: aHVudGVyMmh1bnQ=, iterations: 8192, stored_key: {K64}, server_key: {K64}}}
    scram-sha-256: {{salt: aHVudGVyMmh1bnQ=, iterations: 4096, stored_key: {K32}, server_key: {K32}}}
  "12":
    disabled: true
    scram-sha-256: {{salt: aHVudGVyMmh1bnQ=, iterations: 4096, stored_key: {K32}, server_key: {K32}}}
decoy_key: {K32}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good file, for its owner alone."""
    path = tmp_path / "users.yaml"
    path.write_text(GOOD)
    path.chmod(0o600)
    return path


def mistakes(path: Path) -> list[str]:
    """Return the lines that refuse the file, which all begin with its name and show nothing of a secret."""
    with pytest.raises(ConfigError) as caught:
        load_users(path)
    told = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in told
    assert "aHVud" not in told
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}:") for line in lines)
    return [line.removeprefix(f"{path}:") for line in lines]


def test_a_good_file_is_read_whole(path: Path) -> None:
    """Users, groups, credentials, and who is disabled arrive; what unknown users are told depends on the decoy key."""
    table = load_users(path)
    alice, twelve = table
    assert (alice.name, alice.principal, alice.groups) == ("alice", "User:alice", frozenset({"team-a", "team-b"}))
    credential = alice.credentials["SCRAM-SHA-512"]
    assert (credential.mechanism, credential.iterations, credential.salt) == ("SCRAM-SHA-512", 8192, b"hunter2hunt")
    assert (len(credential.stored_key), len(credential.server_key)) == (64, 64)
    assert list(alice.credentials) == ["SCRAM-SHA-512", "SCRAM-SHA-256"]
    assert (twelve.name, twelve.groups, twelve.disabled) == ("12", frozenset(), True)
    assert load_users(path).lookup("eve") == table.lookup("eve")
    path.write_text(GOOD.replace("decoy_key: aH", "decoy_key: bH"))
    assert load_users(path).lookup("eve") != table.lookup("eve")


def test_a_file_may_be_without_users_and_decoy_key(path: Path) -> None:
    """No users are a table too; without a decoy key decoys are stable in this process."""
    path.write_text("users: {}\n")
    assert len(load_users(path)) == 0
    assert load_users(path).lookup("eve") == load_users(path).lookup("eve")


def test_a_key_for_a_file_that_has_none(path: Path) -> None:
    """Where a file has no decoy key another can stand in for it; where it has one, that counts."""
    path.write_text("users: {}\n")
    ones, twos = bytes([1] * 32), bytes([2] * 32)
    assert load_users(path, ones).lookup("eve") == load_users(path, ones).lookup("eve")
    assert load_users(path, ones).lookup("eve") != load_users(path, twos).lookup("eve")
    path.write_text(GOOD)
    assert load_users(path, ones).lookup("eve") == load_users(path).lookup("eve")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "1:1: YAML: there is nothing in it; make it with 'kproxy users add'"),
        ("a: b: hunter2", "1:5: YAML: a second ':' in one line"),
        ("[hunter2]", "1:1: must be a mapping; known keys: users, decoy_key"),
        ("decoy_key: " + K32, "1:1: users: is missing; write 'users: {}' for none"),
        ("users: [hunter2]", "1:8: users: must be a mapping of names to entries"),
        ("users: {alice: hunter2}", "1:16: users.alice: must be a mapping; known keys: groups, scram-sha-512, scram"),
        ("users: {alice: {password: hunter2}}", "users.alice.password: passwords do not belong here; use 'kproxy us"),
        ("users: {alice: {}}", "1:16: users.alice: has no credential; add scram-sha-512 or scram-sha-256 with"),
        (GOOD + "user: {}\n", "11:1: user: unknown key; did you mean 'users'?"),
        (GOOD.replace("groups", "gruops"), "4:5: users.alice.gruops: unknown key; did you mean 'groups'?"),
        (GOOD.replace("scram-sha-512", "scram-sha-1"), "users.alice.scram-sha-1: unknown key; did you mean 'scram-sha"),
        (GOOD.replace("[team-a, team-b]", "team-a"), "4:13: users.alice.groups: must be a list of texts"),
        (GOOD.replace("[team-a, team-b]", "[1]"), "4:13: users.alice.groups: must be a list of texts"),
        (GOOD.replace("team-b", '"a\\nb"'), "4:13: users.alice.groups: holds a name that is empty, above"),
        (GOOD.replace("team-b", '""'), "4:13: users.alice.groups: holds a name that is empty, above"),
        (GOOD.replace("team-b", ", ".join(["g"] * 100)), "4:13: users.alice.groups: has too many entries; 100 at most"),
        (GOOD.replace('"12"', "12"), "7:3: users.12: is a number; put the name in quotes"),
        (GOOD.replace('"12"', '"a\\nb"'), "7:3: users.a\\nb: a name that holds a control character"),
        (GOOD.replace('"12"', "alice"), "7:3: users.alice: stands here a second time, first in line 3"),
        (GOOD.replace("disabled: true", "disabled: 'true'"), "8:15: users.12.disabled: must be true or false"),
        (GOOD.replace("iterations: 8192", "iterations: 4095"), "iterations: must be from 4096 to 1000000"),
        (GOOD.replace("iterations: 8192", "iterations: 1000001"), "iterations: must be from 4096 to 1000000"),
        (GOOD.replace("iterations: 8192", "iterations: true"), "iterations: must be a whole number, without quotes"),
        (GOOD.replace("iterations: 8192, ", ""), "5:5: users.alice.scram-sha-512.iterations: is missing; add it"),
        (GOOD.replace("iterations: 8192", "iteration: 8192"), "iteration: unknown key; did you mean 'iterations'?"),
        (GOOD.replace("salt: aHV", "salt: hunter2-", 1), "5:27: users.alice.scram-sha-512.salt: must be 8 to 128"),
        (GOOD.replace("salt: aHVudGVyMmh1bnQ=", "salt: aHV", 1), "salt: must be 8 to 128 bytes in base64"),
        (GOOD.replace("salt: aHVudGVyMmh1bnQ=", "salt: 12345678", 1), "salt: must be 8 to 128 bytes in base64"),
        (GOOD.replace("salt: aHVudGVyMmh1bnQ=", "salt: ä", 1), "salt: must be 8 to 128 bytes in base64"),
        (GOOD.replace(f"stored_key: {K64}", f"stored_key: {K32}"), "stored_key: must be 64 bytes in base64"),
        (GOOD.replace(f"server_key: {K32}", f"server_key: {K64}", 1), "server_key: must be 32 bytes in base64"),
        (GOOD.replace(f"server_key: {K32}", "server_key: !x y", 1), "server_key: a tag ('!') is not supported"),
        (GOOD.replace(f"decoy_key: {K32}", "decoy_key: hunter2="), "10:12: decoy_key: must be 16 to 64 bytes in"),
        (GOOD.replace("[team-a, team-b]", "&g [a]").replace("disabled: true", "groups: *g"),
         "8:5: users.12.groups: an alias ('*') is not supported"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line_with_its_place(path: Path, text: str, told: str) -> None:
    """A file with one mistake is refused with one line: position, place, what is wrong, what to do."""
    path.write_text(text)
    (line,) = mistakes(path)
    assert told in line


def test_all_mistakes_are_told_at_once(path: Path) -> None:
    """Several mistakes are several lines, in the order of the file."""
    path.write_text(GOOD.replace("groups", "gruops").replace("true", "maybe").replace("decoy_key", "decoy"))
    assert [line.split(": ")[1] for line in mistakes(path)] == ["users.alice.gruops", "users.12.disabled", "decoy"]


def test_a_file_that_is_none(path: Path, tmp_path: Path) -> None:
    """A file that is missing, a folder, too large or not UTF-8 is told in one line."""
    path.write_bytes(b"users: {}\n#" + bytes([0xFF]))
    assert mistakes(path) == ["2:1: not UTF-8; save the file as UTF-8"]
    path.write_bytes(b"#" * (FILE_BYTES_MAX + 1))
    assert mistakes(path) == [f" above {FILE_BYTES_MAX} bytes; a users file may not be larger"]
    assert mistakes(tmp_path / "none.yaml") == [" cannot be read: No such file or directory"]
    assert mistakes(tmp_path) == [" cannot be read: Is a directory"]


ALL = {name: derive("pencil", name, 4096) for name in HASHES}

AWKWARD = (
    "no",
    "TRUE",
    "null",
    "012",
    "1e3",
    "~",
    "- a",
    "a: b",
    "'",
    '"',
    "#x",
    "{node}",
    "ä😀",
    "*a",
    "!t",
    "=",
    "<<",
)
"""What YAML takes for something else, where it is not in quotes."""


@settings(deadline=None)  # busy machines
@given(
    names=st.sets(st.text(min_size=1, max_size=12).filter(lambda text: not name_problem(text)), max_size=4)
    | st.sets(st.sampled_from(AWKWARD), max_size=5),
    group=st.text(min_size=1, max_size=12).filter(str.isprintable),
)
def test_what_is_written_is_read_back(names: set[str], group: str) -> None:
    """Any name and group that is allowed survives a file, whatever YAML would make of it."""
    table = {name: User(name, ALL, frozenset({group, "a"}), disabled=len(name) % 2 == 0) for name in names}
    written = UsersFile(dict(table), b"0123456789abcdef", "# head\n")
    text = users._written(written)
    read = source.read(text)
    assert read.problems == []
    draft = Draft(read.data, Path(), "users", read)
    assert users._Reader(draft).file(read.data) == (table, b"0123456789abcdef")
    draft.raise_mistakes()


def test_a_change_replaces_the_file_as_a_whole(path: Path) -> None:
    """Who has the old file open still reads the old one; mode, the comment at its head and other users stay."""
    path.chmod(0o640)
    before = read_users(path)
    with path.open() as old:
        with changing(path) as content:
            content.users["bob"] = User("bob", ALL)
        assert old.read() == GOOD
    after = read_users(path)
    assert after.users == before.users | {"bob": User("bob", ALL)}
    assert (after.decoy_key, after.remarks) == (before.decoy_key, "# Our users.\n")
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(path.parent.iterdir()) == [path]


def test_a_new_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    """A file that is made, or was empty, gets a decoy key; a new one has mode 0600, whatever the umask."""
    path, empty = tmp_path / "new.yaml", tmp_path / "empty.yaml"
    empty.touch(0o644)
    old = os.umask(0)
    try:
        for each in (path, empty):
            with changing(each, create=True) as content:
                content.users["bob"] = User("bob", ALL)
    finally:
        os.umask(old)
    assert (path.stat().st_mode & 0o777, empty.stat().st_mode & 0o777) == (0o600, 0o644)
    first, second = read_users(path), read_users(empty)
    assert first.users == second.users == {"bob": User("bob", ALL)}
    assert first.decoy_key is not None
    assert first.decoy_key != second.decoy_key
    with changing(path) as content:
        content.users.clear()
    assert len(load_users(path)) == 0


def test_a_link_stays_a_link(path: Path, tmp_path: Path) -> None:
    """A change goes to the file that a link leads to."""
    link = tmp_path / "folder" / "link.yaml"
    link.parent.mkdir()
    link.symlink_to(path)
    with changing(link) as content:
        del content.users["12"]
    assert link.is_symlink()
    assert list(read_users(path).users) == ["alice"]


def test_a_change_that_fails_leaves_everything_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the block, a file that would be too large, a full disk: the old file stays, and no other one."""
    with pytest.raises(KeyError), changing(path) as content:
        del content.users["alice"], content.users["nobody"]
    with pytest.raises(ConfigError, match="would be above"), changing(path) as content:
        content.remarks = "#" * FILE_BYTES_MAX + "\n"

    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ConfigError, match="cannot be written: No space left on device"), changing(path) as content:
            content.users.clear()
    assert path.read_text() == GOOD
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_the_owner_stays(path: Path) -> None:
    """A file of kproxy's own account is still its when root has changed it."""
    os.chown(path, 12345, 23456)
    with changing(path) as content:
        content.users["bob"] = User("bob", ALL)
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456)


def test_a_change_adds_nothing_else(path: Path) -> None:
    """A file without a decoy key gets none by a change."""
    path.write_text(GOOD.replace("decoy_key", "#"))
    with changing(path) as content:
        content.users["bob"] = User("bob", ALL)
    assert read_users(path).decoy_key is None


def test_two_changes_at_once_lose_nothing(path: Path) -> None:
    """While one program changes a file another one is refused, rather than one of the changes lost."""
    with changing(path) as content:
        content.users["bob"] = User("bob", ALL)
        with pytest.raises(ConfigError, match="another program is changing it; try again"), changing(path):
            pass
    with changing(path) as content:
        assert "bob" in content.users


def test_a_file_that_cannot_be_changed(path: Path, tmp_path: Path) -> None:
    """A file that is missing, is in no folder, or has mistakes is told in one line, and not touched."""
    for each, told in ((tmp_path / "none.yaml", "cannot be read"), (tmp_path / "no" / "a.yaml", "cannot be opened")):
        with pytest.raises(ConfigError, match=told), changing(each):
            pass
    path.write_text("users: []\n")
    with pytest.raises(ConfigError, match="must be a mapping"), changing(path, create=True):
        pass
    assert path.read_text() == "users: []\n"


@pytest.mark.parametrize(
    ("mode", "who"), [(0o600, None), (0o400, None), (0o640, "its group"), (0o644, "everybody"), (0o604, "everybody")]
)
def test_who_else_can_read_a_secret_is_told(path: Path, mode: int, who: str | None) -> None:
    """A file open to the group or to everybody is told apart from one that is not."""
    path.chmod(mode)
    assert open_to(path) == who
    assert open_to(path / "none") is None


def test_no_secret_shows(path: Path) -> None:
    """No repr of what was read shows a key or a salt."""
    told = f"{read_users(path)!r} {load_users(path)!r}"
    assert "hunter2" not in told
    assert "alice" in told
