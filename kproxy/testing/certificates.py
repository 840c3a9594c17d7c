"""Certificates for tests and examples: a certificate authority in memory, quick, and good for nothing else.

Keys are of P-256, which takes a tenth of a millisecond where RSA-2048 takes fifty. What a test wants to be wrong is
wrong by a word: ``expired``, ``not_yet_valid``, or a second Authority of whom nobody has heard::

    ca = Authority("test CA")
    server = ca.server("localhost", "127.0.0.1").write(folder, "server")     # server.cert_file, server.key_file
    alice = ca.client("CN=alice,OU=team,O=org,C=DE").write(folder, "alice")
    ca_file = ca.write(folder, "ca")
"""

import datetime as dt
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

DAY = dt.timedelta(days=1)
_NONE_OF_USAGE = dict.fromkeys(
    (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ),
    False,
)


class Files(NamedTuple):
    """Where a certificate, with its chain, and its key were written."""

    cert_file: Path
    key_file: Path


def new_key(*, rsa_bits: int | None = None) -> Key:
    """Make a key of P-256, or of RSA where a size is given."""
    if rsa_bits is None:
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(public_exponent=65537, key_size=rsa_bits)


def key_pem(key: Key, password: str | None = None) -> bytes:
    """Write a key as PKCS #8, encrypted where a password is given."""
    encryption: KeySerializationEncryption = NoEncryption()
    if password is not None:
        encryption = BestAvailableEncryption(password.encode())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate of a server or a client, with its key and whatever is between it and its Authority."""

    certificate: x509.Certificate
    key: Key
    chain: tuple[x509.Certificate, ...] = ()

    def cert_pem(self) -> bytes:
        """Return the certificate, then its chain."""
        return b"".join(one.public_bytes(Encoding.PEM) for one in (self.certificate, *self.chain))

    def write(self, folder: Path, name: str, password: str | None = None) -> Files:
        """Write ``name.pem`` and ``name.key``, whole or not at all, readable by nobody else."""
        files = Files(folder / f"{name}.pem", folder / f"{name}.key")
        _write(files.cert_file, self.cert_pem())
        _write(files.key_file, key_pem(self.key, password))
        return files


class Authority:
    """A certificate authority; ``server``, ``client`` and ``intermediate`` are signed by it."""

    def __init__(self, name: str = "test CA", *, parent: "Authority | None" = None) -> None:
        """Make a root, or, with a parent, an authority that is signed by it."""
        self._key = new_key()
        self._parent = parent
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(**_NONE_OF_USAGE | {"key_cert_sign": True, "crl_sign": True})
        builder = _builder(self._name, self._key, -DAY, DAY * 3650)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.certificate = (parent or self).sign(builder.add_extension(usage, critical=True))

    def intermediate(self, name: str = "test intermediate") -> "Authority":
        """Return an authority between this one and its leaves."""
        return Authority(name, parent=self)

    @property
    def pem(self) -> bytes:
        """The authority's certificate, for a file of trusted ones."""
        return self.certificate.public_bytes(Encoding.PEM)

    def write(self, folder: Path, name: str = "ca") -> Path:
        """Write ``name.pem``, the authority's certificate alone."""
        path = folder / f"{name}.pem"
        _write(path, self.pem)
        return path

    def server(
        self, *names: str, expired: bool = False, not_yet_valid: bool = False, rsa_bits: int | None = None
    ) -> Leaf:
        """Make a server's certificate for host names and IP addresses; the first name is its common name, too."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])] if names else [])
        key = new_key(rsa_bits=rsa_bits)
        sans = [_host(name) for name in names]
        times = _times(expired=expired, not_yet_valid=not_yet_valid)
        return self._leaf(_builder(subject, key, *times), key, sans, ExtendedKeyUsageOID.SERVER_AUTH)

    def client(
        self,
        subject: str | x509.Name = "CN=client",
        *,
        dns: tuple[str, ...] = (),
        emails: tuple[str, ...] = (),
        uris: tuple[str, ...] = (),
        expired: bool = False,
        not_yet_valid: bool = False,
        rsa_bits: int | None = None,
    ) -> Leaf:
        """Make a client's certificate; a subject in text is RFC 4514's, the most specific part first."""
        name = x509.Name.from_rfc4514_string(subject) if isinstance(subject, str) else subject
        sans = [
            *(x509.DNSName(one) for one in dns),
            *(x509.RFC822Name(one) for one in emails),
            *(x509.UniformResourceIdentifier(one) for one in uris),
        ]
        key = new_key(rsa_bits=rsa_bits)
        times = _times(expired=expired, not_yet_valid=not_yet_valid)
        return self._leaf(_builder(name, key, *times), key, sans, ExtendedKeyUsageOID.CLIENT_AUTH)

    def _leaf(
        self, builder: x509.CertificateBuilder, key: Key, sans: list[x509.GeneralName], purpose: x509.ObjectIdentifier
    ) -> Leaf:
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if sans:
            builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
        chain = () if self._parent is None else (self.certificate,)
        return Leaf(self.sign(builder), key, chain)

    def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        """Sign what a test has made by itself."""
        return builder.issuer_name(self._name).sign(self._key, hashes.SHA256())

    def trusting(self) -> ssl.SSLContext:
        """Return a client's context that trusts this authority and nobody else."""
        return ssl.create_default_context(cadata=self.pem.decode())


def _times(*, expired: bool, not_yet_valid: bool) -> tuple[dt.timedelta, dt.timedelta]:
    if not_yet_valid:
        return DAY, DAY * 2
    return (-DAY * 2, -DAY) if expired else (-DAY, DAY * 365)


def _builder(subject: x509.Name, key: Key, begins: dt.timedelta, ends: dt.timedelta) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
    )


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(path: Path, content: bytes) -> None:
    """Replace a file in one step, as certificates should be renewed: nobody ever reads half of one."""
    new = path.with_name(path.name + ".new")
    new.touch(mode=0o600)
    new.write_bytes(content)
    new.replace(path)
