"""Subscribe on a live connection."""

from __future__ import annotations

import msgspec

from clawnet.core.calls.reading import Gap
from clawnet.core.cursors import Since

SUBSCRIPTION_CHANNELS_MAX = 1_000


class Subscribe(msgspec.Struct, frozen=True, kw_only=True):
    """Follow channels and patterns as one subscription, in order of the log.

    `since` is None (from now on), one place for all (cursor or duration), or
    an AfterOffset for each exact name.
    """

    channels: tuple[str, ...]
    since: Since | dict[str, Since] | None = None


class Subscribed(msgspec.Struct, frozen=True, kw_only=True):
    """The subscription runs. `number` names it on its connection; `cursor` is where it began."""

    number: int
    channels: tuple[str, ...]
    cursor: str
    gaps: tuple[Gap, ...] = ()
