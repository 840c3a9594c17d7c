"""The models of OAUTHBEARER: what may be written, and what is refused with its advice and without its secrets."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kproxy.config.oauth import ClientOauth, UpstreamOauth, doubts
from kproxy.config.values import Surroundings

AROUND = Surroundings({"SECRET": "s3cret"}, Path("/etc/kproxy"))
CLIENT = {"jwks_file": "keys.json", "issuer": "https://id.example.com/", "audience": "kafka"}
BY_URL = {"jwks_file": None, "jwks_url": "https://id.example.com/jwks"}
UPSTREAM = {
    "token_url": "https://id.example.com/token",
    "client_id": "kproxy",
    "client_secret": {"env": "SECRET"},
}


def client(**changes: Any) -> ClientOauth:
    """Read a good listener's entry with changes; None leaves one out."""
    return ClientOauth.model_validate(given(CLIENT | changes), context=AROUND)


def upstream(**changes: Any) -> UpstreamOauth:
    """Read a good cluster's entry with changes; None leaves one out."""
    return UpstreamOauth.model_validate(given(UPSTREAM | changes), context=AROUND)


def given(data: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is None."""
    return {name: value for name, value in data.items() if value is not None}


def test_a_listener() -> None:
    """A listener's entry has its defaults, and its files begin at the configuration's folder."""
    oauth = client()
    assert oauth.jwks_file == Path("/etc/kproxy/keys.json")
    assert (oauth.leeway, oauth.principal_claim, oauth.groups_claim) == (30, "sub", None)
    by_url = client(**BY_URL, ca_file="/ca.pem", refresh_interval="1h", leeway="1s")
    assert (by_url.jwks_url, by_url.ca_file) == ("https://id.example.com/jwks", Path("/ca.pem"))
    assert (by_url.refresh_interval, by_url.leeway) == (3600, 1)
    assert client(jwks_file=Path("keys.json")).jwks_file == Path("keys.json")
    assert ClientOauth.model_validate(CLIENT).jwks_file == Path("keys.json")


def test_a_cluster() -> None:
    """A cluster's entry is a file's, or that of a token endpoint, whose secret shows nowhere."""
    oauth = upstream(scope="kafka read", extensions={"logicalCluster": "lkc-1"}, ca_file="ca.pem", client_auth="post")
    assert oauth.client_secret is not None
    assert oauth.client_secret.reveal() == "s3cret"
    assert (oauth.ca_file, oauth.scope) == (Path("/etc/kproxy/ca.pem"), "kafka read")
    assert oauth.extensions == {"logicalCluster": "lkc-1"}
    for shown in (repr(oauth), str(oauth.model_dump()), oauth.model_dump_json()):
        assert "s3cret" not in shown
    by_file = UpstreamOauth.model_validate({"token_file": "t", "extensions": {"a": "b"}}, context=AROUND)
    assert by_file.token_file == Path("/etc/kproxy/t")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"jwks_file": None}, "give the issuer's keys by one of jwks_file and jwks_url"),
        ({"jwks_url": "https://id.example.com/"}, "give the issuer's keys by one of jwks_file and jwks_url"),
        ({"ca_file": "ca.pem"}, "ca_file is for jwks_url; leave it out"),
        ({"jwks_file": ""}, "'' is not the path of a file; write one, as in certs/kafka.pem"),
        ({"jwks_file": 7}, "'7' is not the path of a file"),
        ({"jwks_file": "a\0b"}, "is not the path of a file"),
        ({"issuer": None}, "Field required"),
        ({"audience": None}, "Field required"),
        ({"audience": ""}, "at least 1 character"),
        ({"leeway": 5}, "is not a duration"),
        ({"algorithms": ["HS256"]}, "not permitted"),
        (BY_URL | {"jwks_url": "id.example.com/jwks"}, "is not an address; begin it with https:// and a host, as in"),
        (BY_URL | {"jwks_url": "file:///etc/passwd"}, "is not an address; begin it with https://"),
        (BY_URL | {"jwks_url": "https://:1/"}, "is not an address; begin it with https://"),
        (BY_URL | {"jwks_url": "https://x:99999/"}, "is not an address; begin it with https://"),
        (BY_URL | {"jwks_url": "https://[::/"}, "is not an address; begin it with https://"),
        (BY_URL | {"jwks_url": "https://us:s3cret@x/"}, "holds a user or a fragment, which such an address has not"),
        (BY_URL | {"jwks_url": "https://x/#s3cret"}, "holds a user or a fragment"),
        (BY_URL | {"jwks_url": "https://x/ y"}, "is not an address; write one"),
        (BY_URL | {"jwks_url": "https://é/"}, "is not an address; write one"),
        (BY_URL | {"jwks_url": 7}, "is not an address; write one"),
        (BY_URL | {"jwks_url": "https://x/" + "y" * 3000}, "is too long; 2048 characters at most"),
    ],
)
def test_mistakes_of_listeners(changes: dict[str, Any], text: str) -> None:
    """A mistake in a listener's entry is told with what to do."""
    with pytest.raises(ValidationError) as raised:
        client(**changes)
    assert text in str(raised.value)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"token_url": None}, "give one of token_file and token_url"),
        ({"token_file": "t"}, "give one of token_file and token_url"),
        ({"client_id": None}, "token_url needs client_id; add it"),
        ({"client_id": None, "client_secret": None}, "token_url needs client_id and client_secret; add them"),
        ({"token_url": None, "token_file": "t"}, "client_id and client_secret are for token_url; leave them out"),
        (dict.fromkeys(UPSTREAM) | {"token_file": "t", "scope": "s"}, "scope is for token_url; leave it out"),
        ({"client_secret": {"env": "NONE"}}, "the environment variable NONE is not set"),
        ({"client_secret": 12345}, "put the password in quotes"),
        ({"scope": "s3cret\n"}, "should match pattern"),
        ({"client_auth": "jwt"}, "Input should be 'basic' or 'post'"),
        ({"extensions": {"auth": "s3cret"}}, "'auth' cannot be sent; a name has letters only, and is not auth"),
        ({"extensions": {"a_b": "s3cret"}}, "'a_b' cannot be sent"),
        ({"extensions": {"a": "s3cret\x01"}}, "'a' cannot be sent"),
    ],
)
def test_mistakes_of_clusters(changes: dict[str, Any], text: str) -> None:
    """A mistake in a cluster's entry is told with what to do."""
    with pytest.raises(ValidationError) as raised:
        upstream(**changes)
    assert text in str(raised.value)
    assert "s3cret" not in str(raised.value)


def test_doubts() -> None:
    """What goes over the network unprotected, or stands in the file, is told; nothing else is."""
    assert not [*doubts((), client()), *doubts((), client(**BY_URL)), *doubts((), upstream())]
    here = ("listeners", "x", "sasl", "oauth")
    (found,) = doubts(here, client(jwks_file=None, jwks_url="http://id.example.com/"))
    assert found.loc == (*here, "jwks_url")
    assert found.text == "without TLS whoever is on the way can choose whose tokens are good; use https"
    insecure, literal = doubts(("c",), upstream(token_url="http://id.example.com/", client_secret="s3cret"))
    assert insecure == (("c", "token_url"), "without TLS whoever is on the way can read the secret; use https")
    assert literal.loc == ("c", "client_secret")
    assert "s3cret" not in literal.text


def test_schema() -> None:
    """An editor is told that one source is needed, and each field's text."""
    for model, keys in ((ClientOauth, ["jwks_file", "jwks_url"]), (UpstreamOauth, ["token_file", "token_url"])):
        schema = model.model_json_schema()
        assert schema["oneOf"] == [{"required": [key]} for key in keys]
        assert all("description" in field for field in schema["properties"].values())
        assert json.dumps(schema)
