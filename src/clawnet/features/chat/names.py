"""Whom a name in a text means, and giving handles."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from clawnet.core.callers import Caller
from clawnet.core.calls.accounts import CreateAccount, UpdateAccount
from clawnet.core.calls.chat import HandleSet, SetHandle
from clawnet.core.errors import BadRequest, Forbidden, NotFound
from clawnet.core.handles import HANDLE_MAX_CHARS, fold
from clawnet.hub.accounts import need_account
from clawnet.hub.directory import Account

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

MENTIONS_MAX = 20
"""Of so many names in one text the accounts are looked up."""
_MENTION = re.compile(r"(?<![\w@.-])@([\w.-]{1,64})")


class Names:
    """Looks names up, and answers SetHandle."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def register(self) -> None:
        # No change of its own: what it calls are, one after the other.
        self._hub.handle(SetHandle, self.set_handle)

    def account(self, world: str, name: str) -> Account | None:
        """The living account of an id or a handle."""
        directory = self._hub.directory
        found = directory.account(world, name.lower())
        if found is None and len(name) <= HANDLE_MAX_CHARS:
            claim = directory.handles.other(world, name, account="", now_ms=1 << 62)
            # What only looks like it is somebody else.
            if claim is not None and fold(claim.name) == fold(name):
                found = directory.account(world, claim.account)
        return None if found is None or found.is_deleted else found

    def need(self, world: str, name: str) -> Account:
        """As account(). Raises NotFound."""
        found = self.account(world, name.removeprefix("@"))
        if found is None:
            raise NotFound(
                f"There is no account {ascii(name[:80])}.",
                next="Correct the name; claw account list shows who there is.",
            )
        return found

    def mentioned(self, world: str, text: str) -> list[Account]:
        """Whom a text names with an @, at most so many."""
        found: dict[str, Account] = {}
        for count, match in enumerate(_MENTION.finditer(text)):
            if count >= MENTIONS_MAX:
                break
            name = match[1]
            # `@bob.` ends a sentence, unless somebody is called so.
            account = self.account(world, name) or self.account(world, name.rstrip(".-"))
            if account is not None:
                found[account.id] = account
        return list(found.values())

    async def set_handle(self, call: SetHandle, caller: Caller) -> HandleSet:
        """Raises Conflict, Forbidden, BadRequest; see UpdateAccount and CreateAccount."""
        hub = self._hub
        own = need_account(caller)
        agent = call.agent_id.strip().lower().removeprefix("@")
        if not agent:
            raise BadRequest("There is no agent_id.", next="Name the account that is to have it.")
        if agent != own and caller.role != "master":
            raise Forbidden(
                "One gives oneself a handle, and only a master another account.",
                next=f"Give agent_id {own}, or ask a master.",
            )
        before = hub.directory.account(caller.world, agent)
        if before is None:
            made = await hub.call(
                CreateAccount(id=call.agent_id.strip().removeprefix("@"), handle=call.handle),
                caller=caller,
            )
            return HandleSet(agent_id=made.id, handle=made.handle, created=True)
        now = await hub.call(UpdateAccount(id=agent, handle=call.handle), caller=caller)
        return HandleSet(agent_id=now.id, handle=now.handle, changed=now.handle != before.handle)


def reader_of(account: Account) -> Caller:
    """Who an account is apart from any token of it: to ask what it may read."""
    return Caller(
        account=account.id,
        handle=account.handle,
        role=account.role,
        kind=account.kind,
        world=account.world,
    )
