"""Puts the matrix' accounts, grants and events onto a running hub, by its own calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import msgspec

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import Block, CreateAccount, DeleteAccount
from clawnet.core.calls.grants import Grant, Lock, Revoke, Unlock
from clawnet.core.calls.publishing import Publish
from clawnet.core.calls.tokens import CreateToken, RevokeToken
from clawnet.core.errors import ClawError
from clawnet.hub.hub import Hub
from clawnet.hub.settings import ChannelSettings, HubSettings, LimitSettings, NamespaceSettings
from clawnet.testing.clocks import FakeClock
from clawnet.testing.running import Running, running_hub
from tests.rights import matrix

SEEDS = 4
FORWARDED = {"x-forwarded-for": "203.0.113.7"}


@dataclass(frozen=True)
class Seed:
    """An event that was on the channel before anyone asked."""

    id: str
    offset: int
    mark: str


@dataclass(frozen=True)
class Asker:
    """Who asks: on which hub, with which token (None: without) and headers."""

    column: str
    running: Running
    token: str | None
    is_local: bool = True

    @property
    def headers(self) -> dict[str, str]:
        headers = {} if self.is_local else dict(FORWARDED)
        if self.token is not None:
            headers["authorization"] = f"Bearer {self.token}"
        return headers

    def caller(self) -> Caller:
        """As a door finds out. Raises Unauthenticated."""
        if self.token is None:
            return self.running.hub.anonymous(is_local=self.is_local)
        return self.running.hub.authenticate(self.token)

    def __str__(self) -> str:
        return self.column


@dataclass(frozen=True)
class People:
    """A populated hub."""

    running: Running
    tokens: dict[str, str]
    seeds: dict[str, list[Seed]]
    dead: tuple[str, ...]


@dataclass(frozen=True)
class Population:
    """The hubs of the matrix and everybody who asks them."""

    main: People
    askers: tuple[Asker, ...]

    def seeds(self, asker: Asker, channel: str) -> list[Seed]:
        return self.all[id(asker.running)].seeds[channel]

    all: dict[int, People]


def mark(data: object) -> str:
    return msgspec.json.encode(data).decode()


def say(channel: str, text: str, *, type: str = "x.seed") -> Publish:
    return Publish(channel=channel, data=msgspec.Raw(msgspec.json.encode(text)), type=type)


def settings(*, anonymous_read: bool | None = None, default_read: str = "owner") -> HubSettings:
    return HubSettings(
        channels=ChannelSettings(
            anonymous_read=anonymous_read,
            default_read=default_read,  # type: ignore[arg-type]
            namespaces={
                name: NamespaceSettings(publish=publish, read=read)  # type: ignore[arg-type]
                for name, (publish, read) in matrix.NAMESPACES.items()
            },
        ),
        limits=LimitSettings(enabled=False),
    )


@asynccontextmanager
async def a_hub(
    chosen: HubSettings | None = None, *, clock: FakeClock | None = None
) -> AsyncIterator[Running]:
    """A hub with every door, over the memory engine."""
    async with running_hub(
        "memory", settings=chosen or settings(), clock=clock or FakeClock()
    ) as running:
        yield running


@asynccontextmanager
async def populated() -> AsyncIterator[Population]:
    """Three hubs: as configured by default, and with anonymous_read off and on."""
    async with AsyncExitStack() as stack:
        main, off, on = [
            await people(running, clock)
            for running, clock in [
                (await stack.enter_async_context(a_hub(settings(anonymous_read=a), clock=c)), c)
                for a, c in [(None, FakeClock()), (False, FakeClock()), (True, FakeClock())]
            ]
        ]
        askers = [Asker(column, main.running, token) for column, token in main.tokens.items()]
        askers += [
            Asker("anon-local", main.running, None),
            Asker("anon-remote", main.running, None, is_local=False),
            Asker("anon-off", off.running, None),
            Asker("anon-on", on.running, None, is_local=False),
        ]
        askers += [Asker("dead", main.running, token) for token in main.dead]
        assert {asker.column for asker in askers} == set(matrix.COLUMNS)
        yield Population(main, tuple(askers), {id(some.running): some for some in (main, off, on)})


async def people(running: Running, clock: FakeClock) -> People:
    """Make the accounts, seed every channel, and give what is given."""
    hub = running.hub
    roles = {matrix.WARDEN: "warden", matrix.MASTER: "master"}
    tokens: dict[str, str] = {}
    for who in matrix.ACCOUNTS:
        await hub.call(CreateAccount(id=who, role=roles.get(who, "worker")), caller=HUB)  # type: ignore[arg-type]
        tokens[who] = (await hub.call(CreateToken(account=who), caller=HUB)).token

    async def narrow(scopes: list[str], expires_in_s: float | None = None) -> tuple[str, str]:
        made = await hub.call(
            CreateToken(account=matrix.OWNER, scopes=scopes, expires_in_s=expires_in_s), caller=HUB
        )
        return made.token, made.id

    reads, _ = await narrow(["events:read"])
    writes, _ = await narrow(["events:write"])
    revoked, revoked_id = await narrow(["*"])
    expired, _ = await narrow(["*"], expires_in_s=60.0)
    await hub.call(RevokeToken(id=revoked_id), caller=HUB)
    await hub.call(DeleteAccount(id=matrix.DELETED), caller=HUB)
    clock.advance(61.0)

    deleted = tokens.pop(matrix.DELETED)
    callers = {who: hub.authenticate(token) for who, token in tokens.items()}
    seeds = {row.channel: await _seed(hub, row.channel) for row in matrix.NAMES}
    for line in matrix.GIVEN.strip().splitlines():
        await hub.call(_deed(line), caller=callers[line.split()[0]])
    return People(
        running,
        {
            "owner": tokens[matrix.OWNER],
            "owner-ro": reads,
            "owner-wo": writes,
            "second": tokens[matrix.SECOND],
            "blocked": tokens[matrix.BLOCKED],
            "stranger": tokens[matrix.STRANGER],
            "warden": tokens[matrix.WARDEN],
            "master": tokens[matrix.MASTER],
        },
        seeds,
        (deleted, revoked, expired),
    )


def _deed(line: str) -> object:
    _, what, whom, *rest = line.split()
    channel, verbs, start = (*rest, "", "", "")[:3]
    given = verbs.split(",") if verbs else None
    match what:
        case "block":
            return Block(account=whom)
        case "grant":
            return Grant(
                account=whom,
                channel=channel,
                verbs=given,  # type: ignore[arg-type]
                from_offset=int(start) if start else None,
            )
        case "revoke":
            return Revoke(account=whom, channel=channel, verbs=given)  # type: ignore[arg-type]
        case "lock":
            return Lock(channel=channel)
        case "unlock":
            return Unlock(channel=channel)
    raise AssertionError(what)


async def _seed(hub: Hub, channel: str) -> list[Seed]:
    """The hub itself says something everywhere; offsets on a name go on where its alias stopped."""
    seeds = []
    for n in range(SEEDS):
        text = f"seed {n} on {channel!a}"
        try:
            stored = await hub.publish_wait(HUB, say(channel, text))
        except ClawError:
            # On undeclared names not even the hub has anything to say.
            return []
        seeds.append(Seed(stored.id, stored.offset, mark(text)))
    return seeds
