"""The tap relays faithfully and sees every forbidden byte."""

import socket
from collections.abc import Iterator

import pytest

from kproxy.testing.ports import free_port_block
from kproxy.testing.tap import Tap
from kproxy.testing.waiting import wait_until


@pytest.fixture
def tap() -> Iterator[Tap]:
    """A running tap with two ports."""
    with Tap(free_port_block(2), free_port_block(2), ports=2) as running:
        yield running


@pytest.fixture
def server(tap: Tap) -> Iterator[socket.socket]:
    """What stands behind the tap's first port."""
    with socket.create_server((tap.host, tap.target_port)) as listening:
        listening.settimeout(5)
        yield listening


def connect(tap: Tap, server: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Connect through the tap; return both ends."""
    client = socket.create_connection((tap.host, tap.listen_port), 5)
    proxy, _ = server.accept()
    proxy.settimeout(5)
    return client, proxy


def read_to_end(connection: socket.socket) -> bytes:
    """Read until the other side has said all."""
    data = bytearray()
    while part := connection.recv(1 << 20):
        data += part
    return bytes(data)


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_leak_is_seen_wherever_the_stream_is_cut(tap: Tap, server: socket.socket, cut: int) -> None:
    """However the answer is cut, one leak is one finding, at its place in the stream."""
    client, proxy = connect(tap, server)
    with client, proxy:
        stream = b"0123127.0.1.2:9092"
        proxy.sendall(stream[:cut])
        assert client.recv(100) == stream[:cut]  # the first part went through alone
        proxy.sendall(stream[cut:])
        proxy.close()
        assert read_to_end(client) == stream[cut:]
    assert [(leak.port, leak.offset) for leak in tap.leaks] == [(tap.listen_port, 4)]


def test_who_listens_is_told_before_the_other_side(tap: Tap, server: socket.socket) -> None:
    """Every chunk, of which connection and by whom, is told by the time that it arrives."""
    told: list[tuple[int, bool, bytes]] = []
    tap.on_chunk = lambda *chunk: told.append(chunk)
    for number in (1, 2):
        client, proxy = connect(tap, server)
        with client, proxy:
            client.sendall(b"ping")
            assert proxy.recv(100) == b"ping"
            assert told[-1] == (number, True, b"ping")
            proxy.sendall(b"pong")
            assert client.recv(100) == b"pong"
            assert told[-1] == (number, False, b"pong")


def test_byte_by_byte(tap: Tap, server: socket.socket) -> None:
    """A leak sent byte by byte is found once, and what a client says is no leak."""
    client, proxy = connect(tap, server)
    with client, proxy:
        client.sendall(b"127.0.1.1")
        for byte in b"xx127.0.1.1":
            proxy.sendall(bytes((byte,)))
            assert client.recv(1) == bytes((byte,))
    assert [leak.offset for leak in tap.leaks] == [2]


def test_a_half_close_is_passed_on_and_answers_still_arrive(tap: Tap, server: socket.socket) -> None:
    """A client that has said all it wants still reads a large answer to its last byte."""
    client, proxy = connect(tap, server)
    with client, proxy:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(proxy) == b"question"
        proxy.sendall(bytes(1 << 18))
        proxy.close()
        assert len(read_to_end(client)) == 1 << 18
    wait_until(lambda: tap.open_connections == 0, 5, "the pair to be closed")
    assert (tap.bytes_to_proxy, tap.bytes_to_clients) == (8, 1 << 18)
    assert tap.connections == {tap.listen_port: 1}


def test_a_slow_reader_holds_the_other_side_back(tap: Tap, server: socket.socket) -> None:
    """A client that does not read stops the proxy's writes after what the kernel and one chunk hold."""
    client, proxy = connect(tap, server)
    with client, proxy:
        proxy.settimeout(0.2)
        with pytest.raises(TimeoutError):
            proxy.sendall(bytes(1 << 28))
        assert tap.bytes_to_clients < 1 << 26


def test_cut_resets_both_sides(tap: Tap, server: socket.socket) -> None:
    """Cutting resets client and proxy, and the next connection works."""
    client, proxy = connect(tap, server)
    with client, proxy:
        wait_until(lambda: tap.open_connections == 1, 5, "the connection")
        assert tap.cut() == 1
        for side in (client, proxy):
            with pytest.raises(ConnectionResetError):
                side.recv(1)
    client, proxy = connect(tap, server)
    with client, proxy:
        client.sendall(b"again")
        assert proxy.recv(5) == b"again"


def test_a_proxy_that_does_not_listen(tap: Tap) -> None:
    """Where nothing listens behind, the client's connection is reset and the tap lives on."""
    address = (tap.host, tap.listen_port + 1)
    with pytest.raises(ConnectionResetError), socket.create_connection(address, 5) as client:  # perhaps at once
        client.recv(1)
    assert tap.open_connections == 0
