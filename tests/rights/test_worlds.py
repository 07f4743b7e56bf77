"""Two worlds on one hub share a log and nothing else.

The other world has an olga of its own, a warden and a master, put straight
into the directory: whatever they ask, main's names answer as if main were not.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.rights.asking import Http, Socket
from tests.rights.world import World

CHANNELS = (
    "public.news", "agent.olga.public.feed", "agent.olga.diary", "agent.olga.inbox",
    "agent.olga.shared", "room.team", "dm.greta.olga", "system.presence", "system.grants",
    "memory.notes", "desk:a",
)  # fmt: skip
SECRET = "main's own"
STRANGERS = ("olga@other", "greta@other", "warden@other", "master@other")


@pytest.fixture
async def worlds(world: World) -> World:
    """Something is said on every channel of main; then the strangers come."""
    await world.grant("olga", "greta", "shared")
    await world.grant("max", "olga", "room.team", "publish", "read")
    for channel in CHANNELS:
        await world.says(channel, SECRET)
    for who in ("olga", "greta"):
        world.stranger("other", who)
    world.stranger("other", "warden", role="warden")
    world.stranger("other", "master", role="master")
    return world


async def ids_of_main(world: World) -> list[str]:
    found = []
    for channel in CHANNELS:
        page = await world.does("wanda", "GET", f"/channels/{channel}/events")
        found += [event["id"] for event in page["events"]]
    return found


@pytest.mark.parametrize("who", STRANGERS)
async def test_nothing_of_main_can_be_read(worlds: World, who: str) -> None:
    texts: list[str] = []

    async def asked(method: str, path: str, body: Any = None) -> int:
        answer = await worlds.ask(who, method, path, body)
        texts.append(answer.text)
        return answer.status_code

    for channel in CHANNELS:
        for how in ("", "?reverse=true", "?since=1", "?since=1d"):
            await asked("GET", f"/channels/{channel}/events{how}")
    for event_id in await ids_of_main(worlds):
        assert await asked("GET", f"/events/{event_id}") == 404
    for account in ("wanda", "walt"):
        assert await asked("GET", f"/accounts/{account}") == 404
    for path in ("/channels", "/accounts", "/grants", "/presence", "/tokens", "/blocks"):
        assert await asked("GET", f"{path}?limit=1000" if path == "/channels" else path) == 200
    client: Http = await worlds.http(who)
    texts.append(await client.consume([">"]))
    texts.append(await client.consume([*CHANNELS[:2], "agent.olga.>"]))
    text = "\n".join(texts)
    assert SECRET not in text
    for name in ("wanda", "walt", "room.team"):
        assert name not in text.replace(f'channel "{name}"', "") or "not_found" in text
    listed = json.loads((await worlds.ask(who, "GET", "/accounts")).text)["accounts"]
    assert {account["world"] for account in listed} == {"other"}
    channels = json.loads((await worlds.ask(who, "GET", "/channels")).text)["channels"]
    assert [c["name"] for c in channels if not c["name"].startswith("system.")] == []


async def listening(world: World, who: str) -> list[Socket]:
    sockets = []
    for channels in ([">"], ["agent.olga.>"], ["public.*"], ["public.news"], ["public.lobby"]):
        socket = await world.socket(who)
        answer = await socket.ask("subscribe", channels=channels, since="all")
        assert answer["type"] == "ok"
        sockets.append(socket)
    return sockets


@pytest.mark.parametrize("who", STRANGERS)
async def test_nothing_of_main_is_heard(worlds: World, who: str) -> None:
    sockets = await listening(worlds, who)
    for channel in CHANNELS:
        await worlds.says(channel, f"{SECRET}, live")
    stream = await worlds.http(who)
    await worlds.publish(who, "public.news", "here")
    text = await stream.stream("/sub/public.news", {"since": "all"}, '"here"')
    for socket in sockets:
        await socket.rest()
        text += socket.text
    assert '"here"' in text
    assert SECRET not in text


async def test_main_hears_nothing_of_another(worlds: World) -> None:
    sockets = [s for who in ("olga", "wanda", "max") for s in await listening(worlds, who)]
    anonymous = await worlds.socket("anyone")
    await anonymous.ask("subscribe", channels=["public.news"], since="all")
    seen = [await ids_of_main(worlds)]
    for channel in ("public.news", "agent.olga.diary", "agent.olga.inbox", "dm.greta.olga"):
        await worlds.publish("olga@other", channel, "theirs")
    seen.append(await ids_of_main(worlds))
    text = ""
    for socket in [*sockets, anonymous]:
        await socket.rest()
        text += socket.text
    assert SECRET in text
    assert "theirs" not in text
    assert seen[0] == seen[1]


@pytest.mark.parametrize("who", ["master@other", "olga@other"])
async def test_no_one_of_another_world_is_touched(worlds: World, who: str) -> None:
    before = [await worlds.does("max", "GET", path) for path in ("/accounts", "/grants", "/tokens")]
    ids = worlds.token_ids
    for method, path, body in (
        ("DELETE", f"/tokens/{ids['max']}", None),
        ("DELETE", f"/tokens/{ids['olga']}", None),
        ("DELETE", "/accounts/walt", None),
        ("PATCH", "/accounts/walt", {"role": "master"}),
        ("POST", "/tokens", {"account": "walt"}),
        ("GET", "/tokens?account=walt", None),
        ("POST", "/grants", {"account": "walt", "channel": "shared"}),
        ("POST", "/channels/agent.walt.inbox/events", {"data": 1}),
        ("PUT", "/blocks/walt", None),
        ("GET", "/accounts/walt", None),
    ):
        status = (await worlds.ask(who, method, path, body)).status_code
        assert status in (403, 404), f"{method} {path}: {status}"
    await worlds.ask(who, "DELETE", "/grants", {"account": "greta", "channel": "agent.olga.shared"})
    await worlds.ask(who, "POST", "/channels/agent.olga.diary/unlock")
    after = [await worlds.does("max", "GET", path) for path in ("/accounts", "/grants", "/tokens")]
    assert after == before
    assert (
        await worlds.ask("greta", "GET", "/channels/agent.olga.shared/events")
    ).status_code == 200
    assert (await worlds.ask("walt", "GET", "/channels/agent.olga.diary/events")).status_code == 403


async def test_a_key_of_another_world_finds_nothing(worlds: World) -> None:
    event = {"data": "the same", "dedupe_key": "key"}
    path = "/channels/public.news/events"
    mine = await worlds.does("olga", "POST", path, event)
    theirs = await worlds.does("olga@other", "POST", path, event)
    assert not theirs["deduped"]
    assert theirs["id"] != mine["id"]
    assert theirs["offset"] == 1, "offsets tell nothing of the other world's channel"


async def test_a_consumer_of_the_same_name_is_another(worlds: World) -> None:
    consumer = {"name": "c", "channels": ["public.news"], "since": "all"}
    await worlds.does("olga", "POST", "/consumers", consumer)
    for method, path in (("GET", "/consumers/c"), ("POST", "/consumers/c/fetch"),
                         ("DELETE", "/consumers/c")):  # fmt: skip
        body: Any = {} if method == "POST" else None
        assert (await worlds.ask("olga@other", method, path, body)).status_code == 404
        assert (await worlds.ask("greta", method, path, body)).status_code == 404
    fetched = await worlds.does("olga", "POST", "/consumers/c/fetch", {})
    assert SECRET in json.dumps(fetched)


async def test_presence_is_told_by_world(worlds: World) -> None:
    stranger, own = await worlds.socket("olga@other"), await worlds.socket("greta")
    for socket in (stranger, own):
        await socket.ask("subscribe", channels=["system.presence"])
    worlds.hub.presence.tick()
    for socket in (stranger, own):
        await socket.heard("presence.changed")
    assert "greta" not in stranger.text
    assert "olga" not in own.text
    told = await worlds.does("olga@other", "GET", "/presence")
    assert [account["account"] for account in told["accounts"]] == ["olga"]
