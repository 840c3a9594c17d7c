"""``kproxy run``: serve clients until told to stop.

Flags make the same configuration that a file holds, or are laid over one, where they win::

    $ kproxy run --listen 127.0.0.1:9092 --bootstrap kafka1:9092,kafka2:9092
    $ kproxy run --config kproxy.yaml --listen 127.0.0.1:19092

There is no flag for a password: every user of a machine can read the command lines of all programs.
"""

from importlib import import_module
from pathlib import Path
from typing import get_args

import click
import structlog

from kproxy.config.flags import Flags
from kproxy.config.load import from_flags
from kproxy.observe import log

FORMATS = get_args(log.LogFormat)
LEVELS = get_args(log.LogLevel)


@click.command()
@click.option("--config", metavar="FILE", type=click.Path(path_type=Path), help="Configuration; flags beside it win.")
@click.option("--listen", metavar="HOST:PORT", help="Address to listen on.")
@click.option("--bootstrap", metavar="HOST:PORT,...", help="Brokers to ask first.")
@click.option("--advertise", metavar="HOST:PORT", help="Address that clients are told, where it is another.")
@click.option(
    "--addressing",
    type=click.Choice(["ports", "single", "sni"]),
    help="A port per broker beside the one listened on (default), one port for all, or a TLS name per broker.",
)
@click.option("--username", metavar="NAME", help="User to log in to Kafka as; also KPROXY_USERNAME.")
@click.option("--password-file", metavar="FILE", help="File with that user's password; also KPROXY_PASSWORD itself.")
@click.option(
    "--mechanism",
    type=click.Choice(["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]),
    help="SASL mechanism of the login (default PLAIN).",
)
@click.option("--tls-upstream", is_flag=True, help="Speak TLS with the brokers; the system's authorities are trusted.")
@click.option("--admin", metavar="HOST:PORT|PATH", help="Serve the admin API and metrics there.")
@click.option("--workers", metavar="N", type=int, help="Processes that serve clients (default 1).")
@click.option("--log-format", type=click.Choice(["json", "console"]), help="Default: console on a terminal, else json.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
def run(
    config: Path | None,
    log_format: log.LogFormat | None,
    log_level: log.LogLevel,
    tls_upstream: bool,
    workers: int | None,
    **flags: str | None,
) -> int:
    """Serve Kafka clients.

    Give --listen and --bootstrap, or --config. Beside a file, --listen, --advertise and --addressing set its only
    listener, --workers is for all of it, the others set its only cluster.
    """
    given = Flags(**flags, tls_upstream=tls_upstream, workers=workers)
    loaded = from_flags(given, config)
    log_format = log_format or log.default_format()
    log.configure(log_format, log_level)
    logger = structlog.get_logger("kproxy.config")
    for warning in loaded.warnings:
        logger.warning(warning)
    # Loaded here, so that a mistake is told without the weight of all that serves.
    # A mistake in a file ends it here.
    doors = import_module("kproxy.service.doors").Doors(loaded.config, told=loaded.told)
    for doubt in doors.doubts():
        logger.warning(doubt)
    supervisor = import_module("kproxy.service.supervisor")
    origin = import_module("kproxy.service.reloads").Origin(given, config)
    code: int = supervisor.run(loaded.config, origin=origin, log_format=log_format, log_level=log_level)
    return code
