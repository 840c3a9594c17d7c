"""The models of TLS: what may be written, and what is refused with advice."""

import json
import pickle
from pathlib import Path

import pytest
from pydantic import ValidationError

from kproxy.config.base import Model
from kproxy.config.tls import ClusterTls, ListenerTls
from kproxy.config.values import Secret, Surroundings

AROUND = Surroundings({"KEY_PASSWORD": "hunter2"}, Path("/etc/kproxy"))
PAIR = {"cert_file": "c.pem", "key_file": "k.pem"}
FULL = {
    **PAIR,
    "key_password": {"env": "KEY_PASSWORD"},
    "client_auth": "required",
    "client_ca_file": "/pki/ca.pem",
    "min_version": 1.3,
    "principal_from": "san_dns",
    "principal_rules": ["RULE:^(.*)[.]example[.]com$/$1/L", "DEFAULT"],
    "reload_interval": "1m",
}
CLUSTER = {**PAIR, "ca_file": "ca.pem", "key_password": "hunter2", "server_name": "kafka.example.com", "verify": False}


def refusals(model: type[Model], **entries: object) -> list[str]:
    """Return what pydantic says of a mistake, without any input in it."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate(entries, context=AROUND)
    assert "hunter2" not in str(caught.value)
    return [detail["msg"] for detail in caught.value.errors()]


def test_defaults() -> None:
    """A certificate and its key are enough for a listener, and nothing at all for a cluster: verification is on."""
    tls = ListenerTls.model_validate(PAIR, context=AROUND)
    assert (tls.cert_file, tls.key_file) == (Path("/etc/kproxy/c.pem"), Path("/etc/kproxy/k.pem"))
    assert (tls.client_auth, tls.min_version, tls.principal_from, tls.principal_rules) == ("none", "1.2", "subject", ())
    assert (tls.key_password, tls.client_ca_file, tls.reload_interval) == (None, None, 10.0)
    cluster = ClusterTls.model_validate({}, context=AROUND)
    assert (cluster.verify, cluster.ca_file, cluster.server_name, cluster.reload_interval) == (True, None, None, 10.0)


def test_everything() -> None:
    """All that may be written is read; paths begin at the configuration's folder, absolute ones stay."""
    tls = ListenerTls.model_validate(FULL, context=AROUND)
    assert (tls.client_ca_file, tls.min_version, tls.reload_interval) == (Path("/pki/ca.pem"), "1.3", 60.0)
    assert tls.key_password == Secret("hunter2", "env KEY_PASSWORD")
    cluster = ClusterTls.model_validate(CLUSTER, context=AROUND)
    assert (cluster.ca_file, cluster.verify) == (Path("/etc/kproxy/ca.pem"), False)
    assert ClusterTls.model_validate({"server_name": "::1"}).server_name == "::1"
    assert ListenerTls.model_validate(PAIR).cert_file == Path("c.pem")
    assert ListenerTls(cert_file=Path("c"), key_file=Path("k")).cert_file == Path("c")


@pytest.mark.parametrize(("model", "entries"), [(ListenerTls, FULL), (ClusterTls, CLUSTER)])
def test_it_travels(model: type[Model], entries: dict[str, object]) -> None:
    """A worker gets the same by pickle; in text, no password is shown; the schema explains each key."""
    made = model.model_validate(entries, context=AROUND)
    assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301 - its own bytes
    for text in (repr(made), str(made), made.model_dump_json()):
        assert "hunter2" not in text
    assert json.loads(made.model_dump_json())["cert_file"] == "/etc/kproxy/c.pem"
    schema = model.model_json_schema()
    assert set(entries) <= set(schema["properties"]) == set(model.model_fields)
    assert all(field["description"] for field in schema["properties"].values())


@pytest.mark.parametrize(
    ("entries", "advice"),
    [
        ({"cert_file": ""}, "'' is not the path of a file; write one, as in certs/kafka.pem"),
        ({"key_file": 5}, "'5' is not the path of a file"),
        ({"key_file": "a\0b"}, "is not the path of a file"),
        ({"min_version": "1.1"}, "'1.2' or '1.3'"),
        ({"min_version": 1.1}, "'1.2' or '1.3'"),
        ({"client_auth": "needed"}, "'none', 'optional' or 'required'"),
        ({"client_auth": "required"}, "client_auth: required needs client_ca_file, the authorities of clients"),
        ({"client_auth": "optional"}, "client_auth: optional needs client_ca_file"),
        ({"client_ca_file": "ca.pem"}, "client_ca_file is about clients' certificates; set client_auth: required"),
        ({"principal_rules": ["DEFAULT"]}, "principal_rules is about clients' certificates"),
        ({"principal_from": "san_uri"}, "principal_from is about clients' certificates"),
        ({"principal_rules": ["RULE:(/x/"]}, "'(' is not a regular expression"),
        ({"principal_rules": ["default"]}, "'default' is not a rule; write DEFAULT"),
        ({"reload_interval": "0s"}, "no time at all"),
        ({"reload": "1s"}, "Extra inputs"),
    ],
)
def test_mistakes_of_a_listener(entries: dict[str, object], advice: str) -> None:
    """A mistake of a listener's is one line that says what to write."""
    (said,) = refusals(ListenerTls, **PAIR | entries)
    assert advice in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("entries", "advice"),
    [
        ({"cert_file": "c.pem"}, "cert_file needs key_file"),
        ({"key_file": "k.pem"}, "key_file needs cert_file"),
        ({"key_password": "hunter2"}, "key_password needs key_file"),
        ({"server_name": "kafka:9092"}, "write one without a port"),
        ({"server_name": "x" * 254}, "is not a host name"),
        ({"server_name": ""}, "is not a host name"),
        ({"verify": "false"}, "valid boolean"),
    ],
)
def test_mistakes_of_a_cluster(entries: dict[str, object], advice: str) -> None:
    """A mistake of a cluster's is one line that says what to write."""
    (said,) = refusals(ClusterTls, **entries)
    assert advice in said
    assert "\n" not in said
