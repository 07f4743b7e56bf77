"""The work of `claw wake`: a process for each message, and its end whatever happens."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from dataclasses import dataclass

import msgspec

from clawnet.cli.exits import DONE
from clawnet.cli.terminal import note, say_json
from clawnet.client.client import Client
from clawnet.client.wakeable import Wakeable
from clawnet.core.errors import ClawError
from clawnet.core.events import Event

GRACE_S = 2.0
"""Between asking a process to end and killing it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waking:
    """What `claw wake` was asked for."""

    url: str
    token: str | None
    command: tuple[str, ...]
    timeout_s: float | None
    ttl_s: float
    is_json: bool


class CommandFailed(Exception):
    """The command did not end with 0."""


def run(waking: Waking) -> int:
    """Run until it is interrupted (KeyboardInterrupt) or terminated. Raises ClawError."""
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    with asyncio.Runner() as runner:
        return runner.run(_until_over(waking))


async def _until_over(waking: Waking) -> int:
    loop = asyncio.get_running_loop()
    work = asyncio.ensure_future(_wake(waking))
    loop.add_signal_handler(signal.SIGTERM, work.cancel)
    try:
        # No deadline: it runs until it is ended.
        await asyncio.wait({work})
    except asyncio.CancelledError:
        # Ctrl-C: the child's group must be gone before we are.
        work.cancel()
        await asyncio.wait({work})
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
    if not work.cancelled():
        work.result()
    return DONE


async def _wake(waking: Waking) -> None:
    async with Client(waking.url, waking.token) as client:
        started = _Started(waking)
        wakeable = Wakeable(
            client,
            started.handle,
            ttl_s=waking.ttl_s,
            how="claw wake",
            confirms=False,
            on_failure=started.failed,
            on_state=lambda text: note(f"claw: {text}"),
        )
        started.wakeable = wakeable
        async with wakeable:
            note(f"claw: waiting for messages at {waking.url}")
            await wakeable.wait()


class _Started:
    """Starts the command for a message and sees to its end."""

    def __init__(self, waking: Waking) -> None:
        self._waking = waking
        self.wakeable: Wakeable

    async def handle(self, event: Event) -> None:
        """Raises CommandFailed, OSError if it cannot be started."""
        process = await asyncio.create_subprocess_exec(
            *self._waking.command,
            stdin=asyncio.subprocess.PIPE,
            env=_environment(event),
            # A group of its own, so that all that it starts can be ended with it.
            start_new_session=True,
        )
        try:
            confirming = asyncio.create_task(self._confirm(event))
            try:
                async with asyncio.timeout(self._waking.timeout_s):
                    await process.communicate(msgspec.json.encode(event) + b"\n")
            except TimeoutError:
                raise CommandFailed(f"was killed after {self._waking.timeout_s:g} s") from None
            finally:
                await _end(process)
            await confirming
        finally:
            confirming.cancel()
            await asyncio.gather(confirming, return_exceptions=True)
        code = process.returncode
        if code:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise CommandFailed(f"ended with {how}")
        if self._waking.is_json:
            say_json({"event_id": event.id, "sender": event.actor.id, "handled": True})

    def failed(self, event: Event, error: Exception) -> None:
        """Say that a message was not handled; it stays in the inbox."""
        what = str(error) if isinstance(error, CommandFailed) else f"could not be started: {error}"
        note(
            f"claw: {self._waking.command[0]} {what}; {event.id} from {event.actor.id} "
            "stays in the inbox."
        )

    async def _confirm(self, event: Event) -> None:
        try:
            await self.wakeable.confirm(event)
        except ClawError as error:
            note(f"claw: the hub was not told that the message arrived: {error.message}")


def _environment(event: Event) -> dict[str, str]:
    environment = {
        **os.environ,
        "CLAW_CHANNEL": event.channel,
        "CLAW_SENDER": event.actor.id,
        "CLAW_EVENT_ID": event.id,
    }
    # What the command publishes belongs to the message's trace, never to that of our own start.
    environment.pop("TRACEPARENT", None)
    if event.traceparent is not None:
        environment["TRACEPARENT"] = event.traceparent
    return environment


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the process's whole group, at once if it has ended by itself."""
    is_over = process.returncode is not None
    if not is_over:
        _signal(process, signal.SIGTERM)
        try:
            async with asyncio.timeout(GRACE_S):
                await process.wait()
        except TimeoutError:
            pass
        _signal(process, signal.SIGKILL)
        await process.wait()  # a killed process ends


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        pass
