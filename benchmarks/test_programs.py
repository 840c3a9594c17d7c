"""The two C programs say what Kafka says: an independent codec (kio) reads every answer and every request whole.

Run with ``pytest benchmarks``; skipped where there is no C compiler.
"""

import dataclasses
import importlib
import io
import json
import random
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.build import build
from bench.programs import NullBroker
from kio.index import load_request_schema, load_response_schema
from kio.serial import entity_reader, entity_writer

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc)")

ANSWER_BYTES = 300
VERSIONS = {
    0: range(3, 14),
    1: range(4, 19),
    3: range(14),
    10: range(7),
    12: range(5),
    17: range(2),
    18: range(5),
    36: range(3),
    60: range(3),
}
"""By API key, the versions that the null broker answers with a body of their own."""
BLANK = {"bool": False, "uuid": None, "int8": 0}
ALL = [(key, version) for key, versions in VERSIONS.items() for version in versions]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NullBroker]:
    """Run a null broker."""
    with NullBroker(tmp_path_factory.mktemp("nullbroker"), answer_bytes=ANSWER_BYTES) as running:
        yield running


def request_bytes(key: int, version: int, correlation_id: int) -> bytes:
    """Return a framed request; the null broker skips the bodies of Produce and Fetch, so theirs are zeros."""
    schema: Any = load_request_schema(key, version)
    frame = struct.pack(">hhih", key, version, correlation_id, 1) + b"c" + (b"\0" if schema.__flexible__ else b"")
    if key in {0, 1}:
        frame += bytes(20_000)
    else:
        body = io.BytesIO()
        entity_writer(schema)(body, filled(schema, request_fields(key, version)))
        frame += body.getvalue()
    return struct.pack(">i", len(frame)) + frame


def request_fields(key: int, version: int) -> dict[str, Any]:
    """Return what the schemas have no default for."""
    if key == 3:
        topic = importlib.import_module(load_request_schema(3, version).__module__).MetadataRequestTopic
        return {"topics": tuple(filled(topic, {"name": name}) for name in ("t", "orders"))}
    if key == 10 and version >= 4:
        return {"key_type": 0, "coordinator_keys": ("group", "other")}
    fields: dict[int, dict[str, Any]] = {
        10: {"key": "group"},
        12: {"group_id": "g", "generation_id": 1, "member_id": "m"},
        17: {"mechanism": "PLAIN"},
        18: {"client_software_name": "test", "client_software_version": "1"} if version >= 3 else {},
        36: {"auth_bytes": b"\0gateway\0secret"},
        60: {},
    }
    return fields[key]


def filled(schema: Any, values: dict[str, Any]) -> Any:
    """Make an entity; what has neither a value nor a default is false, or no id."""
    missing = [
        field
        for field in dataclasses.fields(schema)
        if field.default is field.default_factory is dataclasses.MISSING and field.name not in values
    ]
    return schema(**values, **{field.name: BLANK[field.metadata["kafka_type"]] for field in missing})


def exactly(peer: socket.socket, count: int) -> bytes:
    """Read ``count`` bytes."""
    data = b""
    while len(data) < count:
        part = peer.recv(count - len(data))
        assert part, f"closed after {len(data)} of {count} bytes"
        data += part
    return data


def read_frame(peer: socket.socket) -> bytes:
    """Read one frame, without its size."""
    return exactly(peer, int.from_bytes(exactly(peer, 4)))


def read_answer(peer: socket.socket, key: int, version: int, correlation_id: int) -> Any:
    """Read one answer and decode it, every byte of it."""
    schema: Any = load_response_schema(key, version)
    frame = read_frame(peer)
    assert int.from_bytes(frame[:4]) == correlation_id
    body = frame[5:] if schema.__header_schema__.__flexible__ else frame[4:]
    value, read = entity_reader(schema)(body, 0)
    assert read == len(body), "bytes are left behind the message"
    return value


@pytest.mark.parametrize(("key", "version"), ALL)
def test_answers_are_kafkas(broker: NullBroker, key: int, version: int) -> None:
    """Every answer that claims to be well-formed is, at every version, wherever the request is cut."""
    request = request_bytes(key, version, 7)
    cuts = random.Random(version)
    for at in [0, 3, 4, 11, 12, 13, *(cuts.randrange(len(request)) for _ in range(4))]:
        with socket.create_connection(("127.0.0.1", broker.port), timeout=10) as peer:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.sendall(request[:at])
            peer.sendall(request[at:])
            answer = read_answer(peer, key, version, 7)
            if key == 3:
                assert [topic.name for topic in answer.topics] == ["t", "orders"]
                assert [(node.node_id, node.host, node.port) for node in answer.brokers] == [
                    (1, "127.0.0.1", broker.port)
                ]


def test_answers_keep_their_order(broker: NullBroker) -> None:
    """Requests of all kinds in one write are answered one by one, in order."""
    kinds = [kind for kind in ALL if kind != (17, 0)]  # after SaslHandshake v0 come bare tokens
    random.Random(1).shuffle(kinds)
    with socket.create_connection(("127.0.0.1", broker.port), timeout=10) as peer:
        peer.sendall(b"".join(request_bytes(*kind, number) for number, kind in enumerate(kinds)))
        for number, kind in enumerate(kinds):
            read_answer(peer, *kind, number)


def test_bare_tokens(broker: NullBroker) -> None:
    """After SaslHandshake v0 a token without a header is answered by an empty one."""
    with socket.create_connection(("127.0.0.1", broker.port), timeout=10) as peer:
        peer.sendall(request_bytes(17, 0, 1) + b"\0\0\0\3abc")
        read_answer(peer, 17, 0, 1)
        assert exactly(peer, 4) == bytes(4)


def test_fetch_answer_has_the_size_asked_for(broker: NullBroker) -> None:
    """A Fetch v11 answer takes --answer-bytes on the wire."""
    with socket.create_connection(("127.0.0.1", broker.port), timeout=10) as peer:
        peer.sendall(request_bytes(1, 11, 1))
        assert len(read_frame(peer)) + 4 == ANSWER_BYTES


@pytest.mark.parametrize("kind", ["fetch", "produce", "produce8", "heartbeat"])
@pytest.mark.parametrize("size", [200, 201, 202, 203, 255, 256, 257, 16_384, 16_500, 262_144])
def test_kload_sends_kafkas(kind: str, size: int) -> None:
    """Every request of kload takes exactly the bytes asked for and is well-formed, topic "t" partition 0."""
    if kind == "heartbeat" and size > 32_000:
        pytest.skip("a heartbeat has at most 32 KiB")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        command = [
            build("kload"),
            "127.0.0.1",
            listener.getsockname()[1],
            "--count",
            1,
            "--bytes",
            size,
            "--kind",
            kind,
        ]
        with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True) as kload:
            peer, _ = listener.accept()
            peer.settimeout(10)
            frame = read_frame(peer)
            peer.sendall(bytes.fromhex("00000004") + frame[4:8])
            printed, _ = kload.communicate(timeout=10)
            peer.close()
    assert len(frame) + 4 == size
    assert json.loads(printed)["requests"] == 1
    key, version, _, client_id_bytes = struct.unpack_from(">hhih", frame)
    schema: Any = load_request_schema(key, version)
    body = frame[10 + client_id_bytes + (1 if schema.__flexible__ else 0) :]
    value, read = entity_reader(schema)(body, 0)
    assert read == len(body)
    if kind == "fetch":
        assert (value.topics[0].topic, value.topics[0].partitions[0].partition) == ("t", 0)
    elif kind != "heartbeat":
        assert (value.topic_data[0].name, value.topic_data[0].partition_data[0].index) == ("t", 0)


def test_kload_counts_a_wrong_answer(tmp_path: Path) -> None:
    """An answer under another correlation id than the next one is an error, and the exit code says so."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        command = [str(build("kload")), "127.0.0.1", str(listener.getsockname()[1]), "--count", "5"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as kload:
            peer, _ = listener.accept()
            read_frame(peer)
            peer.sendall(bytes.fromhex("00000004 00000063"))
            printed, _ = kload.communicate(timeout=10)
            peer.close()
    result = json.loads(printed)
    assert (result["errors"], result["requests"], result["unanswered"], kload.returncode) == (1, 0, 5, 1)
