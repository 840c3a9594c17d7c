"""The program with a door of every kind, and what it takes to get through each.

One run of it serves all tests of a file; every listener is before the same cluster::

    stage.address("login")           TLS and logins, a port per broker
    stage.address("login-single")    the same, one port for all
    stage.address("certificate")     TLS with certificates of clients
    stage.address("names")           TLS and logins, a name per broker
    ...                              see ``listeners``
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clients.limited import tally
from clients.security import Security
from clients.strangers import write_users
from kproxy.testing.certificates import Authority, Files
from kproxy.testing.oidc import TokenIssuer
from kproxy.testing.ports import free_port_block
from kproxy.testing.proxy import ConfiguredProxy

PASSWORDS = {"alice": "wonder-7c1", "bob": "builder-9d2", "carol": "singer-4e3"}
WRONG_PASSWORD = "guess-8f5"

# Names that every resolver turns into addresses of this machine without asking anybody (inet_aton(3)), and that are
# none to TLS, which asks for no addresses: 127.0.0.1, and 127.0.0.N for broker N.
BOOTSTRAP_NAME, BROKER_NAME = "0x7f.0.1", "0x7f.0.0.{node}"

PORTS = 5
"""Of a listener with a port per broker: three brokers, and the rest."""


class DoorStage:
    """See the module. ``start`` it once, ``finish`` it once."""

    def __init__(
        self,
        folder: Path,
        bootstrap: str,
        *,
        session_lifetime: str | None = None,
        names: tuple[str, str] = (BOOTSTRAP_NAME, BROKER_NAME),
    ) -> None:
        self.folder = folder
        self.authority = Authority()
        self.ca_file = self.authority.write(folder)
        self.wrong_ca_file = Authority("another CA").write(folder, "wrong-ca")
        self.alice = self.authority.client("CN=alice,O=org").write(folder, "alice")
        self.expired_alice = self.authority.client("CN=alice,O=org", expired=True).write(folder, "expired-alice")
        self.issuer = TokenIssuer({"kproxy": "token-secret-5a6"})
        self.token = self.issuer.mint("carol")
        self._lifetime = session_lifetime
        self._bootstrap_name, self._broker_name = names
        self._ports: dict[str, int] = {}
        path = folder / "kproxy.yaml"
        config = {"clusters": {"main": {"bootstrap": bootstrap.split(",")}}, "listeners": self._listeners()}
        path.write_text(json.dumps(config), encoding="utf-8")
        arguments = ("--log-format", "json", "--log-level", "debug")
        self.proxy = ConfiguredProxy(folder, path, self.address("login"), *arguments)

    def _listeners(self) -> dict[str, Any]:
        names = [self._bootstrap_name, *(self._broker_name.format(node=node) for node in (1, 2, 3))]
        tls = self._tls("server", "localhost", "127.0.0.1", *names)
        users = write_users(self.folder / "users.yaml", **PASSWORDS)
        jwks = str(self.issuer.write_jwks(self.folder / "jwks.json"))
        sasl: dict[str, Any] = {
            "mechanisms": ["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN", "OAUTHBEARER"],
            "users_file": users,
            "oauth": {"jwks_file": jwks, "issuer": self.issuer.url, "audience": "kafka"},
        }
        if self._lifetime is not None:
            sasl["session_lifetime"] = self._lifetime
        plain_only = {"mechanisms": ["PLAIN"], "users_file": users}
        by_certificate = tls | {"client_auth": "required", "client_ca_file": str(self.ca_file)}
        listeners: dict[str, dict[str, Any]] = {
            "login": {"tls": tls, "sasl": sasl},
            "login-single": {"tls": tls, "sasl": sasl, "addressing": "single"},
            "certificate": {"tls": by_certificate},
            "certificate-single": {"tls": by_certificate, "addressing": "single"},
            "names": {"tls": tls, "sasl": sasl, "addressing": "sni", "bootstrap_name": self._bootstrap_name},
            "plain-only": {"tls": tls, "sasl": plain_only},
            "expired": {"tls": self._tls("expired", "localhost", "127.0.0.1", expired=True)},
        }
        for name, listener in listeners.items():
            port = self._ports[name] = free_port_block(PORTS)
            host = "0.0.0.0" if name == "names" else "127.0.0.1"
            listener["bind"] = f"{host}:{port}"
        listeners["names"]["advertise"] = f"{self._broker_name}:{self._ports['names']}"
        return listeners

    def _tls(self, name: str, *names: str, expired: bool = False) -> dict[str, Any]:
        files = self.authority.server(*names, expired=expired).write(self.folder, name)
        return {"cert_file": str(files.cert_file), "key_file": str(files.key_file)}

    def address(self, listener: str) -> str:
        """Return what clients are given of a listener."""
        return f"{self._bootstrap_name if listener == 'names' else '127.0.0.1'}:{self._ports[listener]}"

    def user(self, name: str = "alice", mechanism: str = "SCRAM-SHA-512", *, wrong: bool = False) -> Security:
        """Return how a user gets in, or does not."""
        return Security(self.ca_file, None, mechanism, name, WRONG_PASSWORD if wrong else PASSWORDS[name])

    def certificate(self, files: Files | None) -> Security:
        """Return how somebody with a certificate gets in."""
        return Security(self.ca_file, files)

    def turned_away(self, listener: str, cause: str) -> int:
        """Return how many a listener has turned away for a reason."""
        return int(tally(self.proxy)["listeners"][listener]["turned_away"].get(cause, 0))

    def start(self) -> None:
        """Run the program."""
        self.issuer.start()
        self.proxy.start()

    def finish(self) -> None:
        """End it; it must end well, and must have told no secret."""
        self.issuer.stop()
        self.proxy.finish()
        self.assert_no_secret_told()

    def assert_no_secret_told(self) -> None:
        """No secret that was used here stands in what the program has written."""
        for path in (self.proxy.output, self.proxy.log):
            text = path.read_text(encoding="utf-8")
            told = [name for name, secret in self._secrets() if secret in text]
            assert told == [], f"{path} tells {told}"

    def _secrets(self) -> Iterator[tuple[str, str]]:
        yield "a wrong password", WRONG_PASSWORD
        yield "a token", self.token
        yield "a token's signature", self.token.rpartition(".")[2]
        for user, password in PASSWORDS.items():
            yield f"{user}'s password", password
        for line in (self.folder / "users.yaml").read_text(encoding="utf-8").splitlines():
            for part in line.replace("}", "").split(", "):
                key, _, value = part.rpartition(": ")
                if key.endswith(("_key", "salt")):
                    yield f"the users file's {key}", value
        for path in self.folder.glob("*.key"):
            lines = path.read_text(encoding="ascii").splitlines()
            yield f"the key in {path.name}", lines[1]
