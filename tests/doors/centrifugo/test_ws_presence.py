"""Who is there, who comes and goes, and who is told of it."""

import msgspec

from clawnet.core.errors import ClawError
from clawnet.doors.centrifugo.wire import StreamPosition
from clawnet.testing.running import Running
from tests.doors.centrifugo.sockets import fill, foreign, gone, socket


async def test_presence_shows_who_follows_a_channel(hub: Running) -> None:
    async with (
        socket(hub, await hub.token("alice")) as alice,
        socket(hub, await hub.token("bob")) as bob,
        socket(hub, await hub.token("bob")) as again,
    ):
        for client in (alice, bob, again):
            await client.subscribe("chat:p")
        found = (await alice.done(presence={"channel": "chat:p"}))["presence"]
        assert sorted(info["user"] for info in found.values()) == ["alice", "bob", "bob"]
        assert all(key == info["client"] for key, info in found.items())
        infos = [info["conn_info"] for info in found.values()]
        assert {"handle": "alice", "role": "worker"} in infos
        stats = await alice.done(presence_stats={"channel": "chat:p"})
        assert stats == {"num_clients": 3, "num_users": 2}
        await bob.done(unsubscribe={"channel": "chat:p"})
        stats = await alice.done(presence_stats={"channel": "chat:p"})
        assert stats == {"num_clients": 2, "num_users": 2}


async def test_presence_of_an_empty_channel_is_empty(hub: Running) -> None:
    async with socket(hub, await hub.token("alice")) as alice:
        assert await alice.done(presence={"channel": "chat:p"}) == {"presence": {}}
        stats = await alice.done(presence_stats={"channel": "chat:p"})
        assert stats == {"num_clients": 0, "num_users": 0}


async def test_presence_knows_an_alias_by_its_channel(hub: Running) -> None:
    async with socket(hub, await hub.token("alice")) as alice:
        await alice.subscribe("global")
        found = (await alice.done(presence={"channel": "public.lobby"}))["presence"]
        assert [info["user"] for info in found.values()] == ["alice"]


async def test_a_join_is_told_to_all_and_to_the_joiner_after_its_answer(hub: Running) -> None:
    async with (
        socket(hub, await hub.token("alice")) as alice,
        socket(hub, await hub.token("bob")) as bob,
    ):
        await alice.subscribe("busy:x")
        own = await alice.push("join")
        assert (own["in"], own["info"]["user"]) == ("busy:x", "alice")
        await bob.subscribe("busy:x")
        assert (await bob.push("join"))["info"]["user"] == "bob"
        joined = await alice.push("join")
        assert joined["info"]["user"] == "bob"
        await bob.done(unsubscribe={"channel": "busy:x"})
        left = await alice.push("leave")
        assert left["info"] == joined["info"]


async def test_who_is_cut_off_has_left(hub: Running) -> None:
    async with socket(hub, await hub.token("alice")) as alice:
        await alice.subscribe("busy:x")
        await alice.push("join")
        async with socket(hub, await hub.token("bob")) as bob:
            await bob.subscribe("busy:x")
            assert (await alice.push("join"))["info"]["user"] == "bob"
            bob.inner.transport.abort()
            assert (await alice.push("leave"))["info"]["user"] == "bob"


async def test_joins_are_told_where_they_are_not_forced_to_who_asks(hub: Running) -> None:
    async with (
        socket(hub, await hub.token("alice")) as alice,
        socket(hub, await hub.token("bob")) as bob,
    ):
        await alice.subscribe("chat:x", join_leave=True)
        assert (await alice.push("join"))["info"]["user"] == "alice"
        await bob.subscribe("chat:x")
        assert (await alice.push("join"))["info"]["user"] == "bob"
        await bob.done(unsubscribe={"channel": "chat:x"})
        assert (await alice.push("leave"))["info"]["user"] == "bob"
        # Bob did not ask: the next thing he hears is his answer.
        assert await bob.done(presence={"channel": "chat:x"})


async def test_where_joins_are_off_nobody_is_told(hub: Running) -> None:
    async with (
        socket(hub, await hub.token("alice")) as alice,
        socket(hub, await hub.token("bob")) as bob,
    ):
        await alice.subscribe("quiet:x", join_leave=True)
        await bob.subscribe("quiet:x", join_leave=True)
        assert await alice.done(unsubscribe={"channel": "public.a"}) == {}


async def test_the_hubs_own_channels_tell_of_joins_by_the_name_that_was_used(
    hub: Running,
) -> None:
    async with (
        socket(hub, await hub.token("alice")) as alice,
        socket(hub, await hub.token("bob")) as bob,
    ):
        await alice.subscribe("global", join_leave=True)
        assert (await alice.push("join"))["in"] == "global"
        await bob.subscribe("public.lobby", join_leave=True)
        assert (await bob.push("join"))["in"] == "public.lobby"
        joined = await alice.push("join")
        assert (joined["in"], joined["info"]["user"]) == ("global", "bob")


async def test_users_of_another_world_are_not_seen(hub: Running) -> None:
    async with socket(hub, await hub.token("alice")) as alice:
        await alice.subscribe("chat:x")
        clients = hub.centrifugo.clients
        assert clients.presence("other", "chat:x") == {}
        assert clients.stats("other", "chat:x") == (0, 0)
        assert clients.channels("other") == {}
        assert clients.of_user("other", "alice") == []
        assert clients.channels("main") == {"chat:x": 1}


# --- what the server API does with a client -----------------------------------------


async def test_the_application_subscribes_a_client_and_takes_it_out(hub: Running) -> None:
    await fill(hub, "$vip", 2)
    async with socket(hub, foreign(sub="42")) as client:
        (made,) = hub.centrifugo.clients.of_user("main", "42")
        made.subscribe("$vip", data=msgspec.Raw(b'{"a":1}'))
        told = await client.push("subscribe")
        assert (told["in"], told["offset"], told["recoverable"]) == ("$vip", 2, True)
        assert told["data"] == {"a": 1}
        made.subscribe("$vip")
        await fill(hub, "$vip", 1, start=3)
        assert (await client.push())["data"] == {"n": 3}
        assert made.unsubscribe("$vip") is True
        assert made.unsubscribe("$vip") is False
        ended = await client.push("unsubscribe")
        assert (ended["in"], ended["code"], ended["reason"]) == (
            "$vip",
            2000,
            "server unsubscribe",
        )
        assert (await client.refused(subscribe={"channel": "$vip"}))["code"] == 103


async def test_the_application_gives_a_client_what_it_missed(hub: Running) -> None:
    await fill(hub, "chat:x", 5)
    async with socket(hub, foreign(sub="42")) as client:
        (made,) = hub.centrifugo.clients.of_user("main", "42")
        made.subscribe("chat:x", since=StreamPosition(offset=3))
        assert (await client.push("subscribe"))["offset"] == 3
        assert [(await client.push())["data"]["n"] for _ in range(2)] == [4, 5]
        made.unsubscribe("chat:x")
        await client.push("unsubscribe")
        made.subscribe("chat:x", since=StreamPosition(offset=3, epoch="other"))
        assert (await client.push("subscribe"))["offset"] == 5


async def test_the_application_cannot_open_the_hubs_own_channels(hub: Running) -> None:
    await hub.token("alice")
    async with socket(hub, foreign(sub="42")) as client:
        (made,) = hub.centrifugo.clients.of_user("main", "42")
        for name in ("agent.alice.x", "no:x", "a b"):
            try:
                made.subscribe(name)
            except ClawError:
                continue
            raise AssertionError(f"{name} was opened")
        assert await client.done(unsubscribe={"channel": "public.a"}) == {}


async def test_the_application_ends_a_connection_with_its_own_code(hub: Running) -> None:
    async with socket(hub, foreign(sub="42")) as client:
        (made,) = hub.centrifugo.clients.of_user("main", "42")
        made.disconnect(4_500, "banned")
        assert await client.closed() == (4_500, "banned")
        await gone(hub)
        assert hub.centrifugo.clients.of_user("main", "42") == []


async def test_an_expiry_that_the_application_moves_is_told(hub: Running) -> None:
    now_ms = hub.hub.retention.now_ms()
    async with socket(hub, foreign(sub="42", exp=now_ms // 1000 + 60)) as client:
        (made,) = hub.centrifugo.clients.of_user("main", "42")
        made.refreshed(expires_ms=now_ms + 1_000_000)
        told = await client.push("refresh")
        assert told["expires"] is True
        assert 990 <= told["ttl"] <= 1_000
