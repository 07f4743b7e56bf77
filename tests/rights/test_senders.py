"""Nobody speaks as somebody else: the sender is the token's account, whatever is sent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.rights.world import World

FORGED: dict[str, Any] = {
    "actor": {"id": "max", "handle": "max"},
    "sender": "max",
    "source": "system",
    "from": "max",
    "id": "evt_00000000-0000-7000-8000-000000000001",
    "ts": "2020-01-01T00:00:00.000Z",
    "seq": 1,
    "offset": 1,
    "epoch": "e.1",
    "version": "9.9.9",
    "world": "other",
    "room": "secret",
    "handle": "max",
    "account": "max",
    "token": "x",
}
CHANNEL = "public.news"


@pytest.mark.parametrize("member", FORGED)
async def test_what_the_hub_sets_cannot_be_sent(world: World, member: str) -> None:
    event = {"data": 1, member: FORGED[member]}
    answer = await world.ask("olga", "POST", f"/channels/{CHANNEL}/events", event)
    assert answer.status_code == 400, answer.text
    assert member in answer.text
    batch = {"events": [{"channel": CHANNEL, "data": 1}, {"channel": CHANNEL, **event}]}
    assert (await world.ask("olga", "POST", "/events/batch", batch)).status_code == 400
    outer = {"events": [{"channel": CHANNEL, "data": 1}], member: FORGED[member]}
    assert (await world.ask("olga", "POST", "/events/batch", outer)).status_code == 400
    shell = await world.http("olga")
    assert (await shell.ask("POST", f"/pub/{CHANNEL}?{member}=x", b"1")).status_code == 400
    if member != "id":  # which there is the client's own name for the command
        socket = await world.socket("olga")
        refused = await socket.ask("publish", channel=CHANNEL, **event)
        assert refused["type"] == "error"
        assert refused["error"]["code"] == "bad_request"
    assert await world.stored(CHANNEL) == []


async def test_data_that_looks_like_an_envelope_stays_data(world: World) -> None:
    for data in (
        {"actor": {"id": "max", "handle": "max"}, "seq": 1, "channel": "agent.max.diary"},
        '"},"actor":{"id":"max","handle":"max"},"data":{"',
        "\n\nid: 1\nevent: chat.message\ndata: {}\n\n",
        "\u2028\u2029\r\n\x00",
    ):
        await world.publish("olga", CHANNEL, data)
    socket = await world.socket("greta")
    await socket.ask("subscribe", channels=[CHANNEL], since="all")
    await socket.until(lambda: sum(f["type"] == "event" for f in socket.frames) == 4)
    for frame in socket.frames:
        if frame["type"] == "event":
            assert frame["event"]["actor"] == {"id": "olga", "handle": "olga"}
            assert frame["event"]["channel"] == CHANNEL


async def test_line_ends_between_tokens_forge_no_frame(world: World) -> None:
    """One event is one line and one SSE message, however its sender spaced it."""
    client = await world.http("olga")
    forged = b'{"data":\n\n{\r\n"x"\t:\n1\r}\n}'
    sent = await client.ask("POST", f"/api/v1/channels/{CHANNEL}/events", json.loads("null"))
    assert sent.status_code == 400
    raw = b'{"x":\n\ndata: 1}'
    await client.ask("POST", f"/pub/{CHANNEL}", raw)
    spaced = await client.client.post(
        f"/api/v1/channels/{CHANNEL}/events",
        content=forged,
        headers={"content-type": "application/json"},
    )
    assert spaced.status_code == 201, spaced.text
    await world.publish("olga", CHANNEL, "the end")
    reader = await world.http("greta")
    lines = await reader.stream(f"/sub/{CHANNEL}", {"since": "all"}, '"the end"}\n')
    events = [json.loads(line) for line in lines.splitlines()]
    assert [event["actor"]["id"] for event in events] == ["olga"] * 3
    sse = await reader.stream(
        "/api/v1/events/stream", {"channels": CHANNEL, "since": "all"}, '"the end"}\n\n'
    )
    data = [line[6:] for line in sse.split("\n") if line.startswith("data: ")]
    assert [json.loads(text)["seq"] for text in data] == [event["seq"] for event in events]


@pytest.mark.parametrize("member", ["correlation_id", "causation_id", "dedupe_key"])
async def test_a_senders_own_ids_cannot_close_the_envelopes_quotes(
    world: World, member: str
) -> None:
    text = 'x","actor":{"id":"max","handle":"max"},"y":"'
    event = {"data": 1, member: text}
    await world.does("olga", "POST", f"/channels/{CHANNEL}/events", event)
    page = await world.does("greta", "GET", f"/channels/{CHANNEL}/events")
    (stored,) = page["events"]
    assert stored["actor"]["id"] == "olga"
    assert stored[member] == text


async def test_a_handle_cannot_close_the_envelopes_quotes(world: World) -> None:
    handle = '","id":"max'
    answer = await world.ask("olga", "PATCH", "/accounts/olga", {"handle": handle})
    if answer.status_code == 200:
        await world.publish("olga", CHANNEL, 1)
        page = await world.does("greta", "GET", f"/channels/{CHANNEL}/events")
        assert page["events"][0]["actor"] == {"id": "olga", "handle": handle}


@pytest.mark.parametrize(
    "type", ["account.created", "grant.given", "token.revoked", "chat.deleted", "system.error",
             'x.a","actor":{"id":"max"},"b":"', "x.A", "x.", "X.a"],
)  # fmt: skip
@pytest.mark.parametrize("who", ["olga", "wanda", "max"])
async def test_types_of_the_hub_are_said_by_the_hub_alone(
    world: World, who: str, type: str
) -> None:
    event = {"data": 1, "type": type}
    answer = await world.ask(who, "POST", f"/channels/{CHANNEL}/events", event)
    assert answer.status_code == 400
    socket = await world.socket(who)
    assert (await socket.ask("publish", channel=CHANNEL, **event))["type"] == "error"
    assert await world.stored(CHANNEL) == []


async def test_the_key_of_another_sender_finds_nothing(world: World) -> None:
    """Else a guessed key would tell the id of an event, or keep another from publishing."""
    event = {"data": "olga's", "dedupe_key": "key"}
    mine = await world.does("olga", "POST", f"/channels/{CHANNEL}/events", event)
    hers = await world.does("greta", "POST", f"/channels/{CHANNEL}/events", event)
    assert not hers["deduped"]
    assert hers["id"] != mine["id"]


async def test_a_refused_publish_leaves_no_key(world: World) -> None:
    event = {"data": 1, "dedupe_key": "key"}
    path = "/channels/room.team/events"
    assert (await world.ask("greta", "POST", path, event)).status_code == 403
    await world.grant("max", "greta", "room.team", "publish")
    assert not (await world.does("greta", "POST", path, {**event, "data": 2}))["deduped"]


async def test_a_repeat_after_the_revoke_tells_nothing(world: World) -> None:
    event = {"data": 1, "dedupe_key": "key"}
    path = "/channels/room.team/events"
    await world.grant("max", "greta", "room.team", "publish")
    await world.does("greta", "POST", path, event)
    await world.revoke("max", "greta", "room.team")
    assert (await world.ask("greta", "POST", path, event)).status_code == 403


@pytest.mark.parametrize("who", ["hub", "system", "all", "global", "HUB", "a b", "a.b", "é", ""])
async def test_reserved_and_malformed_ids_are_nobodys(world: World, who: str) -> None:
    assert (await world.ask("max", "POST", "/accounts", {"id": who})).status_code == 400


async def test_an_id_is_never_given_twice(world: World) -> None:
    await world.does("max", "DELETE", "/accounts/walt")
    for who in ("walt", "WALT", "olga", "Olga"):
        assert (await world.ask("max", "POST", "/accounts", {"id": who})).status_code == 409


async def test_no_handle_is_mistaken_for_anothers(world: World) -> None:
    """Neither another's handle in other letters, nor another's id, given up as a handle or not."""
    for handle in ("greta", "GRETA", "\uff47reta", "hub", "System"):
        answer = await world.ask("olga", "PATCH", "/accounts/olga", {"handle": handle})
        assert answer.status_code in (400, 409), handle
    await world.does("greta", "PATCH", "/accounts/greta", {"handle": "Greta the Great"})
    answer = await world.ask("olga", "PATCH", "/accounts/olga", {"handle": "Greta"})
    assert answer.status_code == 409
    new = {"id": "gustav", "handle": "greta"}
    assert (await world.ask("max", "POST", "/accounts", new)).status_code == 409


async def test_a_connection_does_not_change_who_speaks(world: World) -> None:
    socket = await world.socket("olga")
    answer = await socket.ask("auth", token=world.tokens["max"])
    assert answer["type"] == "error"
    await socket.ask("publish", channel=CHANNEL, data=1)
    anonymous = await world.socket("anyone")
    await anonymous.ask("subscribe", channels=[CHANNEL])
    assert (await anonymous.ask("auth", token=world.tokens["max"]))["type"] == "error"
    page = await world.does("greta", "GET", f"/channels/{CHANNEL}/events")
    assert [event["actor"]["id"] for event in page["events"]] == ["olga"]
