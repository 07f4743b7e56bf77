"""Accounts: create, change, delete, block. Ids are never given twice, handles are unique."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.calls.accounts import (
    AccountInfo,
    AccountList,
    Block,
    Blocks,
    CreateAccount,
    DeleteAccount,
    ListAccounts,
    Me,
    MeInfo,
    ReadAccount,
    Unblock,
    UpdateAccount,
)
from clawnet.core.calls.tokens import Done
from clawnet.core.channels import is_account_id
from clawnet.core.errors import BadRequest, Conflict, Forbidden, NotFound, Unauthenticated
from clawnet.core.times import rfc3339
from clawnet.core.units import Delete, Put
from clawnet.hub.directory import Account, BlockRecord, fold
from clawnet.hub.vault import put

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

RESERVED_IDS = frozenset({"all", "global", "system", "hub"})
"""Never an account's id; `admin` is made by the hub itself."""
HANDLE_MAX_CHARS = 64
EVENTS = "system.accounts"


class Accounts:
    """Handlers of core.calls.accounts."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def register(self) -> None:
        hub = self._hub
        hub.handle(CreateAccount, self.create, is_change=True)
        hub.handle(UpdateAccount, self.update, is_change=True)
        hub.handle(DeleteAccount, self.delete, is_change=True)
        hub.handle(ReadAccount, self.read)
        hub.handle(ListAccounts, self.list_all)
        hub.handle(Me, self.me)
        hub.handle(Block, self.block, is_change=True)
        hub.handle(Unblock, self.unblock, is_change=True)
        hub.handle(Blocks, self.blocks)

    async def create(self, call: CreateAccount, caller: Caller) -> AccountInfo:
        """By a master. Raises Conflict for an id that is or was taken, or a handle in use."""
        need_master(caller, "accounts:write")
        account_id = call.id.lower()
        if not is_account_id(account_id) or account_id in RESERVED_IDS:
            raise BadRequest(
                f"{ascii(call.id[:80])} cannot be an account's id.",
                next="Use 1 to 64 of a-z, 0-9, _ and -, and none of: all, global, system, hub.",
            )
        account = Account(
            world=caller.world,
            id=account_id,
            name=call.id,
            handle=check_handle(call.id if call.handle is None else call.handle),
            role=call.role,
            kind=call.kind,
            created_ms=self._hub.clock.wall_ms(),
        )
        await self.store_new(account, caller)
        return info_of(account)

    async def store_new(self, account: Account, caller: Caller) -> None:
        """Commit a new account and its handle. Raises Conflict."""
        hub = self._hub
        if hub.directory.account(account.world, account.id) is not None:
            raise Conflict(
                f"The id {account.id} is or was taken; an id is never given twice.",
                next="Choose another id.",
            )
        if hub.directory.account_of_handle(account.world, account.id) is not None:
            raise Conflict(
                f"The id {account.id} is the handle of another account.", next="Choose another id."
            )
        self._check_free(account)
        data = {"account": account.id, "handle": account.handle, "role": account.role}
        await hub.change(
            put("account", f"{account.world}/{account.id}", account, if_revision=0),
            _handle_put(account),
            events=(hub.note(caller, EVENTS, "account.created", data),),
        )
        hub.directory.put_account(account)

    async def update(self, call: UpdateAccount, caller: Caller) -> AccountInfo:
        """One's own handle, or by a master anyone's handle and role."""
        hub = self._hub
        is_own = call.id == caller.account
        if call.role is not None or not is_own:
            need_master(caller, "accounts:write")
        else:
            need_account(caller)
            caller.need("accounts:write")
        before = self._living(caller.world, call.id)
        after = before
        changes: list[Put | Delete] = []
        if call.handle is not None:
            after = msgspec.structs.replace(after, handle=check_handle(call.handle))
            self._check_free(after)
            if fold(after.handle) != fold(before.handle):
                changes += [_handle_put(after), Delete(_handle_key(before))]
        if call.role is not None:
            if before.id == "admin" and call.role != "master":
                raise Forbidden("The account admin stays a master.", next="Choose another account.")
            after = msgspec.structs.replace(after, role=call.role)
        if after == before:
            return info_of(before)
        # From a worker, who has the rights that all roles have, a role can only be given more.
        is_narrowing = after.role != before.role != "worker"
        narrowed = msgspec.structs.replace(before, role="worker")
        if is_narrowing:
            # A role taken away is gone at once, whatever becomes of the commit.
            self._apply(narrowed, narrowed=">")
        data = {
            "account": after.id,
            "handle": after.handle,
            "role": after.role,
            "was": {"handle": before.handle, "role": before.role},
        }
        await hub.change(
            put("account", f"{after.world}/{after.id}", after),
            *changes,
            events=(hub.note(caller, EVENTS, "account.updated", data),),
            is_narrowing=is_narrowing,
            # Only what was taken away must come to disk later, never what was to be given.
            kept=(put("account", f"{before.world}/{before.id}", narrowed),),
        )
        self._apply(after)
        return info_of(after)

    async def delete(self, call: DeleteAccount, caller: Caller) -> Done:
        """By a master. Ends what it has and its connections; leaves a tombstone.

        What it locked stays locked: without the lock, a hub with default_read = anyone
        would open what is left in the channel.
        """
        hub = self._hub
        need_master(caller, "accounts:write")
        account = self._living(caller.world, call.id)
        if account.id in ("admin", caller.account):
            raise Forbidden(
                f"{account.id} cannot be deleted.", next="Delete it from another master's account."
            )
        world = account.world
        tomb = msgspec.structs.replace(account, is_deleted=True)
        changes: list[Put | Delete] = [
            put("account", f"{world}/{account.id}", tomb),
            Delete(_handle_key(account)),
        ]
        for token in hub.directory.tokens_of(world, account.id):
            hub.directory.remove_token(token.id)
            changes.append(Delete(f"token/{token.id}"))
        for grant in list(hub.directory.grants_of(world, account.id)):
            hub.directory.remove_grant(world, account.id, grant.channel)
            changes.append(Delete(f"grant/{world}/{account.id}/{grant.channel}"))
        for other in hub.directory.blocks_of(world, account.id):
            hub.directory.remove_block(world, account.id, other)
            changes.append(Delete(f"block/{world}/{account.id}/{other}"))
        opened = hub.directory.unlocks_of(world, account.id)
        for channel in opened:
            hub.directory.remove_lock(world, channel)
            changes.append(Delete(f"lock/{world}/{channel}"))
        changes += hub.consumers.forget(world, account.id)
        hub.directory.put_account(tomb)
        for channel in opened:
            hub.channel_rights_changed(world, narrowed=channel)
        hub.token_revoked(world, account.id)
        await hub.change(
            *changes,
            events=(hub.note(caller, EVENTS, "account.deleted", {"account": account.id}),),
            is_narrowing=True,
        )
        return Done()

    async def read(self, call: ReadAccount, caller: Caller) -> AccountInfo:
        need_account(caller)
        caller.need("accounts:read")
        return info_of(self._living(caller.world, call.id))

    async def list_all(self, call: ListAccounts, caller: Caller) -> AccountList:
        need_account(caller)
        caller.need("accounts:read")
        if not 1 <= call.limit <= 1_000:
            raise BadRequest("limit must be 1 to 1000.", next="Ask for several pages instead.")
        behind = [a for a in self._hub.directory.accounts(caller.world) if a.id > call.after]
        page = behind[: call.limit]
        following = page[-1].id if len(behind) > len(page) else None
        return AccountList(accounts=[info_of(account) for account in page], next=following)

    async def me(self, call: Me, caller: Caller) -> MeInfo:
        account = None
        if caller.account is not None:
            account = info_of(self._living(caller.world, caller.account))
        token = None
        if caller.token_id is not None:
            found = self._hub.directory.token(caller.token_id)
            token = None if found is None else found.name
        return MeInfo(
            account=account,
            token=token,
            token_id=caller.token_id,
            scopes=sorted(caller.scopes),
            world=caller.world,
            cursor=f"{self._hub.log_epoch}-{self._hub.fanout.position}",
        )

    async def block(self, call: Block, caller: Caller) -> Done:
        hub = self._hub
        owner = need_account(caller)
        caller.need("grants:write")
        other = self._living(caller.world, call.account)
        if hub.directory.is_blocked(caller.world, owner, other.id):
            return Done(changed=False)
        record = BlockRecord(world=caller.world, owner=owner, account=other.id)
        hub.directory.put_block(record)
        await hub.change(
            put("block", f"{caller.world}/{owner}/{other.id}", record),
            events=(hub.note(caller, EVENTS, "account.blocked", {"account": other.id}),),
            is_narrowing=True,
        )
        return Done()

    async def unblock(self, call: Unblock, caller: Caller) -> Done:
        hub = self._hub
        owner = need_account(caller)
        caller.need("grants:write")
        if not hub.directory.is_blocked(caller.world, owner, call.account):
            return Done(changed=False)
        await hub.change(
            Delete(f"block/{caller.world}/{owner}/{call.account}"),
            events=(hub.note(caller, EVENTS, "account.unblocked", {"account": call.account}),),
        )
        hub.directory.remove_block(caller.world, owner, call.account)
        return Done()

    async def blocks(self, call: Blocks, caller: Caller) -> Blocks:
        owner = need_account(caller)
        return Blocks(accounts=self._hub.directory.blocks_of(caller.world, owner))

    def _living(self, world: str, id: str) -> Account:
        account = self._hub.directory.account(world, id)
        if account is None or account.is_deleted:
            raise NotFound(f"There is no account {ascii(id[:80])}.")
        return account

    def _check_free(self, account: Account) -> None:
        """Raises Conflict if the account's handle is another's, or is another's id.

        An id stays its account's beside the handle it has now, and after its deletion.
        """
        directory, handle = self._hub.directory, fold(account.handle)
        owner = directory.account_of_handle(account.world, handle)
        named = directory.account(account.world, handle)
        if owner in (None, account.id) and (named is None or named.id == account.id):
            return
        raise Conflict(
            f"The handle {ascii(account.handle)} is taken.", next="Choose another handle."
        )

    def _apply(self, account: Account, *, narrowed: str | None = None) -> None:
        self._hub.directory.put_account(account)
        self._hub.rights_changed(account.world, account.id, narrowed=narrowed)


def need_account(caller: Caller) -> str:
    """The caller's account id. Raises Unauthenticated for an anonymous one."""
    if caller.account is None:
        raise Unauthenticated("This needs a token.")
    return caller.account


def need_master(caller: Caller, scope: str) -> str:
    """As need_account, and Forbidden unless it is a master with that scope."""
    account = need_account(caller)
    if caller.role != "master":
        raise Forbidden("Only a master may do this.", next="Use the token of a master account.")
    caller.need(scope)
    return account


def check_handle(handle: str) -> str:
    """Admit a handle. Raises BadRequest."""
    if (
        not handle
        or len(handle) > HANDLE_MAX_CHARS
        or not handle.isprintable()
        or handle != handle.strip()
        or fold(handle) in RESERVED_IDS
    ):
        raise BadRequest(
            f"{ascii(handle[:80])} cannot be a handle.",
            next=f"Use 1 to {HANDLE_MAX_CHARS} printable characters, without blanks at the ends.",
        )
    return handle


def info_of(account: Account) -> AccountInfo:
    return AccountInfo(
        id=account.id,
        name=account.name,
        handle=account.handle,
        role=account.role,  # type: ignore[arg-type]
        kind=account.kind,  # type: ignore[arg-type]
        world=account.world,
        created=rfc3339(account.created_ms),
    )


def _handle_key(account: Account) -> str:
    return f"handle/{account.world}/{fold(account.handle)}"


def _handle_put(account: Account) -> Put:
    value: Any = {"account": account.id}
    return Put(_handle_key(account), msgspec.json.encode(value).decode(), 0)
