"""An error as problem+json (RFC 9457), for HTTP answers and refused upgrades."""

from __future__ import annotations

import http
import math

import msgspec

from clawnet.core.errors import ClawError

MEDIA_TYPE = b"application/problem+json"
_encoder = msgspec.json.Encoder(enc_hook=str)


def body_of(error: ClawError, *, status: int | None = None) -> bytes:
    """The JSON body: the members of RFC 9457, then code, retryable, next and the facts."""
    status = error.status if status is None else status
    shown = error.as_dict()
    detail = shown.pop("message")
    problem = {
        "type": f"urn:clawnet:error:{error.code}",
        "title": title_of(status),
        "status": status,
        "detail": detail,
    }
    return _encoder.encode(problem | shown)


def headers_of(error: ClawError) -> list[tuple[bytes, bytes]]:
    """The headers that this error asks for, beside type and length."""
    headers = [(b"content-type", MEDIA_TYPE), (b"cache-control", b"no-store")]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status in (429, 503):
        wait_s = 1.0 if error.retry_after_s is None else error.retry_after_s
        headers.append((b"retry-after", str(max(1, math.ceil(wait_s))).encode()))
    return headers


def response_of(
    error: ClawError,
    *,
    status: int | None = None,
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> bytes:
    """A whole HTTP/1.1 response that ends the connection, for where no ASGI app answers."""
    status = error.status if status is None else status
    body = body_of(error, status=status)
    lines = [b"HTTP/1.1 %d %b" % (status, title_of(status).encode())]
    lines += [b"%b: %b" % pair for pair in (*headers_of(error), *headers)]
    lines += [b"content-length: %d" % len(body), b"connection: close", b"", body]
    return b"\r\n".join(lines)


def title_of(status: int) -> str:
    """The status in words."""
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Error"
