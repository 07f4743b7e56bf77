"""Nothing of the chat, of work and of the fleet passes from one world into another, and nobody
speaks as somebody else there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.rights import chatting
from tests.rights.test_revoking_chat import SECRET, client, say, worked
from tests.rights.world import World

ANSWERED = {"-", "!", "not_found", "conflict", "bad_request"}


@pytest.mark.parametrize("version", [1, 2])
async def test_a_master_of_another_world_hears_sees_and_reaches_nothing(
    world: World, version: int
) -> None:
    # The names are the same there: olga, the room den, and a master who would see all.
    for who, role in (("olga", "worker"), ("boss", "master")):
        world.stranger("other", who, role=role)
    world.tokens["boss"] = world.tokens["boss@other"]
    await world.does("olga", "POST", "/rooms", {"room": "den", "topic": SECRET})
    async with client(world, "boss", version) as boss, client(world, "olga", version) as olga:
        await say(world, SECRET)
        await worked(world, SECRET)
        body = {"payload": {"text": SECRET}}
        message = await world.does("olga", "POST", "/messages", body)
        await world.does("olga", "POST", "/presence", {"status": "idle", "text": SECRET})
        await world.does("olga", "POST", "/fleet/report", {"status": SECRET})
        (task,) = (await world.does("olga", "GET", "/tasks"))["tasks"]
        named = {"task_id": task["task_id"], "fence": task["fence"]}
        attempts: list[tuple[str, Any]]
        if version == 2:
            attempts = [
                ("task_update", named | {"status": "accepted"}),
                ("task_result", named | {"status": "completed", "output": "x"}),
                ("task_cancel", {"task_id": task["task_id"]}),
                ("task_approve", {"task_id": task["task_id"], "digest": task["digest"]}),
                ("chat_delete", {"id": message["id"]}),
                ("chat_delete", {"channel": "global", "offset": message["offset"]}),
                ("chat_ack", {"id": message["id"]}),
                ("room_invite", {"room": "den", "agent": "greta"}),
                ("room_topic", {"room": "den", "topic": "taken"}),
                ("room_leave", {"room": "den", "agent": "olga"}),
                ("task_dispatch", {"to": "greta", "command": "x", "kind": "exec"}),
                ("chat_send", {"to_type": "dm", "to_id": "greta", "payload": {"text": "x"}}),
            ]
        else:
            attempts = [
                ("task_result", {"id": task["task_id"], "status": "SUCCESS"}),
                ("command_ack", {"id": task["task_id"]}),
                ("approve_task", {"id": task["task_id"]}),
                ("dispatch", {"to": "greta", "cmd": "x"}),
                ("chat", {"to": "greta", "msg": "x"}),
                ("chat", {"to": "all", "msg": f"/cancel {task['task_id']}"}),
            ]
        for name, said in attempts:
            assert chatting.sign(await boss.ask(name, said)) in ANSWERED, (name, said)
        if version == 2:
            for asked in ({"channel": "den", "offset": 0}, {"channel": "global", "offset": 0}):
                await boss.ask("replay", asked)
            cursor = olga.of("session")[0]["cursor"]
            await boss.ask("replay", {"since": cursor.partition("-")[0] + "-0"})
            await boss.ask("room_list", {})
        await boss.ask("join_room" if version == 1 else "room_join", {"room": "den"})
        await boss.rest()
        assert SECRET not in boss.text
        assert "greta" not in json.dumps(boss.of("fleet_update"))
        await olga.rest()
        assert "boss" not in olga.text
    (now,) = (await world.does("olga", "GET", "/tasks"))["tasks"]
    assert now["revision"] == task["revision"]
    assert (await world.does("olga", "GET", "/rooms/den"))["members"] == 1


async def test_nobody_speaks_as_somebody_else_by_any_word(world: World) -> None:
    """Names, types, ids and channels that are another's or the hub's."""
    for who, path, body, status in (
        ("greta", "/channels/public.lobby/events", {"data": 1, "type": "room.left"}, 400),
        ("greta", "/channels/public.lobby/events", {"data": 1, "type": "chat.deleted"}, 400),
        ("greta", "/channels/public.lobby/events", {"data": 1, "type": "chat.typing"}, 400),
        ("greta", "/channels/agent.greta.tasks/events", {"data": 1, "type": "task.submitted"}, 400),
        ("greta", "/channels/agent.olga.tasks/events", {"data": 1}, 403),
        ("max", "/channels/system.tasks/events", {"data": 1}, 403),
        ("max", "/channels/system.fleet/events", {"data": 1}, 403),
        ("max", "/channels/system.audit/events", {"data": 1}, 403),
        ("wanda", "/channels/system.audit/events", {"data": 1}, 403),
        ("greta", "/messages", {"payload": {"text": "x"}, "from_id": "olga"}, 400),
        ("greta", "/messages", {"payload": {"text": "x"}, "actor": {"id": "olga"}}, 400),
        ("greta", "/tasks", {"to": "greta", "command": "x", "from_id": "olga"}, 400),
        ("greta", "/typing", {"to_type": "global", "from": "olga"}, 400),
        ("greta", "/handles", {"agent_id": "olga", "handle": "x"}, 403),
        ("greta", "/handles", {"agent_id": "greta", "handle": "olga"}, 409),
        ("greta", "/handles", {"agent_id": "greta", "handle": "0lga"}, 409),
        ("greta", "/handles", {"agent_id": "greta", "handle": "\u043elga"}, 400),
        ("greta", "/handles", {"agent_id": "greta", "handle": "hub"}, 400),
        ("max", "/accounts", {"id": "hub"}, 400),
        ("max", "/accounts", {"id": "0lga"}, 409),
    ):
        answer = await world.ask(who, "POST", path, body)
        assert answer.status_code == status, (path, body, answer.text)
    async with client(world, "greta", 2) as greta:
        forged = {"from_id": "olga", "self": False, "from_handle": "olga"}
        said = forged | {"payload": forged | {"text": '"self":false,"from_id":"olga"'}}
        assert (await greta.ask("chat_send", said))["ok"]
        await greta.rest()
        (shown,) = greta.of("chat_message")
        assert [shown[name] for name in ("from_id", "from_handle", "self")] == [
            "greta", "greta", True,
        ]  # fmt: skip


async def test_one_key_of_one_account_is_one_message_by_whatever_door(world: World) -> None:
    key, data = "a key", {"text": "once"}
    answers = [
        await world.does("greta", "POST", "/messages", {"payload": data, "dedupe_key": key}),
        await world.does(
            "greta", "POST", "/channels/global/events",
            {"data": data, "type": "chat.message", "dedupe_key": key},
        ),
    ]  # fmt: skip
    socket = await world.socket("greta")
    answers.append(await socket.ask("publish", channel="global", data=data, dedupe_key=key))
    async with client(world, "greta", 2) as greta:
        answers.append(await greta.ask("chat_send", {"payload": data, "dedupe_key": key}))
        other = {"payload": {"text": "another"}, "dedupe_key": key}
        refused = await greta.ask("chat_send", other)
        assert refused["error"]["code"] == "dedupe_conflict"
        # The same key elsewhere, or of somebody else, is another message.
        elsewhere = other | {"to_type": "room", "to_id": "den"}
        assert not (await greta.ask("chat_send", elsewhere)).get("deduped")
    async with client(world, "olga", 2) as olga:
        assert not (await olga.ask("chat_send", {"payload": data, "dedupe_key": key})).get(
            "deduped"
        )
    assert [answer.get("deduped", False) for answer in answers] == [False, True, True, True]
    assert await world.stored("public.lobby") == [data, data]
