"""Who may connect and subscribe by which token, and what happens when it ends."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from clawnet.core.callers import HUB
from clawnet.core.calls.tokens import IssueJwt, RevokeToken
from clawnet.core.errors import Unauthenticated
from clawnet.doors.centrifugo.settings import CentrifugoSettings
from clawnet.hub.settings import ChannelSettings, HubSettings
from clawnet.testing.clocks import FakeClock
from clawnet.testing.running import Running
from tests.doors.centrifugo.sockets import (
    NAMESPACES,
    SETTINGS,
    Socket,
    door_of,
    foreign,
    socket,
)

NOW_S = 1_800_000_000


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(wall_ms=NOW_S * 1000)


@pytest.fixture
async def timed(clock: FakeClock) -> AsyncIterator[Running]:
    """A hub whose time is the test's."""
    async with door_of(clock=clock) as running:
        yield running


def later(hub: Running, clock: FakeClock, seconds: float) -> None:
    """Let time pass for tokens and for the wheel; whoever is pinged answers."""
    for _ in range(int(seconds)):
        clock.advance(1)
        hub.pass_time(1.0)
        for client in hub.centrifugo.clients.all():
            # As its pong would.
            client.is_pinged = False


# --- connecting -----------------------------------------------------------------


async def test_without_a_token_who_may_read_publicly_connects(hub: Running) -> None:
    async with socket(hub, connects=True) as anyone:
        await anyone.subscribe("public.lobby")
        await anyone.subscribe("open:x")
        assert (await anyone.refused(subscribe={"channel": "chat:x"}))["code"] == 103
        refused = await anyone.refused(publish={"channel": "public.lobby", "data": 1})
        assert refused["code"] == 103
        refused = await anyone.refused(subscribe={"channel": "agent.alice.x"})
        assert refused["code"] == 103


async def test_where_nobody_may_a_connect_without_a_token_ends() -> None:
    closed = HubSettings(channels=ChannelSettings(anonymous_read=False))
    async with door_of(closed) as hub, socket(hub) as anyone:
        await anyone.say({"id": 1, "connect": {}})
        assert await anyone.closed() == (3501, "bad request")


async def test_the_doors_own_option_opens_free_names_only() -> None:
    settings = HubSettings(channels=ChannelSettings(anonymous_read=False, namespaces=NAMESPACES))
    chosen = CentrifugoSettings(anonymous=True)
    async with door_of(settings, centrifugo=chosen) as hub, socket(hub, connects=True) as anyone:
        await anyone.subscribe("open:x")
        assert (await anyone.refused(subscribe={"channel": "public.lobby"}))["code"] == 103


async def test_in_insecure_mode_declared_free_names_are_open_and_nothing_else() -> None:
    chosen = CentrifugoSettings(insecure=True)
    async with door_of(centrifugo=chosen) as hub, socket(hub, connects=True) as anyone:
        await anyone.subscribe("$private")
        await anyone.say({"id": 9, "publish": {"channel": "$private", "data": 1}})
        heard = [await anyone.hear(), await anyone.hear()]
        assert any("push" in each for each in heard)
        refused = await anyone.refused(publish={"channel": "public.lobby", "data": 1})
        assert refused["code"] == 103
        assert (await anyone.refused(subscribe={"channel": "agent.alice.x"}))["code"] == 103
        assert (await anyone.refused(subscribe={"channel": "no:x"}))["code"] == 102


@pytest.mark.parametrize(
    "token",
    ["x", "clw_wrong", "a.b.c", foreign(sub="42") + "x", foreign(sub="42", channel="chat:x")],
    ids=["short", "unknown", "no-jwt", "bad-signature", "a-subscription-token"],
)
async def test_a_token_that_is_none_ends_the_connection(hub: Running, token: str) -> None:
    async with socket(hub) as client:
        await client.say({"id": 1, "connect": {"token": token}})
        assert await client.closed() == (3500, "invalid token")


async def test_an_expired_token_can_be_replaced_by_another_connect(timed: Running) -> None:
    async with socket(timed) as client:
        refused = await client.refused(connect={"token": foreign(sub="42", exp=NOW_S - 1)})
        assert refused == {"code": 109, "message": "token expired"}
        # This connection is of no use any more.
        await client.say({"id": 2, "subscribe": {"channel": "chat:x"}})
        assert await client.closed() == (3501, "bad request")
    async with socket(timed) as client:
        refused = await client.refused(connect={"token": foreign(sub="42", nbf=NOW_S + 60)})
        assert refused["code"] == 109
        timed.pass_time(11.0)
        assert await client.closed() == (3502, "stale")


async def test_a_foreign_user_is_called_as_its_token_says(hub: Running) -> None:
    token = foreign(sub="User 42", info={"name": "Ann"})
    async with socket(hub, token) as client:
        await client.subscribe("chat:x")
        found = (await client.done(presence={"channel": "chat:x"}))["presence"]
        (info,) = found.values()
        assert info["user"] == "User 42"
        assert info["conn_info"] == {"name": "Ann"}
        await client.say({"id": 9, "publish": {"channel": "chat:x", "data": "hi"}})
        heard = [await client.hear(), await client.hear()]
        pub = next(each["push"]["pub"] for each in heard if "push" in each)
        assert pub["data"] == "hi"
        assert (pub["info"]["user"], pub["info"]["client"]) == ("User 42", info["client"])


async def test_a_foreign_token_is_no_account_of_the_hub(hub: Running) -> None:
    await hub.token("alice")
    async with socket(hub, foreign(sub="alice")) as client:
        refused = await client.refused(subscribe={"channel": "agent.alice.inbox"})
        assert refused["code"] == 103


async def test_no_user_has_a_channel_of_its_own_unless_that_is_chosen(hub: Running) -> None:
    async with socket(hub) as client:
        assert "subs" not in await client.connect(foreign(sub="42"))


@pytest.mark.parametrize(
    ("namespace", "name"), [("", "#42"), ("chat", "chat:#42"), ("nowhere", None)]
)
async def test_a_users_own_channel_is_followed_by_all_its_connections(
    namespace: str, name: str | None
) -> None:
    chosen = CentrifugoSettings(personal_channels=True, personal_namespace=namespace)
    async with (
        door_of(centrifugo=chosen) as hub,
        socket(hub) as one,
        socket(hub) as two,
        socket(hub, await hub.token("alice")) as other,
    ):
        for client in (one, two):
            answer = await client.connect(foreign(sub="42"))
            assert list(answer.get("subs", {})) == ([name] if name else [])
        if name is None:
            return
        assert (await other.refused(subscribe={"channel": name}))["code"] == 103
        await one.say({"id": 9, "publish": {"channel": name, "data": 1}})
        assert (await two.push())["in"] == name


async def test_a_users_own_channel_is_nobody_elses() -> None:
    """`#42,43` is for the users 42 and 43, and not for one who is called so."""
    chosen = CentrifugoSettings(personal_channels=True)
    async with door_of(centrifugo=chosen) as hub:
        for user in ("42,43", "a#b"):
            async with socket(hub) as client:
                answer = await client.connect(foreign(sub=user))
                assert "subs" not in answer
        async with socket(hub, connects=True) as anyone:
            assert (await anyone.refused(subscribe={"channel": "#42"}))["code"] == 103


async def test_a_token_brings_its_subscriptions(hub: Running) -> None:
    token = foreign(sub="42", subs={"$vip": {"data": {"a": 1}, "info": {"b": 2}}})
    async with socket(hub) as client:
        answer = await client.connect(token)
        assert answer["subs"]["$vip"]["data"] == {"a": 1}
        assert answer["subs"]["$vip"]["recoverable"] is True
        (info,) = (await client.done(presence={"channel": "$vip"}))["presence"].values()
        assert info["chan_info"] == {"b": 2}
        alice = await hub.token("alice")
        async with socket(hub, alice) as other:
            assert (await other.refused(subscribe={"channel": "$vip"}))["code"] == 103
        await client.done(unsubscribe={"channel": "$vip"})
        assert (await client.refused(subscribe={"channel": "$vip"}))["code"] == 103


async def test_a_subscription_to_an_undeclared_name_refuses_the_connect(hub: Running) -> None:
    async with socket(hub) as client:
        refused = await client.refused(connect={"token": foreign(sub="42", channels=["no:x"])})
        assert refused["code"] == 102
        assert hub.centrifugo.clients.num_clients == 0


# --- subscription tokens ----------------------------------------------------------


async def test_a_subscription_token_opens_its_channel_to_its_user(hub: Running) -> None:
    async with socket(hub, foreign(sub="42")) as client:
        ticket = foreign(sub="42", channel="$vip", info={"vip": True}, data={"hello": 1})
        begun = await client.subscribe("$vip", token=ticket)
        assert (begun["recoverable"], begun["data"]) == (True, {"hello": 1})
        (info,) = (await client.done(presence={"channel": "$vip"}))["presence"].values()
        assert info["chan_info"] == {"vip": True}
        await client.done(unsubscribe={"channel": "$vip"})
        # The ticket was the subscription's.
        refused = await client.refused(history={"channel": "$vip", "limit": 1})
        assert refused["code"] == 103


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"sub": "42", "channel": "$vip", "exp": NOW_S - 1}, 109),
        ({"sub": "42", "channel": "$vip", "nbf": NOW_S + 9}, 109),
        ({"sub": "42"}, 103),
    ],
    ids=["expired", "not-yet", "a-connection-token"],
)
async def test_a_bad_subscription_token_refuses_the_subscribe(
    timed: Running, claims: dict[str, Any], code: int
) -> None:
    async with socket(timed, foreign(sub="42")) as client:
        request = {"channel": "$vip", "token": foreign(**claims)}
        assert (await client.refused(subscribe=request))["code"] == code


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "43", "channel": "$vip"},
        {"sub": "42", "channel": "$other"},
        {"sub": "42", "channel": "$vip", "client": "another"},
    ],
    ids=["user", "channel", "client"],
)
async def test_a_subscription_token_for_another_ends_the_connection(
    hub: Running, claims: dict[str, Any]
) -> None:
    async with socket(hub, foreign(sub="42")) as client:
        await client.say({"id": 5, "subscribe": {"channel": "$vip", "token": foreign(**claims)}})
        assert await client.closed() == (3500, "invalid token")


# --- the end of a token -------------------------------------------------------------


async def test_a_connection_ends_after_its_token_and_a_grace(
    timed: Running, clock: FakeClock
) -> None:
    async with socket(timed) as client:
        answer = await client.connect(foreign(sub="42", exp=NOW_S + 60))
        assert (answer["expires"], answer["ttl"]) == (True, 60)
        later(timed, clock, 83)
        assert timed.centrifugo.clients.num_clients == 1
        later(timed, clock, 3)
        assert await client.closed() == (3005, "connection expired")


async def test_a_token_of_the_hub_ends_its_connection_the_same_way(
    timed: Running, clock: FakeClock
) -> None:
    async with socket(timed) as client:
        answer = await client.connect(await timed.token("alice", expires_in_s=60))
        assert (answer["expires"], answer["ttl"]) == (True, 60)
        later(timed, clock, 83)
        assert timed.centrifugo.clients.num_clients == 1
        later(timed, clock, 3)
        assert await client.closed() == (3005, "connection expired")


async def test_a_refreshed_connection_goes_on(timed: Running, clock: FakeClock) -> None:
    async with socket(timed, foreign(sub="42", exp=NOW_S + 60)) as client:
        later(timed, clock, 70)
        answer = await refreshed(client, refresh={"token": foreign(sub="42", exp=NOW_S + 1_000)})
        assert (answer["expires"], answer["ttl"]) == (True, 930)
        later(timed, clock, 100)
        answer = await refreshed(client, refresh={"token": foreign(sub="42")})
        assert "expires" not in answer
        later(timed, clock, 200)
        assert timed.centrifugo.clients.num_clients == 1


async def test_a_token_of_the_hub_can_be_replaced_in_its_grace(
    timed: Running, clock: FakeClock
) -> None:
    async with socket(timed, await timed.token("alice", expires_in_s=60)) as client:
        await client.subscribe("agent.alice.inbox")
        later(timed, clock, 70)
        answer = await refreshed(client, refresh={"token": await timed.token("alice")})
        assert "expires" not in answer
        later(timed, clock, 100)
        assert timed.centrifugo.clients.num_clients == 1


@pytest.mark.parametrize(
    ("claims", "end"),
    [
        ({"sub": "42", "exp": NOW_S - 1}, (3005, "connection expired")),
        ({"sub": "43"}, (3500, "invalid token")),
        ({"sub": "42", "channel": "$x"}, (3500, "invalid token")),
    ],
    ids=["expired", "another-user", "a-subscription-token"],
)
async def test_a_bad_refresh_ends_the_connection(
    timed: Running, claims: dict[str, Any], end: tuple[int, str]
) -> None:
    async with socket(timed, foreign(sub="42", exp=NOW_S + 60)) as client:
        await client.say({"id": 7, "refresh": {"token": foreign(**claims)}})
        assert await client.closed() == end


async def test_a_subscription_ends_after_its_token_and_a_grace(
    timed: Running, clock: FakeClock
) -> None:
    async with socket(timed, foreign(sub="42")) as client:
        ticket = foreign(sub="42", channel="$vip", exp=NOW_S + 60)
        begun = await client.subscribe("$vip", token=ticket)
        assert (begun["expires"], begun["ttl"]) == (True, 60)
        later(timed, clock, 83)
        assert timed.centrifugo.clients.num_subs == 1
        later(timed, clock, 3)
        while not (heard := await client.hear()):
            pass
        assert heard["push"]["unsubscribe"] == {"code": 2501, "reason": "subscription expired"}
        assert heard["push"]["channel"] == "$vip"


async def test_of_several_subscriptions_each_ends_with_its_own_token(
    timed: Running, clock: FakeClock
) -> None:
    async with socket(timed, foreign(sub="42")) as client:
        for name, lasts_s in (("$first", 60), ("$last", 300), ("$second", 120)):
            token = foreign(sub="42", channel=name, exp=NOW_S + lasts_s)
            await client.subscribe(name, token=token)
        for passed_s, name in ((86, "$first"), (60, "$second"), (180, "$last")):
            later(timed, clock, passed_s)
            while not (heard := await client.hear()):
                pass
            assert heard["push"]["unsubscribe"]["code"] == 2501
            assert heard["push"]["channel"] == name


async def test_a_ticket_of_a_subscribe_that_was_refused_opens_nothing_later(hub: Running) -> None:
    async with socket(hub, await hub.token("alice", scopes=["events:write"])) as client:
        ticket = foreign(sub="alice", channel="$vip")
        assert (await client.refused(subscribe={"channel": "$vip", "token": ticket}))["code"] == 103
        await client.done(refresh={"token": await hub.token("alice")})
        assert (await client.refused(subscribe={"channel": "$vip"}))["code"] == 103


async def test_a_refreshed_subscription_goes_on(timed: Running, clock: FakeClock) -> None:
    async with socket(timed, foreign(sub="42")) as client:
        await client.subscribe("$vip", token=foreign(sub="42", channel="$vip", exp=NOW_S + 60))
        later(timed, clock, 70)
        fresh = foreign(sub="42", channel="$vip", exp=NOW_S + 1_000)
        # centrifuge-python 0.5 leaves the channel out.
        answer = await refreshed(client, sub_refresh={"token": fresh})
        assert (answer["expires"], answer["ttl"]) == (True, 930)
        later(timed, clock, 200)
        assert timed.centrifugo.clients.num_subs == 1
        refused = foreign(sub="42", channel="$other")
        await client.say({"id": 90, "sub_refresh": {"channel": "$other", "token": refused}})
        while not (heard := await client.hear()):
            pass
        assert heard["error"]["code"] == 103


@pytest.mark.parametrize(
    ("claims", "end"),
    [
        ({"sub": "42", "channel": "$vip", "exp": NOW_S - 1}, (3006, "subscription expired")),
        ({"sub": "43", "channel": "$vip"}, (3500, "invalid token")),
        ({"sub": "42", "channel": "$no"}, (3500, "invalid token")),
        ({"sub": "42"}, (3500, "invalid token")),
    ],
    ids=["expired", "another-user", "another-channel", "a-connection-token"],
)
async def test_a_bad_sub_refresh_ends_the_connection(
    timed: Running, claims: dict[str, Any], end: tuple[int, str]
) -> None:
    async with socket(timed, foreign(sub="42")) as client:
        await client.subscribe("$vip", token=foreign(sub="42", channel="$vip", exp=NOW_S + 60))
        request = {"channel": "$vip", "token": foreign(**claims)}
        await client.say({"id": 7, "sub_refresh": request})
        assert await client.closed() == end


async def test_a_server_side_subscription_that_expires_ends_the_connection(
    timed: Running, clock: FakeClock
) -> None:
    async with socket(timed, foreign(sub="42")) as client:
        (made,) = timed.centrifugo.clients.all()
        made.subscribe("$vip", expires_ms=(NOW_S + 60) * 1000)
        assert (await client.push("subscribe"))["in"] == "$vip"
        later(timed, clock, 86)
        assert await client.closed() == (3006, "subscription expired")


async def test_an_end_that_the_application_moved_forward_comes_then(
    timed: Running, clock: FakeClock
) -> None:
    async with socket(timed, foreign(sub="42")) as client:
        (made,) = timed.centrifugo.clients.all()
        made.refreshed(expires_ms=(NOW_S + 60) * 1000)
        later(timed, clock, 83)
        assert made.is_open
        later(timed, clock, 3)
        assert not made.is_open
        assert await client.closed() == (3005, "connection expired")


async def test_an_end_that_the_application_moved_back_leaves_a_client_that_can_do_all(
    timed: Running, clock: FakeClock
) -> None:
    async with socket(timed, foreign(sub="42", exp=NOW_S + 60)) as client:
        (made,) = timed.centrifugo.clients.all()
        made.refreshed(expires_ms=(NOW_S + 1_000) * 1000)
        assert (await client.push("refresh"))["ttl"] == 1_000
        later(timed, clock, 200)
        await client.say({"id": 9, "publish": {"channel": "chat:x", "data": 1}})
        while not (heard := await client.hear()):
            pass
        assert heard == {"id": 9, "publish": {}}


async def test_the_application_prolongs_no_jwt_of_the_hub(timed: Running, clock: FakeClock) -> None:
    alice = timed.hub.authenticate(await timed.token("alice"))
    jwt = (await timed.hub.call(IssueJwt(ttl_s=60), caller=alice)).token
    async with socket(timed, jwt) as client:
        (made,) = timed.centrifugo.clients.all()
        for asked in ((NOW_S + 1_000) * 1000, None):
            made.refreshed(expires_ms=asked)
            # What is told is when the token ends, or the client would not come for another one.
            assert (await client.push("refresh"))["ttl"] == 60
        later(timed, clock, 61)
        with pytest.raises(Unauthenticated):
            timed.hub.authenticate(jwt)
        later(timed, clock, 25)
        assert await client.closed() == (3005, "connection expired")


async def test_who_holds_a_token_of_the_hub_is_told_when_that_ends(
    timed: Running, clock: FakeClock
) -> None:
    async with socket(timed, await timed.token("alice", expires_in_s=60)) as client:
        (made,) = timed.centrifugo.clients.all()
        made.refreshed(expires_ms=(NOW_S + 1_000) * 1000)
        assert (await client.push("refresh"))["ttl"] == 60
        made.refreshed(expires_ms=(NOW_S + 30) * 1000)
        assert (await client.push("refresh"))["ttl"] == 30
        later(timed, clock, 56)
        assert not made.is_open
        assert await client.closed() == (3005, "connection expired")


async def test_one_connection_that_ends_sooner_costs_its_token_s_others_nothing(
    timed: Running, clock: FakeClock
) -> None:
    token = foreign(sub="42", exp=NOW_S + 1_000)
    async with socket(timed, token) as one:
        (made,) = timed.centrifugo.clients.all()
        async with socket(timed, token) as other:
            made.refreshed(expires_ms=(NOW_S + 60) * 1000)
            later(timed, clock, 86)
            assert await one.closed() == (3005, "connection expired")
            await other.say({"id": 9, "publish": {"channel": "chat:x", "data": 1}})
            while not (heard := await other.hear()):
                pass
            assert heard == {"id": 9, "publish": {}}


async def test_a_revoked_token_ends_its_connection_at_once(hub: Running) -> None:
    made = await hub.new_token("alice")
    async with socket(hub, made.token) as client:
        await client.subscribe("public.a")
        await hub.hub.call(RevokeToken(id=made.id), caller=HUB)
        assert await client.closed() == (3500, "invalid token")


async def test_an_account_has_so_many_connections(hub: Running) -> None:
    limits = SETTINGS.limits.__class__(sessions_per_account_max=1)
    settings = HubSettings(limits=limits)
    async with door_of(settings) as few:
        token = await few.token("alice")
        async with socket(few, token), socket(few) as second:
            await second.say({"id": 1, "connect": {"token": token}})
            assert await second.closed() == (3504, "connection limit")


async def refreshed(client: Socket, **command: Any) -> dict[str, Any]:
    """The answer to a refresh, behind the pings that came meanwhile."""
    await client.say({"id": 77, **command})
    while not (heard := await client.hear()):
        pass
    (method,) = command
    assert heard["id"] == 77, heard
    answer: dict[str, Any] = heard[method]
    return answer
