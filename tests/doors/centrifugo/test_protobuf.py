"""Protobuf against the classes that protoc generated from the schema, both ways, and hostile bytes.

The generated classes are those that centrifuge-python brings. It is older than two fields
(Publication.epoch, SubscribeRequest.type), which are held against bytes written by hand.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from centrifuge.protocol import client_pb2
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Raw

from clawnet.doors.centrifugo import wire
from clawnet.doors.centrifugo.protobuf import (
    ProtobufEncoding,
    decode,
    decode_commands,
    delimited,
    encode,
    varint,
)
from clawnet.doors.centrifugo.schema import (
    BOOL,
    INT32,
    INT64,
    JSON,
    NOTED,
    TABLE,
    TEXT,
    UINT32,
    UINT64,
    EmulationRequest,
    Kind,
    Many,
    Map,
    PushedConnect,
)
from clawnet.doors.centrifugo.wire import COMMANDS_MAX
from clawnet.doors.ws.frames import binary_frame

NEWER = {("Publication", "epoch"), ("SubscribeRequest", "type")}
"""Fields that the generated classes do not know."""


def bare(payload: bytes) -> bytes:
    return payload


ENCODING = ProtobufEncoding(bare)
UNI = ProtobufEncoding(bare, is_uni=True)

# --- any message ----------------------------------------------------------------

TEXTS = st.text(max_size=20)
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    UINT32: st.integers(0, 2**32 - 1),
    UINT64: st.integers(0, 2**64 - 1),
    INT32: st.integers(-(2**31), 2**31 - 1),
    INT64: st.integers(-(2**63), 2**63 - 1),
    BOOL: st.booleans(),
    TEXT: TEXTS,
    JSON: st.binary(max_size=40).map(Raw),
    NOTED: st.just(wire.NO_DATA),
}


def of_kind(kind: Kind) -> st.SearchStrategy[Any]:
    if isinstance(kind, Many):
        return st.lists(messages(kind.of), max_size=3)
    if isinstance(kind, Map):
        return st.dictionaries(TEXTS, of_kind(kind.to), max_size=3)
    if kind is PushedConnect:
        kind = wire.ConnectResult
    return SCALARS[kind] if isinstance(kind, str) else messages(kind)


def messages(of: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Any message of a type, made of what the generated classes know as well."""
    required = {field.name for field in msgspec.structs.fields(of) if field.required}
    members = {}
    for _, name, kind in TABLE[of]:
        if (of.__name__, name) in NEWER:
            continue
        is_there = name in required or isinstance(kind, str | Many | Map)
        members[name] = of_kind(kind) if is_there else st.none() | of_kind(kind)
    return st.builds(of, **members)


def told(message: Any, value: msgspec.Struct) -> Any:
    """Fill a generated message with a Struct's members, by their names."""
    if not TABLE[type(value)]:
        message.SetInParent()
    for _, name, kind in TABLE[type(value)]:
        held = getattr(value, name)
        if (type(value).__name__, name) in NEWER or held is None or kind is NOTED:
            continue
        if isinstance(kind, Many):
            for one in held:
                told(getattr(message, name).add(), one)
        elif isinstance(kind, Map):
            for key, one in held.items():
                entries = getattr(message, name)
                if kind.to is TEXT:
                    entries[key] = one
                else:
                    told(entries[key], one)
        elif kind is JSON:
            setattr(message, name, bytes(held))
        elif isinstance(kind, str):
            setattr(message, name, held)
        else:
            inner = getattr(message, name)
            inner.SetInParent()
            told(inner, held)
    return message


GENERATED = {
    wire.Reply: client_pb2.Reply,
    wire.Push: client_pb2.Push,
    wire.Command: client_pb2.Command,
    EmulationRequest: client_pb2.EmulationRequest,
}


@pytest.mark.parametrize("of", GENERATED, ids=lambda of: of.__name__)
@settings(max_examples=40)
@given(data=st.data())
def test_what_is_written_is_read_by_the_generated_classes(of: Any, data: st.DataObject) -> None:
    value = data.draw(messages(of))
    read = GENERATED[of].FromString(encode(value))
    assert read == told(GENERATED[of](), value)


@settings(max_examples=40)
@given(st.lists(messages(wire.Command), min_size=1, max_size=4))
def test_what_the_generated_classes_write_is_read(commands: list[wire.Command]) -> None:
    written = b"".join(
        delimited(told(client_pb2.Command(), one).SerializeToString()) for one in commands
    )
    assert decode_commands(written) == commands


@given(messages(EmulationRequest))
def test_an_emulation_request_of_the_generated_classes_is_read(request: EmulationRequest) -> None:
    written = told(client_pb2.EmulationRequest(), request).SerializeToString()
    assert decode(EmulationRequest, written) == request


@settings(max_examples=40)
@given(st.lists(messages(wire.Command), min_size=1, max_size=4))
def test_commands_survive_the_way_out_and_back(commands: list[wire.Command]) -> None:
    assert decode_commands(b"".join(delimited(encode(one)) for one in commands)) == commands


def test_every_message_of_the_table_is_reached_by_these_tests() -> None:
    seen: set[type] = set()

    def walk(kind: Kind) -> None:
        of: Any = kind.of if isinstance(kind, Many) else kind.to if isinstance(kind, Map) else kind
        if not isinstance(of, str) and of not in seen:
            seen.add(of)
            for _, _, inner in TABLE[of]:
                walk(inner)

    roots: list[Any] = [*GENERATED]
    for root in roots:
        walk(root)
    assert seen == set(TABLE)


@pytest.mark.parametrize("of", TABLE, ids=lambda of: of.__name__)
def test_every_member_of_a_message_has_a_number_or_a_reason(of: type[msgspec.Struct]) -> None:
    names = {name for _, name, _ in TABLE[of]}
    assert names == set(of.__struct_fields__)
    assert len({number for number, _, _ in TABLE[of]}) == len(TABLE[of])


# --- single things ----------------------------------------------------------------


def test_fields_that_are_newer_than_the_generated_classes_have_their_numbers() -> None:
    assert encode(wire.Publication(data=Raw(b"1"), epoch="e")) == b"\x22\x011\x72\x01e"
    assert decode(wire.SubscribeRequest, b"\x78\x04").type == 4


def test_a_tags_filter_is_noted() -> None:
    node = client_pb2.FilterNode(op="and", nodes=[client_pb2.FilterNode(key="k")])
    request = client_pb2.SubscribeRequest(channel="c", tf=node)
    assert decode(wire.SubscribeRequest, request.SerializeToString()).tf == Raw(b"true")
    assert decode(wire.SubscribeRequest, b"\x0a\x01c").tf == wire.NO_DATA


@settings(max_examples=40)
@given(TEXTS, messages(wire.Publication))
def test_the_hot_path_says_what_push_says(channel: str, publication: wire.Publication) -> None:
    push = wire.Push(channel=channel, pub=publication)
    for encoding in (ENCODING, UNI):
        # An empty name is left out by the one and said by the other; both are read alike.
        fast, slow = encoding.publication(channel, publication), encoding.push(push)
        assert read_pushes(fast, encoding) == read_pushes(slow, encoding)


def read_pushes(frames: bytes, encoding: ProtobufEncoding) -> list[Any]:
    found = []
    while frames:
        length, at = 0, 0
        while True:
            length |= (frames[at] & 0x7F) << 7 * at
            at += 1
            if frames[at - 1] < 0x80:
                break
        body, frames = frames[at : at + length], frames[at + length :]
        assert len(body) == length
        if encoding.is_uni:
            found.append(client_pb2.Push.FromString(body))
        else:
            found.append(client_pb2.Reply.FromString(body).push)
    return found


def test_frames_are_joined_without_anything_between() -> None:
    frames = ENCODING.push(wire.Push(channel="a")) + ENCODING.push(wire.Push(channel="b" * 200))
    assert [push.channel for push in read_pushes(frames, ENCODING)] == ["a", "b" * 200]


def test_a_ping_is_an_empty_message() -> None:
    assert ENCODING.reply(wire.Reply()) == b"\0"
    assert decode_commands(b"\0") == [wire.Command()]


def test_a_result_without_members_is_there_all_the_same() -> None:
    reply = client_pb2.Reply.FromString(encode(wire.Reply(id=1, publish=wire.EmptyResult())))
    assert reply.HasField("publish")


def test_each_transport_and_direction_has_its_own_key() -> None:
    encodings = [ProtobufEncoding(f, is_uni=u) for f in (bare, binary_frame) for u in (False, True)]
    assert len({encoding.key for encoding in encodings}) == 4
    assert encodings[2].reply(wire.Reply()) == binary_frame(b"\0")


# --- what is not as it should be ----------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x01",
        b"\x80",
        b"\x02\x08",
        b"\x02\x08\x80",
        b"\x03\x08\x80\x80",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0c\x08" + b"\x80" * 10 + b"\0",
        b"\xff\xff\xff\xff\x0f",
        delimited(b"\x22\x7f"),
        delimited(b"\x22\x02\x0a\x05"),
        delimited(b"\x22\x03\x0a\x01\xff"),
        delimited(b"\x00\x01"),
        delimited(b"\x0b\x0c"),
        delimited(b"\x0e"),
        delimited(b"\x0f"),
        delimited(b"\x09\0\0\0"),
        delimited(b"\x0d\0"),
        delimited(b"\x80\x80\x80\x80\x80\x01\0"),
    ],
    ids=ascii,
)
def test_bytes_that_are_no_commands_are_refused(message: bytes) -> None:
    with pytest.raises(wire.BadCommand):
        decode_commands(message)


@given(st.binary(max_size=200))
@example(delimited(b"\x22" + delimited(b"\x1a" + delimited(b"\x12" + delimited(b"\x0a\x05")))))
def test_any_bytes_are_commands_or_a_bad_command(message: bytes) -> None:
    try:
        commands = decode_commands(message)
    except wire.BadCommand:
        return
    assert commands and all(0 <= command.id < 2**32 for command in commands)


@settings(max_examples=40)
@given(st.lists(messages(wire.Command), min_size=1, max_size=2), st.data())
def test_a_damaged_message_is_commands_or_a_bad_command(
    commands: list[wire.Command], data: st.DataObject
) -> None:
    whole = b"".join(delimited(encode(one)) for one in commands)
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + 1 :]
    try:
        decode_commands(damaged)
    except wire.BadCommand:
        return


@settings(max_examples=40)
@given(messages(wire.Command), st.data())
def test_a_message_that_is_cut_off_is_refused(command: wire.Command, data: st.DataObject) -> None:
    whole = delimited(encode(command) + b"\x7a\0")
    with pytest.raises(wire.BadCommand):
        decode_commands(whole[: data.draw(st.integers(0, len(whole) - 1))])


def test_a_message_of_too_many_commands_is_refused() -> None:
    assert len(decode_commands(bytes(COMMANDS_MAX))) == COMMANDS_MAX
    with pytest.raises(wire.BadCommand):
        decode_commands(bytes(COMMANDS_MAX + 1))


def test_unknown_fields_of_every_type_are_passed_over() -> None:
    unknown = b"\xa0\x06\x05" + b"\xa1\x06" + bytes(8) + b"\xa2\x06\x03abc" + b"\xa5\x06" + bytes(4)
    # A known number with another type is unknown as well.
    unknown += b"\x0a\x01x"
    body = unknown + b"\x08\x07" + unknown
    assert decode_commands(delimited(body)) == [wire.Command(id=7)]


def test_the_last_value_of_a_field_holds() -> None:
    assert decode_commands(delimited(b"\x08\x07\x08\x09")) == [wire.Command(id=9)]


def test_a_number_too_large_for_its_field_keeps_its_low_bits_as_in_every_reader() -> None:
    body = b"\x08" + varint(2**35 + 5)
    assert client_pb2.Command.FromString(body).id == 5
    assert decode_commands(delimited(body)) == [wire.Command(id=5)]


def test_bytes_that_are_no_json_are_passed_on_as_they_came() -> None:
    body = client_pb2.Command(id=1, publish={"channel": "c", "data": b"\xff{"}).SerializeToString()
    (command,) = decode_commands(delimited(body))
    assert command.publish is not None and bytes(command.publish.data) == b"\xff{"
