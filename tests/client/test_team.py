"""Chat, tasks and the fleet through the client library: each call, and what a lost answer does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from clawnet.client import Client, HubUnreachable
from clawnet.client.backoff import Backoff
from clawnet.client.chat import target
from clawnet.core.errors import Conflict, Forbidden, NotFound
from clawnet.testing.running import Running, running_hub


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    async with running_hub() as made:
        yield made


async def client(running: Running, who: str, **how: Any) -> Client:
    token = await running.token(who, **how)
    return Client(running.url, token, backoff=lambda: Backoff(first_s=0.01, most_s=0.02))


def text(payload: Any) -> Any:
    return json.loads(bytes(payload)).get("text")


async def test_rooms_messages_and_handles(running: Running) -> None:
    async with await client(running, "ann") as ann, await client(running, "bob") as bob:
        made = await ann.create_room("lair", private=True, topic="one", history="all")
        assert made.private and made.owner == "ann"
        with pytest.raises(Conflict):
            await ann.create_room("lair")
        with pytest.raises(NotFound):
            await bob.room("lair")
        sent = await ann.send_chat("hello", room="lair", payload={"mood": "good"})
        assert (await ann.invite_to_room("lair", "@bob")).changed
        assert (await bob.join_room("lair")).members == ["ann", "bob"]
        page = await bob.chat_history("lair")
        (found,) = [one for one in page.events if one.id == sent.id]
        assert json.loads(bytes(found.payload)) == {"mood": "good", "text": "hello"}
        assert not found.self
        assert (await ann.update_room("lair", topic="two")).topic == "two"
        members = await bob.room_members("#lair".removeprefix("#"))
        assert [one.id for one in members.members] == ["ann", "bob"]
        assert [one.room for one in await bob.rooms()] == ["global", "lair"]
        assert (await ann.delete_chat(str(sent.id))).changed
        assert (await ann.leave_room("lair", "bob")).account == "bob"
        with pytest.raises((Forbidden, NotFound)):
            await bob.chat_history("lair")
        direct = await ann.send_chat("for you", to="@bob")
        assert direct.channel == "dm.ann.bob"
        page = await bob.chat_history("dm.ann.bob", after=0, limit=5)
        assert [text(one.payload) for one in page.events] == ["for you"]
        await bob.typing(to="ann")
        assert (await bob.set_handle("bob", "bobby")).handle == "bobby"
        answer = await ann.send_chat("/help")
        assert answer.command is not None and answer.offset is None


async def test_a_task_from_dispatch_to_its_end(running: Running) -> None:
    async with await client(running, "boss", role="master") as boss, \
               await client(running, "bob") as bob:  # fmt: skip
        given = await boss.dispatch("@bob", "look", kind="custom", timeout_s=30, args={"n": 1})
        (task_id,) = given.task_ids
        (task,) = (await bob.take_tasks()).tasks
        waiting = asyncio.create_task(boss.task(task_id, wait_s=10))
        assert (await bob.update_task(task_id, task.fence, "accepted")).status == "accepted"
        await bob.finish_task(task_id, task.fence, "completed", output="seen", exit_code=0)
        # Said twice, as after a lost answer, it is the same.
        await bob.finish_task(task_id, task.fence, "completed", output="seen", exit_code=0)
        assert (await waiting).output == "seen"
        with pytest.raises(Conflict):
            await bob.finish_task(task_id, task.fence + 1, "failed")
        more = await boss.dispatch(["bob", "boss"], "again", kind="custom")
        assert [one.to for one in more.tasks] == ["bob", "boss"]
        assert (await boss.cancel_task(more.task_ids[0])).status == "cancelled"
        listed = await boss.tasks(agent="bob", is_open=False, limit=10)
        assert {one.task_id for one in listed.tasks} == {task_id, more.task_ids[0]}
        with pytest.raises((Conflict, Forbidden)):
            await boss.approve_task(more.task_ids[1], "x")
        await bob.report(capabilities=["openclaw"], resource_usage={"cpu_percent": 1})
        fleet = await boss.fleet()
        assert "openclaw" in next(one for one in fleet.agents if one.id == "bob").capabilities
        page = await boss.logs("tasks", limit=3)
        assert len(page.records) == 3
        assert (await boss.logs("server")).kind == "server"


async def test_a_message_whose_answer_is_lost_is_said_once(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await client(running, "ann") as ann:
        lost = 2
        real = httpx.AsyncClient.request

        async def losing(self: httpx.AsyncClient, *parts: Any, **named: Any) -> httpx.Response:
            nonlocal lost
            answer = await real(self, *parts, **named)
            if lost:
                lost -= 1
                raise httpx.ReadError("the answer was lost")
            return answer

        monkeypatch.setattr(httpx.AsyncClient, "request", losing)
        sent = await ann.send_chat("once")
        assert sent.deduped and lost == 0
        given = await ann.dispatch("ann", "look", kind="custom")
        lost = 1
        with pytest.raises(HubUnreachable):
            await ann.send_chat("not known", within_s=0)
        assert len(given.task_ids) == 1
        page = await ann.chat_history()
        texts = [text(one.payload) for one in page.events if one.type == "chat.message"]
    assert texts == ["once", "not known"]


def test_where_a_message_goes() -> None:
    assert target(None, None) == target("global", None) == target("#global", None) == ("global", "")
    assert target("#alpha", None) == target("alpha", None) == ("room", "alpha")
    assert target("dm.a.b", None) == ("dm", "dm.a.b")
    assert target(None, "@bob") == ("dm", "bob")
