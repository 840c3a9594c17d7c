"""kproxy: a Kafka gateway that speaks the wire protocol.

The rooms, imports running one way only (import-linter holds it)::

    cli -> service -> (net | observe | config) -> core -> wire -> errors

Whoever wants to change a rule opens ``core``; the bytes, ``wire``; the sockets, ``net``.
"""

__version__ = "0.1.0"
