"""Clients that leave, stall or wait, and a hub that stops meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from tests.doors.http.conftest import LOBBY, Api, check_problem, settled


def head(api: Api, token: str, *, length: int, path: str = LOBBY) -> str:
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{api.running.port}\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    )


def tasks(api: Api) -> int:
    """Requests that are being answered."""
    return len(api.running.server.server_state.tasks)


@pytest.mark.parametrize(
    "path", [LOBBY, "/pub/public.lobby", "/api/v1/events/batch", "/api/v1/consumers"]
)
async def test_a_client_that_leaves_in_mid_body_publishes_nothing(
    api: Api, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    token = await api.running.token()
    for sent in ("", '{"data":1}', '{"data":1} '):
        wire = await api.raw()
        await wire.send(head(api, token, length=1_000, path=path) + sent)
        await settled(lambda: tasks(api) == 1)
        await wire.close()
        await settled(lambda: tasks(api) == 0)
    assert (await api.client.get(LOBBY)).json()["events"] == []
    assert caplog.records == []


async def test_a_client_that_leaves_before_the_answer_has_published(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    token = await api.running.token()
    wire = await api.raw()
    await wire.send(head(api, token, length=10) + '{"data":1}')
    wire.writer.transport.abort()
    await settled(lambda: api.hub.fanout.position > 3 or tasks(api) == 0)
    assert (await api.client.get(LOBBY)).status_code == 200
    assert caplog.records == []


async def test_a_long_poll_is_answered_by_the_publish_it_waits_for(api: Api) -> None:
    await api.say(1)
    waiting = asyncio.create_task(api.client.get(f"{LOBBY}?since=1&wait=30", timeout=40))
    await settled(lambda: tasks(api) == 1)
    assert not waiting.done()
    await api.say(2)
    page = (await waiting).json()
    assert [event["data"] for event in page["events"]] == [2]
    assert page["next"] == 2


async def test_a_long_poll_with_something_to_give_does_not_wait(api: Api) -> None:
    await api.say(1)
    page = (await api.client.get(f"{LOBBY}?wait=60")).json()
    assert page["next"] == 1


async def test_a_long_poll_ends_with_its_time(api: Api) -> None:
    page = (await api.client.get(f"{LOBBY}?wait=0.01")).json()
    assert page["events"] == []


async def test_a_long_poll_ends_with_its_client(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    wire = await api.raw()
    await wire.send(f"GET {LOBBY}?wait=60 HTTP/1.1\r\nHost: 127.0.0.1:{api.running.port}\r\n\r\n")
    routes = api.hub.fanout.world("main").routes
    await settled(lambda: "public.lobby" in routes)
    await wire.close()
    # What the hub held for the wait is given back, too.
    await settled(lambda: "public.lobby" not in routes and tasks(api) == 0)
    assert caplog.records == []


@pytest.mark.parametrize("kind", ["history", "fetch"])
async def test_a_long_poll_is_answered_when_the_hub_stops(api: Api, kind: str) -> None:
    headers = await api.bearer()
    if kind == "history":
        asked = api.client.get(f"{LOBBY}?wait=60", timeout=90)
    else:
        consumer = {"name": "w", "channels": ["public.lobby"]}
        await api.client.post("/api/v1/consumers", json=consumer, headers=headers)
        asked = api.client.post(
            "/api/v1/consumers/w/fetch", json={"wait_s": 60}, headers=headers, timeout=90
        )
    waiting = asyncio.create_task(asked)
    await settled(lambda: tasks(api) == 1)
    api.door.stop()
    answer = await waiting
    check_problem(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "1"
    # From now on nothing begins to wait either.
    again = await api.client.get(f"{LOBBY}?wait=60", timeout=90)
    assert again.status_code in (200, 503)


async def test_a_server_that_stops_leaves_no_request_behind(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = asyncio.create_task(api.client.get(f"{LOBBY}?wait=60", timeout=90))
    await settled(lambda: tasks(api) == 1)
    api.door.stop()
    await api.running.stop()
    assert (await waiting).status_code == 503
    assert tasks(api) == 0
    assert caplog.records == []


async def test_a_publish_in_flight_is_answered_when_the_server_stops(api: Api) -> None:
    headers = await api.bearer()
    publishes = [
        asyncio.create_task(api.client.post(LOBBY, json={"data": n}, headers=headers))
        for n in range(8)
    ]
    await settled(lambda: tasks(api) > 0)
    await api.running.stop()
    outcomes = await asyncio.gather(*publishes, return_exceptions=True)
    answered = [one for one in outcomes if not isinstance(one, BaseException)]
    assert answered
    assert {one.status_code for one in answered} <= {201, 503}


async def test_a_stalled_body_keeps_nobody_else_waiting(api: Api) -> None:
    token = await api.running.token()
    stalled = await api.raw()
    await stalled.send(head(api, token, length=1_000) + '{"data":')
    await settled(lambda: tasks(api) == 1)
    assert (await api.publish("through"))["offset"] == 1
    await stalled.close()


async def test_storage_that_fails_is_an_unknown_outcome(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = await api.bearer()

    def fail(_: object) -> None:
        raise OSError("no such disk")

    monkeypatch.setattr(api.hub.storage.engine, "commit", fail)
    answer = await api.client.post(LOBBY, json={"data": 1}, headers=headers)
    problem = check_problem(answer, 503, "outcome_unknown")
    assert problem["retryable"] is True
    assert int(answer.headers["retry-after"]) >= 1
    assert (await api.client.get("/healthz")).status_code == 503
