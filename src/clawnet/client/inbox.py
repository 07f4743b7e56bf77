"""The inbox as Client offers it: what was sent to this account, and what of it is handled."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

import msgspec

from clawnet.client.transport import TIMEOUT_S
from clawnet.core.calls.inbox import (
    ACK_EVENTS_MAX,
    INBOX_LIMIT,
    InboxAcked,
    Message,
    Messages,
)
from clawnet.core.calls.reading import Gap
from clawnet.core.prompts import asking, prompt

if TYPE_CHECKING:
    from clawnet.client.client import Client

ACK_WITHIN_S = 30.0
_PATH = "/api/v1/inbox"


class InboxPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """`text` is for a prompt: data, fenced; empty if there is nothing. `messages` are those in
    it, for ack_inbox(), which passes over what was cut. `left_out` more are unread, and `gaps`
    (for ack_inbox() too) were removed unread."""

    text: str
    messages: list[Message]
    left_out: int
    gaps: list[Gap]


class InboxCalls:
    """The part of Client that has to do with the inbox."""

    @property
    def _client(self) -> Client:
        return cast("Client", self)

    async def inbox(
        self,
        *,
        limit: int = INBOX_LIMIT,
        budget_tokens: int | None = None,
        cut_bytes: int | None = None,
        wait_s: float = 0.0,
        after: str | None = None,
    ) -> Messages:
        """What was sent to this account and is unread, from oldest to newest.

        The oldest `limit`; with `budget_tokens` (of 4 bytes) the newest that fit, and what could
        never fit, or has more data than `cut_bytes`, cut. Waits up to `wait_s` for a first
        message. `after` is the `cursor` of an earlier answer. Reading acknowledges nothing.
        """
        return await _read(
            self._client,
            limit=limit,
            budget_tokens=budget_tokens,
            cut_bytes=cut_bytes,
            wait_s=wait_s,
            after=after,
        )

    async def inbox_prompt(
        self,
        *,
        limit: int | None = None,
        budget_tokens: int | None = None,
        wait_s: float = 0.0,
        after: str | None = None,
    ) -> InboxPrompt:
        """What inbox() gives, as text for an agent's prompt that is data and nothing else.

        It stands between two lines with a random marker that nothing inside can repeat.
        `budget_tokens` (of 4 bytes) is for the whole text, the fence included.
        """
        return await _prompt(
            self._client, limit=limit, budget_tokens=budget_tokens, wait_s=wait_s, after=after
        )

    async def ack_inbox(
        self,
        messages: Iterable[Message | str] = (),
        *,
        gaps: Iterable[Gap] = (),
        through: str | None = None,
    ) -> InboxAcked:
        """These messages (or ids, or told gaps) are handled and unread no more.

        A message that was cut is passed over, since it was not seen whole; its id is not.
        `through` is a cursor and stands for everything up to there, seen or not.
        """
        return await _ack(self._client, messages, gaps=gaps, through=through)


async def _read(
    client: Client,
    *,
    limit: int = INBOX_LIMIT,
    budget_tokens: int | None = None,
    cut_bytes: int | None = None,
    wait_s: float = 0.0,
    after: str | None = None,
) -> Messages:
    """See Client.inbox()."""
    query = {
        "limit": limit,
        "budget": budget_tokens,
        "cut": cut_bytes,
        "wait": wait_s or None,
        "after": after,
    }
    return await client.request(
        "GET", _PATH, None, Messages, query=query, timeout_s=TIMEOUT_S + wait_s
    )


async def _prompt(
    client: Client,
    *,
    limit: int | None,
    budget_tokens: int | None,
    wait_s: float,
    after: str | None,
) -> InboxPrompt:
    """See Client.inbox_prompt()."""
    call = asking(limit=limit, budget_tokens=budget_tokens, wait_s=wait_s, after=after)
    page = await _read(
        client,
        limit=call.limit,
        budget_tokens=call.budget_tokens,
        cut_bytes=call.cut_bytes,
        wait_s=wait_s,
        after=after,
    )
    members: dict[str, Any] = json.loads(msgspec.json.encode(page))
    made = prompt(members, budget_tokens=budget_tokens, random_hex=secrets.token_hex)
    read = {message.event.id: message for message in page.messages}
    return InboxPrompt(
        text=made.text,
        messages=[_as_shown(read[one["event"]["id"]], one) for one in made.shown],
        left_out=made.left_out,
        gaps=page.gaps,
    )


def _as_shown(message: Message, shown: dict[str, Any]) -> Message:
    """The message, cut as it was to fit the prompt."""
    if bool(shown.get("truncated")) is message.truncated:
        return message
    data = msgspec.Raw(msgspec.json.encode(shown["event"]["data"]))
    event = msgspec.structs.replace(message.event, data=data)
    return msgspec.structs.replace(message, event=event, truncated=True, size=shown["size"])


async def _ack(
    client: Client,
    messages: Iterable[Message | str] = (),
    *,
    gaps: Iterable[Gap] = (),
    through: str | None = None,
) -> InboxAcked:
    """See Client.ack_inbox()."""
    ids = [
        one if isinstance(one, str) else one.event.id
        for one in messages
        if isinstance(one, str) or not one.truncated
    ]
    told = [{"channel": gap.channel, "first": gap.first, "last": gap.last} for gap in gaps]
    bodies: list[dict[str, object]] = [
        {"events": ids[start : start + ACK_EVENTS_MAX]}
        for start in range(0, len(ids), ACK_EVENTS_MAX)
    ]
    if told or through is not None:
        rest = {"gaps": told, "through": through}
        bodies.append({name: value for name, value in rest.items() if value})
    if not bodies:
        # Nothing was shown whole, so only what is unread is left to say.
        page = await _read(client, limit=1)
        return InboxAcked(acked=0, unread=page.unread, unknown=[])
    # Repeated if an answer is lost: an ack that was made already changes nothing.
    answers = [
        await client.request("POST", f"{_PATH}/ack", body, InboxAcked, within_s=ACK_WITHIN_S)
        for body in bodies
    ]
    return InboxAcked(
        acked=sum(answer.acked for answer in answers),
        unread=answers[-1].unread,
        unknown=[name for answer in answers for name in answer.unknown],
    )
