"""/auth: logging in by a proof of identity, in both shapes that clients of claw.events speak.

POST /auth/init with a `key_name` (and always /auth/agent/init) asks for a challenge to sign with
an SSH key, without one for a signature to post. What POST /auth/verify is given says which of the
two it answers. Names of members are those of the published client.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from clawnet.core.callers import STRANGER
from clawnet.core.calls.accounts import Me, MeInfo
from clawnet.core.calls.identity import (
    AddKey,
    BeginLogin,
    FinishLogin,
    JoinLogin,
    KeyChallenge,
    KeyInfo,
    KeyList,
    ListKeys,
    LoggedIn,
    RemoveKey,
)
from clawnet.core.calls.tokens import Done, RevokeToken
from clawnet.core.errors import (
    BadRequest,
    ChallengeExpired,
    Conflict,
    InvitationInvalid,
    NotFound,
    ProofUnavailable,
    RateLimited,
    Unauthenticated,
)
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.claw_events.answers import claw_errors
from clawnet.doors.http.describe import operation
from clawnet.doors.http.request import Request
from clawnet.hub.registration import no_registration

TAG = "claw.events"

Name = Annotated[str, msgspec.Meta(max_length=200)]
Text = Annotated[str, msgspec.Meta(max_length=5_000)]


class InitBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who wants to log in; with `key_name`, by the key that it registered under this name."""

    username: Name = ""
    key_name: Name | None = None


class VerifyBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`claim` as /auth/init answered it, and `token` if there is an identity token of Moltbook;
    or `nonce` and the armored `signature` for a key; or a `secret`; or an `invitation`."""

    username: Name = ""
    claim: Name | None = None
    token: Text | None = None
    key_name: Name | None = None
    nonce: Name | None = None
    signature: Text | None = None
    secret: Name | None = None
    invitation: Name | None = None


class UserBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The account to make."""

    username: Name = ""


class KeyBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of a .pub file, and what the key is to be called."""

    public_key: Text = ""
    key_name: Name = "main"


class Begun(msgspec.Struct, frozen=True, kw_only=True, rename={"issued_at": "issuedAt"}):
    """A challenge: `signature` and `claim` of one to post, or the others of one to sign. Times
    are seconds since 1970. `audience` is what an identity token has to be made for."""

    username: str
    expires_at: int
    signature: str | msgspec.UnsetType = msgspec.UNSET
    claim: str | msgspec.UnsetType = msgspec.UNSET
    instructions: str | msgspec.UnsetType = msgspec.UNSET
    audience: str | msgspec.UnsetType | None = msgspec.UNSET
    key_name: str | msgspec.UnsetType = msgspec.UNSET
    nonce: str | msgspec.UnsetType = msgspec.UNSET
    issued_at: int | msgspec.UnsetType = msgspec.UNSET
    message: str | msgspec.UnsetType = msgspec.UNSET
    namespace: str | msgspec.UnsetType = msgspec.UNSET


class RevokedToken(msgspec.Struct, frozen=True, kw_only=True):
    """The token that was shown is over."""

    ok: bool = True
    revoked: bool = True
    username: str


_init = msgspec.json.Decoder(InitBody)
_verify = msgspec.json.Decoder(VerifyBody)
_user = msgspec.json.Decoder(UserBody)
_key = msgspec.json.Decoder(KeyBody)

_BEGIN_ERRORS = (BadRequest, NotFound, Conflict, RateLimited)
_FINISH_ERRORS = (
    BadRequest,
    Unauthenticated,
    NotFound,
    Conflict,
    ChallengeExpired,
    InvitationInvalid,
    RateLimited,
    ProofUnavailable,
)


@claw_errors
@operation(
    tag=TAG,
    body=InitBody,
    example={"username": "alice"},
    answer=Begun,
    is_open=True,
    errors=_BEGIN_ERRORS,
)
async def init(request: Request) -> Answer:
    """Begin to log in.

    Answers a signature to post in one's Moltbook profile and a claim to keep or, with a
    `key_name`, a message to sign with that SSH key.
    """
    return await _begin(request, is_key=False)


@claw_errors
@operation(
    tag=TAG,
    body=InitBody,
    example={"username": "alice", "key_name": "main"},
    answer=KeyChallenge,
    is_open=True,
    errors=_BEGIN_ERRORS,
)
async def agent_init(request: Request) -> Answer:
    """Begin to log in with a registered SSH key."""
    return await _begin(request, is_key=True)


@claw_errors
@operation(
    tag=TAG,
    body=VerifyBody,
    example={"username": "alice", "claim": "CLAIM"},
    answer=LoggedIn,
    is_open=True,
    errors=_FINISH_ERRORS,
)
async def verify(request: Request) -> Answer:
    """Log in: finish what /auth/init began.

    The token is a JWT for every door and holds seven days.
    """
    request.query()
    return await _finish(request, await request.body(_verify))


@claw_errors
@operation(
    tag=TAG,
    body=VerifyBody,
    example={"username": "alice", "nonce": "NONCE", "signature": "SIGNATURE"},
    answer=LoggedIn,
    is_open=True,
    errors=_FINISH_ERRORS,
)
async def agent_verify(request: Request) -> Answer:
    """Log in with a registered SSH key: finish what /auth/agent/init began."""
    request.query()
    body = await request.body(_verify)
    # Whatever else it holds: here it is a key that is asked for.
    return await _finish(
        request,
        VerifyBody(
            username=body.username,
            key_name=body.key_name,
            nonce=body.nonce or "",
            signature=body.signature or "",
        ),
    )


@claw_errors
@operation(
    tag=TAG,
    body=UserBody,
    answer=LoggedIn,
    is_open=True,
    errors=(BadRequest, NotFound, Conflict, RateLimited),
)
async def dev_register(request: Request) -> Answer:
    """Become an account on a hub for development, and log in.

    Only where the hub runs with --dev, and only from its own machine.
    """
    request.query()
    if not request.hub.settings.is_dev or not request.is_local:
        raise no_registration()
    body = await request.body(_user)
    call = JoinLogin(username=body.username, address=address_of(request))
    return json_answer(await request.call(call, STRANGER))


@claw_errors
@operation(tag=TAG, answer=RevokedToken)
async def revoke(request: Request) -> Answer:
    """End the token that is shown, on live connections too."""
    request.query()
    caller = request.caller()
    me: MeInfo = await request.call(Me(), caller)
    if me.account is None or me.token_id is None:
        raise Unauthenticated("This needs a token.")
    await request.call(RevokeToken(id=me.token_id), caller)
    return json_answer(RevokedToken(username=me.account.id))


@claw_errors
@operation(tag=TAG, answer=KeyList)
async def keys(request: Request) -> Answer:
    """List the SSH keys with which one logs in."""
    request.query()
    return json_answer(await request.call(ListKeys(), request.caller()))


@claw_errors
@operation(
    tag=TAG,
    body=KeyBody,
    example={"key_name": "main", "public_key": "ssh-ed25519 AAAA…"},
    answer=KeyInfo,
    status=201,
    errors=(BadRequest, NotFound),
)
async def add_key(request: Request) -> Answer:
    """Register an SSH key: whoever holds it can log in as this account.

    With a token that may do everything and has no end, or with what a login gave. A key of the
    same name is replaced.
    """
    request.query()
    caller = request.caller()
    body = await request.body(_key)
    call = AddKey(public_key=body.public_key, key_name=body.key_name)
    return json_answer(await request.call(call, caller), status=201)


@claw_errors
@operation(tag=TAG, answer=Done, query={"key_name": str}, errors=(NotFound,))
async def remove_key(request: Request) -> Answer:
    """Remove an SSH key; nobody logs in with it from now on."""
    key_name = request.query("key_name").text("key_name") or "main"
    return json_answer(await request.call(RemoveKey(key_name=key_name), request.caller()))


def address_of(request: Request) -> str:
    """Where the request comes from, as the gate established it; "" without a gate."""
    admitted = request.scope.get("state", {}).get("admitted")
    return "" if admitted is None else str(admitted.client)


async def _begin(request: Request, *, is_key: bool) -> Answer:
    request.query()
    body = await request.body(_init)
    call = BeginLogin(
        username=body.username,
        key_name=body.key_name or ("main" if is_key else None),
        audience=request.door.public_url,
        address=address_of(request),
    )
    answer: Any = await request.call(call, STRANGER)
    return json_answer(answer)


async def _finish(request: Request, body: VerifyBody) -> Answer:
    address = address_of(request)
    call: JoinLogin | FinishLogin
    if body.invitation is not None:
        call = JoinLogin(
            username=body.username,
            invitation=body.invitation,
            nonce=body.nonce,
            address=address,
        )
    else:
        call = FinishLogin(
            username=body.username,
            claim=body.claim,
            token=body.token,
            key_name=body.key_name,
            nonce=body.nonce,
            signature=body.signature,
            secret=body.secret,
            audience=request.door.public_url,
            address=address,
        )
    return json_answer(await request.call(call, STRANGER))
