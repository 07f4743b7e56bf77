"""Each command over /connection/websocket: what it does, what it answers, what it refuses."""

from typing import Any

import pytest
from msgspec import Raw

from clawnet.core.callers import Caller
from clawnet.core.calls.publishing import DoorPublish
from clawnet.core.events import Origin
from clawnet.doors.centrifugo.shapes import API_ACCOUNT
from clawnet.hub.settings import HubSettings, LimitSettings
from clawnet.testing.clocks import FakeClock
from clawnet.testing.running import Running
from tests.doors.centrifugo.sockets import door_of, fill, socket

NOW_MS = 1_800_000_000_123


async def test_connect_answers_who_the_client_is(hub: Running) -> None:
    token = await hub.token("alice")
    async with socket(hub) as alice:
        result = await alice.connect(token)
        assert result["ping"] == 25
        assert result["pong"] is True
        assert result["client"]
        assert result["version"].startswith("Clawnet")
        assert "expires" not in result


async def test_connect_and_subscribes_in_one_frame_are_answered_in_order(hub: Running) -> None:
    token = await hub.token("alice")
    async with socket(hub) as alice:
        await alice.say(
            {"id": 1, "connect": {"token": token}},
            {"id": 2, "subscribe": {"channel": "public.a"}},
            {"id": 3, "subscribe": {"channel": "agent.bob.secret"}},
            {"id": 4, "subscribe": {"channel": "chat:b"}},
        )
        heard = [await alice.hear() for _ in range(4)]
        assert [reply["id"] for reply in heard] == [1, 2, 3, 4]
        assert [list(reply)[1] for reply in heard] == ["connect", "subscribe", "error", "subscribe"]
        assert heard[2]["error"]["code"] == 103


async def test_what_is_published_reaches_a_subscriber_with_its_envelope(hub: Running) -> None:
    token = await hub.token("alice")
    async with socket(hub, token) as alice, socket(hub, token) as other:
        begun = await alice.subscribe("public.lobby")
        assert begun["recoverable"] is True
        assert begun["positioned"] is True
        assert begun["epoch"]
        assert begun.get("offset", 0) == 0
        assert await other.done(publish={"channel": "public.lobby", "data": {"n": 1}}) == {}
        pub = await alice.push()
        assert pub["in"] == "public.lobby"
        assert pub["offset"] == 1
        assert pub["epoch"] == begun["epoch"]
        assert pub["data"]["payload"] == {"n": 1}
        claw = pub["data"]["_claw"]
        assert claw["sender"] == "alice"
        assert claw["timestamp"] == pub["time"]
        assert claw["id"].startswith("evt_")
        await other.done(publish={"channel": "public.lobby", "data": 2})
        assert "epoch" not in await alice.push()


async def test_free_names_carry_the_bare_payload_and_its_sender(hub: Running) -> None:
    token = await hub.token("alice")
    async with socket(hub, token) as alice:
        await alice.subscribe("chat:room")
        await alice.say({"id": 9, "publish": {"channel": "chat:room", "data": {"n": 1}}})
        heard = [await alice.hear(), await alice.hear()]
        pub = next(h["push"]["pub"] for h in heard if "push" in h)
        assert pub["data"] == {"n": 1}
        assert pub["info"]["user"] == "alice"
        assert pub["info"]["client"]
        assert pub["info"]["conn_info"] == {"handle": "alice", "role": "worker"}
        assert pub["tags"]["id"].startswith("evt_")


async def test_the_bare_payload_can_be_asked_for_everywhere(hub: Running) -> None:
    token = await hub.token("alice")
    async with socket(hub, token, query="envelope=raw") as alice:
        await alice.subscribe("public.lobby")
        await alice.say({"id": 9, "publish": {"channel": "public.lobby", "data": "hi"}})
        heard = [await alice.hear(), await alice.hear()]
        pub = next(h["push"]["pub"] for h in heard if "push" in h)
        assert pub["data"] == "hi"
        assert pub["info"]["user"] == "alice"


async def test_an_alias_and_its_channel_are_one(hub: Running) -> None:
    token = await hub.token("alice")
    async with socket(hub, token) as alice, socket(hub, token) as other:
        await alice.subscribe("global")
        refused = await alice.refused(subscribe={"channel": "public.lobby"})
        assert refused["code"] == 105
        await other.done(publish={"channel": "public.lobby", "data": 1})
        assert (await alice.push())["in"] == "global"
        assert await alice.done(unsubscribe={"channel": "public.townsquare"}) == {}
        assert await alice.done(unsubscribe={"channel": "public.lobby"}) == {}
        await other.done(publish={"channel": "public.lobby", "data": 2})
        assert (await alice.refused(rpc={"method": "x"}))["code"] == 108


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ({"subscribe": {"channel": "nowhere:x"}}, 102),
        ({"publish": {"channel": "nowhere:x", "data": 1}}, 102),
        ({"history": {"channel": "nowhere:x"}}, 102),
        ({"presence": {"channel": "nowhere:x"}}, 102),
        ({"subscribe": {"channel": "agent.bob.secret"}}, 103),
        ({"subscribe": {"channel": "$private"}}, 103),
        ({"publish": {"channel": "open:x", "data": 1}}, 103),
        ({"history": {"channel": "agent.bob.secret", "limit": 1}}, 103),
        ({"presence": {"channel": "agent.bob.secret"}}, 103),
        ({"subscribe": {}}, 107),
        ({"subscribe": {"channel": "a b"}}, 107),
        ({"subscribe": {"channel": "public.*"}}, 107),
        ({"subscribe": {"channel": "public.a", "tf": {"op": ""}}}, 107),
        ({"subscribe": {"channel": "nowhere:x", "tf": None}}, 102),
        ({"publish": {"channel": "public.a"}}, 107),
        ({"publish": {}}, 107),
        ({"history": {}}, 107),
        ({"subscribe": {"channel": "public.a", "type": 1}}, 108),
        ({"subscribe": {"channel": "public.a", "type": 4}}, 108),
        ({"history": {"channel": "bare:x"}}, 108),
        ({"presence": {"channel": "quiet:x"}}, 108),
        ({"presence_stats": {"channel": "quiet:x"}}, 108),
        ({"rpc": {"method": "sum", "data": {}}}, 108),
        ({"sub_refresh": {"channel": "public.a"}}, 107),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else next(iter(value)),
)
async def test_a_refused_command_says_why(hub: Running, command: dict[str, Any], code: int) -> None:
    async with socket(hub, await hub.token("alice")) as alice:
        assert (await alice.refused(**command))["code"] == code
        assert await alice.done(unsubscribe={"channel": "public.a"}) == {}


async def test_a_refused_subscribe_names_the_reason(hub: Running) -> None:
    await hub.token("bob")
    async with socket(hub, await hub.token("alice")) as alice:
        refused = await alice.refused(subscribe={"channel": "agent.bob.secret"})
        assert "agent.bob.secret is private; bob can grant it" in refused["message"]


async def test_history_is_paged_both_ways(hub: Running) -> None:
    async with socket(hub, await hub.token("alice")) as alice:
        for n in range(5):
            await alice.done(publish={"channel": "chat:h", "data": n})
        top = await alice.done(history={"channel": "chat:h"})
        assert top == {"publications": [], "epoch": top["epoch"], "offset": 5}
        every = await alice.done(history={"channel": "chat:h", "limit": -1})
        assert [pub["data"] for pub in every["publications"]] == [0, 1, 2, 3, 4]
        since = {"offset": 2, "epoch": top["epoch"]}
        some = await alice.done(history={"channel": "chat:h", "limit": 2, "since": since})
        assert [pub["offset"] for pub in some["publications"]] == [3, 4]
        back = await alice.done(history={"channel": "chat:h", "limit": 2, "reverse": True})
        assert [pub["offset"] for pub in back["publications"]] == [5, 4]
        back = await alice.done(
            history={"channel": "chat:h", "limit": 9, "reverse": True, "since": since}
        )
        assert [pub["offset"] for pub in back["publications"]] == [1]
        wrong = {"offset": 2, "epoch": "other"}
        refused = await alice.refused(history={"channel": "chat:h", "limit": 2, "since": wrong})
        assert refused["code"] == 112
        huge = {"offset": 2**63, "epoch": ""}
        none = await alice.done(history={"channel": "chat:h", "limit": 2, "since": huge})
        assert none["publications"] == []


async def test_history_of_a_channel_without_events_is_empty(hub: Running) -> None:
    async with socket(hub, await hub.token("alice")) as alice:
        found = await alice.done(history={"channel": "chat:never", "limit": -1})
        assert (found["publications"], found["offset"]) == ([], 0)
        assert found["epoch"]


async def test_history_gives_three_hundred_events_at_most(hub: Running) -> None:
    async with socket(hub, await hub.token("alice")) as alice:
        many = [{"id": n + 10, "publish": {"channel": "chat:h", "data": n}} for n in range(320)]
        await alice.say(*many)
        for n in range(320):
            assert (await alice.hear())["id"] == n + 10
        every = await alice.done(history={"channel": "chat:h", "limit": -1})
        assert [pub["offset"] for pub in every["publications"]] == list(range(1, 301))


async def test_a_registered_method_is_called(hub: Running) -> None:
    async def shout(caller: Any, data: Any) -> Any:
        return type(data)(bytes(data).upper())

    hub.centrifugo.rpc["shout"] = shout
    async with socket(hub, await hub.token("alice")) as alice:
        assert await alice.done(rpc={"method": "shout", "data": "hey"}) == {"data": "HEY"}


async def test_publishes_are_answered_in_their_order(hub: Running) -> None:
    async with socket(hub, await hub.token("alice")) as alice:
        await alice.say(
            {"id": 5, "publish": {"channel": "public.a", "data": 1}},
            {"id": 6, "publish": {"channel": "agent.bob.x", "data": 1}},
            {"id": 7, "publish": {"channel": "public.a", "data": 2}},
            {"id": 8, "unsubscribe": {"channel": "public.a"}},
            {"id": 9, "history": {"channel": "public.a", "limit": 10}},
        )
        heard = [await alice.hear() for _ in range(5)]
        assert [reply["id"] for reply in heard] == [5, 6, 7, 8, 9]
        kinds = [list(reply)[1] for reply in heard]
        assert kinds == ["publish", "error", "publish", "unsubscribe", "history"]
        assert len(heard[4]["history"]["publications"]) == 2


async def test_a_signal_is_a_publication_without_a_place(hub: Running) -> None:
    async with socket(hub, await hub.token("alice")) as alice:
        await alice.subscribe("global")
        await alice.subscribe("chat:x")
        caller = hub.hub.authenticate(await hub.token("alice"))
        hub.hub.signal(caller, "public.lobby", "x.typing", b'{"is":true}')
        pub = await alice.push()
        assert (pub["in"], pub["data"]["payload"]) == ("global", {"is": True})
        assert "offset" not in pub
        hub.hub.signal(caller, "chat:x", "x.typing", b'{"is":true}')
        pub = await alice.push()
        assert (pub["in"], pub["data"]) == ("chat:x", {"is": True})
        assert "offset" not in pub
        assert "tags" not in pub


@pytest.mark.parametrize("query", ["", "envelope=raw"])
async def test_a_signal_has_the_time_at_which_it_is_told_and_no_id(query: str) -> None:
    async with (
        door_of(clock=FakeClock(wall_ms=NOW_MS)) as hub,
        socket(hub, await hub.token("alice"), query=query) as alice,
    ):
        await alice.subscribe("global")
        caller = hub.hub.authenticate(await hub.token("alice"))
        hub.hub.signal(caller, "public.lobby", "x.typing", b"1")
        pub = await alice.push()
        assert pub["time"] == NOW_MS
        if query:
            assert pub["data"] == 1 and "tags" not in pub
        else:
            dress = {"sender": "alice", "timestamp": NOW_MS}
            assert pub["data"] == {"_claw": dress, "payload": 1}


async def test_patches_are_given_where_they_are_allowed_and_asked_for(hub: Running) -> None:
    async with socket(hub, await hub.token("alice")) as alice:
        assert "delta" not in await alice.subscribe("chat:x", delta="fossil")
        await fill(hub, "diff:x", 1)
        begun = await alice.subscribe("diff:x", delta="fossil", recover=True)
        assert begun["delta"] is True
        assert [pub["data"] for pub in begun["publications"]] == ['{"n":1}']
        await fill(hub, "diff:x", 1, start=2)
        pub = await alice.push()
        assert (pub["data"], pub.get("delta")) == ('{"n":2}', None)


async def test_who_publishes_too_fast_is_told_to_wait() -> None:
    slow = LimitSettings(publish_per_s=0.001, publish_burst=1)
    settings = HubSettings(limits=slow)
    async with door_of(settings) as hub, socket(hub, await hub.token("alice")) as alice:
        await alice.done(publish={"channel": "public.a", "data": 1})
        refused = await alice.refused(publish={"channel": "public.a", "data": 2})
        assert (refused["code"], refused["temporary"]) == (111, True)


async def test_publishes_of_the_applications_backend_have_no_publisher(hub: Running) -> None:
    caller = Caller(account=API_ACCOUNT, kind="service", rules_free=True)
    async with socket(hub, await hub.token("alice")) as alice:
        await alice.subscribe("chat:x")
        origin = Origin(tags={"kind": "news"})
        call = DoorPublish(channel="chat:x", data=Raw(b"1"), origin=origin)
        await hub.hub.publish_wait(caller, call)
        pub = await alice.push()
        assert "info" not in pub
        assert pub["tags"]["kind"] == "news"
        assert pub["tags"]["id"].startswith("evt_")
