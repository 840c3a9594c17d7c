"""``kproxy check``: every mistake in a configuration file at once, or what would run.

::

    $ kproxy check kproxy.yaml
    kproxy.yaml: ok
      cluster main: kafka1:9092, kafka2:9092; SASL PLAIN as 'gateway'
      listener public: 0.0.0.0:9092 to cluster main; clients use kafka.example.com:9092, broker N at port 9093 + N
      limit calm: 100 requests a second per client_ip, then throttle

With --against ADMIN the plan is told by which a kproxy that runs would come to it, and nothing is changed.
Warnings go to stderr. Exit code 2 for a mistake; with --connect, 1 where a broker cannot be used; with --against, 1
where that kproxy does not answer.
"""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click

from kproxy.cli.adminclient import AdminClient, read_key
from kproxy.cli.main import complain
from kproxy.config.access import Access, AccessApis
from kproxy.config.checks import range_start
from kproxy.config.limits import Concurrency, FixedWindow, LeakyBucket, Limit
from kproxy.config.load import load
from kproxy.config.model import Cluster, Listener
from kproxy.config.sasl import Sasl


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--connect", is_flag=True, help="Also connect to the brokers and log in.")
@click.option("--against", metavar="HOST:PORT|PATH", help="Tell what the kproxy with that admin API would change.")
@click.option(
    "--api-key-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="File with the admin API's key; also KPROXY_ADMIN_KEY itself.",
)
def check(file: Path, connect: bool, against: str | None, api_key_file: Path | None) -> int:
    """Find every mistake in the configuration FILE at once, or tell what would run."""
    loaded = load(file)
    doors = import_module("kproxy.service.doors").Doors(loaded.config, told=loaded.told)
    for warning in (*loaded.warnings, *doors.doubts()):
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{file}: ok")
    for name, cluster in loaded.config.clusters.items():
        click.echo(f"  cluster {name}: {_cluster(cluster)}")
    for name, listener in loaded.config.listeners.items():
        click.echo(f"  listener {name}: {_listener(listener)}")
    for limit in loaded.config.limits:
        click.echo(f"  limit {limit.name}: {_limit(limit)}")
    if (admin := loaded.config.admin) is not None:
        click.echo(f"  admin: {admin.bind}, {'with a key' if admin.api_key else 'without a key'}")
    if against is not None:
        _tell_plan(file, AdminClient(against, read_key(api_key_file), "--against"))
    if not connect:
        return 0
    problems: list[str] = import_module("kproxy.service.probe").check_connect(loaded.config)
    complain(*problems)
    if not problems:
        click.echo("brokers: ok")
    return 1 if problems else 0


def _tell_plan(file: Path, admin: AdminClient) -> None:
    """Tell what a kproxy that runs would do, by its own flags and environment."""
    try:
        answer = admin.put("/config?dry_run=true", file.read_bytes())
    finally:
        admin.close()
    click.echo(f"against {admin.address}:{'' if answer['plan'] else ' nothing to change'}")
    for line in answer["plan"]:
        click.echo(f"  {line}")


def _cluster(cluster: Cluster) -> str:
    addresses = ", ".join(str(address) for address in cluster.bootstrap)
    login = _login(cluster.sasl) if cluster.sasl else "no login"
    if cluster.passthrough:
        login += ", clients as themselves"
    elif cluster.credentials:
        login += f", clients by {len(cluster.credentials)} credentials"
    tls = "" if cluster.tls is None else "; TLS" if cluster.tls.verify else "; TLS, not verified"
    return f"{addresses}; {login}{tls}"


def _login(sasl: Sasl) -> str:
    if sasl.oauth is None:
        return f"SASL {sasl.mechanism} as {sasl.username!r}"
    return f"SASL {sasl.mechanism} with tokens of {sasl.oauth.token_file or sasl.oauth.token_url}"


def _listener(listener: Listener) -> str:
    told = listener.advertise or listener.bind
    clients = f"port {told.port} of the address they reach" if told.any_interface else str(told)
    if listener.addressing == "sni" and listener.bootstrap_name:
        clients = f"{listener.bootstrap_name}:{told.port}, broker N is {told}"
    door = "".join(f"; {part}" for part in _door(listener))
    places = f"clients use {clients}{_brokers(listener, told.port)}"
    return f"{listener.bind} to cluster {listener.cluster}; {places}{door}{_access(listener.access)}"


def _door(listener: Listener) -> Iterator[str]:
    """Say what clients must go through."""
    if listener.proxy_protocol:
        yield "PROXY protocol"
    if listener.tls:
        auth = listener.tls.client_auth
        yield "TLS" if auth == "none" else f"TLS, client certificates {auth}"
    if listener.sasl:
        yield f"clients log in by {' or '.join(listener.sasl.mechanisms)}"


def _access(access: Access | None) -> str:
    if access is None:
        return ""
    apis = access.apis or AccessApis()
    told = [f"from {', '.join(map(str, access.cidrs))}"] if access.cidrs else []
    if access.rules or access.default:
        number = f"{len(access.rules):,} rule{'' if len(access.rules) == 1 else 's'}"
        told.append(f"{number}, otherwise {access.default_effect}")
    denied = [*(apis.presets or ()), *(apis.deny or ())]
    if denied:
        told.append(f"without {', '.join(denied)}")
    return f"; access {'; '.join(told) or 'for all'}{' (dry run)' if access.dry_run else ''}"


def _brokers(listener: Listener, told_port: int) -> str:
    if listener.addressing == "single":
        return " for all brokers"
    distance = told_port - listener.bind.port
    start = range_start(listener)
    places = [f"broker {node} at port {port + distance}" for node, port in (listener.broker_ports or {}).items()]
    if start is not None:
        places.append(f"{'any other' if places else 'broker N'} at port {start + distance} + N")
    return "".join(f", {place}" for place in places)


def _limit(limit: Limit) -> str:
    kind = limit.kind
    match kind:
        case LeakyBucket():
            amount = f"{_amount(kind.rate, kind.unit)} a second"
        case FixedWindow():
            amount = f"{_amount(kind.count, kind.unit)} in {kind.window:g} s"
        case Concurrency():
            amount = f"{kind.max:,} requests in flight"
        case _:
            bounds = ((kind.max, "connections"), (kind.rate, "new connections a second"))
            amount = " and ".join(f"{bound:,g} {what}" for bound, what in bounds if bound is not None)
    whose = f" per {' and '.join(limit.key)}" if limit.key else ", all clients together"
    of = "; ".join(f"{name} {', '.join(map(str, values))}" for name, values in limit.match if values is not None)
    dry = " (dry run)" if limit.dry_run else ""
    return f"{amount}{whose}{f' ({of})' if of else ''}, then {limit.on_exceed}{dry}"


def _amount(amount: float, unit: str) -> str:
    if unit == "requests":
        return f"{amount:,.12g} requests"
    size = next((f"{amount / of:g}{name}" for name, of in _SIZES if amount % of == 0), f"{amount:,.12g} bytes")
    return f"{size} {'in' if unit == 'bytes_in' else 'out'}"


_SIZES = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
