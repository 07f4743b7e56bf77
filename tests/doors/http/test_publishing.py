"""Publishing and reading the past by HTTP."""

from __future__ import annotations

from typing import Any

import httpx

from tests.doors.http.conftest import LOBBY, Api, check_problem


async def test_a_publish_answers_where_the_event_lies(api: Api) -> None:
    headers = await api.bearer()
    body = {"data": {"text": "hi"}, "type": "x.greeting", "correlation_id": "c1"}
    answer = await api.client.post(LOBBY, json=body, headers=headers)
    assert answer.status_code == 201
    made = answer.json()
    assert set(made) == {"id", "seq", "offset", "epoch", "deduped"}
    assert (made["offset"], made["deduped"]) == (1, False)
    event = (await api.client.get(f"/api/v1/events/{made['id']}", headers=headers)).json()
    assert event["data"] == {"text": "hi"}
    assert event["type"] == "x.greeting"
    assert event["actor"] == {"id": "alice", "handle": "alice"}
    assert event["correlation_id"] == "c1"
    assert {name: event[name] for name in ("id", "seq", "offset", "epoch")} == {
        name: made[name] for name in ("id", "seq", "offset", "epoch")
    }


async def test_data_passes_through_as_it_was_sent(api: Api) -> None:
    headers = await api.bearer() | {"Content-Type": "application/json"}
    raw = '{"n":1.0,"big":12345678901234567890,"text":"\\u00e9\\n é", "twice":1,"twice":2}'
    answer = await api.client.post(LOBBY, content='{"data":' + raw + "}", headers=headers)
    assert answer.status_code == 201
    assert f'"data":{raw}}}' in (await api.client.get(LOBBY)).text


async def test_a_body_in_many_pieces_is_one_publish(api: Api) -> None:
    async def pieces() -> Any:
        for piece in (b'{"da', b'ta":"', b"x" * 30_000, b"y" * 30_000, b'"}'):
            yield piece

    headers = await api.bearer() | {"Content-Type": "application/json"}
    answer = await api.client.post(LOBBY, content=pieces(), headers=headers)
    assert answer.status_code == 201
    event = (await api.client.get(LOBBY)).json()["events"][0]
    assert event["data"] == "x" * 30_000 + "y" * 30_000


async def test_requests_sent_at_once_are_answered_in_order(api: Api) -> None:
    token = await api.running.token()
    wire = await api.raw()
    requests = b""
    for n in range(20):
        body = b'{"data":%d}' % n
        requests += (
            f"POST {LOBBY} HTTP/1.1\r\nHost: 127.0.0.1:{api.running.port}\r\n"
            f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body
    await wire.send(requests)
    for offset in range(1, 21):
        assert await wire.status() == 201
        assert b'"offset":%d,' % offset in await wire.until(b"}")
    await wire.close()


async def test_an_answer_says_whether_the_connection_stays(api: Api) -> None:
    token = await api.running.token()
    for version, extra, ends in [
        ("1.1", "", False),
        ("1.1", "Connection: close\r\n", True),
        ("1.0", "", True),
    ]:
        wire = await api.raw()
        await wire.send(
            f"POST {LOBBY} HTTP/{version}\r\nHost: 127.0.0.1:{api.running.port}\r\n{extra}"
            f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
            'Content-Length: 10\r\n\r\n{"data":1}'
        )
        head = await wire.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 201")
        assert head.count(b"content-length") == 1
        assert (b"connection: close" in head.lower()) is ends
        await wire.until(b"}")
        if ends:
            assert await wire.rest() == b""
        await wire.close()


async def test_a_batch_is_one_unit(api: Api) -> None:
    headers = await api.bearer()
    events = [{"channel": "public.a", "data": n, "dedupe_key": f"k{n}"} for n in range(3)]
    answer = await api.client.post("/api/v1/events/batch", json={"events": events}, headers=headers)
    assert answer.status_code == 201
    assert [event["offset"] for event in answer.json()["events"]] == [1, 2, 3]
    again = await api.client.post("/api/v1/events/batch", json={"events": events}, headers=headers)
    assert again.status_code == 200
    assert all(event["deduped"] for event in again.json()["events"])


async def test_a_batch_with_one_bad_event_stores_nothing(api: Api) -> None:
    headers = await api.bearer()
    good = {"channel": "public.a", "data": 1}
    path = "/api/v1/events/batch"

    async def send(*events: Any, **more: Any) -> httpx.Response:
        return await api.client.post(path, json={"events": events, **more}, headers=headers)

    problem = check_problem(await send(good, {"channel": "system.x", "data": 1}), 403, "forbidden")
    assert problem["index"] == 1
    problem = check_problem(await send(good, good | {"dta": 1}), 400, "bad_request")
    assert "dta" in problem["detail"]
    check_problem(await send(), 400, "bad_request")
    check_problem(await send(good, all=True), 400, "bad_request")
    check_problem(await send(*[good] * 1_001), 413, "payload_too_large")
    keyed = headers | {"Idempotency-Key": "k"}
    answer = await api.client.post(path, json={"events": [good]}, headers=keyed)
    check_problem(answer, 400, "bad_request")
    assert (await api.client.get("/api/v1/channels/public.a/events")).json()["events"] == []


async def test_history_goes_page_by_page_both_ways(api: Api) -> None:
    for n in range(1, 8):
        await api.say(n)
    first = (await api.client.get(f"{LOBBY}?limit=3")).json()
    assert [event["data"] for event in first["events"]] == [1, 2, 3]
    second = (await api.client.get(f"{LOBBY}?limit=3&since={first['next']}")).json()
    assert [event["data"] for event in second["events"]] == [4, 5, 6]
    assert second["epoch"] == first["epoch"]
    newest = (await api.client.get(f"{LOBBY}?reverse&limit=4")).json()
    assert [event["data"] for event in newest["events"]] == [7, 6, 5, 4]
    older = (await api.client.get(f"{LOBBY}?reverse=true&before={newest['next']}")).json()
    assert [event["data"] for event in older["events"]] == [3, 2, 1]
    assert older["next"] is None
    empty = (await api.client.get(f"{LOBBY}?since=7")).json()
    assert (empty["events"], empty["next"]) == ([], 7)
    assert (await api.client.get(f"{LOBBY}?since=10m&limit=1000")).json()["next"] == 7


async def test_a_page_of_history_names_what_is_gone(api: Api) -> None:
    for n in range(5):
        await api.say(n)
    trim = api.hub.storage.engine.trim_channel
    await api.hub.committer.run(lambda: trim("main", "public.lobby", keep=2))
    page = (await api.client.get(f"{LOBBY}?since=1")).json()
    assert page["gap"]["first"] == 2
    assert page["gap"]["last"] == 3
    assert page["gap"]["oldest"] == 4
    assert [event["offset"] for event in page["events"]] == [4, 5]


async def test_an_alias_is_answered_under_the_name_that_was_asked(api: Api) -> None:
    await api.say("hi")
    page = (await api.client.get("/api/v1/channels/global/events")).json()
    assert page["events"][0]["channel"] == "global"


async def test_head_has_the_head_of_get_and_nothing_else(api: Api) -> None:
    await api.say("hi")
    whole = await api.client.get(LOBBY)
    head = await api.client.head(LOBBY)
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["content-length"] == whole.headers["content-length"]
    stream = await api.client.head("/api/v1/events/stream?channels=public.lobby")
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert (await api.client.head("/sub/public.lobby")).status_code == 200
    assert not api.hub.sessions


async def test_channels_are_listed_page_by_page(api: Api) -> None:
    for name in ("public.a", "public.b", "public.c", "agent.alice.x"):
        await api.say(1, channel=name)
    headers = await api.bearer("bob")
    page = (
        await api.client.get("/api/v1/channels?limit=2&pattern=public.*", headers=headers)
    ).json()
    assert [channel["name"] for channel in page["channels"]] == ["public.a", "public.b"]
    rest = (
        await api.client.get(
            f"/api/v1/channels?after={page['next']}&pattern=public.*", headers=headers
        )
    ).json()
    assert [channel["name"] for channel in rest["channels"]] == ["public.c"]
    assert rest["next"] is None
    everything = (await api.client.get("/api/v1/channels", headers=headers)).text
    assert "agent.alice.x" not in everything
