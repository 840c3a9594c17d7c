"""The small machines that see an answer: what the conversations do not reach of them."""

import pytest
from conversations import BROKER_HOST, advertise, answer_frame

from kproxy.core.rewrite import Collected, MetadataHead
from kproxy.wire.apis import ApiKey
from kproxy.wire.primitives import INT32, put_compact_string

BROKER = INT32.pack(7) + put_compact_string(BROKER_HOST) + INT32.pack(9092)
OURS = INT32.pack(7) + put_compact_string("kp-7") + INT32.pack(19092)


@pytest.mark.parametrize(("blank_racks", "rack"), [(False, "r1"), (True, None)])
def test_racks(*, blank_racks: bool, rack: str | None) -> None:
    """Racks are kept, or blanked where nobody may fetch from a follower; what is left of the answer passes."""
    theirs = bytes(4) + b"\x02" + BROKER + put_compact_string("r1") + b"\x00" + b"rest"
    ours = bytes(4) + b"\x02" + OURS + put_compact_string(rack) + b"\x00" + b"rest"
    frame = answer_frame(ApiKey.METADATA, 9, 1, theirs)
    sink = MetadataHead(len(frame), 9, advertise, blank_racks=blank_racks)
    out, taken, done = sink.feed(b"before" + frame[:-2], 6)
    assert done
    assert (sink.left, taken) == (2, 6 + len(frame) - 2)
    assert out + frame[-2:] == answer_frame(ApiKey.METADATA, 9, 1, ours)


def test_collected() -> None:
    """A collected answer is handed over once, whole, and what follows it is left alone."""
    frame = answer_frame(ApiKey.FIND_COORDINATOR, 1, 1, b"body")
    for pieces in ([frame], [frame[:5], frame[5:]], [frame[i : i + 1] for i in range(len(frame))]):
        sink = Collected(len(frame), bytes.upper)
        for piece in pieces[:-1]:
            assert sink.feed(piece, 0) == (b"", len(piece), False)
        last = b"." + pieces[-1] + b"next"
        assert sink.feed(last, 1) == (frame.upper(), len(last) - len(b"next"), True)
