"""Every route does what the API says, asked by a real client."""

from __future__ import annotations

import re
from typing import Any

import pytest

import clawnet
from clawnet.core.errors import ERRORS, ClawError
from clawnet.doors.http.app import HOT, ROUTES
from tests.doors.http.conftest import LOBBY, Api, check_problem

# --- rights -----------------------------------------------------------------


async def test_unlock_opens_a_channel_and_lock_closes_it(api: Api) -> None:
    alice, bob = await api.bearer("alice"), await api.bearer("bob")
    path = "/api/v1/channels/agent.alice.notes"
    await api.publish(1, path=f"{path}/events")
    answer = await api.client.post(f"{path}/unlock", headers=alice)
    assert answer.json() == {"channel": "agent.alice.notes", "locked": False}
    assert (await api.client.get(f"{path}/events", headers=bob)).status_code == 200
    answer = await api.client.post(f"{path}/lock", json={}, headers=alice)
    assert answer.json() == {"channel": "agent.alice.notes", "locked": True}
    check_problem(await api.client.get(f"{path}/events", headers=bob), 403, "forbidden")
    check_problem(await api.client.post(f"{path}/unlock", headers=bob), 403, "forbidden")
    wrong = await api.client.post(f"{path}/lock", json={"x": 1}, headers=alice)
    assert "`x`" in check_problem(wrong, 400, "bad_request")["detail"]


@pytest.mark.parametrize("by", ["body", "query"])
async def test_a_grant_is_given_listed_and_taken_back(api: Api, by: str) -> None:
    alice, bob = await api.bearer("alice"), await api.bearer("bob")
    path = "/api/v1/channels/agent.alice.notes/events"
    await api.publish(1, path=path)
    grant = {"account": "bob", "channel": "agent.alice.notes"}
    answer = await api.client.post("/api/v1/grants", json=grant, headers=alice)
    assert answer.status_code == 201
    assert answer.json()["verbs"] == ["read"]
    assert (await api.client.get(path, headers=bob)).status_code == 200
    listed = await api.client.get("/api/v1/grants?account=bob", headers=alice)
    assert [found["channel"] for found in listed.json()["grants"]] == ["agent.alice.notes"]
    if by == "body":
        taken = await api.client.request("DELETE", "/api/v1/grants", json=grant, headers=alice)
    else:
        taken = await api.client.delete(
            "/api/v1/grants", params=grant | {"verbs": "read"}, headers=alice
        )
    assert taken.json() == {**grant, "verbs": [], "changed": True}
    check_problem(await api.client.get(path, headers=bob), 403, "forbidden")


async def test_a_revoke_that_does_not_fit_changes_nothing(api: Api) -> None:
    alice = await api.bearer("alice")
    for query in ("account=bob", "channel=x", "account=a&channel=b&verbs=fly", "verbs=read,read"):
        answer = await api.client.delete(f"/api/v1/grants?{query}", headers=alice)
        check_problem(answer, 400, "bad_request")
    check_problem(await api.client.delete("/api/v1/grants", headers=alice), 415,
                  "unsupported_media_type")  # fmt: skip
    grant = {"account": "bob", "channel": "x", "verbs": ["fly"]}
    answer = await api.client.post("/api/v1/grants", json=grant, headers=alice)
    assert "verbs" in check_problem(answer, 400, "bad_request")["detail"]


# --- accounts and tokens ----------------------------------------------------


async def test_a_master_makes_changes_and_ends_accounts(api: Api) -> None:
    root = await api.bearer("root", role="master")
    answer = await api.client.post(
        "/api/v1/accounts", json={"id": "Carol", "kind": "human"}, headers=root
    )
    assert answer.status_code == 201, answer.text
    assert (answer.json()["id"], answer.json()["name"]) == ("carol", "Carol")
    check_problem(
        await api.client.post("/api/v1/accounts", json={"id": "carol"}, headers=root),
        409,
        "conflict",
    )
    changed = await api.client.patch(
        "/api/v1/accounts/carol", json={"handle": "Queen"}, headers=root
    )
    assert changed.json()["handle"] == "Queen"
    read = await api.client.get("/api/v1/accounts/carol", headers=root)
    assert read.json() == changed.json()
    for body in ({}, {"id": "x"}, {"role": "king"}, {"handle": 5}):
        answer = await api.client.patch("/api/v1/accounts/carol", json=body, headers=root)
        check_problem(answer, 400, "bad_request")
    page = (await api.client.get("/api/v1/accounts?limit=1", headers=root)).json()
    assert [account["id"] for account in page["accounts"]] == ["carol"]
    rest = await api.client.get(f"/api/v1/accounts?after={page['next']}", headers=root)
    assert [account["id"] for account in rest.json()["accounts"]] == ["root"]
    assert (await api.client.delete("/api/v1/accounts/carol", headers=root)).status_code == 200
    check_problem(await api.client.get("/api/v1/accounts/carol", headers=root), 404, "not_found")


async def test_a_token_is_shown_once_and_can_be_ended(api: Api) -> None:
    alice = await api.bearer("alice")
    answer = await api.client.post(
        "/api/v1/tokens", json={"name": "ci", "expires_in_s": 60}, headers=alice
    )
    assert answer.status_code == 201
    made = answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert (await api.client.get("/api/v1/me", headers={"Authorization": f"Bearer {made['token']}"})
            ).status_code == 200  # fmt: skip
    listed = await api.client.get("/api/v1/tokens", headers=alice)
    assert made["id"] in listed.text
    assert made["token"] not in listed.text
    assert (await api.client.delete(f"/api/v1/tokens/{made['id']}", headers=alice)).json() == {
        "changed": True
    }
    check_problem(
        await api.client.get("/api/v1/tokens?account=root", headers=alice), 403, "forbidden"
    )


@pytest.mark.parametrize("seconds", [-1, 0, 1e300, 10**30, "soon", True])
async def test_a_token_lives_for_a_number_of_seconds(api: Api, seconds: Any) -> None:
    answer = await api.client.post(
        "/api/v1/tokens", json={"expires_in_s": seconds}, headers=await api.bearer()
    )
    check_problem(answer, 400, "bad_request")


async def test_me_is_who_the_token_says(api: Api) -> None:
    me = (await api.client.get("/api/v1/me", headers=await api.bearer("alice"))).json()
    assert me["account"]["id"] == "alice"
    assert me["scopes"] == ["*"]
    nobody = (await api.client.get("/api/v1/me")).json()
    assert nobody["account"] is None


async def test_who_is_blocked_cannot_write_into_the_inbox(api: Api) -> None:
    alice, bob = await api.bearer("alice"), await api.bearer("bob")
    inbox = "/api/v1/channels/agent.alice.inbox/events"
    assert (await api.client.post(inbox, json={"data": 1}, headers=bob)).status_code == 201
    assert (await api.client.put("/api/v1/blocks/bob", headers=alice)).status_code == 200
    check_problem(await api.client.post(inbox, json={"data": 1}, headers=bob), 403, "forbidden")
    assert (await api.client.get("/api/v1/blocks", headers=alice)).json() == {"accounts": ["bob"]}
    assert (await api.client.delete("/api/v1/blocks/bob", headers=alice)).status_code == 200
    assert (await api.client.post(inbox, json={"data": 1}, headers=bob)).status_code == 201


async def test_who_streams_is_present(api: Api) -> None:
    alice = await api.bearer("alice")
    async with api.client.stream("GET", "/sub/public.lobby", headers=alice):
        page = (await api.client.get("/api/v1/presence", headers=alice)).json()
    assert [(one["account"], one["status"]) for one in page["accounts"]] == [("alice", "online")]


# --- consumers --------------------------------------------------------------


async def test_a_consumer_is_made_fetched_acknowledged_and_ended(api: Api) -> None:
    alice = await api.bearer("alice")
    path = "/api/v1/consumers"
    await api.say({"n": 1})
    await api.say({"n": 2})
    body = {"name": "worker", "channels": ["public.lobby"], "since": "all"}
    answer = await api.client.post(path, json=body, headers=alice)
    assert answer.status_code == 201, answer.text
    assert (await api.client.get(f"{path}/worker", headers=alice)).json()["lag"] >= 2
    listed = (await api.client.get(path, headers=alice)).json()
    assert [one["name"] for one in listed["consumers"]] == ["worker"]
    fetched = (await api.client.post(f"{path}/worker/fetch", headers=alice)).json()
    assert [one["event"]["data"]["n"] for one in fetched["deliveries"]] == [1, 2]
    names = [{"seq": one["seq"], "attempt": one["attempt"]} for one in fetched["deliveries"]]
    acked = await api.client.post(
        f"{path}/worker/ack", json={"deliveries": names[:1]}, headers=alice
    )
    assert acked.json()["acked"] == 1
    nacked = await api.client.post(
        f"{path}/worker/nack", json={"deliveries": names[1:]}, headers=alice
    )
    assert nacked.status_code == 200, nacked.text
    again = await api.client.post(f"{path}/worker/fetch", json={"limit": 5}, headers=alice)
    assert [one["attempt"] for one in again.json()["deliveries"]] == [2]
    assert (await api.client.delete(f"{path}/worker", headers=alice)).status_code == 200
    check_problem(await api.client.get(f"{path}/worker", headers=alice), 404, "not_found")


async def test_a_fetch_waits_for_the_first_delivery(api: Api) -> None:
    import asyncio

    alice = await api.bearer("alice")
    body = {"name": "w", "channels": ["public.lobby"]}
    await api.client.post("/api/v1/consumers", json=body, headers=alice)
    waiting = asyncio.create_task(
        api.client.post("/api/v1/consumers/w/fetch", json={"wait_s": 30}, headers=alice, timeout=40)
    )
    for _ in range(20):
        await asyncio.sleep(0)
    await api.say("here")
    fetched = (await waiting).json()
    assert [one["event"]["data"] for one in fetched["deliveries"]] == ["here"]


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("fetch", {"limit": 0}),
        ("fetch", {"limit": 10**18}),
        ("fetch", {"limit": "all"}),
        ("fetch", {"wait_s": -1}),
        ("fetch", {"wait_s": 1e12}),
        ("fetch", {"wait": 1}),
        ("ack", {}),
        ("ack", {"deliveries": [{"seq": 1}]}),
        ("ack", {"deliveries": [{"seq": 10**40, "attempt": 1}]}),
        ("ack", {"deliveries": [{"seq": 1, "attempt": 1, "x": 1}]}),
        ("nack", {"deliveries": [], "delay_s": -1}),
        ("nack", {"deliveries": [], "delay_s": 1e300}),
    ],
)
async def test_what_does_not_fit_a_consumer_is_refused(api: Api, verb: str, body: Any) -> None:
    alice = await api.bearer("alice")
    consumer = {"name": "w", "channels": ["public.lobby"]}
    await api.client.post("/api/v1/consumers", json=consumer, headers=alice)
    answer = await api.client.post(f"/api/v1/consumers/w/{verb}", json=body, headers=alice)
    check_problem(answer, 400, "bad_request")


async def test_an_expired_delivery_cannot_be_acknowledged(api: Api) -> None:
    alice = await api.bearer("alice")
    consumer = {"name": "w", "channels": ["public.lobby"]}
    await api.client.post("/api/v1/consumers", json=consumer, headers=alice)
    body = {"deliveries": [{"seq": 1, "attempt": 1}]}
    answer = await api.client.post("/api/v1/consumers/w/ack", json=body, headers=alice)
    assert answer.status_code in (200, 409)
    if answer.status_code == 200:
        assert answer.json()["stale"] == [{"seq": 1, "attempt": 1}]


# --- the hub itself ---------------------------------------------------------


async def test_health_follows_the_hubs_state(api: Api) -> None:
    assert (await api.client.get("/healthz")).status_code == 200
    assert (await api.client.get("/readyz")).status_code == 200
    api.hub.state = "stopping"
    assert (await api.client.get("/healthz")).status_code == 200
    problem = await api.client.get("/readyz")
    check_problem(problem, 503, "unavailable")
    assert int(problem.headers["retry-after"]) >= 1
    answer = await api.client.post(LOBBY, json={"data": 1}, headers=await token_of(api))
    check_problem(answer, 503, "unavailable")
    api.hub.state = "failed"
    check_problem(await api.client.get("/healthz"), 503, "unavailable")
    api.hub.state = "ready"


async def token_of(api: Api) -> dict[str, str]:
    state, api.hub.state = api.hub.state, "ready"
    headers = await api.bearer()
    api.hub.state = state
    return headers


async def test_version_and_metrics(api: Api) -> None:
    assert (await api.client.get("/version")).json() == {
        "name": "clawnet",
        "version": clawnet.__version__,
    }
    local = await api.client.get("/metrics")
    assert local.status_code == 200
    assert re.search(r"^clawnet_published_total \d", local.text, re.M)
    away = {"X-Forwarded-For": "203.0.113.9"}
    for role, status in [("worker", 403), ("warden", 200), ("master", 200)]:
        headers = await api.bearer(role, role=role) | away
        assert (await api.client.get("/metrics", headers=headers)).status_code == status


async def test_every_route_has_a_shape_and_hot_ones_are_routes() -> None:
    assert set(HOT) <= set(ROUTES)
    for path, methods in ROUTES.items():
        assert methods or path in HOT
        assert set(methods) <= {"GET", "POST", "PUT", "PATCH", "DELETE"}


# --- what an answer carries -------------------------------------------------


async def test_a_defect_is_logged_and_told_without_details(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("the secret of the defect")

    monkeypatch.setattr(api.hub, "metrics", fail)
    answer = await api.client.get("/metrics")
    problem = check_problem(answer, 500, "internal")
    assert "secret" not in answer.text
    assert problem["request_id"] in caplog.text
    assert "the secret of the defect" in caplog.text


async def test_a_rate_limit_says_how_long_to_wait(api: Api) -> None:
    from clawnet.core.errors import DiskFull, RateLimited
    from clawnet.doors.http.problem import problem_answer

    limited = problem_answer(RateLimited("slow down", retry_after_s=0.2, limit_per_s=5.0))
    headers = dict(limited.headers)
    assert limited.status == 429
    assert headers[b"retry-after"] == b"1"
    assert headers[b"ratelimit-policy"] == b'"account";q=5;w=1'
    assert headers[b"ratelimit"] == b'"account";r=0;t=1'
    assert dict(problem_answer(DiskFull("full")).headers)[b"retry-after"] == b"30"


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
async def test_what_is_refused_for_now_says_when_to_come_back(error: type[ClawError]) -> None:
    from clawnet.doors.http.problem import problem_answer
    from clawnet.doors.problem import response_of

    given = [
        value for name, value in problem_answer(error("No.")).headers if name == b"retry-after"
    ]
    assert len(given) == (error.status in (429, 503, 507))
    assert all(int(value) >= 1 for value in given)
    assert (b"\r\nretry-after: " in response_of(error("No."))) is (error.status in (429, 503))


async def test_too_fast_a_publisher_is_told(api: Api) -> None:
    headers = await api.bearer()
    events = [{"channel": "public.a", "data": n} for n in range(1_000)]
    path = "/api/v1/events/batch"
    answers = [
        await api.client.post(path, json={"events": events}, headers=headers) for _ in range(3)
    ]
    limited = next(answer for answer in answers if answer.status_code == 429)
    problem = check_problem(limited, 429, "rate_limited")
    assert problem["retryable"] is True
    assert int(limited.headers["retry-after"]) >= 1
    assert limited.headers["ratelimit"].startswith('"account";r=0;t=')


class TestCors:
    @pytest.fixture
    def origins(self) -> tuple[str, ...]:
        return ("https://chat.example",)

    async def test_a_listed_site_may_read_and_another_may_not(self, api: Api) -> None:
        listed = await api.client.get(LOBBY, headers={"Origin": "https://chat.example"})
        assert listed.headers["access-control-allow-origin"] == "https://chat.example"
        other = await api.client.get(LOBBY, headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers

    async def test_a_listed_site_may_ask_first(self, api: Api) -> None:
        asked = {
            "Origin": "https://chat.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        answer = await api.client.options(LOBBY, headers=asked)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://chat.example"

    async def test_publishing_works_behind_it(self, api: Api) -> None:
        answer = await api.client.post(LOBBY, json={"data": 1}, headers=await api.bearer())
        assert answer.status_code == 201
        assert answer.json()["offset"] == 1
