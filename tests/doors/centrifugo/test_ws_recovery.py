"""What a client that comes back is given: everything it missed in order, or the truth about it."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clawnet.core.calls.grants import Grant, Revoke
from clawnet.core.calls.publishing import Publish
from clawnet.core.events import Stored
from clawnet.core.units import Committed, Unit
from clawnet.doors.centrifugo.settings import CentrifugoSettings
from clawnet.testing.hubs import Gate
from clawnet.testing.running import Running
from tests.doors.centrifugo.sockets import Socket, door_of, fill, foreign, socket


def numbers(publications: list[dict[str, Any]]) -> list[int]:
    return [pub["data"]["n"] for pub in publications]


async def pushed(client: Socket, count: int) -> list[int]:
    """The numbers of the next pushes, which must be in order without a gap or a double."""
    return [(await client.push())["data"]["n"] for _ in range(count)]


async def test_a_client_that_missed_nothing_recovers_at_once(hub: Running) -> None:
    await fill(hub, "chat:r", 3)
    async with socket(hub, await hub.token("alice")) as alice:
        first = await alice.subscribe("chat:r")
        assert (first["offset"], first["recoverable"]) == (3, True)
        assert "was_recovering" not in first
        await alice.done(unsubscribe={"channel": "chat:r"})
        position = {"recover": True, "offset": 3, "epoch": first["epoch"]}
        again = await alice.subscribe("chat:r", **position)
        assert again["was_recovering"] is True
        assert again["recovered"] is True
        assert again["offset"] == 3
        assert "publications" not in again


async def test_what_was_missed_stands_in_the_answer(hub: Running) -> None:
    await fill(hub, "chat:r", 5)
    async with socket(hub, await hub.token("alice")) as alice:
        epoch = (await alice.done(history={"channel": "chat:r"}))["epoch"]
        begun = await alice.subscribe("chat:r", recover=True, offset=2, epoch=epoch)
        assert begun["recovered"] is True
        # As Centrifugo answers: the client counts on from what it asked with.
        assert begun["offset"] == 2
        assert [pub["offset"] for pub in begun["publications"]] == [3, 4, 5]
        assert numbers(begun["publications"]) == [3, 4, 5]
        await fill(hub, "chat:r", 1, start=6)
        assert await pushed(alice, 1) == [6]


async def test_all_there_is_can_be_asked_for(hub: Running) -> None:
    await fill(hub, "chat:r", 4)
    async with socket(hub, await hub.token("alice")) as alice:
        begun = await alice.subscribe("chat:r", recover=True)
        assert begun["recovered"] is True
        assert numbers(begun["publications"]) == [1, 2, 3, 4]
        assert "offset" not in begun


async def test_a_long_absence_is_streamed_behind_the_answer(hub: Running) -> None:
    await fill(hub, "chat:r", 1_500)
    async with socket(hub, await hub.token("alice")) as alice:
        begun = await alice.subscribe("chat:r", recover=True)
        assert begun["recovered"] is True
        assert numbers(begun["publications"]) == list(range(1, 301))
        assert await pushed(alice, 1_200) == list(range(301, 1_501))
        await fill(hub, "chat:r", 2, start=1_501)
        assert await pushed(alice, 2) == [1_501, 1_502]


async def test_how_much_stands_in_an_answer_is_a_setting() -> None:
    settings = CentrifugoSettings(recovery_publications_max=2)
    async with door_of(centrifugo=settings) as hub:
        await fill(hub, "chat:r", 5)
        async with socket(hub, await hub.token("alice")) as alice:
            begun = await alice.subscribe("chat:r", recover=True)
            assert numbers(begun["publications"]) == [1, 2]
            assert await pushed(alice, 3) == [3, 4, 5]


@pytest.mark.parametrize(
    "position",
    [
        {"offset": 2, "epoch": "other"},
        {"offset": 0, "epoch": "_"},
        {"offset": 5, "epoch": "_"},
        {"offset": 9, "epoch": ""},
        {"offset": 2**63, "epoch": ""},
    ],
    ids=["another-epoch", "invalidated", "invalidated-at-the-top", "beyond", "far-beyond"],
)
async def test_a_position_that_means_nothing_is_not_recovered(
    hub: Running, position: dict[str, Any]
) -> None:
    await fill(hub, "chat:r", 5)
    async with socket(hub, await hub.token("alice")) as alice:
        refused = await alice.refused(
            subscribe={"channel": "chat:r", "recover": True, "flag": 2, **position}
        )
        assert refused["code"] == 112
        begun = await alice.subscribe("chat:r", recover=True, **position)
        assert begun["was_recovering"] is True
        assert "recovered" not in begun
        assert "publications" not in begun
        assert begun["offset"] == 5
        await fill(hub, "chat:r", 1, start=6)
        assert await pushed(alice, 1) == [6]


async def test_what_was_trimmed_is_not_recovered(hub: Running) -> None:
    await fill(hub, "chat:r", 20)
    hub.hub._engine.trim_channel("main", "chat:r", keep=5)
    async with socket(hub, await hub.token("alice")) as alice:
        epoch = (await alice.done(history={"channel": "chat:r"}))["epoch"]
        begun = await alice.subscribe("chat:r", recover=True, offset=10, epoch=epoch)
        assert "recovered" not in begun
        assert begun["offset"] == 20
        await alice.done(unsubscribe={"channel": "chat:r"})
        begun = await alice.subscribe("chat:r", recover=True, offset=15, epoch=epoch)
        assert begun["recovered"] is True
        assert numbers(begun["publications"]) == [16, 17, 18, 19, 20]
        await alice.done(unsubscribe={"channel": "chat:r"})
        # Who asks for all there is gets what there is.
        begun = await alice.subscribe("chat:r", recover=True)
        assert begun["recovered"] is True
        assert numbers(begun["publications"]) == [16, 17, 18, 19, 20]


async def test_a_channel_that_began_after_the_subscribe_is_recovered(hub: Running) -> None:
    async with socket(hub, await hub.token("alice")) as alice:
        begun = await alice.subscribe("chat:new")
    await fill(hub, "chat:new", 2)
    async with socket(hub, await hub.token("alice")) as alice:
        again = await alice.subscribe("chat:new", recover=True, epoch=begun["epoch"])
        assert again["recovered"] is True
        assert again["epoch"] == begun["epoch"]
        assert numbers(again["publications"]) == [1, 2]


async def test_recovery_works_across_a_restart(tmp_path: Path) -> None:
    async with door_of(engine="sqlite", data_dir=tmp_path) as hub:
        token = await hub.token("alice")
        await fill(hub, "chat:r", 3)
        async with socket(hub, token) as alice:
            begun = await alice.subscribe("chat:r")
            before = await alice.subscribe("chat:later")
        await fill(hub, "chat:r", 4, start=4)
    async with door_of(engine="sqlite", data_dir=tmp_path) as hub:
        await fill(hub, "chat:r", 3, start=8)
        await fill(hub, "chat:later", 2)
        async with socket(hub, token) as alice:
            position = {"recover": True, "offset": begun["offset"], "epoch": begun["epoch"]}
            again = await alice.subscribe("chat:r", **position)
            assert again["recovered"] is True
            assert numbers(again["publications"]) == [4, 5, 6, 7, 8, 9, 10]
            late = await alice.subscribe("chat:later", recover=True, epoch=before["epoch"])
            assert numbers(late["publications"]) == [1, 2]


async def test_an_engine_that_forgets_says_so() -> None:
    async with door_of() as hub:
        await fill(hub, "chat:r", 3)
        async with socket(hub, await hub.token("alice")) as alice:
            begun = await alice.subscribe("chat:r")
    async with door_of() as hub:
        await fill(hub, "chat:r", 3)
        async with socket(hub, await hub.token("alice")) as alice:
            position = {"recover": True, "offset": begun["offset"], "epoch": begun["epoch"]}
            again = await alice.subscribe("chat:r", **position)
            assert again["was_recovering"] is True
            assert "recovered" not in again
            assert again["epoch"] != begun["epoch"]


async def test_of_a_cache_only_the_newest_is_given(hub: Running) -> None:
    await fill(hub, "cache:x", 4)
    async with socket(hub, await hub.token("alice")) as alice:
        begun = await alice.subscribe("cache:x", recover=True, offset=1, epoch="other")
        assert begun["recovered"] is True
        assert numbers(begun["publications"]) == [4]
        epoch = begun["epoch"]
        await alice.done(unsubscribe={"channel": "cache:x"})
        begun = await alice.subscribe("cache:x", recover=True, offset=4, epoch=epoch)
        assert begun["recovered"] is True
        assert "publications" not in begun
        await fill(hub, "cache:x", 1, start=5)
        assert await pushed(alice, 1) == [5]
        never = await alice.subscribe("cache:never", recover=True, offset=3, epoch=epoch)
        assert "recovered" not in never


async def test_where_nothing_is_kept_nothing_is_recovered(hub: Running) -> None:
    await fill(hub, "bare:x", 3)
    async with socket(hub, await hub.token("alice")) as alice:
        begun = await alice.subscribe("bare:x", recover=True)
        assert begun == {}
        await fill(hub, "bare:x", 1, start=4)
        pub = await alice.push()
        assert pub["data"] == {"n": 4}
        assert "offset" not in pub


async def test_a_room_is_recovered_from_where_its_member_may_read(hub: Running) -> None:
    warden = hub.hub.authenticate(await hub.token("master", role="master"))
    grant = Grant(account="alice", channel="room.r", verbs=["read", "publish"])
    await hub.token("alice")
    await hub.hub.call(grant, caller=warden)
    await fill(hub, "room.r", 5)
    await hub.token("bob")
    late = Grant(account="bob", channel="room.r", verbs=["read"], from_offset=4)
    await hub.hub.call(late, caller=warden)
    async with socket(hub, await hub.token("bob"), query="envelope=raw") as bob:
        begun = await bob.subscribe("room.r", recover=True)
        assert begun["recovered"] is True
        assert numbers(begun["publications"]) == [4, 5]


async def test_server_side_subscriptions_recover_in_connect(hub: Running) -> None:
    token = foreign(sub="42", channels=["chat:s", "diff:s"])
    await fill(hub, "chat:s", 2)
    async with socket(hub) as client:
        first = (await client.connect(token))["subs"]["chat:s"]
        assert first["offset"] == 2
    await fill(hub, "chat:s", 3, start=3)
    async with socket(hub) as client:
        position = {"recover": True, "offset": 2, "epoch": first["epoch"]}
        answer = await client.connect(token, subs={"chat:s": position, "chat:no": position})
        assert set(answer["subs"]) == {"chat:s", "diff:s"}
        assert numbers(answer["subs"]["chat:s"]["publications"]) == [3, 4, 5]
        await fill(hub, "chat:s", 1, start=6)
        assert await pushed(client, 1) == [6]


async def test_a_right_revoked_while_the_log_is_read_gives_nothing(hub: Running) -> None:
    alice = hub.hub.authenticate(await hub.token("alice"))
    await hub.token("bob")
    await fill(hub, "agent.alice.x", 5)

    async def revoke() -> None:
        await hub.hub.call(Revoke(account="bob", channel="agent.alice.x"), caller=alice)

    for at in range(4):
        await hub.hub.call(Grant(account="bob", channel="agent.alice.x"), caller=alice)
        async with socket(hub, await hub.token("bob")) as bob:
            gate = Gate(hub.hub, at=at, action=revoke)
            refused = await bob.refused(subscribe={"channel": "agent.alice.x", "recover": True})
            assert refused["code"] == 103
            assert gate.was_reached
            await gate.open()
            assert bob.waiting == []


async def test_a_gap_met_later_makes_the_client_begin_anew(hub: Running) -> None:
    await fill(hub, "chat:r", 900)

    async def trim() -> None:
        hub.hub._engine.trim_channel("main", "chat:r", keep=10)

    async with socket(hub, await hub.token("alice")) as alice:
        # The third await is the hub's, behind the answer.
        gate = Gate(hub.hub, at=4, action=trim)
        begun = await alice.subscribe("chat:r", recover=True)
        assert len(begun["publications"]) == 300
        push = await alice.push("unsubscribe")
        assert (push["in"], push["code"]) == ("chat:r", 2500)
        assert gate.was_reached
        await gate.open()
        # It is out, so that it may come again, and is given nothing meanwhile.
        await fill(hub, "chat:r", 1, start=901)
        again = await alice.subscribe("chat:r", recover=True, offset=300, epoch=begun["epoch"])
        assert "recovered" not in again


async def test_a_gap_of_a_server_side_subscription_ends_the_connection(hub: Running) -> None:
    await fill(hub, "chat:r", 900)

    async def trim() -> None:
        hub.hub._engine.trim_channel("main", "chat:r", keep=10)

    async with socket(hub) as client:
        gate = Gate(hub.hub, at=4, action=trim)
        token = foreign(sub="42", channels=["chat:r"])
        await client.connect(token, subs={"chat:r": {"recover": True}})
        assert await client.closed() == (3010, "insufficient state")
        await gate.open()


async def test_who_comes_and_goes_while_events_are_stored_misses_and_repeats_nothing(
    tmp_path: Path,
) -> None:
    count = 600
    async with door_of(engine="sqlite", data_dir=tmp_path) as hub:
        token = await hub.token("alice")
        await hub.token("bob")
        publishing = asyncio.create_task(trickle(hub, "chat:r", count))
        seen: list[int] = []
        place: dict[str, Any] = {}
        visits = 0
        while not seen or seen[-1] < count:
            visits += 1
            async with socket(hub, token) as alice:
                # As the published clients do: the offset is the answer's, then the last event's.
                begun = await alice.subscribe("chat:r", **place)
                if place:
                    assert begun["recovered"] is True
                else:
                    seen = list(range(1, begun.get("offset", 0) + 1))
                seen += numbers(begun.get("publications", []))
                for _ in range(visits % 4):
                    if seen and seen[-1] == count:
                        break
                    seen += await pushed(alice, 1)
                place = {"recover": True, "offset": len(seen), "epoch": begun["epoch"]}
                alice.inner.transport.abort()
        await publishing
        assert seen == list(range(1, count + 1))
        assert visits > 5


async def trickle(hub: Running, channel: str, count: int) -> None:
    """Bob publishes numbers, a few at a time, each as soon as the last were stored."""
    bob = hub.hub.authenticate(await hub.token("bob"))
    for first in range(1, count + 1, 3):
        await asyncio.gather(
            *(
                hub.hub.publish_wait(
                    bob, Publish(channel=channel, data=msgspec.Raw(b'{"n":%d}' % n))
                )
                for n in range(first, first + 3)
            )
        )


async def test_an_event_that_is_stored_and_not_yet_handed_out_is_not_counted_as_seen(
    hub: Running,
) -> None:
    await fill(hub, "chat:r", 2)
    alice = hub.hub.authenticate(await hub.token("alice"))
    async with (
        socket(hub, await hub.token("alice")) as new,
        socket(hub, await hub.token("alice")) as back,
    ):
        draft = hub.hub.publishing.render(alice, "chat:r", type="x.message", data='{"n":3}')
        (stored,) = hub.hub._engine.commit([Unit(drafts=(draft,))])
        assert isinstance(stored, Committed)
        # Told 3 here, a client that is cut off now would never be given the third.
        begun = await new.subscribe("chat:r")
        assert begun["offset"] == 2
        again = await back.subscribe("chat:r", recover=True, offset=2, epoch=begun["epoch"])
        assert again["recovered"] is True
        assert "publications" not in again
        hub.hub._stored([event for event in stored.events if isinstance(event, Stored)])
        assert await pushed(new, 1) == [3]
        assert await pushed(back, 1) == [3]
        await fill(hub, "chat:r", 1, start=4)
        assert await pushed(new, 1) == [4]
        assert await pushed(back, 1) == [4]


async def test_what_a_member_may_read_no_more_is_not_in_the_answer(hub: Running) -> None:
    master = hub.hub.authenticate(await hub.token("master", role="master"))
    await hub.token("alice")
    token = await hub.token("bob")
    everything = Grant(account="alice", channel="room.r", verbs=["read", "publish"])
    await hub.hub.call(everything, caller=master)
    await fill(hub, "room.r", 5)

    async def narrow() -> None:
        await hub.hub.call(Revoke(account="bob", channel="room.r"), caller=master)
        late = Grant(account="bob", channel="room.r", from_offset=4)
        await hub.hub.call(late, caller=master)

    for at in range(4):
        await hub.hub.call(Revoke(account="bob", channel="room.r"), caller=master)
        await hub.hub.call(Grant(account="bob", channel="room.r"), caller=master)
        async with socket(hub, token, query="envelope=raw") as bob:
            gate = Gate(hub.hub, at=at, action=narrow)
            begun = await bob.subscribe("room.r", recover=True)
            assert gate.was_reached
            await gate.open()
            assert numbers(begun["publications"]) == [4, 5]


async def test_a_ticket_is_worth_nothing_after_a_subscribe_that_failed(hub: Running) -> None:
    await fill(hub, "chat:r", 1)
    async with socket(hub, foreign(sub="42")) as client:
        request = {"channel": "$vip", "token": foreign(sub="42", channel="$vip")}
        position = {"recover": True, "epoch": "other", "flag": 2}
        assert (await client.refused(subscribe={**request, **position}))["code"] == 112
        assert (await client.refused(subscribe={"channel": "$vip"}))["code"] == 103
        assert (await client.subscribe(**request))["recoverable"] is True
