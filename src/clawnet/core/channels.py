"""Channel names, patterns and kinds. Pure: nothing here knows an account's rights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from clawnet.core.errors import InvalidChannel

NAME_MAX_CHARS = 255
LOBBY = "public.lobby"
ALIASES = {"global": LOBBY, "public.townsquare": LOBBY}
"""Other names of a channel; resolved on entry, never stored."""

RESERVED_ROOTS = frozenset(
    "public agent room dm system memory graph file flow hook external".split()
)
"""First segments with a rule of their own; a free name never reaches them."""

_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\Z")
_PATTERN = re.compile(r"(?:[a-z0-9_-]+|\*)(?:\.(?:[a-z0-9_-]+|\*))*(?:\.>)?\Z|>\Z")
_FREE = re.compile(r"[!-)+-=?-~]{1,255}\Z")
_ACCOUNT_ID = re.compile(r"[a-z0-9_-]{1,64}\Z")


class Kind(Enum):
    """What decides the rights on a channel."""

    PUBLIC = "public"
    AGENT_PUBLIC = "agent_public"
    INBOX = "inbox"
    AGENT_PRIVATE = "agent_private"
    ROOM = "room"
    DM = "dm"
    SYSTEM_OPEN = "system_open"
    SYSTEM = "system"
    FEATURE = "feature"
    FREE = "free"


@dataclass(frozen=True, slots=True)
class Channel:
    """A canonical name, parsed. `owner` is the account of agent.* names, `peers` those of a dm."""

    name: str
    kind: Kind
    owner: str | None = None
    peers: tuple[str, str] | None = None


def is_account_id(text: str) -> bool:
    """Whether the text can be an account's id."""
    return _ACCOUNT_ID.match(text) is not None


def is_pattern(text: str) -> bool:
    """Whether the text is meant as a pattern rather than a name."""
    return "*" in text or ">" in text


def canonical(name: str) -> str:
    """The name under which a channel is kept: aliases resolved."""
    return ALIASES.get(name, name)


def parse(name: str) -> Channel:
    """Read a channel's name; aliases are resolved.

    Raises InvalidChannel for what is no name. Names outside the dotted
    lower-case alphabet, or with a root that is not reserved, are free names:
    whether they exist at all is decided by the declared namespaces (rights).
    """
    name = canonical(name)
    cached = _parsed.get(name)
    if cached is not None:
        return cached
    channel = _parse(name)
    if len(_parsed) >= _PARSED_MAX:
        _parsed.clear()
    _parsed[name] = channel
    return channel


_PARSED_MAX = 65_536
_parsed: dict[str, Channel] = {}


def _parse(name: str) -> Channel:
    if not name:
        raise InvalidChannel("The channel's name is empty.")
    if len(name) > NAME_MAX_CHARS:
        raise InvalidChannel(f"The channel's name is longer than {NAME_MAX_CHARS} characters.")
    root, _, rest = name.partition(".")
    if root not in RESERVED_ROOTS:
        if not _FREE.match(name):
            raise InvalidChannel(f"{_shown(name)} is not a channel's name.")
        return Channel(name, Kind.FREE)
    if not _NAME.match(name) or not rest:
        raise InvalidChannel(f"{_shown(name)} is not a channel's name.")
    segments = name.split(".")
    match root:
        case "public":
            return Channel(name, Kind.PUBLIC)
        case "agent":
            return _parse_agent(name, segments)
        case "room":
            if len(segments) != 2:
                raise InvalidChannel(f"{_shown(name)}: a room is room.<name>.")
            return Channel(name, Kind.ROOM)
        case "dm":
            return _parse_dm(name, segments)
        case "system":
            is_open = name == "system.presence" or name.startswith("system.timer.")
            return Channel(name, Kind.SYSTEM_OPEN if is_open else Kind.SYSTEM)
        case _:
            return Channel(name, Kind.FEATURE)


def _parse_agent(name: str, segments: list[str]) -> Channel:
    owner = segments[1]
    if len(segments) < 3 or not is_account_id(owner):
        raise InvalidChannel(f"{_shown(name)}: a channel of an agent is agent.<id>.<topic>.")
    if segments[2] == "public":
        if len(segments) < 4:
            raise InvalidChannel(f"{_shown(name)}: a public feed is agent.<id>.public.<topic>.")
        return Channel(name, Kind.AGENT_PUBLIC, owner=owner)
    if segments[2] == "inbox" and len(segments) == 3:
        return Channel(name, Kind.INBOX, owner=owner)
    return Channel(name, Kind.AGENT_PRIVATE, owner=owner)


def _parse_dm(name: str, segments: list[str]) -> Channel:
    if len(segments) != 3 or not all(is_account_id(peer) for peer in segments[1:]):
        raise InvalidChannel(f"{_shown(name)}: a direct channel is dm.<id>.<id>.")
    first, second = segments[1:]
    if first >= second:
        raise InvalidChannel(
            f"{_shown(name)}: the ids of a direct channel are two, sorted: "
            f"dm.{min(first, second)}.{max(first, second)}."
        )
    return Channel(name, Kind.DM, peers=(first, second))


def parse_pattern(pattern: str) -> str:
    """Check a subscription pattern: `*` is one whole segment, a final `>` one or more.

    Raises InvalidChannel. What a pattern covers is still asked for its rights, channel by channel.
    """
    if len(pattern) > NAME_MAX_CHARS or not _PATTERN.match(pattern):
        raise InvalidChannel(
            f"{_shown(pattern)} is not a pattern.",
            next="Use * for one whole segment and > at the end for the rest: agent.*.public.>.",
        )
    return pattern


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern (or plain name) covers a channel's name."""
    wanted, given = pattern.split("."), name.split(".")
    for index, segment in enumerate(wanted):
        if segment == ">":
            return len(given) > index
        if index >= len(given) or segment not in ("*", given[index]):
            return False
    return len(wanted) == len(given)


def dm_between(one: str, other: str) -> str:
    """The name of the direct channel of two accounts."""
    first, second = sorted((one, other))
    return f"dm.{first}.{second}"


def _shown(text: str) -> str:
    """Attacker's text, made safe for a message: escaped and cut."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")
