"""The inbox: what is addressed to the caller and not acknowledged yet."""

from __future__ import annotations

import msgspec

from clawnet.core.calls.reading import Gap
from clawnet.core.events import Event

INBOX_LIMIT = 50
INBOX_LIMIT_MAX = 500
PROMPT_LIMIT_MAX = 80
"""So many messages in one answer of ?format=prompt: their ids stand in one of its headers, and
proxies bound headers to 4 KiB and more."""
TOKEN_BYTES = 4
"""A token of a budget is counted as so many bytes."""
BUDGET_TOKENS_MAX = 262_144
PREVIEW_BYTES = 400
"""So much of a message's data is in one that is given cut."""
ACK_EVENTS_MAX = 1_000
ACK_GAPS_MAX = 100


class ReadInbox(msgspec.Struct, frozen=True, kw_only=True):
    """What was sent to the caller and is unread; only an account itself reads its inbox.

    Without a budget the oldest come first, up to `limit`. With `budget_tokens` the
    newest that fit are chosen (measured as the JSON of the answer), and what could
    never fit, or whose data has more than `cut_bytes`, is given cut, behind all else.
    Messages are listed oldest to newest in both cases. `after` is the cursor of an
    earlier answer: only what came behind it. With nothing to give, the answer waits
    for a message up to `wait_s`.
    """

    limit: int = INBOX_LIMIT
    budget_tokens: int | None = None
    cut_bytes: int | None = None
    wait_s: float = 0.0
    after: str | None = None


class Sender(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who sent a message. `id` is for good; `handle` is how it was called then, `handle_now`
    how it is called now if that differs.

    `role`, `kind` and `proof` (operator, invitation, dev or bootstrap: how the account came
    to be) are those of now; they are missing for the hub and for accounts that are gone.
    """

    id: str
    handle: str
    handle_now: str | None = None
    role: str | None = None
    kind: str | None = None
    proof: str | None = None


class InboxMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`event` is the native envelope; `verified` says in a sentence of the hub who sent it.

    If `truncated`, the event's data is a string with the beginning of the data's JSON,
    which has `size` bytes in whole.
    """

    event: msgspec.Raw
    sender: Sender
    verified: str
    unread: bool
    truncated: bool = False
    size: int | None = None


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """How far the reader is behind: unread `events`, and when the oldest of them was sent."""

    events: int
    oldest: str | None
    oldest_s: float | None


class InboxPage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Messages from oldest to newest. `unread` counts all, `left_out` those not among them.

    `gaps` (`gap` is the first) are told until they are acknowledged: messages that retention
    took away unread. `cursor` is the `after` of a call for what comes behind this answer.
    """

    messages: list[InboxMessage]
    unread: int
    left_out: int
    lag: Lag
    cursor: str
    gap: Gap | None = None
    gaps: list[Gap] = []


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """InboxMessage as a client reads it: with the envelope decoded."""

    event: Event
    sender: Sender
    verified: str
    unread: bool
    truncated: bool = False
    size: int | None = None


class Messages(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """InboxPage as a client reads it."""

    messages: list[Message]
    unread: int
    left_out: int
    lag: Lag
    cursor: str
    gap: Gap | None = None
    gaps: list[Gap] = []


class ToldGap(msgspec.Struct, frozen=True, kw_only=True):
    """Names a gap as it was told; its other members are ignored."""

    channel: str
    first: int
    last: int


class AckInbox(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """These messages are handled and unread no more. Repeating it changes nothing.

    `events` are ids, `gaps` those that were told. `through` is a cursor and stands for
    everything up to there, shown or not.
    """

    events: list[str] = []
    gaps: list[ToldGap] = []
    through: str | None = None


class InboxAcked(msgspec.Struct, frozen=True, kw_only=True):
    """`acked` were unread before. `unknown` are ids of no message in this inbox (any more)."""

    acked: int
    unread: int
    unknown: list[str]
