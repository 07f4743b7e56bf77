"""Chooses which unread messages an answer holds, under its limit and its budget."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from clawnet.core.calls.inbox import PREVIEW_BYTES, TOKEN_BYTES, InboxMessage, ReadInbox
from clawnet.core.events import Event, quote
from clawnet.features.inbox.reading import Line, Merge
from clawnet.features.inbox.senders import sender_of, verified
from clawnet.hub.directory import Account

ANSWER_MAX_BYTES = 1_048_576
"""An answer ends behind the message with which it has reached this."""
LOOKED_AT_MAX = 2_000
LOOKED_AT_MAX_BYTES = 8 * 1_048_576
"""A budget looks past so much that does not fit for what does."""
CUT_MAX = 16
"""So many cut messages an answer holds, so that they leave room for those that are whole."""
AT_ONCE = 25
AT_ONCE_BYTES = 262_144
"""So many messages, or bytes of them, between two turns of the loop: about 1 ms."""


class Oldest(msgspec.Struct, frozen=True):
    """When a message was sent."""

    text: str
    ms: int


class Choice:
    """The lines that were chosen, in order of seq, with the message of each.

    `reached` is the seq behind which others follow, None if there are none;
    `lost` are offsets that are retained no more, by channel; `is_any` says that there was
    something to choose from, even if nothing fits.
    """

    __slots__ = ("is_any", "lines", "lost", "messages", "oldest", "reached")

    def __init__(self) -> None:
        self.is_any = False
        self.lines: list[Line] = []
        self.messages: dict[int, InboxMessage] = {}
        self.oldest: Oldest | None = None
        self.reached: int | None = None
        self.lost: dict[str, list[tuple[int, int]]] = {}

    def add(self, line: Line, message: InboxMessage) -> None:
        self.lines.append(line)
        self.messages[line.seq] = message


async def choose(
    call: ReadInbox, lines: Merge, *, account_of: Callable[[str], Account | None]
) -> Choice:
    """Take lines until the answer is full. `lines` come newest first if there is a budget."""
    choice = Choice()
    if call.budget_tokens is None:
        await _oldest_first(choice, call, lines, account_of)
    else:
        await _newest_first(choice, call, lines, account_of, call.budget_tokens * TOKEN_BYTES)
    choice.lines.sort(key=lambda line: line.seq)
    return choice


async def _oldest_first(
    choice: Choice,
    call: ReadInbox,
    lines: Merge,
    account_of: Callable[[str], Account | None],
) -> None:
    size = 0
    turns = _Turns()
    while (line := await lines.take()) is not None:
        choice.is_any = True
        if choice.lines and (len(choice.lines) >= call.limit or size >= ANSWER_MAX_BYTES):
            choice.reached = choice.lines[-1].seq
            return
        event = msgspec.json.decode(line.body, type=Event)
        is_cut = call.cut_bytes is not None and len(bytes(event.data)) > call.cut_bytes
        message = shown(line, event, account_of(event.actor.id), is_cut=is_cut)
        size += len(bytes(message.event))
        if choice.oldest is None and call.after is None:
            choice.oldest = sent(line)
        choice.add(line, message)
        await turns.after(line)


async def _newest_first(
    choice: Choice,
    call: ReadInbox,
    lines: Merge,
    account_of: Callable[[str], Account | None],
    budget: int,
) -> None:
    left = budget
    looked_at = looked_at_bytes = 0
    turns = _Turns()
    large: list[tuple[Line, InboxMessage]] = []
    while len(choice.lines) < call.limit and (line := await lines.take()) is not None:
        choice.is_any = True
        looked_at += 1
        looked_at_bytes += len(line.body)
        if looked_at > LOOKED_AT_MAX or looked_at_bytes > LOOKED_AT_MAX_BYTES:
            break
        event = msgspec.json.decode(line.body, type=Event)
        account = account_of(event.actor.id)
        message = shown(line, event, account)
        cost = cost_of(message)
        is_large = call.cut_bytes is not None and len(bytes(event.data)) > call.cut_bytes
        if is_large or cost > budget:
            # It can never be given whole, so it must not keep from the rest what fits.
            if len(large) < CUT_MAX:
                large.append((line, shown(line, event, account, is_cut=True)))
        elif cost > left:
            break
        else:
            left -= cost
            choice.add(line, message)
        await turns.after(line)
    for line, message in large:
        cost = cost_of(message)
        if len(choice.lines) < call.limit and cost <= left:
            left -= cost
            choice.add(line, message)


class _Turns:
    """Lets others run between messages."""

    __slots__ = ("_bytes", "_count")

    def __init__(self) -> None:
        self._count = self._bytes = 0

    async def after(self, line: Line) -> None:
        self._count += 1
        self._bytes += len(line.body)
        if self._count >= AT_ONCE or self._bytes >= AT_ONCE_BYTES:
            self._count = self._bytes = 0
            await asyncio.sleep(0)


def shown(
    line: Line, event: Event, account: Account | None, *, is_cut: bool = False
) -> InboxMessage:
    """One message as it is answered."""
    sender = sender_of(event, account)
    sentence = verified(event, account)
    if not is_cut:
        return InboxMessage(
            event=msgspec.Raw(line.body), sender=sender, verified=sentence, unread=True
        )
    data = bytes(event.data)
    # The data is an envelope's last member on every path (Stored.text, and the engines').
    assert line.body.endswith(data + b"}"), "an envelope that does not end with its data"
    preview = data[:PREVIEW_BYTES].decode("utf-8", "ignore")
    body = line.body[: -len(data) - 1] + quote(preview).encode() + b"}"
    return InboxMessage(
        event=msgspec.Raw(body),
        sender=sender,
        verified=sentence,
        unread=True,
        truncated=True,
        size=len(data),
    )


def cost_of(message: InboxMessage) -> int:
    """The bytes of a message in the answer, with the comma behind it."""
    return len(msgspec.json.encode(message)) + 1


def sent(line: Line) -> Oldest:
    """When a message was sent, from its envelope."""
    from datetime import datetime

    text = msgspec.json.decode(line.body, type=Event).ts
    return Oldest(text, round(datetime.fromisoformat(text).timestamp() * 1000))
