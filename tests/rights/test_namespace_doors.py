"""Namespaces, foreign tokens, tickets and insecure mode at the doors that know nothing of them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

import jwt
import msgspec
import pytest
import pytest_asyncio

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.publishing import Publish
from clawnet.core.calls.reading import ReadHistory
from clawnet.core.channels import parse
from clawnet.core.errors import ClawError
from clawnet.core.rights import Allowed, Verb, decide
from clawnet.doors.centrifugo.settings import CentrifugoSettings
from clawnet.doors.centrifugo.tokens import Tokens
from clawnet.hub.settings import (
    ChannelSettings,
    HubSettings,
    LimitSettings,
    NamespaceSettings,
    TokenSettings,
)
from tests.rights.population import a_hub
from tests.rights.world import World

KEY = "what the application's backend signs with"
SETTINGS = HubSettings(
    limits=LimitSettings(enabled=False),
    tokens=TokenSettings(jwt_key=KEY),
    channels=ChannelSettings(
        anonymous_read=False,
        namespaces={
            "live": NamespaceSettings(read="accounts", history="nobody", presence="nobody"),
            "past": NamespaceSettings(read="nobody", history="accounts", presence="accounts"),
            "both": NamespaceSettings(read="accounts", publish="subscribers"),
            "none": NamespaceSettings(read="accounts", publish="accounts", history_size=0),
            "every": NamespaceSettings(
                publish="anyone", read="anyone", history="anyone", presence="anyone"
            ),
        },
    ),
)


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with a_hub(SETTINGS) as running, AsyncExitStack() as stack:
        yield await World(running, stack).people()


def tokens(world: World) -> Tokens:
    return Tokens(world.hub, CentrifugoSettings(insecure=True, anonymous=True))


async def foreign(world: World, subject: str = "42", **claims: Any) -> Caller:
    text = jwt.encode({"sub": subject, **claims}, KEY, "HS256")
    door = tokens(world)
    return await door.admit(door.connection(text))


async def test_following_and_reading_back_are_two_things(world: World) -> None:
    for name in ("live:a", "past:a"):
        await world.says(name, "x")
    socket = await world.socket("olga")
    followed = {
        name: (await socket.ask("subscribe", channels=[name]))["type"]
        for name in ("live:a", "past:a")
    }
    assert followed == {"live:a": "ok", "past:a": "error"}
    read = {
        name: (await world.ask("olga", "GET", f"/channels/{quote(name)}/events")).status_code
        for name in ("live:a", "past:a")
    }
    assert read == {"live:a": 403, "past:a": 200}


async def test_a_channel_without_a_past_is_followed_and_not_looked_up(world: World) -> None:
    await world.publish("olga", "none:a", "one")
    page = await world.does("olga", "GET", "/channels/none%3Aa/events")
    assert page["events"] == []
    socket = await world.socket("greta")
    assert (await socket.ask("subscribe", channels=["none:a"]))["type"] == "ok"
    await world.publish("olga", "none:a", "two")


async def test_a_foreign_token_is_a_bearer_of_nothing_at_the_other_doors(world: World) -> None:
    text = jwt.encode({"sub": "42"}, KEY, "HS256")
    caller = await foreign(world)
    for shown in (text, str(caller.token_id)):
        for method, path, body in (
            ("GET", "/me", None),
            ("POST", "/channels/every%3Aa/events", {"data": 1}),
            ("GET", "/channels/every%3Aa/events", None),
            ("POST", "/tokens/jwt", {}),
            ("GET", "/tokens", None),
        ):
            answer = await world.ask(shown, method, path, body)
            assert answer.status_code == 401, (path, answer.text)
        with pytest.raises(AssertionError, match="handshake"):
            await world.socket(shown)


async def test_a_master_sees_ends_and_deletes_a_foreign_user(world: World) -> None:
    caller = await foreign(world, jti="7")
    listed = await world.does("max", "GET", "/accounts?limit=1000")
    (found,) = [one for one in listed["accounts"] if one["kind"] == "ext"]
    assert found["id"] == caller.account and found["proof"] == "jwt"
    assert (await world.ask("olga", "DELETE", f"/tokens/{caller.token_id}")).status_code == 404
    await world.does("max", "DELETE", f"/tokens/{caller.token_id}")
    assert world.hub.directory.caller(caller.token_id or "") is None
    assert (await world.ask("olga", "DELETE", f"/accounts/{caller.account}")).status_code == 403
    await world.does("max", "DELETE", f"/accounts/{caller.account}")
    with pytest.raises(Exception, match="invalid"):
        await foreign(world, jti="8")


async def test_presence_as_its_namespace_says(world: World) -> None:
    table = {
        # who may see who is there: olga, a foreign user, without a token, a warden
        "live:a": (False, False, False, True),
        "past:a": (True, True, False, True),
        "both:a": (True, True, False, True),
        "both:x#42": (False, True, False, True),
        "every:a": (True, True, True, True),
        "undeclared:a": (False, False, False, False),
        "public.a": (True, True, False, True),
        "agent.olga.diary": (True, False, False, True),
        "agent.olga.inbox": (True, False, False, True),
        "room.team": (False, False, False, True),
        "dm.greta.olga": (True, False, False, True),
        "system.accounts": (False, False, False, True),
    }
    door = tokens(world)
    anonymous = door.anonymous(is_local=True)
    assert anonymous is not None
    askers = (
        world.asker("olga").caller(), await foreign(world), anonymous,
        world.asker("wanda").caller(),
    )  # fmt: skip
    for name, expected in table.items():
        found = tuple(
            isinstance(decide(who, Verb.PRESENCE, parse(name), world.hub.directory), Allowed)
            for who in askers
        )
        assert found == expected, name


ASKED_OF_ALL = set(Verb) - {Verb.DISPATCH}
"""Dispatching is asked of agent.<id>.tasks alone."""

RESERVED = (
    "public.a public.lobby global agent.olga.diary agent.olga.inbox agent.olga.public.feed"
    " room.team dm.greta.olga system.accounts system.presence system.timer.minute memory.notes"
    " graph.a file.a flow.a hook.a external.a"
).split()


@pytest.mark.parametrize("who", ["insecure", "anonymous", "nobody's token"])
async def test_who_came_without_a_token_reaches_nothing_of_the_hub_s_own(
    world: World, who: str
) -> None:
    door = tokens(world)
    if who == "insecure":
        caller = await door.insecure()
    elif who == "anonymous":
        anonymous = door.anonymous(is_local=True)
        assert anonymous is not None
        caller = anonymous
    else:
        text = jwt.encode({"channels": [*RESERVED, "both:a"]}, KEY, "HS256")
        caller = await door.admit(door.connection(text))
        assert caller.tickets == {"both:a"}
    caller = msgspec.structs.replace(caller, tickets=caller.tickets | set(RESERVED))
    for name in RESERVED:
        await reaches_nothing(world, caller, name)
    for name in (*RESERVED, "undeclared:a", "bare"):
        for verb in ASKED_OF_ALL:
            assert not isinstance(decide(caller, verb, parse(name), world.hub.directory), Allowed)
    if who == "insecure":
        published = Publish(channel="live:a", data=msgspec.Raw(b"1"))
        await world.hub.publish_wait(caller, published)
        assert (await world.hub.call(ReadHistory(channel="live:a"), caller=caller)).count == 1


async def reaches_nothing(world: World, caller: Caller, name: str) -> None:
    data = msgspec.Raw(json.dumps("forged").encode())
    with pytest.raises(ClawError):
        await world.hub.publish_wait(caller, Publish(channel=name, data=data))
    with pytest.raises(ClawError):
        await world.hub.call(ReadHistory(channel=name), caller=caller)


async def test_a_foreign_user_has_the_rights_of_an_account_and_no_more(world: World) -> None:
    caller = await foreign(world, "olga")
    facts = world.hub.directory
    for name, verbs in {
        "public.a": {Verb.PUBLISH, Verb.READ, Verb.SUBSCRIBE, Verb.PRESENCE},
        "agent.olga.inbox": {Verb.PUBLISH},
        "agent.olga.diary": set(),
        "agent.olga.public.feed": {Verb.READ, Verb.SUBSCRIBE, Verb.PRESENCE},
        "dm.greta.olga": set(),
        "room.team": set(),
        "system.accounts": set(),
        "both:a": ASKED_OF_ALL,
        "live:a": {Verb.SUBSCRIBE},
    }.items():
        found = {
            verb
            for verb in ASKED_OF_ALL
            if isinstance(decide(caller, verb, parse(name), facts), Allowed)
        }
        assert found == verbs, name
    # What it publishes bears its own account, never the one whose name it has.
    published = Publish(channel="public.a", data=msgspec.Raw(b'"hello"'))
    stored = await world.hub.publish_wait(caller, published)
    page = await world.does("wanda", "GET", "/channels/public.a/events")
    (event,) = [one for one in page["events"] if one["id"] == stored.id]
    assert event["actor"]["id"] == caller.account != "olga" and event["source"] == "external"


async def test_the_hub_s_own_voice_is_needed_for_nothing_of_it(world: World) -> None:
    """Undeclared names exist for nobody, the hub itself included."""
    with pytest.raises(ClawError):
        await world.hub.publish_wait(HUB, Publish(channel="undeclared:a", data=msgspec.Raw(b"1")))
