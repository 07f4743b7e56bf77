"""How a connection is dropped together with all that the client has not been sent."""

from __future__ import annotations

import asyncio
import os
import socket
import struct

_AT_ONCE = struct.pack("ii", 1, 0)
"""A close that waits for nothing."""


def cut(transport: asyncio.Transport) -> None:
    """Abort, and have the kernel drop what it holds of it: an ordinary close would send that."""
    made = transport.get_extra_info("socket")
    if made is not None:
        try:
            # uvloop's sockets are no sockets, so the option is set by another handle on the same.
            with socket.socket(fileno=os.dup(made.fileno())) as same:
                same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        except OSError:
            # It is gone already.
            pass
    transport.abort()
