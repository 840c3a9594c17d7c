"""The program ``kproxy``: its commands, and what becomes of their errors.

A command's module is loaded when the command runs, so that ``kproxy --help`` answers at once. A new command is one
line in COMMANDS. Whatever a user can cause is one line on stderr and an exit code::

    $ kproxy run --listn 127.0.0.1:9092
    kproxy: No such option '--listn'. Did you mean '--listen'?
    $ echo $?
    2

Exit codes: 0 asked to stop and stopped cleanly; 1 failed while running; 2 wrong usage or configuration.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

import click

from kproxy import __version__
from kproxy.errors import ConfigError, KproxyError


class Lazy(NamedTuple):
    """Where a command is, and what --help says of it without loading it."""

    target: str
    """``module:attribute``."""
    help: str


COMMANDS = {
    "run": Lazy("kproxy.cli.run:run", "Serve Kafka clients."),
    "check": Lazy("kproxy.cli.check:check", "Find every mistake in a configuration file."),
    "top": Lazy("kproxy.cli.top:top", "Show who is doing what, live."),
    "doctor": Lazy("kproxy.cli.doctor:doctor", "Find what keeps a client from its brokers."),
    "demo": Lazy("kproxy.cli.demo:demo", "Show kproxy at work, with a cluster of its own."),
    "schema": Lazy("kproxy.cli.schema:schema", "Print the JSON Schema of the configuration file."),
    "users": Lazy("kproxy.cli.users:users", "Make and look after a file of users who may log in."),
}


class Commands(click.Group):
    """A group that loads a command when it is called for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names, in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - same
        """Load a command; None where there is no such one."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].target.partition(":")
        command = getattr(import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{COMMANDS[cmd_name].target} is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - same
        """Write the list of commands for --help, without loading any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in COMMANDS.items()])

    def main(self, args: Sequence[str] | None = None, *others: Any, **extra: Any) -> NoReturn:  # noqa: ANN401 - click's
        """Run a command and exit with its code; see the module for what errors become."""
        extra["standalone_mode"] = False
        code = 1
        try:
            result = super().main(args, *others, **extra)
            code = result if isinstance(result, int) else 0
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            code = 2
        except click.ClickException as error:
            complain(error.format_message())
            code = 2 if isinstance(error, click.UsageError) else 1
        except ConfigError as error:
            _give_up(*str(error).splitlines())
            code = 2
        except KproxyError as error:
            _give_up(str(error))
        except OSError as error:
            _give_up(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        except (click.Abort, KeyboardInterrupt):
            complain("stopped")
        sys.exit(code)


def complain(*lines: str) -> None:
    """Write errors to stderr, one line each."""
    for line in lines:
        click.echo(f"kproxy: {' '.join(line.split())}", err=True)


def _give_up(*lines: str) -> None:
    """Say why, to the kproxy that this one was to follow, too (see service.upgrade)."""
    complain(*lines)
    if "KPROXY_INHERIT" in os.environ:
        import_module("kproxy.service.inherit").tell(failed="; ".join(lines))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="kproxy", message="%(prog)s %(version)s")
def main() -> None:
    """kproxy, a Kafka gateway: one address for every client, credentials injected, brokers hidden."""
