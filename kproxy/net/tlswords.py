"""Why a TLS handshake failed, in words that an operator understands, on one line.

What is said here of an error was seen with OpenSSL 3 under uvloop and asyncio, on either side (tests/unit/net): neither
loop tells more than OpenSSL's reason, and a handshake that takes too long is a ConnectionAbortedError to both::

    >>> explain(ssl.SSLError(1, "..."))     # with reason WRONG_VERSION_NUMBER
    'the client does not speak TLS here; a Kafka client with security.protocol PLAINTEXT or SASL_PLAINTEXT, perhaps'
"""

import re
import ssl

NAME_CHARS_MAX = 253
"""The longest host name (RFC 1035); more of one is not shown."""


class UnrecognizedName(ssl.SSLError):
    """A client asked for a name that is not served, or for none where one is needed. It was told so (RFC 6066, 3)."""

    def __init__(self, asked: str | None, *, unreadable: bool = False) -> None:
        """Remember the name, in small letters; None: the client gave none, or, ``unreadable``, one that is no ASCII."""
        said = repr(asked[:NAME_CHARS_MAX]) if asked else "that is no ASCII" if unreadable else "none"
        super().__init__(ssl.SSL_ERROR_SSL, f"unrecognized server name: {said}")
        self.asked = asked
        self.unreadable = unreadable


class ResumedTooLate(ssl.SSLError):
    """A client took up a session that began with a certificate which has expired since."""

    def __init__(self) -> None:
        """There is nothing more to it."""
        super().__init__(ssl.SSL_ERROR_SSL, "certificate has expired since the session began")


_REASONS: dict[str, str] = {
    "HTTP_REQUEST": "the {peer} sent an HTTP request to a port for Kafka over TLS",
    "HTTPS_PROXY_REQUEST": "the {peer} sent an HTTP request to a port for Kafka over TLS",
    "WRONG_VERSION_NUMBER": "the {peer} does not speak TLS here; {plain}",
    "UNKNOWN_PROTOCOL": "the {peer} does not speak TLS here; {plain}",
    "UNEXPECTED_MESSAGE": "the {peer} does not speak TLS as it should",
    "PACKET_LENGTH_TOO_LONG": "the {peer} does not speak TLS here; {plain}",
    "RECORD_LAYER_FAILURE": "the {peer} does not speak TLS here; {plain}",
    "BAD_RECORD_TYPE": "the {peer} does not speak TLS here; {plain}",
    "UNSUPPORTED_PROTOCOL": "the {peer} offers no TLS version that is allowed here: 1.2 or above, or above min_version",
    "VERSION_TOO_LOW": "the {peer} offers no TLS version that is allowed here: 1.2 or above, or above min_version",
    "NO_SHARED_CIPHER": "the {peer} offers no cipher that is allowed here and that goes with the certificate's key",
    "NO_SHARED_GROUP": "the {peer} offers no elliptic curve that is known here",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "the {peer} knows no signature that the certificate's key can make",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the {peer} sent no certificate, and one is required",
    "UNEXPECTED_EOF_WHILE_READING": "the {peer} closed the connection during the TLS handshake; {closed}",
}
_ALERTS: dict[str, str] = {
    "UNKNOWN_CA": "it does not know the authority that signed our certificate",
    "BAD_CERTIFICATE": "it does not take our certificate: its name does not match, or it is damaged",
    "CERTIFICATE_UNKNOWN": "it does not take our certificate, for its name, its authority or something else",
    "CERTIFICATE_EXPIRED": "our certificate has expired, it says",
    "CERTIFICATE_REVOKED": "our certificate is revoked, it says",
    "UNSUPPORTED_CERTIFICATE": "our certificate is of a kind it does not take",
    "CERTIFICATE_REQUIRED": "it requires a certificate of ours",
    "ACCESS_DENIED": "our certificate is good, but not let in",
    "HANDSHAKE_FAILURE": "there is no cipher or version that both have, or it requires a certificate of ours",
    "PROTOCOL_VERSION": "there is no TLS version that both have",
    "INSUFFICIENT_SECURITY": "our ciphers are too weak for it",
    "UNRECOGNIZED_NAME": "it does not know the server name that we asked for",
    "DECRYPT_ERROR": "it could not verify our signature",
    "INTERNAL_ERROR": "it failed for reasons of its own",
    "USER_CANCELLED": "its user gave up",
}
_PLAIN_CLIENT = "a Kafka client with security.protocol PLAINTEXT or SASL_PLAINTEXT, perhaps"
_PLAIN_BROKER = "its listener is one without TLS, perhaps"
_CLOSED_CLIENT = "perhaps it does not trust our certificate"
_CLOSED_BROKER = "its listener is one without TLS, or it does not take our certificate, perhaps"
# How OpenSSL calls an alert that the other end sent; newer ones go without the word.
_ALERT = re.compile(r"(?:SSLV3_ALERT|TLSV1_ALERT|TLSV13_ALERT|TLSV1)_(.*)")
# X509_V_ERR_ of OpenSSL.
_EXPIRED, _NOT_YET, _SELF_SIGNED, _HOSTNAME, _ADDRESS = 10, 9, 18, 62, 64
_UNKNOWN_AUTHORITY = frozenset({2, 19, 20, 21})


def explain(error: BaseException, peer: str = "client") -> str:
    """Say in words that an operator understands why a handshake failed; never more than one line.

    Args:
        error: what connect_accepted_socket or create_connection raised, or connection_lost was given.
        peer: "client" or "broker": who is at the other end.
    """
    if isinstance(error, UnrecognizedName):
        return _unrecognized(error, peer)
    if isinstance(error, ResumedTooLate):
        return f"the {peer}'s certificate has expired"
    if isinstance(error, ssl.SSLCertVerificationError):
        return _unverified(error, peer)
    words = {
        "peer": peer,
        "plain": _PLAIN_CLIENT if peer == "client" else _PLAIN_BROKER,
        "closed": _CLOSED_CLIENT if peer == "client" else _CLOSED_BROKER,
    }
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "reason", None) or ""  # only what OpenSSL raises has one
        alert = _ALERT.fullmatch(reason)
        if alert:
            return f"the {peer} ended the TLS handshake: {_ALERTS.get(alert[1], _plain(alert[1]))}"
        if reason in _REASONS:
            return _REASONS[reason].format(**words)
        return f"the TLS handshake failed: {_plain(reason) or _one_line(error)}"
    # uvloop and asyncio end a handshake that takes too long with ConnectionAbortedError.
    if isinstance(error, TimeoutError | ConnectionAbortedError):
        return f"the {peer} did not finish the TLS handshake in time"
    if isinstance(error, ConnectionError):
        return _REASONS["UNEXPECTED_EOF_WHILE_READING"].format(**words)
    return f"the TLS handshake failed: {_one_line(error)}"


def _unrecognized(error: UnrecognizedName, peer: str) -> str:
    if error.asked:
        return f"the {peer} asked for the server name {error.asked[:NAME_CHARS_MAX]!r}, which is not served here"
    if error.unreadable:
        return f"the {peer} asked for a server name that is no ASCII"
    return f"the {peer} gave no server name (SNI), without which its broker is not known"


def _unverified(error: ssl.SSLCertVerificationError, peer: str) -> str:
    code = getattr(error, "verify_code", 0)
    setting = "client_ca_file" if peer == "client" else "ca_file"
    if code == _EXPIRED:
        return f"the {peer}'s certificate has expired"
    if code == _NOT_YET:
        return f"the {peer}'s certificate is not valid yet; are both clocks right?"
    if code == _SELF_SIGNED:
        return f"the {peer}'s certificate is self-signed and is not in {setting}"
    if code in _UNKNOWN_AUTHORITY:
        return f"the {peer}'s certificate is signed by an authority that is not in {setting}"
    if code in {_HOSTNAME, _ADDRESS}:
        return f"the {peer}'s certificate is for another name: {_one_line(getattr(error, 'verify_message', ''))}"
    return f"the {peer}'s certificate is not good: {_one_line(getattr(error, 'verify_message', '') or error)}"


def _plain(reason: str) -> str:
    return reason.replace("_", " ").lower()


def _one_line(error: object) -> str:
    text = " ".join(str(error).split())
    return text[:300] or type(error).__name__
