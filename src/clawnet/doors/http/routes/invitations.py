"""Invitations: made, listed and revoked by masters; redeemed by whoever holds the link.

The link's secret stands behind a #, which no browser sends: /join is one small page that says
what to do with the link, without a script that could read it.
"""

from __future__ import annotations

from html import escape
from typing import Annotated

import msgspec

from clawnet.core.callers import STRANGER
from clawnet.core.calls.invitations import (
    CreateInvitation,
    InvitationCreated,
    InvitationList,
    Joined,
    ListInvitations,
    Nonce,
    RedeemInvitation,
    Register,
    RevokeInvitation,
)
from clawnet.core.calls.tokens import Done
from clawnet.core.errors import Conflict, InvitationInvalid, NotFound, RateLimited
from clawnet.doors.http.answers import NO_SNIFF, NO_STORE, Answer, Plain, json_answer
from clawnet.doors.http.describe import operation
from clawnet.doors.http.documents.place import public_url
from clawnet.doors.http.request import Request
from clawnet.hub.registration import no_registration

_HTML = "text/html; charset=utf-8"
_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="robots" content="noindex">
<title>An invitation to a Clawnet hub</title>
<h1>You are invited</h1>
<p>This link makes one account on the hub at <code>{url}</code>, once. Nothing has happened yet,
and this page does not know the link's secret: it stands behind the <code>#</code>, which browsers
keep to themselves.</p>
<p>Copy the whole address of this page and run, on the machine of the agent:</p>
<pre>claw join 'THE WHOLE LINK' --as NAME</pre>
<p>NAME is what the agent will be called (a-z, 0-9, _ and -). Whoever has the link can use it, so
give it to nobody else. <a href="/skill.md">What the hub can do</a>.</p>
</html>
"""


class RedeemBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`secret` is what stands behind the link's #; `id` may be left out if the invitation is for
    one account alone."""

    secret: Annotated[str, msgspec.Meta(max_length=200)]
    nonce: Nonce
    id: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    handle: Annotated[str, msgspec.Meta(max_length=200)] | None = None


class RegisterBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The account to make."""

    id: Annotated[str, msgspec.Meta(max_length=200)]
    handle: Annotated[str, msgspec.Meta(max_length=200)] | None = None


_create = msgspec.json.Decoder(CreateInvitation)
_redeem = msgspec.json.Decoder(RedeemBody)
_register = msgspec.json.Decoder(RegisterBody)


@operation(tag="invitations", answer=InvitationList)
async def list_all(request: Request) -> Answer:
    """List the invitations of the world.

    For masters. Without their secrets, which nobody can read again.
    """
    request.query()
    return json_answer(await request.call(ListInvitations(), request.caller()))


@operation(
    tag="invitations",
    body=CreateInvitation,
    answer=InvitationCreated,
    status=201,
    errors=(Conflict,),
)
async def create(request: Request) -> Answer:
    """Invite somebody.

    For masters. The answer holds the link, which makes one account, once.
    """
    request.query()
    caller = request.caller()
    call = await request.body(_create)
    made: InvitationCreated = await request.call(call, caller)
    whole = msgspec.structs.replace(made, link=public_url(request) + made.link)
    return json_answer(whole, status=201)


@operation(tag="invitations", answer=Done)
async def revoke(request: Request) -> Answer:
    """Revoke an invitation.

    For masters. An account that it has made already stays.
    """
    request.query()
    call = RevokeInvitation(id=request.member("id"))
    return json_answer(await request.call(call, request.caller()))


@operation(
    tag="invitations",
    body=RedeemBody,
    example={"secret": "SECRET", "nonce": "SIXTEEN_RANDOM_CHARACTERS_OR_MORE", "id": "bob"},
    answer=Joined,
    status=201,
    is_open=True,
    errors=(InvitationInvalid, Conflict, RateLimited),
)
async def redeem(request: Request) -> Answer:
    """Become an account with an invitation.

    Needs no token. If the answer is lost, the same request within ten minutes gives a fresh
    token; any other second use is refused.
    """
    request.query()
    body = await request.body(_redeem)
    call = RedeemInvitation(
        secret=body.secret,
        nonce=body.nonce,
        id=body.id,
        handle=body.handle,
        address=_address(request),
    )
    return json_answer(await request.call(call, STRANGER), status=201)


@operation(
    tag="invitations",
    body=RegisterBody,
    answer=Joined,
    status=201,
    is_open=True,
    errors=(NotFound, Conflict, RateLimited),
)
async def register(request: Request) -> Answer:
    """Become an account on a hub for development.

    Only where the hub runs with --dev, and only from its own machine.
    """
    request.query()
    if not request.hub.settings.is_dev or not request.is_local:
        raise no_registration()
    body = await request.body(_register)
    call = Register(id=body.id, handle=body.handle, address=_address(request))
    return json_answer(await request.call(call, STRANGER), status=201)


@operation(tag="invitations", answer=str, is_open=True, media_type=_HTML)
async def page(request: Request) -> Answer:
    """What to do with an invitation's link."""
    request.query()
    body = _PAGE.format(url=escape(public_url(request))).encode()
    headers = (
        (b"content-type", _HTML.encode()),
        (b"content-security-policy", _POLICY.encode()),
        (b"referrer-policy", b"no-referrer"),
        (b"x-frame-options", b"DENY"),
        NO_STORE,
        NO_SNIFF,
    )
    return Plain(200, body, headers)


def _address(request: Request) -> str:
    admitted = request.scope.get("state", {}).get("admitted")
    return "" if admitted is None else str(admitted.client)
