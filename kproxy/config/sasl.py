"""Logins: kproxy's own at the brokers, and those of clients at a listener.

::

    clusters.main.sasl:     {mechanism: SCRAM-SHA-512, username: gateway, password: {env: KAFKA_PASSWORD}}
    listeners.outside.sasl: {mechanisms: [SCRAM-SHA-512, PLAIN], users_file: users.yaml, session_lifetime: 1h}

Here is what each must hold by itself; what depends on the listener's TLS or on the cluster is in ``doorchecks``.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from kproxy.config.base import Model, Switch
from kproxy.config.oauth import ClientOauth, UpstreamOauth
from kproxy.config.problems import listed
from kproxy.config.values import Duration, FilePath, Password

Username = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00]*$")]

Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]

OAUTHBEARER = "OAUTHBEARER"


class Sasl(Model):
    """How kproxy logs in to the brokers."""

    mechanism: Mechanism = "PLAIN"
    """The SASL mechanism: PLAIN (RFC 4616), SCRAM (RFC 5802, 7677) or OAUTHBEARER (RFC 7628)."""
    username: Username | None = None
    """The user that clients act as. For PLAIN and SCRAM."""
    password: Password | None = None
    """{env: NAME} or {file: PATH}; a literal works, with a warning. For PLAIN and SCRAM."""
    oauth: UpstreamOauth | None = None
    """Where the tokens come from. For OAUTHBEARER."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        by_token = self.mechanism == OAUTHBEARER
        needed, useless = (["oauth"], ["username", "password"]) if by_token else (["username", "password"], ["oauth"])
        missing = [key for key in needed if getattr(self, key) is None]
        if missing:
            raise ValueError(f"{listed(missing)} missing; add {'it' if len(missing) == 1 else 'both'}")
        given = [key for key in useless if getattr(self, key) is not None]
        if given:
            raise ValueError(f"{listed(given)} not used by {self.mechanism}; leave out")
        return self

    def revealed(self) -> str:
        """Return the password, of a login that has one."""
        if self.password is None:
            raise ValueError(f"{self.mechanism} has no password")
        return self.password.reveal()


class ClientSasl(Model):
    """How clients log in at a listener."""

    mechanisms: Annotated[tuple[Mechanism, ...], Field(min_length=1, max_length=4)]
    """What clients may choose from, the best first."""
    users_file: FilePath | None = None
    """Who may log in by PLAIN and SCRAM; made by kproxy users, read again when it changes."""
    # connections.max.reauth.ms of brokers, whose default is none as well.
    session_lifetime: Duration | None = None
    """How long a login holds; then a client must log in anew (KIP-368). Left out: as long as the connection."""
    oauth: ClientOauth | None = None
    """Which tokens are good. For OAUTHBEARER."""
    allow_plaintext_passwords: Switch = False
    """Take PLAIN without TLS, where everybody on the way can read the passwords."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len(set(self.mechanisms)) < len(self.mechanisms):
            raise ValueError("mechanisms names one twice; name each once")
        if OAUTHBEARER in self.mechanisms and self.oauth is None:
            raise ValueError("oauth missing; OAUTHBEARER needs it")
        if OAUTHBEARER not in self.mechanisms and self.oauth is not None:
            raise ValueError("oauth is not used; add OAUTHBEARER to the mechanisms, or leave it out")
        return self

    @property
    def by_password(self) -> list[str]:
        """The mechanisms that ask for a user's password."""
        return [name for name in self.mechanisms if name != OAUTHBEARER]
