"""Requests beyond the limits are told to wait, with a token and without, and nobody else is."""

from __future__ import annotations

from types import SimpleNamespace

import httpx
import pytest

from clawnet.doors.http.limits import address_of
from clawnet.doors.http.settings import HttpSettings
from tests.doors.http.conftest import Api, check_problem

ROOMS = "/api/v1/rooms"


@pytest.fixture
def http_settings() -> HttpSettings:
    return HttpSettings(
        chat_per_s=0.001, chat_burst=5, unauthenticated_per_s=0.001, unauthenticated_burst=4
    )


async def statuses(api: Api, n: int, headers: dict[str, str] | None = None) -> list[int]:
    answers = [await api.client.get(ROOMS, headers=headers) for _ in range(n)]
    for answer in answers:
        if answer.status_code == 429:
            problem = check_problem(answer, 429, "rate_limited")
            assert problem["retryable"] and int(answer.headers["retry-after"]) > 1
    return [answer.status_code for answer in answers]


async def test_a_loop_over_the_rooms_sees_429_with_a_token_and_without(api: Api) -> None:
    alice, bob = await api.bearer("alice"), await api.bearer("bob")
    assert await statuses(api, 7, alice) == [200] * 5 + [429] * 2
    # Neither another account nor who has none pays for it, and no other path does.
    assert await statuses(api, 5, bob) == [200] * 5
    assert await statuses(api, 6) == [200] * 5 + [429]
    me = await api.client.get("/api/v1/me", headers=alice)
    assert me.status_code == 200


async def test_who_has_no_valid_token_is_limited_by_address_at_every_path(api: Api) -> None:
    wrong = {"Authorization": "Bearer claw_wrong"}
    assert await statuses(api, 3, wrong) == [401] * 3
    answer = await api.client.post("/api/v1/channels/public.lobby/events", json={"data": 1})
    check_problem(answer, 401, "unauthenticated")
    assert await statuses(api, 2, wrong) == [429] * 2
    answer = await api.client.get("/api/v1/tokens")
    check_problem(answer, 429, "rate_limited")
    # Who has one goes in from the same address, and who needs none reads.
    assert await statuses(api, 1, await api.bearer("alice")) == [200]
    assert await statuses(api, 1) == [200]


async def test_no_forwarded_address_makes_a_new_caller(api: Api) -> None:
    async def asked(n: int) -> httpx.Response:
        headers = {"Authorization": "Bearer claw_wrong", "X-Forwarded-For": f"192.0.2.{n}"}
        return await api.client.get(ROOMS, headers=headers)

    found = [(await asked(n)).status_code for n in range(6)]
    assert found == [401] * 4 + [429] * 2


def test_a_network_of_ipv6_is_one_caller() -> None:
    def key(client: str) -> str:
        return address_of({"type": "http", "state": {"admitted": SimpleNamespace(client=client)}})

    assert key("2001:db8:1:2::1") == key("2001:db8:1:2:ffff::9") != key("2001:db8:1:3::1")
    assert key("::ffff:192.0.2.7") == key("192.0.2.7") != key("192.0.2.8")
    assert key("unix") == "unix" and address_of({"type": "http"}) == ""
