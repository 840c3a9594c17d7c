"""SASL messages, checked against kio and kafka-python."""

from contextlib import suppress
from datetime import timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import KIO, ORACLES, KafkaPython, Kio, Tree, random_text

from kproxy.errors import Malformed, ProtocolError
from kproxy.wire import handshake

HANDSHAKE, AUTHENTICATE = 17, 36
Oracle = Kio | KafkaPython

both = pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: oracle.name)


def lifetime_ms(tree: Tree) -> int:
    """Read a session's lifetime in either oracle's words; v0 names none."""
    lifetime = tree.get("session_lifetime", timedelta())
    return int(tree.get("session_lifetime_ms", lifetime / timedelta(milliseconds=1)))


@both
@pytest.mark.parametrize("version", [0, 1])
def test_handshake_messages_are_those_of_both_oracles(oracle: Oracle, version: int) -> None:
    """What is written is what the oracles write, and what they write is read back the same."""
    rng = Random(version)
    for _ in range(50):
        request = oracle.encode(HANDSHAKE, version, "request", {"mechanism": (mechanism := random_text(rng))})
        assert handshake.sasl_handshake_request(mechanism) == request
        assert handshake.parse_sasl_handshake_request(request) == mechanism

        tree = oracle.message(rng, HANDSHAKE, version, "response")
        body = oracle.encode(HANDSHAKE, version, "response", tree)
        answer = handshake.parse_sasl_handshake_response(body)
        assert answer == handshake.SaslHandshakeAnswer(tree["error_code"], tuple(tree["mechanisms"]))
        assert handshake.sasl_handshake_response(answer.error_code, answer.mechanisms) == body


def test_a_misplaced_handshake_is_refused_as_brokers_do() -> None:
    """ILLEGAL_SASL_STATE and no mechanism."""
    tree = KIO.decode(HANDSHAKE, 1, "response", handshake.sasl_handshake_illegal_state())
    assert (tree["error_code"].name, tree["mechanisms"]) == ("illegal_sasl_state", [])


@both
@pytest.mark.parametrize("version", [0, 1, 2])
def test_a_misplaced_token_is_refused_with_a_reason(oracle: Oracle, version: int) -> None:
    """ILLEGAL_SASL_STATE and a message, readable to clients of every version."""
    body = handshake.sasl_authenticate_illegal_state(version)
    tree = oracle.decode(AUTHENTICATE, version, "response", body)
    assert (tree["error_code"], tree["auth_bytes"]) == (handshake.ILLEGAL_SASL_STATE, b"")
    assert handshake.parse_sasl_authenticate_response(version, body).error_message == tree["error_message"] != ""


@both
@pytest.mark.parametrize("version", [0, 1, 2])
def test_authenticate_messages_are_those_of_both_oracles(oracle: Oracle, version: int) -> None:
    """Tokens of any length are wrapped as the oracles wrap them, and answers too; both are read as they meant them."""
    rng = Random(version)
    for _ in range(50):
        token = rng.randbytes(rng.choice((0, 1, 126, 127, 128, 20_000)))
        request = oracle.encode(AUTHENTICATE, version, "request", {"auth_bytes": token})
        assert handshake.sasl_authenticate_request(version, token) == request
        assert handshake.parse_sasl_authenticate_request(version, request) == token

        tree = oracle.message(rng, AUTHENTICATE, version, "response")
        body = oracle.encode(AUTHENTICATE, version, "response", tree)
        answer = handshake.parse_sasl_authenticate_response(version, body)
        assert answer == handshake.SaslAuthenticateAnswer(
            tree["error_code"], tree["error_message"], tree["auth_bytes"], lifetime_ms(tree)
        )
        assert handshake.sasl_authenticate_response(version, answer) == body


@both
@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("message", [None, "", "no"])
@pytest.mark.parametrize("token", [b"", b"x" * 200])
def test_what_a_client_is_told(oracle: Oracle, version: int, message: str | None, token: bytes) -> None:
    """Both oracles read an answer as it was meant; from v1 on it says how long the login holds."""
    answer = handshake.SaslAuthenticateAnswer(58, message, token, 3_600_000)
    tree = oracle.decode(AUTHENTICATE, version, "response", handshake.sasl_authenticate_response(version, answer))
    assert (tree["error_code"], tree["error_message"], tree["auth_bytes"]) == (58, message, token)
    assert lifetime_ms(tree) == (3_600_000 if version else 0)


def test_tags_that_nobody_knows_are_stepped_over() -> None:
    """A later Kafka may add tagged fields to SaslAuthenticate v2."""
    rng = Random(7)
    for seed in range(30):
        tree = KIO.message(rng, AUTHENTICATE, 2, "response")
        body = KIO.encode(AUTHENTICATE, 2, "response", tree, unknown_tags=Random(seed))
        assert handshake.parse_sasl_authenticate_response(2, body).token == tree["auth_bytes"]
        tree = KIO.message(rng, AUTHENTICATE, 2, "request")
        body = KIO.encode(AUTHENTICATE, 2, "request", tree, unknown_tags=Random(seed))
        assert handshake.parse_sasl_authenticate_request(2, body) == tree["auth_bytes"]


def test_a_token_is_not_shown() -> None:
    """Neither repr nor str of an answer tells the token, which may be a secret."""
    answer = handshake.SaslAuthenticateAnswer(0, None, b"hunter2", 0)
    assert "hunter2" not in f"{answer!r} {answer}"


@pytest.mark.parametrize(
    ("version", "body"), [(0, b"\0\0\xff\xff\xff\xff\xff\xff"), (2, b"\0\0\0\0" + bytes(8) + b"\0")], ids=["v0", "v2"]
)
def test_a_null_token_is_malformed(version: int, body: bytes) -> None:
    """A null is not taken for an empty token."""
    with pytest.raises(Malformed, match="null"):
        handshake.parse_sasl_authenticate_response(version, body)
    with pytest.raises(Malformed, match="null"):
        handshake.parse_sasl_authenticate_request(version, b"\0\0" if version == 2 else b"\xff" * 4)


def test_a_body_cut_or_continued_is_malformed() -> None:
    """No proper prefix of a message parses, nor does one with a byte behind it."""
    rng = Random(3)
    for version in (0, 1, 2):
        body = KIO.encode(AUTHENTICATE, version, "response", KIO.message(rng, AUTHENTICATE, version, "response"))
        for wrong in [body[:cut] for cut in range(len(body))] + [body + b"\0"]:
            with pytest.raises(Malformed):
                handshake.parse_sasl_authenticate_response(version, wrong)
        body = handshake.sasl_authenticate_request(version, b"token")
        for wrong in [body[:cut] for cut in range(len(body))] + [body + b"\0"]:
            with pytest.raises(Malformed):
                handshake.parse_sasl_authenticate_request(version, wrong)
    body = handshake.sasl_handshake_response(0, ["PLAIN", "SCRAM-SHA-256"])
    for wrong in [body[:cut] for cut in range(len(body))] + [body + b"\0"]:
        with pytest.raises(Malformed):
            handshake.parse_sasl_handshake_response(wrong)
    with pytest.raises(Malformed):
        handshake.parse_sasl_handshake_request(b"\0\1ab")


@given(body=st.binary(max_size=80))
def test_garbage_raises_nothing_but_protocol_errors(body: bytes) -> None:
    """Whatever the bytes, a parser returns or raises a ProtocolError."""
    for version in (0, 1, 2):
        with suppress(ProtocolError):
            handshake.parse_sasl_authenticate_response(version, body)
        with suppress(ProtocolError):
            assert len(handshake.parse_sasl_authenticate_request(version, body)) < max(len(body), 1)
    for parse in (handshake.parse_sasl_handshake_request, handshake.parse_sasl_handshake_response):
        with suppress(ProtocolError):
            parse(body)
