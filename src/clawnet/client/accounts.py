"""Accounts as Client offers them: who there is, their tokens, and what each may."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from clawnet.client.http import segment
from clawnet.core.calls.accounts import (
    AccountInfo,
    AccountKind,
    AccountList,
    Blocks,
    CreateAccount,
    MeInfo,
    Role,
)
from clawnet.core.calls.grants import Grant, GrantInfo, GrantList, LockState, Revoke, Verb
from clawnet.core.calls.tokens import CreateToken, TokenCreated, TokenInfo, TokenList

if TYPE_CHECKING:
    from clawnet.client.client import Client

_PAGE = 100


class AccountCalls:
    """The part of Client that has to do with accounts and their rights."""

    @property
    def _hub(self) -> Client:
        return cast("Client", self)

    # --- accounts and tokens ------------------------------------------------

    async def me(self) -> MeInfo:
        """Who the hub takes this client for."""
        return await self._hub.request("GET", "/api/v1/me", None, MeInfo)

    async def accounts(self) -> list[AccountInfo]:
        """All accounts of this world."""
        found: list[AccountInfo] = []
        after: str | None = None
        while True:
            query = {"after": after, "limit": _PAGE}
            page = await self._hub.request(
                "GET", "/api/v1/accounts", None, AccountList, query=query
            )
            found += page.accounts
            after = page.next
            if after is None:
                return found

    async def account(self, id: str) -> AccountInfo:
        return await self._hub.request("GET", f"/api/v1/accounts/{segment(id)}", None, AccountInfo)

    async def create_account(
        self,
        id: str,
        *,
        handle: str | None = None,
        role: Role = "worker",
        kind: AccountKind = "agent",
    ) -> AccountInfo:
        request = CreateAccount(id=id, handle=handle, role=role, kind=kind)
        return await self._hub.request("POST", "/api/v1/accounts", request, AccountInfo)

    async def update_account(
        self, id: str, *, handle: str | None = None, role: Role | None = None
    ) -> AccountInfo:
        body = {
            key: value for key, value in (("handle", handle), ("role", role)) if value is not None
        }
        return await self._hub.request(
            "PATCH", f"/api/v1/accounts/{segment(id)}", body, AccountInfo
        )

    async def delete_account(self, id: str) -> None:
        await self._hub.request("DELETE", f"/api/v1/accounts/{segment(id)}", None, None)

    async def tokens(self, account: str | None = None) -> list[TokenInfo]:
        """The tokens of an account; one's own without a name."""
        query = {"account": account}
        return (
            await self._hub.request("GET", "/api/v1/tokens", None, TokenList, query=query)
        ).tokens

    async def create_token(
        self,
        account: str | None = None,
        *,
        name: str = "default",
        scopes: Iterable[str] = ("*",),
        expires_in_s: float | None = None,
    ) -> TokenCreated:
        """A new token; it is shown here and never again."""
        request = CreateToken(
            account=account, name=name, scopes=list(scopes), expires_in_s=expires_in_s
        )
        return await self._hub.request("POST", "/api/v1/tokens", request, TokenCreated)

    async def revoke_token(self, id: str) -> None:
        await self._hub.request("DELETE", f"/api/v1/tokens/{segment(id)}", None, None)

    # --- rights -------------------------------------------------------------

    async def grants(
        self, *, account: str | None = None, channel: str | None = None
    ) -> list[GrantInfo]:
        """Grants this account gave or was given."""
        query = {"account": account, "channel": channel}
        return (
            await self._hub.request("GET", "/api/v1/grants", None, GrantList, query=query)
        ).grants

    async def grant(
        self, account: str, channel: str, verbs: Iterable[Verb] = ("read",)
    ) -> GrantInfo:
        request = Grant(account=account, channel=channel, verbs=list(verbs))
        return await self._hub.request("POST", "/api/v1/grants", request, GrantInfo)

    async def revoke(self, account: str, channel: str, verbs: Iterable[Verb] | None = None) -> None:
        """Take rights back, at once; all of them without `verbs`."""
        given = None if verbs is None else list(verbs)
        request = Revoke(account=account, channel=channel, verbs=given)
        await self._hub.request("DELETE", "/api/v1/grants", request, None)

    async def lock(self, channel: str) -> LockState:
        path = f"/api/v1/channels/{segment(channel)}/lock"
        return await self._hub.request("POST", path, None, LockState)

    async def unlock(self, channel: str) -> LockState:
        path = f"/api/v1/channels/{segment(channel)}/unlock"
        return await self._hub.request("POST", path, None, LockState)

    async def blocks(self) -> list[str]:
        """Whom this account keeps out of its inbox."""
        return (await self._hub.request("GET", "/api/v1/blocks", None, Blocks)).accounts

    async def block(self, account: str) -> None:
        await self._hub.request("PUT", f"/api/v1/blocks/{segment(account)}", None, None)

    async def unblock(self, account: str) -> None:
        await self._hub.request("DELETE", f"/api/v1/blocks/{segment(account)}", None, None)
