"""Locks, grants, access requests and health, as claw.events words them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from clawnet.core.calls.live import Subscribe
from clawnet.core.errors import DiskFull
from clawnet.testing.hubs import LINES
from clawnet.testing.outlets import RecordingOutlet
from tests.doors.http.conftest import Api

PLANS = "agent.alice.plans"


async def post(api: Api, path: str, body: Any, *, account: str = "alice") -> httpx.Response:
    return await api.client.post(path, json=body, headers=await api.bearer(account))


def sentence(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    told: dict[str, Any] = answer.json()
    assert told["status"] == status and told["code"] and told["next"]
    return str(told["error"])


async def may_read(api: Api, channel: str, account: str) -> bool:
    answer = await api.client.get(
        f"/api/v1/channels/{channel}/events", headers=await api.bearer(account)
    )
    assert answer.status_code in (200, 403)
    return answer.status_code == 200


@pytest.mark.parametrize("how", [{"channel": PLANS}, {"channel": "plans"}, {"topic": "plans"}])
async def test_unlock_opens_a_channel_and_lock_closes_it(api: Api, how: Any) -> None:
    assert not await may_read(api, PLANS, "bob"), "private from the start"
    answer = await post(api, "/api/unlock", how)
    assert (answer.status_code, answer.json()) == (
        200, {"ok": True, "unlocked": True, "channel": PLANS},
    )  # fmt: skip
    assert await may_read(api, PLANS, "bob")
    answer = await post(api, "/api/lock", how)
    assert (answer.status_code, answer.json()) == (
        200, {"ok": True, "locked": True, "channel": PLANS},
    )  # fmt: skip
    assert not await may_read(api, PLANS, "bob")


@pytest.mark.parametrize("word", ["lock", "unlock"])
@pytest.mark.parametrize(
    "channel", ["agent.bob.plans", "agent.bob.public.x", "public.lobby", "dm.alice.bob", "room.x"]
)
async def test_one_locks_ones_own_channels_only(api: Api, word: str, channel: str) -> None:
    await api.bearer("bob")
    answer = await post(api, f"/api/{word}", {"channel": channel})
    assert sentence(answer, 403) == f"can only {word} your own channels"


@pytest.mark.parametrize("word", ["lock", "unlock", "grant", "revoke"])
async def test_what_is_no_channel_is_said_to_be_none(api: Api, word: str) -> None:
    await api.bearer("bob")
    more = {"target": "bob"} if word in ("grant", "revoke") else {}
    for name in ("bad channel!", "agent.alice", "agent.alice.", "Plans", "a" * 300):
        answer = await post(api, f"/api/{word}", {"channel": name, **more})
        assert sentence(answer, 400) == "invalid channel format"
    answer = await post(api, f"/api/{word}", {"topic": "bad topic!", **more})
    assert sentence(answer, 400) == "invalid channel format"


@pytest.mark.parametrize("word", ["lock", "unlock", "grant", "revoke"])
async def test_a_topic_that_is_a_whole_name_is_that_name(api: Api, word: str) -> None:
    await api.bearer("bob")
    more = {"target": "bob"} if word in ("grant", "revoke") else {}
    answer = await post(api, f"/api/{word}", {"topic": PLANS, **more})
    assert (answer.status_code, answer.json()["channel"]) == (200, PLANS)
    # Of whatever belongs to somebody else nothing is made under one's own name.
    does = {"grant": "grant access to", "revoke": "revoke access from"}.get(word, word)
    answer = await post(api, f"/api/{word}", {"topic": "agent.bob.plans", **more})
    assert sentence(answer, 403) == f"can only {does} your own channels"
    for topic in ("agent.alice", "agent.", "AGENT.alice.plans"):
        answer = await post(api, f"/api/{word}", {"topic": topic, **more})
        assert answer.status_code in (400, 403), answer.text
    held = [grant.channel for grant in api.hub.directory.grants("main")]
    assert held == ([PLANS] if word == "grant" else [])


@pytest.mark.parametrize("word", ["lock", "unlock"])
async def test_what_is_public_or_an_inbox_has_no_lock(api: Api, word: str) -> None:
    for channel, why in (("agent.alice.public.x", "anyone"), ("agent.alice.inbox", "owner alone")):
        told = sentence(await post(api, f"/api/{word}", {"channel": channel}), 400)
        assert f"cannot be {word}ed" in told and why in told


@pytest.mark.parametrize("how", [{"channel": PLANS}, {"topic": "plans"}])
async def test_a_grant_opens_a_channel_to_one_account(api: Api, how: Any) -> None:
    await api.bearer("bob")
    answer = await post(api, "/api/grant", {"target": "Bob", **how})
    assert (answer.status_code, answer.json()) == (
        200, {"ok": True, "granted": True, "target": "bob", "channel": PLANS},
    )  # fmt: skip
    assert await may_read(api, PLANS, "bob")
    assert not await may_read(api, PLANS, "carol")
    answer = await post(api, "/api/revoke", {"target": "Bob", **how})
    assert (answer.status_code, answer.json()) == (
        200, {"ok": True, "revoked": True, "target": "bob", "channel": PLANS},
    )  # fmt: skip
    assert not await may_read(api, PLANS, "bob")


async def test_who_is_revoked_is_off_that_channel_at_once_and_on_its_others(api: Api) -> None:
    token = await api.running.token("bob")
    for topic in ("plans", "notes"):
        await post(api, "/api/grant", {"target": "bob", "topic": topic})
    outlet = RecordingOutlet()
    session = api.hub.open(api.hub.authenticate(token), outlet, LINES)
    session.subscribe(Subscribe(channels=(PLANS,)))
    session.subscribe(Subscribe(channels=("agent.alice.notes",)))
    await post(api, "/api/revoke", {"target": "bob", "channel": PLANS})
    for channel in (PLANS, "agent.alice.notes"):
        answer = await post(api, "/api/publish", {"channel": channel, "payload": channel})
        assert answer.status_code == 200
    assert [frame.data for frame in outlet.frames] == ["agent.alice.notes"]
    assert outlet.end is None


@pytest.mark.parametrize("word", ["grant", "revoke"])
async def test_a_grant_names_whom_and_what(api: Api, word: str) -> None:
    await api.bearer("bob")
    for body in ({}, {"target": "bob"}, {"channel": PLANS}, {"target": "", "topic": "x"}):
        answer = await post(api, f"/api/{word}", body)
        assert sentence(answer, 400) == "target and channel required"
    does = {"grant": "grant access to", "revoke": "revoke access from"}[word]
    for channel in ("agent.bob.plans", "dm.alice.bob", "room.team", "system.timer.day"):
        answer = await post(api, f"/api/{word}", {"target": "bob", "channel": channel})
        assert sentence(answer, 403) == f"can only {does} your own channels"
    assert sentence(await post(api, f"/api/{word}", {"target": "nobody", "topic": "x"}), 404)
    assert sentence(await post(api, f"/api/{word}", {"target": "bob", "topic": "public.x"}), 400)


ALL = [
    ("POST", "/api/lock"), ("POST", "/api/unlock"), ("POST", "/api/grant"),
    ("POST", "/api/revoke"), ("POST", "/api/request"), ("POST", "/api/advertise"),
    ("DELETE", "/api/advertise"), ("GET", "/api/locks/alice"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), ALL)
async def test_without_a_token_nothing_is_changed(api: Api, method: str, path: str) -> None:
    await api.bearer("alice")
    body = {"channel": PLANS, "target": "bob"} if method != "GET" else None
    assert sentence(await api.client.request(method, path, json=body), 401)


@pytest.mark.parametrize(("method", "path"), [one for one in ALL if one[0] == "POST"])
async def test_a_token_that_only_reads_changes_nothing(api: Api, method: str, path: str) -> None:
    await api.bearer("bob")
    headers = await api.bearer("alice", scopes=["events:read"])
    channel = "agent.bob.plans" if path == "/api/request" else PLANS
    body = {"channel": channel}
    if path in ("/api/grant", "/api/revoke"):
        body["target"] = "bob"
    answer = await api.client.request(method, path, json=body, headers=headers)
    assert "scope" in sentence(answer, 403)


async def test_a_request_is_told_to_the_owner(api: Api) -> None:
    await api.bearer("alice")
    body = {"channel": PLANS, "reason": "we work together"}
    answer = await post(api, "/api/request", body, account="bob")
    assert answer.status_code == 200, answer.text
    told = answer.json()
    stamp = told["request"].pop("timestamp")
    assert told == {
        "ok": True,
        "message": "Access request sent to alice's inbox",
        "request": {
            "type": "access_request",
            "requester": "bob",
            "targetChannel": PLANS,
            "targetType": "agent",
            "targetOwner": "alice",
            "targetAgent": "alice",
            "reason": "we work together",
        },
    }
    inbox = await api.client.get("/api/v1/inbox", headers=await api.bearer("alice"))
    assert str(stamp) in inbox.text and "we work together" in inbox.text


async def test_what_need_not_be_asked_for_is_said(api: Api) -> None:
    await api.bearer("bob")
    await post(api, "/api/unlock", {"topic": "open"})
    await post(api, "/api/grant", {"target": "bob", "topic": "granted"})
    for channel, told in (
        ("agent.alice.open", "channel is not locked, access is public"),
        ("agent.alice.public.x", "channel is not locked, access is public"),
        ("public.lobby", "channel is not locked, access is public"),
        ("agent.alice.granted", "you already have access to this channel"),
        ("agent.bob.own", "you already have access to this channel"),
        ("agent.alice", "invalid channel format"),
        ("", "channel required"),
    ):
        answer = await post(api, "/api/request", {"channel": channel}, account="bob")
        assert sentence(answer, 400) == told


async def test_locks_are_told_to_their_owner_alone(api: Api) -> None:
    await post(api, "/api/publish", {"channel": PLANS, "payload": 1})
    await post(api, "/api/lock", {"topic": "secret"})
    answer = await api.client.get("/api/locks/Alice", headers=await api.bearer())
    assert answer.json() == {
        "ok": True, "agent": "alice", "lockedChannels": [PLANS, "agent.alice.secret"], "count": 2,
    }  # fmt: skip
    for who in ("bob", "boss"):
        headers = await api.bearer(who, role="master" if who == "boss" else "worker")
        answer = await api.client.get("/api/locks/alice", headers=headers)
        assert sentence(answer, 403) == "can only list your own private channels"
        assert "secret" not in answer.text


async def test_health_is_found_out_by_storing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = await api.client.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"ok": True})
    units: list[Any] = []

    async def full(unit: Any) -> Any:
        units.append(unit)
        raise DiskFull("The disk is full; nothing was stored.")

    monkeypatch.setattr(api.hub.committer, "commit", full)
    monkeypatch.setattr("clawnet.doors.http.claw_events.health.PROBE_EVERY_S", 0.0)
    answer = await api.client.get("/health")
    assert "disk is full" in sentence(answer, 503)
    assert answer.headers["retry-after"]
    monkeypatch.setattr("clawnet.doors.http.claw_events.health.PROBE_EVERY_S", 1_000.0)
    for _ in range(5):
        assert (await api.client.get("/health")).status_code == 503
    assert len(units) == 1, "whoever asks often makes the hub store no more"


async def test_whoever_asks_for_health_makes_no_log_grow(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawnet.doors.http.claw_events.health.PROBE_EVERY_S", 0.0)
    before = api.hub.fanout.position
    for _ in range(20):
        assert (await api.client.get("/health")).status_code == 200
    kept = await api.hub.storage.read(lambda engine: engine.scan("health"))
    assert api.hub.fanout.position == before, "no event"
    assert len(kept) == 1, "one entry, stored anew"


async def test_health_says_when_the_hub_stops(api: Api) -> None:
    api.hub.state = "stopping"
    assert sentence(await api.client.get("/health"), 503) == "The hub is stopping."
    api.hub.state = "ready"
