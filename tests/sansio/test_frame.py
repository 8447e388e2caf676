from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffsuper.errors import LocalProtocolError, RemoteProtocolError
from ffsuper.sansio.frame import BODY_LIMIT_BYTES, HEADER_LIMIT_BYTES, LENGTHS, Decoder, Frame, encode

headers = st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.text()))
frames = st.builds(Frame, headers, st.binary())


def decoded(decoder: Decoder) -> list[Frame]:
    found = []
    while (frame := decoder.next_frame()) is not None:
        found.append(frame)
    return found


@given(sent=st.lists(frames), cuts=st.lists(st.integers(0, 500)))
def test_frames_come_out_as_they_went_in_however_they_are_cut(sent: list[Frame], cuts: list[int]) -> None:
    data, decoder, received = b"".join(map(encode, sent)), Decoder(), []
    for cut in cuts:
        decoder.feed(data[:cut])
        data = data[cut:]
        received += decoded(decoder)
    decoder.feed(data)
    received += decoded(decoder)
    decoder.end()
    assert received == sent


@given(st.binary())
def test_garbage_is_refused_or_waited_for_and_nothing_else(data: bytes) -> None:
    decoder = Decoder()
    decoder.feed(data)
    try:
        decoded(decoder)
        decoder.end()
    except RemoteProtocolError:
        pass


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (b"[1]", "not an object"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_header_that_is_no_object_is_refused(header: bytes, why: str) -> None:
    decoder = Decoder()
    decoder.feed(LENGTHS.pack(len(header), 0) + header)
    with pytest.raises(RemoteProtocolError, match=why):
        decoder.next_frame()


@pytest.mark.parametrize("lengths", [(HEADER_LIMIT_BYTES + 1, 0), (2, BODY_LIMIT_BYTES + 1), (2**32 - 1, 2**32 - 1)])
def test_a_frame_that_claims_too_much_is_refused_before_it_arrives(lengths: tuple[int, int]) -> None:
    decoder = Decoder()
    decoder.feed(LENGTHS.pack(*lengths))
    with pytest.raises(RemoteProtocolError, match="over the limits"):
        decoder.next_frame()


def test_a_frame_cut_off_at_the_end_is_noticed() -> None:
    decoder = Decoder()
    decoder.feed(encode(Frame({"a": 1}))[:-1])
    assert decoder.next_frame() is None
    with pytest.raises(RemoteProtocolError, match="cut off"):
        decoder.end()


def test_we_do_not_send_what_would_be_refused() -> None:
    with pytest.raises(LocalProtocolError, match="header of"):
        encode(Frame({"a": "x" * HEADER_LIMIT_BYTES}))

    class Huge(bytes):
        def __len__(self) -> int:
            return BODY_LIMIT_BYTES + 1

    with pytest.raises(LocalProtocolError, match="body of"):
        encode(Frame({}, Huge()))


def test_the_layout_is_two_lengths_then_json_then_bytes() -> None:
    data = encode(Frame({"type": "x"}, b"\x00\xff"))
    assert (
        data
        == b"\x00\x00\x00\x0c\x00\x00\x00\x02"
        + json.dumps({"type": "x"}, separators=(",", ":")).encode()
        + b"\x00\xff"
    )
