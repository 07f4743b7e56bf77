"""Adverts: kept as state, told in events, searched in memory; their schemas enforced on publish.

Stored under `advert/<world>/<channel>`. The schemas are enforced by one interceptor that covers
the channels that have one and no other, so that the publish path of all others stays as it is.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from clawnet.core.buckets import Buckets
from clawnet.core.callers import Caller
from clawnet.core.calls.adverts import (
    ADVERTS_PER_ACCOUNT_MAX,
    DESCRIPTION_MAX_CHARS,
    LISTED_MAX,
    SCHEMAS_PER_ACCOUNT_MAX_BYTES,
    AdvertInfo,
    Advertise,
    AdvertList,
    AgentInfo,
    AgentList,
    ListAdverts,
    ListAgents,
    ReadAdvert,
    Unadvertise,
    Unadvertised,
)
from clawnet.core.channels import Kind, parse
from clawnet.core.errors import (
    BadRequest,
    Forbidden,
    NotFound,
    PayloadTooLarge,
    RateLimited,
    Refused,
    Unauthenticated,
)
from clawnet.core.units import Delete
from clawnet.features.adverts.schema import Schema
from clawnet.hub.accounts import need_account
from clawnet.hub.features import Feature
from clawnet.hub.hub import Hub
from clawnet.hub.interceptors import Interceptor, Proposed, Verdict
from clawnet.hub.vault import put
from clawnet.ports.log import State

EVENTS = "system.adverts"
COMPILED_MAX = 512
COMPILES_PER_S, COMPILES_BURST = 1.0, float(ADVERTS_PER_ACCOUNT_MAX)
"""How often an account's schemas are compiled for a publish: once each after a start, and later
only if it has so many that they do not stay compiled."""
LOOKED_AT_ONCE = 200
"""Adverts between two turns of the loop: 1 ms if all have the longest description."""
PER_S, BURST = 1.0, 50.0
"""How often an account may change its adverts: a schema takes milliseconds to look at."""
INTERCEPTOR = "advertised schema"


class Advert(msgspec.Struct, frozen=True, kw_only=True):
    """As stored under `advert/<world>/<channel>`; `schema` is JSON text."""

    world: str
    channel: str
    description: str | None
    schema: str | None
    updated_ms: int

    @property
    def agent(self) -> str:
        return self.channel.split(".")[1]


class SchemaInterceptor(Interceptor, frozen=True, kw_only=True):
    """Covers exactly the channels that have a schema, in any world."""

    named: set[str]

    def covers(self, channel: str) -> bool:
        return channel in self.named


class AdvertsFeature(Feature):
    """Handlers of core.calls.adverts."""

    def __init__(self) -> None:
        self._adverts: dict[tuple[str, str], Advert] = {}
        self._compiled: OrderedDict[tuple[str, str], Schema] = OrderedDict()
        self._named: set[str] = set()
        self._hub: Hub
        self._buckets: Buckets
        self._compiles: Buckets
        # One at a time, so that the turns of many do not add up.
        self._compiling = asyncio.Lock()

    def register(self, hub: Hub) -> None:
        self._hub = hub
        self._buckets = Buckets(rate_per_s=PER_S, burst=BURST)
        self._compiles = Buckets(rate_per_s=COMPILES_PER_S, burst=COMPILES_BURST)
        hub.handle(Advertise, self.advertise, is_change=True)
        hub.handle(Unadvertise, self.unadvertise, is_change=True)
        hub.handle(ListAdverts, self.list_all)
        hub.handle(ListAgents, self.list_agents)
        hub.handle(ReadAdvert, self.read)

    async def load(self) -> None:
        """Take up what is stored. Schemas are compiled when they are first needed."""
        await self._hub.storage.read(self._load)
        self._enforce()

    def _load(self, state: State) -> None:
        for entry in state.scan("advert"):
            advert = msgspec.json.decode(entry.value, type=Advert)
            self._adverts[(advert.world, advert.channel)] = advert

    # --- calls --------------------------------------------------------------

    async def advertise(self, call: Advertise, caller: Caller) -> AdvertInfo:
        """In force after its commit. Raises Forbidden, BadRequest, PayloadTooLarge, RateLimited."""
        hub = self._hub
        channel = self._own(call.channel, caller)
        key = (caller.world, channel)
        self._take(caller)
        description = _description(call.description)
        schema = None
        if call.schema is not None and bytes(call.schema) not in (b"", b"null"):
            schema = await self._compile(bytes(call.schema))
        self._need_room(key, schema)
        advert = Advert(
            world=caller.world,
            channel=channel,
            description=description,
            schema=None if schema is None else schema.text,
            updated_ms=hub.clock.wall_ms(),
        )
        told = {"channel": channel, "has_schema": schema is not None}
        await hub.change(
            put("advert", f"{caller.world}/{channel}", advert),
            events=(hub.note(caller, EVENTS, "channel.advertised", told),),
        )
        self._adverts[key] = advert
        self._compiled.pop(key, None)
        if schema is not None:
            self._remember(key, schema)
        self._enforce()
        return _info(advert)

    async def unadvertise(self, call: Unadvertise, caller: Caller) -> Unadvertised:
        """The schema is not in force any more when this is answered."""
        hub = self._hub
        channel = self._own(call.channel, caller)
        key = (caller.world, channel)
        if key not in self._adverts:
            return Unadvertised(changed=False)
        self._take(caller)
        await hub.change(
            Delete(f"advert/{caller.world}/{channel}"),
            events=(hub.note(caller, EVENTS, "channel.unadvertised", {"channel": channel}),),
        )
        self._adverts.pop(key, None)
        self._compiled.pop(key, None)
        self._enforce()
        return Unadvertised(changed=True)

    async def list_all(self, call: ListAdverts, caller: Caller) -> AdvertList:
        agent = None if call.agent is None else call.agent.lower()
        text = None if call.text is None else call.text.lower()
        found = []
        for advert in await self._shown(caller):
            if agent is not None and advert.agent != agent:
                continue
            if text is None or text in advert.channel or text in (advert.description or "").lower():
                found.append(advert)
        page, has_more = _page(found, call.after, call.limit)
        return AdvertList(
            adverts=[_info(advert) for advert in page], total=len(found), has_more=has_more
        )

    async def list_agents(self, call: ListAgents, caller: Caller) -> AgentList:
        found: dict[str, AgentInfo] = {}
        for advert in await self._shown(caller):
            so_far = found.get(advert.agent)
            found[advert.agent] = AgentInfo(
                agent=advert.agent,
                channels=1 + (so_far.channels if so_far else 0),
                updated_ms=max(advert.updated_ms, so_far.updated_ms if so_far else 0),
            )
        page, has_more = _page(found.values(), call.after, call.limit)
        return AgentList(agents=page, total=len(found), has_more=has_more)

    async def read(self, call: ReadAdvert, caller: Caller) -> AdvertInfo:
        self._need_reader(caller)
        advert = self._adverts.get((caller.world, call.channel))
        if advert is None or not self._is_shown(advert, caller.world):
            raise NotFound(
                f"{ascii(call.channel[:80])} is not advertised.",
                next="See what is: claw advertise list.",
            )
        return _info(advert)

    # --- enforcing ----------------------------------------------------------

    async def intercept(self, proposed: Proposed) -> Verdict:
        """Raises Refused with `validation_errors` for what does not satisfy the schema."""
        schema = await self._schema_of((proposed.caller.world, proposed.channel))
        if schema is None or schema.admits(proposed.data):
            return None
        raise Refused(
            f"The data does not satisfy the schema of {proposed.channel}.",
            next="Change the data as validation_errors says (claw validate checks it), or have "
            "the channel's owner advertise another schema.",
            interceptor=INTERCEPTOR,
            validation_errors=[
                {"path": problem.path, "message": problem.message}
                for problem in await schema.problems(proposed.data)
            ],
        )

    def _enforce(self) -> None:
        """Let the interceptor cover what has a schema now."""
        named = {advert.channel for advert in self._adverts.values() if advert.schema is not None}
        if named == self._named:
            return
        self._named = named
        if named:
            self._hub.intercept(
                SchemaInterceptor(
                    name=INTERCEPTOR, channels=(), intercept=self.intercept, named=named
                )
            )
        else:
            self._hub.interceptors.remove(INTERCEPTOR)

    async def _schema_of(self, key: tuple[str, str]) -> Schema | None:
        """What is in force now. Raises RateLimited for an account whose schemas are compiled
        again and again."""
        while (advert := self._adverts.get(key)) is not None and advert.schema is not None:
            schema = self._compiled.get(key)
            if schema is not None:
                self._compiled.move_to_end(key)
                return schema
            # Somebody else may have waited for the same, or the advert may change meanwhile.
            async with self._compiling:
                if self._adverts.get(key) is advert and key not in self._compiled:
                    self._take_compile(advert)
                    schema = await Schema.of(advert.schema)
                    if self._adverts.get(key) is advert:
                        self._remember(key, schema)
                        return schema
        return None

    async def _compile(self, text: bytes) -> Schema:
        async with self._compiling:
            return await Schema.of(text)

    def _remember(self, key: tuple[str, str], schema: Schema) -> None:
        """Who has most gives way, so that nobody's schemas push out those of others."""
        self._compiled[key] = schema
        if len(self._compiled) > COMPILED_MAX:
            held = Counter(_owner(key) for key in self._compiled)
            most = max(held.values())
            del self._compiled[next(key for key in self._compiled if held[_owner(key)] == most)]

    # --- inside -------------------------------------------------------------

    def _own(self, given: str, caller: Caller) -> str:
        """The canonical name of one of the caller's channels. Raises Forbidden, InvalidChannel."""
        own = need_account(caller)
        caller.need("events:write")
        if caller.is_confined:
            raise Forbidden(
                "Only accounts of this hub advertise channels.", next="Log in with a token."
            )
        channel = parse(given if "." in given else f"agent.{own}.{given}")
        if channel.kind not in (Kind.AGENT_PRIVATE, Kind.AGENT_PUBLIC) or channel.owner != own:
            raise Forbidden(
                "One can only advertise one's own channels.",
                next=f"Name a channel agent.{own}.<topic>.",
            )
        return channel.name

    def _need_room(self, key: tuple[str, str], schema: Schema | None) -> None:
        """Raises BadRequest for one advert too many, or too much text in schemas."""
        others = [
            advert
            for place, advert in self._adverts.items()
            if _owner(place) == _owner(key) and place != key
        ]
        if len(others) >= ADVERTS_PER_ACCOUNT_MAX:
            raise BadRequest(
                f"An account advertises at most {ADVERTS_PER_ACCOUNT_MAX} channels.",
                next="Take one back first (claw advertise delete CHANNEL).",
            )
        held = sum(len(advert.schema or "") for advert in others)
        if schema is not None and held + len(schema.text) > SCHEMAS_PER_ACCOUNT_MAX_BYTES:
            raise BadRequest(
                f"An account's schemas have at most {SCHEMAS_PER_ACCOUNT_MAX_BYTES} characters "
                "together.",
                next="Take one back first (claw advertise delete CHANNEL), or say it shorter.",
            )

    async def _shown(self, caller: Caller) -> list[Advert]:
        """The adverts that the caller sees, with the loop's other work between."""
        self._need_reader(caller)
        shown = []
        for number, advert in enumerate(list(self._adverts.values()), start=1):
            if number % LOOKED_AT_ONCE == 0:
                await asyncio.sleep(0)
            if self._is_shown(advert, caller.world):
                shown.append(advert)
        return shown

    def _take_compile(self, advert: Advert) -> None:
        if not self._hub.settings.limits.enabled:
            return
        wait_s = self._compiles.take((advert.world, advert.agent), now_s=self._hub.clock.steady_s())
        if wait_s:
            raise RateLimited(
                f"The schemas of {advert.agent} are too many to be kept ready.",
                retry_after_s=wait_s,
                limit_per_s=COMPILES_PER_S,
            )

    def _take(self, caller: Caller) -> None:
        if not self._hub.settings.limits.enabled or caller.is_hub:
            return
        wait_s = self._buckets.take(
            (caller.world, caller.account), now_s=self._hub.clock.steady_s()
        )
        if wait_s:
            raise RateLimited(
                f"An account changes its adverts {PER_S:g} times per second at most.",
                retry_after_s=wait_s,
                limit_per_s=PER_S,
            )

    def _need_reader(self, caller: Caller) -> None:
        if (caller.account is None or caller.is_confined) and not (
            self._hub.directory.anonymous_read and caller.world == "main"
        ):
            raise Unauthenticated("Reading needs a token on this hub.")
        caller.need("events:read")

    def _is_shown(self, advert: Advert, world: str) -> bool:
        return advert.world == world and self._hub.directory.has_account(world, advert.agent)


def _owner(key: tuple[str, str]) -> tuple[str, str]:
    """Whose a channel is that can be advertised."""
    world, channel = key
    return world, channel.split(".")[1]


T = TypeVar("T", Advert, AgentInfo)


def _place(told: Advert | AgentInfo) -> tuple[int, str]:
    return -told.updated_ms, told.channel if isinstance(told, Advert) else told.agent


def _page(found: Iterable[T], after: tuple[int, str] | None, limit: int) -> tuple[list[T], bool]:
    """So many of them behind `after`, newest first, and whether there are more."""
    rest = sorted(found, key=_place)
    if after is not None:
        rest = [one for one in rest if _place(one) > (-after[0], after[1])]
    limit = max(0, min(limit, LISTED_MAX))
    return rest[:limit], len(rest) > limit


def _description(given: str | None) -> str | None:
    """Admit a description. Raises BadRequest, PayloadTooLarge."""
    if given is None:
        return None
    if len(given) > DESCRIPTION_MAX_CHARS:
        raise PayloadTooLarge(
            f"description too long (max {DESCRIPTION_MAX_CHARS} chars)",
            limit_chars=DESCRIPTION_MAX_CHARS,
        )
    if any(not char.isprintable() and char not in "\n\t" for char in given):
        raise BadRequest("The description holds control characters.", next="Send printable text.")
    return given


def _info(advert: Advert) -> AdvertInfo:
    return AdvertInfo(
        channel=advert.channel,
        agent=advert.agent,
        description=advert.description,
        schema=None if advert.schema is None else msgspec.Raw(advert.schema.encode()),
        updated_ms=advert.updated_ms,
    )
