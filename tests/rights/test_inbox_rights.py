"""An inbox is read and acknowledged by its account alone, through every door."""

from __future__ import annotations

from typing import Any

import pytest

from tests.rights.world import World

BOX = "agent.olga.inbox"
OTHERS = ("greta", "walt", "wanda", "max")


async def unread(world: World, who: str) -> int:
    return int((await world.does(who, "GET", "/inbox"))["unread"])


async def secret(world: World) -> dict[str, Any]:
    """Something only olga is to see; the event as she is given it."""
    await world.publish("walt", BOX, "for olga alone")
    (message,) = (await world.does("olga", "GET", "/inbox"))["messages"]
    event: dict[str, Any] = message["event"]
    return event


@pytest.mark.parametrize("who", OTHERS)
async def test_nobody_is_given_anothers_inbox(world: World, who: str) -> None:
    await secret(world)
    for path in (
        "/inbox",
        "/inbox?budget=10000",
        "/inbox?after=x",
        "/inbox?account=olga",
        f"/inbox?channel={BOX}",
        "/inbox/olga",
        "/accounts/olga/inbox",
        f"/channels/{BOX}/inbox",
    ):
        answer = await world.ask(who, "GET", path)
        assert "for olga alone" not in answer.text
        if answer.status_code == 200:
            assert answer.json()["unread"] == 0
        else:
            assert answer.status_code in (400, 404)
    if who != "wanda":
        # The channel itself, whose rights the inbox adds nothing to.
        assert (await world.ask(who, "GET", f"/channels/{BOX}/events")).status_code == 403
        refused = await (await world.socket(who)).ask("subscribe", channels=[BOX])
        assert refused["error"]["code"] == "forbidden"


@pytest.mark.parametrize("who", OTHERS)
async def test_nobody_acknowledges_anothers(world: World, who: str) -> None:
    event = await secret(world)
    cursor = (await world.does("olga", "GET", "/inbox"))["cursor"]
    acked = await world.does(who, "POST", "/inbox/ack", {"events": [event["id"]]})
    assert (acked["acked"], acked["unknown"]) == (0, [event["id"]])
    gap = {"channel": BOX, "first": 1, "last": event["offset"]}
    await world.does(who, "POST", "/inbox/ack", {"gaps": [gap]})
    await world.does(who, "POST", "/inbox/ack", {"through": cursor})
    assert await unread(world, "olga") == 1


async def test_a_grant_opens_no_inbox(world: World) -> None:
    event = await secret(world)
    body = {"account": "greta", "channel": BOX}
    await world.ask("olga", "POST", "/grants", body)
    assert await unread(world, "greta") == 0
    acked = await world.does("greta", "POST", "/inbox/ack", {"events": [event["id"]]})
    assert acked["unknown"] == [event["id"]]


async def test_a_warden_has_an_inbox_of_its_own_and_no_more(world: World) -> None:
    event = await secret(world)
    await world.publish("walt", "agent.wanda.inbox", "for wanda")
    page = await world.does("wanda", "GET", "/inbox")
    assert [message["event"]["data"] for message in page["messages"]] == ["for wanda"]
    # It reads by events what is not addressed to it.
    assert "for olga alone" in await world.stored(BOX)
    acked = await world.does("wanda", "POST", "/inbox/ack", {"events": [event["id"]]})
    assert acked["acked"] == 0


async def test_an_unknown_id_and_anothers_are_told_alike(world: World) -> None:
    event = await secret(world)
    none = event["id"][:-12] + "0000000fffff"
    acked = await world.does("greta", "POST", "/inbox/ack", {"events": [event["id"], none, "x"]})
    assert acked == {"acked": 0, "unread": 0, "unknown": [event["id"], none, "x"]}


@pytest.mark.parametrize("who", ["olga", "warden", "master"])
async def test_another_world_has_other_inboxes(world: World, who: str) -> None:
    event = await secret(world)
    role = {"warden": "warden", "master": "master"}.get(who, "worker")
    stranger = world.stranger("other", who, role=role)
    page = await world.does(stranger, "GET", "/inbox?budget=10000")
    assert (page["messages"], page["unread"]) == ([], 0)
    acked = await world.does(stranger, "POST", "/inbox/ack", {"events": [event["id"]]})
    assert acked["unknown"] == [event["id"]]
    cursor = (await world.does("olga", "GET", "/inbox"))["cursor"]
    await world.does(stranger, "POST", "/inbox/ack", {"through": cursor})
    assert await unread(world, "olga") == 1


async def test_who_is_blocked_is_never_in_the_inbox(world: World) -> None:
    await world.does("olga", "PUT", "/blocks/walt")
    path = f"/channels/{BOX}/events"
    assert (await world.ask("walt", "POST", path, {"data": "x"})).status_code == 403
    batch = {"events": [{"channel": BOX, "data": "x"}]}
    assert (await world.ask("walt", "POST", "/events/batch", batch)).status_code == 403
    refused = await (await world.socket("walt")).ask("publish", channel=BOX, data="x")
    assert refused["error"]["code"] == "forbidden"
    assert await unread(world, "olga") == 0
    await world.does("olga", "DELETE", "/blocks/walt")
    await world.publish("walt", BOX, "again")
    assert await unread(world, "olga") == 1


async def test_a_revoked_token_reads_and_acknowledges_nothing(world: World) -> None:
    event = await secret(world)
    await world.revoke_token("olga")
    assert (await world.ask("olga", "GET", "/inbox")).status_code == 401
    answer = await world.ask("olga", "POST", "/inbox/ack", {"events": [event["id"]]})
    assert answer.status_code == 401
