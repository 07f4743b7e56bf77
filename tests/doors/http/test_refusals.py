"""Who is refused, and what: every answer is a problem that says what to do."""

from __future__ import annotations

import json

import pytest

from clawnet.testing.clocks import FakeClock
from clawnet.testing.running import running_hub
from tests.doors.http.conftest import LOBBY, STREAM, Api, check_problem

SECRET_ROUTES = [
    ("POST", LOBBY),
    ("POST", "/api/v1/events/batch"),
    ("POST", "/pub/public.lobby"),
    ("GET", "/api/v1/channels"),
    ("POST", "/api/v1/channels/x/lock"),
    ("POST", "/api/v1/channels/x/unlock"),
    ("GET", "/api/v1/consumers"),
    ("POST", "/api/v1/consumers"),
    ("GET", "/api/v1/consumers/c"),
    ("DELETE", "/api/v1/consumers/c"),
    ("POST", "/api/v1/consumers/c/fetch"),
    ("POST", "/api/v1/consumers/c/ack"),
    ("POST", "/api/v1/consumers/c/nack"),
    ("GET", "/api/v1/accounts"),
    ("POST", "/api/v1/accounts"),
    ("GET", "/api/v1/accounts/a"),
    ("PATCH", "/api/v1/accounts/a"),
    ("DELETE", "/api/v1/accounts/a"),
    ("GET", "/api/v1/tokens"),
    ("POST", "/api/v1/tokens"),
    ("DELETE", "/api/v1/tokens/t"),
    ("GET", "/api/v1/grants"),
    ("POST", "/api/v1/grants"),
    ("DELETE", "/api/v1/grants"),
    ("GET", "/api/v1/presence"),
    ("GET", "/api/v1/blocks"),
    ("PUT", "/api/v1/blocks/a"),
    ("DELETE", "/api/v1/blocks/a"),
]
READ_ROUTES = [
    LOBBY,
    "/api/v1/events/evt_1",
    f"{STREAM}?channels=public.lobby",
    "/sub/public.lobby",
    "/api/v1/me",
]


@pytest.mark.parametrize(("method", "path"), SECRET_ROUTES)
async def test_nothing_but_reading_goes_without_a_token(api: Api, method: str, path: str) -> None:
    answer = await api.client.request(method, path)
    check_problem(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path"), [*SECRET_ROUTES, *(("GET", p) for p in READ_ROUTES)])
async def test_a_wrong_token_opens_nothing_and_makes_nobody_anonymous(
    api: Api, method: str, path: str
) -> None:
    headers = {"Authorization": "Bearer claw_wrong"}
    answer = await api.client.request(method, path, headers=headers)
    check_problem(answer, 401, "unauthenticated")


@pytest.mark.parametrize("given", ["Bearer", "Basic YTpi", "claw_x", "Bearer  ", "Bearer \xe9"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_authorization_that_is_no_token_is_refused(
    api: Api, method: str, given: str
) -> None:
    wire = await api.raw()
    await wire.send(
        f"{method} {LOBBY} HTTP/1.1\r\nHost: 127.0.0.1:{api.running.port}\r\n"
        f"Authorization: {given}\r\nConnection: close\r\n\r\n".encode("latin-1")
    )
    assert await wire.status() == 401
    assert b'"unauthenticated"' in await wire.rest()
    await wire.close()


async def test_a_revoked_token_is_refused_although_it_was_remembered(api: Api) -> None:
    made = await api.running.new_token("alice")
    headers = {"Authorization": f"Bearer {made.token}"}
    assert (await api.client.post(LOBBY, json={"data": 1}, headers=headers)).status_code == 201
    revoked = await api.client.delete(f"/api/v1/tokens/{made.id}", headers=headers)
    assert revoked.status_code == 200, revoked.text
    check_problem(
        await api.client.post(LOBBY, json={"data": 1}, headers=headers), 401, "unauthenticated"
    )


async def test_what_is_revoked_while_its_body_is_on_the_way_is_not_stored(api: Api) -> None:
    made = await api.running.new_token("bob")
    body = b'{"data":"too late"}'
    wire = await api.raw()
    head = (
        f"POST {LOBBY} HTTP/1.1\r\nHost: 127.0.0.1:{api.running.port}\r\n"
        f"Authorization: Bearer {made.token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    )
    await wire.send(head)
    assert await wire.status() == 100  # it was authenticated, and its body is awaited
    owner = {"Authorization": f"Bearer {made.token}"}
    answer = await api.client.delete(f"/api/v1/tokens/{made.id}", headers=owner)
    assert answer.status_code == 200
    await wire.send(body)
    assert await wire.status() == 401
    await wire.close()
    assert (await api.client.get(LOBBY)).json()["events"] == []


async def test_an_expired_token_is_refused() -> None:
    import httpx

    from clawnet.doors.http.app import build_app

    clock = FakeClock()
    async with (
        running_hub(make_app=build_app, clock=clock) as running,
        httpx.AsyncClient(base_url=running.url, trust_env=False) as client,
    ):
        token = await running.token("alice", expires_in_s=60)
        headers = {"Authorization": f"Bearer {token}"}
        answer = await client.post(LOBBY, json={"data": 1}, headers=headers)
        assert answer.status_code == 201
        clock.advance(61)
        for method, path in [("POST", LOBBY), ("GET", LOBBY), ("GET", "/api/v1/me")]:
            answer = await client.request(method, path, json={"data": 1}, headers=headers)
            check_problem(answer, 401, "unauthenticated")


async def test_a_token_in_the_url_is_refused_and_never_used(api: Api) -> None:
    token = await api.running.token("alice")
    for path in (LOBBY, STREAM, "/sub/public.lobby"):
        problem = check_problem(await api.client.get(f"{path}?token={token}"), 400, "bad_request")
        assert token not in json.dumps(problem)


async def test_only_an_owner_publishes_on_and_reads_its_channel(api: Api) -> None:
    bob = await api.bearer("bob")
    await api.bearer("alice")
    path = "/api/v1/channels/agent.alice.notes/events"
    check_problem(await api.client.post(path, json={"data": 1}, headers=bob), 403, "forbidden")
    check_problem(await api.client.get(path, headers=bob), 403, "forbidden")
    check_problem(await api.client.get("/sub/agent.alice.notes", headers=bob), 403, "forbidden")
    stream = f"{STREAM}?channels=public.lobby,agent.alice.notes"
    check_problem(await api.client.get(stream, headers=bob), 403, "forbidden")
    shell = await api.client.post("/pub/agent.alice.notes", content=b"x", headers=bob)
    check_problem(shell, 403, "forbidden")


async def test_an_event_of_a_private_channel_is_not_found_by_its_id(api: Api) -> None:
    made = await api.publish("secret", path="/api/v1/channels/agent.alice.notes/events")
    path = f"/api/v1/events/{made['id']}"
    assert (await api.client.get(path, headers=await api.bearer("alice"))).status_code == 200
    check_problem(await api.client.get(path, headers=await api.bearer("bob")), 404, "not_found")
    check_problem(await api.client.get(path), 404, "not_found")


async def test_scopes_narrow_a_token(api: Api) -> None:
    reader = await api.bearer("alice", scopes=["events:read"])
    writer = await api.bearer("alice", scopes=["events:write"])
    check_problem(await api.client.post(LOBBY, json={"data": 1}, headers=reader), 403, "forbidden")
    check_problem(await api.client.get(LOBBY, headers=writer), 403, "forbidden")
    token = await api.client.post("/api/v1/tokens", json={}, headers=reader)
    check_problem(token, 403, "forbidden")


async def test_a_worker_makes_no_accounts(api: Api) -> None:
    answer = await api.client.post(
        "/api/v1/accounts", json={"id": "eve", "role": "master"}, headers=await api.bearer("alice")
    )
    check_problem(answer, 403, "forbidden")


async def test_without_a_token_only_public_channels_are_read(api: Api) -> None:
    assert (await api.client.get(LOBBY)).status_code == 200
    for channel in ("agent.alice.notes", "room.secret", "system.audit"):
        answer = await api.client.get(f"/api/v1/channels/{channel}/events")
        check_problem(answer, 401, "unauthenticated")
    pattern = await api.client.get(f"{STREAM}?channels=public.>")
    assert pattern.status_code in (401, 403)


async def test_what_comes_through_a_proxy_is_not_local(api: Api) -> None:
    answer = await api.client.get(LOBBY, headers={"X-Forwarded-For": "203.0.113.9"})
    check_problem(answer, 401, "unauthenticated")
    metrics = await api.client.get("/metrics", headers={"X-Forwarded-For": "203.0.113.9"})
    check_problem(metrics, 401, "unauthenticated")


BODIES = [
    (b'{"data":1,"dta":2}', "dta"),
    (b'{"type":"x.y"}', "data"),
    (b'{"data":1,"type":5}', "type"),
    (b'{"data":1,"dedupe_key":[]}', "dedupe_key"),
    (b"[]", "array"),
    (b'{"data":1', "not JSON"),
    (b'{"data":1} x', "not JSON"),
    (b"", "empty"),
    (b'{"data":1,"\xff":2}', "UTF-8"),
    (b'{"data":1,"channel":"public.other"}', "channel"),
    (b'{"data":1,"actor":"bob"}', "actor"),
    (b'{"data":1,"' + b"a" * 5_000 + b'":2}', "unknown field"),
]


@pytest.mark.parametrize(("body", "named"), BODIES)
async def test_a_body_that_does_not_fit_is_named(api: Api, body: bytes, named: str) -> None:
    headers = await api.bearer() | {"Content-Type": "application/json"}
    problem = check_problem(
        await api.client.post(LOBBY, content=body, headers=headers), 400, "bad_request"
    )
    assert named in problem["detail"]
    assert len(problem["detail"]) < 500
    assert (await api.client.get(LOBBY)).json()["events"] == []


DATA = [
    b'"\xff"',
    b'"a\nb"',
    b"1e999",
    b"NaN",
    b"9" * 400,
    b"[" * 65 + b"]" * 65,
    b'{"a":' * 65 + b"1" + b"}" * 65,
    b'"\\ud800"',
]


@pytest.mark.parametrize("data", DATA)
async def test_data_that_is_no_good_json_is_refused(api: Api, data: bytes) -> None:
    headers = await api.bearer() | {"Content-Type": "application/json"}
    answer = await api.client.post(LOBBY, content=b'{"data":' + data + b"}", headers=headers)
    assert answer.status_code == 400
    assert answer.json()["code"] in ("bad_request", "invalid_data")


async def test_json_nested_a_hundred_thousand_deep_is_refused(api: Api) -> None:
    deep = b"[" * 30_000 + b"]" * 30_000
    headers = await api.bearer() | {"Content-Type": "application/json"}
    for body in (b'{"data":' + deep + b"}", deep, b'{"x":' + deep + b"}"):
        answer = await api.client.post(LOBBY, content=body, headers=headers)
        assert answer.status_code == 400, answer.text
    answer = await api.client.post("/pub/public.lobby", content=deep, headers=headers)
    assert answer.status_code == 400
    answer = await api.client.post("/api/v1/consumers", content=deep, headers=headers)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "kind",
    [None, "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"],
)
async def test_another_media_type_is_refused(api: Api, kind: str | None) -> None:
    headers = await api.bearer() | ({} if kind is None else {"Content-Type": kind})
    for path in (LOBBY, "/api/v1/events/batch", "/api/v1/consumers", "/api/v1/grants"):
        answer = await api.client.post(path, content=b'{"data":1}', headers=headers)
        check_problem(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON"])
async def test_json_may_say_that_it_is_utf_8(api: Api, kind: str) -> None:
    headers = await api.bearer() | {"Content-Type": kind}
    answer = await api.client.post(LOBBY, content=b'{"data":1}', headers=headers)
    assert answer.status_code == 201


async def test_too_large_a_body_is_refused(api: Api) -> None:
    headers = await api.bearer() | {"Content-Type": "application/json"}
    data = b'{"data":"' + b"x" * 65_534 + b'"}'
    assert (await api.client.post(LOBBY, content=data, headers=headers)).status_code == 201
    data = b'{"data":"' + b"x" * 65_535 + b'"}'
    answer = await api.client.post(LOBBY, content=data, headers=headers)
    check_problem(answer, 413, "payload_too_large")
    for size in (80_000, 3_000_000):
        answer = await api.client.post(LOBBY, content=b" " * size, headers=headers)
        check_problem(answer, 413, "payload_too_large")
        answer = await api.client.post("/pub/public.lobby", content=b"x" * size, headers=headers)
        check_problem(answer, 413, "payload_too_large")
        answer = await api.client.post("/api/v1/grants", content=b" " * size, headers=headers)
        check_problem(answer, 413, "payload_too_large")
    answer = await api.client.post(
        "/api/v1/events/batch", content=b" " * 1_048_577, headers=headers
    )
    check_problem(answer, 413, "payload_too_large")


async def test_who_sends_too_much_hears_why_after_all_of_it(api: Api) -> None:
    """Without reading on, the connection would be reset, and the reset overtake the answer."""
    token = await api.running.token()
    wire = await api.raw(limit=4_096)
    await wire.send(
        f"POST {LOBBY} HTTP/1.1\r\nHost: 127.0.0.1:{api.running.port}\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        "Content-Length: 3000000\r\n\r\n"
    )
    for _ in range(30):
        await wire.send(b" " * 100_000)
    assert await wire.status() == 413
    assert b"payload_too_large" in await wire.rest()


async def test_a_body_without_a_length_is_bounded_while_it_is_read(api: Api) -> None:
    token = await api.running.token()
    wire = await api.raw()
    await wire.send(
        f"POST {LOBBY} HTTP/1.1\r\nHost: 127.0.0.1:{api.running.port}\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    )
    for _ in range(2):
        await wire.send(b"10000\r\n" + b" " * 65_536 + b"\r\n")
    await wire.send(b"0\r\n\r\n")
    assert await wire.status() == 413
    await wire.close()


async def test_a_length_that_is_too_large_is_refused_before_the_body_is_asked_for(api: Api) -> None:
    token = await api.running.token()
    wire = await api.raw()
    await wire.send(
        f"POST {LOBBY} HTTP/1.1\r\nHost: 127.0.0.1:{api.running.port}\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        "Content-Length: 9999999999\r\nExpect: 100-continue\r\n\r\n"
    )
    assert await wire.status() == 413
    assert b"payload_too_large" in await wire.rest()
    await wire.close()


async def test_a_dedupe_key_with_other_content_is_a_conflict(api: Api) -> None:
    headers = await api.bearer() | {"Idempotency-Key": "one"}
    first = await api.client.post(LOBBY, json={"data": 1}, headers=headers)
    assert (first.status_code, first.json()["deduped"]) == (201, False)
    again = await api.client.post(LOBBY, json={"data": 1}, headers=headers)
    assert (again.status_code, again.json()) == (200, first.json() | {"deduped": True})
    other = await api.client.post(LOBBY, json={"data": 2}, headers=headers)
    check_problem(other, 409, "dedupe_conflict")
    both = await api.client.post(LOBBY, json={"data": 1, "dedupe_key": "two"}, headers=headers)
    assert "Idempotency-Key" in check_problem(both, 400, "bad_request")["detail"]
    same = await api.client.post(LOBBY, json={"data": 1, "dedupe_key": "one"}, headers=headers)
    assert same.status_code == 200
    assert len((await api.client.get(LOBBY)).json()["events"]) == 1


@pytest.mark.parametrize("type_", ["system.started", "chat.mesage", "X.y", "x.", ""])
async def test_an_unknown_type_is_refused(api: Api, type_: str) -> None:
    answer = await api.client.post(
        LOBBY, json={"data": 1, "type": type_}, headers=await api.bearer()
    )
    check_problem(answer, 400, "invalid_type")


@pytest.mark.parametrize(
    "name", ["%00", "a%00b", "%zz", "%", "a%2", "%ff", "%0a", "public.%0d%0aX-Forged:%201", "%7f"]
)
@pytest.mark.parametrize("route", ["/api/v1/channels/{}/events", "/pub/{}", "/sub/{}"])
async def test_a_path_that_is_no_text_is_refused(api: Api, route: str, name: str) -> None:
    wire = await api.raw()
    token = await api.running.token()
    for method in ("GET", "POST"):
        await wire.send(
            f"{method} {route.format(name)} HTTP/1.1\r\nHost: 127.0.0.1:{api.running.port}\r\n"
            f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
            'Content-Length: 10\r\n\r\n{"data":1}'
        )
        head = await wire.until(b"\r\n\r\n")
        status = int(head.split()[1])
        length = int(head.lower().split(b"content-length: ")[1].split()[0])
        await wire.reader.readexactly(length)
        assert status in (400, 405)
        assert b"x-forged" not in head.lower()
    await wire.close()


@pytest.mark.parametrize(
    "channel", ["public", "public..x", "PUBLIC%20x", "agent.x", "dm.b.a", "room.a.b", "a" * 256]
)
async def test_a_name_that_is_no_channel_is_refused(api: Api, channel: str) -> None:
    path = f"/api/v1/channels/{channel}/events"
    headers = await api.bearer()
    check_problem(await api.client.get(path, headers=headers), 400, "invalid_channel")
    answer = await api.client.post(path, json={"data": 1}, headers=headers)
    check_problem(answer, 400, "invalid_channel")


async def test_a_slash_in_a_name_divides_nothing(api: Api) -> None:
    """The path is matched as it was sent: this is a free name, and none is declared."""
    path = "/api/v1/channels/a%2Fb/events"
    headers = await api.bearer()
    check_problem(await api.client.get(path, headers=headers), 403, "forbidden")
    answer = await api.client.post(path, json={"data": 1}, headers=headers)
    check_problem(answer, 403, "forbidden")


QUERIES = [
    "limit=-1",
    "limit=0",
    "limit=1001",
    "limit=99999999999999999999",
    "limit=1e3",
    "limit=٣",
    "limit=",
    "limit=1&limit=2",
    "limt=1",
    "since=yesterday",
    "since=-5",
    "since=%00",
    "since=%ff",
    "since=%zz",
    "wait=-1",
    "wait=61",
    "wait=nan",
    "wait=1e9",
    "wait=inf",
    "reverse=perhaps",
    "before=x",
    "&".join(f"x{n}=1" for n in range(40)),
]


@pytest.mark.parametrize("query", QUERIES)
async def test_a_query_that_does_not_fit_is_refused(api: Api, query: str) -> None:
    answer = await api.client.get(f"{LOBBY}?{query}", headers=await api.bearer())
    check_problem(answer, 400, "bad_request")


async def test_a_publish_takes_no_parameters(api: Api) -> None:
    answer = await api.client.post(
        f"{LOBBY}?type=x.y", json={"data": 1}, headers=await api.bearer()
    )
    assert check_problem(answer, 400, "bad_request")["parameter"] == "type"


async def test_a_header_that_may_come_once_is_refused_twice(api: Api) -> None:
    token = await api.running.token()
    pairs = [
        ("Authorization", f"Bearer {token}"),
        ("Idempotency-Key", "a"),
        ("Idempotency-Key", "b"),
    ]
    answer = await api.client.post(LOBBY, json={"data": 1}, headers=pairs)
    check_problem(answer, 400, "bad_request")


@pytest.mark.parametrize(
    "path", ["/index.html", "/api", "/api/v1", "/api/v1/nothing", "/pub/", "/sub/a/b", LOBBY + "/"]
)
async def test_an_unknown_path_is_a_problem(api: Api, path: str) -> None:
    for method in ("GET", "POST", "OPTIONS", "HEAD"):
        answer = await api.client.request(method, path)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_method_that_a_path_does_not_have_is_told_which_it_has(api: Api) -> None:
    answer = await api.client.put(LOBBY, json={})
    check_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS, POST"
    answer = await api.client.get("/pub/public.lobby")
    check_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "OPTIONS, POST"
    answer = await api.client.get("/api/v1/events/batch")
    check_problem(answer, 405, "method_not_allowed")


async def test_options_says_what_there_is_and_cors_is_off(api: Api) -> None:
    origin = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = await api.client.options(LOBBY, headers=origin)
    assert answer.status_code == 204
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS, POST"
    assert not [name for name in answer.headers if name.startswith("access-control")]
    answer = await api.client.get(LOBBY, headers={"Origin": "https://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_body_is_not_decoded_that_is_laden_with_numbers_beside_its_data(api: Api) -> None:
    """Each takes the decoder 9 µs, and a batch has room for 45,000 of them."""
    again = ",".join(['"reply_within_s":1e308'] * 400)
    body = f'{{"data":1,"expect":{{{again}}}}}'
    headers = {**await api.bearer("alice"), "Content-Type": "application/json"}
    problem = check_problem(
        await api.client.post(LOBBY, content=body, headers=headers), 400, "bad_request"
    )
    assert "huge numbers" in json.dumps(problem)
