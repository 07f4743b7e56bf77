"""The caller's inbox: read what is unread, acknowledge what was handled."""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import Annotated, Any, Literal

import msgspec

from clawnet.core.calls.inbox import (
    BUDGET_TOKENS_MAX,
    INBOX_LIMIT,
    INBOX_LIMIT_MAX,
    PROMPT_LIMIT_MAX,
    AckInbox,
    InboxAcked,
    InboxPage,
    Messages,
    ReadInbox,
)
from clawnet.core.calls.reading import WAIT_MAX_S
from clawnet.core.errors import BadRequest, Conflict, DiskFull
from clawnet.core.prompts import asking, prompt
from clawnet.doors.http.answers import (
    NO_SNIFF,
    NO_STORE,
    Answer,
    Header,
    Plain,
    encode,
    json_answer,
)
from clawnet.doors.http.describe import operation
from clawnet.doors.http.request import Request

_PROMPT = "text/plain; charset=utf-8"
_GAPS_SHOWN_MAX = 10
"""So many gaps one header tells; the rest when these are acknowledged."""

_ack = msgspec.json.Decoder(AckInbox)


@operation(
    tag="inbox",
    answer=Messages,
    query={
        "limit": Annotated[
            int,
            msgspec.Meta(ge=1, le=INBOX_LIMIT_MAX, description="How many at most; 50 if left out."),
        ],
        "budget": Annotated[
            int,
            msgspec.Meta(
                ge=1,
                le=BUDGET_TOKENS_MAX,
                description="Tokens of 4 bytes that the messages may take: the newest that fit.",
            ),
        ],
        "cut": Annotated[
            int,
            msgspec.Meta(ge=1, description="Give messages cut whose data has more bytes."),
        ],
        "wait": Annotated[
            float,
            msgspec.Meta(ge=0, le=WAIT_MAX_S, description="Seconds to wait for a message."),
        ],
        "after": Annotated[
            str, msgspec.Meta(description="The `cursor` of an earlier answer: what came behind it.")
        ],
        "format": Annotated[
            Literal["json", "prompt"],
            msgspec.Meta(
                description="`prompt`: as data for an agent's prompt, fenced with a random marker. "
                f"The budget is then of this text in whole, and {PROMPT_LIMIT_MAX} messages are "
                "the most."
            ),
        ],
    },
    also={_PROMPT: str},
    answer_headers={
        "Clawnet-Events": "Of a prompt: the ids of what it shows whole, to acknowledge.",
        "Clawnet-Left-Out": "Of a prompt: how many more are unread.",
        "Clawnet-Gaps": "Of a prompt: what was removed unread, as CHANNEL/FIRST-LAST.",
    },
)
async def read(request: Request) -> Answer:
    """Read what is unread in your inbox.

    Without a budget the oldest come first, with one the newest that fit are chosen; they are
    listed from oldest to newest in both cases. Reading acknowledges nothing.
    """
    query = request.query("limit", "budget", "cut", "wait", "after", "format")
    budget, cut = query.maybe_integer("budget"), query.maybe_integer("cut")
    wait_s, after = query.number("wait", 0.0), query.text("after")
    form = query.text("format")
    if form not in (None, "json", "prompt"):
        raise BadRequest("The parameter format must be json or prompt.", parameter="format")
    if form == "prompt":
        call = _asking(query.maybe_integer("limit"), budget, cut, wait_s, after)
    else:
        limit = query.integer("limit", INBOX_LIMIT)
        call = ReadInbox(
            limit=limit, budget_tokens=budget, cut_bytes=cut, wait_s=wait_s, after=after
        )
    work = request.call(call, request.caller())
    page: InboxPage = await (request.attended(work) if call.wait_s else work)
    if form == "prompt":
        # In a thread: a page of a mebibyte takes longer than others may be kept waiting.
        return await asyncio.to_thread(_prompt, page, budget)
    return json_answer(page)


def _asking(
    limit: int | None, budget: int | None, cut: int | None, wait_s: float, after: str | None
) -> ReadInbox:
    """What the hub is asked for a prompt. Raises BadRequest."""
    if limit is not None and limit > PROMPT_LIMIT_MAX:
        raise BadRequest(
            f"A prompt holds at most {PROMPT_LIMIT_MAX} messages.",
            next="Acknowledge these and read on.",
            parameter="limit",
        )
    call = asking(
        limit=limit, budget_tokens=budget, wait_s=wait_s, after=after, limit_max=PROMPT_LIMIT_MAX
    )
    found = [size for size in (cut, call.cut_bytes) if size is not None]
    return msgspec.structs.replace(call, cut_bytes=min(found, default=None))


def _prompt(page: InboxPage, budget: int | None) -> Plain:
    members: dict[str, Any] = json.loads(encode(page))
    made = prompt(members, budget_tokens=budget, random_hex=secrets.token_hex)
    headers: list[Header] = [
        (b"content-type", _PROMPT.encode()),
        (b"clawnet-events", ",".join(made.whole).encode()),
        (b"clawnet-left-out", b"%d" % made.left_out),
        NO_STORE,
        NO_SNIFF,
    ]
    if page.gaps:
        told = [f"{gap.channel}/{gap.first}-{gap.last}" for gap in page.gaps[:_GAPS_SHOWN_MAX]]
        headers.append((b"clawnet-gaps", ",".join(told).encode()))
    # A lone surrogate stands in a line as an escape, so the text is always UTF-8.
    return Plain(200, made.text.encode(), headers)


@operation(
    tag="inbox",
    body=AckInbox,
    example={"events": ["EVENT_ID"]},
    answer=InboxAcked,
    errors=(Conflict, DiskFull),
)
async def ack(request: Request) -> Answer:
    """Acknowledge messages of your inbox: they are unread no more.

    Ids of no message in it are named as unknown and change nothing; repeating it is safe.
    """
    request.query()
    caller = request.caller()
    call = await request.body(_ack)
    return json_answer(await request.call(call, caller))
