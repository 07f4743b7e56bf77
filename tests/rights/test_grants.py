"""Rights are given by whom they belong to, and never further than the table goes."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from clawnet.core.callers import HUB
from tests.rights.population import say
from tests.rights.world import World

NOT_THEIRS = """
olga    agent.greta.diary       olga    agent.greta.>           olga    agent.greta.*
olga    agent.greta.inbox       olga    agent.olga.inbox        olga    inbox
olga    dm.greta.olga           olga    dm.greta.walt           olga    room.team
olga    room.*                  olga    public.news             olga    agent.olga.public.feed
olga    system.accounts         olga    system.timer.minute     olga    memory.notes
olga    desk:a                  olga    club:a                  olga    undeclared:a
olga    dm.*.olga               olga    *.>                     olga    agent.>
olga    agent.*.diary           olga    agent.*.>               olga    *.olga.diary
olga    dm.>                    olga    system.>                olga    public.>
olga    agent.olga              olga    agent.OLGA.diary        olga    agent.olga.
greta   agent.olga.shared       greta   agent.olga.>            walt    agent.olga.diary
wanda   agent.olga.diary        wanda   agent.olga.>            wanda   room.team
wanda   dm.greta.olga           wanda   agent.olga.inbox        wanda   club:a
max     agent.olga.diary        max     agent.olga.>            max     agent.olga.shared
max     agent.*.diary           max     agent.>                 max     *.>
max     agent.olga.inbox        max     agent.max.inbox         max     dm.greta.olga
max     dm.max.olga             max     dm.>                    max     dm.*.olga
max     system.accounts         max     system.>                max     memory.notes
max     public.news             max     agent.nobody.diary      max     *.*
max     room.a.b                max     dm.olga.greta           max     agent.olga
"""
"""Who tries to give rights on what is not theirs to give: masters own no agent's channels."""

PAIRS = [
    (who, channel)
    for line in NOT_THEIRS.strip().splitlines()
    for who, channel in zip(line.split()[::2], line.split()[1::2], strict=True)
]


@pytest.mark.parametrize(("who", "channel"), PAIRS)
async def test_nobody_gives_what_is_not_theirs(world: World, who: str, channel: str) -> None:
    await world.grant("olga", "greta", "shared")
    before = await world.does("max", "GET", "/grants")
    for to in ("walt", who):
        for verbs in (["read"], ["publish"], ["read", "publish"]):
            body = {"account": to, "channel": channel, "verbs": verbs}
            answer = await world.ask(who, "POST", "/grants", body)
            assert answer.status_code in (400, 403), answer.text
    taken = await world.ask(who, "DELETE", "/grants", {"account": "greta", "channel": channel})
    assert taken.status_code in (400, 403), taken.text
    assert await world.does("max", "GET", "/grants") == before


@pytest.mark.parametrize("who", ["greta", "walt", "wanda", "max"])
@pytest.mark.parametrize("what", ["lock", "unlock"])
async def test_only_the_owner_locks_and_unlocks(world: World, who: str, what: str) -> None:
    for channel in ("agent.olga.diary", "agent.olga.inbox", "dm.greta.olga", "room.team",
                    "public.news", "system.accounts", "memory.notes", "agent.olga.>", "club:a",
                    f"agent.{who}.inbox", f"agent.{who}.public.feed"):  # fmt: skip
        answer = await world.ask(who, "POST", f"/channels/{quote(channel, safe='')}/{what}")
        assert answer.status_code in (400, 403), f"{channel}: {answer.text}"
    await world.hub.publish_wait(HUB, say("agent.olga.diary", "dear diary"))
    read = await world.ask("walt", "GET", "/channels/agent.olga.diary/events")
    assert read.status_code == 403


@pytest.mark.parametrize("verbs", [["publish"], ["read", "publish"], ["publish", "read"]])
@pytest.mark.parametrize(
    "channel", ["agent.olga.shared", "shared", "agent.olga.*", "agent.olga.>", "agent.olga.a.b"]
)
async def test_nobody_is_let_speak_on_anothers_channel(
    world: World, channel: str, verbs: list[str]
) -> None:
    body = {"account": "greta", "channel": channel, "verbs": verbs}
    assert (await world.ask("olga", "POST", "/grants", body)).status_code == 400
    said = await world.ask("greta", "POST", "/channels/agent.olga.shared/events", {"data": 1})
    assert said.status_code == 403
    read = await world.ask("greta", "GET", "/channels/agent.olga.shared/events")
    assert read.status_code == 403, "a refused grant gives nothing, reading neither"


@pytest.mark.parametrize("pattern", ["agent.olga.>", "agent.olga.*", "agent.olga.inbox.>"])
async def test_a_granted_pattern_never_opens_the_inbox(world: World, pattern: str) -> None:
    await world.grant("olga", "greta", pattern)
    await world.publish("walt", "agent.olga.inbox", "for olga")
    answer = await world.ask("greta", "GET", "/channels/agent.olga.inbox/events")
    assert answer.status_code == 403
    socket = await world.socket("greta")
    await socket.ask("subscribe", channels=["agent.olga.>"], since="all")
    await world.publish("walt", "agent.olga.inbox", "for olga again")
    await socket.rest()
    assert "for olga" not in socket.text


@pytest.mark.parametrize("who", ["nobody", "walt", "eve@other", "eve"])
async def test_a_grant_needs_a_living_account_of_the_world(world: World, who: str) -> None:
    world.stranger("other", "eve")
    await world.does("max", "DELETE", "/accounts/walt")
    body = {"account": who, "channel": "shared"}
    assert (await world.ask("olga", "POST", "/grants", body)).status_code == 404


@pytest.mark.parametrize("scope", ["events:read", "events:write", "tokens:write", "accounts:write"])
async def test_giving_needs_its_own_scope(world: World, scope: str) -> None:
    made = await world.does("olga", "POST", "/tokens", {"scopes": [scope]})
    grant = {"account": "greta", "channel": "shared"}
    for method, path, body in (
        ("POST", "/grants", grant),
        ("DELETE", "/grants", grant),
        ("POST", "/channels/agent.olga.diary/unlock", None),
        ("POST", "/channels/agent.olga.diary/lock", None),
        ("PUT", "/blocks/greta", None),
        ("DELETE", "/blocks/greta", None),
    ):
        assert (await world.ask(made["token"], method, path, body)).status_code == 403, path


async def test_one_sees_only_grants_that_concern_one(world: World) -> None:
    await world.grant("olga", "greta", "shared")
    await world.grant("max", "greta", "room.team")
    for who, seen in (("olga", 1), ("greta", 2), ("walt", 0), ("wanda", 0), ("max", 2)):
        grants = await world.does(who, "GET", "/grants")
        assert len(grants["grants"]) == seen, who
    assert (await world.ask("anyone", "GET", "/grants")).status_code == 401


async def test_a_grant_of_a_later_offset_hides_the_past_on_every_path(world: World) -> None:
    """Also if it takes the place of a wider one: that narrows, at once, whoever follows."""
    ids = [(await world.publish("olga", "agent.olga.later", f"past {n}"))["id"] for n in range(3)]
    await world.grant("olga", "greta", "later")
    socket = await world.socket("greta")
    await socket.ask("subscribe", channels=["agent.olga.later"])
    body = {"account": "greta", "channel": "later", "from_offset": 4}
    await world.does("olga", "POST", "/grants", body)
    await world.publish("olga", "agent.olga.later", "present")
    await socket.heard("present")
    for given_id in ids:
        assert (await world.ask("greta", "GET", f"/events/{given_id}")).status_code == 404
    client = await world.http("greta")
    consumed = await client.consume(["agent.olga.>"])
    streamed = await client.stream("/sub/agent.olga.later", {"since": "all"}, "present")
    for how in ("", "&reverse=true", "&since=1", "&before=3&reverse=true", "&since=1d"):
        streamed += await _history(world, "greta", "agent.olga.later", how)
    for channels in (["agent.olga.later"], ["agent.>"], ["agent.olga.later", "public.news"]):
        again = await world.socket("greta")
        await again.ask("subscribe", channels=channels, since="all")
        await again.heard("present")
        streamed += again.text
    assert "present" in consumed
    assert "past" not in socket.text + consumed + streamed


@pytest.mark.parametrize("start", [7, 2**53 - 1, -1, 0])
async def test_what_is_hidden_in_history_is_not_given_live(world: World, start: int) -> None:
    """An offset that is not there yet is refused, or it holds live as it does in history."""
    body = {"account": "greta", "channel": "later", "from_offset": start}
    if (await world.ask("olga", "POST", "/grants", body)).status_code != 201:
        return
    sockets = [await world.socket("greta") for _ in range(2)]
    await sockets[0].ask("subscribe", channels=["agent.olga.later"])
    await sockets[1].ask("subscribe", channels=["agent.olga.>"])
    await world.publish("olga", "agent.olga.later", "early")
    for socket in sockets:
        await socket.rest()
    history = await _history(world, "greta", "agent.olga.later", "")
    assert [("early" in s.text) for s in sockets] == [("early" in history)] * 2


async def _history(world: World, who: str, channel: str, how: str) -> str:
    answer: Any = await world.ask(who, "GET", f"/channels/{channel}/events?limit=100{how}")
    assert answer.status_code == 200, answer.text
    return str(answer.text)
