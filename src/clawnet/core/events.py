"""Events: what is proposed (Draft), what was stored (Stored), and their text.

The envelope's JSON is never re-encoded: `members` (everything but positions
and data) is rendered once when the draft is made, the committer puts id and
time before it, and readers put the positions around it. `data` passes through
as the bytes the sender gave, after clawnet.core.payloads admitted them.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Literal

import msgspec

from clawnet.core.channels import is_pattern, matches, parse_pattern
from clawnet.core.errors import BadRequest, InvalidType
from clawnet.core.payloads import value_of

Source = Literal["user", "agent", "system", "external"]

TYPE_VERSION = "1.0.0"
DEDUPE_KEY_MAX_CHARS = 200
CORRELATION_MAX_CHARS = 200

TYPES: dict[str, tuple[str, ...]] = {
    "chat": ("message", "deleted", "mentioned", "typing"),
    "room": ("created", "updated", "joined", "left", "invited"),
    "task": (
        "queued",
        "submitted",
        "awaiting_approval",
        "approved",
        "accepted",
        "running",
        "output",
        "input_required",
        "completed",
        "failed",
        "timed_out",
        "outcome_unknown",
        "delivery_failed",
        "cancelled",
        "rejected",
    ),
    "fleet": ("enrolled", "taken_over", "reported"),
    "audit": ("checkpoint", "refused"),
    "presence": ("changed",),
    "channel": ("locked", "unlocked", "advertised", "unadvertised"),
    "grant": ("given", "revoked"),
    "account": (
        "created",
        "updated",
        "deleted",
        "blocked",
        "unblocked",
        "key_added",
        "key_removed",
    ),
    "invitation": ("created", "redeemed", "revoked"),
    "world": ("created",),
    "token": ("created", "revoked"),
    "consumer": ("dead_lettered",),
    "expectation": ("missed",),
    "timer": ("fired",),
    "system": ("started", "shutdown", "error", "config_changed"),
}
"""The closed table of type names by category; besides it there are free x.* names.

The table grows with the features that emit the events.
"""

CHAT_MESSAGE = "chat.message"
FREE_MESSAGE = "x.message"

_KNOWN = frozenset(f"{category}.{name}" for category, names in TYPES.items() for name in names)
_SENDABLE = frozenset({CHAT_MESSAGE})
_FREE_TYPE = re.compile(r"x(?:\.[a-z0-9_]{1,64}){1,4}\Z")


class Draft(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """An event that has passed the door and the rights and waits for the commit.

    `members` is JSON text without braces (see render_members); `identity`
    and `digest` are set exactly if the sender gave a dedupe key, `trace_id` exactly
    if `members` have a traceparent. `id` and `ts_ms` are given only by a restore or
    an import.
    """

    world: str
    channel: str
    type: str
    actor_id: str
    members: str
    data: str
    correlation_id: str | None = None
    trace_id: str | None = None
    identity: bytes | None = None
    digest: bytes | None = None
    id: str | None = None
    ts_ms: int | None = None


class Stored(msgspec.Struct, frozen=True, gc=False):
    """An event in the log. `epoch` is the channel's: `<log epoch>.<incarnation>`."""

    seq: int
    world: str
    channel: str
    offset: int
    epoch: str
    id: str
    ts_ms: int
    type: str
    actor_id: str
    head: str
    data: str

    def text(self, shown: str | None = None) -> str:
        """The native envelope as JSON. It begins with `{"seq":` on every path (see seq_of).

        `shown` is the name by which the reader calls the channel, if not its own.
        """
        channel = quote_name(shown or self.channel)
        return (
            f'{{"seq":{self.seq},"channel":{channel},"offset":{self.offset},'
            f'"epoch":"{self.epoch}",{self.head},"data":{self.data}}}'
        )


class Existing(msgspec.Struct, frozen=True, gc=False):
    """The first event of a repeated publish."""

    seq: int
    offset: int
    epoch: str
    id: str
    digest: bytes


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """An event's sender as the envelope shows it."""

    id: str
    handle: str


class Expect(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The sender waits for an answer: an event with its correlation id, within this time.

    Silence becomes an `expectation.missed` event in the sender's inbox.
    """

    reply_within_s: float


class Origin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How an event came in, where its door says so: the live connection that said it, labels
    that came with it, and `via` the broker that asked to publish it.

    `conn_info` and `chan_info` are what an application's backend says of who publishes: of the
    connection, and of its subscription to the channel. Admitted JSON.
    """

    client: str | None = None
    tags: dict[str, str] | None = None
    via: str | None = None
    conn_info: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    chan_info: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """Where an event came from that this hub did not hear itself: its first id, time and place,
    and the account that put it here and vouches for it."""

    id: str
    ts: str
    epoch: str
    seq: int
    by: str


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A native envelope, decoded. For clients and tests; the hub itself passes text."""

    seq: int
    channel: str
    offset: int
    epoch: str
    id: str
    ts: str
    type: str
    version: str
    source: str
    actor: Actor
    world: str
    data: msgspec.Raw
    correlation_id: str | None = None
    causation_id: str | None = None
    dedupe_key: str | None = None
    room: str | None = None
    traceparent: str | None = None
    expect: Expect | None = None
    imported: Imported | None = None
    origin: Origin | None = None
    deleted: bool = False
    """Whether its data were blanked (chat.deleted): they are null."""


def seq_of(body: bytes) -> int:
    """The seq of a native envelope's text, without decoding it."""
    return int(body[7 : body.index(b",", 7)])


_PLACE = re.compile(rb'\{"seq":([0-9]+),"channel":("(?:[^"\\]|\\.)*"),"offset":([0-9]+),')


def place_of(body: bytes) -> tuple[int, str, int]:
    """The (seq, channel, offset) of a native envelope's text, without decoding it."""
    found = _PLACE.match(body)
    assert found is not None, "not a native envelope"
    return int(found[1]), msgspec.json.decode(found[2], type=str), int(found[3])


def default_type(channel: str) -> str:
    """The type of a publish that names none."""
    is_chat = channel == "public.lobby" or channel.startswith(("room.", "dm."))
    return CHAT_MESSAGE if is_chat else FREE_MESSAGE


def check_type(name: str, *, is_hub: bool = False) -> str:
    """Admit a type's name. Raises InvalidType, with a suggestion for a near miss.

    Accounts may send chat.message and free x.* names; the other names of the
    table are said by the hub and its features alone.
    """
    if name in _SENDABLE or _FREE_TYPE.match(name):
        return name
    if name in _KNOWN:
        if is_hub:
            return name
        raise InvalidType(f"Events of type {name} are sent by the hub itself.")
    import difflib

    near = difflib.get_close_matches(name, [*_KNOWN, FREE_MESSAGE], n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise InvalidType(f"{ascii(name[:80])} is not a known event type.{hint}")


def check_types(pattern: str) -> str:
    """Admit a type's name or a pattern that covers some. Raises InvalidType, InvalidChannel."""
    if not is_pattern(pattern):
        return check_type(pattern, is_hub=True)
    parse_pattern(pattern)
    if not pattern.startswith("x.") and not any(matches(pattern, name) for name in _KNOWN):
        import difflib

        near = difflib.get_close_matches(pattern, [f"{category}.*" for category in TYPES], n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InvalidType(f"No event type is covered by {ascii(pattern[:80])}.{hint}")
    return pattern


def quote_name(name: str) -> str:
    """A channel's name as a JSON string; free names may hold quotes and backslashes."""
    if '"' in name or "\\" in name:
        return quote(name)
    return f'"{name}"'


def quote(text: str) -> str:
    """A JSON string literal."""
    return msgspec.json.encode(text).decode()


def render_opening(
    *, type: str, source: Source, actor_json: str, world: str, room: str | None = None
) -> str:
    """The members that all events of a type share which one account says on one channel.

    `actor_json` is `{"id":…,"handle":…}`.
    """
    text = (
        f'"type":"{type}","version":"{TYPE_VERSION}","source":"{source}",'
        f'"actor":{actor_json},"world":"{world}"'
    )
    return text if room is None else f'{text},"room":"{room}"'


def render_members(
    opening: str,
    *,
    correlation_id: str | None = None,
    causation_id: str | None = None,
    dedupe_key: str | None = None,
    traceparent: str | None = None,
    reply_within_s: float | None = None,
) -> str:
    """The envelope's members between `ts` and `data`, as JSON text without braces."""
    text = opening
    if correlation_id is not None:
        text += f',"correlation_id":{quote(correlation_id)}'
    if causation_id is not None:
        text += f',"causation_id":{quote(causation_id)}'
    if dedupe_key is not None:
        text += f',"dedupe_key":{quote(dedupe_key)}'
    if traceparent is not None:
        text += f',"traceparent":"{traceparent}"'
    if reply_within_s is not None:
        text += f',"expect":{{"reply_within_s":{reply_within_s!r}}}'
    return text


DELETED = ',"deleted":true'
"""What blanking an event puts behind its stored head; its data become null."""

BLANK = "null"


def is_blanked(head: str) -> bool:
    """Whether a stored head is that of a blanked event. A member of a sender's own ends in a
    quote or a brace, so nobody can say this of itself."""
    return head.endswith(DELETED)


def render_head(*, id: str, ts: str, members: str) -> str:
    """The members that are stored: id and time before the draft's own."""
    return f'"id":"{id}","ts":"{ts}",{members}'


def dedupe_identity(*, world: str, actor_id: str, channel: str, key: str) -> bytes:
    """Which publishes count as the same: 16 bytes over world, sender, channel and key."""
    text = f"{world}\0{actor_id}\0{channel}\0{key}"
    return blake2b(text.encode(), digest_size=16).digest()


def correlation_of(identity: bytes) -> str:
    """The correlation id that the hub gives an event whose sender waits for an answer."""
    return f"cor_{blake2b(identity, digest_size=12, person=b'correlation').hexdigest()}"


def content_digest(*, type: str, data: str) -> bytes:
    """What must be equal for a repeated key: 16 bytes over type and data.

    `data` is compared as a JSON value: spacing and the order of members do
    not count, since a retry may come from another encoder.
    """
    value = value_of(data)
    canonical = msgspec.json.encode(value, order="sorted")
    return blake2b(type.encode() + b"\0" + canonical, digest_size=16).digest()


def check_key(name: str, text: str | None, *, max_chars: int) -> str | None:
    """Admit a sender's own key or correlation id. Raises BadRequest."""
    if text is None:
        return None
    if not text or len(text) > max_chars or not text.isprintable():
        raise BadRequest(
            f"{name} must be 1 to {max_chars} printable characters.",
            next=f"Give a shorter {name}; a UUID is a good one.",
        )
    return text
