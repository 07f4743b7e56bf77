"""What a role may not: the master read what is others', the warden write, the dead letters leak."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from tests.rights.population import a_hub, settings
from tests.rights.world import World

PRIVATE = ("agent.olga.diary", "agent.olga.inbox", "dm.greta.olga", "agent.greta.dead-letter")
ROOM = "room.secret"


@pytest.mark.parametrize("channel", PRIVATE)
async def test_a_master_reads_no_ones_private_channels(world: World, channel: str) -> None:
    await world.says(channel, "private")
    (event,) = (await world.does("wanda", "GET", f"/channels/{channel}/events"))["events"]
    client = await world.http("max")
    assert (await world.ask("max", "GET", f"/channels/{channel}/events")).status_code == 403
    assert (await world.ask("max", "GET", f"/events/{event['id']}")).status_code == 404
    names = await client.listed()
    assert channel not in names
    assert await client.consume([channel]) == "-"
    assert "private" not in await client.consume([">"])
    socket = await world.socket("max")
    refused = await socket.ask("subscribe", channels=[channel])
    assert refused["error"]["code"] == "forbidden"
    mixed = await socket.ask("subscribe", channels=["public.news", channel])
    assert mixed["error"]["code"] == "forbidden", "one name in a list is asked like one alone"
    await socket.ask("subscribe", channels=[">", "agent.*.*", "dm.>"], since="all")
    await world.says(channel, "private, too")
    await world.says("system.accounts", "administered")
    await socket.heard("administered")
    await socket.rest()
    assert "private" not in socket.text


@pytest.mark.parametrize("channel", [*PRIVATE, ROOM, "system.accounts", "memory.notes"])
async def test_a_warden_reads_everything_and_writes_only_its_own(
    world: World, channel: str
) -> None:
    await world.says(channel, "seen")
    assert "seen" in await world.stored(channel)
    if channel == "agent.olga.inbox":
        return  # there every account may write
    answer = await world.ask("wanda", "POST", f"/channels/{channel}/events", {"data": "written"})
    assert answer.status_code == 403
    socket = await world.socket("wanda")
    refused = await socket.ask("publish", channel=channel, data="written")
    assert refused["error"]["code"] == "forbidden"
    assert "written" not in await world.stored(channel)


async def give_up(world: World) -> None:
    """Let an event of greta's inbox become a dead letter of hers."""
    consumer = {"name": "c", "channels": ["agent.greta.inbox"], "max_attempts": 1}
    await world.does("greta", "POST", "/consumers", consumer)
    await world.publish("walt", "agent.greta.inbox", "for greta alone")
    first = await world.does("greta", "POST", "/consumers/c/fetch", {})
    given = [{"seq": d["seq"], "attempt": d["attempt"]} for d in first["deliveries"]]
    await world.does("greta", "POST", "/consumers/c/nack", {"deliveries": given})
    await world.does("greta", "POST", "/consumers/c/fetch", {})
    page = await world.does("greta", "GET", "/channels/agent.greta.dead-letter/events")
    assert page["events"][0]["data"]["event"]["data"] == "for greta alone"


async def test_dead_letters_are_their_consumers_owners(world: World) -> None:
    await give_up(world)
    for who in ("olga", "walt", "max"):
        answer = await world.ask(who, "GET", "/channels/agent.greta.dead-letter/events")
        assert answer.status_code == 403
        client = await world.http(who)
        assert "for greta alone" not in await client.consume([">"])


async def test_dead_letters_stay_private_where_topics_are_open() -> None:
    """channels.default_read = anyone opens what an agent says, not what others sent to it."""
    async with a_hub(settings(default_read="anyone")) as running, AsyncExitStack() as stack:
        world = await World(running, stack).people()
        await give_up(world)
        await world.publish("greta", "agent.greta.diary", "for all")
        for who in ("walt", "max"):
            diary = await world.ask(who, "GET", "/channels/agent.greta.diary/events")
            assert diary.status_code == 200
            for channel in ("agent.greta.inbox", "agent.greta.dead-letter"):
                answer = await world.ask(who, "GET", f"/channels/{channel}/events")
                assert answer.status_code == 403, channel
            client = await world.http(who)
            assert "for greta alone" not in await client.consume([">"])
        await world.does("greta", "POST", "/channels/agent.greta.diary/lock")
        locked = await world.ask("walt", "GET", "/channels/agent.greta.diary/events")
        assert locked.status_code == 403


async def test_without_a_token_one_reads_names_and_nothing_else(world: World) -> None:
    await world.publish("olga", "public.news", "open")
    client = await world.http("anyone")
    text = await client.stream("/sub/public.news", {"since": "all"}, '"open"')
    assert '"open"' in text
    for path in (
        "/channels", "/accounts", "/accounts/olga", "/tokens", "/grants", "/presence", "/blocks",
        "/consumers", "/consumers/c",
    ):  # fmt: skip
        assert (await world.ask("anyone", "GET", path)).status_code == 401, path
    for path in ("/grants", "/tokens", "/accounts", "/consumers", "/consumers/c/fetch",
                 "/events/batch", "/channels/public.news/lock"):  # fmt: skip
        assert (await world.ask("anyone", "POST", path, {})).status_code == 401, path
    for pattern in ("public.>", "public.*", ">", "agent.*.public.>"):
        stream = await client.stream("/api/v1/events/stream", {"channels": pattern}, None)
        assert stream in ("?", "-"), pattern
        assert await client.stream(f"/sub/{pattern}", {}, None) in ("?", "-"), pattern


async def test_without_a_token_one_follows_few_names(world: World) -> None:
    socket = await world.socket("anyone")
    many = [f"public.t{n}" for n in range(17)]
    assert (await socket.ask("subscribe", channels=many))["type"] == "error"
    assert (await socket.ask("subscribe", channels=many[:16]))["type"] == "ok"
    assert (await socket.ask("subscribe", channels=many[16:]))["type"] == "error"


async def test_a_wrong_token_never_makes_its_bearer_anonymous(world: World) -> None:
    """Else a revoked token would still read what is public, and nobody would notice."""
    for path in ("/channels/public.news/events", "/events/stream?channels=public.news"):
        for token in ("claw_wrong", world.tokens["olga"][:-1], world.tokens["olga"] + "A"):
            assert (await world.ask(token, "GET", path)).status_code == 401
