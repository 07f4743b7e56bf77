"""The work of `claw chat`: sit in a room, show what is said there, say what is typed.

On a terminal the line that is typed stays below what comes in; elsewhere, and with --plain, it
is lines in and lines out.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec

from clawnet.cli.exits import DONE, exit_code
from clawnet.cli.prompt_line import Key, PromptLine
from clawnet.cli.speech import blocks, told
from clawnet.cli.terminal import harmless, is_terminal, json_text, note, plain
from clawnet.client.client import Client
from clawnet.client.wire import Signal
from clawnet.core.calls.chat import ChatSent, RoomJoined
from clawnet.core.calls.reading import Gap
from clawnet.core.channels import LOBBY
from clawnet.core.chat import ChatEnvelope, channel_of, envelope, room_channel
from clawnet.core.errors import ClawError

LINES_MAX = 100
"""Typed and not yet said; then the reader waits."""
SHOWN_WITHIN_S = 5.0
"""How long the end of the input waits until the last of it came back."""
TYPING_EVERY_S = 3.0
TYPING_SHOWN_S = 5.0
TYPISTS_MAX = 5
NAMES_MAX = 50
_READ_BYTES = 65_536
_QUIT = ("/quit",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sitting:
    """Where to sit, and how to show it. `room` or `to` is given."""

    url: str
    token: str | None
    room: str | None
    to: str | None
    history: int
    is_json: bool
    is_plain: bool


def run(sitting: Sitting) -> int:
    """Sit until it is over; returns the exit code. Raises ClawError, KeyboardInterrupt."""
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    is_live = is_terminal() and is_terminal(sys.stdin) and os.name == "posix"
    screen: Screen = (
        LiveScreen(harmless(sitting.room or f"@{sitting.to}"))
        if is_live and not sitting.is_plain and not sitting.is_json
        else Screen()
    )
    with screen:
        return asyncio.run(_sit(sitting, screen))


class Screen:
    """Lines out, and lines in by a thread: works in a pipe and with every terminal."""

    is_live = False

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def put(self, text: str) -> None:
        """Show a line (harmless already)."""
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def tell(self, text: str) -> None:
        """Something for the person alone."""
        note(text)

    def typing(self, who: str, is_typing: bool) -> None:
        """Somebody else types, or does no more. Lines say nothing of it."""

    def fade(self) -> None:
        """Take away who has not typed for a while."""

    def read(self, take: Callable[[Key], bool]) -> None:
        """In a thread: hand over what is typed until the input ends or `take` says no."""
        rest = b""
        while piece := _read():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if not take(Key("line", line.decode(errors="replace").removesuffix("\r"))):
                    return
            if len(rest) > _READ_BYTES:
                rest = rest[-_READ_BYTES:]
        if rest and not take(Key("line", rest.decode(errors="replace"))):
            return
        take(Key("end"))


class LiveScreen(Screen):
    """A terminal whose last line is what is being typed."""

    is_live = True

    def __init__(self, prompt: str) -> None:
        self._line = PromptLine(prompt)
        # The reader's thread and the loop both draw.
        self._lock = threading.Lock()
        self._typists: dict[str, float] = {}
        self._before: list[object] | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Screen:
        import termios
        import tty

        self._before = termios.tcgetattr(sys.stdin.fileno())
        # Without echo and line by line reading; Ctrl-C comes as a key.
        tty.setraw(sys.stdin.fileno(), termios.TCSADRAIN)
        attributes = termios.tcgetattr(sys.stdin.fileno())
        # Output as before: a newline goes to the first column.
        attributes[1] |= termios.OPOST
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, attributes)
        for number in (signal.SIGTERM, signal.SIGHUP):
            # Ended without a word the program would leave the terminal as it is now.
            self._handlers[number] = signal.signal(number, _end)
        return self

    def __exit__(self, *_: object) -> None:
        import termios

        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        try:
            if self._before is not None:
                termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._before)  # type: ignore[arg-type]
            sys.stdout.write(self._line.cleared())
            sys.stdout.flush()
        except (OSError, termios.error):
            pass  # the terminal is gone

    def put(self, text: str) -> None:
        with self._lock:
            sys.stdout.write(f"{self._line.cleared()}{text}\n")
            self._draw()

    def tell(self, text: str) -> None:
        self.put(blocks(text))

    def typing(self, who: str, is_typing: bool) -> None:
        with self._lock:
            self._typists.pop(who, None)
            if is_typing and len(self._typists) < TYPISTS_MAX:
                self._typists[who] = time.monotonic()
        self.fade()

    def fade(self) -> None:
        with self._lock:
            now_s = time.monotonic()
            self._typists = {
                name: since
                for name, since in self._typists.items()
                if now_s - since < TYPING_SHOWN_S
            }
            names = ", ".join(sorted(self._typists))
            verb = "types" if len(self._typists) == 1 else "type"
            hint = f"{names} {verb}…" if names else ""
            if hint != self._line.hint:
                self._line.hint = hint
                self._draw()

    def read(self, take: Callable[[Key], bool]) -> None:
        while raw := _read():
            with self._lock:
                keys = self._line.feed(raw)
                self._draw()
            for key in keys:
                if not take(key):
                    return
        take(Key("end"))

    def _draw(self) -> None:
        columns = shutil.get_terminal_size().columns
        sys.stdout.write(self._line.shown(columns=columns))
        sys.stdout.flush()


def _end(number: int, frame: object) -> NoReturn:
    """A signal's end of the program, which puts the terminal back on its way."""
    raise SystemExit(128 + number)


def _read() -> bytes:
    """What the input gives next; nothing at its end."""
    try:
        descriptor = sys.stdin.fileno()
    except (OSError, ValueError):
        return sys.stdin.buffer.read()
    try:
        # Past Python's buffer, whose lock a thread that waits would hold while the program ends.
        return os.read(descriptor, _READ_BYTES)
    except OSError:
        return b""


class _Sitter:
    """One sitting: what was shown, and what is to be said."""

    def __init__(self, sitting: Sitting, screen: Screen, client: Client, me: str) -> None:
        self._sitting = sitting
        self._screen = screen
        self._client = client
        self._me = me
        self._typed_s = -TYPING_EVERY_S
        self.said = 0
        """The offset of the last that was said here."""
        self.shown = 0
        self.came = asyncio.Event()
        self.code = DONE
        """That of the first line that was refused."""
        self.is_leaving = False
        """Gave up its own place here, or is about to."""

    def show(self, message: ChatEnvelope) -> None:
        """Show what was said, once."""
        if message.offset <= self.shown:
            return
        self.shown = message.offset
        members = plain(message)
        self._screen.typing(message.from_handle or message.from_id, False)
        self._screen.put(json_text(members) if self._sitting.is_json else told(members))
        self.came.set()

    def signalled(self, signal: Signal) -> None:
        """Somebody types there."""
        if signal.type != "chat.typing" or signal.actor.id == self._me:
            return
        try:
            is_typing = bool(msgspec.json.decode(signal.data)["is_typing"])
        except (msgspec.DecodeError, KeyError, TypeError):
            return
        self._screen.typing(signal.actor.handle or signal.actor.id, is_typing)
        asyncio.get_running_loop().call_later(TYPING_SHOWN_S + 0.1, self._screen.fade)

    async def say(self, text: str) -> None:
        """Say a line, and tell what became of it if that is not seen by itself."""
        self.is_leaving = self._leaves(text)
        try:
            sent = await self._client.send_chat(text, room=self._sitting.room, to=self._sitting.to)
        except ClawError as error:
            self._screen.tell(f"claw: {error.message} {error.next}")
            self.is_leaving = False
            self.code = self.code or exit_code(error)
            return
        self._answered(sent)

    def _leaves(self, text: str) -> bool:
        """Whether a line gives up the place in the room that one sits in."""
        words = text.split()
        if not words or words[0] != "/leave":
            return False
        try:
            here = room_channel(self._sitting.room or "global")
            return len(words) == 1 or room_channel(words[1]) == here
        except ClawError:
            return False

    def _answered(self, sent: ChatSent) -> None:
        if sent.command is not None:
            if self._sitting.is_json:
                self._screen.put(json_text(plain(sent)))
            else:
                self._screen.put(blocks(sent.command.text))
        if sent.offset is not None:
            self.said = max(self.said, sent.offset)

    async def type(self, text: str) -> None:
        """Tell others that this one types, now and then. Nothing is lost if it fails."""
        now_s = time.monotonic()
        if not text or text.startswith("/") or now_s - self._typed_s < TYPING_EVERY_S:
            return
        self._typed_s = now_s
        try:
            await self._client.typing(room=self._sitting.room, to=self._sitting.to)
        except ClawError:
            pass

    async def settle(self) -> None:
        """Wait until what was said last came back."""
        try:
            async with asyncio.timeout(SHOWN_WITHIN_S):
                while self.shown < self.said:
                    self.came.clear()
                    await self.came.wait()
        except TimeoutError:
            self._screen.tell("claw: what was said is stored, and did not come back in time.")


async def _sit(sitting: Sitting, screen: Screen) -> int:
    async with Client(sitting.url, sitting.token) as client:
        account = (await client.me()).account
        me = account.id if account is not None else ""
        if sitting.to is not None:
            channel = channel_of("dm", sitting.to, me)
        else:
            channel = room_channel(sitting.room or "global")
        if channel.startswith("room."):
            joined = await client.join_room(channel.removeprefix("room."))
            screen.tell(f"claw: in {joined.room}{await _with(client, joined, me)}. /quit leaves.")
        sitter = _Sitter(sitting, screen, client, me)
        name = "global" if channel == LOBBY else channel
        page = await client.chat_history(name, limit=max(sitting.history, 1))
        for message in page.events if sitting.history else ():
            sitter.show(message)
        if not channel.startswith("room."):
            await _greet(client, channel, me, screen)
        last = max(page.next, page.events[-1].offset if page.events else 0)
        sitter.shown = max(sitter.shown, last)

        def lost(gap: Gap) -> None:
            screen.tell(f"claw: messages {gap.first} to {gap.last} are gone ({gap.reason}).")

        async with client.subscribe(
            [channel],
            since={channel: last},
            on_gap=lost,
            on_signal=sitter.signalled,
            on_state=lambda text: screen.tell(f"claw: {text}"),
            is_patient=False,
        ) as events:

            async def follow() -> None:
                async for event in events:
                    shown = envelope(event, reader=me)
                    if shown is not None:
                        sitter.show(shown)

            following = asyncio.create_task(follow())
            talking = asyncio.create_task(_talk(sitter, screen))
            try:
                await asyncio.wait({following, talking}, return_when=asyncio.FIRST_COMPLETED)
                if following.done() and sitter.is_leaving:
                    # Put out by its own word, whose answer is still on its way.
                    await asyncio.wait({talking}, timeout=SHOWN_WITHIN_S)
                if following.done() and not sitter.is_leaving:
                    # Nothing comes any more, for a reason that it raises: say no more either.
                    following.result()
                elif talking.done():
                    talking.result()
                    if not sitter.is_leaving:
                        await sitter.settle()
            finally:
                for task in (following, talking):
                    task.cancel()
                await asyncio.gather(following, talking, return_exceptions=True)
    # To a person it was told; a program has to know that not all of its lines were said.
    return DONE if screen.is_live else sitter.code


async def _greet(client: Client, channel: str, me: str, screen: Screen) -> None:
    """Say who is there, outside of rooms. Who may not ask is told nothing."""
    try:
        there = [one for one in await client.presence() if one.account != me]
    except ClawError:
        return
    if channel.startswith("dm."):
        there = [one for one in there if one.account in channel.split(".")]
    names = [_seen(one.handle, one.status) for one in there[:NAMES_MAX]]
    screen.tell(f"claw: online: {', '.join(names) or 'nobody else'}. /quit leaves.")


async def _with(client: Client, joined: RoomJoined, me: str) -> str:
    """Who else is in a room, and how present."""
    try:
        members = (await client.room_members(joined.room)).members
    except ClawError:
        return f" with {', '.join(joined.members[:NAMES_MAX])}"
    others = [_seen(one.handle, one.status) for one in members if one.id != me]
    return f" with {', '.join(others[:NAMES_MAX])}" if others else ", alone"


def _seen(handle: str, status: str) -> str:
    return handle if status == "online" else f"{handle} ({status})"


async def _talk(sitter: _Sitter, screen: Screen) -> None:
    """Say what is typed until the input ends, /quit, Ctrl-C as a key, or /leave."""
    loop = asyncio.get_running_loop()
    keys: asyncio.Queue[Key] = asyncio.Queue(LINES_MAX)

    def take(key: Key) -> bool:
        """On the reader's thread, which waits here while much is to be said."""
        try:
            handed = asyncio.run_coroutine_threadsafe(keys.put(key), loop)
            handed.result()
        # The sitting is over, whatever that broke here; nothing is read any more.
        except BaseException:  # the thread has nobody to tell
            return False
        return key.kind not in ("end", "interrupt")

    # A daemon: a read of a terminal cannot be called off, and must not keep the program here.
    threading.Thread(target=screen.read, args=(take,), daemon=True).start()
    while True:
        # No deadline: a person may be silent for as long as they like.
        key = await keys.get()
        if key.kind == "interrupt":
            return
        if key.kind == "end" or key.text.strip() in _QUIT:
            return
        if key.kind == "typing":
            await sitter.type(key.text)
        elif key.text.strip():
            await sitter.say(key.text)
            if sitter.is_leaving:
                return
