"""Tokens and JWTs: made, listed, revoked; and the admin's token of a fresh hub."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.tokens import (
    SCOPES,
    CreateToken,
    Done,
    IssueJwt,
    JwtIssued,
    ListTokens,
    RevokeToken,
    TokenCreated,
    TokenInfo,
    TokenList,
)
from clawnet.core.errors import BadRequest, ClawError, Forbidden, NotFound
from clawnet.core.times import rfc3339
from clawnet.core.units import Delete, Put, Unit
from clawnet.hub.accounts import Accounts, need_account
from clawnet.hub.directory import Account, Token, Transient
from clawnet.hub.features import Feature
from clawnet.hub.jwts import LOGIN_TTL_S
from clawnet.hub.vault import put

if TYPE_CHECKING:
    from clawnet.core.events import Draft
    from clawnet.hub.hub import Hub

EVENTS = "system.tokens"
ADMIN = "admin"
ADMIN_TOKEN_NAME = "admin-file"
TOKENS_PER_ACCOUNT_MAX = 100
LOGIN_NAME = "claw.events"
"""What the token behind a login is called. No other token can have this name."""
LOGINS_PER_ACCOUNT_MAX = 20
"""Of more, the oldest ends."""
EXPIRES_MAX_S = 10 * 365 * 86_400.0
NAME_MAX_CHARS = 64
SWEEP_EVERY_S = 60.0
CHANGES_PER_UNIT = 256

_log = logging.getLogger(__name__)


class Tokens(Feature):
    """Handlers of core.calls.tokens; a feature that forgets the JWTs that are over."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def register(self, hub: Hub) -> None:
        hub.handle(CreateToken, self.create, is_change=True)
        # Nothing is stored and nobody may do more than before: no change.
        hub.handle(IssueJwt, self.issue)
        hub.handle(ListTokens, self.list_all)
        hub.handle(RevokeToken, self.revoke, is_change=True)

    async def create(self, call: CreateToken, caller: Caller) -> TokenCreated:
        """For oneself, or by a master for anyone. Raises Forbidden, BadRequest, NotFound."""
        hub = self._hub
        account = self._account(call.account, caller)
        caller.need("tokens:write")
        _check_scopes(call.scopes, caller)
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
            name=_free_name(call.name),
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

    async def issue(self, call: IssueJwt, caller: Caller) -> JwtIssued:
        """For oneself, from the token that is shown. Needs no scope, since it gives nothing that
        its maker does not have, and ends with it. Raises BadRequest, Forbidden, Unauthenticated.
        """
        hub = self._hub
        need_account(caller)
        scopes = None if call.scopes is None else list(dict.fromkeys(call.scopes))
        if scopes is not None:
            _check_scopes(scopes, caller)
        now_ms = hub.retention.now_ms()
        text, claims = hub.jwts.issue(caller, ttl_s=call.ttl_s, scopes=scopes, now_ms=now_ms)
        return JwtIssued(
            token=text,
            expires=rfc3339(claims.exp * 1000),
            expires_in_s=round(claims.exp - now_ms / 1000, 3),
            jti=claims.jti,
            scopes=claims.scp,
        )

    async def list_all(self, call: ListTokens, caller: Caller) -> TokenList:
        hub = self._hub
        account = self._account(call.account, caller)
        hub.uses.settle()
        now_ms = hub.retention.now_ms()
        living = [
            token
            for token in hub.directory.transients_of(caller.world, account)
            if token.expires_ms is None or token.expires_ms > now_ms
        ]
        stored = hub.directory.tokens_of(caller.world, account)
        return TokenList(tokens=[self._info(token) for token in (*stored, *living)])

    def _info(self, token: Token) -> TokenInfo:
        used_ms = self._hub.uses.last_ms(token.id)
        is_jwt = isinstance(token, Transient)
        return TokenInfo(
            id=token.id,
            account=token.account,
            name=token.name,
            scopes=token.scopes,
            created=rfc3339(token.created_ms),
            expires=None if token.expires_ms is None else rfc3339(token.expires_ms),
            last_used=None if used_ms is None else rfc3339(used_ms),
            kind="jwt" if is_jwt else "opaque",
            parent=token.parent if isinstance(token, Transient) else None,
        )

    async def revoke(self, call: RevokeToken, caller: Caller) -> Done:
        """In force in memory, on live connections too, before it is stored."""
        hub = self._hub
        own = need_account(caller)
        token = hub.directory.token(call.id)
        if token is None:
            # A JWT that was not shown in this run: its name tells whose it is.
            token = hub.jwts.named(call.id, now_ms=hub.retention.now_ms())
            token = token or hub.foreign.named(call.id)
        is_mine = token is not None and (token.world, token.account) == (caller.world, own)
        is_masters = token is not None and token.world == caller.world and caller.role == "master"
        if token is None or not (is_mine or is_masters):
            raise NotFound(f"There is no token {ascii(call.id[:80])}.")
        change: Put | Delete
        if isinstance(token, Transient):
            if caller.token_id not in (token.id, token.parent, *token.via):
                caller.need("tokens:write")
            change = put("revoked", token.id, hub.jwts.revoke(token))
        else:
            if token.id != caller.token_id:
                caller.need("tokens:write")
            hub.directory.remove_token(token.id)
            change = Delete(f"token/{token.id}")
        hub.token_revoked(token.world, token.account)
        await hub.change(
            change,
            events=(hub.note(caller, EVENTS, "token.revoked", _told(token)),),
            is_narrowing=True,
        )
        return Done()

    # --- a feature's life ---------------------------------------------------

    async def load(self) -> None:
        """The vault has loaded everything."""

    async def run(self) -> None:
        """Once a minute, forget the JWTs that are over and the revocations that outlived them."""
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            try:
                await self.sweep()
            except ClawError as error:
                _log.warning("old revocations stay a while: %s", error.message)

    async def sweep(self) -> None:
        hub = self._hub
        over = hub.jwts.sweep(now_ms=hub.retention.now_ms())
        for start in range(0, len(over), CHANGES_PER_UNIT):
            part = tuple(over[start : start + CHANGES_PER_UNIT])
            await hub.committer.commit(Unit(changes=part))
            hub.jwts.swept(part)

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


def _check_scopes(scopes: list[str], caller: Caller) -> None:
    """Raises BadRequest for what is no scope, Forbidden for what the caller lacks."""
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        raise BadRequest(
            f"{ascii(unknown[0][:60])} is no scope." if unknown else "A token needs a scope.",
            next=f"Choose from: {', '.join(SCOPES)}.",
        )
    wider = [scope for scope in scopes if not caller.allows(scope)]
    if wider:
        raise Forbidden(
            f"This token lacks {wider[0]}, so it cannot give it.",
            next="Ask for scopes that your own token has.",
        )


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
            proof="bootstrap",
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


async def log_in(
    hub: Hub, account: Account, caller: Caller, *puts: Put, events: tuple[Draft, ...] = ()
) -> JwtIssued:
    """A login as this account: a JWT for a week, from a token that nobody can show.

    That token's secret is thrown away, so that only what was made from it can be used, and ends
    with it. `puts` and `events` go into the same unit, as those of an account that is new.
    Under the lock of changes; what proves that the caller is the account is not asked here.
    """
    now_ms = hub.retention.now_ms()
    _, hashed = hub.vault.new_token()
    token = Token(
        id=hub.vault.new_id(),
        hash=hashed,
        world=account.world,
        account=account.id,
        name=LOGIN_NAME,
        scopes=["*"],
        created_ms=hub.clock.wall_ms(),
        expires_ms=now_ms + LOGIN_TTL_S * 1_000,
    )
    logins = [t for t in hub.directory.tokens_of(account.world, account.id) if t.name == LOGIN_NAME]
    logins.sort(key=lambda one: one.expires_ms or 0)
    over = [one for one in logins if one.expires_ms is not None and one.expires_ms <= now_ms]
    running = logins[len(over) :]
    over += running[: max(len(running) + 1 - LOGINS_PER_ACCOUNT_MAX, 0)]
    await hub.change(
        *puts,
        put("token", token.id, token, if_revision=0),
        *(Delete(f"token/{one.id}") for one in over),
        events=(*events, hub.note(caller, EVENTS, "token.created", _told(token))),
    )
    hub.directory.put_account(account)
    hub.directory.put_token(token)
    for one in over:
        hub.directory.remove_token(one.id)
    if over:
        hub.token_revoked(account.world, account.id)
    holder = hub.directory.caller(token.id)
    assert holder is not None, "it was put there a moment ago"
    return login_jwt(hub, holder)


def login_jwt(hub: Hub, holder: Caller) -> JwtIssued:
    """A JWT for as long as a login holds, from the token of `holder`."""
    now_ms = hub.retention.now_ms()
    text, claims = hub.jwts.issue(holder, ttl_s=None, scopes=None, now_ms=now_ms, is_login=True)
    return JwtIssued(
        token=text,
        expires=rfc3339(claims.exp * 1000),
        expires_in_s=round(claims.exp - now_ms / 1000, 3),
        jti=claims.jti,
        scopes=claims.scp,
    )


def is_login(hub: Hub, caller: Caller) -> bool:
    """Whether the caller shows what a login gave it, and not what was made from that."""
    shown = hub.directory.token(caller.token_id or "")
    return isinstance(shown, Transient) and not shown.via and shown.name == LOGIN_NAME


def _free_name(name: str) -> str:
    if name == LOGIN_NAME:
        raise BadRequest(f"Tokens of logins are called {LOGIN_NAME}.", next="Choose another name.")
    return _checked_name(name)


def _checked_name(name: str) -> str:
    """Admit a token's name, which only tells it from others. Raises BadRequest."""
    if not name or len(name) > NAME_MAX_CHARS or not name.isprintable() or name != name.strip():
        raise BadRequest(
            f"{ascii(name[:80])} cannot be a token's name.",
            next=f"Use 1 to {NAME_MAX_CHARS} printable characters, without blanks at the ends.",
        )
    return name


def _told(token: Token) -> dict[str, object]:
    return {
        "token": token.id,
        "account": token.account,
        "name": token.name,
        "scopes": token.scopes,
    }
