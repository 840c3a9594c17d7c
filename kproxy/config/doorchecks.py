"""Mistakes and doubts about who gets in, and as whom: between a listener's TLS, its logins and its cluster.

As in ``checks``, mistakes refuse a start, doubts are warnings, and nothing is looked at but the configuration::

    listeners: {outside: {bind: 0.0.0.0:9093, sasl: {mechanisms: [PLAIN], users_file: users.yaml}}}
    -> listeners.outside.sasl: PLAIN without TLS shows the passwords to everybody on the way; ...
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from kproxy.config import oauth as oauth_config
from kproxy.config.problems import Loc, Problem, listed
from kproxy.config.sasl import OAUTHBEARER, Sasl
from kproxy.config.values import NODE
from kproxy.core.addressbook import NameLayout

if TYPE_CHECKING:
    from kproxy.config.model import Cluster, Config, Listener


def mistakes(clusters: "Mapping[str, Cluster]", listeners: "Mapping[str, Listener]") -> Iterator[Problem]:
    """Find what cannot work, among entries that are well-formed."""
    for name, listener in listeners.items():
        here = ("listeners", name)
        yield from _names(here, listener)
        if listener.proxy_protocol and not listener.trusted_proxies:
            text = "anybody could claim any address; list the load balancers' networks in trusted_proxies"
            yield Problem((*here, "proxy_protocol"), text)
        if listener.trusted_proxies and not listener.proxy_protocol:
            yield Problem((*here, "trusted_proxies"), "is for proxy_protocol: true; add that, or leave this out")
        cluster = clusters.get(listener.cluster)
        if cluster is not None:
            yield from _logins(here, listener, cluster)
    for name, cluster in clusters.items():
        if cluster.passthrough and cluster.sasl is None:
            text = "kproxy asks the brokers for itself, too; add sasl, its own login"
            yield Problem(("clusters", name, "passthrough"), text)
        if cluster.passthrough and cluster.credentials:
            text = "clients are either given credentials or use their own; leave one of the two out"
            yield Problem(("clusters", name, "passthrough"), text)


def _names(here: Loc, listener: "Listener") -> Iterator[Problem]:
    if listener.addressing != "sni":
        if listener.bootstrap_name is not None:
            yield Problem((*here, "bootstrap_name"), "is for addressing: sni; leave it out, or set that")
        return
    if listener.tls is None:
        yield Problem((*here, "addressing"), "sni tells brokers apart by the name that TLS asks for; add tls")
    advertise, bootstrap_name = listener.advertise, listener.bootstrap_name
    if advertise is None or NODE not in advertise.host:
        text = f"sni needs advertise with {NODE} in it, as in b{NODE}.kafka.example.com:9092"
        yield Problem((*here, "addressing"), text)
    elif advertise.host.count(NODE) > 1:
        yield Problem((*here, "advertise"), f"with sni {NODE} tells the broker; write it once")
    if bootstrap_name is None:
        text = "sni needs bootstrap_name, the name that clients begin with, as in kafka.example.com"
        yield Problem((*here, "addressing"), text)
    elif advertise is not None and NODE in advertise.host:
        node = NameLayout(advertise.host, bootstrap_name, advertise.port).node_of(bootstrap_name)
        if node is not None:
            yield Problem((*here, "bootstrap_name"), f"is the name of broker {node} by advertise; choose another")


def _logins(here: Loc, listener: "Listener", cluster: "Cluster") -> Iterator[Problem]:
    sasl = listener.sasl
    if cluster.passthrough:
        if sasl is None or sasl.mechanisms != ("PLAIN",):
            text = f"cluster {listener.cluster!r} has passthrough: plain; set mechanisms: [PLAIN], and nothing else"
            yield Problem((*here, "sasl") if sasl else here, text)
        elif sasl.users_file is not None:
            text = "the brokers judge the passwords (passthrough: plain); leave it out"
            yield Problem((*here, "sasl", "users_file"), text)
    elif sasl is not None:
        if sasl.by_password and sasl.users_file is None:
            need = "needs" if len(sasl.by_password) == 1 else "need"
            text = f"users_file missing; {listed(sasl.by_password)} {need} it (see kproxy users --help)"
            yield Problem((*here, "sasl"), text)
        if not sasl.by_password and sasl.users_file is not None:
            yield Problem((*here, "sasl", "users_file"), f"is not used by {OAUTHBEARER}; leave it out")
    if sasl is not None and "PLAIN" in sasl.mechanisms and listener.tls is None and not sasl.allow_plaintext_passwords:
        text = (
            "PLAIN without TLS shows the passwords to everybody on the way; add tls, use SCRAM-SHA-512, or set"
            " allow_plaintext_passwords: true"
        )
        yield Problem((*here, "sasl"), text)


def doubts(config: "Config") -> Iterator[Problem]:
    """Find what works but is probably not meant, or has a price that the operator should know."""
    for name, cluster in config.clusters.items():
        here = ("clusters", name)
        if cluster.sasl is not None:
            yield from _of_login((*here, "sasl"), cluster.sasl)
        for pattern, credential in cluster.credentials.items():
            yield from _of_login((*here, "credentials", pattern), credential)
        if cluster.tls is not None and not cluster.tls.verify:
            text = "whoever answers at a broker's address gets the password and the data; give ca_file instead"
            yield Problem((*here, "tls", "verify"), text)
    for name, listener in config.listeners.items():
        sasl = listener.sasl
        if sasl is None:
            continue
        if sasl.oauth is not None:
            yield from oauth_config.doubts(("listeners", name, "sasl", "oauth"), sasl.oauth)
        if sasl.allow_plaintext_passwords and listener.tls is None and "PLAIN" in sasl.mechanisms:
            text = "passwords cross the network in the clear, and everybody on the way can read them"
            yield Problem(("listeners", name, "sasl", "allow_plaintext_passwords"), text)


def _of_login(here: Loc, sasl: Sasl) -> Iterator[Problem]:
    if sasl.password is not None and sasl.password.source == "literal":
        text = "the password stands in the file; write {env: NAME} or {file: PATH} instead"
        yield Problem((*here, "password"), text)
    if sasl.oauth is not None:
        yield from oauth_config.doubts((*here, "oauth"), sasl.oauth)
