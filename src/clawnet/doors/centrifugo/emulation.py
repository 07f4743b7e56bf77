"""What clients of one-way streams say: POST /emulation, which finds the stream by its secret.

The session id was told to the stream's client alone, in its connect reply. Whoever has it speaks
as that client, with its rights and within its limits; there is no other proof here.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from clawnet.core.errors import BadRequest, NotFound, Unavailable
from clawnet.doors.centrifugo.protobuf import ProtobufEncoding, decode
from clawnet.doors.centrifugo.schema import EmulationRequest
from clawnet.doors.centrifugo.streams import body_of, door_of, is_binary
from clawnet.doors.centrifugo.transport import StreamTransport
from clawnet.doors.centrifugo.wire import BadCommand
from clawnet.doors.http import body as bodies
from clawnet.doors.http.answers import NO_STORE, Answer, Plain
from clawnet.doors.http.describe import operation
from clawnet.doors.http.request import Request


class Emulated(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Commands for a stream. `node` and `session` are of its connect reply."""

    session: str
    node: str
    data: Annotated[str, Meta(description="Commands as text, one JSON object a line.")]


_decode = msgspec.json.Decoder(EmulationRequest)
_decode_text = msgspec.json.Decoder(str)


@operation(
    tag="Centrifugo clients",
    is_open=True,
    body=Emulated,
    status=204,
    errors=(NotFound, Unavailable),
)
async def emulate(request: Request) -> Answer:
    """Send commands of a client that follows by http_stream or sse.

    Their replies come on the stream. In protobuf the commands stand behind their lengths.
    """
    door = door_of(request)
    raw = await body_of(request)
    is_protobuf = is_binary(request)
    if is_protobuf:
        try:
            said = decode(EmulationRequest, raw)
        except BadCommand as error:
            raise BadRequest(f"The body is no EmulationRequest: {error}.") from None
        data = bytes(said.data)
    else:
        # Members that are not known are passed over, as everywhere on this protocol.
        said = bodies.decode(_decode, raw)
        data = bodies.decode(_decode_text, bytes(said.data)).encode()
    session, node = said.session, said.node
    client = door.clients.by_session(session) if session and node == door.node else None
    transport = None if client is None else client.wire
    if not isinstance(transport, StreamTransport) or transport.is_over:
        # Not told apart: what is wrong with a secret is nobody's business.
        raise NotFound(
            "There is no such session on this hub.",
            next="Connect again; the connect reply has the node and the session to send.",
        )
    if isinstance(transport.encoding, ProtobufEncoding) is not is_protobuf:
        if not is_protobuf:
            raise BadRequest(
                "This session speaks protobuf.",
                next="Send a protobuf EmulationRequest as application/octet-stream.",
            )
        # A stream in JSON has its commands in a JSON string, whatever is around it.
        data = bodies.decode(_decode_text, data).encode()
    transport.take(data)
    return Plain(204, headers=(NO_STORE,))
