"""TLS in front of the seam: a connection is counted from its first byte, not after its handshake.

asyncio's own `create_server(ssl=…)` tells nobody of a connection before its
handshake is complete, so whoever only opens sockets would be bound by no
limit; and it keeps one certificate for its life. Here each accepted
connection enters the registry as a silent one, takes the certificate of that
moment, and is handed on when the handshake is done.

`start_tls` is no way to do it: uvloop begins to read whatever connection_made
says, so that bytes which arrive early are read past TLS and lost.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any, Protocol, cast

from clawnet.core.live import End
from clawnet.doors.connections import Connection, Standing
from clawnet.doors.protocol import Seam

SHUTDOWN_TIMEOUT_S = 2.0
"""How long a closing connection waits for the other side's close_notify."""
BACKLOG = 2_048
ACCEPTED_PER_TURN = 64
PAUSE_S = 1.0
"""How long nothing is accepted when the process or the system is out of files or memory."""

_OUT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_log = logging.getLogger(__name__)


class TlsContext(Protocol):
    """Where the certificate comes from; it may be another one for the next connection."""

    @property
    def context(self) -> ssl.SSLContext:
        """For a handshake that begins now."""


class TlsListener:
    """Accepts on one listening socket, and owns the handshakes under way."""

    def __init__(
        self,
        sock: socket.socket,
        tls: TlsContext,
        *,
        seam: Seam,
        then: Callable[[], asyncio.Protocol],
    ) -> None:
        self.tls = tls
        self.seam = seam
        self.then = then
        self._sock = sock
        self._handshakes: set[Handshake] = set()
        self._pause: asyncio.TimerHandle | None = None
        sock.listen(BACKLOG)
        self._listen()

    def close(self) -> None:
        """Accept nothing more. Handshakes under way are the registry's to end."""
        if self._pause is not None:
            self._pause.cancel()
        asyncio.get_running_loop().remove_reader(self._sock.fileno())
        self._sock.close()

    async def wait_closed(self) -> None:
        """Wait for the handshakes that were ended."""
        tasks = [handshake.task for handshake in self._handshakes]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def over(self, handshake: Handshake) -> None:
        """A handshake has ended, well or not."""
        self._handshakes.discard(handshake)

    def _listen(self) -> None:
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_PER_TURN):
            try:
                sock, address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT:
                    raise
                # It would be tried again at once, and again, as the connection still waits.
                _log.error("no connection can be accepted: %s", error)
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._sock.fileno())
                self._pause = loop.call_later(PAUSE_S, self._listen)
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            handshake = Handshake(self, sock, str(address[0]))
            if handshake.begin():
                self._handshakes.add(handshake)


class Handshake(asyncio.Protocol, Connection):
    """One connection until it speaks TLS."""

    task: asyncio.Task[None]

    def __init__(self, listener: TlsListener, sock: socket.socket, peer: str) -> None:
        self._listener = listener
        self._sock = sock
        self.wheel_slot = -1
        self.standing = Standing.SILENT
        # As in the seam: all connections of a proxy come from its address.
        self.address: str | None = None if listener.seam.gate.is_proxy(peer) else peer

    def begin(self) -> bool:
        """Enter the registry; False, and the socket is closed, if there is no room."""
        seam = self._listener.seam
        if seam.is_stopping or not seam.connections.enter(self):
            self._sock.close()
            return False
        seam.connections.wheel.set(self, seam.connections.settings.head_timeout_s)
        self.task = asyncio.get_running_loop().create_task(self._shake())
        self.task.add_done_callback(self._over)
        return True

    async def _shake(self) -> None:
        try:
            # The wheel is its deadline; the loop's own is longer.
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self,
                self._sock,
                ssl=self._listener.tls.context,
                ssl_shutdown_timeout=SHUTDOWN_TIMEOUT_S,
            )
        except OSError as error:
            # No TLS, no common version, no trust in the certificate, or gone.
            _log.debug("a handshake failed: %s", error)
            self._sock.close()

    def _over(self, task: asyncio.Task[None]) -> None:
        self._listener.seam.connections.leave(self)
        self._listener.over(self)
        if task.cancelled():
            # Also before its first step, when no transport has the socket.
            self._sock.close()

    # --- what TLS calls -----------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done: hand on, before the first byte is read."""
        # Out before the other enters, who might be refused for it.
        self._listener.seam.connections.leave(self)
        protocol = self._listener.then()
        cast(Any, transport).set_protocol(protocol)
        protocol.connection_made(transport)

    # --- what the registry calls --------------------------------------------

    def on_time(self) -> float | None:
        """The handshake took too long."""
        self.abort()
        return None

    def stop_reading(self) -> None:
        self.abort()

    def close(self, end: End) -> None:
        self.abort()

    def abort(self) -> None:
        self.task.cancel()
