"""Failures of handshakes in words, where no real one was to be had; the others are in test_tls."""

import ssl

import pytest

from kproxy.net.tls import UnrecognizedName, explain


def unverified(code: int, message: str) -> ssl.SSLCertVerificationError:
    """Make what a verification raises."""
    error = ssl.SSLCertVerificationError(1, f"[SSL: CERTIFICATE_VERIFY_FAILED] {message}")
    error.verify_code, error.verify_message = code, message
    return error


def failed(reason: str) -> ssl.SSLError:
    """Make what OpenSSL raises."""
    error = ssl.SSLError(1, f"[SSL: {reason}] (_ssl.c:1006)")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (unverified(18, "self-signed certificate"), "the broker's certificate is self-signed and is not in ca_file"),
        (unverified(19, "self-signed certificate in chain"), "signed by an authority that is not in ca_file"),
        (unverified(64, "IP address mismatch"), "the broker's certificate is for another name: IP address mismatch"),
        (unverified(23, "certificate revoked"), "the broker's certificate is not good: certificate revoked"),
        (failed("SSLV3_ALERT_SOMETHING_NEW"), "the broker ended the TLS handshake: something new"),
        (failed("SOME_NEW_REASON"), "the TLS handshake failed: some new reason"),
        (ssl.SSLError(1, "odd\nlines " * 100), "the TLS handshake failed: odd lines odd"),
        (ssl.SSLZeroReturnError(), "the TLS handshake failed: ()"),
        (OSError(113, "No route to host"), "the TLS handshake failed: [Errno 113] No route to host"),
        (TimeoutError(), "the broker did not finish the TLS handshake in time"),
        (UnrecognizedName("x" * 1000), "the broker asked for the server name 'xxx"),
    ],
)
def test_words(error: Exception, words: str) -> None:
    """Whatever fails has words, on one short line."""
    said = explain(error, "broker")
    assert words in said
    assert "\n" not in said
    assert len(said) < 400
