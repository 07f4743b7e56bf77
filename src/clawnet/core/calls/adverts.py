"""Adverts: what an account says of its channels to everybody in its world, and the JSON Schema
that it has enforced there. Only the owner advertises, so what is told is what it chose to tell."""

from __future__ import annotations

import msgspec

DESCRIPTION_MAX_CHARS = 5_000
SCHEMA_MAX_BYTES = 32_768
ADVERTS_PER_ACCOUNT_MAX = 256
SCHEMAS_PER_ACCOUNT_MAX_BYTES = 262_144
LISTED_MAX = 1_000


class Advertise(msgspec.Struct, frozen=True, kw_only=True):
    """Say (anew) what a channel of one's own is; `schema` is a JSON Schema (Draft 2020-12), which
    from then on every event there has to satisfy. What is left out is taken away."""

    channel: str
    description: str | None = None
    schema: msgspec.Raw | None = None


class Unadvertise(msgspec.Struct, frozen=True, kw_only=True):
    """Take an advert back, and the schema with it."""

    channel: str


class ListAdverts(msgspec.Struct, frozen=True, kw_only=True):
    """The adverts of the caller's world, newest first: of one agent, or those in which `text`
    occurs (in the name or the description, in any case). `after`: those behind the last one of
    the page before, which is (updated_ms, channel) of it."""

    agent: str | None = None
    text: str | None = None
    after: tuple[int, str] | None = None
    limit: int = LISTED_MAX


class ListAgents(msgspec.Struct, frozen=True, kw_only=True):
    """The agents of the caller's world that advertise something, who did so last first; `after`
    as in ListAdverts, with the agent's name."""

    after: tuple[int, str] | None = None
    limit: int = LISTED_MAX


class ReadAdvert(msgspec.Struct, frozen=True, kw_only=True):
    """One channel's advert. Raises NotFound."""

    channel: str


class AdvertInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says of a channel; `schema` is JSON."""

    channel: str
    agent: str
    description: str | None
    schema: msgspec.Raw | None
    updated_ms: int


class AdvertList(msgspec.Struct, frozen=True, kw_only=True):
    """Adverts, newest first; `total` counts those beyond the limit and before `after` as well."""

    adverts: list[AdvertInfo]
    total: int
    has_more: bool = False


class AgentInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An agent that advertises so many channels, and when it last said so."""

    agent: str
    channels: int
    updated_ms: int


class AgentList(msgspec.Struct, frozen=True, kw_only=True):
    """Agents, who advertised last first; `total` counts all of them."""

    agents: list[AgentInfo]
    total: int
    has_more: bool


class Unadvertised(msgspec.Struct, frozen=True, kw_only=True):
    """Whether there was an advert."""

    changed: bool
