"""Picks the engine, wires hub, doors and server, starts them and stops them in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import shlex
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from starlette.types import Receive, Scope, Send

import clawnet
from clawnet import __version__
from clawnet.app.admin import PATH as BACKUP_PATH
from clawnet.app.admin import BackupApp
from clawnet.app.clocks import SystemClock, SystemRandomness
from clawnet.app.config import NOT_USED, Settings
from clawnet.app.engines import open_engine
from clawnet.app.folder import DataFolder, default_path
from clawnet.app.notify import Notifier
from clawnet.app.tls import Certificate
from clawnet.core.errors import BadConfiguration, ClawError
from clawnet.doors.connections import Connections
from clawnet.doors.gate import Gate, is_loopback_name
from clawnet.doors.protocol import Seam
from clawnet.doors.server import HubServer
from clawnet.doors.wheel import Wheel
from clawnet.features import attach_all
from clawnet.hub.hub import Hub
from clawnet.hub.jwts import signing_key
from clawnet.hub.tokens import bootstrap_admin
from clawnet.ports.log import Engine

SWITCH_INTERVAL_S = 0.0005
"""How long the writer thread waits for the interpreter; Python's own 5 ms cost a third of the
throughput."""

FILES_BESIDE = 256
"""Open files that are no connections: the log, its indices, standard streams."""

_log = logging.getLogger(__name__)


def up(settings: Settings) -> int:
    """Run a hub until SIGTERM or Ctrl-C; returns the exit code.

    Raises BadConfiguration, AlreadyRunning and StorageCorrupt before it listens.
    """
    check(settings)
    notifier = Notifier.from_environment(os.environ)
    # Whatever the engine creates is for this user alone.
    os.umask(0o077)
    _set_up_logging(is_verbose=settings.dev)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    _raise_file_limit(settings.server.connections.connections_max + FILES_BESIDE)
    tell_unused(os.environ)
    certificate = certificate_of(settings)
    path = Path(settings.data_dir) if settings.data_dir else default_path()
    with DataFolder.open(path) as folder, asyncio.Runner(loop_factory=_loop_factory()) as runner:
        process = Process(settings, folder, certificate=certificate, notifier=notifier)
        return runner.run(process.run())


def check(settings: Settings) -> None:
    """Refuse what is dangerous together, or no host, origin or network. Raises BadConfiguration."""
    Gate(settings.server.gate)
    if settings.public_url is not None:
        from clawnet.doors.http.documents.place import check_public_url

        check_public_url(settings.public_url)
    if settings.dev and not is_closed(settings):
        raise BadConfiguration(
            "--dev is for this machine alone.", next="Bind to 127.0.0.1, or leave --dev out."
        )
    signing_key(settings.tokens.jwt_key, b"")
    settings.identity.check()


def tell_unused(environment: Mapping[str, str]) -> None:
    """Say once which variables of other systems do nothing here, before they are relied upon."""
    found = [name for name in NOT_USED if environment.get(name)]
    if found:
        _log.warning(
            "%s: no effect yet; the hub keeps everything in its data folder", ", ".join(found)
        )


def certificate_of(settings: Settings) -> Certificate | None:
    """The certificate to speak TLS with; None for plain HTTP. Raises BadConfiguration."""
    cert, key = settings.tls_cert, settings.tls_key
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise BadConfiguration(
            f"{'--tls-key' if cert is None else '--tls-cert'} is given without"
            f" {'--tls-cert' if cert is None else '--tls-key'}.",
            next="Give both, or neither for plain HTTP.",
        )
    return Certificate(Path(cert), Path(key))


def _raise_file_limit(wanted: int) -> None:
    """Let the process hold as many connections as its settings allow, if the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    reachable = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    except (ValueError, OSError):
        reachable = soft
    if reachable < wanted:
        _log.debug("only %d files may be open; raise the limit for more connections", reachable)


def is_closed(settings: Settings) -> bool:
    """Whether only this machine can reach the hub, so that loopback's conveniences hold."""
    return is_loopback_name(settings.bind) and not settings.behind_proxy


class Process:
    """One run of a hub in this process."""

    def __init__(
        self,
        settings: Settings,
        folder: DataFolder,
        *,
        certificate: Certificate | None = None,
        notifier: Notifier | None = None,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._certificate = certificate
        self._notifier = notifier or Notifier(None)
        self._reloading: asyncio.Task[None] | None = None
        self._failure: ClawError | None = None
        self._server: HubServer | None = None

    async def run(self) -> int:
        """Start, serve, stop."""
        starting = asyncio.ensure_future(self._start())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            # A long start (an index that is rebuilt) can be broken off; the server, once it
            # listens, puts its own handlers in their place.
            loop.add_signal_handler(number, self._stop, starting)
        if self._certificate is not None or self._notifier.is_heard:
            # Elsewhere SIGHUP keeps its meaning: the terminal is gone.
            loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        try:
            server = await starting
        except asyncio.CancelledError:
            return 0
        try:
            await server.serve()
            if self._reloading is not None:
                await self._reloading
        finally:
            self._notifier.close()
        if self._failure is not None:
            sys.stderr.write(f"claw: {self._failure.message}\n      {self._failure.next}\n")
            return 1
        return 0

    def _stop(self, starting: asyncio.Future[HubServer]) -> None:
        # The signal may come after the start has ended and before the server listens for it.
        starting.cancel()
        if self._server is not None:
            self._server.stop()

    def _hung_up(self) -> None:
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.get_running_loop().create_task(self._reload())

    async def _reload(self) -> None:
        """Read the certificate anew. Settings stay: a restart reads those."""
        self._notifier.reloading()
        if self._certificate is not None:
            await self._certificate.reload()
        self._notifier.reloaded()

    async def _start(self) -> HubServer:
        settings, folder = self._settings, self._folder
        key = settings.secret_key
        clock, randomness = SystemClock(), SystemRandomness()
        engine = await asyncio.to_thread(
            open_engine, settings.engine, folder.path, clock=clock, randomness=randomness
        )
        hub = Hub(
            engine,
            clock=clock,
            randomness=randomness,
            pepper=folder.secret_key() if key is None else key.encode(),
            settings=settings.hub,
            is_loopback=is_closed(settings),
            on_failed=self._failed,
        )
        logging.getLogger().addHandler(hub.server_log)
        try:
            attach_all(hub, settings.features(folder.path))
            await hub.start()
            token = await bootstrap_admin(hub, folder.admin_token())
            if token is not None:
                folder.write_admin_token(token)
            self._server = self._wire(hub, engine)
            hub.server_log.say(f"clawnet {__version__} started, engine {settings.engine}")
        # Cancellation too: what is open must be closed before the folder's lock is given back.
        except BaseException:
            logging.getLogger().removeHandler(hub.server_log)
            await asyncio.shield(hub.close())
            raise
        # What is loaded now stays: the collector need not walk it again and again.
        gc.collect()
        gc.freeze()
        # Envelopes make no cycles; measured, collecting less often is worth 5 to 10 %.
        gc.set_threshold(50_000, 20, 50)
        return self._server

    def _wire(self, hub: Hub, engine: Engine) -> HubServer:
        from clawnet.doors.centrifugo.door import CentrifugoDoor
        from clawnet.doors.http.app import build_app
        from clawnet.doors.socketio.door import SocketioDoor
        from clawnet.doors.ws.door import PATH, WebSocketDoor

        settings = self._settings.server
        connections = Connections(settings.connections, Wheel())
        door = WebSocketDoor(hub, connections)
        centrifugo = CentrifugoDoor(hub, connections, self._settings.centrifugo)
        socketio = SocketioDoor(hub, connections, self._settings.socketio)
        gate = Gate(settings.gate)
        seam = Seam(
            gate=gate,
            connections=connections,
            upgrades={PATH: door.take, **centrifugo.upgrades, **socketio.upgrades},
            authenticate=hub.authenticate,
        )

        backup = BackupApp(hub, self._folder, engine=engine, name=self._settings.engine)
        http = build_app(
            hub,
            settings=self._settings.http,
            claw_events=self._settings.claw_events,
            centrifugo=centrifugo,
            socketio=socketio,
            origins=gate.allowed_origins,
            public_url=self._settings.public_url,
            beside={BACKUP_PATH: {"POST": BackupApp.__call__}},
        )

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            # The one path that is the process's own and no door's.
            is_backup = scope["type"] == "http" and scope["path"] == BACKUP_PATH
            await (backup if is_backup else http)(scope, receive, send)

        async def stop_accepting() -> None:
            self._notifier.stopping()
            http.stop()
            await hub.stop_accepting()

        async def close() -> None:
            await door.close()
            await centrifugo.close()
            await socketio.close()
            await hub.close()
            logging.getLogger().removeHandler(hub.server_log)

        return HubServer(
            app,
            settings=settings,
            seam=seam,
            tls=self._certificate,
            on_listening=self._listening,
            on_stop_accepting=stop_accepting,
            on_drain=hub.drain,
            on_close=close,
        )

    def _listening(self, url: str) -> None:
        sys.stdout.write(f"clawnet {clawnet.__version__} listening on {url}\n")
        sys.stdout.flush()
        token = self._folder.admin_token_path
        lines = [f"admin token: {token}"]
        if not is_closed(self._settings):
            lines.append(
                "Others can reach this hub: every request needs a token, and what is open on"
                " loopback only is closed."
            )
        reachable = _reachable(url)
        server = "" if reachable == "http://127.0.0.1:8080" else f" --server {reachable}"
        lines.append(
            f'try next:    claw login{server} --token "$(cat {shlex.quote(str(token))})"'
            " && claw pub public.lobby hello"
        )
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()
        self._notifier.ready(lambda: self._status(url))

    def _status(self, url: str) -> str:
        count = 0 if self._server is None else len(self._server.seam.connections.all)
        return f"listening on {url}, {count} connections"

    def _failed(self, error: ClawError) -> None:
        """Storage failed: nothing more can be promised, so the process ends and recovers."""
        self._failure = error
        _log.error("storage failed: %s", error.message)
        if self._server is not None:
            self._server.stop()


def _reachable(url: str) -> str:
    """The address for a client on this machine: 0.0.0.0 and :: are places to listen only."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _set_up_logging(*, is_verbose: bool) -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if is_verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    # httpx tells of every request, with its address, at INFO.
    for name in ("asyncio", "uvicorn", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop
