"""The files that TLS is made of: certificates, keys, authorities; what is wrong with one, and whether it has changed.

Each usual mistake has its own line, a ConfigError: a file that is not there, one that is no PEM, the key of another
certificate, a key without its password. OpenSSL's own word for most of these is "PEM lib"::

    load_chain(context, "c.pem", "other.key", None)
    -> ConfigError: the key in other.key is not the one of the certificate in c.pem

No password is in any error.
"""

import datetime as dt
import os
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cryptography import x509

from kproxy.errors import ConfigError

File = str | Path

EXPIRES_SOON = dt.timedelta(days=14)
"""Authorities that renew by themselves do so 30 days ahead (certbot) or at a third of 90 days (cert-manager)."""

FILE_BYTES_MAX = 1024 * 1024
"""The authorities of a whole operating system have some 250 KiB."""

_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_TRUSTED = b"-----BEGIN TRUSTED CERTIFICATE-----"
_KEY = b"PRIVATE KEY-----"
_TOO_WEAK = frozenset({"EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"})
# The last is said of a key of another kind, RSA's for a certificate of P-256.
_NOT_THIS_KEY = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"})
_READABLE_BY_OTHERS = 0o004


class Facts(NamedTuple):
    """What a log line or a metric tells of a certificate."""

    subject: str
    names: tuple[str, ...]
    """The host names and addresses that it is good for."""
    not_before: dt.datetime
    not_after: dt.datetime


def load_chain(context: ssl.SSLContext, cert_file: File, key_file: File, key_password: str | None) -> Facts:
    """Give a context its own certificate, chain and key; return the certificate's facts.

    Raises:
        ConfigError: what is wrong with which file.
    """
    cert, key = _read(cert_file, "certificate file"), _read(key_file, "key file")
    if _CERTIFICATE not in cert:
        hint = _instead(cert, _KEY, "a key")
        raise ConfigError(f"the certificate file {cert_file} holds no certificate in PEM; {hint}", cert_file)
    if _KEY not in key:
        hint = _instead(key, _CERTIFICATE, "a certificate")
        raise ConfigError(f"the key file {key_file} holds no private key in PEM; {hint}", key_file)
    encrypted = b"ENCRYPTED" in key
    if encrypted and key_password is None:
        raise ConfigError(f"the key in {key_file} is encrypted; give key_password", key_file)
    facts = _facts(cert, cert_file)
    try:
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(cert_file, key_file, key_password or "")
    except OSError as error:  # of OpenSSL's, or a file that is gone again
        raise ConfigError(_why_no_chain(_reason(error), cert_file, key_file, encrypted=encrypted)) from None
    except ValueError:  # of a password above 1,023 bytes; its text may stay unseen
        raise ConfigError(f"the key_password of {key_file} is longer than OpenSSL allows") from None
    return facts


def load_authorities(context: ssl.SSLContext, path: File, what: str) -> None:
    """Have a context trust the certificates in a file; ``what`` names it in the ConfigError of one that is no good."""
    raw = _read(path, what)
    if _CERTIFICATE not in raw and _TRUSTED not in raw:
        raise ConfigError(f"the {what} {path} holds no certificate in PEM; {_instead(raw, _KEY, 'a key')}", path)
    try:
        context.load_verify_locations(path)
    except OSError as error:
        raise ConfigError(f"the {what} {path} is damaged: {_plain(_reason(error))}", path) from None


def _read(path: File, what: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"the {what} {path} cannot be read: {reason}", path) from None
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigError(f"the {what} {path} is above {FILE_BYTES_MAX} bytes; this is no PEM file", path)
    return raw


def _instead(raw: bytes, mark: bytes, name: str) -> str:
    if mark in raw:
        return f"it holds {name}: are two files mixed up?"
    return "convert it with openssl" if raw else "it is empty"


def _why_no_chain(reason: str, cert_file: File, key_file: File, *, encrypted: bool) -> str:
    if reason in _NOT_THIS_KEY:
        return f"the key in {key_file} is not the one of the certificate in {cert_file}"
    if reason in _TOO_WEAK:
        return f"the certificate in {cert_file} is too weak for OpenSSL: {_plain(reason)}"
    if encrypted:
        return f"the key in {key_file} cannot be decrypted; key_password is probably wrong"
    return f"the chain in {cert_file} or the key in {key_file} is damaged: {_plain(reason)}"


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or "unreadable"


def _plain(reason: str) -> str:
    return reason.replace("_", " ").lower()


def _facts(pem: bytes, path: File) -> Facts:
    names: list[str] = []
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))]
    except x509.ExtensionNotFound:
        pass  # then it is good for no name that a client of today looks at
    except ValueError:
        raise ConfigError(f"the certificate in {path} is damaged; write it anew") from None
    not_before, not_after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return Facts(certificate.subject.rfc4514_string(), tuple(names), not_before, not_after)


class Watched:
    """Files that a context was made of, and whether they are the same still."""

    def __init__(self, *paths: File | None) -> None:
        """Watch files; None is none."""
        self._paths = [path for path in paths if path is not None]
        self._seen = self._look()

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(path) for path in self._paths]

    def changed(self) -> bool:
        """Whether a file is another one than when ``take`` was last called; costs a stat for each."""
        return self._look() != self._seen

    def take(self) -> bool:
        """Tell the same, and hold later looks against what is there now."""
        before, self._seen = self._seen, self._look()
        return before != self._seen


def _stamp(path: File) -> tuple[int, int, int] | None:
    """Tell one state of a file from another; through links, as Kubernetes renews a secret by moving one."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path would be made for it at every look
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def doubts(facts: Facts | None, cert_file: File | None, key_file: File | None, now: dt.datetime) -> list[str]:
    """Return what works and should be known: a certificate that is not valid now or not for long, an open key."""
    return [*_doubts_of_time(facts, cert_file, now), *_doubts_of_mode(key_file)]


def _doubts_of_time(facts: Facts | None, cert_file: File | None, now: dt.datetime) -> Iterable[str]:
    if facts is None:
        return
    begins, ends = (f"{at:%Y-%m-%d %H:%M} UTC" for at in (facts.not_before, facts.not_after))
    if facts.not_after <= now:
        yield f"the certificate in {cert_file} expired at {ends}; renew it"
    elif facts.not_after - now < EXPIRES_SOON:
        yield f"the certificate in {cert_file} expires at {ends}; renew it"
    if facts.not_before > now:
        yield f"the certificate in {cert_file} is not valid before {begins}; is the clock right?"


def _doubts_of_mode(key_file: File | None) -> Iterable[str]:
    if key_file is None:
        return
    try:
        mode = Path(key_file).stat().st_mode
    except OSError:
        return  # it is gone since it was loaded, which a reload tells
    if mode & _READABLE_BY_OTHERS:
        yield f"the key in {key_file} can be read by every user of this machine; chmod 600 it"
