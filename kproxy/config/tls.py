"""TLS in the configuration: what a listener shows its clients, and what kproxy expects of brokers.

Paths are relative to the configuration's folder, and nothing here opens them: whether they hold what they should is
told when TLS is set up (``net.tls``), at a start as at each renewal. A mistake between fields is told with them::

    >>> tls = ListenerTls.model_validate({"cert_file": "c.pem", "key_file": "k.pem"})
    >>> tls.client_auth, tls.min_version, tls.reload_interval
    ('none', '1.2', 10.0)
"""

import ipaddress
import re
from typing import Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from kproxy.config.base import Model, Switch, written
from kproxy.config.values import Duration, FilePath, Password, quoted
from kproxy.core.distinguished import RULES_MAX, PrincipalRules

_DNS_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")
_DNS_CHARACTERS_MAX = 253


def parse_version(value: object) -> object:
    """Take 1.2 without quotes as well, which is a number to YAML."""
    return str(value) if isinstance(value, float) else value


def parse_server_name(value: object) -> str:
    """Check a host name or an address as TLS asks for it: without a port."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{quoted(value)} is not a host name; write one, as in kafka.example.com")
    if len(value) > _DNS_CHARACTERS_MAX or not (_DNS_NAME.fullmatch(value) or _is_address(value)):
        raise ValueError(f"{quoted(value)} is not a host name; write one without a port, as in kafka.example.com")
    return value


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


MinVersion = Annotated[
    Literal["1.2", "1.3"],
    BeforeValidator(parse_version),
    WithJsonSchema({"enum": ["1.2", "1.3", 1.2, 1.3]}),
]
ServerName = Annotated[
    str,
    PlainValidator(parse_server_name),
    WithJsonSchema({"type": "string", "minLength": 1, "examples": ["kafka.example.com"]}),
]
Rules = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...], Field(max_length=RULES_MAX)]


class ListenerTls(Model):
    """TLS for clients."""

    cert_file: FilePath
    """The certificate that clients are shown, then its chain, in PEM."""
    key_file: FilePath
    """The certificate's key, in PEM."""
    key_password: Password | None = None
    """What opens the key, where it is encrypted."""
    # Kafka's ssl.client.auth, with its default and its words but for "requested".
    client_auth: Literal["none", "optional", "required"] = "none"
    """Whether clients need a certificate of their own; optional: one that is shown must be good."""
    client_ca_file: FilePath | None = None
    """The authorities that sign clients' certificates, in PEM."""
    # Kafka's own default is both of them (ssl.enabled.protocols); librdkafka takes the newest that both ends know.
    min_version: MinVersion = "1.2"
    """The lowest version that is spoken, 1.2 or 1.3."""
    principal_from: Literal["subject", "san_dns", "san_email", "san_uri"] = "subject"
    """What of a client's certificate names it: its subject, or a subject alternative name of a kind."""
    principal_rules: Rules = ()
    """How the name becomes a principal, as Kafka's ssl.principal.mapping.rules; left out: as it is."""
    # Kubernetes puts a renewed secret in its place within a minute (the kubelet's syncFrequency).
    reload_interval: Duration = written("10s")
    """How often the files are looked at for a renewed certificate."""

    @field_validator("principal_rules")
    @classmethod
    def _rules_can_be_read(cls, rules: tuple[str, ...]) -> tuple[str, ...]:
        PrincipalRules(rules)
        return rules

    @model_validator(mode="after")
    def _client_auth_and_what_it_needs(self) -> Self:
        if self.client_auth != "none":
            if self.client_ca_file is None:
                raise ValueError(f"client_auth: {self.client_auth} needs client_ca_file, the authorities of clients")
            return self
        idle = {
            "client_ca_file": self.client_ca_file is not None,
            "principal_rules": bool(self.principal_rules),
            "principal_from": self.principal_from != "subject",
        }
        for name in (name for name, given in idle.items() if given):
            raise ValueError(f"{name} is about clients' certificates; set client_auth: required, or leave it out")
        return self


class ClusterTls(Model):
    """TLS towards the brokers."""

    ca_file: FilePath | None = None
    """The authorities that sign brokers' certificates, in PEM; left out: those that the operating system trusts."""
    cert_file: FilePath | None = None
    """A certificate to show to brokers that ask for one, then its chain, in PEM."""
    key_file: FilePath | None = None
    """That certificate's key, in PEM."""
    key_password: Password | None = None
    """What opens the key, where it is encrypted."""
    server_name: ServerName | None = None
    """The name that every broker's certificate must have; left out: the host that the broker is dialled by."""
    verify: Switch = True
    """Whether a broker's certificate must be good and have its name; false lets anybody pass for a broker."""
    # As a listener's.
    reload_interval: Duration = written("10s")
    """How often the files are looked at for a renewed certificate."""

    @model_validator(mode="after")
    def _certificate_and_key(self) -> Self:
        if self.cert_file is not None and self.key_file is None:
            raise ValueError("cert_file needs key_file, the certificate's key")
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("key_file needs cert_file, the key's certificate")
        if self.key_password is not None and self.key_file is None:
            raise ValueError("key_password needs key_file, the key that it opens")
        return self
