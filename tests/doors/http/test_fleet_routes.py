"""The fleet's routes: enrolling by HTTP, reports, the list, one's own status."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from clawnet.doors.server import ServerSettings
from clawnet.features import FeatureSettings
from clawnet.features.fleet.settings import FleetSettings
from clawnet.testing.running import Running, running_hub
from tests.doors.http.conftest import check_problem

SECRET = "a secret that the fleet shares"
FEATURES = FeatureSettings(fleet=FleetSettings(secret=SECRET), has_timers=False)
ENROL = "/api/v1/enrol"


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    async with running_hub(features=FEATURES) as made:
        yield made


@pytest.fixture
async def client(running: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=running.url, trust_env=False) as made:
        yield made


def asked(agent_id: str = "ada", **named: Any) -> dict[str, Any]:
    return {"secret": SECRET, "agent_id": agent_id, **named}


def shown(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_an_agent_enrols_reports_and_is_listed(client: httpx.AsyncClient) -> None:
    answer = await client.post(ENROL, json=asked("Ada-1", role="scout"))
    assert answer.status_code == 201, answer.text
    enrolled = answer.json()
    assert {k: enrolled[k] for k in ("agent_id", "handle", "world", "role", "created")} == {
        "agent_id": "ada-1", "handle": "Ada-1", "world": "main", "role": "worker", "created": True,
    }  # fmt: skip
    mine = shown(enrolled["session_token"])
    body = {"specs": {"os": "linux"}, "cron": [{"id": 1}], "capabilities": ["openclaw"]}
    answer = await client.post("/api/v1/fleet/report", json=body, headers=mine)
    assert (answer.status_code, answer.json()) == (200, {"changed": True})
    [listed] = (await client.get("/api/v1/fleet", headers=mine)).json()["agents"]
    one = (await client.get("/api/v1/fleet/ADA-1", headers=mine)).json()
    assert one == listed
    assert (one["given_id"], one["role"], one["specs"]) == ("Ada-1", "scout", {"os": "linux"})
    again = await client.post(ENROL, json=asked("ada-1"))
    assert (again.status_code, again.json()["created"]) == (200, False)


async def test_what_comes_from_elsewhere_does_not_enter_an_account_again(
    client: httpx.AsyncClient,
) -> None:
    assert (await client.post(ENROL, json=asked())).status_code == 201
    for header in ({"X-Forwarded-For": "192.0.2.1"}, {"Forwarded": "for=192.0.2.1"}):
        answer = await client.post(ENROL, json=asked(), headers=header)
        problem = check_problem(answer, 403, "forbidden")
        assert problem["reason"] == "reenrol" and "token" in problem["next"]
        # A new id enrols from anywhere.
        name = f"bob-{header.popitem()[0].lower()}"
        assert (await client.post(ENROL, json=asked(name))).status_code == 201


async def test_behind_a_proxy_nobody_is_local() -> None:
    server = ServerSettings(port=0, behind_proxy=("127.0.0.1",))
    async with (
        running_hub(features=FEATURES, server=server) as running,
        httpx.AsyncClient(base_url=running.url, trust_env=False) as client,
    ):
        assert (await client.post(ENROL, json=asked())).status_code == 201
        check_problem(await client.post(ENROL, json=asked()), 403, "forbidden")


async def test_what_is_refused_is_refused_by_its_name(client: httpx.AsyncClient) -> None:
    wrong = await client.post(ENROL, json=asked(secret="wrong"))
    unknown = await client.post(ENROL, json=asked(secret=f"nowhere:{SECRET}"))
    assert wrong.content == unknown.content
    check_problem(wrong, 401, "unauthenticated")
    for reserved in ("admin", "all", "hub"):
        check_problem(await client.post(ENROL, json=asked(reserved)), 400, "bad_request")
    check_problem(await client.post(ENROL, json=asked(role="master")), 403, "forbidden")
    check_problem(await client.post(ENROL, json=asked(world="x")), 400, "bad_request")
    check_problem(await client.post(ENROL, json={"secret": SECRET}), 400, "bad_request")
    for path in ("/api/v1/fleet", "/api/v1/fleet/ada"):
        check_problem(await client.get(path), 401, "unauthenticated")
    for path in ("/api/v1/fleet/report", "/api/v1/presence"):
        check_problem(await client.post(path, json={}), 401, "unauthenticated")
    # The secret enrols and is no token of the hub's own routes.
    check_problem(await client.get("/api/v1/fleet", headers=shown(SECRET)), 401, "unauthenticated")
    for _ in range(9):
        await client.post(ENROL, json=asked("eve", secret="wrong"))
    answer = await client.post(ENROL, json=asked("eve", secret="wrong"))
    assert answer.status_code == 401
    answer = await client.post(ENROL, json=asked("eve"))
    check_problem(answer, 429, "rate_limited")
    assert int(answer.headers["retry-after"]) >= 1


async def test_one_says_ones_own_status(running: Running, client: httpx.AsyncClient) -> None:
    mine = shown((await client.post(ENROL, json=asked())).json()["session_token"])
    body = {"status": "idle", "text": "at lunch"}
    problem = check_problem(
        await client.post("/api/v1/presence", json=body, headers=mine), 409, "conflict"
    )
    assert problem["reason"] == "offline"
    running.hub.presence.connected("main", "ada")
    answer = await client.post("/api/v1/presence", json=body, headers=mine)
    said = {"account": "ada", "handle": "ada", "status": "idle", "text": "at lunch"}
    assert answer.status_code == 200 and answer.json() | said == answer.json()
    [one] = (await client.get("/api/v1/presence", headers=mine)).json()["accounts"]
    assert one == answer.json()
    check_problem(
        await client.post("/api/v1/presence", json={"status": "offline"}, headers=mine),
        400, "bad_request",
    )  # fmt: skip


async def test_programs_are_told_that_the_hub_is_online_and_browsers_get_a_page(
    running: Running, client: httpx.AsyncClient
) -> None:
    for accept in ("*/*", "application/json", "text/plain", ""):
        answer = await client.get("/", headers={"Accept": accept})
        assert answer.headers["content-type"] == "application/json"
        said = answer.json()
        assert (said["status"], said["online"], said["url"]) == ("online", True, running.url)
        assert f"{running.url}/skill.md" in said["links"] and "Accept" in answer.headers["vary"]
    page = await client.get("/", headers={"Accept": "text/html, */*;q=0.1"})
    assert page.headers["content-type"].startswith("text/html")
    assert "Accept" in page.headers["vary"]
