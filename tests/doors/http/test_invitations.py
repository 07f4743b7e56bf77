"""Joining over HTTP: an invitation's link, its page, and self-registration for development."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from clawnet.doors.gate import GateSettings
from clawnet.doors.http.app import build_app
from clawnet.doors.server import ServerSettings
from clawnet.hub.settings import HubSettings
from clawnet.testing.running import Running, running_hub
from tests.doors.http.conftest import Api, check_problem

INVITATIONS = "/api/v1/invitations"
REDEEM = f"{INVITATIONS}/redeem"
REGISTER = "/api/v1/register"
NONCE = "0123456789abcdef0123"


async def invited(api: Api, **how: Any) -> str:
    """The secret of a new invitation."""
    root = await api.bearer("root", role="master")
    answer = await api.client.post(INVITATIONS, json=how, headers=root)
    assert answer.status_code == 201, answer.text
    base, _, secret = str(answer.json()["link"]).partition("#")
    assert base == f"{api.running.url}/join"
    return secret


async def redeem(api: Api, secret: str, **more: Any) -> httpx.Response:
    body = {"secret": secret, "id": "alpha", "nonce": NONCE, **more}
    return await api.client.post(REDEEM, json={k: v for k, v in body.items() if v is not None})


async def me(client: httpx.AsyncClient, token: str) -> Any:
    return (await client.get("/api/v1/me", headers={"Authorization": f"Bearer {token}"})).json()


@pytest.mark.parametrize("how", [{}, {"role": "warden"}])
async def test_only_a_master_invites_lists_and_revokes(api: Api, how: dict[str, str]) -> None:
    headers = await api.bearer("alice", **how)
    for method, path, body in (
        ("POST", INVITATIONS, {}),
        ("GET", INVITATIONS, None),
        ("DELETE", f"{INVITATIONS}/in_x", None),
    ):
        answer = await api.client.request(method, path, json=body, headers=headers)
        check_problem(answer, 403, "forbidden")
        check_problem(await api.client.request(method, path, json=body), 401, "unauthenticated")


@pytest.mark.parametrize(
    "body",
    [{"role": "god"}, {"kind": "cat"}, {"expires_in_s": "1"}, {"expires_in_s": 1e300},
     {"grants": ["x" * 300]}, {"grants": "room.a"}, {"more": 1}, [], {"id": 5}],
)  # fmt: skip
async def test_what_is_no_invitation_is_refused(api: Api, body: Any) -> None:
    root = await api.bearer("root", role="master")
    answer = await api.client.post(INVITATIONS, json=body, headers=root)
    assert answer.status_code == 400, answer.text
    listed = await api.client.get(INVITATIONS, headers=root)
    assert listed.json() == {"invitations": []}


@pytest.mark.parametrize(
    "body",
    [{}, {"secret": "x"}, {"secret": "x", "nonce": "short", "id": "a"},
     {"secret": "x" * 201, "nonce": NONCE}, {"secret": 1, "nonce": NONCE},
     {"secret": "x", "nonce": "n" * 129}, {"secret": "x", "nonce": NONCE, "role": "master"},
     {"secret": "x", "nonce": NONCE, "world": "main"}, []],
)  # fmt: skip
async def test_a_redemption_is_taken_strictly(api: Api, body: Any) -> None:
    check_problem(await api.client.post(REDEEM, json=body), 400, "bad_request")


async def test_a_redemption_by_a_form_or_another_sites_page_is_refused(api: Api) -> None:
    secret = await invited(api)
    body = {"secret": secret, "id": "alpha", "nonce": NONCE}
    check_problem(await api.client.post(REDEEM, data=body), 415, "unsupported_media_type")
    foreign = {"Origin": "https://evil.example"}
    check_problem(await api.client.post(REDEEM, json=body, headers=foreign), 403, "forbidden")
    rebound = {"Host": "evil.example"}
    check_problem(await api.client.post(REDEEM, json=body, headers=rebound), 403, "forbidden")
    assert (await redeem(api, secret)).status_code == 201


async def test_unknown_and_used_links_answer_alike(api: Api) -> None:
    secret = await invited(api)
    assert (await redeem(api, secret)).status_code == 201
    used = await redeem(api, secret, nonce="another client's nonce")
    unknown = await redeem(api, "inv_" + "a" * 43)
    check_problem(used, 410, "invitation_invalid")
    assert used.content == unknown.content
    assert {k: v for k, v in used.headers.items() if k != "date"} == {
        k: v for k, v in unknown.headers.items() if k != "date"
    }


async def test_two_at_once_make_one_account(api: Api) -> None:
    secret = await invited(api)
    answers = await asyncio.gather(
        *(redeem(api, secret, id=f"a{n}", nonce=f"{NONCE}{n}") for n in range(6))
    )
    assert sorted(answer.status_code for answer in answers) == [201] + [410] * 5
    root = await api.bearer("root", role="master")
    accounts = (await api.client.get("/api/v1/accounts", headers=root)).json()["accounts"]
    assert len(accounts) == 2


async def test_a_link_makes_an_account_that_works(api: Api) -> None:
    secret = await invited(api, kind="human")
    answer = await redeem(api, secret, id="Alpha", handle="Al")
    assert answer.status_code == 201 and answer.headers["cache-control"] == "no-store"
    joined = answer.json()
    assert joined["account"]["id"] == "alpha" and joined["account"]["proof"] == "invitation"
    account = (await me(api.client, joined["token"]))["account"]
    assert (account["handle"], account["kind"], account["proved_by"]) == ("Al", "human", "root")
    again = (await redeem(api, secret, id="Alpha")).json()
    assert again["token"] != joined["token"]
    answer = await api.client.get(
        "/api/v1/me", headers={"Authorization": f"Bearer {joined['token']}"}
    )
    check_problem(answer, 401, "unauthenticated")
    root = await api.bearer("root", role="master")
    listed = (await api.client.get(INVITATIONS, headers=root)).text
    assert '"status":"redeemed"' in listed and secret not in listed


async def test_guesses_are_held_up(api: Api) -> None:
    """Whatever a guess is, it never gets as far as the lock of changes."""
    statuses = [(await redeem(api, "inv_wrong")).status_code for _ in range(12)]
    assert statuses == [410] * 10 + [429] * 2
    answer = await redeem(api, "inv_wrong")
    check_problem(answer, 429, "rate_limited")
    assert int(answer.headers["retry-after"]) >= 1


async def test_the_links_page_needs_no_script_and_learns_no_secret(api: Api) -> None:
    answer = await api.client.get("/join")
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "script" not in policy
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    tags = set(re.findall(r"<(\w+)", answer.text))
    assert tags == {"html", "meta", "title", "h1", "p", "code", "pre", "a"}
    assert set(re.findall(r"\s(\w+)=", answer.text)) == {
        "lang",
        "charset",
        "name",
        "content",
        "href",
    }
    assert "claw join" in answer.text
    check_problem(await api.client.get("/join?secret=inv_x"), 400, "bad_request")
    check_problem(await api.client.post("/join"), 405, "method_not_allowed")


# --- self-registration ---------------------------------------------------------


@pytest.fixture
async def dev() -> AsyncIterator[tuple[Running, httpx.AsyncClient]]:
    settings = HubSettings(is_dev=True)
    async with (
        running_hub(make_app=build_app, settings=settings) as running,
        httpx.AsyncClient(base_url=running.url, trust_env=False) as client,
    ):
        yield running, client


async def test_nobody_registers_themselves_elsewhere(api: Api) -> None:
    problem = check_problem(await api.client.post(REGISTER, json={"id": "a"}), 404, "not_found")
    assert "claw join" in problem["next"]


@pytest.mark.parametrize(
    "headers",
    [{"X-Forwarded-For": "127.0.0.1"}, {"Forwarded": "for=127.0.0.1"}, {"Via": "1.1 tunnel"},
     {"CF-Connecting-IP": "203.0.113.7"}, {"X-Real-IP": "127.0.0.1"}],
    ids=str,
)  # fmt: skip
async def test_nobody_registers_through_a_proxy(
    dev: tuple[Running, httpx.AsyncClient], headers: dict[str, str]
) -> None:
    answer = await dev[1].post(REGISTER, json={"id": "mallory"}, headers=headers)
    check_problem(answer, 404, "not_found")
    assert dev[0].hub.directory.account("main", "mallory") is None


async def test_nobody_registers_from_another_sites_page_or_name(
    dev: tuple[Running, httpx.AsyncClient],
) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
        answer = await dev[1].post(REGISTER, json={"id": "mallory"}, headers=headers)
        check_problem(answer, 403, "forbidden")
    answer = await dev[1].post(REGISTER, content='{"id":"mallory"}')
    check_problem(answer, 415, "unsupported_media_type")
    assert dev[0].hub.directory.account("main", "mallory") is None


async def test_nobody_registers_where_a_proxy_may_stand_in_front() -> None:
    gate = GateSettings(behind_proxy=("10.0.0.0/8",))
    server = ServerSettings(port=0, behind_proxy=gate.behind_proxy)
    async with (
        running_hub(
            make_app=build_app, settings=HubSettings(is_dev=True), server=server
        ) as running,
        httpx.AsyncClient(base_url=running.url, trust_env=False) as client,
    ):
        check_problem(await client.post(REGISTER, json={"id": "a"}), 404, "not_found")


@pytest.mark.parametrize(
    "body", [{}, {"id": "a b"}, {"id": "admin"}, {"id": "a", "role": "master"}, {"id": ""}]
)
async def test_a_bad_name_does_not_register(
    dev: tuple[Running, httpx.AsyncClient], body: Any
) -> None:
    check_problem(await dev[1].post(REGISTER, json=body), 400, "bad_request")


async def test_on_a_hub_for_development_a_local_one_registers(
    dev: tuple[Running, httpx.AsyncClient],
) -> None:
    answer = await dev[1].post(REGISTER, json={"id": "Dora", "handle": "D"})
    assert answer.status_code == 201, answer.text
    account = (await me(dev[1], answer.json()["token"]))["account"]
    assert (account["id"], account["role"], account["proof"], account["proved_by"]) == (
        "dora", "worker", "dev", None,
    )  # fmt: skip
    check_problem(await dev[1].post(REGISTER, json={"id": "dora"}), 409, "conflict")
    statuses = {(await dev[1].post(REGISTER, json={"id": f"d{n}"})).status_code for n in range(60)}
    assert statuses == {201, 429}
