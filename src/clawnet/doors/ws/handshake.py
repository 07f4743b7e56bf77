"""The opening handshake (RFC 6455, section 4.2), for every door that speaks WebSocket."""

from __future__ import annotations

import base64
import binascii
import http
import logging
import time
from email.utils import formatdate
from functools import lru_cache

from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.utils import accept_key

from clawnet.core.errors import BadRequest
from clawnet.doors.protocol import Refusal, Upgrade

# The library tells of each handshake at INFO; a hub has thousands.
_quiet = logging.getLogger(f"{__name__}.parser")
_quiet.setLevel(logging.WARNING)

_VERSION_HEADER = (b"sec-websocket-version", b"13")
_NEEDED = {b"upgrade", b"connection", b"sec-websocket-key", b"sec-websocket-version"}
_LOOKED_AT = _NEEDED | {b"origin"}
_USUAL_OPTIONS = ([b"upgrade"], [b"keep-alive", b"upgrade"])
_KEY_BYTES = 16


def accept(upgrade: Upgrade, *, subprotocol: str | None = None) -> bytes | Refusal:
    """The 101 response for an upgrade request, or why not. No extension is ever accepted.

    `subprotocol` is the one that the door chose from what the client offers.
    """
    key = _key_of_usual(upgrade)
    if key is not None:
        return _accepted(key, subprotocol)
    headers = Headers()
    for name, value in upgrade.headers:
        # A subprotocol is the door's to choose, and a client that offers some, or an empty
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
        if subprotocol is not None:
            response.headers["Sec-WebSocket-Protocol"] = subprotocol
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


def _key_of_usual(upgrade: Upgrade) -> str | None:
    """The key of a request that nothing is wrong or strange about, which nearly all are.

    The library takes everything else. Measured: 3 µs here, 28 µs there.
    """
    if upgrade.method != "GET" or upgrade.http_version != "1.1":
        return None
    found: dict[bytes, bytes] = {}
    for name, value in upgrade.headers:
        if name in _LOOKED_AT:
            if name in found:
                return None
            found[name] = value
    if not found.keys() >= _NEEDED or found[b"sec-websocket-version"] != b"13":
        return None
    # "keep-alive, Upgrade" is what one browser says.
    options = [option.strip(b" \t").lower() for option in found[b"connection"].split(b",")]
    if found[b"upgrade"].lower() != b"websocket" or options not in _USUAL_OPTIONS:
        return None
    key = found[b"sec-websocket-key"]
    try:
        is_whole = len(base64.b64decode(key, validate=True)) == _KEY_BYTES
    except binascii.Error:
        return None
    return key.decode("ascii") if is_whole else None


def _accepted(key: str, subprotocol: str | None) -> bytes:
    """What the library would answer."""
    chosen = "" if subprotocol is None else f"Sec-WebSocket-Protocol: {subprotocol}\r\n"
    return (
        f"HTTP/1.1 101 Switching Protocols\r\nDate: {_date(int(time.time()))}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_key(key)}\r\n{chosen}\r\n"
    ).encode()


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
