"""What systemd is told of the service (sd_notify(3)): a datagram to the socket that NOTIFY_SOCKET names.

Nothing is sent where nobody listens, which is everywhere but under ``Type=notify``::

    tell("READY=1")               clients are served: `systemctl start` returns
    tell(f"MAINPID={pid}")        another process is the service from now on (see upgrade)
    tell("STOPPING=1")            a drain has begun
"""

import os
import socket

VARIABLE = "NOTIFY_SOCKET"

SEND_SECONDS = 1.0
"""What systemd may take to make room; it reads at once, but where the machine is stuck."""


def tell(line: str) -> None:
    """Tell it. Raises OSError where somebody should listen and cannot be told."""
    path = os.environ.get(VARIABLE, "")
    if not path.startswith(("/", "@")):  # "vsock:...", to another machine, is for what is in a virtual one of its own
        return
    address = "\0" + path[1:] if path[0] == "@" else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(SEND_SECONDS)
        sock.sendto(line.encode(), address)
