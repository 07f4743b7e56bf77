"""Promise 3 where chat and work are spoken: by Socket.IO and by their REST routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.rights import asking, chatting
from tests.rights.chatting import Over, Socketio
from tests.rights.test_revoking import Thinker
from tests.rights.world import World

SECRET = "the word of the den"


async def put_out(world: World) -> None:
    await world.does("olga", "POST", "/rooms/den/leave", {"account": "greta"})


async def grant_revoked(world: World) -> None:
    await world.revoke("max", "greta", "room.den")


async def the_token(world: World) -> None:
    await world.revoke_token("greta")


async def the_account(world: World) -> None:
    await world.does("max", "DELETE", "/accounts/greta")


TAKINGS = {"put out": put_out, "grant": grant_revoked, "token": the_token, "account": the_account}


@pytest.fixture
async def den(world: World) -> World:
    """olga's private room; greta is in it."""
    await world.does("olga", "POST", "/rooms", {"room": "den", "private": True, "topic": SECRET})
    await world.does("olga", "POST", "/rooms/den/invite", {"agent": "greta"})
    await world.does("greta", "POST", "/rooms/den/join")
    return world


@asynccontextmanager
async def client(
    world: World, who: str, version: int, *, is_polling: bool = False
) -> AsyncIterator[Socketio]:
    async with chatting.socketio(
        world.asker(who), who, version=version, is_polling=is_polling
    ) as made:
        assert made is not None
        yield made


async def say(world: World, text: str) -> None:
    body = {"to_type": "room", "to_id": "den", "payload": {"text": text}}
    await world.does("olga", "POST", "/messages", body)


async def typed(world: World) -> None:
    body = {"to_type": "room", "to_id": "den", "is_typing": True}
    await world.does("olga", "POST", "/typing", body)


async def worked(world: World, command: str) -> None:
    await world.does("olga", "POST", "/tasks", {"to": "olga", "command": command, "room": "den"})


# --- while somebody listens ---------------------------------------------------------------------


@pytest.mark.parametrize("taken", TAKINGS)
async def test_who_is_taken_out_hears_nothing_more(den: World, taken: str) -> None:
    """By each version, live by WebSocket, and what waits for the next poll."""
    late = f"late {taken}"
    # One at a time: the newer connection of an agent ends the older one.
    for version in (1, 2):
        for is_polling in (False, True):
            async with client(den, "greta", version, is_polling=is_polling) as greta:
                await say(den, SECRET)
                if not is_polling:
                    await greta.heard_of(SECRET)
                await worked(den, SECRET)
                greta.text = ""
                await den.does("walt", "GET", "/me")
                await TAKINGS[taken](den)
                await say(den, late)
                await typed(den)
                await worked(den, late)
                await den.does("olga", "PATCH", "/rooms/den", {"topic": late})
                await greta.rest()
                assert late not in greta.text
                assert "typing" not in greta.text
                if is_polling:
                    assert SECRET not in greta.text
            if taken in ("token", "account"):
                return
            await den.does("olga", "POST", "/rooms/den/invite", {"agent": "greta"})
            await den.does("greta", "POST", "/rooms/den/join")


# --- while a message is on its way --------------------------------------------------------------


async def by_v1(world: World) -> str:
    return await by_socketio(world, 1, "chat", {"to": "#den", "msg": "late"})


async def by_v2(world: World) -> str:
    said = {"to_type": "room", "to_id": "den", "payload": {"text": "late"}}
    return await by_socketio(world, 2, "chat_send", said)


async def by_rest(world: World) -> str:
    body = {"to_type": "room", "to_id": "den", "payload": {"text": "late"}}
    return asking.sign(await world.ask("greta", "POST", "/messages", body))


async def by_socketio(world: World, version: int, name: str, said: Any) -> str:
    async with client(world, "greta", version) as greta:
        try:
            return chatting.sign(await greta.ask(name, said))
        except Over:
            return "?"


@pytest.mark.parametrize("door", [by_v1, by_v2, by_rest])
@pytest.mark.parametrize("taken", TAKINGS)
async def test_a_message_that_an_interceptor_looks_at_is_refused(
    den: World, door: Callable[[World], Awaitable[str]], taken: str
) -> None:
    thinker = Thinker(den, "room.den")
    sending = asyncio.ensure_future(door(den))
    await thinker.entered.wait()
    await TAKINGS[taken](den)
    thinker.may_answer.set()
    assert await sending == ("?" if taken in ("token", "account") else "-")
    assert "late" not in str(await den.stored("room.den"))


@pytest.mark.parametrize("taken", TAKINGS)
async def test_a_flood_of_messages_and_work_ends_with_the_revoke(den: World, taken: str) -> None:
    for version in (1, 2):
        async with client(den, "greta", version) as greta:
            for n in range(300):
                if version == 1:
                    await greta.send("chat", {"to": "#den", "msg": str(n)})
                else:
                    said = {"to_type": "room", "to_id": "den", "payload": {"text": str(n)}}
                    await greta.send("chat_send", said)
                    work = {"to": "greta", "command": "x", "kind": "custom", "room": "den"}
                    await greta.send("task_dispatch", work)
            await TAKINGS[taken](den)
            count = len(await den.stored("room.den"))
            await greta.rest()
            events = await den.stored("room.den")
            # (A task that is open in the room goes on: what its worker does is told there.)
            assert len(events) == count
            accepted = [one for one in greta.answers.values() if one["ok"]]
            assert len(accepted) <= count
        if taken in ("token", "account"):
            return
        await den.does("olga", "POST", "/rooms/den/invite", {"agent": "greta"})
        await den.does("greta", "POST", "/rooms/den/join")


# --- a master that is none any more -------------------------------------------------------------


async def demoted(world: World) -> None:
    await world.does("max", "PATCH", "/accounts/mia", {"role": "worker"})


@pytest.fixture
async def mia(world: World) -> World:
    """A second master, who has been to #ops; olga works."""
    made = await world.running.new_token("mia", role="master")
    world.tokens["mia"], world.token_ids["mia"] = made.token, made.id
    await world.does("mia", "POST", "/rooms/ops/join")
    return world


@pytest.mark.parametrize("is_polling", [False, True])
@pytest.mark.parametrize("version", [1, 2])
async def test_a_master_that_is_made_a_worker_sees_no_more_of_others(
    mia: World, version: int, is_polling: bool
) -> None:
    """Neither of others' work nor of #ops; and gives none."""
    ops = {"to_type": "room", "to_id": "ops", "payload": {"text": SECRET}}
    async with client(mia, "mia", version, is_polling=is_polling) as talk:
        await mia.does("max", "POST", "/messages", ops)
        given = await mia.does("max", "POST", "/tasks", {"to": "olga", "command": SECRET})
        if not is_polling:
            await talk.heard_of(SECRET, times=2)
        await mia.does("walt", "GET", "/me")
        talk.text = ""
        path = f"/tasks/{given['task_ids'][0]}?wait=30"
        waiting = asyncio.ensure_future(mia.ask("mia", "GET", path))
        stream = asyncio.ensure_future(streamed(mia, "mia", "system.tasks,room.ops"))
        for _ in range(3):
            await mia.does("walt", "GET", "/me")
        await demoted(mia)
        await mia.does("max", "POST", "/tasks", {"to": "olga", "command": "late"})
        await mia.does("max", "POST", "/messages", ops | {"payload": {"text": "late"}})
        assert (await waiting).status_code == 404
        await talk.rest()
        assert "late" not in talk.text + await stream
        if is_polling:
            assert SECRET not in talk.text
    async with client(mia, "mia", version, is_polling=is_polling) as talk:
        for name, said in (
            ("dispatch", {"to": "olga", "cmd": "late"}),
            ("approve_task", {"id": given["task_ids"][0]}),
        ) if version == 1 else (
            ("task_dispatch", {"to": "olga", "command": "late", "kind": "exec"}),
            ("task_cancel", {"task_id": given["task_ids"][0]}),
            ("replay", {"channel": "ops", "offset": 0}),
        ):  # fmt: skip
            assert chatting.sign(await talk.ask(name, said)) in "-", name
        assert "late" not in talk.text
        assert SECRET not in talk.text


async def streamed(world: World, who: str, channels: str) -> str:
    """All that a stream of server-sent events gives until it ends."""
    http = await world.http(who)
    async with http.client.stream(
        "GET", "/api/v1/events/stream", params={"channels": channels}
    ) as answer:
        return "".join([piece async for piece in answer.aiter_text()])


# --- the right to give work ---------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
async def test_work_that_is_on_its_way_when_the_right_ends_is_never_begun(
    world: World, version: int
) -> None:
    await world.does("olga", "POST", "/grants", {"target": "greta", "right": "dispatch"})
    async with client(world, "greta", version) as greta, client(world, "olga", version) as olga:
        for n in range(200):
            if version == 1:
                await greta.send("dispatch", {"to": "olga", "cmd": f"echo {n}"})
            else:
                said = {"to": "olga", "command": f"echo {n}", "kind": "exec"}
                await greta.send("task_dispatch", said)
        await world.does("olga", "DELETE", "/grants", {"target": "greta", "right": "dispatch"})
        count = len(await given(world))
        await greta.rest()
        await olga.rest()
        assert len(await given(world)) == count
        for work in olga.of("command") + olga.of("task_dispatch"):
            # What it was told before is not to be begun any more.
            if version == 1:
                answer = await olga.ask("command_ack", {"id": work["id"]})
            else:
                named = {"task_id": work["task_id"], "fence": work["fence"]}
                answer = await olga.ask("task_update", named | {"status": "accepted"})
            assert chatting.sign(answer) == "conflict", work
    left = await world.does("olga", "GET", "/tasks?open=true&limit=200")
    assert left["tasks"] == []


async def given(world: World) -> list[Any]:
    """The work that olga was given, as the log has it."""
    return [task for task in await world.stored("agent.olga.tasks") if task["revision"] == 1]
