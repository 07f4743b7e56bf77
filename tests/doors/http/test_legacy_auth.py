"""/api/auth: sessions by the shared secret, as the first version had them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from clawnet.core.callers import Caller
from clawnet.core.errors import Unauthenticated
from clawnet.doors.http.app import HttpDoor
from clawnet.doors.http.request import Request
from clawnet.doors.http.routes.legacy_auth import legacy_caller
from clawnet.features import FeatureSettings
from clawnet.features.fleet.settings import FleetSettings
from clawnet.testing.running import Running, running_hub

SECRET = "ein Geheimnis für alle. Agenten."


def features(**named: Any) -> FeatureSettings:
    return FeatureSettings(fleet=FleetSettings(secret=SECRET, **named), has_timers=False)


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    async with running_hub(features=features()) as made:
        yield made


@pytest.fixture
async def client(running: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=running.url, trust_env=False) as made:
        yield made


def shown(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def log_in(client: httpx.AsyncClient) -> str:
    answer = await client.post("/api/auth/token", json={"secret": SECRET})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["token"])


async def test_the_secret_opens_a_session_that_reads(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/auth/token", json={"secret": SECRET})
    session = answer.json()
    assert set(session) == {"token", "expiresAt", "tokenType"}
    assert session["tokenType"] == "Bearer"
    assert datetime.fromisoformat(session["expiresAt"]).tzinfo is not None
    assert answer.headers["cache-control"] == "no-store"
    mine = shown(session["token"])
    assert (await client.get("/api/v1/fleet", headers=mine)).status_code == 200
    path = "/api/v1/channels/public.lobby/events"
    refused = await client.post(path, json={"data": 1}, headers=mine)
    assert refused.status_code == 403
    refused = await client.post("/api/v1/accounts", json={"id": "x"}, headers=mine)
    assert refused.status_code == 403


async def test_a_session_is_verified_and_ends(client: httpx.AsyncClient) -> None:
    token = await log_in(client)
    for how in ({"headers": shown(token)}, {"json": {"token": token}}):
        answer = await client.post("/api/auth/verify", **how)  # type: ignore[arg-type]
        said = answer.json()
        assert answer.status_code == 200, answer.text
        assert (said["valid"], said["tenantId"]) == (True, "main") and said["createdAt"]
    other = await log_in(client)
    answer = await client.post("/api/auth/revoke", json={"token": other}, headers=shown(token))
    assert answer.json() == {"ok": True, "revoked": True}
    for path in ("verify", "revoke", "logout"):
        refused = await client.post(f"/api/auth/{path}", headers=shown(other))
        assert refused.status_code == 401 and refused.json()["error"]
    assert (await client.post("/api/auth/logout", headers=shown(token))).json()["ok"]
    assert (await client.post("/api/auth/verify", headers=shown(token))).status_code == 401
    for path in ("verify", "revoke"):
        refused = await client.post(f"/api/auth/{path}", json={})
        assert refused.status_code == 401
    assert (await client.post("/api/auth/logout")).status_code == 401


async def test_a_wrong_secret_is_401_and_the_eleventh_of_a_minute_is_429(
    client: httpx.AsyncClient,
) -> None:
    for secret in ("wrong", "", f"other:{SECRET}"):
        answer = await client.post("/api/auth/token", json={"secret": secret})
        assert answer.status_code == 401 and answer.json()["error"] == "The secret is not valid."
    for _ in range(7):
        await log_in(client)
    answer = await client.post("/api/auth/token", json={"secret": SECRET})
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 6 and answer.json()["retry_after"]


async def test_a_revoked_token_stays_revoked_after_a_restart(tmp_path: Path) -> None:
    tokens: list[str] = []
    for start in range(2):
        async with (
            running_hub("sqlite", data_dir=tmp_path, features=features()) as running,
            httpx.AsyncClient(base_url=running.url, trust_env=False) as client,
        ):
            if start == 0:
                tokens = [await log_in(client), await log_in(client)]
                answer = await client.post("/api/auth/logout", headers=shown(tokens[0]))
                assert answer.status_code == 200
            found = [
                (await client.post("/api/auth/verify", headers=shown(token))).status_code
                for token in tokens
            ]
            assert found == [401, 200]


async def test_the_secret_itself_counts_on_routes_of_the_first_version(running: Running) -> None:
    hub = running.hub
    door = HttpDoor.__new__(HttpDoor)
    door.hub = hub

    async def caller(token: str) -> Caller:
        scope = {
            "type": "http",
            "method": "GET",
            "headers": [(b"authorization", b"Bearer " + token.encode())],
        }
        return await legacy_caller(Request(door, scope, None, None))  # type: ignore[arg-type]

    first = await caller(SECRET)
    assert (first.account, first.role) == ("fleet-observer", "worker")
    assert (await caller(SECRET)).token_id == first.token_id, "not a token for each request"
    token = await running.token("ada")
    assert (await caller(token)).account == "ada"
    for wrong in ("wrong", "claw_" + "x" * 43, "a.b.c"):
        with pytest.raises(Unauthenticated) as caught:
            await caller(wrong)
        assert "secret" not in caught.value.message


async def test_where_the_secret_makes_masters_its_session_is_a_masters() -> None:
    async with (
        running_hub(features=features(secret_roles=("worker", "master"))) as running,
        httpx.AsyncClient(base_url=running.url, trust_env=False) as client,
    ):
        mine = shown(await log_in(client))
        made = await client.post("/api/v1/accounts", json={"id": "ada"}, headers=mine)
        assert made.status_code == 201
        said = (await client.get("/api/v1/me", headers=mine)).json()
        assert (said["account"]["id"], said["account"]["role"]) == ("fleet-master", "master")
        by_secret = {b"Authorization": b"Bearer " + SECRET.encode()}
        change = {"auto_create": False}
        done = await client.post("/api/settings", json=change, headers=by_secret)
        assert done.json()["auto_create"] is False, done.text
        assert (await client.get("/api/settings", headers=by_secret)).json() == done.json()
        # With the secret alone, one does not become that account as an agent.
        body = {"secret": SECRET, "agent_id": "fleet-master", "role": "master"}
        assert (await client.post("/api/v1/enrol", json=body)).status_code == 400
