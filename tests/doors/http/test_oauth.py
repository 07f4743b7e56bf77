"""POST /oauth/token as clients of OAuth 2.0 use it (RFC 6749, section 4.4), and its metadata."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote_plus

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clawnet.core.calls.tokens import RevokeToken
from clawnet.hub.attempts import PER_CLIENT, REMEMBERED_MAX, Attempts
from clawnet.testing.clocks import FakeClock
from tests.doors.http.conftest import Api

TOKEN = "/oauth/token"
METADATA = "/.well-known/oauth-authorization-server"
GRANT = {"grant_type": "client_credentials"}
FORM = "application/x-www-form-urlencoded"


def basic(client: str, secret: str) -> dict[str, str]:
    pair = f"{quote_plus(client)}:{quote_plus(secret)}".encode()
    return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}


def check(answer: httpx.Response, status: int, error: str) -> dict[str, Any]:
    """Assert the form of RFC 6749, section 5.2."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["pragma"] == "no-cache"
    said: dict[str, Any] = answer.json()
    assert set(said) == {"error", "error_description", "next"}
    assert said["error"] == error, said
    allowed = {*map(chr, range(0x20, 0x7F))} - {'"', "\\"}
    assert set(said["error_description"]) <= allowed
    return said


@pytest.fixture
async def secret(api: Api) -> str:
    return await api.running.token("alice")


# --- refused ------------------------------------------------------------------


async def test_who_does_not_say_who_it_is_gets_nothing(api: Api, secret: str) -> None:
    for form in (GRANT, GRANT | {"client_id": "alice"}, GRANT | {"client_secret": secret}):
        answer = await api.client.post(TOKEN, data=form)
        check(answer, 401, "invalid_client")
        assert answer.headers["www-authenticate"].startswith("Basic ")


async def test_a_wrong_client_and_a_wrong_secret_look_the_same(api: Api, secret: str) -> None:
    other = await api.running.token("bob")
    bodies = set()
    for client, word in [
        ("alice", other),
        ("alice", "claw_" + "A" * 43),
        ("alice", "x"),
        ("nobody", secret),
        ("nobody", "x"),
        ("bob", secret),
        ("main/alice", secret),
        ("alice ", secret),
        ("é", secret),
        ("alice", secret + "\u00e9"),
    ]:
        answers = [
            await api.client.post(TOKEN, data=GRANT, headers=basic(client, word)),
            await api.client.post(TOKEN, data=GRANT | {"client_id": client, "client_secret": word}),
        ]
        for answer in answers:
            check(answer, 401, "invalid_client")
            bodies.add(answer.content)
    assert len(bodies) == 1


@pytest.mark.parametrize(
    "header",
    ["Basic", "Basic !!", "Basic YQ==", "Basic Og==", "Basic OmE=", "Basic YTo=", "Basic /w==",
     "Basic YSUwMDpi", "Bearer x", "Digest a=b", "basic"],
)  # fmt: skip
async def test_a_header_without_client_and_secret_is_refused(api: Api, header: str) -> None:
    answer = await api.client.post(TOKEN, data=GRANT, headers={"Authorization": header})
    check(answer, 401, "invalid_client")
    assert answer.headers["www-authenticate"].startswith("Basic ")


async def test_the_hubs_own_token_is_no_way_past_the_form(api: Api, secret: str) -> None:
    answer = await api.client.post(TOKEN, data=GRANT, headers={"Authorization": f"Bearer {secret}"})
    check(answer, 401, "invalid_client")


async def test_two_ways_at_once_are_refused(api: Api, secret: str) -> None:
    for more in ({"client_secret": secret}, {"client_id": "bob"}):
        answer = await api.client.post(TOKEN, data=GRANT | more, headers=basic("alice", secret))
        check(answer, 400, "invalid_request")
    same = GRANT | {"client_id": "alice"}
    answer = await api.client.post(TOKEN, data=same, headers=basic("alice", secret))
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "form, error",
    [
        ({}, "invalid_request"),
        ({"grant_type": ""}, "invalid_request"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": "authorization_code"}, "unsupported_grant_type"),
        ({"grant_type": "CLIENT_CREDENTIALS"}, "unsupported_grant_type"),
        ({"grant_type": 'x"\\\u00e9\n'}, "invalid_request"),
        ({"grant_type": 'x"\\\u00e9'}, "unsupported_grant_type"),
        (GRANT | {"scope": "everything"}, "invalid_scope"),
        (GRANT | {"scope": "events:read  events:write"}, "invalid_scope"),
        (GRANT | {"scope": "events:read\tevents:write"}, "invalid_request"),
        (GRANT | {"scope": " events:read"}, "invalid_scope"),
        (GRANT | {"scope": "x" * 5_000}, "invalid_scope"),
    ],
)
async def test_what_the_request_lacks_has_a_name(
    api: Api, secret: str, form: dict[str, str], error: str
) -> None:
    check(await api.client.post(TOKEN, data=form, headers=basic("alice", secret)), 400, error)


async def test_a_scope_that_the_secret_lacks_is_not_given(api: Api) -> None:
    narrow = await api.running.token("alice", scopes=["events:read"])
    for scope in ("*", "events:write", "events:read events:write"):
        form = GRANT | {"scope": scope}
        check(
            await api.client.post(TOKEN, data=form, headers=basic("alice", narrow)),
            400,
            "invalid_scope",
        )


@pytest.mark.parametrize(
    "body",
    [
        b"grant_type=client_credentials&grant_type=client_credentials",
        b"grant_type=client_credentials&scope=events:read&scope=*",
        b"grant_type=%zz",
        b"grant_type=%ff",
        b"grant_type=%00",
        b"\xff",
        b"&".join(b"a%d=1" % i for i in range(40)),
    ],
)
async def test_a_damaged_form_is_refused(api: Api, secret: str, body: bytes) -> None:
    headers = {"content-type": FORM} | basic("alice", secret)
    check(await api.client.post(TOKEN, content=body, headers=headers), 400, "invalid_request")


@pytest.mark.parametrize("kind", [None, "application/json", "text/plain", f"{FORM}; charset=utf-7"])
async def test_another_content_type_is_refused(api: Api, secret: str, kind: str | None) -> None:
    headers = basic("alice", secret) | ({} if kind is None else {"content-type": kind})
    body = b"grant_type=client_credentials"
    check(await api.client.post(TOKEN, content=body, headers=headers), 400, "invalid_request")


async def test_credentials_in_the_uri_are_refused(api: Api, secret: str) -> None:
    query = {"client_id": "alice", "client_secret": secret}
    check(await api.client.post(TOKEN, params=query, data=GRANT), 400, "invalid_request")


async def test_a_form_that_is_too_large_is_refused(api: Api, secret: str) -> None:
    form = GRANT | {"x": "y" * 20_000}
    answer = await api.client.post(TOKEN, data=form, headers=basic("alice", secret))
    check(answer, 413, "invalid_request")


async def test_other_methods_are_refused(api: Api) -> None:
    for method in ("GET", "PUT", "DELETE"):
        answer = await api.client.request(method, TOKEN)
        assert answer.status_code == 405


async def test_a_page_of_another_site_is_refused_before_its_form_is_read(
    api: Api, secret: str
) -> None:
    form = GRANT | {"client_id": "alice", "client_secret": secret}
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"},
                    {"Origin": "null"}):  # fmt: skip
        assert (await api.client.post(TOKEN, data=form, headers=headers)).status_code == 403


async def test_a_short_lived_token_is_no_secret(api: Api, secret: str) -> None:
    made = await api.client.post(TOKEN, data=GRANT, headers=basic("alice", secret))
    answer = await api.client.post(
        TOKEN, data=GRANT, headers=basic("alice", made.json()["access_token"])
    )
    check(answer, 401, "invalid_client")


async def test_a_secret_that_was_revoked_is_none(api: Api) -> None:
    made = await api.running.new_token("alice")
    caller = api.hub.authenticate(made.token)
    given = await api.client.post(TOKEN, data=GRANT, headers=basic("alice", made.token))
    await api.hub.call(RevokeToken(id=made.id), caller=caller)
    answer = await api.client.post(TOKEN, data=GRANT, headers=basic("alice", made.token))
    check(answer, 401, "invalid_client")
    bearer = {"Authorization": f"Bearer {given.json()['access_token']}"}
    assert (await api.client.get("/api/v1/me", headers=bearer)).status_code == 401


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=300),
    header=st.text(st.characters(codec="latin-1"), min_size=1, max_size=60),
)
async def test_any_body_and_header_get_an_answer_of_the_protocol(
    api: Api, body: bytes, header: str
) -> None:
    api.hub.attempts._buckets.clear()
    for value in (None, header):
        headers: dict[str, Any] = {"content-type": FORM}
        if value is not None:
            encoded = base64.b64encode(value.encode()).decode()
            headers["authorization"] = f"Basic {encoded}"
        answer = await api.client.post(TOKEN, content=body, headers=headers)
        assert answer.status_code in (400, 401), answer.text
        assert answer.json()["error"] in ("invalid_request", "invalid_client")


# --- given ----------------------------------------------------------------------


@pytest.mark.parametrize("way", ["header", "form"])
async def test_a_client_gets_a_token_that_works(api: Api, secret: str, way: str) -> None:
    form = {"client_id": "alice", "client_secret": secret} if way == "form" else {}
    headers = basic("alice", secret) if way == "header" else {}
    answer = await api.client.post(TOKEN, data=GRANT | form, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["pragma"] == "no-cache"
    given_ = answer.json()
    assert set(given_) == {"access_token", "token_type", "expires_in", "scope"}
    assert given_["token_type"] == "Bearer" and given_["scope"] == "*"
    assert 890 <= given_["expires_in"] <= 900
    bearer = {"Authorization": f"Bearer {given_['access_token']}"}
    me = (await api.client.get("/api/v1/me", headers=bearer)).json()
    assert me["account"]["id"] == "alice"
    published = await api.client.post(
        "/api/v1/channels/public.a/events", json={"data": 1}, headers=bearer
    )
    assert published.status_code == 201


async def test_scopes_are_narrowed_and_said(api: Api, secret: str) -> None:
    form = GRANT | {"scope": "events:read accounts:read", "unknown": "ignored", "empty": ""}
    answer = await api.client.post(TOKEN, data=form, headers=basic("ALICE", secret))
    assert answer.json()["scope"] == "events:read accounts:read"
    bearer = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    assert (await api.client.get("/api/v1/me", headers=bearer)).status_code == 200
    refused = await api.client.post(
        "/api/v1/channels/public.a/events", json={"data": 1}, headers=bearer
    )
    assert refused.status_code == 403
    narrow = await api.running.token("alice", scopes=["events:read"])
    answer = await api.client.post(TOKEN, data=GRANT, headers=basic("alice", narrow))
    assert answer.json()["scope"] == "events:read"


# --- too many failures ---------------------------------------------------------


async def test_who_fails_too_often_waits_and_nobody_else(api: Api, secret: str) -> None:
    wrong = basic("alice", "claw_wrong")
    for _ in range(int(PER_CLIENT[1])):
        check(await api.client.post(TOKEN, data=GRANT, headers=wrong), 401, "invalid_client")
    limited = await api.client.post(TOKEN, data=GRANT, headers=wrong)
    check(limited, 429, "temporarily_unavailable")
    assert int(limited.headers["retry-after"]) >= 1
    bob = basic("bob", await api.running.token("bob"))
    assert (await api.client.post(TOKEN, data=GRANT, headers=bob)).status_code == 200


def test_attempts_by_success_are_free_and_time_heals() -> None:
    clock = FakeClock()
    attempts = Attempts(clock)

    def is_limited(address: str, client: str) -> bool:
        try:
            attempts.check(address, client)
        except Exception as error:
            assert getattr(error, "code", None) == "rate_limited"
            return True
        return False

    assert not any(is_limited("a", "x") for _ in range(1_000))
    for _ in range(10):
        attempts.failed("a", "x")
    assert is_limited("a", "x") and is_limited("a", "X")
    assert not is_limited("a", "y") and not is_limited("b", "x")
    clock.advance(6)
    assert not is_limited("a", "x")
    for n in range(100):
        attempts.failed("a", f"client {n}")
    assert is_limited("a", "new") and not is_limited("b", "new")


def test_the_memory_of_failures_is_bounded() -> None:
    attempts = Attempts(FakeClock())
    for n in range(REMEMBERED_MAX * 2):
        attempts.failed(f"2001:db8::{n:x}", "x")
        assert len(attempts._buckets) <= REMEMBERED_MAX + 1
    assert len(attempts._buckets) > REMEMBERED_MAX // 4


# --- metadata --------------------------------------------------------------------


async def test_the_metadata_lead_to_the_token_endpoint(api: Api, secret: str) -> None:
    answer = await api.client.get(METADATA)
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    said = answer.json()
    assert said["issuer"] == api.running.url
    assert said["token_endpoint"] == f"{api.running.url}{TOKEN}"
    assert said["grant_types_supported"] == ["client_credentials"]
    assert said["response_types_supported"] == []
    assert "events:read" in said["scopes_supported"]
    given_ = await api.client.post(
        said["token_endpoint"], data=GRANT, headers=basic("alice", secret)
    )
    assert given_.status_code == 200


async def test_the_metadata_are_of_no_host_that_the_gate_refuses(api: Api) -> None:
    answer = await api.client.get(METADATA, headers={"Host": "evil.example"})
    assert answer.status_code == 403 and "evil" not in answer.headers.get("location", "")
    port = api.running.port
    answer = await api.client.get(METADATA, headers={"Host": f"localhost:{port}"})
    assert answer.json()["issuer"] == f"http://localhost:{port}"
