"""OAUTHBEARER: which tokens of clients are good, and where kproxy's own for the brokers come from.

::

    listeners.outside.sasl.oauth: {jwks_url: https://id.example.com/jwks, issuer: https://id.example.com/, audience: k}
    clusters.main.sasl:           {token_url: https://id.example.com/token, client_id: kproxy, client_secret: {env: S}}

Nothing here opens a file of keys or tokens, or an address: that is done when a listener or a cluster starts.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    PlainValidator,
    SerializerFunctionWrapHandler,
    StringConstraints,
    WithJsonSchema,
    model_serializer,
    model_validator,
)

from kproxy.config.base import Model, written
from kproxy.config.problems import Loc, Problem, listed
from kproxy.config.values import Duration, FilePath, Password, quoted
from kproxy.core.oauthbearer import valid_extension

URL_CHARACTERS_MAX = 2048


def parse_url(value: object) -> str:
    """Check an http or https address. It may not hold credentials, and no error shows those."""
    example = "https://id.example.com/token"
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError(f"is not an address; write one, as in {example}")
    if len(value) > URL_CHARACTERS_MAX:
        raise ValueError(f"is too long; {URL_CHARACTERS_MAX} characters at most")
    try:
        parts = urlsplit(value)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f"is not an address; begin it with https:// and a host, as in {example}")
    if "@" in parts.netloc or parts.fragment:
        raise ValueError(f"holds a user or a fragment, which such an address has not; write it as in {example}")
    return value


def check_extensions(extensions: dict[str, str]) -> dict[str, str]:
    """Refuse what SASL extensions cannot carry."""
    for name, value in extensions.items():
        if not valid_extension(name, value):
            raise ValueError(
                f"{quoted(name)} cannot be sent; a name has letters only, and is not auth, its value ASCII characters"
            )
    return extensions


Url = Annotated[
    str,
    PlainValidator(parse_url),
    WithJsonSchema({"type": "string", "pattern": "^https?://", "examples": ["https://id.example.com/jwks"]}),
]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Scope = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[\x21\x23-\x5b\x5d-\x7e ]+$")]
Extensions = Annotated[dict[str, str], Field(max_length=20), AfterValidator(check_extensions)]


def _one_of(*keys: str) -> Any:  # noqa: ANN401 - pydantic's
    def add(schema: dict[str, Any]) -> None:
        schema["oneOf"] = [{"required": [key]} for key in keys]

    return add


class ClientOauth(Model):
    """Which tokens let a client in (SASL OAUTHBEARER): JSON Web Tokens of one issuer."""

    model_config = ConfigDict(json_schema_extra=_one_of("jwks_file", "jwks_url"))

    jwks_file: FilePath | None = None
    """A file with the issuer's public keys, as a JWK set; it is read again when it changes."""
    jwks_url: Url | None = None
    """The address of the issuer's public keys, as a JWK set."""
    ca_file: FilePath | None = None
    """For jwks_url: the authorities that its certificate may come from; left out: the system's."""
    issuer: Text
    """What a token's iss must be, to the letter."""
    audience: Text
    """What a token's aud must be, or hold."""
    # Kafka's sasl.oauthbearer.clock.skew.seconds.
    leeway: Duration = written("30s")
    """How far the issuer's clock may differ from ours."""
    # Kafka's sasl.oauthbearer.sub.claim.name.
    principal_claim: Text = "sub"
    """The claim that names the client: alice becomes User:alice."""
    groups_claim: Text | None = None
    """The claim that lists the client's groups, as a list or as words; left out: it is in none."""
    # As Strimzi's oauth.jwks.refresh.seconds; a key that was withdrawn lets nobody in for longer than this.
    refresh_interval: Duration = written("5m")
    """For jwks_url: how often the keys are fetched, beside whenever a token names an unknown one."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.jwks_file is None) == (self.jwks_url is None):
            raise ValueError("give the issuer's keys by one of jwks_file and jwks_url")
        if self.jwks_file is not None and self.ca_file is not None:
            raise ValueError("ca_file is for jwks_url; leave it out")
        return self


_FOR_TOKEN_URL = ("client_id", "client_secret", "client_auth", "scope", "ca_file")


class UpstreamOauth(Model):
    """Where kproxy's tokens for the brokers come from (SASL OAUTHBEARER): a file, or client credentials."""

    model_config = ConfigDict(json_schema_extra=_one_of("token_file", "token_url"))

    token_file: FilePath | None = None
    """A file that holds the token alone; it is read again when it changes."""
    token_url: Url | None = None
    """The issuer's token endpoint, asked with the client credentials grant."""
    client_id: Text | None = None
    """For token_url: kproxy's name there."""
    client_secret: Password | None = None
    """For token_url: {env: NAME} or {file: PATH}; a literal works, with a warning."""
    # What RFC 6749, 2.3.1 asks every endpoint to support.
    client_auth: Literal["basic", "post"] = "basic"
    """For token_url: whether name and secret go into the Authorization header (basic) or into the form (post)."""
    scope: Scope | None = None
    """For token_url: the scopes to ask for, with spaces in between."""
    ca_file: FilePath | None = None
    """For token_url: the authorities that its certificate may come from; left out: the system's."""
    extensions: Extensions = Field(default_factory=dict)
    """SASL extensions for the brokers, as logicalCluster of Confluent Cloud."""

    @model_serializer(mode="wrap", when_used="json")
    def _without_what_is_not_for_it(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        others = _FOR_TOKEN_URL if self.token_url is None else ()
        return {name: value for name, value in write(self).items() if name not in others}

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.token_file is None) == (self.token_url is None):
            raise ValueError("give one of token_file and token_url")
        if self.token_url is not None:
            missing = [name for name in ("client_id", "client_secret") if getattr(self, name) is None]
            if missing:
                raise ValueError(f"token_url needs {listed(missing)}; add {'it' if len(missing) == 1 else 'them'}")
            return self
        given = [name for name in _FOR_TOKEN_URL if name in self.model_fields_set]
        if given:
            one = len(given) == 1
            raise ValueError(
                f"{listed(given)} {'is' if one else 'are'} for token_url; leave {'it' if one else 'them'} out"
            )
        return self


def doubts(here: Loc, oauth: ClientOauth | UpstreamOauth) -> Iterator[Problem]:
    """Find what works but is probably not meant, as ``checks.doubts`` does."""
    for key in ("jwks_url", "token_url"):
        url = getattr(oauth, key, None)
        if url is not None and urlsplit(url).scheme == "http":
            risk = "choose whose tokens are good" if key == "jwks_url" else "read the secret"
            yield Problem((*here, key), f"without TLS whoever is on the way can {risk}; use https")
    secret = oauth.client_secret if isinstance(oauth, UpstreamOauth) else None
    if secret is not None and secret.source == "literal":
        text = "the secret stands in the file; write {env: NAME} or {file: PATH} instead"
        yield Problem((*here, "client_secret"), text)
