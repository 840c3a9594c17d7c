"""Port blocks are free, apart from each other, and apart from other processes'."""

import socket
import subprocess
import sys

from kproxy.testing.ports import free_port_block


def test_blocks_do_not_overlap_and_can_be_bound() -> None:
    """Blocks taken one after the other share no port, and all their ports can be bound."""
    blocks = [set(range(base, base + 7)) for base in (free_port_block(7) for _ in range(20))]
    assert len(set.union(*blocks)) == 20 * 7
    for port in blocks[0]:
        socket.create_server(("127.0.0.1", port)).close()


def test_a_taken_port_is_passed_over() -> None:
    """A block never holds a port that somebody listens on."""
    base = free_port_block(1)
    with socket.create_server(("127.0.0.1", base + 3)):
        taken = free_port_block(4)
        assert base + 3 not in range(taken, taken + 4)


def test_another_process_gets_other_ports() -> None:
    """Ports reserved here are given to no other process, bound or not."""
    mine = {port for base in (free_port_block(50) for _ in range(100)) for port in range(base, base + 50)}
    code = "from kproxy.testing.ports import free_port_block as f; print(*(f(50) for _ in range(50)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    theirs = {port for base in answer.stdout.split() for port in range(int(base), int(base) + 50)}
    assert len(theirs) == 2500
    assert not mine & theirs
