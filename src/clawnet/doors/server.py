"""Listens, and stops in order. What is served, and by which hub, the app decides.

A subclass of uvicorn's Server. uvicorn's own shutdown waits without end for an
open stream, closes connections before the app could answer, and ends by
raising the signal again; here nothing acknowledged is lost and the exit is 0.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from email.utils import formatdate
from typing import Any

import msgspec
import uvicorn

from clawnet.core.errors import BadConfiguration, ClawError
from clawnet.core.live import End
from clawnet.doors.connections import ConnectionSettings
from clawnet.doors.gate import GateSettings
from clawnet.doors.protocol import HubProtocol, Seam
from clawnet.doors.tls import TlsContext, TlsListener
from clawnet.doors.wheel import TICK_S

BACKLOG = 2_048
TIMED_PER_TURN = 64
"""How many connections whose time has come are served in one turn: about 1 ms of pings."""

# Together below 0.9 s, within which the process has to be gone.
STOP_MAX_S = 0.05
DRAIN_MAX_S = 0.4
ANSWERS_MAX_S = 0.05
CLOSE_MAX_S = 0.25
LEAVE_MAX_S = 0.1

Step = Callable[[], Awaitable[None]]
_log = logging.getLogger(__name__)


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where to listen and whom to let in. `port` 0 takes a free one."""

    bind: str = "127.0.0.1"
    port: int = 8080
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    behind_proxy: tuple[str, ...] = ()
    connections: ConnectionSettings = ConnectionSettings()

    @property
    def gate(self) -> GateSettings:
        """The part that the gate needs."""
        return GateSettings(
            bind=self.bind,
            allowed_hosts=self.allowed_hosts,
            allowed_origins=self.allowed_origins,
            behind_proxy=self.behind_proxy,
        )


async def nothing() -> None:
    """A step that has nothing to do."""


class HubServer(uvicorn.Server):
    """Serves `app` and the seam's upgrades until stop() or a signal, then stops in order.

    The order: stop accepting and reading (`on_stop_accepting`), commit and
    answer what is queued (`on_drain`), close live connections with a code to
    come back, end sessions and close the engine (`on_close`). Each step has
    its own bound; a second signal changes nothing.
    """

    def __init__(
        self,
        app: Any,
        *,
        settings: ServerSettings,
        seam: Seam,
        tls: TlsContext | None = None,
        on_listening: Callable[[str], None] = lambda url: None,
        on_stop_accepting: Step = nothing,
        on_drain: Step = nothing,
        on_close: Step = nothing,
        handles_signals: bool = True,
    ) -> None:
        config = uvicorn.Config(
            app,
            host=settings.bind,
            port=settings.port,
            http=functools.partial(HubProtocol, seam=seam),  # type: ignore[arg-type]
            ws="none",
            loop="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=settings.connections.keep_alive_s,  # type: ignore[arg-type]
        )
        super().__init__(config)
        self.settings = settings
        self.seam = seam
        self.url = ""
        self._tls = tls
        self.is_stopped = asyncio.Event()
        self._on_listening = on_listening
        self._on_stop_accepting = on_stop_accepting
        self._on_drain = on_drain
        self._on_close = on_close
        self._handles_signals = handles_signals
        self._stop = asyncio.Event()
        self._ticker: asyncio.TimerHandle | None = None
        self._ticked_at_s = 0.0

    def stop(self) -> None:
        """Begin to stop. To be called on the loop; repeating it is no error."""
        self._stop.set()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, serve, stop. Raises BadConfiguration if the address cannot be had."""
        try:
            await self.startup(sockets)
        except ClawError:
            await self._step("close", self._on_close, CLOSE_MAX_S)
            raise
        caught = self._catch_signals()
        try:
            self._on_listening(self.url)
            # No deadline: this is the life of the process.
            await self._stop.wait()
        finally:
            await self.shutdown(sockets)
            self._release_signals(caught)
            self.is_stopped.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. `self.url` names the first address."""
        if not self.config.loaded:
            self.config.load()
        loop = asyncio.get_running_loop()
        listening = sockets or await listen(self.settings.bind, self.settings.port)
        protocol: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        make = functools.partial(
            protocol,
            config=self.config,
            server_state=self.server_state,
            app_state={},
            _loop=loop,
        )
        self.servers: list[Any] = []
        for sock in listening:
            if self._tls is not None:
                self.servers.append(TlsListener(sock, self._tls, seam=self.seam, then=make))
            else:
                self.servers.append(await loop.create_server(make, sock=sock, backlog=BACKLOG))
        port = listening[0].getsockname()[1]
        self.url = url_of(self.settings.bind, port, is_tls=self._tls is not None)
        self._ticked_at_s = loop.time()
        self._tick()
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop in order, as the class says."""
        connections = self.seam.connections
        self.seam.is_stopping = True
        for server in self.servers:
            server.close()
        for connection in list(connections.all):
            connection.stop_reading()
        await self._step("stop accepting", self._on_stop_accepting, STOP_MAX_S)
        await self._step("drain", self._on_drain, DRAIN_MAX_S)
        # What waited for a commit is answered now; streams and long polls go on until on_close.
        await self._tasks_over(ANSWERS_MAX_S)
        for connection in list(connections.all):
            connection.close(End.SHUTDOWN)
        await self._step("close", self._on_close, CLOSE_MAX_S)
        await self._tasks_over(LEAVE_MAX_S / 2)
        await self._connections_over(LEAVE_MAX_S / 2)
        await self._cut_off()
        if self._ticker is not None:
            self._ticker.cancel()

    # --- steps --------------------------------------------------------------

    async def _step(self, name: str, step: Step, limit_s: float) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await step()
        except TimeoutError:
            _log.error("shutdown: %s took longer than %s s", name, limit_s)
        except Exception:  # one failed step must not keep the others from being taken
            _log.exception("shutdown: %s failed", name)

    async def _tasks_over(self, limit_s: float) -> None:
        """Wait for running requests; those that are still there afterwards stay."""
        if self.server_state.tasks:
            await asyncio.wait(set(self.server_state.tasks), timeout=limit_s)

    async def _connections_over(self, limit_s: float) -> None:
        """Wait for the other sides to answer the close."""
        if not self.seam.connections.all:
            return
        empty = asyncio.Event()
        self.seam.connections.on_empty = empty.set
        try:
            async with asyncio.timeout(limit_s):
                await empty.wait()
        except TimeoutError:
            pass

    async def _cut_off(self) -> None:
        """End whatever is left.

        Connections first: a request that is cancelled on an open one would be answered
        with 500, though its publish may be stored; a lost answer is repeated under its key.
        """
        for connection in list(self.seam.connections.all):
            connection.abort()
        # The transports' own last callbacks.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        tasks = set(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=LEAVE_MAX_S / 2)
        for server in self.servers:
            if isinstance(server, TlsListener):
                await server.wait_closed()

    # --- time and signals ---------------------------------------------------

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        wheel = self.seam.connections.wheel
        wheel.turn(now_s - self._ticked_at_s)
        self._ticked_at_s = now_s
        date = formatdate(time.time(), usegmt=True).encode()
        self.server_state.default_headers = [(b"date", date)]
        self._ticker = loop.call_later(TICK_S, self._tick)
        self._serve_timed()

    def _serve_timed(self) -> None:
        if self.seam.connections.wheel.run(TIMED_PER_TURN):
            asyncio.get_running_loop().call_soon(self._serve_timed)

    def _catch_signals(self) -> tuple[signal.Signals, ...]:
        if not self._handles_signals or threading.current_thread() is not threading.main_thread():
            return ()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        return (signal.SIGTERM, signal.SIGINT)

    def _release_signals(self, caught: Iterable[signal.Signals]) -> None:
        loop = asyncio.get_running_loop()
        for number in caught:
            loop.remove_signal_handler(number)


async def listen(host: str, port: int) -> list[socket.socket]:
    """Bound sockets for every address of `host`, all with the same port (0: a free one).

    Raises BadConfiguration with what to do.
    """
    loop = asyncio.get_running_loop()
    if not 0 <= port <= 65_535:
        raise BadConfiguration(
            f"{port} is not a port.", next="Give --port a number up to 65535 (0: a free one)."
        )
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise BadConfiguration(
            f"{ascii(host)} is not an address of this machine: {_reason(error)}.",
            next="Give --bind an address such as 127.0.0.1.",
        ) from None
    bound: list[socket.socket] = []
    failure: BadConfiguration | None = None
    for family, _, _, _, address in dict.fromkeys(found):
        # With the protocol named, asyncio sets TCP_NODELAY on what is accepted.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # A free port is chosen once, also if the name has several addresses.
            chosen = bound[0].getsockname()[1] if bound else port
            sock.bind((address[0], chosen, *address[2:]))
            # Now, since a second hub that binds the same address fails only here.
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            failure = _cannot_listen(error, host=host, port=port)
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue  # a machine without IPv6 still has localhost
            break
        bound.append(sock)
    else:
        if bound:
            return bound
    for sock in bound:
        sock.close()
    assert failure is not None, "a name without addresses raises above"
    raise failure


def url_of(host: str, port: int, *, is_tls: bool = False) -> str:
    """The address as a person would open it."""
    scheme = "https" if is_tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _cannot_listen(error: OSError, *, host: str, port: int) -> BadConfiguration:
    if error.errno == errno.EADDRINUSE:
        return BadConfiguration(
            f"The address {host}:{port} is in use by another program.",
            next="Stop that program (ss -ltnp shows it), or choose another --port.",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return BadConfiguration(
            f"This user may not listen on {host}:{port}.",
            next="Choose a --port above 1023.",
        )
    return BadConfiguration(
        f"Listening on {host}:{port} is not possible: {_reason(error)}.",
        next="Give --bind an address of this machine, such as 127.0.0.1.",
    )


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
