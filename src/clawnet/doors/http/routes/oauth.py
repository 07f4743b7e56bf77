"""OAuth 2.0: a short-lived token for a client with a secret (RFC 6749, section 4.4).

The client is an account, its secret one of the account's tokens. Errors have the form of
section 5.2, which clients of OAuth understand, and `next` beside it.

A page of another site that posts this form from a browser gains nothing: no cookie or other
thing that browsers add by themselves counts here, so it would have to know the secret; and the
gate refuses what bears a foreign Origin.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from typing import Annotated

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.calls.tokens import SCOPES, IssueJwt, JwtIssued
from clawnet.core.errors import (
    BadRequest,
    ClawError,
    Forbidden,
    PayloadTooLarge,
    RateLimited,
    Unauthenticated,
    Unavailable,
)
from clawnet.doors import problem
from clawnet.doors.http.answers import JSON, NO_SNIFF, NO_STORE, Answer, Plain, encode, json_answer
from clawnet.doors.http.body import read_body
from clawnet.doors.http.describe import operation
from clawnet.doors.http.documents.place import public_url
from clawnet.doors.http.query import decoded
from clawnet.doors.http.request import Request
from clawnet.hub.vault import TOKEN_PREFIX

GRANT_TYPE = "client_credentials"
FORM = "application/x-www-form-urlencoded"
BODY_MAX_BYTES = 16_384
PARAMETERS_MAX = 32
TOKEN_PATH = "/oauth/token"

_PRAGMA = (b"pragma", b"no-cache")
_KNOWN = ("grant_type", "client_id", "client_secret", "scope")


class TokenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The form. The client may instead be given by HTTP Basic, not in both ways."""

    grant_type: Annotated[str, msgspec.Meta(description="`client_credentials`.")]
    client_id: Annotated[str, msgspec.Meta(description="The account's id.")] | None = None
    client_secret: Annotated[str, msgspec.Meta(description="One of its tokens.")] | None = None
    scope: Annotated[str, msgspec.Meta(description="Fewer scopes, with blanks between.")] | None = (
        None
    )


class AccessToken(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 6749, section 5.1."""

    access_token: str
    token_type: str
    expires_in: int
    scope: str


class OAuthError(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 6749, section 5.2, and what to do next."""

    error: str
    error_description: str
    next: str


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 8414, section 2. There is no authorization endpoint, so no response type."""

    issuer: str
    token_endpoint: str
    token_endpoint_auth_methods_supported: tuple[str, ...] = (
        "client_secret_basic",
        "client_secret_post",
    )
    grant_types_supported: tuple[str, ...] = (GRANT_TYPE,)
    response_types_supported: tuple[str, ...] = ()
    scopes_supported: tuple[str, ...] = SCOPES
    service_documentation: str


class _Refused(Exception):
    """An answer of section 5.2."""

    def __init__(self, error: str, description: str, *, next: str, status: int = 400) -> None:
        self.answer = OAuthError(error=error, error_description=_plain(description), next=next)
        self.status = status


@operation(
    tag="tokens",
    body=TokenRequest,
    body_media_type=FORM,
    example={"grant_type": "client_credentials"},
    answer=AccessToken,
    is_open=True,
    errors=(RateLimited, PayloadTooLarge, Unauthenticated),
    refusal=OAuthError,
    refusal_statuses=(400, 401, 413, 429, 503),
)
async def token(request: Request) -> Answer:
    """Get a short-lived token with an account's id and one of its tokens (OAuth 2.0).

    Errors have the form of RFC 6749, section 5.2.
    """
    headers = [JSON, NO_STORE, _PRAGMA, NO_SNIFF]
    try:
        issued = await _issued(request)
    except _Refused as refused:
        if refused.status == 401:
            headers.append((b"www-authenticate", b'Basic realm="clawnet", charset="UTF-8"'))
        return Plain(refused.status, encode(refused.answer), headers)
    except (RateLimited, Unavailable) as error:
        told = OAuthError(
            error="temporarily_unavailable",
            error_description=_plain(error.message),
            next=error.next,
        )
        headers += [pair for pair in problem.headers_of(error) if pair[0] == b"retry-after"]
        return Plain(error.status, encode(told), headers)
    except PayloadTooLarge as error:
        headers.append((b"connection", b"close"))
        told = OAuthError(
            error="invalid_request", error_description=_plain(error.message), next=error.next
        )
        return Plain(error.status, encode(told), headers)
    answer = AccessToken(
        access_token=issued.token,
        token_type=issued.type,
        expires_in=int(issued.expires_in_s),
        scope=" ".join(issued.scopes),
    )
    return Plain(200, encode(answer), headers)


@operation(tag="tokens", answer=Metadata, is_open=True)
async def metadata(request: Request) -> Answer:
    """Where and how to get a token (RFC 8414)."""
    request.query()
    issuer = public_url(request)
    return json_answer(
        Metadata(
            issuer=issuer,
            token_endpoint=f"{issuer}{TOKEN_PATH}",
            service_documentation=f"{issuer}/docs",
        )
    )


async def _issued(request: Request) -> JwtIssued:
    """Raises _Refused, RateLimited, Unavailable, PayloadTooLarge, ClientGone."""
    if request.scope.get("query_string"):
        raise _Refused(
            "invalid_request",
            "The URI has a query; credentials and parameters belong in the body.",
            next=f"Send a form ({FORM}) to {TOKEN_PATH}.",
        )
    form = await _form(request)
    client, secret = _credentials(request.headers, form)
    # The body may have taken a while: what comes now is decided without an await.
    caller = _client(request, client, secret)
    grant_type = form.get("grant_type")
    if grant_type is None:
        raise _Refused(
            "invalid_request", "grant_type is missing.", next=f"Send grant_type={GRANT_TYPE}."
        )
    if grant_type != GRANT_TYPE:
        raise _Refused(
            "unsupported_grant_type",
            f"{ascii(grant_type[:60])} is not granted here.",
            next=f"Send grant_type={GRANT_TYPE}.",
        )
    scope = form.get("scope")
    try:
        issued: JwtIssued = await request.call(
            IssueJwt(scopes=None if scope is None else scope.split(" ")), caller
        )
    except (BadRequest, Forbidden) as error:
        raise _Refused("invalid_scope", error.message, next=error.next) from None
    except Unauthenticated:
        raise _wrong_client() from None
    return issued


def _client(request: Request, client: str, secret: str) -> Caller:
    """The account, if this is a token of its. Whatever is wrong, the answer is the same."""
    hub = request.hub
    admitted = request.scope.get("state", {}).get("admitted")
    address = "" if admitted is None else admitted.client
    hub.attempts.check(address, client)
    try:
        # A short-lived token is no secret to make others with.
        if not secret.startswith(TOKEN_PREFIX):
            raise Unauthenticated("The secret is not one of this hub's tokens.")
        caller = hub.authenticate(secret)
        if caller.account != client.lower():
            raise Unauthenticated("The secret is another account's.")
    except Unauthenticated:
        hub.attempts.failed(address, client)
        raise _wrong_client() from None
    return caller


def _wrong_client() -> _Refused:
    return _Refused(
        "invalid_client",
        "The client or its secret is not right.",
        next="client_id is the account's id, client_secret one of its tokens (claw token create).",
        status=401,
    )


def _credentials(headers: Mapping[bytes, bytes], form: Mapping[str, str]) -> tuple[str, str]:
    """Client and secret, from the header or the form (RFC 6749, section 2.3.1)."""
    given = headers.get(b"authorization")
    client, secret = form.get("client_id"), form.get("client_secret")
    if given is None:
        if client is None or secret is None:
            raise _Refused(
                "invalid_client",
                "The client does not say who it is.",
                next="Send client_id and client_secret, by HTTP Basic or in the form.",
                status=401,
            )
        return client, secret
    scheme, _, text = given.partition(b" ")
    try:
        if scheme.lower() != b"basic":
            raise ValueError(scheme)
        name, colon, word = b64decode(text.strip(), validate=True).decode("utf-8").partition(":")
        named, worded = (
            decoded(part.replace("+", " "), what="The header Authorization")
            for part in (name, word)
        )
        if not (colon and named and worded):
            raise ValueError(name)
    # ValueError: what is no base64, no UTF-8, or no pair.
    except (ValueError, BadRequest):
        raise _Refused(
            "invalid_client",
            "The header Authorization holds no client and secret.",
            next="Send Authorization: Basic base64(client_id:client_secret), both urlencoded.",
            status=401,
        ) from None
    if secret is not None or client not in (None, named):
        raise _Refused(
            "invalid_request",
            "The client is given in the header and in the body.",
            next="Use one of the two ways.",
        )
    return named, worded


async def _form(request: Request) -> dict[str, str]:
    """The known parameters; those without a value count as left out (section 3.2)."""
    kind, *parameters = request.headers.get(b"content-type", b"").lower().split(b";")
    charsets = [p.strip() for p in parameters if p.strip().startswith(b"charset=")]
    if kind.strip() != FORM.encode() or charsets not in ([], [b"charset=utf-8"]):
        raise _Refused(
            "invalid_request",
            "The body is not declared to be a form in UTF-8.",
            next=f"Send Content-Type: {FORM}.",
        )
    raw = await read_body(request.receive, request.headers, max_bytes=BODY_MAX_BYTES)
    form: dict[str, str] = {}
    seen: set[str] = set()
    try:
        parts = [part for part in raw.decode("ascii").split("&") if part]
        if len(parts) > PARAMETERS_MAX:
            raise BadRequest(f"The form has more than {PARAMETERS_MAX} parameters.")
        for part in parts:
            name, _, value = (
                decoded(piece.replace("+", " "), what="The form") for piece in part.partition("=")
            )
            if name in seen:
                raise BadRequest(f"{ascii(name[:60])} is given twice.")
            seen.add(name)
            if value and name in _KNOWN:
                form[name] = value
    except UnicodeError:
        raise _bad_form("The form is not ASCII; percent-encode it.") from None
    except ClawError as error:
        raise _bad_form(error.message) from None
    return form


def _bad_form(message: str) -> _Refused:
    return _Refused(
        "invalid_request", message, next="Encode the form as HTML forms are, each name once."
    )


def _plain(text: str) -> str:
    """In the characters that section 5.2 allows for a description."""
    return "".join(c for c in text.replace('"', "'").replace("\\", "/") if " " <= c <= "~")
