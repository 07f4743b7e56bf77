"""RFC 6455 against the Reader alone: the case list is in the manner of the Autobahn suite."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.frames import BINARY, CLOSE, CONT, TEXT, Close, Frame
from websockets.protocol import CLIENT, OPEN, Protocol
from websockets.server import ServerProtocol

from clawnet.doors.ws.frames import Reader, Sign, text_frame
from tests.doors.ws.frames_made import close, frame, text

MAX = 73_728


class Outcome:
    """What a client's bytes came to: messages, answers, and how it ended."""

    def __init__(self, *pieces: bytes) -> None:
        self.reader = Reader(max_bytes=MAX)
        self.messages: list[bytes] = []
        self.sent = b""
        for piece in pieces:
            self.feed(piece)

    def feed(self, data: bytes) -> None:
        if self.reader.is_over:
            return
        self.reader.feed(data)
        while (message := self.reader.read()) is not Sign.DRY:
            if message is Sign.NOTHING:
                self.sent += self.reader.take_replies()
                if self.reader.is_over:
                    return
            else:
                assert isinstance(message, bytes)
                self.messages.append(message)

    @property
    def close(self) -> Close | None:
        """The close that the client would read."""
        client = Protocol(CLIENT, state=OPEN)
        client.receive_data(self.sent)
        for event in client.events_received():
            if getattr(event, "opcode", None) is CLOSE:
                return client.close_rcvd
        return None


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 128, 65_535, 65_536, MAX])
@pytest.mark.parametrize("opcode", [1, 2])
def test_a_message_of_any_length_within_the_limit_is_read(length: int, opcode: int) -> None:
    assert Outcome(frame(b"*" * length, opcode=opcode)).messages == [b"*" * length]


def test_a_message_beyond_the_limit_is_1009_as_soon_as_its_head_is_there() -> None:
    outcome = Outcome(frame(b"*" * (MAX + 1))[:14])
    assert outcome.close is not None and outcome.close.code == 1009
    assert outcome.reader.is_over and outcome.reader.is_failed


def test_fragments_that_are_too_much_together_are_1009() -> None:
    half = b"*" * (MAX // 2 + 1)
    outcome = Outcome(frame(half, is_final=False), frame(half, opcode=0))
    assert outcome.close is not None and outcome.close.code == 1009


@pytest.mark.parametrize("length_bytes", [2, 8])
def test_a_longer_form_of_the_length_is_read(length_bytes: int) -> None:
    assert Outcome(frame(b"abc", length_bytes=length_bytes)).messages == [b"abc"]


@pytest.mark.parametrize("payload", [b"", b"hello", bytes(range(125))])
def test_a_ping_is_answered_with_its_payload(payload: bytes) -> None:
    outcome = Outcome(frame(payload, opcode=9))
    assert outcome.sent == bytes([0x8A, len(payload)]) + payload
    assert not outcome.reader.is_over


def test_ten_pings_are_ten_pongs_in_order() -> None:
    outcome = Outcome(b"".join(frame(b"%d" % n, opcode=9) for n in range(10)))
    assert outcome.sent == b"".join(b"\x8a\x01%d" % n for n in range(10))


@pytest.mark.parametrize("payload", [b"", b"unsolicited"])
def test_a_pong_is_ignored(payload: bytes) -> None:
    outcome = Outcome(frame(payload, opcode=10), text("after"))
    assert (outcome.sent, outcome.messages) == (b"", [b"after"])


@pytest.mark.parametrize("opcode", [8, 9, 10])
def test_a_control_frame_may_not_be_long_or_fragmented(opcode: int) -> None:
    for bad in (frame(b"*" * 126, opcode=opcode), frame(b"", opcode=opcode, is_final=False)):
        outcome = Outcome(bad)
        assert outcome.close is not None and outcome.close.code == 1002


@pytest.mark.parametrize("reserved", range(1, 8))
@pytest.mark.parametrize("opcode", [1, 2, 8, 9, 10])
def test_reserved_bits_are_refused(reserved: int, opcode: int) -> None:
    outcome = Outcome(text("before"), frame(b"", opcode=opcode, reserved=reserved), text("after"))
    assert outcome.messages == [b"before"]
    assert outcome.close is not None and outcome.close.code == 1002


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_reserved_opcodes_are_refused(opcode: int) -> None:
    outcome = Outcome(text("before"), frame(b"x", opcode=opcode), text("after"))
    assert outcome.messages == [b"before"]
    assert outcome.close is not None and outcome.close.code == 1002


@pytest.mark.parametrize("opcode", [0, 1, 2, 8, 9])
def test_an_unmasked_frame_is_refused(opcode: int) -> None:
    outcome = Outcome(frame(b"{}", opcode=opcode, is_masked=False))
    assert outcome.messages == []
    assert outcome.close is not None and outcome.close.code == 1002


def test_fragments_are_joined() -> None:
    fragments = [
        frame(b"one ", is_final=False),
        frame(b"two ", opcode=0, is_final=False),
        frame(b"", opcode=0, is_final=False),
        frame(b"three", opcode=0),
        text("next"),
    ]
    assert Outcome(*fragments).messages == [b"one two three", b"next"]


def test_control_frames_between_fragments_are_answered_at_once() -> None:
    outcome = Outcome(frame(b"one ", is_final=False), frame(b"!", opcode=9))
    assert outcome.sent == b"\x8a\x01!"
    outcome.feed(frame(b"two", opcode=0))
    assert outcome.messages == [b"one two"]


@pytest.mark.parametrize("opcode", [1, 2])
def test_a_new_message_inside_a_fragmented_one_is_refused(opcode: int) -> None:
    outcome = Outcome(frame(b"one", is_final=False), frame(b"two", opcode=opcode))
    assert outcome.messages == []
    assert outcome.close is not None and outcome.close.code == 1002


@pytest.mark.parametrize("is_final", [True, False])
def test_a_continuation_of_nothing_is_refused(is_final: bool) -> None:
    outcome = Outcome(frame(b"x", opcode=0, is_final=is_final))
    assert outcome.close is not None and outcome.close.code == 1002


GOOD_UTF8 = ["κόσμε", "\U0010ffff", "�", "\U00010000", "퟿", "\u0000", "ÿ"]
BAD_UTF8 = [
    b"\xce\xba\xed\xa0\x80edited", b"\xf4\x90\x80\x80", b"\x80", b"\xc0\xaf", b"\xe0\x80\xaf",
    b"\xff", b"\xfe", b"\xed\xbf\xbf", b"\xf8\x88\x80\x80\x80", b"\xc3", b"ok \xe4\xbd",
]  # fmt: skip


@pytest.mark.parametrize("good", GOOD_UTF8)
def test_text_may_be_cut_inside_a_character(good: str) -> None:
    raw = good.encode()
    for cut in range(len(raw) + 1):
        pieces = frame(raw[:cut], is_final=False), frame(raw[cut:], opcode=0)
        assert Outcome(*pieces).messages == [raw]


@pytest.mark.parametrize("bad", BAD_UTF8)
def test_text_that_is_not_utf8_is_1007(bad: bytes) -> None:
    outcome = Outcome(frame(bad))
    assert outcome.messages == []
    assert outcome.close is not None and outcome.close.code == 1007


@pytest.mark.parametrize("bad", BAD_UTF8)
def test_text_that_is_not_utf8_is_1007_across_fragments(bad: bytes) -> None:
    outcome = Outcome(frame(bad[:1], is_final=False), frame(bad[1:], opcode=0))
    assert outcome.messages == []
    assert outcome.close is not None and outcome.close.code == 1007


def test_binary_need_not_be_utf8() -> None:
    assert Outcome(frame(b"\xff", opcode=2)).messages == [b"\xff"]


@pytest.mark.parametrize("code", [None, 1000, 1001, 1002, 1003, 1007, 1011, 3000, 3999, 4000, 4999])
def test_a_close_is_echoed_and_ends_it(code: int | None) -> None:
    outcome = Outcome(close(code), text("too late"))
    assert outcome.sent == (b"\x88\x00" if code is None else b"\x88\x02" + code.to_bytes(2, "big"))
    assert outcome.reader.is_over and not outcome.reader.is_failed
    assert outcome.messages == []


@pytest.mark.parametrize(
    "code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]
)
def test_a_close_with_a_bad_code_is_1002(code: int) -> None:
    outcome = Outcome(close(code))
    assert outcome.close is not None and outcome.close.code == 1002


def test_a_close_with_one_byte_is_1002() -> None:
    outcome = Outcome(frame(b"\x03", opcode=8))
    assert outcome.close is not None and outcome.close.code == 1002


def test_a_close_with_a_reason_that_is_not_utf8_is_1007() -> None:
    outcome = Outcome(close(1000, b"\xff"))
    assert outcome.close is not None and outcome.close.code == 1007


def test_a_close_inside_a_fragmented_message_is_refused_or_echoed_but_ends_it() -> None:
    outcome = Outcome(frame(b"one", is_final=False), close(1000))
    assert outcome.reader.is_over
    assert outcome.messages == []


def test_after_a_close_of_ours_messages_are_ignored_until_the_echo() -> None:
    outcome = Outcome()
    assert outcome.reader.close(1001, "bye") == b"\x88\x05\x03\xe9bye"
    outcome.feed(text("ignored") + frame(b"ignored", opcode=0))
    assert outcome.messages == []


def test_the_echo_of_our_close_ends_it() -> None:
    outcome = Outcome()
    outcome.reader.close(1001, "bye")
    outcome.feed(text("ignored") + close(1001))
    assert outcome.reader.is_over and not outcome.reader.is_failed
    assert outcome.messages == []


STREAM = b"".join(
    [
        text("plain"), frame(b"one ", is_final=False), frame(b"?", opcode=9),
        frame("zw\u00f6lf".encode(), opcode=0), frame(b"x" * 300), frame(b"", opcode=10),
        frame(b"bin", opcode=2), text("last"), close(1000),
    ]
)  # fmt: skip


def test_a_stream_may_be_cut_at_every_byte() -> None:
    whole = Outcome(STREAM)
    assert len(whole.messages) == 5 and whole.reader.is_over
    for cut in range(len(STREAM) + 1):
        outcome = Outcome(STREAM[:cut], STREAM[cut:])
        assert (outcome.messages, outcome.sent) == (whole.messages, whole.sent)
    outcome = Outcome(*(STREAM[at : at + 1] for at in range(len(STREAM))))
    assert (outcome.messages, outcome.sent) == (whole.messages, whole.sent)


def test_an_idle_reader_holds_no_parser() -> None:
    outcome = Outcome(frame(b"?", opcode=10), frame(b"?", opcode=9))
    assert outcome.reader._library is None
    outcome.feed(frame(b"one ", is_final=False))
    outcome.feed(frame(b"two", opcode=0))
    assert outcome.messages == [b"one two"]
    assert outcome.reader._library is None


frames = st.builds(
    frame,
    st.binary(max_size=200),
    opcode=st.integers(0, 15),
    is_final=st.booleans(),
    reserved=st.sampled_from([0, 0, 0, 1, 4]),
    is_masked=st.sampled_from([True, True, True, False]),
)


@given(st.lists(frames | st.binary(max_size=30), max_size=12), st.integers(1, 40))
@example([b"\x81\xff" + b"\xff" * 8], 3)
@example([b"\x81\xfe"], 1)
def test_any_bytes_end_in_messages_or_a_documented_close(parts: list[bytes], size: int) -> None:
    stream = b"".join(parts)
    outcome = Outcome(*(stream[at : at + size] for at in range(0, len(stream), size)))
    if outcome.reader.is_failed:
        assert outcome.close is not None and outcome.close.code in (1002, 1007, 1009)
    whole = Outcome(stream)
    assert whole.messages == outcome.messages


@given(st.lists(frames, max_size=10))
def test_the_fast_path_reads_what_the_library_alone_would(parts: list[bytes]) -> None:
    """The reference is the library with the same bytes, and text checked at the end."""
    outcome = Outcome(*parts)
    library = ServerProtocol(state=OPEN, max_size=MAX)
    library.receive_data(b"".join(parts))
    messages: list[bytes] = []
    is_text, message = False, b""
    for event in library.events_received():
        assert isinstance(event, Frame)
        if event.opcode in (TEXT, BINARY):
            is_text, message = event.opcode is TEXT, b""
        if event.opcode in (TEXT, BINARY, CONT):
            message += bytes(event.data)
            if event.fin:
                if is_text and not is_utf8(message):
                    break
                messages.append(message)
    assert outcome.messages == messages


def is_utf8(message: bytes) -> bool:
    try:
        message.decode()
    except UnicodeDecodeError:
        return False
    return True


@given(st.binary(max_size=70_000))
def test_our_frames_are_read_by_a_client(payload: bytes) -> None:
    client = Protocol(CLIENT, state=OPEN, max_size=None)
    client.receive_data(text_frame(payload))
    [event] = client.events_received()
    assert bytes(event.data) == payload  # type: ignore[union-attr]
