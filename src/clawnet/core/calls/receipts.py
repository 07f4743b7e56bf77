"""Receipts: how far a message to somebody's inbox came."""

from __future__ import annotations

from typing import Literal

import msgspec

Step = Literal["stored", "offered", "woken", "acted"]
STEPS: tuple[Step, ...] = ("stored", "offered", "woken", "acted")
WOKEN_MAX_EVENTS = 256


class ReadReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """The receipt of an event in an inbox, at the latest after `wait_s`.

    It comes as soon as the step `until` is reached. For the sender, the recipient and a warden.
    """

    event_id: str
    until: Step = "woken"
    wait_s: float = 0.0


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """When which step was reached; a step that was reached stands for those before it.

    stored: it is committed. offered: a connection of the recipient that follows its inbox was
    sent it, a consumer of the recipient fetched it, or the recipient read its inbox. woken:
    a process of the recipient said that it has it. acted: the recipient acknowledged it,
    or answered (by causation or correlation id). `reason` says in a sentence why `until` is
    not reached; it is None if it is. What is observed is kept for 7 days, and in memory first:
    after a crash of the hub the last second of it may be missing.
    """

    event_id: str
    channel: str
    sender: str
    recipient: str
    stored: str
    offered: str | None
    woken: str | None
    acted: str | None
    until: Step
    reached: bool
    reason: str | None


class ConfirmWoken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A process of the caller has these events of its inbox now. Unknown ids are passed over."""

    events: list[str]


class Confirmed(msgspec.Struct, frozen=True, kw_only=True):
    """How many of the events are in the caller's inbox and were not confirmed before."""

    confirmed: int
