"""Tasks, the right to dispatch, logs and settings by REST."""

from __future__ import annotations

import asyncio
import logging

import pytest

from clawnet.doors.http.settings import HttpSettings
from tests.doors.http.conftest import Api, check_problem
from tests.doors.http.test_rooms import Chat

WORK = {"to": "bob", "command": "say what you see", "kind": "custom"}


@pytest.fixture
def http_settings() -> HttpSettings:
    return HttpSettings(chat_burst=10_000)


@pytest.fixture
async def chat(api: Api) -> Chat:
    return await Chat(api).people()


async def test_who_may_not_dispatch_sees_no_task_either(chat: Chat) -> None:
    check_problem(await chat.ask("ann", "POST", "/tasks", WORK), 403, "forbidden")
    check_problem(await chat.ask("nobody", "POST", "/tasks", WORK), 401, "unauthenticated")
    given = await chat.does("boss", "POST", "/tasks", WORK, 201)
    (task,) = given["task_ids"]
    fence = given["tasks"][0]["fence"]
    for method, path, body in (
        ("GET", f"/tasks/{task}", None),
        ("POST", f"/tasks/{task}/cancel", None),
        ("POST", f"/tasks/{task}/update", {"fence": fence, "status": "accepted"}),
        ("POST", f"/tasks/{task}/result", {"fence": fence, "status": "completed"}),
        ("POST", f"/tasks/{task}/approve", {"digest": given["tasks"][0]["digest"]}),
    ):
        answer = await chat.ask("eve", method, path, body)
        assert answer.status_code in (403, 404), (path, answer.text)
        assert WORK["command"] not in answer.text
    assert (await chat.does("eve", "GET", "/tasks"))["tasks"] == []
    assert (await chat.does("eve", "POST", "/tasks/take"))["tasks"] == []


async def test_the_right_to_dispatch_is_given_and_taken(chat: Chat) -> None:
    right = {"target": "ann", "right": "dispatch"}
    granted = await chat.does("bob", "POST", "/grants", right, 201)
    assert (granted["channel"], granted["verbs"]) == ("agent.bob.tasks", ["dispatch"])
    await chat.does("ann", "POST", "/tasks", WORK, 201)
    check_problem(await chat.ask("eve", "POST", "/tasks", WORK), 403, "forbidden")
    taken = await chat.does("bob", "DELETE", "/grants", right)
    assert taken["changed"] and taken["verbs"] == []
    check_problem(await chat.ask("ann", "POST", "/tasks", WORK), 403, "forbidden")
    for body in (
        {"target": "ann"}, {"right": "dispatch"}, right | {"channel": "x"},
        right | {"account": "eve"}, right | {"verbs": ["read"]}, right | {"right": "read"},
        {"account": "ann"}, {"channel": "x"}, {},
    ):  # fmt: skip
        for method in ("POST", "DELETE"):
            check_problem(await chat.ask("bob", method, "/grants", body), 400, "bad_request")


async def test_a_task_goes_from_dispatch_to_its_result(chat: Chat) -> None:
    body = WORK | {"timeout_s": 30, "dedupe_key": "once"}
    given = await chat.does("boss", "POST", "/tasks", body, 201)
    again = await chat.does("boss", "POST", "/tasks", body, 201)
    assert again["task_ids"] == given["task_ids"] and again["deduped"]
    (task,) = given["task_ids"]
    waiting = asyncio.create_task(chat.does("boss", "GET", f"/tasks/{task}?wait=10"))
    taken = await chat.does("bob", "POST", "/tasks/take", {})
    assert [one["task_id"] for one in taken["tasks"]] == [task]
    fence = taken["tasks"][0]["fence"]
    accepted = {"fence": fence, "status": "accepted"}
    assert (await chat.does("bob", "POST", f"/tasks/{task}/update", accepted))["status"] == (
        "accepted"
    )
    running = {"fence": fence, "status": "running", "output": "half", "piece": 1}
    await chat.does("bob", "POST", f"/tasks/{task}/update", running)
    result = {"fence": fence, "status": "completed", "output": "whole", "exit_code": 0}
    await chat.does("bob", "POST", f"/tasks/{task}/result", result)
    ended = await waiting
    assert (ended["status"], ended["output"]) == ("completed", "whole")
    late = await chat.ask("bob", "POST", f"/tasks/{task}/update", running)
    check_problem(late, 409, "conflict")
    assert (late.json()["reason"], late.json()["task_status"]) == ("ended", "completed")
    listed = await chat.does("boss", "GET", "/tasks?agent=bob&status=completed&limit=5")
    assert [one["task_id"] for one in listed["tasks"]] == [task]
    assert (await chat.does("boss", "GET", "/tasks?open=true"))["tasks"] == []
    for query in ("status=odd", "open=maybe", "limit=0"):
        check_problem(await chat.ask("boss", "GET", f"/tasks?{query}"), 400, "bad_request")
    check_problem(await chat.ask("boss", "GET", f"/tasks/{task}?wait=1000"), 400, "bad_request")


async def test_logs_are_for_masters_and_read_on(chat: Chat) -> None:
    for kind in ("server", "tasks", "audit"):
        for who in ("ann", "nobody"):
            answer = await chat.ask(who, "GET", f"/logs?kind={kind}")
            assert answer.status_code in (401, 403, 404), (kind, who)
    check_problem(await chat.ask("eye", "GET", "/logs?kind=server"), 403, "forbidden")
    check_problem(await chat.ask("boss", "GET", "/logs?kind=odd"), 400, "bad_request")
    check_problem(await chat.ask("boss", "GET", "/logs?limit=0"), 400, "bad_request")
    record = logging.LogRecord("clawnet.x", logging.INFO, "f", 1, "it began", (), None)
    chat.api.hub.server_log.handle(record)
    page = await chat.does("boss", "GET", "/logs")
    assert page["kind"] == "server" and page["records"][-1]["message"] == "it began"
    assert (await chat.does("boss", "GET", f"/logs?after={page['next']}"))["records"] == []
    given = await chat.does("boss", "POST", "/tasks", WORK, 201)
    later = await chat.does("boss", "POST", "/tasks", WORK, 201)
    newest = await chat.does("eye", "GET", "/logs?kind=tasks")
    told = [one["data"]["task_id"] for one in newest["records"]]
    assert told.index(given["task_ids"][0]) < told.index(later["task_ids"][0])
    offsets = [one["offset"] for one in newest["records"]]
    assert offsets == sorted(offsets) and newest["next"] == offsets[-1]
    first = await chat.does("boss", "GET", "/logs?kind=tasks&after=0&limit=1")
    assert first["records"] == newest["records"][:1]
    behind = await chat.does("boss", "GET", f"/logs?kind=tasks&after={newest['next']}")
    assert behind["records"] == [] and behind["next"] == newest["next"]
    # A place of before a restart that began anew: who follows must not wait for it.
    beyond = await chat.does("boss", "GET", f"/logs?kind=tasks&after={newest['next'] + 500}")
    assert beyond["records"] == [] and beyond["next"] == newest["next"]


async def test_settings_are_for_masters_by_both_routes(chat: Chat) -> None:
    for who in ("ann", "eye", "nobody"):
        for method, path, body in (
            ("GET", "/settings", None), ("PATCH", "/settings", {"auto_create": False}),
        ):  # fmt: skip
            answer = await chat.ask(who, method, path, body)
            assert answer.status_code in (401, 403), (who, path)
    changed = await chat.does("boss", "PATCH", "/settings", {"command_denylist": ["rm -rf"]})
    assert changed == await chat.does("boss", "GET", "/settings")
    client, headers = chat.api.client, chat.headers["boss"]
    legacy = await client.post("/api/settings", json={"auto_create": False}, headers=headers)
    assert legacy.json() == changed | {"auto_create": False}
    assert (await client.get("/api/settings", headers=headers)).json() == legacy.json()
    refused = await chat.does("boss", "POST", "/tasks", WORK | {"command": "rm -rf /"}, 201)
    assert refused["tasks"][0]["status"] == "rejected"
    unknown = await chat.ask("ann", "POST", "/rooms/new-room/join")
    assert unknown.status_code == 404, unknown.text
