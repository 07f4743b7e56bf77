"""POST /api/publish: bodies, statuses and sentences of claw.events, in both request shapes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from clawnet.core.calls.grants import Grant
from tests.doors.http.conftest import Api

LOBBY = "public.lobby"


async def publish(api: Api, body: Any, *, account: str = "alice", **how: Any) -> httpx.Response:
    headers = await api.bearer(account) | how.pop("headers", {})
    return await api.client.post("/api/publish", json=body, headers=headers, **how)


def sentence(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    told: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "code", "retryable", "next"} <= set(told)
    assert told["status"] == status
    return str(told["error"])


async def history(api: Api, channel: str, account: str = "alice") -> list[Any]:
    answer = await api.client.get(
        f"/api/v1/channels/{channel}/events", headers=await api.bearer(account)
    )
    assert answer.status_code == 200, answer.text
    return [event["data"] for event in answer.json()["events"]]


@pytest.mark.parametrize("member", ["payload", "message"])
async def test_a_publish_is_answered_with_its_place(api: Api, member: str) -> None:
    answer = await publish(api, {"channel": LOBBY, member: {"hello": "world"}})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert set(told) == {"ok", "result"} and told["ok"] is True
    assert set(told["result"]) == {"offset", "epoch", "id"}
    assert told["result"]["offset"] == 1
    assert await history(api, LOBBY) == [{"hello": "world"}]


@pytest.mark.parametrize(
    ("body", "stored"),
    [
        ({"channel": LOBBY, "payload": 1, "message": 2}, 1),
        ({"channel": LOBBY, "payload": None, "message": 2}, None),
        ({"channel": LOBBY}, None),
        ({"channel": f" {LOBBY} ", "payload": "x"}, "x"),
        ({"channel": "public.townsquare", "payload": "x"}, "x"),
    ],
)
async def test_payload_is_preferred_and_may_be_left_out(api: Api, body: Any, stored: Any) -> None:
    assert (await publish(api, body)).status_code == 200
    assert await history(api, LOBBY) == [stored]


@pytest.mark.parametrize("body", [{}, {"channel": ""}, {"channel": " "}, {"channel": None}])
async def test_a_channel_is_required(api: Api, body: Any) -> None:
    assert sentence(await publish(api, body | {"payload": 1}), 400) == "channel required"


@pytest.mark.parametrize("name", ["lobby", "foo.bar", "agent.alice", "public", "Public.X", "a b"])
async def test_a_name_that_is_none_is_refused(api: Api, name: str) -> None:
    answer = await publish(api, {"channel": name, "payload": 1})
    assert sentence(answer, 400) == "invalid channel format"


async def test_without_a_token_nothing_is_published(api: Api) -> None:
    body = {"channel": LOBBY, "payload": 1}
    assert sentence(await api.client.post("/api/publish", json=body), 401)
    bad = await api.client.post(
        "/api/publish", json=body, headers={"Authorization": "Bearer nonsense"}
    )
    assert sentence(bad, 401)
    assert await history(api, LOBBY) == []


async def test_a_token_that_only_reads_publishes_nothing(api: Api) -> None:
    headers = await api.bearer("alice", scopes=["events:read"])
    body = {"channel": LOBBY, "payload": 1}
    assert sentence(await api.client.post("/api/publish", json=body, headers=headers), 403)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("agent.bob.news", "only the channel owner can publish to agent.* channels"),
        ("agent.bob.public.news", "only the channel owner can publish to agent.* channels"),
        ("system.timer.minute", "cannot publish to system channels"),
        ("system.accounts", "cannot publish to system channels"),
    ],
)
async def test_nobody_speaks_where_it_does_not_belong(api: Api, name: str, told: str) -> None:
    await api.bearer("bob")
    assert sentence(await publish(api, {"channel": name, "payload": 1}), 403) == told
    assert sentence(await publish(api, {"channel": "room.team", "payload": 1}), 403)


async def test_an_inbox_takes_messages_of_others(api: Api) -> None:
    await api.bearer("bob")
    answer = await publish(api, {"channel": "agent.bob.inbox", "payload": "hi"})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("size", [16_385, 40_000])
async def test_a_payload_over_the_limit_is_refused(api: Api, size: int) -> None:
    answer = await publish(api, {"channel": LOBBY, "payload": "x" * (size - 2)})
    assert sentence(answer, 413) == "payload too large (max 16384 bytes)"
    assert await history(api, LOBBY) == []


async def test_a_payload_at_the_limit_is_taken(api: Api) -> None:
    answer = await publish(api, {"channel": LOBBY, "payload": "x" * 16_382})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b'{"channel":1}', b'{"channel":"public.a","data":1}', b'{"channel":"\xff"}'],
)
async def test_a_body_that_is_none_is_refused(api: Api, raw: bytes) -> None:
    headers = await api.bearer() | {"Content-Type": "application/json"}
    answer = await api.client.post("/api/publish", content=raw, headers=headers)
    assert sentence(answer, 400)


async def test_another_content_type_is_refused(api: Api) -> None:
    headers = await api.bearer() | {"Content-Type": "text/plain"}
    raw = b'{"channel":"public.lobby","payload":1}'
    assert sentence(await api.client.post("/api/publish", content=raw, headers=headers), 415)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"dedupe_key": "k"}, {}),
        ({"idempotency_key": "k"}, {}),
        ({}, {"Idempotency-Key": "k"}),
        ({"dedupe_key": "k", "idempotency_key": "k"}, {"Idempotency-Key": "k"}),
    ],
)
async def test_a_repeated_publish_is_one_event(api: Api, body: Any, headers: Any) -> None:
    whole = {"channel": LOBBY, "payload": "once", **body}
    first = await publish(api, whole, headers=headers)
    second = await publish(api, whole, headers=headers)
    assert first.status_code == second.status_code == 200
    assert first.json() == second.json()
    assert await history(api, LOBBY) == ["once"]
    other = await publish(api, whole | {"payload": "other"}, headers=headers)
    assert sentence(other, 409)


async def test_two_different_keys_are_refused(api: Api) -> None:
    for body in ({"dedupe_key": "a", "idempotency_key": "b"}, {"dedupe_key": "a"}):
        answer = await publish(api, {"channel": LOBBY, **body}, headers={"Idempotency-Key": "c"})
        assert sentence(answer, 400)


async def test_what_does_not_satisfy_an_advertised_schema_is_refused(api: Api) -> None:
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
    made = await api.client.post(
        "/api/advertise",
        json={"channel": "agent.alice.prices", "schema": schema},
        headers=await api.bearer(),
    )
    assert made.status_code == 200, made.text
    answer = await publish(api, {"channel": "agent.alice.prices", "payload": {"n": "1"}})
    assert sentence(answer, 400) == "Schema validation failed"
    assert answer.json()["validation_errors"] == [
        {"path": "/n", "message": '"1" is not of type "integer"'}
    ]
    native = await api.client.post(
        "/api/v1/channels/agent.alice.prices/events",
        json={"data": {}},
        headers=await api.bearer(),
    )
    assert native.status_code == 422
    assert native.json()["validation_errors"][0]["path"] == ""
    assert (await publish(api, {"channel": "agent.alice.prices", "payload": {"n": 1}})).is_success


@pytest.fixture
def standing_clock(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """No time passes for the limits, so that a slow machine is limited as a fast one is."""
    monkeypatch.setattr(type(api.hub.clock), "steady_s", lambda _: 100.0)


async def test_too_many_publishes_are_told_when_to_go_on(api: Api, standing_clock: None) -> None:
    headers = await api.bearer()
    body = {"channel": LOBBY, "payload": 1}
    answers = [await api.client.post("/api/publish", json=body, headers=headers) for _ in range(21)]
    statuses = [answer.status_code for answer in answers]
    assert statuses == [200] * 20 + [429], "a burst of 20"
    refused = answers[-1]
    assert sentence(refused, 429) == "rate limit exceeded (5 messages per second)"
    told = refused.json()
    assert refused.headers["retry-after"] == str(told["retry_after"]) == "1"
    now_ms = api.hub.clock.wall_ms()
    assert now_ms - 10_000 < told["retry_timestamp"] <= now_ms + 1_000
    assert refused.headers["ratelimit-policy"] == '"account";q=5;w=1'
    assert refused.headers["ratelimit"] == '"account";r=0;t=1'


async def test_a_flood_of_one_account_costs_no_storage_and_leaves_others_alone(
    api: Api, standing_clock: None
) -> None:
    flooder, quiet = await api.bearer("alice"), await api.bearer("bob")
    body = {"channel": LOBBY, "payload": "flood"}

    async def flood() -> int:
        answer = await api.client.post("/api/publish", json=body, headers=flooder, timeout=60)
        return answer.status_code

    async def speak(number: int) -> int:
        answer = await api.client.post(
            "/api/publish", json={"channel": "public.calm", "payload": number}, headers=quiet
        )
        return answer.status_code

    flooding = [asyncio.create_task(flood()) for _ in range(80)]
    spoken = [await speak(number) for number in range(15)]
    statuses = await asyncio.gather(*flooding)
    assert spoken == [200] * 15
    assert sorted(statuses) == [200] * 20 + [429] * 60
    assert len(await history(api, LOBBY)) == 20, "what was refused was not stored"
    assert await history(api, "public.calm") == list(range(15))


async def test_a_grant_does_not_let_another_speak(api: Api) -> None:
    await api.bearer("bob")
    alice = api.hub.authenticate(await api.running.token("alice"))
    await api.hub.call(Grant(account="bob", channel="agent.alice.news"), caller=alice)
    answer = await publish(api, {"channel": "agent.alice.news", "payload": 1}, account="bob")
    assert sentence(answer, 403)


async def test_other_pages_may_not_publish_by_a_form(api: Api) -> None:
    headers = await api.bearer() | {"Content-Type": "application/x-www-form-urlencoded"}
    raw = json.dumps({"channel": LOBBY, "payload": 1}).encode()
    assert sentence(await api.client.post("/api/publish", content=raw, headers=headers), 415)


@pytest.mark.parametrize("how", [{"X-API-Key": "k"}, {"Authorization": "apikey k"}])
async def test_who_shows_an_api_key_means_centrifugos_server_api(
    api: Api, how: dict[str, str]
) -> None:
    body = {"channel": LOBBY, "data": 1}
    answer = await api.client.post("/api/publish", json=body, headers=how)
    # No key is set on this hub, so nobody has it; a token's bearer is not asked for one.
    assert answer.status_code == 404, answer.text
    assert answer.json()["code"] == "not_found"
    assert await history(api, LOBBY) == []
