"""The codec, with the packets of python-socketio as oracle."""

from typing import Any

import pytest
from engineio.payload import Payload
from hypothesis import given
from hypothesis import strategies as st
from socketio.packet import Packet as Theirs

from clawnet.doors.socketio import packets
from clawnet.doors.socketio.packets import BadPacket
from clawnet.doors.ws.frames import text_frame

names = st.text(min_size=1, max_size=20).filter(lambda name: name not in packets.RESERVED)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
ids = st.none() | st.integers(0, 2**53)


@given(name=names, args=st.lists(values, max_size=3), id=ids, kind=st.sampled_from([2, 3]))
def test_what_their_clients_send_is_read_as_it_was_meant(
    name: str, args: list[Any], id: int | None, kind: int
) -> None:
    sent = Theirs(kind, [name, *args], id=id).encode().encode()

    packet = packets.parse(sent)

    assert (packet.type, packet.namespace, packet.id) == (kind, "/", id)
    if kind == packets.EVENT:
        assert packets.event_of(packet.data) == (name, args)
    assert packets.args_of(packet.data) == [name, *args]


@given(name=names, args=st.lists(values, max_size=3), id=ids)
def test_what_is_sent_is_read_so_by_their_clients(
    name: str, args: list[Any], id: int | None
) -> None:
    frames = packets.event(name, tuple(args), id) + packets.ack(9, args) + packets.entered("x")

    payload, end = packets.payload_of(frames)
    assert end == len(frames)
    polled = Payload(encoded_payload=payload.decode())
    # Engine.IO's packets carry Socket.IO's as text; their decoder looks into some of them.
    raw = payload.decode().split("\x1e")
    told, answer, entered = (Theirs(encoded_packet=text[1:]) for text in raw)

    assert [packet.packet_type for packet in polled.packets] == [4, 4, 4]
    assert (told.packet_type, told.id, told.data) == (2, id, [name, *args])
    assert (answer.packet_type, answer.id, answer.data) == (3, 9, [args])
    assert (entered.packet_type, entered.data) == (0, {"sid": "x"})


@given(
    st.binary(max_size=60) | st.from_regex(rb"[0-6][0-9/,\-]{0,8}[\[{\"].{0,30}", fullmatch=True)
)
def test_nothing_but_a_bad_packet_is_raised(message: bytes) -> None:
    try:
        packet = packets.parse(message)
        packets.event_of(packet.data)
    except BadPacket:
        return
    assert packet.id is None or packet.id < 10**16


@pytest.mark.parametrize(
    "bad",
    [b"", b"7", b"2", b'2["connect"]', b"2[1]", b"2[]", b'2{"a":1}', b'2["a"', b"21-[]",
     b'5["a"]', b'599-["a"]', b'2["' + b"n" * 201 + b'"]', b"2[" * 100_000, b'2["a",1e999]',
     b'2["a",' + b"9" * 5_000 + b"]", b'2["\xff"]',
     b'2["a",' + b"1e308," * 20_000 + b"1]", b"2" + b"9" * 5_000 + b'["a"]'],
)  # fmt: skip
def test_what_is_no_event_is_refused(bad: bytes) -> None:
    with pytest.raises(BadPacket):
        packets.event_of(packets.parse(bad).data)


def test_namespaces_and_attachments_are_taken_apart() -> None:
    assert packets.parse(b'0/admin?x=1,{"token":"t"}')[:3] == (0, "/admin", None)
    assert packets.parse(b"1/admin").namespace == "/admin"
    binary = packets.parse(b'52-/a,13["x",{"_placeholder":true,"num":0}]')
    assert (binary.namespace, binary.id, binary.attachments) == ("/a", 13, 2)


def test_a_payload_is_what_the_frames_hold() -> None:
    texts = [b"4" + b"x" * size for size in (0, 124, 125, 65_534, 65_535, 3)]

    payload, _ = packets.payload_of(b"".join(map(text_frame, texts)))

    assert payload.split(b"\x1e") == texts
    assert list(packets.messages_of(payload)) == texts
    assert packets.payload_of(b"") == (b"", 0)


def test_a_payload_holds_no_more_than_their_client_takes() -> None:
    frames = b"".join(packets.event("n", (n,)) for n in range(40))
    taken = []
    while frames:
        payload, end = packets.payload_of(memoryview(frames))
        taken.append(len(Payload(encoded_payload=payload.decode()).packets))
        frames = frames[end:]
    assert taken == [16, 16, 8]
