"""The hub's own URL, as its clients reach it: the one source for every document and answer.

The Host header is anybody's text. Only a host that the gate admitted counts, and only if it is
made of letters, digits, dots and hyphens (or is an address): such a URL means itself in JSON, HTML,
Markdown and a shell alike. For any other the address that the server listens on is shown.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from clawnet.core.errors import BadConfiguration

if TYPE_CHECKING:
    from clawnet.doors.http.request import Request

_NAME = r"[a-z0-9](?:[a-z0-9._-]{0,251}[a-z0-9])?"
_ADDRESS = r"[0-9a-f:.]{2,45}"
_HOST = re.compile(_NAME)
_ADDRESS_6 = re.compile(_ADDRESS)
_PUBLIC = re.compile(
    rf"https?://(?:{_NAME}|\[{_ADDRESS}\])(?::[0-9]{{1,5}})?(?:/[A-Za-z0-9._~-]{{1,64}}){{0,8}}"
)
_STANDARD_PORTS = {"http": 80, "https": 443}


def check_public_url(text: str) -> str:
    """A configured public URL without its trailing slash. Raises BadConfiguration."""
    url = text.strip().rstrip("/")
    if not _PUBLIC.fullmatch(url):
        raise BadConfiguration(
            f"{ascii(text[:80])} in public_url is not a hub's URL.",
            next="Write it as clients reach the hub: https://hub.example or http://10.0.0.5:8080.",
        )
    return url


def public_url(request: Request) -> str:
    """Where this hub is, for the client that asks: no trailing slash, fit for every format."""
    configured = request.door.public_url
    if configured is not None:
        return configured
    scope = request.scope
    scheme = "https" if scope.get("scheme") == "https" else "http"
    admitted = scope.get("state", {}).get("admitted")
    if admitted is not None:
        scheme = admitted.scheme or scheme
        place = _authority(admitted.host, admitted.port, scheme=scheme)
        if place is not None:
            return f"{scheme}://{place}"
    host, port = scope.get("server") or ("127.0.0.1", None)
    return f"{scheme}://{_authority(str(host), port, scheme=scheme) or '127.0.0.1'}"


def _authority(host: str, port: int | None, *, scheme: str) -> str | None:
    if ":" in host and _ADDRESS_6.fullmatch(host):
        host = f"[{host}]"
    elif not _HOST.fullmatch(host):
        return None
    return host if port in (None, _STANDARD_PORTS[scheme]) else f"{host}:{port}"
