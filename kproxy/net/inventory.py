"""What there is to tell about one client's connection, read off it while somebody looks.

Nothing is kept for this but the connection's Account; the rest is what the data path knows anyway. Software is what the
client said in ApiVersions v3 and later (KIP-511)::

    {"number": 17, "address": "10.0.0.7:50122", "principal": "User:ANONYMOUS", "client_id": "orders",
     "software": "apache-kafka-java", "software_version": "4.1.0", "apis": {"Produce": {"12": 5120}},
     "since": 1767225600.0, "requests": 5121, "in_flight": 1, "bytes_in": 61440, "bytes_out": 20480,
     "broker": 2, "tls": None}
"""

from kproxy.core.account import Account
from kproxy.net.relay import ClientSide


def principal(client: ClientSide) -> str:
    """Return who the client is."""
    return client.identity.principal


def describe(client: ClientSide, account: Account) -> dict[str, object]:
    """Return what there is to tell about a connection, as plain values."""
    exchange = client.exchange
    software = exchange.software
    return {
        "number": account.number,
        "address": client.peer,
        "principal": principal(client),
        "client_id": account.client_id,
        "software": None if software is None else software.name,
        "software_version": None if software is None else software.version,
        "apis": {name: {str(v): count for v, count in versions.items()} for name, versions in account.apis().items()},
        "since": round(account.since, 3),
        "requests": sum(account.requests.values()),
        "in_flight": exchange.outstanding,
        "bytes_in": account.bytes_in,
        "bytes_out": account.bytes_out,
        "broker": client.node_id,
        "tls": client.guest.tls,
    }
