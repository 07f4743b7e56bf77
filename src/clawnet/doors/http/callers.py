"""Who a request comes from, without hashing the same token for every request."""

from __future__ import annotations

from collections.abc import Mapping

from clawnet.core.callers import Caller
from clawnet.doors.http.request import bearer
from clawnet.hub.hub import Hub
from clawnet.hub.vault import TOKEN_MAX_CHARS

REMEMBERED_MAX = 4_096
REMEMBERED_MAX_BYTES = 1 << 20
"""Of headers: blanks make any number of long ones of one token."""
_HEADER_MAX_BYTES = TOKEN_MAX_CHARS + 16


class Callers:
    """Remembers which token id an Authorization header stands for: 4 µs less a request.

    Only the id is remembered, never a caller: whether the token still holds and what it
    may do is read from the directory each time, and its end is held against the time. For a
    JWT that also spares the signature; one that the directory forgot is verified again.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._ids: dict[bytes, str] = {}
        self._bytes = 0

    def of(self, headers: Mapping[bytes, bytes]) -> Caller:
        """Raises Unauthenticated."""
        given = headers.get(b"authorization", b"")
        known = self._ids.get(given)
        if known is not None:
            directory = self._hub.directory
            caller = directory.caller(known)
            if caller is not None and (
                caller.expires_ms is None or caller.expires_ms > directory.now_ms()
            ):
                self._hub.uses.marks.add(known)
                return caller
        caller = self._hub.authenticate(bearer(headers))
        if caller.token_id is not None and len(given) <= _HEADER_MAX_BYTES:
            if known is None:
                self._bytes += len(given)
                if len(self._ids) >= REMEMBERED_MAX or self._bytes > REMEMBERED_MAX_BYTES:
                    self._ids.clear()
                    self._bytes = len(given)
            self._ids[given] = caller.token_id
        return caller
