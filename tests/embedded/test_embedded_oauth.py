"""Real clients log in by OAUTHBEARER at kproxy's server side, and see what they should when they may not."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kproxy.core.acceptor import Accepted, Challenge, Refused, ServerSession
from kproxy.core.oauthbearer import OauthServer
from kproxy.net.jwks import Jwks, KeysOfFile
from kproxy.net.oauth import JwtValidator
from kproxy.testing.oidc import TokenIssuer
from kproxy.testing.waiting import wait_until
from kproxy.wire import apiversions, frames, handshake
from kproxy.wire.apis import ApiKey
from kproxy.wire.apiversions import ApiVersionsAnswer
from kproxy.wire.handshake import SASL_AUTHENTICATION_FAILED, SaslAuthenticateAnswer
from kproxy.wire.primitives import INT32

WAIT_SECONDS = 30
OFFER = ApiVersionsAnswer(0, {0: (0, 8), 1: (0, 11), 3: (0, 8), 17: (0, 1), 18: (0, 3), 36: (0, 2)})


class Door:
    """A server that logs clients in, notes what they ask for then, and hangs up on that."""

    def __init__(self, mechanism: OauthServer) -> None:
        self._mechanism = mechanism
        self.let_in: list[str] = []
        """Principals of clients that asked for something once they were in."""
        self.strayed = 0
        """How many asked for something before."""
        self.refusals: list[str] = []
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Open a port."""
        self._thread.start()
        assert self._started.wait(WAIT_SECONDS)

    def stop(self) -> None:
        """Close it."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(WAIT_SECONDS)
        self._loop.close()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._over = asyncio.Event()
        server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._over.wait()
        server.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = self._mechanism.session()
        principal: str | None = None
        try:
            while True:
                (size,) = INT32.unpack(await reader.readexactly(4))
                frame = await reader.readexactly(size)
                key, version, correlation_id, _ = frames.REQUEST_HEAD.unpack_from(frame)
                body = frame[frames.request_body_at(frame, 0, size) :]
                if key == ApiKey.API_VERSIONS:
                    answer = apiversions.response(min(version, 3), OFFER)
                elif key == ApiKey.SASL_HANDSHAKE:
                    answer = handshake.sasl_handshake_response(0, ["OAUTHBEARER"])
                elif key == ApiKey.SASL_AUTHENTICATE and principal is None:
                    told, principal = self._step(session, handshake.parse_sasl_authenticate_request(version, body))
                    answer = handshake.sasl_authenticate_response(version, told)
                else:
                    self.strayed += principal is None
                    self.let_in += [] if principal is None else [principal]
                    return
                writer.write(frames.response(correlation_id, key, version, answer))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    def _step(self, session: ServerSession, token: bytes) -> tuple[SaslAuthenticateAnswer, str | None]:
        step = session.respond(token)
        if isinstance(step, Accepted):
            return SaslAuthenticateAnswer(0, None, step.token, 0), step.identity.principal
        if isinstance(step, Challenge):
            return SaslAuthenticateAnswer(0, None, step.token, 0), None
        assert isinstance(step, Refused)
        self.refusals.append(step.reason)
        return SaslAuthenticateAnswer(SASL_AUTHENTICATION_FAILED, "Authentication failed", b"", 0), None


@pytest.fixture(scope="module")
def issuer() -> Iterator[TokenIssuer]:
    """An issuer of tokens."""
    with TokenIssuer() as running:
        yield running


@pytest.fixture
def doors(issuer: TokenIssuer, tmp_path: Path) -> Iterator[Callable[..., Door]]:
    """Open doors for that issuer's tokens."""
    jwks = Jwks(KeysOfFile(issuer.write_jwks(tmp_path / "keys.json")), gap_seconds=1e9)
    jwks.load()
    jwks.renew()
    opened: list[Door] = []

    def opening(**options: Any) -> Door:
        opened.append(Door(OauthServer(JwtValidator(jwks, issuer.url, "kafka"), **options)))
        opened[-1].start()
        return opened[-1]

    yield opening
    for door in opened:
        door.stop()


def confluent(port: int, token: str, door: Door) -> str:
    """Try to get in by librdkafka; return the error that says it may not, or nothing once it is in."""
    from confluent_kafka import Producer

    said: list[str] = []
    producer = Producer(
        {
            "bootstrap.servers": f"127.0.0.1:{port}",
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "OAUTHBEARER",
            "oauth_cb": lambda _config: (token, 2e10, "alice", {"traceId": "7"}),
            "error_cb": lambda error: said.append(f"{error.name()}: {error.str()}"),
            "log_level": 0,
        }
    )

    def refused() -> list[str]:
        producer.poll(0.05)
        return [line for line in said if line.startswith("_AUTHENTICATION: ")]

    wait_until(lambda: door.let_in or refused(), WAIT_SECONDS, lambda: f"librdkafka, which said {said}")
    return "".join(refused()[:1])


def kafka_python(port: int, token: str, _door: Door) -> str:
    """Try it by kafka-python; return its error, whichever it is."""
    from clients.kafkapython import error_of
    from kafka import KafkaAdminClient
    from kafka.net.sasl.oauth import AbstractTokenProvider

    class Provider(AbstractTokenProvider):  # type: ignore[misc]  # no types
        def token(self) -> str:
            return token

    error = error_of(
        KafkaAdminClient,
        bootstrap_servers=f"127.0.0.1:{port}",
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="OAUTHBEARER",
        sasl_oauth_token_provider=Provider(),
        bootstrap_timeout_ms=2000,
    )
    assert error
    return error


def aio(port: int, token: str, _door: Door) -> str:
    """Try it by aiokafka; return its error, whichever it is."""
    from aiokafka import AIOKafkaProducer
    from aiokafka.abc import AbstractTokenProvider
    from aiokafka.errors import KafkaError

    class Provider(AbstractTokenProvider):  # type: ignore[misc]  # no types
        async def token(self) -> str:
            return token

    async def attempt() -> str:
        producer = AIOKafkaProducer(
            bootstrap_servers=f"127.0.0.1:{port}",
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="OAUTHBEARER",
            sasl_oauth_token_provider=Provider(),
        )
        try:
            await producer.start()
        except KafkaError as error:
            return repr(error)
        finally:
            await producer.stop()
        return "started"

    return asyncio.run(attempt())


CLIENTS = {"confluent": confluent, "kafka-python": kafka_python, "aiokafka": aio}
each_client = pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
Attempt = Callable[[int, str, Door], str]


@each_client
def test_good_tokens(doors: Callable[..., Door], issuer: TokenIssuer, client: Attempt) -> None:
    """A client with a good token is in."""
    door = doors()
    client(door.port, issuer.mint("alice"), door)
    assert set(door.let_in) == {"User:alice"}
    assert (door.strayed, door.refusals) == (0, [])


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "expired": ({"exp": 1_700_000_000}, "the token expired "),
    "another audience": ({"aud": "other"}, "the token is for another audience (aud)"),
}


@each_client
@pytest.mark.parametrize("bad", BAD)
def test_bad_tokens(
    doors: Callable[..., Door], issuer: TokenIssuer, client: Attempt, bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A client with a bad token sees that it may not log in, and not why; the reason is for the log."""
    claims, reason = BAD[bad]
    door = doors()
    said = client(door.port, issuer.mint("alice", **claims), door) + caplog.text  # where two of them tell it
    assert "Authentication failed" in said
    assert door.refusals[0].startswith(reason)
    assert (door.let_in, door.strayed) == ([], 0)


@each_client
def test_errors_that_are_told_first(
    doors: Callable[..., Door], issuer: TokenIssuer, client: Attempt, caplog: pytest.LogCaptureFixture
) -> None:
    """Why kproxy refuses at once: aiokafka takes an error that is told first, as brokers do, for consent."""
    door = doors(tells_errors=True)
    said = client(door.port, issuer.mint("alice", aud="other"), door) + caplog.text
    assert door.let_in == []
    if client is aio:
        assert "Authentication" not in said
        assert door.strayed > 0
    else:
        assert "Authentication failed" in said
        assert door.strayed == 0
