"""A short-lived token is a bearer token on every door, and ends on every door at once.

Everybody here shows a JWT. What test_revoking demands of tokens is demanded of them too.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from websockets.asyncio.client import connect

from clawnet.core.errors import Unauthenticated
from clawnet.doors.http.app import build_app
from clawnet.doors.http.callers import REMEMBERED_MAX_BYTES, Callers
from clawnet.hub.vault import TOKEN_MAX_CHARS
from clawnet.testing.clocks import FakeClock
from clawnet.testing.running import running_hub
from tests.rights.population import a_hub, settings
from tests.rights.test_revoking import (  # noqa: F401 - run again, with JWTs
    team,
    test_while_an_interceptor_thinks,
    test_while_the_body_is_on_its_way,
)
from tests.rights.world import World


@pytest_asyncio.fixture
async def world() -> Any:
    """As the fixture of the same name, but everybody shows a JWT; `parents` has what they were
    made from."""
    async with a_hub() as running, AsyncExitStack() as stack:
        yield await by_jwt(await World(running, stack).people())


class Parents(dict[str, tuple[str, str]]):
    """account → (token id, token) behind its JWT."""


async def by_jwt(world: World) -> World:
    parents = Parents()
    for who, opaque in list(world.tokens.items()):
        parents[who] = (world.token_ids[who], opaque)
        made = await world.does(who, "POST", "/tokens/jwt", {})
        world.tokens[who], world.token_ids[who] = made["token"], made["jti"]
        client = world._clients.pop(who)
        await client.close()
    world.parents = parents  # type: ignore[attr-defined]
    return world


def parents_of(world: World) -> Parents:
    found: Parents = world.parents  # type: ignore[attr-defined]
    return found


async def statuses(world: World, who: str) -> dict[str, int]:
    """What each way of HTTP answers to a token; streams are opened and left."""
    client = await world.http(who)
    answers = {
        "me": await client.ask("GET", "/api/v1/me"),
        "publish": await client.ask("POST", "/api/v1/channels/public.a/events", {"data": 1}),
        "shell": await client.ask("POST", "/pub/public.a", b"1"),
        "batch": await client.ask(
            "POST", "/api/v1/events/batch", {"events": [{"channel": "public.a", "data": 1}]}
        ),
        "history": await client.ask("GET", "/api/v1/channels/public.a/events"),
        "jwt": await client.ask("POST", "/api/v1/tokens/jwt", {}),
        "tokens": await client.ask("GET", "/api/v1/tokens"),
        "metrics": await client.ask("GET", "/metrics"),
    }
    found = {name: answer.status_code for name, answer in answers.items()}
    for name, path in (("lines", "/sub/public.a"), ("sse", "/api/v1/events/stream")):
        params = {"channels": "public.a"} if name == "sse" else {}
        async with client.client.stream("GET", path, params=params) as stream:
            found[name] = stream.status_code
    return found


async def test_it_opens_every_door(world: World) -> None:
    found = await statuses(world, "wanda")
    assert set(found.values()) == {200, 201}, found
    socket = await world.socket("olga")
    assert (await socket.ask("publish", channel="public.a", data=1))["type"] == "ok"
    assert (await socket.ask("subscribe", channels=["agent.olga.inbox"]))["type"] == "ok"


async def test_it_opens_a_websocket_by_a_message(world: World) -> None:
    async with connect(world.running.ws_url, proxy=None, compression=None) as connection:
        await connection.send(
            json.dumps({"action": "auth", "id": 1, "token": world.tokens["olga"]})
        )
        answer = json.loads(await connection.recv())
        assert answer["type"] == "ok" and answer["account"] == "olga", answer


async def test_a_forged_one_opens_none(world: World) -> None:
    good = world.tokens["wanda"]
    world.tokens["forged"] = good[:-4] + ("AAAA" if good[-4:] != "AAAA" else "BBBB")
    found = await statuses(world, "forged")
    assert set(found.values()) == {401}, found
    with pytest.raises(AssertionError, match="handshake"):
        await world.socket("forged")
    async with connect(world.running.ws_url, proxy=None, compression=None) as connection:
        token = world.tokens["forged"]
        await connection.send(json.dumps({"action": "auth", "id": 1, "token": token}))
        answer = json.loads(await connection.recv())
        assert answer["error"]["code"] == "unauthenticated"


@pytest.mark.parametrize("way", ["itself", "its token", "its account"])
async def test_revoked_it_closes_every_door_at_once(world: World, way: str) -> None:
    assert 401 not in (await statuses(world, "greta")).values()
    sockets = [await world.socket("greta") for _ in range(2)]
    for socket in sockets:
        assert (await socket.ask("subscribe", channels=["public.a"]))["type"] == "ok"
    client = await world.http("greta")
    poll = asyncio.ensure_future(
        client.client.get("/api/v1/channels/public.quiet/events", params={"since": "0", "wait": 30})
    )
    path = {
        "itself": f"/tokens/{world.token_ids['greta']}",
        "its token": f"/tokens/{parents_of(world)['greta'][0]}",
        "its account": "/accounts/greta",
    }[way]
    # The hub has begun to wait before it answers another connection's later requests.
    for _ in range(2):
        await world.does("olga", "GET", "/me")
    await world.does("max", "DELETE", path)
    found = await statuses(world, "greta")
    assert set(found.values()) == {401}, found
    for socket in sockets:
        assert await socket.closed() == 4403
    await world.publish("olga", "public.quiet", "late")
    assert (await poll).status_code == 401
    assert "late" not in (await poll).text


async def test_its_account_gets_another_role_and_so_does_it(world: World) -> None:
    client = await world.http("wanda")
    assert (await client.ask("GET", "/metrics")).status_code == 200
    await world.does("max", "PATCH", "/accounts/wanda", {"role": "worker"})
    assert (await client.ask("GET", "/metrics")).status_code == 403


async def test_a_stranger_neither_sees_nor_ends_it(world: World) -> None:
    stranger = world.stranger("other", "olga", role="master")
    jti = world.token_ids["olga"]
    for who in ("greta", "wanda", stranger):
        answer = await world.ask(who, "DELETE", f"/tokens/{jti}")
        assert answer.status_code == 404, answer.text
    listed = await world.does(stranger, "GET", "/tokens?account=olga")
    assert jti not in json.dumps(listed)
    assert (await world.ask("olga", "GET", "/me")).status_code == 200


async def test_one_of_another_world_says_so_and_nothing_else(world: World) -> None:
    stranger = world.stranger("other", "olga")
    made = await world.does(stranger, "POST", "/tokens/jwt", {})
    assert (await world.does(made["token"], "GET", "/me"))["world"] == "other"
    assert (await world.ask(made["token"], "GET", "/accounts/max")).status_code in (403, 404)


@pytest.mark.parametrize("is_hot", [True, False], ids=["publishing", "calling"])
async def test_the_doors_memory_of_it_ends_with_it(is_hot: bool) -> None:
    """The hot routes remember which token a header stands for; it must not outlive the token."""
    clock = FakeClock()
    async with a_hub(clock=clock) as running, AsyncExitStack() as stack:
        world = await World(running, stack).people()
        body: Any = {"ttl_s": 60}
        expiring = await world.does("olga", "POST", "/tokens/jwt", body)
        revoked = await world.does("olga", "POST", "/tokens/jwt", body)

        async def use(token: str) -> int:
            if is_hot:
                path, data = "/channels/public.a/events", {"data": 1}
                return (await world.ask(token, "POST", path, data)).status_code
            return (await world.ask(token, "GET", "/me")).status_code

        for made in (expiring, revoked) * 2:
            assert await use(made["token"]) in (200, 201)
        await world.does("olga", "DELETE", f"/tokens/{revoked['jti']}")
        assert await use(revoked["token"]) == 401
        clock.advance(59)
        assert await use(expiring["token"]) in (200, 201)
        clock.advance(1)
        assert await use(expiring["token"]) == 401
        running.hub.directory.expire_transients(before_ms=running.hub.retention.now_ms() + 1)
        assert await use(expiring["token"]) == 401
        with pytest.raises(Unauthenticated):
            running.hub.authenticate(expiring["token"])


async def test_what_the_hot_routes_remember_is_never_a_caller_who_is_over() -> None:
    clock = FakeClock()
    async with a_hub(clock=clock) as running, AsyncExitStack() as stack:
        world = await World(running, stack).people()
        made = await world.does("olga", "POST", "/tokens/jwt", {"ttl_s": 60})
        callers = Callers(running.hub)
        headers = {b"authorization": f"Bearer {made['token']}".encode()}
        assert callers.of(headers) is callers.of(headers)
        clock.advance(60)
        with pytest.raises(Unauthenticated, match="expired"):
            callers.of(headers)


async def test_what_the_hot_routes_remember_is_bounded_however_a_token_is_written() -> None:
    async with a_hub() as running, AsyncExitStack() as stack:
        world = await World(running, stack).people()
        callers = Callers(running.hub)
        token = world.tokens["olga"].encode()
        for n in range(3_000):
            padding = b" " * (1_000 + n if n % 2 else 30_000 + n)
            caller = callers.of({b"authorization": b"Bearer " + padding + token})
            assert caller.account == "olga"
            assert sum(map(len, callers._ids)) <= REMEMBERED_MAX_BYTES
            assert all(len(given) <= TOKEN_MAX_CHARS + 16 for given in callers._ids)
        plain = {b"authorization": b"Bearer " + token}
        assert callers.of(plain) is callers.of(plain) and plain[b"authorization"] in callers._ids


async def test_after_a_restart_it_holds_unless_it_was_revoked(tmp_path: Any) -> None:
    clock = FakeClock()
    tokens: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(
            running_hub("sqlite", settings=settings(), make_app=build_app, data_dir=tmp_path,
                        clock=clock)
        )  # fmt: skip
        world = await World(running, stack).people()
        for name in ("kept", "revoked", "unseen", "orphan"):
            maker = "greta" if name == "orphan" else "olga"
            tokens[name] = await world.does(maker, "POST", "/tokens/jwt", {})
            if name != "unseen":
                assert (await world.ask(tokens[name]["token"], "GET", "/me")).status_code == 200
        opaque = world.tokens["olga"]
        await world.does("olga", "DELETE", f"/tokens/{tokens['revoked']['jti']}")
        await world.revoke_token("greta")
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(
            running_hub("sqlite", settings=settings(), make_app=build_app, data_dir=tmp_path,
                        clock=clock)
        )  # fmt: skip
        world = World(running, stack)
        found = {
            name: (await world.ask(made["token"], "GET", "/me")).status_code
            for name, made in tokens.items()
            if name != "unseen"
        }
        assert found == {"kept": 200, "revoked": 401, "orphan": 401}
        # Never shown to either run, and revoked by its name alone.
        await world.does(opaque, "DELETE", f"/tokens/{tokens['unseen']['jti']}")
        assert (await world.ask(tokens["unseen"]["token"], "GET", "/me")).status_code == 401
