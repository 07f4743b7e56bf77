"""/api/auth: sessions as the first version of ClawNet had them, by the shared secret.

Everything but /api/auth/token needs a token; where the hub's own routes do not take the secret
itself, these do (see legacy_caller), since dashboards of that version may send nothing else.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from clawnet.core.callers import STRANGER, Caller
from clawnet.core.calls.accounts import Me, MeInfo
from clawnet.core.calls.fleet import OpenSession, SessionOpened
from clawnet.core.calls.tokens import ListTokens, RevokeToken, TokenList
from clawnet.core.errors import Forbidden, RateLimited, Unauthenticated
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.claw_events.answers import claw_errors
from clawnet.doors.http.describe import operation
from clawnet.doors.http.request import Request, bearer
from clawnet.doors.http.routes.fleet import address_of

TAG = "C2CP v1"

Text = Annotated[str, msgspec.Meta(max_length=5_000)]


class SecretBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`secret` is the hub's shared secret, `<world>:<secret>` where it has several worlds."""

    secret: Annotated[str, msgspec.Meta(max_length=600)] = ""


class TokenBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another token than the one that the header shows."""

    token: Text | None = None


class SessionToken(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename={"expires_at": "expiresAt", "token_type": "tokenType"},
):
    """A token for every door, until then."""

    token: str
    expires_at: str
    token_type: Literal["Bearer"] = "Bearer"


class SessionInfo(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename={"tenant_id": "tenantId", "created_at": "createdAt"},
):
    """The token holds. `tenantId` is its world; `createdAt` is null for a short-lived token."""

    valid: Literal[True] = True
    tenant_id: str
    created_at: str | None


class SessionEnded(msgspec.Struct, frozen=True, kw_only=True):
    """The token is over, on live connections too."""

    ok: Literal[True] = True
    revoked: Literal[True] = True


_secret = msgspec.json.Decoder(SecretBody)
_token = msgspec.json.Decoder(TokenBody)


@claw_errors
@operation(
    tag=TAG,
    body=SecretBody,
    example={"secret": "SECRET"},
    answer=SessionToken,
    is_open=True,
    errors=(Unauthenticated, Forbidden, RateLimited),
)
async def token(request: Request) -> Answer:
    """Get a token for a day with the shared secret.

    A master's where fleet.secret_roles allows that, else one that only reads. Ten a minute and
    address.
    """
    request.query()
    body = await request.body(_secret)
    call = OpenSession(secret=body.secret, address=address_of(request))
    opened: SessionOpened = await request.call(call, STRANGER)
    return json_answer(SessionToken(token=opened.token, expires_at=opened.expires))


@claw_errors
@operation(tag=TAG, body=TokenBody, is_body_optional=True, answer=SessionInfo)
async def verify(request: Request) -> Answer:
    """Ask whether a token holds, of which world it is and since when it is there."""
    caller = await _shown(request)
    me: MeInfo = await request.call(Me(), caller)
    listed: TokenList = await request.call(ListTokens(), caller)
    created = next((one.created for one in listed.tokens if one.id == me.token_id), None)
    return json_answer(SessionInfo(tenant_id=me.world, created_at=created))


@claw_errors
@operation(tag=TAG, body=TokenBody, is_body_optional=True, answer=SessionEnded)
async def revoke(request: Request) -> Answer:
    """End a token: the one in the body, else the one that is shown. It never holds again."""
    return await _end(request, await _shown(request))


@claw_errors
@operation(tag=TAG, answer=SessionEnded)
async def logout(request: Request) -> Answer:
    """End the token that is shown."""
    request.query()
    return await _end(request, await legacy_caller(request))


async def legacy_caller(request: Request) -> Caller:
    """Who asks on a route of the first version, by a token or by the shared secret.

    Who shows the secret is a master where fleet.secret_roles allows that, else one that only
    reads. Raises Unauthenticated, RateLimited.
    """
    shown = bearer(request.headers)
    try:
        # What is no token may be the secret, whose refusals are noted where it is asked.
        return request.hub.authenticate(shown, is_last=False)
    except Unauthenticated as error:
        if error.is_expired:
            raise
    return await _by_secret(request, shown)


async def _by_secret(request: Request, shown: str) -> Caller:
    try:
        # A header is latin-1 to HTTP, and what clients write into it is UTF-8.
        secret = shown.encode("latin-1").decode("utf-8")
    except UnicodeError:
        secret = shown
    call = OpenSession(secret=secret, address=address_of(request), is_standing=True)
    try:
        opened: SessionOpened = await request.call(call, STRANGER)
    except Unauthenticated:
        raise Unauthenticated("The token is not valid.") from None
    return request.hub.authenticate(opened.token)


async def _shown(request: Request) -> Caller:
    """The caller of the token in the body, or else of the header's."""
    request.query()
    if b"authorization" not in request.headers:
        body = await request.body(_token)
        if not body.token:
            raise Unauthenticated("This needs a token.")
        return request.hub.authenticate(body.token)
    caller = await legacy_caller(request)
    body = await request.body(_token, default=TokenBody())
    return caller if body.token is None else request.hub.authenticate(body.token)


async def _end(request: Request, caller: Caller) -> Answer:
    if caller.token_id is None:
        raise Unauthenticated("This needs a token.")
    await request.call(RevokeToken(id=caller.token_id), caller)
    return json_answer(SessionEnded())
