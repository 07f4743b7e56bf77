"""Adverts, as claw.events words them. Reading needs a token where reading public channels does.

Paths with a fixed last part stand before those with a member: no agent is called `list` there.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec.structs import replace

from clawnet.core.callers import Caller
from clawnet.core.calls.adverts import (
    LISTED_MAX,
    AdvertInfo,
    Advertise,
    AdvertList,
    ListAdverts,
    ReadAdvert,
    Unadvertise,
    Unadvertised,
)
from clawnet.core.errors import BadRequest, Forbidden, InvalidChannel, NotFound
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.body import decode
from clawnet.doors.http.claw_events.answers import claw_errors
from clawnet.doors.http.claw_events.publish import named
from clawnet.doors.http.describe import operation
from clawnet.doors.http.request import Request

SEARCH_LIMIT = 20
SEARCH_LIMIT_MAX = 100
LIST_MAX_BYTES = 1_048_576
"""Of descriptions and schemas in one answer; `total` says how many there are."""

_ONLY_OWN = "can only advertise your own channels"
_ONLY_OWN_REMOVED = "can only remove your own advertisements"


class ClawAdvertise(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body that advertises. `schema` is a JSON Schema, or its text."""

    channel: str | None = None
    description: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    schema: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class ClawUnadvertise(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body that takes it back."""

    channel: str | None = None


class ClawAdvert(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An advert. `updatedAt` is ms since 1970."""

    channel: str
    description: str | None
    schema: Any
    updated_at: int
    agent: str


class ClawAdvertised(msgspec.Struct, frozen=True, kw_only=True):
    """The advert is in force."""

    ok: Literal[True] = True
    data: ClawAdvert


class ClawRemoved(msgspec.Struct, frozen=True, kw_only=True):
    """The advert is gone. `removed`: whether there was one."""

    ok: Literal[True] = True
    removed: bool
    channel: str


class ClawFound(msgspec.Struct, frozen=True, kw_only=True):
    """What was found; `total` counts what is beyond the limit too."""

    ok: Literal[True] = True
    query: str
    count: int
    total: int
    results: list[ClawAdvert]


class ClawListed(msgspec.Struct, frozen=True, kw_only=True):
    """Adverts, newest first; `total` counts those of other pages, `next` is the next one's
    `after`."""

    ok: Literal[True] = True
    channels: list[ClawAdvert]
    count: int
    total: int
    next: str | msgspec.UnsetType = msgspec.UNSET


class ClawOfAgent(msgspec.Struct, frozen=True, kw_only=True):
    """One agent's adverts, newest first."""

    ok: Literal[True] = True
    agent: str
    advertisements: list[ClawAdvert]
    count: int


class ClawShown(ClawAdvert, frozen=True, kw_only=True, rename="camel"):
    """One advert."""

    ok: Literal[True] = True


_advertise = msgspec.json.Decoder(ClawAdvertise)
_unadvertise = msgspec.json.Decoder(ClawUnadvertise)
_text = msgspec.json.Decoder(str | None)

SearchLimit = Annotated[
    int, msgspec.Meta(ge=1, le=SEARCH_LIMIT_MAX, description="How many at most; 20 if left out.")
]
ListLimit = Annotated[
    int, msgspec.Meta(ge=1, le=LISTED_MAX, description="How many at most; 1,000 if left out.")
]
ListAfter = Annotated[str, msgspec.Meta(description="The `next` of the page before.")]
SearchText = Annotated[
    str, msgspec.Meta(min_length=1, description="Text in a channel's name or description.")
]


@claw_errors
@operation(
    tag="claw.events",
    body=ClawAdvertise,
    example={
        "channel": "agent.admin.prices",
        "description": "Prices",
        "schema": {"type": "object"},
    },
    answer=ClawAdvertised,
)
async def advertise(request: Request) -> Answer:
    """Say what a channel of one's own is, and have its JSON Schema enforced."""
    request.query()
    caller = request.caller()
    body = await request.body(_advertise)
    name = _own_name(caller, body.channel)
    description = None
    try:
        if body.description is not msgspec.UNSET:
            description = decode(_text, bytes(body.description))
    except BadRequest:
        raise BadRequest("description must be a string", next="Send text, or null.") from None
    call = Advertise(channel=name, description=description, schema=_schema(body.schema))
    try:
        made: AdvertInfo = await request.call(call, caller)
    except (Forbidden, InvalidChannel) as error:
        raise _worded(error, _ONLY_OWN) from None
    return json_answer(ClawAdvertised(data=advert_of(made)))


@claw_errors
@operation(
    tag="claw.events",
    body=ClawUnadvertise,
    example={"channel": "agent.admin.prices"},
    is_body_optional=True,
    answer=ClawRemoved,
    query={"channel": str},
)
async def remove(request: Request) -> Answer:
    """Take an advert back, and the schema with it.

    By a JSON body or, for clients that send none, by the query.
    """
    given = request.query("channel").text("channel")
    caller = request.caller()
    if given is None:
        given = (await request.body(_unadvertise, default=ClawUnadvertise())).channel
    name = _own_name(caller, given)
    try:
        gone: Unadvertised = await request.call(Unadvertise(channel=name), caller)
    except (Forbidden, InvalidChannel) as error:
        raise _worded(error, _ONLY_OWN_REMOVED) from None
    return json_answer(ClawRemoved(removed=gone.changed, channel=name))


@claw_errors
@operation(
    tag="claw.events",
    answer=ClawFound,
    query={"q": SearchText, "limit": SearchLimit},
    is_public=True,
)
async def search(request: Request) -> Answer:
    """Find adverts by their channels' names and descriptions."""
    query = request.query("q", "limit")
    caller = request.reader()
    text = (query.text("q") or "").strip()
    if not text:
        raise BadRequest(
            "search query required (use ?q=<query>)", next="Add ?q=<text> to the path."
        )
    limit = min(max(query.integer("limit", SEARCH_LIMIT), 1), SEARCH_LIMIT_MAX)
    found: AdvertList = await request.call(ListAdverts(text=text, limit=limit), caller)
    shown = fitting(found)
    return json_answer(ClawFound(query=text, count=len(shown), total=found.total, results=shown))


@claw_errors
@operation(
    tag="claw.events",
    answer=ClawListed,
    query={"limit": ListLimit, "after": ListAfter},
    is_public=True,
)
async def list_all(request: Request) -> Answer:
    """List the adverts of the world."""
    limit, after = page_asked(request)
    found: AdvertList = await request.call(ListAdverts(limit=limit, after=after), request.reader())
    shown = fitting(found)
    answer = ClawListed(channels=shown, count=len(shown), total=found.total)
    if shown and (found.has_more or len(shown) < len(found.adverts)):
        answer = replace(answer, next=f"{shown[-1].updated_at}:{shown[-1].channel}")
    return json_answer(answer)


@claw_errors
@operation(tag="claw.events", answer=ClawOfAgent, is_public=True, errors=(NotFound,))
async def of_agent(request: Request) -> Answer:
    """List one agent's adverts."""
    request.query()
    agent = request.member("agent").lower()
    found = await of_known(request, agent)
    shown = fitting(found)
    return json_answer(ClawOfAgent(agent=agent, advertisements=shown, count=len(shown)))


@claw_errors
@operation(tag="claw.events", answer=ClawShown, is_public=True)
async def show(request: Request) -> Answer:
    """Read one channel's advert."""
    request.query()
    caller = request.reader()
    name = f"agent.{request.member('agent').lower()}.{request.member('topic')}"
    found = advert_of(await request.call(ReadAdvert(channel=name), caller))
    return json_answer(ClawShown(**{f: getattr(found, f) for f in found.__struct_fields__}))


async def of_known(request: Request, agent: str) -> AdvertList:
    """An agent's adverts. Raises NotFound if there is no such agent."""
    caller = request.reader()
    # First, since it asks whether the caller may read at all.
    found: AdvertList = await request.call(ListAdverts(agent=agent), caller)
    if not request.hub.directory.has_account(caller.world, agent):
        raise NotFound(
            f"There is no agent {ascii(agent[:80])}.",
            next="GET /agents lists those that advertise something.",
        )
    return found


def page_asked(request: Request) -> tuple[int, tuple[int, str] | None]:
    """The page's size, and the last one of the page before. Raises BadRequest."""
    query = request.query("limit", "after")
    limit = query.integer("limit", LISTED_MAX)
    if not 1 <= limit <= LISTED_MAX:
        raise BadRequest(f"limit must be 1 to {LISTED_MAX}", next="Ask for several pages instead.")
    given = query.text("after")
    if given is None:
        return limit, None
    updated_ms, colon, name = given.partition(":")
    if not (colon and updated_ms.isascii() and updated_ms.isdigit() and len(updated_ms) < 16):
        raise BadRequest("after is not a page's next", next="Give what the last answer said.")
    return limit, (int(updated_ms), name)


def advert_of(info: AdvertInfo) -> ClawAdvert:
    """An advert in this API's words."""
    return ClawAdvert(
        channel=info.channel,
        description=info.description,
        schema=info.schema,
        updated_at=info.updated_ms,
        agent=info.agent,
    )


def fitting(found: AdvertList) -> list[ClawAdvert]:
    """As many of them as one answer has room for."""
    shown, size = [], 0
    for info in found.adverts:
        size += 4 * len(info.description or "") + len(bytes(info.schema or b""))
        if size > LIST_MAX_BYTES:
            break
        shown.append(advert_of(info))
    return shown


def _own_name(caller: Caller, given: str | None) -> str:
    name = named(given)
    return name if "." in name else f"agent.{caller.account}.{name}"


def _schema(given: msgspec.Raw | msgspec.UnsetType) -> msgspec.Raw | None:
    """The schema; a string is its text, as some clients send it."""
    if given is msgspec.UNSET:
        return None
    raw = bytes(given)
    if raw == b"null":
        return None
    if raw[:1] == b'"':
        text = decode(_text, raw) or ""
        if text.startswith(("http://", "https://")):
            raise BadRequest(
                "schema must be a JSON Schema, not the address of one",
                next="Fetch it and send what it says; the hub fetches nothing.",
            )
        return msgspec.Raw(text.encode())
    return given


def _worded(error: Forbidden | InvalidChannel, sentence: str) -> Forbidden:
    if isinstance(error, Forbidden) and error.facts.get("reason") == "scope":
        return error
    return Forbidden(sentence, next=error.next)
