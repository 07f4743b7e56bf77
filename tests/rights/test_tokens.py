"""A token gives no more than it has, outlives nothing, and ends when it is told to."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from clawnet.core.errors import Unauthenticated
from clawnet.doors.http.app import build_app
from clawnet.testing.clocks import FakeClock
from clawnet.testing.running import running_hub
from tests.rights.population import a_hub, settings
from tests.rights.world import World

SCOPES = [
    "events:read",
    "events:write",
    "accounts:read",
    "accounts:write",
    "tokens:write",
    "grants:write",
]


@pytest.mark.parametrize("who", ["olga", "max"])
@pytest.mark.parametrize("wanted", [*SCOPES[:4], "grants:write", "*"])
async def test_a_token_gives_no_scope_that_it_lacks(world: World, who: str, wanted: str) -> None:
    made = await world.does(who, "POST", "/tokens", {"scopes": ["tokens:write"]})
    for scopes in ([wanted], ["tokens:write", wanted]):
        answer = await world.ask(made["token"], "POST", "/tokens", {"scopes": scopes})
        assert answer.status_code == 403, answer.text
    answer = await world.ask(made["token"], "POST", "/tokens", {})
    assert answer.status_code == 403, "the default is everything"


async def test_a_narrow_masters_token_does_not_widen_itself_through_another(world: World) -> None:
    made = await world.does("max", "POST", "/tokens", {"scopes": ["tokens:write", "events:read"]})
    for account in ("max", "wanda", "olga"):
        body = {"account": account, "scopes": ["events:write"]}
        assert (await world.ask(made["token"], "POST", "/tokens", body)).status_code == 403


@pytest.mark.parametrize("scope", [scope for scope in SCOPES if scope != "tokens:write"])
async def test_making_and_revoking_tokens_needs_its_own_scope(world: World, scope: str) -> None:
    made = await world.does("max", "POST", "/tokens", {"scopes": [scope]})
    answer = await world.ask(made["token"], "POST", "/tokens", {"scopes": [scope]})
    assert answer.status_code == 403
    answer = await world.ask(made["token"], "DELETE", f"/tokens/{world.token_ids['olga']}")
    assert answer.status_code == 403
    assert (await world.ask("olga", "GET", "/me")).status_code == 200
    answer = await world.ask(made["token"], "DELETE", f"/tokens/{made['id']}")
    assert answer.status_code == 200, "any token can end itself"


@pytest.mark.parametrize("scope", [scope for scope in SCOPES if scope != "accounts:read"])
async def test_reading_accounts_needs_its_own_scope(world: World, scope: str) -> None:
    made = await world.does("max", "POST", "/tokens", {"scopes": [scope]})
    for path in ("/accounts", "/accounts/olga"):
        assert (await world.ask(made["token"], "GET", path)).status_code == 403


@pytest.mark.parametrize("scope", [scope for scope in SCOPES if scope != "accounts:write"])
async def test_changing_accounts_needs_its_own_scope(world: World, scope: str) -> None:
    made = await world.does("max", "POST", "/tokens", {"scopes": [scope]})
    for method, path, body in (
        ("POST", "/accounts", {"id": "new"}),
        ("PATCH", "/accounts/olga", {"role": "master"}),
        ("PATCH", "/accounts/max", {"handle": "Max"}),
        ("DELETE", "/accounts/olga", None),
    ):
        assert (await world.ask(made["token"], method, path, body)).status_code == 403


@pytest.mark.parametrize("who", ["olga", "wanda", "anyone"])
async def test_only_a_master_handles_others(world: World, who: str) -> None:
    """Not a worker, and not a warden either."""
    for method, path, body in (
        ("POST", "/accounts", {"id": "new"}),
        ("PATCH", "/accounts/greta", {"handle": "x"}),
        ("PATCH", "/accounts/greta", {"role": "worker"}),
        ("PATCH", f"/accounts/{who}", {"role": "master"}),
        ("DELETE", "/accounts/greta", None),
        ("DELETE", f"/accounts/{who}", None),
        ("POST", "/tokens", {"account": "greta"}),
        ("POST", "/tokens", {"account": "max"}),
        ("GET", "/tokens?account=greta", None),
    ):
        answer = await world.ask(who, method, path, body)
        assert answer.status_code == (401 if who == "anyone" else 403), f"{path}: {answer.text}"
    answer = await world.ask(who, "DELETE", f"/tokens/{world.token_ids['greta']}")
    assert answer.status_code == (401 if who == "anyone" else 404), "ids tell nothing"
    unknown = await world.ask(who, "DELETE", "/tokens/tok_0000000000000000")
    assert unknown.status_code == answer.status_code
    assert (await world.ask("greta", "GET", "/me")).status_code == 200


async def test_a_token_is_outlived_by_none_that_it_made() -> None:
    clock = FakeClock()
    async with a_hub(clock=clock) as running, AsyncExitStack() as stack:
        world = await World(running, stack).people()
        first = await world.does("olga", "POST", "/tokens", {"expires_in_s": 60})
        made = []
        for seconds in (None, 30, 3_600):
            body = {} if seconds is None else {"expires_in_s": seconds}
            made.append(await world.does(first["token"], "POST", "/tokens", body))
        grandchild = await world.does(made[0]["token"], "POST", "/tokens", {})
        assert [m["expires"] for m in (made[0], made[2], grandchild)] == [first["expires"]] * 3
        clock.advance(61.0)
        for token in (first, *made, grandchild):
            assert (await world.ask(token["token"], "GET", "/me")).status_code == 401
            with pytest.raises(Unauthenticated):
                running.hub.authenticate(token["token"])


async def test_a_revoked_token_ends_its_websockets_and_streams(world: World) -> None:
    """Those of this token, at once, and no others of its account."""
    other = (await world.does("olga", "POST", "/tokens", {}))["token"]
    stays = await world.socket(other)
    for socket in (stays, ended := await world.socket("olga")):
        await socket.ask("subscribe", channels=["public.news", "agent.olga.>"])
    client = await world.http("olga")
    async with client.client.stream(
        "GET", "/api/v1/events/stream", params={"channels": "public.news"}
    ) as stream:
        await world.revoke_token("olga")
        await world.publish("greta", "public.news", "too late")
        assert await ended.closed() == 4403
        text = "".join([piece async for piece in stream.aiter_text()])
    assert "event: close" in text
    assert "too late" not in text + ended.text
    await stays.rest()
    assert "too late" in stays.text
    assert (await world.ask("olga", "GET", "/me")).status_code == 401
    assert (await world.ask(other, "GET", "/me")).status_code == 200


async def test_a_deleted_accounts_connections_end(world: World) -> None:
    socket = await world.socket("walt")
    await socket.ask("subscribe", channels=["public.news"])
    await world.does("max", "DELETE", "/accounts/walt")
    await world.publish("greta", "public.news", "too late")
    assert await socket.closed() == 4403
    assert "too late" not in socket.text
    assert (await world.ask("walt", "GET", "/me")).status_code == 401


async def test_a_demoted_warden_hears_no_more(world: World) -> None:
    """What it may still read goes on; the rest ends before the answer comes."""
    wide, exact = await world.socket("wanda"), await world.socket("wanda")
    await wide.ask("subscribe", channels=[">"])
    await exact.ask("subscribe", channels=["dm.greta.olga"])
    await world.does("max", "PATCH", "/accounts/wanda", {"role": "worker"})
    await world.publish("greta", "dm.greta.olga", "between us")
    await world.publish("greta", "public.news", "to all")
    await wide.rest()
    await exact.rest()
    assert "to all" in wide.text
    assert "between us" not in wide.text + exact.text
    assert any(frame["type"] == "ended" for frame in exact.frames)


async def test_what_was_taken_stays_taken_after_a_restart(tmp_path: Path) -> None:
    """Tokens, accounts, grants, locks and blocks, with the durable engine."""

    def start(stack: AsyncExitStack):
        return stack.enter_async_context(
            running_hub("sqlite", settings=settings(), make_app=build_app, data_dir=tmp_path)
        )

    async with AsyncExitStack() as stack:
        try:
            running = await start(stack)
        except ValueError as error:
            pytest.skip(str(error))
        world = await World(running, stack).people()
        for channel in ("shared", "former", "open", "shut"):
            await world.publish("olga", f"agent.olga.{channel}", "secret")
        await world.grant("olga", "greta", "shared")
        await world.grant("olga", "greta", "former")
        await world.revoke("olga", "greta", "former")
        for path in ("open/unlock", "shut/unlock", "shut/lock"):
            await world.does("olga", "POST", f"/channels/agent.olga.{path}")
        await world.does("olga", "PUT", "/blocks/greta")
        revoked = await world.does("olga", "POST", "/tokens", {})
        await world.does("olga", "DELETE", f"/tokens/{revoked['id']}")
        await world.does("max", "DELETE", "/accounts/walt")
        tokens = world.tokens
    async with AsyncExitStack() as stack:
        world = World(await start(stack), stack)
        world.tokens = tokens
        for token in (revoked["token"], tokens["walt"]):
            assert (await world.ask(token, "GET", "/me")).status_code == 401
        for channel, status in (("shared", 200), ("former", 403), ("open", 200), ("shut", 403)):
            path = f"/channels/agent.olga.{channel}/events"
            assert (await world.ask("greta", "GET", path)).status_code == status, channel
        inbox = await world.ask("greta", "POST", "/channels/agent.olga.inbox/events", {"data": 1})
        assert inbox.status_code == 403
        assert (await world.ask("max", "POST", "/accounts", {"id": "walt"})).status_code == 409


async def test_an_expired_token_ends_its_connections() -> None:
    clock = FakeClock()
    async with a_hub(clock=clock) as running, AsyncExitStack() as stack:
        world = await World(running, stack).people()
        made = await world.does("olga", "POST", "/tokens", {"expires_in_s": 60})
        socket = await world.socket(made["token"])
        await socket.ask("subscribe", channels=["public.news"])
        polling = asyncio.ensure_future(
            world.ask(made["token"], "GET", "/channels/public.news/events?since=1&wait=30")
        )
        await world.does("greta", "GET", "/me")
        first = await socket.ask("publish", channel="public.news", data="in time")
        assert first["type"] == "ok"
        clock.advance(61.0)
        said = await socket.ask("publish", channel="public.news", data="too late")
        assert said["error"]["code"] == "unauthenticated"
        assert await socket.closed() == 4401
        await world.publish("greta", "public.news", "too late")
        assert "too late" not in (await polling).text
