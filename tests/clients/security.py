"""How a client gets in, in one shape for three libraries: its certificates, its mechanism, its user.

::

    alice = Security(ca_file=folder / "ca.pem", mechanism="PLAIN", user="alice", password="wonder")
    for library in alice.libraries(): ...
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.aio import Aio
from clients.confluent import Confluent
from clients.kafkapython import KafkaPython
from clients.library import Library
from kproxy.testing.certificates import Files
from kproxy.testing.proxy import SECRETS

SECRET_CHARS_MIN = 6
"""What is shorter may be part of any word."""


@dataclass(frozen=True)
class Security:
    """What a client is told of it; None: not."""

    ca_file: Path | None = None
    """Speak TLS, with servers whose certificates it signed."""
    files: Files | None = None
    """A certificate of its own."""
    mechanism: str | None = None
    user: str = ""
    password: str = ""

    def __post_init__(self) -> None:
        """No proxy may tell it."""
        if len(self.password) >= SECRET_CHARS_MIN:
            SECRETS.add(self.password)

    @property
    def protocol(self) -> str:
        """Kafka's security.protocol."""
        tls = self.ca_file is not None
        if self.mechanism is None:
            return "SSL" if tls else "PLAINTEXT"
        return "SASL_SSL" if tls else "SASL_PLAINTEXT"

    def confluent(self) -> dict[str, Any]:
        """Return librdkafka's settings."""
        settings: dict[str, Any] = {"security.protocol": self.protocol}
        if self.ca_file is not None:
            settings["ssl.ca.location"] = str(self.ca_file)
        if self.files is not None:
            settings["ssl.certificate.location"] = str(self.files.cert_file)
            settings["ssl.key.location"] = str(self.files.key_file)
        if self.mechanism is not None:
            settings |= {"sasl.mechanism": self.mechanism, "sasl.username": self.user, "sasl.password": self.password}
        return settings

    def kafka_python(self) -> dict[str, Any]:
        """Return kafka-python's settings."""
        settings: dict[str, Any] = {"security_protocol": self.protocol}
        if self.ca_file is not None:
            settings["ssl_cafile"] = str(self.ca_file)
        if self.files is not None:
            settings["ssl_certfile"] = str(self.files.cert_file)
            settings["ssl_keyfile"] = str(self.files.key_file)
        return settings | self._sasl()

    def aio(self) -> dict[str, Any]:
        """Return aiokafka's settings."""
        settings: dict[str, Any] = {"security_protocol": self.protocol}
        if self.ca_file is not None:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.files is not None:
                context.load_cert_chain(*self.files)
            settings["ssl_context"] = context
        return settings | self._sasl()

    def _sasl(self) -> dict[str, Any]:
        if self.mechanism is None:
            return {}
        return {
            "sasl_mechanism": self.mechanism,
            "sasl_plain_username": self.user,
            "sasl_plain_password": self.password,
        }

    def library(self, name: str) -> Library:
        """Return a library that gets in so."""
        if name == Confluent.name:
            return Confluent(**{key.replace(".", "_"): value for key, value in self.confluent().items()})
        return Aio(**self.aio()) if name == Aio.name else KafkaPython(**self.kafka_python())


LIBRARIES = (Confluent.name, Aio.name, KafkaPython.name)
