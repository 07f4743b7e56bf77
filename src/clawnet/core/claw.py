"""How an event looks to claw.events: `{"_claw":{"sender","timestamp","id"},"payload":…}`.

What its published client reads as a publication's data; and on which channels of a Centrifugo in
front an event belongs. Pure text; who is shown it is decided elsewhere.
"""

from __future__ import annotations

import msgspec

from clawnet.core.channels import ALIASES, RESERVED_ROOTS, canonical
from clawnet.core.events import Actor, Origin
from clawnet.core.times import time_ms

CENTRIFUGO = "centrifugo"
"""The broker that may stand in front of this hub, as an event's origin names it."""


class Said(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is looked at of a native envelope."""

    seq: int
    channel: str
    id: str
    ts: str
    actor: Actor
    data: msgspec.Raw
    origin: Origin | None = None


_decode = msgspec.json.Decoder(Said).decode
_encode = msgspec.json.Encoder().encode


def said(body: bytes) -> Said:
    """Read a native envelope (JSON, as the log gives it)."""
    return _decode(body)


def claw_data(event: Said) -> bytes:
    """The event as JSON for claw.events."""
    return dressed(
        bytes(event.data), sender=event.actor.id, timestamp_ms=time_ms(event.ts), id=event.id
    )


def dressed(data: bytes, *, sender: str, timestamp_ms: int, id: str) -> bytes:
    """Data that was admitted in the dress of claw.events. A signal has no id."""
    id_member = b',"id":%b' % _encode(id) if id else b""
    return b'{"_claw":{"sender":%b,"timestamp":%d%b},"payload":%b}' % (
        _encode(sender),
        timestamp_ms,
        id_member,
        data,
    )


def via(name: str) -> str:
    """What the origin says of an event that Centrifugo asked to publish on `name`."""
    return CENTRIFUGO if canonical(name) == name else f"{CENTRIFUGO}:{name}"


def names_of(event: Said) -> list[str]:
    """The names of its channel. Centrifugo knows nothing of aliases: each is a channel there."""
    return _NAMES.get(event.channel) or [event.channel]


def asked_on(event: Said) -> str | None:
    """The name on which Centrifugo asked to publish it, if it did: it tells the subscribers of
    that one itself, provided that the hub's answer reached it."""
    broker, _, name = ((event.origin and event.origin.via) or "").partition(":")
    return (name or event.channel) if broker == CENTRIFUGO else None


_NAMES = {
    channel: [channel]
    + [
        alias
        for alias, of in ALIASES.items()
        # Others are in no namespace there, so nobody can follow them.
        if of == channel and alias.partition(".")[0] in RESERVED_ROOTS
    ]
    for channel in set(ALIASES.values())
}
