"""TLS on both sides: contexts that are renewed while they are in use, and what a connection tells of itself.

``ServerTls`` is a listener's, ``ClientTls`` a cluster's. Each makes a context of files, says when they have changed,
and then makes a new one or keeps the old one; connections keep the context they began with. A file that is no good is a
ConfigError of one line, and ``explain`` says why a handshake failed::

    server = ServerTls(ServerSettings("c.pem", "k.pem", client_auth="required", client_ca_file="ca.pem"))
    with alerting(conn):                                        # so that the client is told, too, why it fails
        transport, _ = await loop.connect_accepted_socket(factory, conn, ssl=server.context)
    ssl_object = transport.get_extra_info("ssl_object")         # in connection_made already
    server.server_name(ssl_object), peer_certificate(ssl_object)

Never here: who may do what. A certificate's principal is ``core.distinguished``'s.
"""

import asyncio
import datetime as dt
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

from kproxy.errors import ConfigError
from kproxy.net.tlsfiles import Facts, File, Watched, doubts, load_authorities, load_chain
from kproxy.net.tlswords import ResumedTooLate, UnrecognizedName, explain

__all__ = [
    "ClientSettings",
    "ClientTls",
    "Facts",
    "ServerSettings",
    "ServerTls",
    "UnrecognizedName",
    "alerting",
    "client_context",
    "explain",
    "ignore_unreadable_names",
    "keep_unread",
    "peer_certificate",
]

ClientAuth = Literal["none", "optional", "required"]
MinVersion = Literal["1.2", "1.3"]

HANDSHAKE_SECONDS = 10.0
"""Kafka's clients give up as early (socket.connection.setup.timeout.ms); asyncio's own default is 60."""

SHUTDOWN_SECONDS = 5.0
"""How long what is queued, and the other's farewell, is waited for when a connection is closed; asyncio waits 30."""

RECORD_BYTES_MAX = 16 * 1024
"""The most that a TLS record carries (RFC 8446, 5.1)."""

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_AUTH = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}

# Forward secrecy and authenticated encryption only, as RFC 9325 (4.2) advises for TLS 1.2; 1.3 has nothing else.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What a listener's TLS is made of; paths as ``open`` takes them."""

    cert_file: File
    """The certificate, then its chain, in PEM."""
    key_file: File
    key_password: str | None = field(default=None, repr=False)
    client_auth: ClientAuth = "none"
    client_ca_file: File | None = None
    """Whose client certificates are good; needed unless ``client_auth`` is none."""
    min_version: MinVersion = "1.2"


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """What a cluster's TLS is made of."""

    ca_file: File | None = None
    """Whose server certificates are good; None: those that the operating system trusts."""
    cert_file: File | None = None
    key_file: File | None = None
    key_password: str | None = field(default=None, repr=False)
    server_name: str | None = None
    """The name to ask for and to find in the certificate; None: the broker's host."""
    verify: bool = True


class _Object(ssl.SSLObject):
    _sslobj: Any  # ssl's own; through super() a read of many small records would cost a fifth more

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002, ANN401 - the names and types are ssl's
        """See ssl.SSLObject; never ask for more than a record, of which OpenSSL gives one at a time.

        uvloop and asyncio ask for 256 KiB each time, and Python makes room for all of it, to cut it off again. Measured
        with an echo of 100 bytes: 40 microseconds of CPU this way, 100 that way; in bulk there is no difference.
        """
        if buffer is None:
            return self._sslobj.read(min(len, RECORD_BYTES_MAX))
        return self._sslobj.read(len, buffer)


# A listener's.

_accepted: ContextVar[socket.socket | None] = ContextVar("accepted", default=None)


@contextmanager
def alerting(sock: socket.socket) -> Iterator[None]:
    """Have a handshake that begins within, on this socket, tell the client why it fails.

    Both uvloop and asyncio drop what OpenSSL has to say last, the alert (RFC 8446, 6.2), and close: a client would see
    nothing but the end of the connection, and take it for a bad network. Put it around ``connect_accepted_socket``.
    """
    token = _accepted.set(sock)
    try:
        yield
    finally:
        _accepted.reset(token)


class _ServerObject(_Object):
    """One connection's TLS, and the name that the client asked for."""

    asked: str | None = None
    refused = False
    sock: socket.socket | None = None
    outgoing: ssl.MemoryBIO | None = None

    def do_handshake(self) -> None:
        """See ssl.SSLObject; a failure is told to the client as well."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self._send_alert()
            if self.refused:
                raise UnrecognizedName(self.asked) from None
            if getattr(error, "reason", None) == "CALLBACK_FAILED":  # Python could not decode the name for the callback
                raise UnrecognizedName(None, unreadable=True) from None
            raise
        self.sock = self.outgoing = None
        if self.session_reused:
            self._check_again()

    def _send_alert(self) -> None:
        alert = self.outgoing.read() if self.outgoing is not None else b""
        if alert and self.sock is not None:
            with suppress(OSError):  # a courtesy to a client that may be gone; why it failed is raised anyway
                self.sock.send(alert)
        self.sock = self.outgoing = None

    def _check_again(self) -> None:
        """See whether a client's certificate, verified when its session began, is still valid.

        Only TLS 1.2 comes here: with client certificates no ticket of 1.3 is given, but Python cannot turn off the
        sessions of 1.2, which are good for two hours.
        """
        certificate = self.getpeercert()
        if certificate and ssl.cert_time_to_seconds(str(certificate["notAfter"])) <= time.time():
            raise ResumedTooLate


class _ServerContext(ssl.SSLContext):
    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """See ssl.SSLContext; what a failure needs is kept until the handshake is over."""
        made = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        ours = cast("_ServerObject", made)
        ours.sock, ours.outgoing = _accepted.get(), outgoing
        return made


class ServerTls:
    """A listener's TLS. Make it, use ``context`` for each connection, and have it look at its files now and then."""

    def __init__(self, settings: ServerSettings, names: Callable[[str | None], bool] | None = None) -> None:
        """Read the files.

        Args:
            settings: what to make it of.
            names: whether a server name is served, in small letters; None stands for a client that gave none. Without
                it every name is. It must not raise.

        Raises:
            ConfigError: what is wrong with a file.
        """
        self.settings = settings
        self._names = names
        self._watched = Watched(settings.cert_file, settings.key_file, settings.client_ca_file)
        self.context, self.facts = self._make()

    def _make(self) -> tuple[ssl.SSLContext, Facts]:
        settings = self.settings
        context = _ServerContext(ssl.PROTOCOL_TLS_SERVER)
        context.sslobject_class = _ServerObject
        context.minimum_version = _VERSIONS[settings.min_version]
        context.set_ciphers(_CIPHERS)
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        facts = load_chain(context, settings.cert_file, settings.key_file, settings.key_password)
        if settings.client_auth == "none":
            context.num_tickets = 1  # a client has one connection per broker, and each gives a ticket for the next
        else:
            if settings.client_ca_file is None:
                raise ConfigError("client_auth needs client_ca_file: whose client certificates are good")
            load_authorities(context, settings.client_ca_file, "client CA file")
            # A session taken up again shows the certificate of its first connection, unverified by now.
            context.num_tickets = 0
        context.verify_mode = _AUTH[settings.client_auth]
        context.sni_callback = self._asked
        return context, facts

    def _asked(self, connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int | None:
        ours = cast("_ServerObject", connection)
        ours.asked = name.lower().removesuffix(".") if name else None
        if self._names is None or self._names(ours.asked):
            return None
        ours.refused = True
        return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME

    def changed(self) -> bool:
        """Whether a file is another one than at the last reload; costs a stat for each."""
        return self._watched.changed()

    def reload(self) -> bool:
        """Make a new context where files have changed; return whether there is one.

        A file that is no good is told once: afterwards ``changed`` is false until something changes again, as when a
        certificate is written first and its key a moment later.

        Raises:
            ConfigError: what is wrong with a file; the old context stays in use.
        """
        if not self._watched.take():
            return False
        self.context, self.facts = self._make()
        return True

    def doubts(self, now: dt.datetime) -> list[str]:
        """Return what works and should be known: a certificate that is not valid now or not for long, an open key."""
        return doubts(self.facts, self.settings.cert_file, self.settings.key_file, now)

    @staticmethod
    def server_name(ssl_object: ssl.SSLObject) -> str | None:
        """Return the name that a client asked for, in small letters; None where it gave none."""
        return cast("_ServerObject", ssl_object).asked

    @staticmethod
    def refused_name(error: BaseException) -> bool:
        """Whether a handshake failed for the name that the client asked for."""
        return isinstance(error, UnrecognizedName)


# A cluster's.


class ClientTls:
    """A cluster's TLS. Dial with ``ssl=context, server_hostname=server_name(host)``."""

    def __init__(self, settings: ClientSettings) -> None:
        """Read the files. Raises ConfigError for what is wrong with one."""
        self.settings = settings
        self._watched = Watched(settings.ca_file, settings.cert_file, settings.key_file)
        self.context, self.facts = self._make()

    def _make(self) -> tuple[ssl.SSLContext, Facts | None]:
        settings = self.settings
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.sslobject_class = _Object
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        if not settings.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif settings.ca_file is None:
            context.load_default_certs()
        if settings.ca_file is not None:
            load_authorities(context, settings.ca_file, "CA file")
        if settings.cert_file is None:
            return context, None
        if settings.key_file is None:
            raise ConfigError("cert_file needs key_file: the certificate's key")
        return context, load_chain(context, settings.cert_file, settings.key_file, settings.key_password)

    def server_name(self, host: str) -> str:
        """Return the name to ask a broker for, which must be in its certificate: ``server_hostname`` of asyncio."""
        return self.settings.server_name or host

    def changed(self) -> bool:
        """Whether a file is another one than at the last reload; costs a stat for each."""
        return self._watched.changed()

    def reload(self) -> bool:
        """Make a new context where files have changed, as ``ServerTls.reload`` does."""
        if not self._watched.take():
            return False
        self.context, self.facts = self._make()
        return True

    def doubts(self, now: dt.datetime) -> list[str]:
        """Return what works and should be known of the files; ``verify`` is the configuration's to warn of."""
        return doubts(self.facts, self.settings.cert_file, self.settings.key_file, now)


def client_context(settings: ClientSettings) -> ssl.SSLContext:
    """Return a context for dialling, of files that are read once."""
    return ClientTls(settings).context


# Connections.


def peer_certificate(ssl_object: ssl.SSLObject) -> dict[str, Any] | None:
    """Return the certificate that the other end has shown and that was verified; None where it has shown none."""
    return ssl_object.getpeercert() or None


class _Limited(Protocol):
    def set_read_buffer_limits(self, high: int, low: int) -> None:
        """See asyncio's sslproto."""


def keep_unread(transport: asyncio.BaseTransport) -> None:
    """Have bytes that are not read yet wait in the kernel; call it in ``connection_made`` of every TLS connection.

    While reads are paused, uvloop decrypts nothing but goes on to read the socket, up to 256 KiB, and where it then
    finds that the other end has closed, without TLS's farewell, it ends the connection and drops all of it: requests
    of a client that sends and closes. With these limits it reads no further than it must.
    """
    if hasattr(transport, "set_read_buffer_limits"):  # a plain connection has none, and needs none
        cast("_Limited", transport).set_read_buffer_limits(1, 0)


def ignore_unreadable_names() -> None:
    """Keep Python from writing a traceback to standard error for each ClientHello with a name that is no ASCII.

    The name is refused all the same. Call it once in a process that serves TLS; all else goes the way it went before.
    """
    before = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        error = unraisable.exc_value
        # What cannot be decoded is what the hook is told about: nobody else reports like this.
        if isinstance(error, UnicodeDecodeError) and error.object == unraisable.object:
            return
        before(unraisable)

    sys.unraisablehook = hook
