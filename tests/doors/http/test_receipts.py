"""Receipts, wake leases and expected answers, as HTTP shows them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clawnet.features.inbox import InboxFeature
from tests.doors.http.conftest import LOBBY, Api, check_problem, settled

INBOX = "/api/v1/channels/agent.bob.inbox/events"


async def send(api: Api, body: dict[str, Any] | None = None, **how: Any) -> Any:
    await api.bearer("bob")
    answer = await api.client.post(
        how.pop("path", INBOX), json=body or {"data": 1}, headers=await api.bearer("alice")
    )
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


async def receipt(api: Api, id: str, *, account: str = "alice", **query: Any) -> Any:
    return await api.client.get(
        f"/api/v1/events/{id}/receipt", params=query, headers=await api.bearer(account)
    )


@pytest.mark.parametrize(
    "query",
    [
        {"until": "read"},
        {"until": ""},
        {"wait": "-1"},
        {"wait": "61"},
        {"wait": "soon"},
        {"token": "x"},
        {"more": "1"},
    ],
)
async def test_a_query_that_does_not_fit_is_refused(api: Api, query: dict[str, str]) -> None:
    sent = await send(api)
    check_problem(await receipt(api, sent["id"], **query), 400, "bad_request")


async def test_others_see_neither_receipts_nor_whether_there_is_one(api: Api) -> None:
    sent = await send(api)
    assert (await api.client.get(f"/api/v1/events/{sent['id']}/receipt")).status_code == 401
    check_problem(await receipt(api, sent["id"], account="cleo"), 404, "not_found")
    check_problem(await receipt(api, "evt_nothing"), 404, "not_found")


@pytest.mark.parametrize(
    "body",
    [{"ttl_s": 1}, {"ttl_s": 301}, {"how": ""}, {"how": 1}, {"always": True}, [], {"ttl_s": 1e300}],
)
async def test_a_lease_that_does_not_fit_is_refused(api: Api, body: Any) -> None:
    answer = await api.client.put("/api/v1/wake", json=body, headers=await api.bearer("bob"))
    check_problem(answer, 400, "bad_request")


@pytest.mark.parametrize("body", [{}, {"events": "x"}, {"events": [1]}, {"ids": []}])
async def test_a_confirmation_that_does_not_fit_is_refused(api: Api, body: Any) -> None:
    answer = await api.client.post(
        "/api/v1/inbox/woken", json=body, headers=await api.bearer("bob")
    )
    check_problem(answer, 400, "bad_request")


async def test_a_lease_is_held_seen_and_ended(api: Api) -> None:
    bob, alice = await api.bearer("bob"), await api.bearer("alice")
    path = "/api/v1/accounts/bob/wake"
    assert (await api.client.get(path)).status_code == 401
    held = await api.client.put("/api/v1/wake", headers=bob)
    assert held.json()["held"] is True
    held = await api.client.put("/api/v1/wake", json={"ttl_s": 60, "how": "loop"}, headers=bob)
    assert (held.status_code, held.json()["how"]) == (200, "loop")
    assert (await api.client.get(path, headers=alice)).json() == held.json()
    assert (await api.client.delete("/api/v1/wake", headers=bob)).json() == {"changed": True}
    seen = (await api.client.get(path, headers=alice)).json()
    assert (seen["held"], seen["until"]) == (False, None)
    assert seen["ended"] is not None
    nobody = await api.client.get("/api/v1/accounts/nobody/wake", headers=alice)
    check_problem(nobody, 404, "not_found")


async def test_a_receipt_is_waited_for(api: Api) -> None:
    sent = await send(api)
    early = (await receipt(api, sent["id"])).json()
    assert (early["reached"], early["until"], early["woken"]) == (False, "woken", None)
    assert "no process of bob has held a wake lease" in early["reason"]
    waiting = asyncio.create_task(receipt(api, sent["id"], until="acted", wait="20"))
    bob = await api.bearer("bob")
    told = await api.client.post("/api/v1/inbox/woken", json={"events": [sent["id"]]}, headers=bob)
    assert told.json() == {"confirmed": 1}
    await api.client.post("/api/v1/inbox/ack", json={"events": [sent["id"]]}, headers=bob)
    found = (await waiting).json()
    assert found["reached"] is True
    assert found["reason"] is None
    assert None not in [found[step] for step in ("stored", "offered", "woken", "acted")]


async def test_a_waiting_receipt_ends_with_the_hub(api: Api) -> None:
    sent = await send(api)
    waiting = asyncio.create_task(receipt(api, sent["id"], wait="30"))
    [feature] = [f for f in api.hub._features if isinstance(f, InboxFeature)]
    await settled(lambda: feature.receipts._waiters)
    api.door.stop()
    check_problem(await waiting, 503, "unavailable")


# --- expected answers on every way in --------------------------------------


async def open_ones(api: Api) -> int:
    return len(await api.hub.storage.read(lambda engine: engine.scan("expectation")))


@pytest.mark.parametrize("seconds", ["0", "0.01", "1e3", "-5", "never", "99999999"])
async def test_a_time_that_does_not_fit_is_refused_to_a_shell(api: Api, seconds: str) -> None:
    answer = await api.client.post(
        f"/pub/public.lobby?expect={seconds}", content=b"hi", headers=await api.bearer()
    )
    check_problem(answer, 400, "bad_request")
    assert await open_ones(api) == 0


async def test_a_shell_a_publish_and_a_batch_may_expect_an_answer(api: Api) -> None:
    expect = {"reply_within_s": 30}
    shell = await api.client.post(
        "/pub/public.lobby?expect=30", content=b"hi", headers=await api.bearer()
    )
    assert shell.json()["correlation_id"].startswith("cor_")
    single = await send(api, {"data": 1, "expect": expect}, path=LOBBY)
    named = await send(api, {"data": 1, "expect": expect, "correlation_id": "c"}, path=LOBBY)
    assert "correlation_id" not in named
    events = [
        {"channel": "public.lobby", "data": 1, "expect": expect},
        {"channel": "public.lobby", "data": 2},
    ]
    batch = await send(api, {"events": events}, path="/api/v1/events/batch")
    assert "correlation_id" not in batch["events"][1]
    stored = (await api.client.get(LOBBY)).json()["events"]
    given = [shell.json(), single, batch["events"][0]]
    assert [e["correlation_id"] for e in stored if "expect" in e and e["id"] != named["id"]] == [
        one["correlation_id"] for one in given
    ]
    assert await open_ones(api) == 4


async def test_a_repeat_is_told_the_same_correlation(api: Api) -> None:
    body = {"data": 1, "expect": {"reply_within_s": 30}, "dedupe_key": "k"}
    first, again = await send(api, body), await send(api, body)
    assert again == {**first, "deduped": True}
    assert await open_ones(api) == 1


async def test_an_answer_without_expectation_is_what_it_was(api: Api) -> None:
    assert set(await send(api)) == {"id", "seq", "offset", "epoch", "deduped"}


async def test_too_many_expected_answers_are_429(api: Api) -> None:
    events = [
        {"channel": "agent.bob.inbox", "data": n, "expect": {"reply_within_s": 30}}
        for n in range(1_000)
    ]
    await send(api, {"events": events}, path="/api/v1/events/batch")
    answer = await api.client.post(
        INBOX, json={"data": 1, "expect": {"reply_within_s": 30}}, headers=await api.bearer()
    )
    problem = check_problem(answer, 429, "too_many_expectations")
    assert "1000 answers" in problem["detail"]
