"""What a Centrifugo in front asks: who may, who may not, and that nobody else is answered."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clawnet.core.callers import HUB
from clawnet.core.calls.accounts import CreateAccount, DeleteAccount
from clawnet.core.calls.grants import Grant, Revoke
from clawnet.core.calls.reading import ReadHistory
from clawnet.core.calls.tokens import CreateToken, IssueJwt, RevokeToken
from clawnet.doors.centrifugo.settings import CentrifugoSettings
from clawnet.hub.settings import ChannelSettings, HubSettings, LimitSettings
from tests.doors.centrifugo.backend import SECRET, Backend, serving

NO = {"error": {"code": 403, "message": "permission denied"}}
OK: dict[str, Any] = {"result": {}}
WHAT = ("subscribe", "publish", "connect", "refresh")


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with serving() as made:
        for account in ("ada", "bob"):
            await made.hub.call(CreateAccount(id=account), caller=HUB)
        yield made


def asked(user: str, channel: str, **more: Any) -> dict[str, Any]:
    """A body as Centrifugo sends it."""
    return {
        "client": "9336a229-2400-4ebc-8c50-0a643d22e8a0",
        "transport": "websocket",
        "protocol": "json",
        "encoding": "json",
        "user": user,
        "channel": channel,
        **more,
    }


# --- who asks -----------------------------------------------------------------


@pytest.mark.parametrize("secret", [None, "", "wrong", SECRET + "x", SECRET[:-1], SECRET.upper()])
@pytest.mark.parametrize("what", WHAT)
async def test_nobody_else_finds_out_anything(
    backend: Backend, what: str, secret: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    body = asked("ada", "public.news", data=1)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            assert await backend.proxy(what, body, secret=secret) == NO
    # Whoever guesses does not fill the log.
    assert len([r for r in caplog.records if "X-Clawnet-Proxy-Secret" in r.message]) == 1
    assert backend.hub.published == 0


@pytest.mark.parametrize("secret", [None, ""])
async def test_without_a_secret_of_its_own_the_hub_refuses_everything(
    secret: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(settings=CentrifugoSettings(proxy_secret=secret)) as backend:
        await backend.hub.call(CreateAccount(id="ada"), caller=HUB)
        for given_secret in (None, "", SECRET):
            body = asked("ada", "public.news", data=1)
            for what in WHAT:
                assert await backend.proxy(what, body, secret=given_secret) == NO
    assert any("centrifugo.proxy_secret is not set" in r.message for r in caplog.records)


# --- subscribe ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "channel", "answer"),
    [
        ("ada", "public.news", OK),
        ("ada", "public.townsquare", OK),
        ("ada", "agent.ada.diary", OK),
        ("ada", "agent.ada.inbox", OK),
        ("ada", "agent.bob.public.feed", OK),
        ("ada", "system.timer.minute", OK),
        ("ada", "dm.ada.bob", OK),
        ("bob", "agent.ada.diary", NO),
        ("bob", "agent.ada.inbox", NO),
        ("ada", "room.team", NO),
        ("ada", "system.grants", NO),
        ("ada", "dm.bob.eve", NO),
        ("nobody-here", "public.news", NO),
        ("Ada", "agent.ada.diary", NO),
        ("ada", "", NO),
        ("ada", "chat:1", OK),
        ("ada", "closed:1", NO),
        ("ada", "nowhere:1", NO),
        ("ada", "invalid-channel", NO),
        ("ada", "agent.ada", NO),
        ("ada", "agent.*.diary", NO),
        ("ada", ">", NO),
        ("hub", "public.news", NO),
        ("", "agent.ada.diary", NO),
        ("", "system.timer.minute", NO),
    ],
)
async def test_a_user_follows_what_its_account_may_read(
    backend: Backend, user: str, channel: str, answer: Any
) -> None:
    assert await backend.proxy("subscribe", asked(user, channel)) == answer


async def test_a_grant_opens_and_a_revoke_closes(backend: Backend) -> None:
    ada = backend.hub.authenticate(await backend.token("ada"))
    question = asked("bob", "agent.ada.plan")
    assert await backend.proxy("subscribe", question) == NO
    await backend.hub.call(Grant(account="bob", channel="plan"), caller=ada)
    assert await backend.proxy("subscribe", question) == OK
    await backend.hub.call(Revoke(account="bob", channel="plan"), caller=ada)
    assert await backend.proxy("subscribe", question) == NO


async def test_a_deleted_account_is_nobody(backend: Backend) -> None:
    await backend.hub.call(DeleteAccount(id="bob"), caller=HUB)
    for what in WHAT[:2]:
        assert await backend.proxy(what, asked("bob", "public.news", data=1)) == NO


async def test_an_account_of_another_application_is_no_account_of_the_hub(
    backend: Backend,
) -> None:
    await backend.hub.call(CreateAccount(id="guest", kind="ext"), caller=HUB)
    assert await backend.proxy("subscribe", asked("guest", "public.news")) == NO


@pytest.mark.parametrize("anonymous_read", [True, False])
async def test_nobody_in_particular_reads_what_anyone_may(anonymous_read: bool) -> None:
    channels = ChannelSettings(anonymous_read=anonymous_read)
    hub_settings = HubSettings(limits=LimitSettings(enabled=False), channels=channels)
    async with serving(hub_settings=hub_settings, is_loopback=False) as backend:
        answer = OK if anonymous_read else NO
        assert await backend.proxy("subscribe", asked("", "public.news")) == answer
        assert await backend.proxy("subscribe", asked("", "room.x")) == NO
        assert await backend.proxy("publish", asked("", "public.news", data=1)) == NO
        connected = await backend.proxy("connect", asked("", ""))
        assert connected == ({"result": {"user": ""}} if anonymous_read else NO)


async def test_on_loopback_too_a_centrifugo_lends_its_nearness_to_nobody(backend: Backend) -> None:
    # What is convenient on a machine's own loopback is not for whoever reaches Centrifugo.
    assert await backend.proxy("subscribe", asked("", "public.news")) == NO
    assert await backend.proxy("connect", {"client": "c"}) == NO


# --- publish ------------------------------------------------------------------


async def test_a_publish_is_stored_before_it_is_answered(backend: Backend) -> None:
    answer = await backend.proxy("publish", asked("ada", "public.news", data={"n": 1}))
    data = answer["result"]["data"]
    assert data["payload"] == {"n": 1} and data["_claw"]["sender"] == "ada"
    reader = backend.hub.authenticate(await backend.token("bob"))
    page = await backend.hub.call(ReadHistory(channel="public.news"), caller=reader)
    event = json.loads(page.body)
    assert event["id"] == data["_claw"]["id"] and event["actor"]["id"] == "ada"
    assert event["origin"] == {"client": asked("", "")["client"], "via": "centrifugo"}


@pytest.mark.parametrize(
    ("user", "channel"),
    [
        ("ada", "agent.bob.public.feed"),
        ("ada", "agent.bob.plan"),
        ("ada", "system.timer.minute"),
        ("ada", "room.team"),
        ("ada", ""),
        ("nobody-here", "public.news"),
        ("", "public.news"),
        ("centrifugo-api", "public.news"),
    ],
)
async def test_nobody_publishes_where_it_may_not(backend: Backend, user: str, channel: str) -> None:
    assert await backend.proxy("publish", asked(user, channel, data=1)) == NO
    assert backend.hub.published == 0


async def test_a_publish_that_is_too_large_or_too_often_is_told_so() -> None:
    limits = LimitSettings(publish_per_s=0.001, publish_burst=2, data_max_bytes=1_000)
    async with serving(hub_settings=HubSettings(limits=limits)) as backend:
        await backend.hub.call(CreateAccount(id="ada"), caller=HUB)
        answers = [
            await backend.proxy("publish", asked("ada", "public.news", data=data))
            for data in ("x" * 2_000, "x" * 100_000, 1, 2, 3, 4)
        ]
    codes = [answer.get("error", {}).get("code") for answer in answers]
    assert codes[:2] == [413, 413] and codes[-1] == 429
    assert answers[-1]["error"]["temporary"] is True


async def test_what_has_no_data_is_not_published(backend: Backend) -> None:
    answer = await backend.proxy("publish", asked("ada", "public.news"))
    assert answer["error"]["code"] == 400
    assert backend.hub.published == 0


async def test_a_hub_that_stops_says_that_it_will_pass(backend: Backend) -> None:
    backend.hub.state = "stopping"
    for what in WHAT:
        answer = await backend.proxy(what, asked("ada", "public.news", data=1))
        assert answer["error"]["code"] == 503 and answer["error"]["temporary"] is True
    backend.hub.state = "ready"


# --- connect and refresh ------------------------------------------------------


async def test_a_token_in_the_data_connects_its_account(backend: Backend) -> None:
    token = await backend.token("ada")
    said = (await backend.proxy("connect", {"data": {"token": token}}))["result"]
    assert said["user"] == "ada" and said["info"]["role"] == "worker"
    now_s = backend.hub.retention.now_ms() / 1000
    assert now_s < said["expire_at"] <= now_s + 900
    assert token not in json.dumps(said)
    again = asked("ada", "agent.ada.diary", meta=said["meta"])
    assert await backend.proxy("subscribe", again) == OK


@pytest.mark.parametrize("data", [{"token": "x"}, {"token": 1}, "x", [], 7, {"token": "a.b.c"}])
async def test_what_is_no_token_connects_nobody(backend: Backend, data: Any) -> None:
    assert await backend.proxy("connect", {"data": data}) == NO


async def test_a_revoked_token_ends_what_it_connected(backend: Backend) -> None:
    ada = backend.hub.authenticate(await backend.token("ada"))
    made = await backend.hub.call(CreateToken(account="ada"), caller=HUB)
    said = (await backend.proxy("connect", {"data": {"token": made.token}}))["result"]
    body = asked("ada", "public.news", meta=said["meta"], data=1)
    assert "result" in await backend.proxy("publish", body)
    assert (await backend.proxy("refresh", body))["result"]["expire_at"]
    await backend.hub.call(RevokeToken(id=made.id), caller=ada)
    assert await backend.proxy("publish", body) == NO
    assert await backend.proxy("subscribe", body) == NO
    assert await backend.proxy("refresh", body) == {"result": {"expired": True}}


async def test_a_tokens_scopes_hold_here_too(backend: Backend) -> None:
    made = await backend.hub.call(CreateToken(account="ada", scopes=["events:read"]), caller=HUB)
    said = (await backend.proxy("connect", {"data": {"token": made.token}}))["result"]
    body = asked("ada", "public.news", meta=said["meta"], data=1)
    assert await backend.proxy("subscribe", body) == OK
    assert await backend.proxy("publish", body) == NO


@pytest.mark.parametrize("is_forgotten", [False, True])
async def test_a_jwts_end_and_revocation_hold_also_after_a_restart(
    backend: Backend, is_forgotten: bool
) -> None:
    ada = backend.hub.authenticate(await backend.token("ada"))
    call = IssueJwt(ttl_s=100, scopes=["events:read"])
    jwt = await backend.hub.call(call, caller=ada)
    said = (await backend.proxy("connect", {"data": {"token": jwt.token}}))["result"]
    body = asked("ada", "public.news", meta=said["meta"], data=1)
    if is_forgotten:
        backend.hub.directory.forget_transient(jwt.jti)
    assert await backend.proxy("subscribe", body) == OK
    assert await backend.proxy("publish", body) == NO, "its scopes are less than its account's"
    assert await backend.proxy("subscribe", {**body, "user": "bob"}) == NO
    if not is_forgotten:
        await backend.hub.call(RevokeToken(id=jwt.jti), caller=ada)
        assert await backend.proxy("subscribe", body) == NO
        return
    backend.rig.clock.advance(200)
    assert await backend.proxy("subscribe", body) == NO
    assert await backend.proxy("refresh", body) == {"result": {"expired": True}}


async def test_what_centrifugo_read_itself_is_not_prolonged(backend: Backend) -> None:
    assert await backend.proxy("refresh", asked("ada", "")) == {"result": {"expired": True}}
    assert await backend.proxy("refresh", asked("no", "")) == {"result": {"expired": True}}


async def test_a_token_of_another_world_connects_nobody(backend: Backend) -> None:
    token = await backend.other_world()
    assert await backend.proxy("connect", {"data": {"token": token}}) == NO


# --- hostile bodies -----------------------------------------------------------


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"user":1}', b"\xff", b"[" * 9_999, b" " * 2_000_000],
    ids=range(8),
)  # fmt: skip
@pytest.mark.parametrize("what", WHAT)
async def test_what_is_no_question_is_refused(backend: Backend, what: str, body: bytes) -> None:
    answer = await backend.http.post(
        f"/proxy/{what}", content=body, headers={"X-Clawnet-Proxy-Secret": SECRET}
    )
    assert answer.status_code == 200
    assert answer.json()["error"]["code"] in (400, 413)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["public.news", "ada", "bob", "room.x", "agent.bob.x", "", "*"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)  # fmt: skip
MEMBERS = st.sampled_from("client user channel data meta token name".split())


async def test_any_question_is_answered_as_documented(backend: Backend) -> None:
    """One hub for all: what one body leaves behind must not break the next."""
    asked_for = list(QUESTIONS)

    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(WHAT), st.dictionaries(MEMBERS, VALUES, max_size=5) | VALUES)
    def collect(what: str, body: Any) -> None:
        asked_for.append((what, body))

    collect()
    for what, body in asked_for:
        answer = await backend.proxy(what, body)
        assert ("result" in answer) != ("error" in answer)
        if "error" in answer:
            assert 400 <= answer["error"]["code"] <= 1999


QUESTIONS: list[tuple[str, Any]] = [
    (what, {"user": user, "channel": channel, "data": data, "meta": meta, "client": "c" * 999})
    for what in WHAT
    for user in ("ada", "", "\x00", "a" * 999)
    for channel in ("public.news", "\n", "x" * 999)
    for data in (None, {"token": ""}, [1])
    for meta in (None, {"tok": ""}, {"tok": "jwt_x", "scp": ["*"]}, {"tok": "tok_0"})
]
