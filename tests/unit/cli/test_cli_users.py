"""``kproxy users``: a users file made and looked after, without a password in anything that is said."""

import os
import pty
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kproxy.cli.main import main
from kproxy.config.users import load_users, read_users
from kproxy.core.credentials import ITERATIONS, verify

SECRET = "hunter2 pä55"


def kproxy(*args: str | Path, stdin: bytes = b"") -> Result:
    """Run the program in this process; no test may see a password in what it says."""
    result = CliRunner().invoke(main, [str(arg) for arg in args], input=stdin)
    told = result.output + "".join(traceback.format_exception(result.exception) if result.exception else [])
    assert "hunter2" not in told
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The place of a users file."""
    return tmp_path / "users.yaml"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A password in a file, as an editor writes it."""
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    return path


def add(file: Path, name: str, password: str, *more: str) -> Result:
    """Add a user with the password on stdin."""
    fast = () if "--iterations" in more else ("--iterations", "4096")
    return kproxy("users", "add", file, name, "--password-file", "-", *fast, *more, stdin=password.encode())


def test_a_user_is_added_listed_verified_and_removed(file: Path, secret: Path) -> None:
    """The whole life of a user, each step with its line and exit code 0; the file is for its owner alone."""
    result = kproxy("users", "add", file, "alice", "--password-file", secret, "--group", "b", "--group", "a")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "alice: added\n", "")
    assert file.stat().st_mode & 0o777 == 0o600
    assert "hunter2" not in file.read_text()
    listed = kproxy("users", "list", file)
    told = f"alice  groups a and b  SCRAM-SHA-512 ({ITERATIONS} iterations), SCRAM-SHA-256 ({ITERATIONS} iterations)\n"
    assert (listed.exit_code, listed.stdout) == (0, told)
    right = kproxy("users", "verify", file, "alice", "--password-file", secret)
    assert (right.exit_code, right.stdout) == (0, "alice: the password is right\n")
    assert verify(SECRET, load_users(file).lookup("alice").credential)
    gone = kproxy("users", "remove", file, "alice")
    assert (gone.exit_code, gone.stdout) == (0, "alice: removed\n")
    assert kproxy("users", "list", file).stdout == ""


def test_options_of_add(file: Path) -> None:
    """Mechanisms and iterations are what was asked for; the last newline of stdin is no part of the password."""
    assert add(file, "bob", SECRET + "\r\n", "--mechanism", "SCRAM-SHA-256", "--iterations", "5000").exit_code == 0
    assert kproxy("users", "list", file).stdout == "bob  no groups  SCRAM-SHA-256 (5000 iterations)\n"
    assert verify(SECRET, load_users(file).lookup("bob").credential)


def test_an_existing_user_is_changed_only_on_request(file: Path) -> None:
    """A second add is refused; with --update the old password is gone from every mechanism, groups stay."""
    add(file, "alice", "old", "--group", "a")
    refused = add(file, "alice", SECRET)
    assert refused.exit_code == 2
    assert refused.stderr == f"kproxy: {file}: there is a user 'alice' already; add --update for a new password\n"
    assert kproxy("users", "verify", file, "alice", "--password-file", "-", stdin=b"old").exit_code == 0
    file.write_text(file.read_text().replace("    groups", "    disabled: true\n    groups"))
    updated = add(file, "alice", SECRET, "--update", "--mechanism", "SCRAM-SHA-256")
    assert (updated.exit_code, updated.stdout) == (0, "alice: updated\n")
    alice = read_users(file).users["alice"]
    assert (list(alice.credentials), alice.groups, alice.disabled) == (["SCRAM-SHA-256"], frozenset({"a"}), True)
    assert kproxy("users", "list", file).stdout.endswith("disabled\n")
    add(file, "alice", SECRET, "--update", "--group", "b")
    assert read_users(file).users["alice"].groups == {"b"}


def test_what_is_not_right_is_code_1(file: Path) -> None:
    """A wrong password, no such user, or a user who could not log in with it: one line, code 1."""
    add(file, "alice", SECRET)
    ask = ("--password-file", "-")
    for name, stdin, told in (
        ("alice", b"other", "alice: the password is wrong"),
        ("alicia", SECRET.encode(), f"{file}: no user 'alicia'; did you mean 'alice'?"),
        ("zed", SECRET.encode(), f"{file}: no user 'zed'; known: alice"),
    ):
        result = kproxy("users", "verify", file, name, *ask, stdin=stdin)
        assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"kproxy: {told}\n")
    before = file.read_text()
    result = kproxy("users", "remove", file, "alicia")
    assert (result.exit_code, result.stderr) == (1, f"kproxy: {file}: no user 'alicia'; did you mean 'alice'?\n")
    assert file.read_text() == before
    file.write_text(before.replace("    scram-sha-256", "    disabled: true\n    scram-sha-256"))
    off = kproxy("users", "verify", file, "alice", *ask, stdin=SECRET.encode())
    assert (off.exit_code, off.stderr) == (1, "kproxy: alice: the password is right, but the user is disabled\n")
    # A credential of another password, as a hand may have put it there.
    add(file, "bob", "other")
    (other,) = [line for line in file.read_text().splitlines() if "scram-sha-256" in line][1:]
    mixed = [line if "scram-sha-256" not in line else other for line in before.splitlines()]
    file.write_text("\n".join(mixed) + "\n")
    half = kproxy("users", "verify", file, "alice", *ask, stdin=SECRET.encode())
    assert half.exit_code == 1
    assert "right for SCRAM-SHA-512 only; add --update makes them one" in half.stderr


@pytest.mark.parametrize(
    ("args", "stdin", "told"),
    [
        (["add"], b"", "Missing argument 'FILE'"),
        (["add", "{file}", "alice"], b"", "--password-file missing; give FILE, or - for stdin"),
        (["add", "{file}", "a\nb", "--password-file", "-"], b"hunter2", "the name holds a control character"),
        (["add", "{file}", "", "--password-file", "-"], b"hunter2", "the name is empty"),
        (
            ["add", "{file}", "alice", "--password-file", "/no/such"],
            b"",
            "--password-file: /no/such cannot be read: No",
        ),
        (["add", "{file}", "alice", "--password-file", "-"], b"\n", "--password-file: stdin is empty"),
        (["add", "{file}", "alice", "--password-file", "-"], b"hunter2\xff", "--password-file: stdin is not UTF-8"),
        (["add", "{file}", "alice", "--password-file", "-"], b"hunter2" * 10_000, "stdin is over 65536 bytes"),
        (["add", "{file}", "alice", "--password-file", "-"], b"hunter2" * 1000, "the password is too long"),
        (["add", "{file}", "alice", "--password-file", "-"], b"hunter2\nx", "the password holds a character that no"),
        (["add", "{file}", "alice", "--password-file", "-"], b"hunter2\xc2\xa0", "clients send in different forms"),
        (["add", "{file}", "alice", "--group", "", "--password-file", "-"], b"hunter2", "--group: up to 100 names"),
        (["add", "{file}", "alice", "--iterations", "4095"], b"", "Invalid value for '--iterations'"),
        (["add", "{file}", "alice", "--mechanism", "PLAIN"], b"", "Invalid value for '--mechanism'"),
        (["list", "{file}"], b"", "cannot be read: No such file"),
        (["remove", "{file}", "alice"], b"", "cannot be read: No such file"),
        (["verify", "{file}", "alice", "--password-file", "-"], b"hunter2", "cannot be read: No such file"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(args: list[str], stdin: bytes, told: str, file: Path) -> None:
    """Whatever is wrong with a command line or a password, one line says so, and no file is made."""
    result = kproxy("users", *(arg.replace("{file}", str(file)) for arg in args), stdin=stdin)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("kproxy: ")
    assert told in line
    assert not file.exists()


@pytest.mark.parametrize("command", ["add", "list", "remove", "verify"])
def test_a_file_with_mistakes_is_code_2(command: str, file: Path) -> None:
    """Each command tells what is wrong with a file, and leaves it as it is."""
    file.write_text("users: {alice: {gruops: [hunter2]}}\n")
    name = [] if command == "list" else ["alice"]
    more = ["--password-file", "-"] if command in {"add", "verify"} else []
    result = kproxy("users", command, file, *name, *more, stdin=b"hunter2")
    assert result.exit_code == 2
    assert result.stderr == f"kproxy: {file}:1:17: users.alice.gruops: unknown key; did you mean 'groups'?\n"
    assert "gruops" in file.read_text()


def test_a_file_that_others_can_read_is_warned_of(file: Path) -> None:
    """Who adds to a file that is open to others is told so; the mode stays as it was chosen."""
    add(file, "alice", SECRET)
    file.chmod(0o644)
    result = add(file, "bob", SECRET)
    assert result.exit_code == 0
    assert result.stderr.startswith(f"warning: {file}: everybody can read it; chmod 600 it")
    assert file.stat().st_mode & 0o777 == 0o644


def test_without_arguments_the_commands_are_shown() -> None:
    """``kproxy users`` alone is wrong usage, and shows what there is."""
    result = kproxy("users")
    assert result.exit_code == 2
    assert all(f"  {name} " in result.stderr for name in ("add", "remove", "list", "verify"))


def test_on_a_terminal_the_password_is_asked_for_unseen(file: Path) -> None:
    """Without --password-file a terminal is asked twice, and shows nothing of what is typed."""
    parent, child = pty.openpty()
    try:
        command = [sys.executable, "-m", "kproxy", "users", "add", str(file), "alice", "--iterations", "4096"]
        program = subprocess.Popen(
            command,
            stdin=child,
            stdout=child,
            stderr=child,
            start_new_session=True,
            env=os.environ | {"LC_ALL": "C.UTF-8"},
        )
        os.close(child)
        seen = b""
        for prompt in (b"Password: ", b"Repeat for confirmation: "):
            while not seen.endswith(prompt):
                seen += os.read(parent, 1024)
            os.write(parent, SECRET.encode() + b"\n")
        while b"added" not in seen:
            seen += os.read(parent, 1024)
        assert program.wait(60) == 0
    finally:
        os.close(parent)
    assert b"hunter2" not in seen
    assert verify(SECRET, load_users(file).lookup("alice").credential)
