"""Accounts: create, change, delete, block. Ids are never given twice, handles are unique.

Which names are free is hub.handles' affair, what may be a name core.handles'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.calls.accounts import (
    AccountInfo,
    AccountKind,
    AccountList,
    Block,
    Blocks,
    CreateAccount,
    DeleteAccount,
    ListAccounts,
    Me,
    MeInfo,
    Proof,
    ReadAccount,
    Role,
    Unblock,
    UpdateAccount,
)
from clawnet.core.calls.tokens import Done
from clawnet.core.channels import is_account_id
from clawnet.core.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    NotFound,
    RateLimited,
    Unauthenticated,
)
from clawnet.core.handles import NEVER, check_handle, fold, is_reserved
from clawnet.core.times import rfc3339
from clawnet.core.units import Delete, Put
from clawnet.hub.directory import Account, BlockRecord
from clawnet.hub.handles import HELD_PER_ACCOUNT_MAX, HELD_S, HeldHandle
from clawnet.hub.lookalikes import lookalikes_for
from clawnet.hub.vault import put

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

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
        """By a master. Raises Conflict for an id or handle that is, was or looks taken."""
        need_master(caller, "accounts:write")
        account = await self.made(
            caller.world,
            call.id,
            call.handle,
            role=call.role,
            kind=call.kind,
            proof="operator",
            by=caller.account,
            is_hub=caller.is_hub,
        )
        await self.store_new(account, caller)
        return info_of(account)

    async def made(
        self,
        world: str,
        given: str,
        handle: str | None,
        *,
        role: Role,
        kind: AccountKind,
        proof: Proof,
        by: str | None,
        is_hub: bool = False,
    ) -> Account:
        """A new account that is not stored yet. Raises BadRequest, Conflict.

        Only the hub itself (`is_hub`) gives names that are reserved.
        """
        hub = self._hub
        account_id = given.lower()
        shown = given if handle is None else handle
        tables = await lookalikes_for(account_id, shown)
        if not is_account_id(account_id) or account_id in NEVER:
            raise BadRequest(
                f"{ascii(given[:80])} cannot be an account's id.",
                next="Use 1 to 64 of a-z, 0-9, _ and -, and none of: all, global, system, hub.",
            )
        if not is_hub and is_reserved(account_id, tables.looks):
            raise BadRequest(
                f"{ascii(given[:80])} cannot be an account's id: it is reserved, or looks like a"
                " name that is.",
                next="Choose a name that says whose agent it is.",
                reason="reserved",
            )
        check_handle(shown, script_of=tables.script_of, looks=tables.looks, is_hub=is_hub)
        now_ms = hub.clock.wall_ms()
        account = Account(
            world=world,
            id=account_id,
            name=given,
            handle=shown,
            role=role,
            kind=kind,
            created_ms=now_ms,
            proof=proof,
            proved_ms=now_ms,
            proved_by=by,
        )
        self.check_new(account)
        return account

    def check_new(self, account: Account) -> None:
        """Raises Conflict unless the id and the handle of a new account are free."""
        hub, world, own = self._hub, account.world, account.id
        if hub.directory.account(world, own) is not None:
            raise Conflict(
                f"The id {own} is or was taken; an id is never given twice.",
                next="Choose another id.",
                reason="taken",
            )
        now_ms = hub.retention.now_ms()
        hub.directory.handles.check_free(world, own, account=own, now_ms=now_ms, what="id")
        hub.directory.handles.check_free(world, account.handle, account=own, now_ms=now_ms)

    async def store_new(self, account: Account, caller: Caller) -> None:
        """Commit a new account and its handle. Raises Conflict."""
        hub = self._hub
        self.check_new(account)
        forgotten, changes = hub.directory.handles.forget(hub.retention.now_ms())
        await hub.change(
            *puts_of(account),
            *changes,
            events=(hub.note(caller, EVENTS, "account.created", told_of(account)),),
        )
        self._let_go(forgotten)
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
        held: HeldHandle | None = None
        let_go: list[HeldHandle] = []
        if call.handle is not None and call.handle != before.handle:
            await self._check_handle(before, call.handle)
            after = msgspec.structs.replace(after, handle=call.handle)
            if fold(after.handle) != fold(before.handle):
                held, let_go, more = self._exchanged(before, after)
                changes += more
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
        self._let_go(let_go)
        self._apply(after)
        if held is not None:
            hub.directory.handles.hold(held)
        return info_of(after)

    async def _check_handle(self, account: Account, handle: str) -> None:
        """Raises BadRequest, Conflict if the account cannot have that handle."""
        hub = self._hub
        tables = await lookalikes_for(handle)
        # Its own id is always good: a reserved one is the hub's, or older than the list.
        if fold(handle) != account.id:
            check_handle(handle, script_of=tables.script_of, looks=tables.looks)
        now_ms = hub.retention.now_ms()
        hub.directory.handles.check_free(account.world, handle, account=account.id, now_ms=now_ms)

    def _exchanged(
        self, before: Account, after: Account
    ) -> tuple[HeldHandle, list[HeldHandle], list[Put | Delete]]:
        """One handle for another: what is kept back, what no longer is, and the changes.

        Raises RateLimited.
        """
        hub = self._hub
        handles, now_ms = hub.directory.handles, hub.retention.now_ms()
        kept = [h for h in handles.held_of(before.world, before.id) if h.until_ms > now_ms]
        if len(kept) >= HELD_PER_ACCOUNT_MAX:
            raise RateLimited(
                f"{before.id} gave up {len(kept)} handles within {HELD_S // 86_400} days.",
                next="Keep this handle until then: each one given up is kept back for a while.",
                retry_after_s=(kept[0].until_ms - now_ms) / 1_000,
            )
        held = handles.given_up(before.world, before.id, before.handle, now_ms)
        let_go, forgotten = handles.forget(now_ms)
        mine = handles.held(after.world, after.handle)
        if mine is not None and mine not in let_go:
            let_go.append(mine)
            forgotten.append(Delete(mine.key))
        # What is forgotten must not undo what is kept back in the same change.
        forgotten = [change for change in forgotten if change.key != held.key]
        return (
            held,
            let_go,
            [handle_put(after), Delete(_handle_key(before)), _held_put(held), *forgotten],
        )

    def _let_go(self, gone: list[HeldHandle]) -> None:
        for held in gone:
            self._hub.directory.handles.let_go(held.key)

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
        held = hub.directory.handles.given_up(
            world, account.id, account.handle, hub.retention.now_ms()
        )
        changes: list[Put | Delete] = [
            put("account", f"{world}/{account.id}", tomb),
            Delete(_handle_key(account)),
            _held_put(held),
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
        told = {"account": account.id, "handle": account.handle}
        opened = hub.directory.unlocks_of(world, account.id)
        for channel in opened:
            hub.directory.remove_lock(world, channel)
            changes.append(Delete(f"lock/{world}/{channel}"))
        changes += hub.consumers.forget(world, account.id)
        hub.directory.put_account(tomb)
        hub.directory.handles.hold(held)
        for channel in opened:
            hub.channel_rights_changed(world, narrowed=channel)
        hub.token_revoked(world, account.id)
        await hub.change(
            *changes,
            events=(hub.note(caller, EVENTS, "account.deleted", told),),
            is_narrowing=True,
        )
        return Done()

    async def read(self, call: ReadAccount, caller: Caller) -> AccountInfo:
        need_account(caller)
        caller.need("accounts:read")
        return _info_for(caller, self._living(caller.world, call.id))

    async def list_all(self, call: ListAccounts, caller: Caller) -> AccountList:
        need_account(caller)
        caller.need("accounts:read")
        if not 1 <= call.limit <= 1_000:
            raise BadRequest("limit must be 1 to 1000.", next="Ask for several pages instead.")
        behind = [a for a in self._hub.directory.accounts(caller.world) if a.id > call.after]
        page = behind[: call.limit]
        following = page[-1].id if len(behind) > len(page) else None
        accounts = [_info_for(caller, account) for account in page]
        return AccountList(accounts=accounts, next=following)

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
        if other.id == owner:
            raise BadRequest("An account cannot block itself.", next="Name another account.")
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


def info_of(account: Account) -> AccountInfo:
    return AccountInfo(
        id=account.id,
        name=account.name,
        handle=account.handle,
        role=account.role,  # type: ignore[arg-type]
        kind=account.kind,  # type: ignore[arg-type]
        world=account.world,
        created=rfc3339(account.created_ms),
        proof=account.proof,
        proved=rfc3339(account.proved_ms or account.created_ms),
        proved_by=account.proved_by,
    )


def _info_for(caller: Caller, account: Account) -> AccountInfo:
    info = info_of(account)
    if caller.role != "master" or account.subject is None:
        return info
    return msgspec.structs.replace(info, subject=account.subject)


def told_of(account: Account) -> dict[str, object]:
    """A new account in the event that tells of it."""
    return {
        "account": account.id,
        "handle": account.handle,
        "role": account.role,
        "kind": account.kind,
        "proof": account.proof,
        "proved_by": account.proved_by,
    }


def puts_of(account: Account) -> tuple[Put, Put]:
    """What stores a new account; neither its id nor its handle may be there."""
    key = f"{account.world}/{account.id}"
    return put("account", key, account, if_revision=0), handle_put(account)


def handle_put(account: Account) -> Put:
    """What makes the handle the account's, if it is nobody's."""
    value: Any = {"account": account.id}
    return Put(_handle_key(account), msgspec.json.encode(value).decode(), 0)


def _handle_key(account: Account) -> str:
    return f"handle/{account.world}/{fold(account.handle)}"


def _held_put(held: HeldHandle) -> Put:
    return put("held", held.key.removeprefix("held/"), held)
