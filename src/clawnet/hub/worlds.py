"""Worlds: made by `admin` of `main` alone, and never given twice. Nothing crosses them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.worlds import CreateWorld, ListWorlds, WorldCreated, WorldInfo, WorldList
from clawnet.core.channels import is_account_id
from clawnet.core.errors import BadRequest, Conflict, Forbidden
from clawnet.core.times import rfc3339
from clawnet.hub.accounts import EVENTS, need_account, told_of
from clawnet.hub.directory import Account
from clawnet.hub.features import Feature
from clawnet.hub.newcomers import newcomer
from clawnet.hub.vault import put

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub
    from clawnet.ports.log import State

MAIN = "main"
ADMIN = "admin"
WORLDS_MAX = 1_000


class WorldRecord(msgspec.Struct, frozen=True, kw_only=True):
    """As stored under `world/<id>`."""

    id: str
    created_ms: int


class Worlds(Feature):
    """Handlers of core.calls.worlds."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._all: dict[str, WorldRecord] = {}

    def register(self, hub: Hub) -> None:
        hub.handle(CreateWorld, self.create, is_change=True)
        hub.handle(ListWorlds, self.list_all)

    async def load(self) -> None:
        """Take up what is stored."""
        await self._hub.storage.read(self._load)

    def _load(self, state: State) -> None:
        for entry in state.scan("world"):
            record = msgspec.json.decode(entry.value, type=WorldRecord)
            self._all[record.id] = record

    async def create(self, call: CreateWorld, caller: Caller) -> WorldCreated:
        """The world, its admin and its admin's token. Raises Forbidden, BadRequest, Conflict."""
        hub = self._hub
        _need_admin_of_main(caller)
        if not is_account_id(call.id):
            raise BadRequest(
                f"{ascii(call.id[:80])} cannot be a world's id.",
                next="Use 1 to 64 of a-z, 0-9, _ and -.",
            )
        # An account can only be in a world that was made; its tombstone outlives everything.
        is_taken = call.id in self._all or any(
            account.world == call.id for account in hub.directory.all_accounts()
        )
        if call.id == MAIN or is_taken:
            raise Conflict(
                f"The world {call.id} is there; its id is never given twice.",
                next="Choose another id.",
            )
        if len(self._all) >= WORLDS_MAX:
            raise BadRequest(
                f"A hub has at most {WORLDS_MAX} worlds.", next="Start another hub for more."
            )
        now_ms = hub.clock.wall_ms()
        record = WorldRecord(id=call.id, created_ms=now_ms)
        account = Account(
            world=call.id,
            id=ADMIN,
            name=ADMIN,
            handle=ADMIN,
            role="master",
            kind="human",
            created_ms=now_ms,
            proof="bootstrap",
            proved_ms=now_ms,
        )
        new = newcomer(hub, account, name="admin", scopes=["*"])
        there = msgspec.structs.replace(HUB, world=call.id)
        await hub.change(
            put("world", call.id, record, if_revision=0),
            *new.puts,
            events=(
                hub.note(caller, EVENTS, "world.created", {"world": call.id}),
                hub.note(there, EVENTS, "account.created", told_of(account)),
            ),
        )
        self._all[call.id] = record
        new.arrive(hub)
        return WorldCreated(
            id=call.id,
            created=rfc3339(now_ms),
            account=ADMIN,
            token=new.text,
            token_id=new.token.id,
        )

    async def list_all(self, call: ListWorlds, caller: Caller) -> WorldList:
        _need_admin_of_main(caller)
        accounts = Counter(
            account.world
            for account in self._hub.directory.all_accounts()
            if not account.is_deleted
        )
        records = self._all
        infos = [
            WorldInfo(
                id=world,
                created=rfc3339(records[world].created_ms) if world in records else None,
                accounts=accounts[world],
            )
            for world in sorted({MAIN, *records, *accounts})
        ]
        return WorldList(worlds=infos)


def is_admin_of_main(caller: Caller) -> bool:
    """Whether this is the one who may see that there are several worlds."""
    return (caller.world, caller.account) == (MAIN, ADMIN) and caller.allows("*")


def _need_admin_of_main(caller: Caller) -> None:
    need_account(caller)
    if not is_admin_of_main(caller):
        raise Forbidden(
            "Only admin of the world main handles worlds.",
            next="Use the token in the hub's data folder (admin.token).",
        )
