"""Presence: an account is online while it holds a live session, and a moment longer.

A return within `offline_after_s` tells nobody anything; changes are batched
into one event a second on system.presence. Who is connected and did nothing
(published, called, subscribed) for `idle_after_s` is idle: there, but perhaps asleep. An account
may say itself that it is idle or online, with a text; doing something ends an idleness, and a
text with it that was said about it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.chat import SetStatus
from clawnet.core.calls.presence import PresenceInfo, PresenceList, ReadPresence
from clawnet.core.errors import BadRequest, ClawError, Conflict
from clawnet.core.times import rfc3339
from clawnet.core.units import Unit
from clawnet.hub.accounts import need_account

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

CHANNEL = "system.presence"
BATCH_EVERY_S = 1.0
CHANGES_PER_EVENT_MAX = 500
IDLE_PER_TICK_MAX = 2_000
"""More than so many fall asleep in several rounds: a round must not hold up the loop."""
TIMES_SLACK = 1_000
"""So many times of accounts that were deleted may be kept besides those of the living."""

TEXT_MAX_CHARS = 200
FOLLOWERS_MAX = 32

_Key = tuple[str, str]
Follower = Callable[[str, str, str], None]

_OFFLINE: tuple[str, str | None] = ("offline", None)

_log = logging.getLogger(__name__)


class Presence:
    """Counts sessions by account."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._sessions: dict[_Key, int] = {}
        self._online: dict[_Key, int] = {}
        """When each became online, ms."""
        self._leaving: dict[_Key, float] = {}
        """When each will count as offline, by the steady clock."""
        self._idle: dict[_Key, int] = {}
        """When each became idle, ms."""
        self._used: dict[_Key, float] = {}
        """When each that is online was last active, longest ago first, by the steady clock."""
        self._changed: dict[_Key, None] = {}
        """Whose status may have changed since it was last told, in order."""
        self._told: dict[_Key, tuple[str, str | None]] = {}
        """What was last told of each that is not offline: its status and its text."""
        self._texts: dict[_Key, str] = {}
        """What each that is online says of its status."""
        self._by_word: set[_Key] = set()
        """Who is idle because it said so."""
        self._followers: tuple[Follower, ...] = ()
        self._seen: dict[_Key, int] = {}
        """When each was connected last, ms; kept for who has gone, since this start."""
        self._visits: dict[_Key, int] = {}
        """When each last asked for what was sent to it, ms; since this start."""
        self._times_max = TIMES_SLACK
        """With more of one of these two, they are looked through for accounts that are no more."""

    def register(self) -> None:
        self._hub.handle(ReadPresence, self.read)
        self._hub.handle(SetStatus, self.set_status)

    def follow(self, follower: Follower) -> None:
        """Call `follower(world, account, status)` whenever a change is told, its text alone too.

        Nobody's return within `offline_after_s` is told. Must be quick, and may not wait.
        """
        assert len(self._followers) < FOLLOWERS_MAX, "followers stay; one for each part is enough"
        self._followers = (*self._followers, follower)

    def connected(self, world: str, account: str) -> None:
        """A session of the account began."""
        key = (world, account)
        self._sessions[key] = self._sessions.get(key, 0) + 1
        self._leaving.pop(key, None)
        self._note(self._seen, key)
        self._awake(key)
        if key not in self._online:
            self._online[key] = self._hub.clock.wall_ms()
            self._changed[key] = None

    def disconnected(self, world: str, account: str) -> None:
        """A session of the account ended."""
        key = (world, account)
        self._note(self._seen, key)
        left = self._sessions.get(key, 0) - 1
        if left > 0:
            self._sessions[key] = left
        else:
            self._sessions.pop(key, None)
            after_s = self._hub.settings.presence.offline_after_s
            self._leaving[key] = self._hub.clock.steady_s() + after_s

    def last_seen_ms(self, world: str, account: str) -> int | None:
        """When the account was connected last, ms; None if not since the hub started."""
        return self._seen.get((world, account))

    def visited(self, world: str, account: str) -> None:
        """The account asked for what was sent to it, by a call and without a session."""
        self._note(self._visits, (world, account))

    def last_visit_ms(self, world: str, account: str) -> int | None:
        """When the account asked for that last, ms; None if not since the hub started."""
        return self._visits.get((world, account))

    async def run(self) -> None:
        """Once a second: let go who stayed away, and tell of the changes."""
        while True:
            await asyncio.sleep(BATCH_EVERY_S)
            self.tick()

    def tick(self) -> None:
        """One round of run(): at most one event per 500 changes and world."""
        now_s = self._hub.clock.steady_s()
        self._look_for_activity(now_s)
        for key in [key for key, due_s in self._leaving.items() if due_s <= now_s]:
            del self._leaving[key]
            self._idle.pop(key, None)
            self._used.pop(key, None)
            self._by_word.discard(key)
            self._texts.pop(key, None)
            if self._online.pop(key, None) is not None:
                self._changed[key] = None
        if not self._changed or self._hub.state != "ready":
            return
        changes: dict[_Key, tuple[str, str | None]] = {}
        held: dict[_Key, None] = {}
        for key in self._changed:
            status, told = self.status(*key), self._told.get(key, _OFFLINE)
            now = (status, self._texts.get(key))
            if status != "offline" and told == _OFFLINE and key in self._leaving:
                # Who has left again already is told of only if it comes back in time.
                held[key] = None
            elif now != told:
                changes[key] = now
        self._changed = held
        for key, now in changes.items():
            if now == _OFFLINE:
                self._told.pop(key, None)
            else:
                self._told[key] = now
        if changes:
            self._tell(changes)
            for follower in self._followers:
                for (world, account), (status, _) in changes.items():
                    _follow(follower, world, account, status)

    def status(self, world: str, account: str) -> str:
        """online, idle or offline."""
        key = (world, account)
        if key not in self._online:
            return "offline"
        return "idle" if key in self._idle else "online"

    def text(self, world: str, account: str) -> str | None:
        """What the account says of its status; None if nothing, or if it is offline."""
        return self._texts.get((world, account))

    def since_ms(self, world: str, account: str) -> int | None:
        """Since when it is online or idle, ms; None if it is offline."""
        key = (world, account)
        return self._since(world, account) if key in self._online else None

    def online(self, world: str) -> list[str]:
        """The accounts of a world that are online or idle."""
        return [account for of_world, account in self._online if of_world == world]

    def say(self, world: str, account: str, status: str, text: str | None) -> None:
        """An account that is there says that it is `online` or `idle`, and why (admitted)."""
        key = (world, account)
        assert key in self._online, "who is not there says nothing of its status"
        if status == "online":
            self._awake(key)
        else:
            # What it did before it said so, within this second, does not wake it.
            self._hub.ration.active.discard(key)
            self._used.pop(key, None)
            self._by_word.add(key)
            if key not in self._idle:
                self._idle[key] = self._hub.clock.wall_ms()
        if text is None:
            self._texts.pop(key, None)
        else:
            self._texts[key] = text
        self._changed[key] = None

    async def set_status(self, call: SetStatus, caller: Caller) -> PresenceInfo:
        """Raises BadRequest, and Conflict for who is not connected."""
        account = need_account(caller)
        self._hub.ration.was_no_activity(caller)
        text = admit_text(call.text)
        if (caller.world, account) not in self._online:
            raise Conflict(
                "Who is not connected is offline and has no other status.",
                next="Open a live connection first (WebSocket, SSE or Socket.IO), then say it.",
                reason="offline",
            )
        self.say(caller.world, account, call.status, text)
        return self._info(caller.world, account)

    def _note(self, times: dict[_Key, int], key: _Key) -> None:
        times[key] = self._hub.clock.wall_ms()
        if len(times) <= self._times_max:
            return
        # Looked through when as many have come again, so in all it costs each of them a step.
        has_account = self._hub.directory.has_account
        for one in (self._seen, self._visits):
            for gone in [known for known in one if not has_account(*known)]:
                del one[gone]
        self._times_max = 2 * max(len(self._seen), len(self._visits)) + TIMES_SLACK

    def _look_for_activity(self, now_s: float) -> None:
        """Take over who was active since the last look, and find who is not any more."""
        ration = self._hub.ration
        active, ration.active = ration.active, set()
        for world, account in active:
            key = (world, account or "")
            if key in self._online:
                self._awake(key)
        since_s = now_s - self._hub.settings.presence.idle_after_s
        for key, used_s in list(islice(self._used.items(), IDLE_PER_TICK_MAX)):
            if used_s > since_s:
                break
            del self._used[key]
            self._idle[key] = self._hub.clock.wall_ms()
            self._changed[key] = None

    def _awake(self, key: _Key) -> None:
        """An account is active now."""
        self._used.pop(key, None)
        self._used[key] = self._hub.clock.steady_s()
        if key in self._by_word:
            self._by_word.discard(key)
            self._texts.pop(key, None)
        if self._idle.pop(key, None) is not None:
            self._online[key] = self._hub.clock.wall_ms()
            self._changed[key] = None

    def _tell(self, changes: dict[_Key, tuple[str, str | None]]) -> None:
        now = rfc3339(self._hub.clock.wall_ms())
        by_world: dict[str, list[dict[str, str]]] = {}
        for (world, account), (status, text) in changes.items():
            found = self._hub.directory.account(world, account)
            told = {
                "account": account,
                "handle": found.handle if found else account,
                "status": status,
                "since": now,
            }
            if text is not None:
                told["text"] = text
            by_world.setdefault(world, []).append(told)
        for world, told_all in by_world.items():
            voice = msgspec.structs.replace(HUB, world=world)
            for start in range(0, len(told_all), CHANGES_PER_EVENT_MAX):
                data = {"changes": told_all[start : start + CHANGES_PER_EVENT_MAX]}
                draft = self._hub.publishing.render(
                    voice,
                    CHANNEL,
                    type="presence.changed",
                    data=msgspec.json.encode(data).decode(),
                )
                try:
                    self._hub.committer.submit(Unit(drafts=(draft,)), lambda _: None)
                except ClawError:
                    # Storage is full or failed: presence can be read, its event is lost.
                    return

    def _since(self, world: str, account: str) -> int:
        key = (world, account)
        return self._idle.get(key, self._online[key])

    async def read(self, call: ReadPresence, caller: Caller) -> PresenceList:
        """Who is online or idle in the caller's world."""
        need_account(caller)
        caller.need("events:read")
        if not 1 <= call.limit <= 1_000:
            raise BadRequest("limit must be 1 to 1000.", next="Ask for several pages instead.")
        behind = sorted(
            account
            for world, account in self._online
            if world == caller.world and account > call.after
        )
        page = behind[: call.limit]
        infos = [self._info(caller.world, account) for account in page]
        following = page[-1] if len(behind) > len(page) else None
        return PresenceList(accounts=infos, next=following)

    def _info(self, world: str, account: str) -> PresenceInfo:
        found = self._hub.directory.account(world, account)
        return PresenceInfo(
            account=account,
            handle=found.handle if found else account,
            status=self.status(world, account),
            since=rfc3339(self._since(world, account)),
            text=self.text(world, account),
        )


def admit_text(text: str | None) -> str | None:
    """What an account says of its status, as it is shown; "" is nothing. Raises BadRequest."""
    if text is None or not text.strip():
        return None
    shown = text.strip()
    if len(shown) > TEXT_MAX_CHARS or not shown.isprintable():
        raise BadRequest(
            "This text cannot stand beside a status.",
            next=f"Use at most {TEXT_MAX_CHARS} printable characters in one line.",
            parameter="text",
        )
    return shown


def _follow(follower: Follower, world: str, account: str, status: str) -> None:
    try:
        follower(world, account, status)
    except Exception:  # a defect in one part must not keep the others from what is told
        _log.exception("a follower of presence failed")
