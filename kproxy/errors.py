"""The errors of kproxy, one tree, usable from every room.

::

    KproxyError
    ├── ConfigError            a mistake in the configuration or on the command line (exit code 2)
    ├── ProtocolError          bytes that break the Kafka protocol; ends that one connection, with a cause
    │   ├── Malformed          a field that cannot be what the protocol says
    │   │   └── Short          the bytes end before the field does (a prefix walk asks for more instead)
    │   ├── FrameTooLarge      a frame above the configured maximum
    │   └── Unsupported        an API or version that was not offered
    ├── UpstreamError          a broker cannot be reached, or does not answer in time
    │   └── Hangup             it ended the conversation
    └── AuthError              a broker refused our credentials, or the mechanism

``receive`` methods of ``core`` raise only ProtocolError; anything else that comes out of them is a bug.
The texts never hold a secret: they may be logged as they are.
"""

from pathlib import PurePath


class KproxyError(Exception):
    """Base of all errors that kproxy raises on purpose."""


class ConfigError(KproxyError):
    """A mistake in the configuration or on the command line; its text is one line per mistake.

    Args:
        text: What is wrong, and what to do.
        file: The one that the mistake is in, if it is a file that a configuration names.
    """

    def __init__(self, text: str, file: str | PurePath | None = None) -> None:
        super().__init__(text)
        self.file = file


class ProtocolError(KproxyError):
    """Bytes that break the Kafka protocol. The connection they came from is closed, no other is touched."""


class Malformed(ProtocolError):
    """A field, length or size that cannot be what the protocol says."""


class Short(Malformed):
    """The bytes end before the field does.

    Over a whole body this is an error like any other; over a prefix it means: come again with more bytes.
    """


class FrameTooLarge(ProtocolError):
    """A frame's size is above the configured maximum (Kafka: socket.request.max.bytes)."""


class Unsupported(ProtocolError):
    """An API key or version that was not offered; a broker closes the connection too (SocketServer.scala)."""


class UpstreamError(KproxyError):
    """A broker cannot be reached, or does not answer in time."""


class Hangup(UpstreamError):
    """A broker closed a connection on which it was asked something."""


class TlsError(UpstreamError):
    """A broker and kproxy cannot agree on TLS, or one does not trust the other."""


class AuthError(KproxyError):
    """A broker refused our credentials or our SASL mechanism."""
