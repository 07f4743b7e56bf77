"""The opening handshake (RFC 6455, section 4.2), for every door that speaks WebSocket."""

from __future__ import annotations

import http
import logging

from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.server import ServerProtocol

from clawnet.core.errors import BadRequest
from clawnet.doors.protocol import Refusal, Upgrade

# The library tells of each handshake at INFO; a hub has thousands.
_quiet = logging.getLogger(f"{__name__}.parser")
_quiet.setLevel(logging.WARNING)

_VERSION_HEADER = (b"sec-websocket-version", b"13")


def accept(upgrade: Upgrade) -> bytes | Refusal:
    """The 101 response for an upgrade request, or why not. No extension is ever accepted."""
    headers = Headers()
    for name, value in upgrade.headers:
        # No subprotocol is spoken here, and a client that offers some, or an empty
        # list as some do, goes on without (section 4.1, step 6 of the answer).
        if name != b"sec-websocket-protocol":
            headers[name.decode("latin-1")] = value.decode("latin-1")
    request = Request(
        path=upgrade.path,
        headers=headers,
        method=upgrade.method,
        protocol=f"HTTP/{upgrade.http_version}",
    )
    response = ServerProtocol(logger=_quiet).accept(request)
    if response.status_code == http.HTTPStatus.SWITCHING_PROTOCOLS:
        return response.serialize()
    if headers.get_all("Sec-WebSocket-Version") != ["13"]:
        error = BadRequest("The WebSocket version must be 13.", next="Use an RFC 6455 client.")
        extra = (_VERSION_HEADER, (b"upgrade", b"websocket"))
        return Refusal(error=error, status=http.HTTPStatus.UPGRADE_REQUIRED, headers=extra)
    allow = ((b"allow", b"GET"),) if response.status_code == 405 else ()
    return Refusal(
        error=BadRequest(
            "The WebSocket handshake is not valid.",
            next="Send GET over HTTP/1.1 with Sec-WebSocket-Key of 16 bytes (RFC 6455).",
        ),
        status=response.status_code,
        headers=allow,
    )
