"""``kproxy doctor``: walk from here through the proxy to each broker, as a client would, and say what is wrong.

::

    $ kproxy doctor kafka.example.com:9092
    kafka.example.com:9092
      ok    resolve   kafka.example.com is 10.0.0.5
      ok    connect   in 1 ms
      ...
      fail  address   broker 2 is told to be at 0.0.0.0:9095, which means every interface of a machine and is no address
                      -> set the listener's `advertise` to a HOST:PORT that clients reach
    1 failed

Exit code 0 also with warnings, which would otherwise stop a deployment that works: a program that wants to know reads
``--json``. 1 for a failure, 2 for wrong usage.
"""

import json
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from kproxy.config.load import load
from kproxy.config.values import HostPort, Surroundings, parse_host_port, secret_from_file
from kproxy.core.sasl import Mechanism, Plain
from kproxy.core.scram import Scram
from kproxy.errors import ConfigError

MECHANISMS: dict[str, Callable[[str, str], Mechanism]] = {
    "PLAIN": Plain,
    "SCRAM-SHA-256": lambda user, password: Scram(user, password, "SCRAM-SHA-256"),
    "SCRAM-SHA-512": lambda user, password: Scram(user, password, "SCRAM-SHA-512"),
}
"""By name, made of a user name and a password."""

_COLOURS = {"ok": "green", "skip": "bright_black", "warn": "yellow", "fail": "red"}
_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("address", metavar="[HOST:PORT]", required=False)
@click.option("--config", metavar="FILE", type=_PATH, help="Walk a configuration's brokers, then its listeners.")
@click.option("--listener", "listeners", metavar="NAME", multiple=True, help="Of --config, only this; may be repeated.")
@click.option("--tls", is_flag=True, help="Speak TLS to the proxy; with --config: where a listener does.")
@click.option("--ca-file", metavar="FILE", type=_PATH, help="Whom to trust, in PEM; default: the system's.")
@click.option("--cert-file", metavar="FILE", type=_PATH, help="A client certificate, in PEM.")
@click.option("--key-file", metavar="FILE", type=_PATH, help="Its key, where that is in a file of its own.")
@click.option("--server-name", metavar="NAME", help="What the proxy's certificate must name, if not the host.")
@click.option("--insecure", is_flag=True, help="Do not look at the proxy's certificate.")
@click.option("--username", metavar="NAME", help="User to log in to the proxy as.")
@click.option("--password-file", metavar="FILE", help="File with that user's password.")
@click.option("--mechanism", type=click.Choice(list(MECHANISMS)), help="PLAIN; with --config: each listener's first.")
@click.option("--client-id", metavar="ID", default="kproxy-doctor", show_default=True, help="What limits see.")
@click.option("--scratch-topic", metavar="NAME", help="An existing topic that records may be written to.")
@click.option("--compare", metavar="HOST:PORT", help="Another replica: does it tell clients the same?")
@click.option("--own", metavar="HOST", multiple=True, help="A further host that is the proxy's; may be repeated.")
@click.option("--timeout", type=click.FloatRange(0.1, 60), default=5.0, show_default=True, help="Seconds, each step.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON, for programs.")
def doctor(
    *,
    address: str | None,
    config: Path | None,
    listeners: tuple[str, ...],
    username: str | None,
    password_file: str | None,
    mechanism: str | None,
    scratch_topic: str | None,
    compare: str | None,
    own: tuple[str, ...],
    as_json: bool,
    **speaking: Any,  # noqa: ANN401 - click's
) -> int:
    """Walk from here through the proxy at HOST:PORT to each broker, as a client would, and say what is wrong.

    Nothing is created or deleted; a record is written only to a topic that --scratch-topic names.
    """
    if (address is None) == (config is None):
        raise click.UsageError("give either HOST:PORT, as a client has it, or --config FILE")
    if config is not None and compare:
        raise click.UsageError("--compare goes with HOST:PORT, not with --config")
    if listeners and config is None:
        raise click.UsageError("--listener goes with --config")
    target, other = (_address(text, name) for text, name in ((address, "HOST:PORT"), (compare, "--compare")))
    loaded = load(config) if config is not None else None
    if loaded is not None and (unknown := [name for name in listeners if name not in loaded.config.listeners]):
        raise click.UsageError(f"--listener: there is no {unknown[0]}; there are: {', '.join(loaded.config.listeners)}")
    logins = _logins(username, password_file, mechanism)
    client = _client(may_need_tls=loaded is not None, login=logins[0] if logins else None, **speaking)
    walk = import_module("kproxy.service.doctor.walk")
    told = _Told(as_json=as_json)
    if loaded is not None:
        walk.diagnose_config(
            loaded.config,
            client,
            told.tell,
            listeners=listeners,
            logins=logins,
            scratch_topic=scratch_topic,
            own_hosts=own,
        )
    else:
        walk.diagnose(client, target, told.tell, scratch_topic=scratch_topic, compare=other, own_hosts=own)
    return told.end()


def _address(text: str | None, name: str) -> HostPort | None:
    try:
        return None if text is None else parse_host_port(text)
    except ValueError as error:
        raise click.UsageError(f"{name}: {error}") from None


def _logins(username: str | None, password_file: str | None, mechanism: str | None) -> list[Mechanism]:
    """Return the login in each mechanism that may be used, PLAIN first."""
    if (username is None) != (password_file is None):
        raise click.UsageError("--username and --password-file go together")
    if username is None or password_file is None:
        return []
    try:
        secret = secret_from_file(password_file, Surroundings(os.environ, Path()))
    except ValueError as error:
        raise ConfigError(f"--password-file: {error}") from None
    return [MECHANISMS[name](username, secret.reveal()) for name in ([mechanism] if mechanism else MECHANISMS)]


def _client(
    *,
    may_need_tls: bool,
    login: Mechanism | None,
    tls: bool,
    ca_file: Path | None,
    cert_file: Path | None,
    key_file: Path | None,
    server_name: str | None,
    insecure: bool,
    client_id: str,
    timeout: float,
) -> Any:  # noqa: ANN401 - a Client, whose module is loaded here
    """Return how to speak to the proxy."""
    tls = tls or may_need_tls
    needs_tls = {"--ca-file": ca_file, "--cert-file": cert_file, "--server-name": server_name, "--insecure": insecure}
    if given := [flag for flag, value in needs_tls.items() if value and not tls]:
        raise click.UsageError(f"{given[0]} needs --tls")
    if key_file and not cert_file:
        raise click.UsageError("--key-file needs --cert-file")
    context = None
    if tls:
        door = import_module("kproxy.service.doctor.door")
        context = door.client_context(ca_file, cert_file, key_file, insecure=insecure)
    client = import_module("kproxy.service.doctor.client")
    return client.Client(context, server_name, login, client_id, timeout)


class _Told:
    """What was found so far: written at once for people, at the end as JSON."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._findings: list[Any] = []
        self._place = ""

    def tell(self, finding: Any) -> None:  # noqa: ANN401 - a Finding
        """Take a finding."""
        self._findings.append(finding)
        if self._as_json:
            return
        if finding.place != self._place:
            self._place = finding.place
            click.echo(finding.place)
        level = click.style(f"{finding.level:<5}", fg=_COLOURS[finding.level])
        click.echo(f"  {level} {finding.step:<10} {finding.text}")
        if finding.remedy:
            click.echo(f"  {'':<5} {'':<10} -> {finding.remedy}")

    def end(self) -> int:
        """Write the sum, and return the exit code."""
        worst = import_module("kproxy.service.doctor.findings").worst(self._findings)
        if self._as_json:
            found = [finding._asdict() for finding in self._findings]
            click.echo(json.dumps({"worst": worst, "findings": found}, indent=2))
        else:
            counts = {level: sum(finding.level == level for finding in self._findings) for level in ("fail", "warn")}
            said = [f"{counts['fail']} failed"] * bool(counts["fail"]) + [f"{counts['warn']} warned"] * bool(
                counts["warn"]
            )
            click.secho(", ".join(said) or "all is well", fg=_COLOURS[worst])
        return 1 if worst == "fail" else 0
