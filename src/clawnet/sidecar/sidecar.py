"""The sidecar's life: join the hub, take work, report, tell results, end in order."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from clawnet.client.backoff import Backoff
from clawnet.client.client import Client
from clawnet.client.wire import Signal
from clawnet.core.calls.fleet import Enrolled
from clawnet.core.calls.reading import Gap
from clawnet.core.calls.tasks import TASKS_CHANNEL
from clawnet.core.errors import BadConfiguration, ClawError, Forbidden, Unauthenticated
from clawnet.core.events import Event
from clawnet.sidecar.desk import Desk
from clawnet.sidecar.folder import Folder
from clawnet.sidecar.health import Health
from clawnet.sidecar.journal import Journal
from clawnet.sidecar.model import ModelProvider, OpenAICompatible
from clawnet.sidecar.openclaw import find, signature
from clawnet.sidecar.settings import SidecarSettings
from clawnet.sidecar.telemetry import LinkFacts, specs, usage
from clawnet.sidecar.work import Machine

logger = logging.getLogger("clawnet.sidecar")

CRON_EVERY_S = 60.0
TELL_AT_END_S = 3.0
CLIENTS_MAX = 2
_CONNECTED = "Connected again."


class Sidecar:
    """One agent's sidecar. run() lasts until `stop` is set; a second one of it is refused.

    `say` hears a sentence about each change that a person may want to see.
    """

    def __init__(
        self,
        settings: SidecarSettings,
        *,
        say: Callable[[str], None] = lambda _: None,
        model: ModelProvider | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        if model is None and settings.model is not None:
            model = OpenAICompatible(settings.model)
        self.settings = settings
        self.link = LinkFacts()
        self.health = Health(self.facts)
        self._say_to = say
        self._model = model
        self._chance = chance
        self._clients: list[Client] = []
        self._is_introduced = False
        self._cron: list[dict[str, Any]] | None = None
        self._cron_told: list[dict[str, Any]] | None = None
        self._reports = 0
        self._said = ""
        self._binary: object = None
        self._folder: Folder
        self._journal: Journal
        self._machine: Machine
        self._desk: Desk

    # --- from start to end --------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Raises ClawError: AlreadyRunning, BadConfiguration, Unauthenticated, Forbidden."""
        self._folder = await asyncio.to_thread(
            Folder, self.settings.state_dir, self.settings.agent_id
        )
        handler = None
        try:
            handler = self._folder.log_to_file(logger)
            self._journal = await asyncio.to_thread(_opened, self._folder)
            await self._run(stop)
        finally:
            if handler is not None:
                logger.removeHandler(handler)
                handler.close()
            self._folder.close()

    async def _run(self, stop: asyncio.Event) -> None:
        settings = self.settings
        self._machine = Machine(
            settings=settings, folder=self._folder.path, hub=self._hub, model=self._model
        )
        self._desk = Desk(self._journal, self._machine, backoff=self._backoff, chance=self._chance)
        try:
            await self._desk.end_interrupted()
            if settings.health_port is not None:
                await self.health.start(settings.health_port)
                self._say(f"Its health is at http://127.0.0.1:{self.health.port}/healthz.")
            working = asyncio.create_task(self._work())
            stopping = asyncio.create_task(stop.wait())
            first: set[asyncio.Task[Any]] = {working, stopping}
            try:
                # No deadline: it runs until it is ended.
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in first:
                    task.cancel()
                await asyncio.gather(*first, return_exceptions=True)
                logger.info("the sidecar ends")
                await self._desk.end()
                await self._end_link()
            if not working.cancelled():
                working.result()
        finally:
            await self.health.close()
            self._journal.close()

    async def _end_link(self) -> None:
        """Tell what is not told yet, if the hub is there; then close."""
        if not self._clients:
            return
        try:
            async with asyncio.timeout(TELL_AT_END_S):
                await self._desk.tell_results()
        except (TimeoutError, ClawError):
            logger.warning("some results are told at the next start")
        for client in self._clients:
            await client.aclose()

    def _hub(self) -> Client:
        return self._clients[-1]  # work begins when there is one

    # --- the link -----------------------------------------------------------

    async def _work(self) -> None:
        settings = self.settings
        self._binary = signature(settings.openclaw_bin)
        self._machine.openclaw = await find(settings.openclaw_bin, grace_s=settings.grace_s)
        token, is_fresh = await self._token()
        while True:
            reports = self._reports
            # The one before stays open: tasks may be in the middle of a call.
            self._clients.append(Client(settings.server, token, backoff=self._backoff))
            if len(self._clients) > CLIENTS_MAX:
                await self._clients.pop(0).aclose()
            try:
                await self._connected(self._clients[-1])
            except (Unauthenticated, Forbidden) as error:
                # A revoked session: the secret may give another, if the last one was good.
                is_refused = is_fresh and self._reports == reports
                if is_refused or settings.secret is None or settings.token:
                    raise
                # A link that is ended for a revoked token says Forbidden, as other refusals do.
                if isinstance(error, Forbidden) and await self._holds(token):
                    raise
            self._is_introduced = False
            token, is_fresh = await self._enrolled(), True

    async def _connected(self, client: Client) -> None:
        """Raises the error that ended one of its parts."""
        loops: tuple[Callable[[], Awaitable[None]], ...] = (
            lambda: self._follow(client),
            self._desk.take,
            self._report,
            self._desk.tell,
            self._watch_openclaw,
        )
        running = {asyncio.ensure_future(loop()) for loop in loops}
        try:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for part in running:
                part.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        for part in done:
            part.result()

    async def _token(self) -> tuple[str, bool]:
        """The token to show, and whether it was given right now."""
        settings = self.settings
        token = settings.token or self._folder.token(settings.server)
        if token is None and settings.secret is None:
            token = settings.fallback_token
        if token is None:
            return await self._enrolled(), True
        async with Client(settings.server, token, backoff=self._backoff) as client:
            try:
                me = await client.request(
                    "GET", "/api/v1/me", None, msgspec.Raw, within_s=None, on_failure=self._failed
                )
            except Unauthenticated:
                if settings.token or settings.secret is None:
                    raise
                return await self._enrolled(), True
        found = msgspec.json.decode(me)
        account = found.get("account", found)
        found_id = account.get("id") if isinstance(account, dict) else None
        if found_id != settings.agent_id:
            raise BadConfiguration(
                f"The token belongs to {ascii(str(found_id)[:80])}, not to {settings.agent_id}.",
                next="Set AGENT_ID to the token's account, or give the token of the agent.",
            )
        return token, False

    async def _holds(self, token: str) -> bool:
        """Whether the hub still takes a token."""
        async with Client(self.settings.server, token, backoff=self._backoff) as client:
            try:
                await client.request("GET", "/api/v1/me", None, msgspec.Raw, within_s=None)
            except Unauthenticated:
                return False
        return True

    async def _enrolled(self) -> str:
        """A session token for the shared secret, kept for the next start."""
        settings = self.settings
        if settings.secret is None:
            raise BadConfiguration(
                f"There is neither a token nor a secret for {settings.agent_id}.",
                next="Set CLAWNET_TOKEN, or CLAWNET_SECRET to the hub's shared secret.",
            )
        body = {"secret": settings.secret, "agent_id": settings.agent_id}
        if settings.role in ("master", "warden", "worker"):
            body["role"] = settings.role  # any other is a word for the fleet's list
        async with Client(settings.server, backoff=self._backoff) as client:
            given = await client.request(
                "POST", "/api/v1/enrol", body, Enrolled, within_s=None, on_failure=self._failed
            )
        token = given.session_token
        await asyncio.to_thread(self._folder.keep_token, settings.server, token)
        return token

    def _backoff(self) -> Backoff:
        settings = self.settings
        return Backoff(first_s=settings.backoff_first_s, most_s=settings.backoff_most_s)

    def _failed(self, error: ClawError) -> None:
        self._say(f"{error.message} Trying again until it does.")

    def _say(self, text: str) -> None:
        # Once for each change: an hour without a hub is one line.
        if text != self._said:
            self._said = text
            logger.info("%s", ascii(text))
            self._say_to(text)

    def _state(self, text: str) -> None:
        self._say(text)
        if text == _CONNECTED:
            self._up()
        elif self.link.is_connected:
            self.link.is_connected = False
            self.link.lost += 1
            self.link.last_lost_ms = round(time.time() * 1000)
            # A hub that starts anew may know nothing of us.
            self._is_introduced = False

    def _up(self) -> None:
        self.link.is_connected = True
        self.link.connects += 1
        self._desk.wake()

    async def _follow(self, client: Client) -> None:
        channel = TASKS_CHANNEL(self.settings.agent_id)
        try:
            async with client.subscribe(
                [channel], on_gap=self._missed, on_signal=self._heard, on_state=self._state
            ) as events:
                self._say(f"{self.settings.agent_id} is connected to {self.settings.server}.")
                self._up()
                async for event in events:
                    self._heard(event)
        finally:
            self.link.is_connected = False

    def _missed(self, gap: Gap) -> None:
        # What is open is asked for, and what ended is heard, after every return: see Desk.wake().
        logger.info("events %d to %d are gone (%s)", gap.first, gap.last, ascii(gap.reason))

    def _heard(self, event: Event | Signal) -> None:
        self._desk.heard(event.type, event.data)

    # --- reports ------------------------------------------------------------

    async def _report(self) -> None:
        fixed = await asyncio.to_thread(specs)
        while True:
            said: dict[str, Any] = {"resource_usage": await asyncio.to_thread(usage)}
            said["resource_usage"] |= self.link.as_usage()
            said["resource_usage"]["tasks_running"] = len(self._desk.running)
            cron = self._cron
            if cron is not None and not (self._is_introduced and cron == self._cron_told):
                said["cron"] = cron
            if not self._is_introduced:
                openclaw = self._machine.openclaw
                shown = None if openclaw is None else openclaw.version
                said["specs"] = {**fixed, "openclaw": shown}
                said["capabilities"] = self._machine.capabilities
                said["role"] = self.settings.role
                self._is_introduced = True
            began_s = time.monotonic()
            try:
                await self._hub().report(**said)
            except Unauthenticated:
                raise
            except ClawError as error:
                self._is_introduced = False
                logger.debug("no report: %s", ascii(error.message))
            else:
                self.link.latency_ms = (time.monotonic() - began_s) * 1000
                self.link.last_report_ms = round(time.time() * 1000)
                self._reports += 1
                self._cron_told = cron
            await asyncio.sleep(self._jittered(self.settings.report_every_s))

    async def _watch_openclaw(self) -> None:
        """Look now and then whether OpenClaw came, went or changed, and what its cron jobs do."""
        machine, settings = self._machine, self.settings
        while True:
            if machine.openclaw is not None:
                self._cron = await machine.openclaw.cron(grace_s=settings.grace_s)
            elif self._cron is not None:
                self._cron = []
            await asyncio.sleep(self._jittered(CRON_EVERY_S))
            seen = signature(settings.openclaw_bin)
            if seen == self._binary and (seen is None or machine.openclaw is not None):
                continue  # asking it what it is costs a second of a processor
            self._binary, before = seen, machine.openclaw
            machine.openclaw = await find(settings.openclaw_bin, grace_s=settings.grace_s)
            if machine.openclaw == before:
                continue
            self._is_introduced = False
            self._say("OpenClaw is here." if machine.openclaw else "OpenClaw is gone.")

    def _jittered(self, seconds: float) -> float:
        # Agents that were started together must not report together.
        return seconds * (0.8 + 0.4 * self._chance())

    def facts(self) -> dict[str, Any]:
        """What the health port says."""
        openclaw = self._machine.openclaw
        return {
            "agent_id": self.settings.agent_id,
            "connected": self.link.is_connected,
            "last_report_ms": self.link.last_report_ms,
            "latency_ms": self.link.latency_ms,
            "reconnects": max(0, self.link.connects - 1),
            "running_tasks": self._desk.running,
            "untold_results": self._desk.untold,
            "capabilities": self._machine.capabilities,
            "openclaw": None if openclaw is None else openclaw.version,
        }


def _opened(folder: Folder) -> Journal:
    try:
        return Journal(folder.path)
    except OSError as error:
        raise BadConfiguration(
            f"The journal in {folder.path} cannot be used ({error.strerror}).",
            next="Make the folder writable for this user, or name another with --state-dir.",
        ) from None
