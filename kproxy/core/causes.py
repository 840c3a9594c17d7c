"""Why a connection ended. One enum that is the metric label, the log field and the test's expectation at once."""

from enum import StrEnum

from kproxy.errors import FrameTooLarge, ProtocolError, Unsupported


class Cause(StrEnum):
    """Why a client's connection ended; the value is what logs and metrics show."""

    CLIENT_CLOSED = "client closed"
    BROKER_CLOSED = "broker closed"
    BROKER_UNREACHABLE = "broker unreachable"
    BROKER_LOGIN_FAILED = "broker login failed"
    MALFORMED_REQUEST = "malformed request"
    MALFORMED_ANSWER = "malformed answer"
    FRAME_TOO_LARGE = "frame too large"
    UNSUPPORTED_REQUEST = "unsupported request"
    TLS_ON_PLAIN_PORT = "tls on plain port"
    HTTP_ON_KAFKA_PORT = "http on kafka port"
    TLS_FAILED = "tls handshake failed"
    UNKNOWN_SERVER_NAME = "unknown server name"
    PROXY_HEADER = "bad proxy protocol header"
    ADDRESS_DENIED = "address not allowed"
    TOO_MANY_ARRIVALS = "too many connections a second"
    LOGIN_REQUIRED = "login required"
    LOGIN_REFUSED = "login refused"
    LOGIN_TIMEOUT = "login timeout"
    SESSION_EXPIRED = "session expired"
    TOO_MANY_WAITING = "too many waiting to log in"
    OFFER_CHANGED = "api versions changed"
    CONFIGURATION_CHANGED = "configuration changed"
    IDLE = "idle"
    TOO_MANY_CONNECTIONS = "too many connections"
    BUFFERS_FULL = "buffers full"
    LIMITED = "over a limit"
    DENIED = "denied"
    CLOSED_BY_OPERATOR = "closed by operator"
    DRAINED = "drained"
    STOPPED = "stopped"

    @classmethod
    def of_request(cls, error: ProtocolError) -> "Cause":
        """Return the cause for an error that a client's bytes raised."""
        if isinstance(error, FrameTooLarge):
            return cls.FRAME_TOO_LARGE
        if isinstance(error, Unsupported):
            return cls.UNSUPPORTED_REQUEST
        return cls.MALFORMED_REQUEST
