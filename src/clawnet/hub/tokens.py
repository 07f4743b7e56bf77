"""Tokens: made, listed, revoked; and the admin's token of a fresh hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.tokens import (
    SCOPES,
    CreateToken,
    Done,
    ListTokens,
    RevokeToken,
    TokenCreated,
    TokenInfo,
    TokenList,
)
from clawnet.core.errors import BadRequest, Forbidden, NotFound
from clawnet.core.times import rfc3339
from clawnet.core.units import Delete
from clawnet.hub.accounts import Accounts, check_handle, need_account
from clawnet.hub.directory import Account, Token
from clawnet.hub.vault import put

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

EVENTS = "system.tokens"
ADMIN = "admin"
ADMIN_TOKEN_NAME = "admin-file"
TOKENS_PER_ACCOUNT_MAX = 100
EXPIRES_MAX_S = 10 * 365 * 86_400.0


class Tokens:
    """Handlers of core.calls.tokens."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def register(self) -> None:
        self._hub.handle(CreateToken, self.create, is_change=True)
        self._hub.handle(ListTokens, self.list_all)
        self._hub.handle(RevokeToken, self.revoke, is_change=True)

    async def create(self, call: CreateToken, caller: Caller) -> TokenCreated:
        """For oneself, or by a master for anyone. Raises Forbidden, BadRequest, NotFound."""
        hub = self._hub
        account = self._account(call.account, caller)
        caller.need("tokens:write")
        unknown = [scope for scope in call.scopes if scope not in SCOPES]
        if unknown or not call.scopes:
            raise BadRequest(
                f"{ascii(unknown[0][:60])} is no scope." if unknown else "A token needs a scope.",
                next=f"Choose from: {', '.join(SCOPES)}.",
            )
        wider = [scope for scope in call.scopes if not caller.allows(scope)]
        if wider:
            raise Forbidden(
                f"This token lacks {wider[0]}, so it cannot give it.",
                next="Ask for scopes that your own token has.",
            )
        if call.expires_in_s is not None and not 0 < call.expires_in_s <= EXPIRES_MAX_S:
            raise BadRequest(
                "expires_in_s must be positive and at most ten years.",
                next="Leave it out for a token that does not expire.",
            )
        if len(hub.directory.tokens_of(caller.world, account)) >= TOKENS_PER_ACCOUNT_MAX:
            raise BadRequest(
                f"An account has at most {TOKENS_PER_ACCOUNT_MAX} tokens.",
                next="Revoke tokens that are no longer used.",
            )
        now_ms = hub.clock.wall_ms()
        expires_ms = None
        if call.expires_in_s is not None:
            expires_ms = hub.retention.now_ms() + int(call.expires_in_s * 1000)
        if caller.expires_ms is not None:
            # A token cannot outlive itself through one that it makes.
            expires_ms = min(expires_ms or caller.expires_ms, caller.expires_ms)
        text, hashed = hub.vault.new_token()
        token = Token(
            id=hub.vault.new_id(),
            hash=hashed,
            world=caller.world,
            account=account,
            name=check_handle(call.name),
            scopes=list(call.scopes),
            created_ms=now_ms,
            expires_ms=expires_ms,
        )
        await self._store(token, caller)
        return TokenCreated(
            id=token.id,
            token=text,
            account=account,
            name=token.name,
            scopes=token.scopes,
            expires=None if expires_ms is None else rfc3339(expires_ms),
        )

    async def list_all(self, call: ListTokens, caller: Caller) -> TokenList:
        account = self._account(call.account, caller)
        return TokenList(
            tokens=[
                TokenInfo(
                    id=token.id,
                    account=token.account,
                    name=token.name,
                    scopes=token.scopes,
                    created=rfc3339(token.created_ms),
                    expires=None if token.expires_ms is None else rfc3339(token.expires_ms),
                )
                for token in self._hub.directory.tokens_of(caller.world, account)
            ]
        )

    async def revoke(self, call: RevokeToken, caller: Caller) -> Done:
        """In force in memory, on live connections too, before it is stored."""
        hub = self._hub
        own = need_account(caller)
        token = hub.directory.token(call.id)
        is_mine = token is not None and (token.world, token.account) == (caller.world, own)
        is_masters = token is not None and token.world == caller.world and caller.role == "master"
        if token is None or not (is_mine or is_masters):
            raise NotFound(f"There is no token {ascii(call.id[:80])}.")
        if token.id != caller.token_id:
            caller.need("tokens:write")
        hub.directory.remove_token(token.id)
        hub.token_revoked(token.world, token.account)
        await hub.change(
            Delete(f"token/{token.id}"),
            events=(hub.note(caller, EVENTS, "token.revoked", _told(token)),),
            is_narrowing=True,
        )
        return Done()

    def _account(self, asked: str | None, caller: Caller) -> str:
        own = need_account(caller)
        if asked is None or asked == own:
            return own
        if caller.role != "master":
            raise Forbidden(
                "Only a master handles the tokens of others.", next="Leave the account out."
            )
        if not self._hub.directory.has_account(caller.world, asked):
            raise NotFound(f"There is no account {ascii(asked[:80])}.")
        return asked

    async def _store(self, token: Token, caller: Caller) -> None:
        hub = self._hub
        await hub.change(
            put("token", token.id, token, if_revision=0),
            events=(hub.note(caller, EVENTS, "token.created", _told(token)),),
        )
        hub.directory.put_token(token)


async def bootstrap_admin(hub: Hub, known_token: str | None) -> str | None:
    """Make sure that `admin` (master) exists and has the token that lies in its file.

    `known_token` is what the file holds. Returns the new token to write into
    the file, or None if the known one is good. A new one revokes the old.
    """
    tokens = Tokens(hub)
    if hub.directory.account("main", ADMIN) is None:
        account = Account(
            world="main",
            id=ADMIN,
            name=ADMIN,
            handle=ADMIN,
            role="master",
            kind="human",
            created_ms=hub.clock.wall_ms(),
        )
        await Accounts(hub).store_new(account, HUB)
    mine = [t for t in hub.directory.tokens_of("main", ADMIN) if t.name == ADMIN_TOKEN_NAME]
    if known_token is not None:
        hashed = hub.vault.hash(known_token)
        if any(token.hash == hashed for token in mine):
            return None
    text, hashed = hub.vault.new_token()
    token = Token(
        id=hub.vault.new_id(),
        hash=hashed,
        world="main",
        account=ADMIN,
        name=ADMIN_TOKEN_NAME,
        scopes=["*"],
        created_ms=hub.clock.wall_ms(),
    )
    await tokens._store(token, HUB)
    for old in mine:
        hub.directory.remove_token(old.id)
        hub.token_revoked("main", ADMIN)
        await hub.change(Delete(f"token/{old.id}"), is_narrowing=True)
    return text


def _told(token: Token) -> dict[str, object]:
    return {
        "token": token.id,
        "account": token.account,
        "name": token.name,
        "scopes": token.scopes,
    }
