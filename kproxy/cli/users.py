"""``kproxy users``: make and look after a users file, which says who may log in at kproxy.

::

    $ kproxy users add users.yaml alice --group team-a          # asks for the password
    $ kproxy users add users.yaml bob --password-file - < secret
    $ kproxy users list users.yaml
    alice  groups team-a  SCRAM-SHA-512 (8192 iterations), SCRAM-SHA-256 (8192 iterations)
    bob  no groups  SCRAM-SHA-512 (8192 iterations), SCRAM-SHA-256 (8192 iterations)
    $ kproxy users verify users.yaml bob --password-file secret
    bob: the password is right

There is no flag for a password: every user of a machine can read the command lines of all programs. Exit codes: 0;
1 where there is no such user, or the password is wrong; 2 for wrong usage or a file with mistakes.
"""

import sys
from pathlib import Path

import click

from kproxy.config.problems import listed, suggestion
from kproxy.config.users import GROUP_BYTES_MAX, GROUPS_MAX, UsersFile, changing, group_fits, open_to, read_users
from kproxy.config.values import SECRET_FILE_BYTES_MAX
from kproxy.core.credentials import (
    HASHES,
    ITERATIONS,
    ITERATIONS_MAX,
    ITERATIONS_MIN,
    User,
    derive,
    name_problem,
    prepared,
    verify,
)
from kproxy.errors import ConfigError, KproxyError

FILE = click.argument("file", type=click.Path(path_type=Path))
NAME = click.argument("name")
PASSWORD_FILE = click.option(
    "--password-file", metavar="FILE", help="File with the password, - for stdin; without it, you are asked."
)


_STDIN = "-"


@click.group()
def users() -> None:
    """Make and look after a users file.

    It says who may log in at kproxy; no password can be read from it.
    """


@users.command()
@FILE
@NAME
@PASSWORD_FILE
@click.option("--group", "groups", metavar="GROUP", multiple=True, help="A group that rules may name; repeatable.")
@click.option(
    "--mechanism",
    "mechanisms",
    type=click.Choice(list(HASHES)),
    multiple=True,
    default=list(HASHES),
    help="Which SCRAM it is for; repeatable (default: both). PLAIN works with either.",
)
@click.option(
    "--iterations",
    type=click.IntRange(ITERATIONS_MIN, ITERATIONS_MAX),
    default=ITERATIONS,
    show_default=True,
    help="What a guess costs; and a login.",
)
@click.option("--update", is_flag=True, help="Give a user who is there already a new password.")
def add(
    file: Path,
    name: str,
    *,
    password_file: str | None,
    groups: tuple[str, ...],
    mechanisms: tuple[str, ...],
    iterations: int,
    update: bool,
) -> None:
    """Add user NAME to FILE, which is made where there is none.

    With --update, credentials of mechanisms that are not given are removed, as they have the old password; groups
    stay as they are unless some are given. Comments stay at the head of the file only.
    """
    if problem := name_problem(name):
        raise ConfigError(f"the name {problem}")
    if len(groups) > GROUPS_MAX or not all(map(group_fits, groups)):
        raise ConfigError(
            f"--group: up to {GROUPS_MAX} names, none of them empty, above {GROUP_BYTES_MAX} bytes, or unprintable"
        )
    # Before the password is asked for, and again when it counts.
    _check_new(read_users(file) if file.exists() and file.stat().st_size else UsersFile(), file, name, update=update)
    password = _password(password_file, confirm=True)
    try:
        if prepared(password) != password:
            raise ConfigError(
                "the password holds characters that clients send in different forms (RFC 4013),"
                " so that it would work with some only; choose another"
            )
        credentials = {
            mechanism: derive(password, mechanism, iterations) for mechanism in HASHES if mechanism in mechanisms
        }
    except ValueError as error:
        raise ConfigError(f"the password {error}") from None
    with changing(file, create=True) as content:
        _check_new(content, file, name, update=update)
        old = content.users.get(name)
        kept = old.groups if old and not groups else frozenset(groups)
        content.users[name] = User(name, credentials, kept, old is not None and old.disabled)
    click.echo(f"{name}: {'updated' if old else 'added'}")
    if others := open_to(file):
        click.echo(f"warning: {file}: {others} can read it; chmod 600 it, or give it to kproxy's own group", err=True)


def _check_new(content: UsersFile, file: Path, name: str, *, update: bool) -> None:
    if name in content.users and not update:
        raise ConfigError(f"{file}: there is a user {name!r} already; add --update for a new password")


@users.command()
@FILE
@NAME
def remove(file: Path, name: str) -> None:
    """Remove user NAME from FILE."""
    with changing(file) as content:
        _user(content, file, name)
        del content.users[name]
    click.echo(f"{name}: removed")


@users.command("list")
@FILE
def list_users(file: Path) -> None:
    """List the users in FILE."""
    for name, user in sorted(read_users(file).users.items()):
        groups = f"groups {listed(sorted(user.groups))}" if user.groups else "no groups"
        mechanisms = ", ".join(f"{key} ({each.iterations} iterations)" for key, each in user.credentials.items())
        click.echo(f"{name}  {groups}  {mechanisms}{'  disabled' if user.disabled else ''}")


@users.command("verify")
@FILE
@NAME
@PASSWORD_FILE
def verify_password(file: Path, name: str, password_file: str | None) -> None:
    """Tell whether a password is that of user NAME in FILE."""
    user = _user(read_users(file), file, name)
    password = _password(password_file, confirm=False)
    right = [mechanism for mechanism, credential in user.credentials.items() if verify(password, credential)]
    if not right:
        raise KproxyError(f"{name}: the password is wrong")
    if len(right) < len(user.credentials):
        raise KproxyError(f"{name}: the password is right for {listed(right)} only; add --update makes them one")
    if user.disabled:
        raise KproxyError(f"{name}: the password is right, but the user is disabled")
    click.echo(f"{name}: the password is right")


def _user(content: UsersFile, file: Path, name: str) -> User:
    try:
        return content.users[name]
    except KeyError:
        raise KproxyError(f"{file}: no user {name!r}; {suggestion(name, content.users)}") from None


def _password(password_file: str | None, *, confirm: bool) -> str:
    """Get the password; no error quotes anything of it."""
    if password_file is None:
        if not _terminal():
            raise click.UsageError("--password-file missing; give FILE, or - for stdin")
        asked: str = click.prompt("Password", hide_input=True, confirmation_prompt=confirm, err=True)
        return asked
    label = "stdin" if password_file == _STDIN else password_file
    if password_file == _STDIN:
        raw = sys.stdin.buffer.read(SECRET_FILE_BYTES_MAX + 1)
    else:
        try:
            with Path(password_file).open("rb") as file:
                raw = file.read(SECRET_FILE_BYTES_MAX + 1)
        except OSError as error:
            raise ConfigError(f"--password-file: {label} cannot be read: {error.strerror}") from None
    if len(raw) > SECRET_FILE_BYTES_MAX:
        raise ConfigError(
            f"--password-file: {label} is over {SECRET_FILE_BYTES_MAX} bytes; it must hold the password alone"
        )
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"--password-file: {label} is not UTF-8") from None
    # Editors and `echo` end a file with a newline that is no part of the password.
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise ConfigError(f"--password-file: {label} is empty")
    return text


def _terminal() -> bool:
    return sys.stdin.isatty()
