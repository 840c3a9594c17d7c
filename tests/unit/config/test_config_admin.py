"""Where the admin API may be, by whom it may be used, and that its configuration can be shown."""

import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from kproxy.config.flags import Flags
from kproxy.config.load import from_flags, load
from kproxy.config.masked import masked
from kproxy.config.model import Config
from kproxy.config.values import SOCKET_PATH_BYTES_MAX, HostPort, Secret, SocketPath, parse_admin_bind
from kproxy.errors import ConfigError

GOOD = """\
clusters: {main: {bootstrap: [kafka1:9092], sasl: {username: u, password: hunter2}}}
listeners: {public: {bind: 127.0.0.1:9092}}
"""


def mistakes(text: str, **environ: str) -> list[str]:
    """Return the lines that a configuration is refused with."""
    with pytest.raises(ConfigError) as caught:
        load(GOOD + text, environ=environ)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    "bind", ["127.0.0.1:9090", "127.9.9.9:9090", '"[::1]:9090"', "localhost:9090", "/run/kproxy/admin.sock"]
)
def test_without_a_key_only_this_machine(bind: str) -> None:
    """What nobody else can reach needs no key, and gives no doubt."""
    loaded = load(GOOD + f"admin: {{bind: {bind}}}\n")
    assert loaded.config.admin is not None
    assert str(loaded.config.admin.bind) == bind.strip('"')
    assert not any("admin" in warning for warning in loaded.warnings)


@pytest.mark.parametrize("bind", ["0.0.0.0:9090", "10.0.0.5:9090", '"[::]:9090"', "kafka.example.com:9090"])
def test_others_need_a_key(bind: str) -> None:
    """What others can reach is refused without a key; with one it is served, with a warning that it is plain HTTP."""
    (line,) = mistakes(f"admin: {{bind: {bind}}}\n")
    assert line.startswith("config:3:15: admin.bind: ")
    assert "can be reached by others; give admin.api_key" in line
    loaded = load(GOOD + f"admin: {{bind: {bind}, api_key: {{env: KEY}}}}\n", environ={"KEY": "k"})
    assert sum("plain HTTP" in warning for warning in loaded.warnings) == 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("admin: {}", "3:1: admin.bind: is missing; add it"),
        ("admin: {bind: ':9090'}", "admin.bind: ':9090' names no host"),
        ("admin: {bind: 9090}", "admin.bind: '9090' is not an address"),
        ("admin: {bnd: 1, bind: 127.0.0.1:1}", "admin.bnd: unknown key; did you mean 'bind'?"),
        ("admin: []", "3:8: admin: must be a mapping; known keys: bind, api_key"),
        ("admin: {bind: 127.0.0.1:9092}", "admin.bind: 127.0.0.1:9092 is in use by listener 'public'"),
        ("admin: {bind: '/tmp/%s'}" % ("x" * 200), "is no path for a socket; 107 bytes at most"),
        ('admin: {bind: 127.0.0.1:1, api_key: "a b"}', "admin.api_key: holds what an HTTP header cannot carry"),
        ("admin: {bind: 127.0.0.1:1, api_key: {env: GONE}}", "admin.api_key: the environment variable GONE is not set"),
        ("metrics: {max: 0}", "metrics.max: is too low; 1 at least"),
        ("metrics: {max: 10001}", "metrics.max: is too high; 10000 at most"),
        ('metrics: {per_client_id: "yes"}', "metrics.per_client_id: must be true or false"),
        ("metrics: {per_client: true}", "metrics.per_client: unknown key; did you mean 'per_client_id'?"),
    ],
)
def test_each_mistake_is_one_line(text: str, line: str) -> None:
    """Whatever is wrong is told once, where it is, with what to do; no key is quoted."""
    (told,) = mistakes(text + "\n")
    assert line in told
    assert "a b" not in told


def test_mistakes_are_told_beside_others() -> None:
    """What lies between fields is found as well while something else is wrong."""
    lines = mistakes("admin: {bind: 0.0.0.0:9090, other: 1}\ndrain_timeout: soon\n")
    assert [line.split(": ")[1] for line in lines] == ["admin.bind", "admin.other", "drain_timeout"]


def test_a_key_in_the_file_is_a_doubt() -> None:
    """A literal key works, with a warning that does not show it."""
    loaded = load(GOOD + "admin: {bind: 127.0.0.1:9090, api_key: sesame}\n")
    assert loaded.config.admin is not None
    (doubt,) = (warning for warning in loaded.warnings if "admin" in warning)
    assert "the key stands in the file" in doubt
    assert "sesame" not in doubt + repr(loaded)


def test_the_flag() -> None:
    """--admin wins over the file; a key comes from the environment where the file has none."""
    flags = Flags(listen="127.0.0.1:9092", bootstrap="kafka1:9092", admin="127.0.0.1:9090")
    plain = from_flags(flags, environ={}).config.admin
    assert plain is not None
    assert (plain.bind, plain.api_key) == (HostPort("127.0.0.1", 9090), None)
    keyed = from_flags(flags, environ={"KPROXY_ADMIN_KEY": "k"}).config.admin
    assert keyed is not None
    assert keyed.api_key == Secret("k", "env KPROXY_ADMIN_KEY")
    file = GOOD + "admin: {bind: 127.0.0.1:1, api_key: {env: MINE}}\n"
    both = from_flags(Flags(admin="/a.sock"), file, environ={"KPROXY_ADMIN_KEY": "k", "MINE": "m"}).config.admin
    assert both is not None
    assert (both.bind, both.api_key) == (SocketPath("/a.sock"), Secret("m", "env MINE"))
    assert from_flags(Flags(), GOOD, environ={"KPROXY_ADMIN_KEY": "k"}).config.admin is None
    with pytest.raises(ConfigError, match=r"^--admin: 0\.0\.0\.0:9090 can be reached by others"):
        from_flags(Flags(admin="0.0.0.0:9090"), GOOD, environ={})
    with pytest.raises(ConfigError, match="admin: must be a mapping"):
        from_flags(Flags(admin="127.0.0.1:9090"), GOOD + "admin: [1]\n", environ={})


def test_a_socket_path_is_bounded() -> None:
    """A path as long as the kernel takes is taken; a value that is one already stays."""
    path = "/" + "x" * (SOCKET_PATH_BYTES_MAX - 1)
    assert parse_admin_bind(parse_admin_bind(path)) == SocketPath(path)
    with pytest.raises(ValueError, match="no path for a socket"):
        parse_admin_bind(path + "x")


def test_masked(tmp_path: Path) -> None:
    """What is shown has every option and no secret; a reference to one is shown as it is written."""
    secret = tmp_path / "key"
    secret.write_text("sesame")
    text = GOOD + f"admin: {{bind: 127.0.0.1:9090, api_key: {{file: {secret}}}}}\n"
    text += "limits: [{name: a, leaky_bucket: {rate: 1}, key: [client_ip], match: {client_ips: [10.0.0.0/8]}}]\n"
    config = load(text).config
    shown = masked(config)
    written = json.dumps(shown)
    assert "hunter2" not in written
    assert "sesame" not in written
    assert shown["clusters"]["main"]["sasl"]["password"] == "***"
    assert shown["admin"]["api_key"] == {"file": str(secret)}
    assert shown["clusters"]["main"]["bootstrap"] == ["kafka1:9092"]
    assert shown["limits"][0]["match"]["client_ips"] == ["10.0.0.0/8"]
    assert shown.keys() == Config.model_fields.keys()


def test_a_secret_anywhere_is_masked() -> None:
    """Where a secret stands makes no difference, also in a part that is added tomorrow."""

    class Part(BaseModel, arbitrary_types_allowed=True):
        inner: dict[int, tuple[Secret, ...]]

    assert masked(Part(inner={1: (Secret("x", "literal"), Secret("y", "env Y"))})) == {
        "inner": {"1": ["***", {"env": "Y"}]}
    }
