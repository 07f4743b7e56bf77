"""What each agent reports of itself, and who is of the fleet.

A report is state of the moment: kept in memory, told as a signal, never in the log. What an agent
calls itself and what it can do outlive a restart; they are written behind, when they change.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from clawnet.core import payloads
from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.fleet import (
    CAPABILITIES_MAX,
    REPORT_MAX_BYTES,
    SYSTEM_CHANNEL,
    Fleet,
    FleetAgent,
    ReadFleet,
    Report,
)
from clawnet.core.errors import BadRequest, ClawError, NotFound, PayloadTooLarge
from clawnet.core.times import rfc3339
from clawnet.core.units import Delete, Put, Unit
from clawnet.features.fleet.enrolment import SESSION_ACCOUNTS
from clawnet.features.fleet.records import FLEET, Key, Said
from clawnet.hub.accounts import need_account
from clawnet.hub.presence import admit_text

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub
    from clawnet.ports.log import State

NAME_MAX_CHARS = 64
AGENTS_MAX = 5_000
"""A list has no more of them: who is there comes first."""
SHOWN_AT_ONCE = 100
LIST_MAX_BYTES = 8_388_608
"""A list shows reports of so many bytes; of who comes behind, one is asked for alone."""
CHANGES_PER_UNIT = 256
OVERHEAD_BYTES = 1_024
"""What a signal has beside the report."""

_ROLES = ("master", "warden", "worker")
_MEMBERS = ("specs", "resource_usage", "cron", "sessions")

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Agent:
    """What is known of one. `raw` are the reported members as JSON, `values` the same decoded."""

    said: Said
    raw: dict[str, bytes] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    status: str | None = None
    reported_ms: int = 0


class Roster:
    """Handlers of Report and ReadFleet."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._agents: dict[str, dict[str, _Agent]] = {}
        self._revisions: dict[str, int] = {}
        # Greater than any of before a restart.
        self._first_revision = hub.clock.wall_ms()
        self._unwritten: dict[Key, None] = {}
        self.reports = 0

    def register(self) -> None:
        hub = self._hub
        hub.handle(Report, self.report)
        hub.handle(ReadFleet, self.read)
        hub.presence.follow(self._presence_changed)

    def load(self, state: State) -> None:
        """Take up what is stored."""
        for entry in state.scan(FLEET):
            said = msgspec.json.decode(entry.value, type=Said)
            if self._hub.directory.has_account(said.world, said.id):
                self._agents.setdefault(said.world, {})[said.id] = _Agent(said)

    # --- reports ------------------------------------------------------------

    async def report(self, call: Report, caller: Caller) -> None:
        """Raises BadRequest, InvalidData, PayloadTooLarge."""
        hub = self._hub
        own = need_account(caller)
        caller.need("events:write")
        # Telemetry comes by itself: it does not say that anybody is awake there.
        hub.ration.was_no_activity(caller)
        known = self._agents.get(caller.world, {}).get(own)
        agent = known or _Agent(Said(world=caller.world, id=own))
        said = self._said_by(call, agent.said)
        status = admit_text(call.status)
        raw = self._changed_members(call, agent)
        # Admitted as a whole; nothing is taken of what is refused. No await from here on.
        changed = dict(raw)
        if said.role != agent.said.role:
            changed["role"] = msgspec.json.encode(said.role)
        if said.capabilities != agent.said.capabilities:
            changed["capabilities"] = msgspec.json.encode(said.capabilities)
        if call.status is not None and status != agent.status:
            changed["status"] = msgspec.json.encode(status)
            agent.status = status
            self._say(caller.world, own, status)
        self._keep(agent, said, is_new=known is None)
        for name in raw:
            agent.values[name] = getattr(call, name)
        agent.raw.update(raw)
        agent.reported_ms = hub.clock.wall_ms()
        self.reports += 1
        if changed or known is None:
            self._changed(caller.world)
        if changed:
            members = b",".join(b'"%b":%b' % (name.encode(), changed[name]) for name in changed)
            voice = msgspec.structs.replace(HUB, world=caller.world)
            data = b'{"id":"%b","changed":{%b}}' % (own.encode(), members)
            hub.signal(voice, SYSTEM_CHANNEL, "fleet.reported", data)

    def called_itself(self, world: str, id: str, role: str | None) -> None:
        """An agent enrolled, and may have said what it calls itself."""
        known = self._agents.get(world, {}).get(id)
        agent = known or _Agent(Said(world=world, id=id))
        said = agent.said if role is None else msgspec.structs.replace(agent.said, role=role)
        if known is None or said != agent.said:
            self._keep(agent, said, is_new=known is None)
            self._changed(world)

    def admit_role(self, text: str | None) -> str | None:
        """What an agent calls itself beside the role of its account. Raises BadRequest."""
        if text is None or not text.strip():
            return None
        shown = _name(text, "role")
        # Nobody is shown with a role that its account does not have.
        return None if shown.lower() in _ROLES else shown

    def _said_by(self, call: Report, before: Said) -> Said:
        role, capabilities = before.role, before.capabilities
        if call.role is not None:
            role = self.admit_role(call.role)
        if call.capabilities is not None:
            if len(call.capabilities) > CAPABILITIES_MAX:
                raise BadRequest(
                    f"An agent has at most {CAPABILITIES_MAX} capabilities.",
                    next="Name what others choose it by.",
                    parameter="capabilities",
                )
            named = (_name(one, "capabilities") for one in call.capabilities)
            capabilities = list(dict.fromkeys(named))
        if role == before.role and capabilities == before.capabilities:
            return before
        return msgspec.structs.replace(before, role=role, capabilities=capabilities)

    def _changed_members(self, call: Report, agent: _Agent) -> dict[str, bytes]:
        """The members that are not as they were, as JSON. Raises BadRequest, PayloadTooLarge."""
        limits = self._hub.settings.limits
        most = min(REPORT_MAX_BYTES, limits.data_max_bytes - OVERHEAD_BYTES)
        sizes = {name: len(raw) for name, raw in agent.raw.items()}
        changed: dict[str, bytes] = {}
        for name in _MEMBERS:
            value = getattr(call, name)
            if value is None:
                continue
            try:
                raw = msgspec.json.encode(value)
            except (UnicodeError, RecursionError, TypeError, msgspec.EncodeError):
                raise BadRequest(
                    f"{name} cannot be told as JSON.", next="Report plain JSON.", parameter=name
                ) from None
            sizes[name] = len(raw)
            if raw != agent.raw.get(name):
                changed[name] = raw
        if sum(sizes.values()) > most:
            raise PayloadTooLarge(
                f"The report has {sum(sizes.values())} bytes with what was reported before; {most}"
                " are allowed.",
                next="Report less: the newest jobs and sessions, and figures instead of lists.",
                limit_bytes=most,
            )
        for raw in changed.values():
            payloads.admit(raw, max_bytes=most)
        return changed

    def _say(self, world: str, id: str, status: str | None) -> None:
        presence = self._hub.presence
        if presence.status(world, id) == "offline":
            # A report without a connection, by HTTP: presence is about connections.
            return
        if status in ("online", "idle"):
            presence.say(world, id, status, None)
        elif presence.status(world, id) == "online":
            presence.say(world, id, "online", status)

    def _keep(self, agent: _Agent, said: Said, *, is_new: bool) -> None:
        if is_new:
            self._agents.setdefault(said.world, {})[said.id] = agent
        if is_new or said != agent.said:
            agent.said = said
            self._unwritten[said.world, said.id] = None

    # --- the list -----------------------------------------------------------

    async def read(self, call: ReadFleet, caller: Caller) -> Fleet:
        """Raises NotFound."""
        own = need_account(caller)
        caller.need("events:read")
        world = caller.world
        sees_all = caller.role in ("master", "warden") or own in SESSION_ACCOUNTS
        revision = self._revisions.get(world, 0) + self._first_revision
        if call.agent is not None:
            asked = call.agent.lower()
            is_there = asked in self._agents.get(world, {})
            is_there = is_there or self._hub.presence.status(world, asked) != "offline"
            found = self._shown(world, asked, sees_all or asked == own) if is_there else None
            if found is None:
                raise NotFound(f"There is no agent {ascii(call.agent[:80])} in the fleet.")
            return Fleet(agents=[found], revision=revision)
        there = sorted(self._hub.presence.online(world))
        present = set(there)
        others = sorted(self._agents.get(world, {}).keys() - present)
        agents: list[FleetAgent] = []
        left_bytes = LIST_MAX_BYTES
        for number, name in enumerate((*there, *others), 1):
            one = self._shown(world, name, sees_all or name == own, left_bytes)
            if one is not None:
                agents.append(one)
                left_bytes -= self._size(world, name)
                if len(agents) >= AGENTS_MAX:
                    break
            if number % SHOWN_AT_ONCE == 0:
                await asyncio.sleep(0)
                # A right may have ended meanwhile.
                now = self._hub.directory.refresh(caller)
                now.need("events:read")
                if now.role != caller.role:
                    return await self.read(call, now)
        return Fleet(agents=sorted(agents, key=lambda one: one.id), revision=revision)

    def _size(self, world: str, id: str) -> int:
        agent = self._agents.get(world, {}).get(id)
        return 0 if agent is None else sum(map(len, agent.raw.values()))

    def _shown(
        self, world: str, id: str, sees_all: bool, max_bytes: int = REPORT_MAX_BYTES
    ) -> FleetAgent | None:
        """One of the fleet; None for who is not of it. Of a report larger than `max_bytes`
        nothing is shown but that there is somebody."""
        account = self._hub.directory.account(world, id)
        if account is None or account.is_deleted or account.kind == "ext":
            return None
        if id in SESSION_ACCOUNTS and account.kind == "service":
            return None
        presence = self._hub.presence
        agent = self._agents.get(world, {}).get(id) or _NOBODY
        since_ms = presence.since_ms(world, id)
        seen_ms = max(
            agent.reported_ms,
            presence.last_seen_ms(world, id) or 0,
            agent.said.last_seen_ms or 0,
        )
        values = agent.values if self._size(world, id) <= max_bytes else {}
        return FleetAgent(
            id=id,
            given_id=account.name,
            handle=account.handle,
            role=agent.said.role or account.role,
            account_role=account.role,
            status=presence.status(world, id),
            since=None if since_ms is None else rfc3339(since_ms),
            last_seen=rfc3339(seen_ms) if seen_ms else None,
            specs=values.get("specs", {}),
            resource_usage=values.get("resource_usage", {}),
            capabilities=agent.said.capabilities,
            cron=values.get("cron") if sees_all else None,
            sessions=values.get("sessions") if sees_all else None,
            text=presence.text(world, id),
        )

    # --- what happens beside ------------------------------------------------

    def _presence_changed(self, world: str, account: str, status: str) -> None:
        self._changed(world)
        agent = self._agents.get(world, {}).get(account)
        if agent is None or status != "offline":
            return
        # What it said of its status was about this connection.
        agent.status = None
        seen_ms = max(self._hub.presence.last_seen_ms(world, account) or 0, agent.reported_ms)
        if seen_ms > (agent.said.last_seen_ms or 0):
            said = msgspec.structs.replace(agent.said, last_seen_ms=seen_ms)
            self._keep(agent, said, is_new=False)

    def _changed(self, world: str) -> None:
        self._revisions[world] = self._revisions.get(world, 0) + 1

    def changed_account(self, world: str, id: str) -> None:
        """An account is new, has another handle or role, or is no more."""
        if self._hub.directory.has_account(world, id):
            if id in self._agents.get(world, {}) or (
                self._hub.presence.status(world, id) != "offline"
            ):
                self._changed(world)
        elif self._agents.get(world, {}).pop(id, None) is not None:
            self._unwritten[world, id] = None
            self._changed(world)

    async def write(self) -> None:
        """Store what changed. Raises ClawError; what is not stored is stored the next time."""
        while self._unwritten:
            part = dict.fromkeys(list(self._unwritten)[:CHANGES_PER_UNIT])
            for key in part:
                del self._unwritten[key]
            try:
                await self._hub.committer.commit(Unit(changes=tuple(self._changes(part))))
            except ClawError:
                self._unwritten = part | self._unwritten
                raise

    def _changes(self, part: Iterable[Key]) -> list[Put | Delete]:
        changes: list[Put | Delete] = []
        for world, name in part:
            agent = self._agents.get(world, {}).get(name)
            gone = Delete(f"{FLEET}/{world}/{name}")
            changes.append(gone if agent is None else agent.said.put)
        return changes

    def __len__(self) -> int:
        return sum(map(len, self._agents.values()))


_NOBODY = _Agent(Said(world="", id=""))
"""Stands for who is connected and reported nothing. Never changed."""


def _name(text: str, member: str) -> str:
    shown = text.strip()
    if not shown or len(shown) > NAME_MAX_CHARS or not shown.isprintable():
        raise BadRequest(
            f"{ascii(text[:80])} cannot stand in {member}.",
            next=f"Use 1 to {NAME_MAX_CHARS} printable characters.",
            parameter=member,
        )
    return shown
