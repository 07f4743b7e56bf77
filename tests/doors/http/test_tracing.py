"""W3C trace context in at every door and out at every one, and the chain by its route."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from clawnet.client import Client
from clawnet.core.events import Event
from tests.doors.http.conftest import LOBBY, STREAM, Api, Stream, check_problem
from tests.doors.ws.clients import ask, client, hear

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
OTHER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
MALFORMED = ("nonsense", f"00-{'0' * 32}-00f067aa0ba902b7-01", f"{TRACEPARENT}-x", "", "x" * 2_000)


async def newest(api: Api) -> dict[str, Any]:
    page = (await api.client.get(f"{LOBBY}?reverse=true&limit=1")).json()
    found: dict[str, Any] = page["events"][0]
    return found


async def by_member(api: Api, text: str) -> httpx.Response:
    return await api.client.post(
        LOBBY, json={"data": 1, "traceparent": text}, headers=await api.bearer()
    )


async def by_header(api: Api, text: str) -> httpx.Response:
    headers = {**await api.bearer(), "traceparent": text}
    return await api.client.post(LOBBY, json={"data": 1}, headers=headers)


async def by_shell(api: Api, text: str) -> httpx.Response:
    headers = {**await api.bearer(), "traceparent": text}
    return await api.client.post("/pub/public.lobby", content=b"1", headers=headers)


async def by_batch(api: Api, text: str) -> httpx.Response:
    item = {"channel": "public.lobby", "data": 1, "traceparent": text}
    return await api.client.post(
        "/api/v1/events/batch", json={"events": [item]}, headers=await api.bearer()
    )


DOORS = [by_member, by_header, by_shell, by_batch]


@pytest.mark.parametrize("door", DOORS)
async def test_http_takes_it_in(api: Api, door: Any) -> None:
    assert (await door(api, TRACEPARENT)).status_code == 201
    event = await newest(api)
    assert event["traceparent"] == TRACEPARENT
    # The answer is the event's place, as ever; the sender knows its own context.
    assert "traceparent" not in (await door(api, TRACEPARENT)).headers


@pytest.mark.parametrize("text", MALFORMED)
@pytest.mark.parametrize("door", DOORS)
async def test_http_ignores_a_malformed_one(api: Api, door: Any, text: str) -> None:
    assert (await door(api, text)).status_code == 201
    assert "traceparent" not in await newest(api)


async def test_the_member_counts_more_than_the_header(api: Api) -> None:
    headers = {**await api.bearer(), "traceparent": OTHER}
    body = {"data": 1, "traceparent": TRACEPARENT}
    assert (await api.client.post(LOBBY, json=body, headers=headers)).status_code == 201
    assert (await newest(api))["traceparent"] == TRACEPARENT


async def test_websocket_takes_it_in_and_ignores_a_malformed_one(api: Api) -> None:
    async with client(api.running, await api.running.token()) as socket:
        said = {"action": "publish", "channel": "public.lobby", "data": 1}
        for text in (*MALFORMED, TRACEPARENT):
            assert (await ask(socket, **said, traceparent=text))["type"] == "ok"
    events = (await api.client.get(f"{LOBBY}?since=all")).json()["events"]
    assert [event.get("traceparent") for event in events] == [None] * len(MALFORMED) + [TRACEPARENT]


async def test_it_comes_out_at_every_door(api: Api) -> None:
    bearer = await api.bearer()
    events: list[dict[str, Any]] = []
    async with (
        client(api.running) as socket,
        api.client.stream("GET", f"{STREAM}?channels=public.lobby") as sse,
        api.client.stream("GET", "/sub/public.lobby") as lines,
    ):
        await ask(socket, action="subscribe", channels=["public.lobby"])
        stream, shell = Stream(sse), Stream(lines)
        made = (await by_header(api, TRACEPARENT)).json()
        events.append((await hear(socket))["event"])
        events.append(json.loads((await stream.event())["data"]))
        events.append(await shell.json())
    async with client(api.running) as late:
        await ask(late, action="subscribe", channels=["public.lobby"], since="all")
        events.append((await hear(late))["event"])
    events.append((await api.client.get(f"/api/v1/events/{made['id']}")).json())
    events.append(await newest(api))
    create = {"name": "c", "channels": ["public.lobby"], "since": "all"}
    assert (await api.client.post("/api/v1/consumers", json=create, headers=bearer)).is_success
    fetched = await api.client.post("/api/v1/consumers/c/fetch", json={}, headers=bearer)
    events.append(fetched.json()["deliveries"][0]["event"])
    assert [(event["id"], event["traceparent"]) for event in events] == [
        (made["id"], TRACEPARENT)
    ] * 7


async def test_the_client_shows_it_and_an_answer_goes_on_with_it(api: Api) -> None:
    token = await api.running.token("alice")
    async with Client(api.running.url, token) as alice:
        made = await alice.publish("public.lobby", 1, traceparent=TRACEPARENT)
        async with alice.subscribe("public.lobby", since="all") as events:
            event = await anext(events)
            assert (event.id, event.traceparent) == (made.id, TRACEPARENT)
            async with alice.consumer("c", "public.lobby", since="all") as consumer:
                await consumer.create()
                (received,) = await consumer.fetch()
                assert received.event.traceparent == TRACEPARENT
            answer = await alice.reply(event, 2, channel="public.lobby")
            said: Event = await anext(events)
            assert said.id == answer.id
            assert (said.causation_id, said.traceparent) == (made.id, TRACEPARENT)
    found = (await api.client.get(f"/api/v1/traces/{TRACE_ID}")).json()
    assert [event["id"] for event in found["events"]] == [made.id, answer.id]


# --- the route ------------------------------------------------------------------


async def test_a_chain_is_read_by_any_of_its_names(api: Api) -> None:
    bearer = await api.bearer()
    root = (await by_header(api, TRACEPARENT)).json()["id"]
    odd = "order/7 ä?#"
    for cause in (root, "evt_gone"):
        body = {"data": 2, "correlation_id": odd, "causation_id": cause, "traceparent": TRACEPARENT}
        assert (await api.client.post(LOBBY, json=body, headers=bearer)).status_code == 201
    for name in (root, TRACE_ID, TRACEPARENT, odd):
        quoted = "".join(f"%{byte:02X}" for byte in name.encode())
        answer = await api.client.get(f"/api/v1/traces/{quoted}")
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert set(found) == {"id", "events", "roots", "absent", "is_cut"}
        assert found["id"] == name
        assert [event["data"] for event in found["events"]] == [1, 2, 2]
        assert found["roots"] == [root, found["events"][2]["id"]]
        assert (found["absent"], found["is_cut"]) == (["evt_gone"], False)


async def test_what_there_is_not_and_what_is_hidden_are_one_answer(api: Api) -> None:
    path = "/api/v1/channels/agent.alice.notes/events"
    body = {"data": 1, "correlation_id": "job"}
    made = await api.client.post(path, json=body, headers=await api.bearer("alice"))
    bob = await api.bearer("bob")
    answers = [
        check_problem(await api.client.get(f"/api/v1/traces/{name}", headers=who), 404, "not_found")
        for who in (bob, {})
        for name in ("job", made.json()["id"], "nothing")
    ]
    assert len({answer["next"] for answer in answers}) == 1
    assert all("trace of" in answer["detail"] for answer in answers)
    check_problem(await api.client.get("/api/v1/traces/job?x=1", headers=bob), 400, "bad_request")
    bad = {"Authorization": "Bearer nonsense"}
    check_problem(await api.client.get("/api/v1/traces/job", headers=bad), 401, "unauthenticated")
