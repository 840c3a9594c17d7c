"""Options of TCP sockets. kproxy stands between the two ends' own guards, so its sockets have their own."""

import asyncio
import socket

KEEPALIVE_IDLE_SECONDS = 60
KEEPALIVE_INTERVAL_SECONDS = 15
KEEPALIVE_PROBES = 4
"""A peer that vanished is noticed after two minutes; Linux would take more than two hours."""

USER_TIMEOUT_SECONDS = 120
"""Unacknowledged bytes may wait this long (RFC 5482, TCP_USER_TIMEOUT); the same two minutes for a busy connection."""


def keep_alive(transport: asyncio.BaseTransport) -> None:
    """Have the kernel end a connection whose other end has vanished, idle or not."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_SECONDS),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_SECONDS),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", USER_TIMEOUT_SECONDS * 1000),
    ):
        if hasattr(socket, option):  # macOS lacks some
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
