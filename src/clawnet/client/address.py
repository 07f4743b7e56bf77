"""The hub's address: one URL, from which all others are made."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from clawnet.core.errors import BadConfiguration

DEFAULT = "http://127.0.0.1:8080"


class Address(NamedTuple):
    """Where a hub is. `path` is a prefix without a trailing slash, mostly empty."""

    is_tls: bool
    host: str
    port: int
    path: str

    @property
    def _place(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}{self.path}"

    @property
    def url(self) -> str:
        """In one spelling, fit for comparing."""
        return f"{'https' if self.is_tls else 'http'}://{self._place}"

    @property
    def websocket_url(self) -> str:
        return f"{'wss' if self.is_tls else 'ws'}://{self._place}/api/v1/events/stream"

    @property
    def is_loopback(self) -> bool:
        """Whether the name alone says that it is this machine. Nothing is looked up."""
        host = self.host.rstrip(".")
        return host == "::1" or host == "localhost" or host.startswith("127.")


def parse_address(text: str) -> Address:
    """Read `http://host:port/prefix`; `ws://` and a bare `host:port` are understood too.

    Raises BadConfiguration.
    """
    whole = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(whole)
        port = parts.port
    except ValueError as error:
        raise _malformed(text, str(error)) from None
    if parts.scheme not in ("http", "https", "ws", "wss"):
        raise _malformed(text, "it begins with neither http:// nor https://")
    if not parts.hostname:
        raise _malformed(text, "it names no host")
    if parts.username or parts.password:
        raise _malformed(text, "it holds a user name or password; a token goes into --token")
    if parts.query or parts.fragment:
        raise _malformed(text, "it has a query or fragment")
    is_tls = parts.scheme in ("https", "wss")
    path = parts.path.rstrip("/")
    # Control characters and spaces would end up in the request line.
    if any(character <= " " or character > "~" for character in parts.hostname + path):
        raise _malformed(text, "it holds a character that no address has")
    return Address(is_tls, parts.hostname, port or (443 if is_tls else 80), path)


def check_token(token: str | None) -> str | None:
    """A token that can be sent in a header. Raises BadConfiguration without showing it."""
    if token is None:
        return None
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise BadConfiguration(
            "The token is empty or holds characters that no token has.",
            next="Copy the token again, in one piece; it has letters, digits, _ and - only.",
        )
    return token


def _malformed(text: str, reason: str) -> BadConfiguration:
    return BadConfiguration(
        f"{ascii(text[:200])} is not a hub's address: {reason}.",
        next=f"Give an address such as {DEFAULT}.",
    )
