"""What the hub says about itself: public, without a token, with its own URL filled in.

Nothing private is in any of them; the instructions name the account whose token is shown.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from clawnet.core.callers import STRANGER
from clawnet.core.calls.accounts import Me, MeInfo
from clawnet.core.calls.identity import ListProofs, ProofList
from clawnet.core.errors import BadRequest
from clawnet.core.instructions import WRAPPERS, For, Limits, instructions
from clawnet.doors.http.answers import (
    JSON,
    NO_SNIFF,
    Answer,
    Header,
    Plain,
    encode,
    json_answer,
    text_answer,
)
from clawnet.doors.http.describe import operation
from clawnet.doors.http.documents.place import public_url
from clawnet.doors.http.request import Request

_JSON = "application/json"
_MARKDOWN = "text/markdown; charset=utf-8"
_HTML = "text/html; charset=utf-8"
_VARY_ACCEPT = (b"vary", b"Accept")


@operation(tag="documents", answer=dict[str, Any], is_open=True)
async def openapi(request: Request) -> Answer:
    """This API as OpenAPI 3.1."""
    return await _document(request, "openapi", _JSON)


@operation(tag="documents", answer=dict[str, Any], is_open=True)
async def asyncapi(request: Request) -> Answer:
    """The live streams as AsyncAPI 3.0."""
    return await _document(request, "asyncapi", _JSON)


class Front(msgspec.Struct, frozen=True, kw_only=True):
    """The hub answers. `links` are where to read on, with what is there."""

    status: Literal["online"] = "online"
    online: Literal[True] = True
    url: str
    links: dict[str, str]


@operation(tag="documents", answer=str, is_open=True, media_type=_HTML, also={_JSON: Front})
async def front(request: Request) -> Answer:
    """What this hub is, and where to read on.

    A page for whoever asks for text/html, as browsers do, and JSON for all others.
    """
    from clawnet.doors.http.documents.front import LINKS, POLICY

    if b"text/html" in request.headers.get(b"accept", b"").lower():
        return await _document(request, "front", _HTML, (_VARY_ACCEPT, *_page_headers(POLICY)))
    request.query()
    url = public_url(request)
    links = {url + path: what for path, what in LINKS.items()}
    vary = (b"vary", b"Host, X-Forwarded-Host, X-Forwarded-Proto")
    headers = (JSON, (b"cache-control", b"no-cache"), vary, _VARY_ACCEPT, NO_SNIFF)
    return Plain(200, encode(Front(url=url, links=links)), headers)


@operation(tag="documents", answer=str, is_open=True, media_type=_HTML)
async def docs(request: Request) -> Answer:
    """This API, to read."""
    from clawnet.doors.http.documents.page import POLICY

    return await _document(request, "docs", _HTML, _page_headers(POLICY))


@operation(tag="documents", answer=str, is_open=True, media_type=_MARKDOWN)
async def skill(request: Request) -> Answer:
    """The skill by which an agent uses this hub."""
    return await _document(request, "skill", _MARKDOWN)


@operation(tag="documents", answer=str, is_open=True, media_type=_MARKDOWN)
async def llms(request: Request) -> Answer:
    """Where the documents are, for language models (llmstxt.org)."""
    return await _document(request, "llms", _MARKDOWN)


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What the instructions say of this hub and of the caller, for whoever writes its own."""

    url: str
    account: str | None
    handle: str | None
    publish_per_s: float | None
    data_max_bytes: int
    proofs: list[str]


@operation(
    tag="self",
    answer=str,
    media_type=_MARKDOWN,
    also={_JSON: About},
    query={"for": For, "format": Literal["text", "json"]},
    is_public=True,
)
async def instruct(request: Request) -> Answer:
    """The caller's instructions, for its system prompt; without a token, how to get an account.

    `format=json` tells what they are made of: url, account, handle, publish_per_s,
    data_max_bytes, proofs.
    """
    query = request.query("for", "format")
    reader = _reader(query.text("for"))
    form = query.text("format")
    if form not in (None, "text", "json"):
        raise BadRequest(
            "The parameter format must be text or json.",
            next="Leave it out for text.",
            parameter="format",
        )
    account = None
    if b"authorization" in request.headers:
        me: MeInfo = await request.call(Me(), request.caller())
        account = me.account
    settings = request.hub.settings.limits
    taken: ProofList = await request.call(ListProofs(), STRANGER)
    about = About(
        url=public_url(request),
        account=None if account is None else account.id,
        handle=None if account is None else account.handle,
        publish_per_s=settings.publish_per_s if settings.enabled else None,
        data_max_bytes=settings.data_max_bytes,
        proofs=taken.proofs,
    )
    if form == "json":
        return json_answer(about)
    text = instructions(
        url=about.url,
        account=about.account,
        handle=about.handle,
        reader=reader,
        limits=Limits(about.publish_per_s, about.data_max_bytes),
        proofs=about.proofs,
    )
    return text_answer(text, media_type=_MARKDOWN.encode())


def _reader(named: str | None) -> For | None:
    readers: dict[str | None, For | None] = {str(one): one for one in WRAPPERS if one}
    reader = None if named is None else readers.get(named)
    if named is not None and reader is None:
        raise BadRequest(
            f"The parameter for must be one of {', '.join(map(str, readers))}.",
            next="Leave it out for plain text.",
            parameter="for",
        )
    return reader


def _page_headers(policy: str) -> tuple[Header, ...]:
    return (
        (b"content-security-policy", policy.encode()),
        (b"referrer-policy", b"no-referrer"),
        (b"x-frame-options", b"DENY"),
    )


async def _document(
    request: Request, name: str, media_type: str, headers: tuple[Header, ...] = ()
) -> Answer:
    request.query()
    page = await request.door.shelf.page(name, public_url(request))
    shown: tuple[Header, ...] = (
        (b"content-type", media_type.encode()),
        # Kept, but asked about each time: another version may run by then.
        (b"cache-control", b"no-cache"),
        (b"vary", b"Host, X-Forwarded-Host, X-Forwarded-Proto"),
        (b"etag", page.etag),
        NO_SNIFF,
        *headers,
    )
    if _is_known(request.headers.get(b"if-none-match"), page.etag):
        return Plain(304, b"", shown)
    return Plain(200, page.body, shown)


def _is_known(given: bytes | None, etag: bytes) -> bool:
    """If-None-Match (RFC 9110, section 13.1.2): compared weakly."""
    if given is None:
        return False
    names = [name.strip().removeprefix(b"W/") for name in given.split(b",")]
    return given.strip() == b"*" or etag in names
