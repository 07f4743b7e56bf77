"""An answer of the inbox as text for an agent's prompt: what fits into a budget, fenced.

Works on the answer's JSON as the hub gives it, so that the command, the client and the HTTP door
make the same of it. What the fence promises is in clawnet.core.fences.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

from clawnet.core.calls.inbox import (
    BUDGET_TOKENS_MAX,
    INBOX_LIMIT,
    INBOX_LIMIT_MAX,
    PREVIEW_BYTES,
    TOKEN_BYTES,
    ReadInbox,
)
from clawnet.core.errors import BadRequest
from clawnet.core.fences import MARKER_BITS, fence, line, members, size_of_fence

JsonMessage = dict[str, Any]
Render = Callable[[JsonMessage], str]


class Prompt(NamedTuple):
    """`text` is empty if there is nothing to show. `shown` are the messages in it, as they stand
    there: what was cut says `truncated` and was not seen whole. `left_out` more are unread, and
    `lost` were removed unread."""

    text: str
    shown: list[JsonMessage]
    left_out: int
    lost: int

    @property
    def whole(self) -> list[str]:
        """The ids of what was shown whole: an acknowledgement may name these."""
        return [one["event"]["id"] for one in self.shown if not one.get("truncated")]


def asking(
    *,
    limit: int | None,
    budget_tokens: int | None,
    wait_s: float = 0.0,
    after: str | None = None,
    limit_max: int = INBOX_LIMIT_MAX,
) -> ReadInbox:
    """The call whose answer is shown within `budget_tokens` as something other than its JSON.

    The hub measures JSON: it gives the newest, and what could not be shown whole is cut there.
    Raises BadRequest.
    """
    if budget_tokens is not None and not 1 <= budget_tokens <= BUDGET_TOKENS_MAX:
        raise BadRequest(
            f"budget must be 1 to {BUDGET_TOKENS_MAX} tokens.", next="Leave it out for no budget."
        )
    default = INBOX_LIMIT if budget_tokens is None else limit_max
    return ReadInbox(
        limit=default if limit is None else limit,
        budget_tokens=None if budget_tokens is None else BUDGET_TOKENS_MAX,
        cut_bytes=None if budget_tokens is None else budget_tokens * TOKEN_BYTES,
        wait_s=wait_s,
        after=after,
    )


def prompt(
    page: Mapping[str, Any], *, budget_tokens: int | None, random_hex: Callable[[int], str]
) -> Prompt:
    """The page as fenced text of at most `budget_tokens`, the fence and its header included.

    `random_hex` gives so many fresh random bytes as hexadecimal digits: secrets.token_hex.
    """
    messages: list[JsonMessage] = page["messages"]
    lost = lost_of(page)
    if budget_tokens is None:
        chosen = [(message, _line(message)) for message in messages]
    else:
        chosen = fit(messages, _line, room=budget_tokens * TOKEN_BYTES - _around(page))
    left_out = max(page["unread"] - len(chosen), 0)
    text = ""
    if chosen:
        markers = (random_hex(size) for size in repeat(MARKER_BITS // 8))
        text = fence([one for _, one in chosen], markers=markers, left_out=left_out, lost=lost)
    return Prompt(text, [message for message, _ in chosen], left_out, lost)


def least_prompt_budget(page: Mapping[str, Any]) -> int | None:
    """The smallest budget with which prompt() shows anything of the page; None if it is empty."""
    return least_budget(page["messages"], _line, around=_around(page))


def least_budget(messages: Sequence[JsonMessage], render: Render, *, around: int = 0) -> int | None:
    """The smallest budget, in tokens, that has room for one of the messages, whole or cut.

    `around` bytes are needed beside it. None if there are no messages.
    """
    costs = (
        min(len(render(form).encode()) for form in (_uncut(message), cut(message))) + 1
        for message in messages
    )
    least = min(costs, default=None)
    return None if least is None else -(-(around + least) // TOKEN_BYTES)


def lost_of(page: Mapping[str, Any]) -> int:
    """How many messages retention took away unread, by the gaps that the page tells."""
    return sum(gap["last"] - gap["first"] + 1 for gap in page.get("gaps") or ())


def fit(
    messages: Sequence[JsonMessage], render: Render, *, room: int
) -> list[tuple[JsonMessage, str]]:
    """The newest messages whose text fits into so many bytes, with it, from oldest to newest.

    One that could never fit is cut, if the others leave it room.
    """
    left = room
    taken: dict[int, tuple[JsonMessage, str]] = {}
    large: list[int] = []
    for index in reversed(range(len(messages))):
        message = messages[index]
        text = render(message)
        cost = len(text.encode()) + 1
        if message.get("truncated") or cost > room:
            large.append(index)
        elif cost > left:
            break
        else:
            left -= cost
            taken[index] = (message, text)
    for index in large:
        message = cut(messages[index])
        text = render(message)
        cost = len(text.encode()) + 1
        if cost <= left:
            left -= cost
            taken[index] = (message, text)
    return [taken[index] for index in sorted(taken)]


def cut(message: JsonMessage) -> JsonMessage:
    """The message with only the beginning of its data, as the hub cuts one."""
    if message.get("truncated"):
        return message
    event = message["event"]
    text = json.dumps(event["data"], ensure_ascii=False, separators=(",", ":"))
    data = text.encode(errors="surrogatepass")
    preview = data[:PREVIEW_BYTES].decode(errors="ignore")
    return {**message, "event": {**event, "data": preview}, "truncated": True, "size": len(data)}


def _uncut(message: JsonMessage) -> JsonMessage:
    """The message as it was, if what was kept of its data is all of it."""
    event = message["event"]
    if not message.get("truncated"):
        return message
    if len(event["data"].encode(errors="surrogatepass")) != message["size"]:
        return message
    rest = {name: value for name, value in message.items() if name not in ("truncated", "size")}
    return {**rest, "event": {**event, "data": json.loads(event["data"])}}


def _around(page: Mapping[str, Any]) -> int:
    return size_of_fence(len(page["messages"]), left_out=page["unread"], lost=lost_of(page))


def _line(message: JsonMessage) -> str:
    return line(members(message))
