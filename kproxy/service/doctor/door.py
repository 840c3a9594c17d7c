"""Who is behind a port: what TLS says when it fails, and what a listener speaks that does not answer as Kafka does.

"The api key NNNN is invalid" is what others say to a client that speaks TLS to a plain port, or the reverse (TLS bytes
read as a request). Here they are told apart by trying: a Kafka request in the plain, then a TLS handshake, then a line
of HTTP, then what a load balancer would send, each on a connection of its own::

    await who_is_there("kafka.example.com", 9092, 5)     # Speaks.TLS
"""

import asyncio
import ssl
from contextlib import suppress
from enum import Enum
from pathlib import Path

from kproxy.errors import ConfigError
from kproxy.service.doctor.header import LOCAL
from kproxy.wire import frames
from kproxy.wire.apis import ApiKey
from kproxy.wire.primitives import INT32

_CORRELATION_ID = 0x6B70  # "kp": no size of ours or of HTTP
_FIRST_BYTES = 8
_EXPIRED, _NOT_YET_VALID = 10, 9  # X509_V_ERR_*
_NAMES = {62, 64}  # host name, IP address


class Speaks(Enum):
    """What the other side speaks; the value says it to a user."""

    KAFKA = "speaks Kafka without TLS"
    TLS = "speaks TLS"
    HTTP = "is an HTTP server"
    PROXY = "expects a PROXY header, as a load balancer sends it"
    OTHER = "answers, but not as Kafka does"
    CLOSES = "takes connections and closes them"
    NOTHING = "takes connections and says nothing"


def client_context(
    ca_file: Path | None, cert_file: Path | None, key_file: Path | None, *, insecure: bool
) -> ssl.SSLContext:
    """Return what a client's TLS needs; ``insecure``: any certificate will do. Raises ConfigError for a bad file."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ConfigError(f"--ca-file: {ca_file} cannot be used: {_short(error)}; give certificates as PEM") from None
    if cert_file is not None:
        try:
            # An empty password: rather an error than a question on the terminal.
            context.load_cert_chain(cert_file, key_file, password="")
        except OSError as error:
            text = f"{cert_file} with {key_file or 'the key in it'} cannot be used: {_short(error)}"
            raise ConfigError(f"--cert-file: {text}; give a certificate and its unencrypted key as PEM") from None
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _short(error: OSError) -> str:
    return (error.reason or "not PEM") if isinstance(error, ssl.SSLError) else error.strerror or type(error).__name__


def explain(error: ssl.SSLError) -> tuple[str, str] | None:
    """Say what a failed handshake means and what to do; None: no mistake in TLS itself, so look who is there."""
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"its certificate is not accepted: {error.verify_message}"
        if error.verify_code in {_EXPIRED, _NOT_YET_VALID}:
            return text, "renew it; or is the clock of this machine wrong?"
        if error.verify_code in _NAMES:
            return text, "use a name that it holds, or give --server-name; clients check it, too"
        return text, "give --ca-file with the issuer's certificate; clients: ssl.truststore.location or ssl.ca.location"
    if "ALERT" in (error.reason or ""):  # the other side's word
        text = f"it refused us: {(error.reason or '').lower().replace('_', ' ')}"
        return (
            text,
            "does it want a client certificate? give --cert-file and --key-file; clients: ssl.keystore.location",
        )
    return None


async def who_is_there(host: str, port: int, timeout_seconds: float, header: bytes = b"") -> Speaks:
    """Find out what a listener speaks that was spoken to in vain. Takes up to five connections.

    ``header``: what each of them begins with, a PROXY header that is known to be expected.
    """
    hello, tls = frames.request(ApiKey.API_VERSIONS, 0, _CORRELATION_ID, "kproxy", b""), _client_hello()

    async def ask(greeting: bytes) -> Speaks:
        return _judge(await _say(host, port, greeting, timeout_seconds))

    plain = await ask(header + hello)
    if plain not in {Speaks.CLOSES, Speaks.NOTHING}:
        return plain
    if await ask(header + tls) is Speaks.TLS:
        return Speaks.TLS
    # HTTP: a server that waits for a whole line has not had one yet.
    as_http, *proxied = await asyncio.gather(ask(b"GET / HTTP/1.0\r\n\r\n"), ask(LOCAL + hello), ask(LOCAL + tls))
    if as_http is Speaks.HTTP:
        return Speaks.HTTP
    return Speaks.PROXY if proxied[0] is Speaks.KAFKA or proxied[1] is Speaks.TLS else plain


def _judge(first: bytes | None) -> Speaks:
    """Judge the first bytes of an answer; None: there were none in time, empty: the connection was closed."""
    if not first:
        return Speaks.NOTHING if first is None else Speaks.CLOSES
    if first[:2] in {b"\x15\x03", b"\x16\x03"}:  # a TLS record: alert, handshake
        return Speaks.TLS
    if first[:5] == b"HTTP/":
        return Speaks.HTTP
    return Speaks.KAFKA if first[4:8] == INT32.pack(_CORRELATION_ID) else Speaks.OTHER


async def _say(host: str, port: int, data: bytes, timeout_seconds: float) -> bytes | None:
    """Return the first bytes of the answer; b"": closed; None: nothing came in time."""
    writer = None
    try:
        async with asyncio.timeout(timeout_seconds):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(data)
            return await _first(reader)
    except TimeoutError:
        return None
    except OSError:
        return b""
    finally:
        if writer is not None:
            writer.transport.abort()
            with suppress(OSError):  # why the connection ended, which asyncio would else write to standard error
                await writer.wait_closed()


async def _first(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readexactly(_FIRST_BYTES)
    except asyncio.IncompleteReadError as error:
        return error.partial


def _client_hello() -> bytes:
    """Return what a TLS client says first. The answer alone tells TLS: a whole handshake may fail for other reasons."""
    context = ssl.create_default_context()
    context.check_hostname = False
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()
