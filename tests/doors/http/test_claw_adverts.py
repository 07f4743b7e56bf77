"""Adverts, profiles and agents, as claw.events words them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from clawnet.doors.http.claw_events import adverts
from tests.doors.http.conftest import Api

PRICES = "agent.alice.prices"
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}


async def post(api: Api, body: Any, *, account: str = "alice") -> httpx.Response:
    return await api.client.post("/api/advertise", json=body, headers=await api.bearer(account))


async def get(api: Api, path: str, **headers: str) -> Any:
    answer = await api.client.get(path, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def sentence(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    told: dict[str, Any] = answer.json()
    assert told["status"] == status and told["code"] and told["next"]
    return str(told["error"])


async def test_an_advert_is_kept_shown_found_and_removed(api: Api) -> None:
    answer = await post(api, {"channel": PRICES, "description": "Costs", "schema": SCHEMA})
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert answer.json() == {"ok": True, "data": data}
    assert isinstance(data["updatedAt"], int)
    assert data == {
        "channel": PRICES, "description": "Costs", "schema": SCHEMA, "agent": "alice",
        "updatedAt": data["updatedAt"],
    }  # fmt: skip
    assert await get(api, "/api/advertise/alice/prices") == {"ok": True, **data}
    assert await get(api, "/api/advertise/alice") == {
        "ok": True, "agent": "alice", "advertisements": [data], "count": 1,
    }  # fmt: skip
    assert await get(api, "/api/advertise/list") == {
        "ok": True, "channels": [data], "count": 1, "total": 1,
    }  # fmt: skip
    assert await get(api, "/api/advertise/search?q=cost") == {
        "ok": True, "query": "cost", "results": [data], "count": 1, "total": 1,
    }  # fmt: skip
    assert await get(api, "/api/profile/alice") == {
        "ok": True, "agent": "alice", "channels": [data], "count": 1,
    }  # fmt: skip
    assert await get(api, "/agents") == {
        "ok": True, "count": 1,
        "agents": [{"agent": "alice", "channels": 1, "updatedAt": data["updatedAt"]}],
    }  # fmt: skip
    removed = await api.client.request(
        "DELETE", "/api/advertise", json={"channel": PRICES}, headers=await api.bearer()
    )
    assert removed.json() == {"ok": True, "removed": True, "channel": PRICES}
    assert sentence(await api.client.get("/api/advertise/alice/prices"), 404)
    again = await api.client.delete(f"/api/advertise?channel={PRICES}", headers=await api.bearer())
    assert again.json() == {"ok": True, "removed": False, "channel": PRICES}


async def test_a_topic_may_have_dots(api: Api) -> None:
    await post(api, {"channel": "agent.alice.public.news.local"})
    shown = await get(api, "/api/advertise/alice/public.news.local")
    assert shown["channel"] == "agent.alice.public.news.local"
    assert (shown["description"], shown["schema"]) == (None, None)


@pytest.mark.parametrize("channel", ["agent.bob.x", "public.lobby", "agent.alice", "room.x", "!"])
async def test_one_advertises_ones_own_channels_only(api: Api, channel: str) -> None:
    await api.bearer("bob")
    if channel == "!":
        assert (await post(api, {"channel": channel})).status_code == 403
        return
    answer = await post(api, {"channel": channel})
    assert sentence(answer, 403) == "can only advertise your own channels"
    answer = await api.client.request(
        "DELETE", "/api/advertise", json={"channel": channel}, headers=await api.bearer()
    )
    assert sentence(answer, 403) == "can only remove your own advertisements"


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({}, 400, "channel required"),
        ({"channel": PRICES, "description": 1}, 400, "description must be a string"),
        (
            {"channel": PRICES, "description": "x" * 5_001},
            413,
            "description too long (max 5000 chars)",
        ),
        (
            {"channel": PRICES, "schema": {"title": "x" * 32_768}},
            413,
            "schema too large (max 32768 bytes)",
        ),
        (
            {"channel": PRICES, "schema": "https://example.com/schema.json"},
            400,
            "schema must be a JSON Schema, not the address of one",
        ),
    ],
)
async def test_what_cannot_be_advertised(api: Api, body: Any, status: int, told: str) -> None:
    assert sentence(await post(api, body), status) == told
    assert (await get(api, "/api/advertise/list"))["count"] == 0


@pytest.mark.parametrize(
    "schema", [1, [], {"type": "nothing"}, {"$ref": "http://127.0.0.1:1/x"}, "{", "1"]
)
async def test_a_schema_that_cannot_be_enforced_is_refused(api: Api, schema: Any) -> None:
    answer = await post(api, {"channel": PRICES, "schema": schema})
    assert sentence(answer, 400).startswith("The schema cannot be enforced")
    answer = await api.client.post(
        "/api/publish", json={"channel": PRICES, "payload": 1}, headers=await api.bearer()
    )
    assert answer.status_code == 200


async def test_a_schema_may_come_as_text(api: Api) -> None:
    answer = await post(api, {"channel": PRICES, "schema": '{"type":"string"}'})
    assert answer.json()["data"]["schema"] == {"type": "string"}


async def test_a_search_needs_a_text(api: Api) -> None:
    for path in ("/api/advertise/search", "/api/advertise/search?q=%20"):
        told = sentence(await api.client.get(path), 400)
        assert told == "search query required (use ?q=<query>)"


async def test_a_search_is_limited_and_says_how_many_there_are(api: Api) -> None:
    for number in range(25):
        await post(api, {"channel": f"agent.alice.c{number:02}"})
    found = await get(api, "/api/advertise/search?q=AGENT.alice")
    assert (found["count"], found["total"]) == (20, 25)
    found = await get(api, "/api/advertise/search?q=alice&limit=2")
    assert found["count"] == 2
    found = await get(api, "/api/advertise/search?q=alice&limit=5000")
    assert found["count"] == 25
    assert sentence(await api.client.get("/api/advertise/search?q=a&limit=x"), 400)


async def test_an_answer_is_bounded(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clawnet.doors.http.claw_events.adverts.LIST_MAX_BYTES", 3_000)
    for number in range(5):
        await post(api, {"channel": f"agent.alice.c{number}", "description": "x" * 300})
    found = await get(api, "/api/advertise/list")
    assert (found["count"], found["total"]) == (2, 5)


async def test_who_is_not_there_is_told_from_who_advertises_nothing(api: Api) -> None:
    await api.bearer("quiet")
    for path in ("/api/profile/Quiet", "/api/advertise/Quiet"):
        assert (await get(api, path))["count"] == 0
    for path in ("/api/profile/nobody", "/api/advertise/nobody", "/api/profile/%3Cscript%3E"):
        assert "There is no agent" in sentence(await api.client.get(path), 404)
    for path in ("/api/advertise/nobody/x", "/api/advertise/a%20b/%3Cscript%3E"):
        answer = await api.client.get(path)
        assert sentence(answer, 404)


async def test_a_token_that_is_not_valid_never_reads_as_nobody(api: Api) -> None:
    for path in ("/api/advertise/list", "/api/profile/alice", "/agents"):
        answer = await api.client.get(path, headers={"Authorization": "Bearer nonsense"})
        assert sentence(answer, 401)


async def test_without_a_token_nothing_is_read_where_reading_needs_one(api: Api) -> None:
    api.hub.directory.anonymous_read = False
    for path in ("/api/advertise/list", "/api/advertise/search?q=a", "/api/profile/a", "/agents"):
        assert sentence(await api.client.get(path), 401)


async def test_lists_come_in_pages(api: Api) -> None:
    """Who advertises much must not hide others."""
    for number in range(3):
        await post(api, {"channel": f"agent.alice.c{number}"})
    await post(api, {"channel": "agent.bob.c"}, account="bob")
    whole = (await get(api, "/api/advertise/list"))["channels"]
    assert len(whole) == 4
    seen: list[Any] = []
    path = "/api/advertise/list?limit=3"
    page = await get(api, path)
    assert (page["count"], page["total"]) == (3, 4)
    seen += page["channels"]
    page = await get(api, f"{path}&after={page['next']}")
    seen += page["channels"]
    assert "next" not in page
    assert seen == whole
    first = await get(api, "/agents?limit=1")
    assert first["count"] == 1
    second = await get(api, f"/agents?limit=1&after={first['next']}")
    assert "next" not in second
    counts = {one["agent"]: one["channels"] for one in first["agents"] + second["agents"]}
    assert counts == {"alice": 3, "bob": 1}


@pytest.mark.parametrize("path", ["/api/advertise/list", "/agents"])
@pytest.mark.parametrize("after", ["x", "1", "-1:a", "x:a", "9" * 99 + ":a", "%D9%A1:a"])
async def test_a_page_behind_what_is_no_next_is_refused(api: Api, path: str, after: str) -> None:
    assert sentence(await api.client.get(f"{path}?after={after}"), 400).startswith("after")


async def test_a_list_that_has_no_room_goes_on(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adverts, "LIST_MAX_BYTES", 100)
    for number in range(3):
        await post(api, {"channel": f"agent.alice.c{number}", "description": "x" * 20})
    page = await get(api, "/api/advertise/list")
    assert (page["count"], page["total"]) == (1, 3)
    page = await get(api, f"/api/advertise/list?after={page['next']}")
    assert page["count"] == 1 and "next" in page
