"""The files of TLS: each mistake has its own line, and what has changed is taken over, or the old stays in use."""

import datetime as dt
import os
from pathlib import Path
from typing import Any

import pytest
from handshakes import run, served, tls_client

from kproxy.errors import ConfigError
from kproxy.net import tls
from kproxy.net.tlsfiles import FILE_BYTES_MAX
from kproxy.testing.certificates import Authority, Files, key_pem, new_key

CA = Authority()
DAY = dt.timedelta(days=1)
SECRET = "hunter2"


@pytest.fixture
def pair(tmp_path: Path) -> Files:
    """A good certificate and its key."""
    return CA.server("localhost", "10.0.0.7").write(tmp_path, "server")


def mistake(pair: Files, **settings: Any) -> str:
    """Return what is wrong with a listener's files: one line, the same for a cluster's, without the password."""
    with pytest.raises(ConfigError) as caught:
        tls.ServerTls(tls.ServerSettings(*pair, **settings))
    said = str(caught.value)
    if "client_auth" not in settings:
        with pytest.raises(ConfigError) as again:
            tls.client_context(tls.ClientSettings(None, *pair, **settings))
        assert str(again.value) == said
    assert "\n" not in said
    assert SECRET not in said
    return said


def test_facts(pair: Files) -> None:
    """A certificate's facts are told for the log and for metrics."""
    facts = tls.ServerTls(tls.ServerSettings(*pair)).facts
    assert (facts.subject, facts.names) == ("CN=localhost", ("localhost", "10.0.0.7"))
    assert facts.not_before < dt.datetime.now(dt.UTC) < facts.not_after


def test_a_certificate_without_names(tmp_path: Path) -> None:
    """A certificate without alternative names has facts as well."""
    client = tls.ClientTls(tls.ClientSettings(None, *CA.client("CN=alice,O=org").write(tmp_path, "c")))
    assert client.facts is not None
    assert (client.facts.subject, client.facts.names) == ("CN=alice,O=org", ())
    assert tls.ClientTls(tls.ClientSettings()).facts is None


def test_missing_files(pair: Files) -> None:
    """A file that is not there, or is none, is named."""
    nowhere, folder = pair.cert_file.with_name("nowhere"), pair.cert_file.parent
    assert (
        mistake(Files(nowhere, pair.key_file))
        == f"the certificate file {nowhere} cannot be read: No such file or directory"
    )
    assert (
        mistake(Files(pair.cert_file, nowhere)) == f"the key file {nowhere} cannot be read: No such file or directory"
    )
    assert mistake(Files(folder, pair.key_file)) == f"the certificate file {folder} cannot be read: Is a directory"
    said = mistake(pair, client_auth="required", client_ca_file=nowhere)
    assert said == f"the client CA file {nowhere} cannot be read: No such file or directory"


def test_files_of_another_kind(pair: Files) -> None:
    """A file that is no PEM, holds something else, or is empty, is told with what to do."""
    cert, key = pair
    odd = cert.with_name("odd")
    for content, hint in ((b"\x30\x82\x01\x00", "convert it with openssl"), (b"", "it is empty")):
        odd.write_bytes(content)
        assert mistake(Files(odd, key)) == f"the certificate file {odd} holds no certificate in PEM; {hint}"
        assert mistake(Files(cert, odd)) == f"the key file {odd} holds no private key in PEM; {hint}"
        said = mistake(pair, client_auth="optional", client_ca_file=odd)
        assert said == f"the client CA file {odd} holds no certificate in PEM; {hint}"
    assert mistake(Files(key, cert)).endswith("holds no certificate in PEM; it holds a key: are two files mixed up?")
    assert mistake(Files(cert, cert)).endswith(
        "holds no private key in PEM; it holds a certificate: are two files mixed up?"
    )
    odd.write_bytes(b"x" * (FILE_BYTES_MAX + 1))
    assert mistake(Files(odd, key)).endswith(f"is above {FILE_BYTES_MAX} bytes; this is no PEM file")


def test_damaged_files(pair: Files) -> None:
    """A file that is PEM on the outside only is called damaged."""
    cert, key = pair
    odd = cert.with_name("odd")
    damaged = cert.read_bytes().replace(b"M", b"N", 2)
    odd.write_bytes(damaged)
    assert mistake(Files(odd, key)) == f"the certificate in {odd} is damaged; write it anew"
    said = mistake(pair, client_auth="optional", client_ca_file=odd)
    assert said.startswith(f"the client CA file {odd} is damaged: ")
    odd.write_bytes(cert.read_bytes() + damaged)
    assert f"the chain in {odd} or the key in {key} is damaged: " in mistake(Files(odd, key))
    odd.write_bytes(key.read_bytes().replace(b"M", b"N", 2))
    assert f"the key in {odd} is damaged: " in mistake(Files(cert, odd))


def test_the_wrong_key(pair: Files) -> None:
    """The key of another certificate is told as that, of the same kind or of another."""
    for key in (new_key(), new_key(rsa_bits=2048)):
        other = pair.key_file.with_name("other")
        other.write_bytes(key_pem(key))
        said = mistake(Files(pair.cert_file, other))
        assert said == f"the key in {other} is not the one of the certificate in {pair.cert_file}"


def test_encrypted_keys(tmp_path: Path) -> None:
    """An encrypted key needs its password; without one nobody is asked for it, and no error shows it."""
    files = CA.server("localhost").write(tmp_path, "server", SECRET)
    assert mistake(files) == f"the key in {files.key_file} is encrypted; give key_password"
    said = mistake(files, key_password=SECRET + "x")
    assert said == f"the key in {files.key_file} cannot be decrypted; key_password is probably wrong"
    assert "longer than OpenSSL allows" in mistake(files, key_password=SECRET * 200)
    settings = tls.ServerSettings(*files, key_password=SECRET)
    assert SECRET not in repr(settings)
    assert tls.ServerTls(settings).facts.subject == "CN=localhost"


def test_a_weak_key(tmp_path: Path) -> None:
    """A key that OpenSSL thinks too short is told as that."""
    assert "too weak for OpenSSL: ee key too small" in mistake(
        CA.server("localhost", rsa_bits=1024).write(tmp_path, "s")
    )


def test_what_belongs_together(pair: Files) -> None:
    """Client authentication needs authorities, and a certificate its key."""
    assert "needs client_ca_file" in mistake(pair, client_auth="required")
    with pytest.raises(ConfigError, match="needs key_file"):
        tls.client_context(tls.ClientSettings(cert_file=pair.cert_file))


def test_renewal(pair: Files, tmp_path: Path) -> None:
    """New files are taken over: who comes then is shown the new certificate; without a change nothing happens."""
    server = tls.ServerTls(tls.ServerSettings(*pair))
    old = server.context
    assert (server.changed(), server.reload()) == (False, False)
    new = Authority("the new one")
    new.server("localhost").write(tmp_path, "server")
    assert (server.changed(), server.reload(), server.changed(), server.reload()) == (True, True, False, False)
    assert server.context is not old
    _, outcome = run("uvloop", served(server, tls_client(new.trusting())))
    assert outcome[0] == b"welcome"


def test_a_broken_renewal(pair: Files, tmp_path: Path) -> None:
    """A broken file is told once, the old certificate stays in use, and the next change is tried again."""
    server = tls.ServerTls(tls.ServerSettings(*pair))
    old, new = server.context, CA.server("localhost").write(tmp_path, "new")
    new.cert_file.replace(pair.cert_file)
    with pytest.raises(ConfigError, match="is not the one of the certificate"):
        server.reload()
    assert (server.changed(), server.reload(), server.context) == (False, False, old)
    _, outcome = run("uvloop", served(server, tls_client(CA.trusting())))
    assert outcome[0] == b"welcome"
    new.key_file.replace(pair.key_file)
    assert (server.reload(), server.context is old) == (True, False)
    pair.key_file.unlink()
    assert server.changed()
    with pytest.raises(ConfigError, match="cannot be read"):
        server.reload()
    assert not server.changed()


def test_renewal_through_a_link(tmp_path: Path) -> None:
    """A link that is moved to new files, as Kubernetes does it, is a change; so is a new authority for clients."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        CA.server("localhost").write(tmp_path / name, "server")
        CA.write(tmp_path / name)
    link = tmp_path / "now"
    link.symlink_to("one")
    files = Files(link / "server.pem", link / "server.key")
    settings = tls.ServerSettings(*files, client_auth="required", client_ca_file=link / "ca.pem")
    server, client = tls.ServerTls(settings), tls.ClientTls(tls.ClientSettings(link / "ca.pem", *files))
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").replace(link)
    assert (server.changed(), client.changed(), server.reload(), client.reload()) == (True,) * 4
    assert (server.changed(), client.changed(), client.reload()) == (False,) * 3
    Authority("another").write(tmp_path / "two")
    assert (server.reload(), client.reload()) == (True, True)


def test_doubts(tmp_path: Path) -> None:
    """A certificate that is not valid now, or not for long, and a key that all can read are warned of; they work."""
    now = dt.datetime.now(dt.UTC)
    good = CA.server("localhost").write(tmp_path, "good")
    server = tls.ServerTls(tls.ServerSettings(*good))
    assert server.doubts(now) == []
    (soon,) = server.doubts(server.facts.not_after - DAY)
    assert (
        soon == f"the certificate in {good.cert_file} expires at {server.facts.not_after:%Y-%m-%d %H:%M} UTC; renew it"
    )
    expired = tls.ServerTls(tls.ServerSettings(*CA.server("l", expired=True).write(tmp_path, "e")))
    assert [f"expired at {expired.facts.not_after:%Y-%m-%d %H:%M} UTC" in said for said in expired.doubts(now)] == [
        True
    ]
    early = tls.ServerTls(tls.ServerSettings(*CA.server("l", not_yet_valid=True).write(tmp_path, "n")))
    assert any("is not valid before" in said for said in early.doubts(now))
    os.chmod(good.key_file, 0o644)  # noqa: PTH101 - as a shell would
    assert server.doubts(now) == [f"the key in {good.key_file} can be read by every user of this machine; chmod 600 it"]
    good.key_file.unlink()
    assert server.doubts(now) == []


def test_doubts_of_a_cluster(pair: Files) -> None:
    """A cluster's own certificate is looked at as a listener's is."""
    now = dt.datetime.now(dt.UTC)
    assert tls.ClientTls(tls.ClientSettings()).doubts(now) == []
    assert tls.ClientTls(tls.ClientSettings(None, *pair)).doubts(now) == []
    pair.key_file.chmod(0o644)
    (said,) = tls.ClientTls(tls.ClientSettings(None, *pair)).doubts(now)
    assert said.startswith(f"the key in {pair.key_file} can be read")
