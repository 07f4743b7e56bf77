"""Read a channel's past, and list the channels one may read."""

from __future__ import annotations

import msgspec

from clawnet.core.cursors import Since

HISTORY_LIMIT = 100
HISTORY_LIMIT_MAX = 1_000
WAIT_MAX_S = 60.0


class Gap(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Events that were asked for and can no longer be had.

    `first`..`last` are the missing offsets of the channel; `reason` is
    `retention` (trimmed) or `epoch` (the asked position belongs to a log that
    was put back; then `first`..`last` are the positions that no longer mean
    what they meant). `oldest` is where reading goes on.
    """

    channel: str
    first: int
    last: int
    oldest: int
    reason: str = "retention"


class ReadHistory(msgspec.Struct, frozen=True, kw_only=True):
    """Events of one channel behind `since` (None: all; reversed: from the newest back).

    With `reverse`, events come newest first and `before` continues a page.
    With `wait_s` and nothing to give, the answer waits for the next event so long.
    """

    channel: str
    since: Since | None = None
    before: int | None = None
    limit: int = HISTORY_LIMIT
    reverse: bool = False
    wait_s: float = 0.0


class History(msgspec.Struct, frozen=True, kw_only=True):
    """`body` is the native envelopes, JSON, one per line. `next` is the `since`
    (or, reversed, the `before`) of the next page; None at the end of a reverse read."""

    body: bytes
    count: int
    next: int | None
    epoch: str
    gaps: tuple[Gap, ...] = ()


class ReadEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event by its id, as JSON bytes.

    NotFound unless the caller may read its channel, or said it itself (docs/adr/0011).
    """

    id: str


class ListChannels(msgspec.Struct, frozen=True, kw_only=True):
    """The channels the caller may read, by name, behind `after`, that `pattern` covers."""

    after: str = ""
    limit: int = 100
    pattern: str | None = None


class ChannelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Offsets `first`..`last` are retained; `subscribers` are connected now."""

    name: str
    epoch: str
    first: int
    last: int
    last_ts: str
    subscribers: int


class ChannelList(msgspec.Struct, frozen=True, kw_only=True):
    """A page; `next` is the `after` of the next one, None at the end."""

    channels: list[ChannelInfo]
    next: str | None
