"""A session whose channels need no common order: each is followed, replayed and shown by itself."""

from __future__ import annotations

import msgspec
import pytest

from clawnet.core.callers import Caller
from clawnet.core.channels import parse
from clawnet.core.errors import Forbidden, TooManySubscriptions
from clawnet.core.rights import Verb, decide
from clawnet.hub.settings import ChannelSettings, HubSettings, LimitSettings, NamespaceSettings
from clawnet.testing.hubs import HubRig, event, session_of, started_hub
from clawnet.testing.outlets import LineShape, RecordingOutlet

LINES = LineShape()


def connected(rig: HubRig, caller: Caller, *, high_water: int | None = None) -> RecordingOutlet:
    outlet = RecordingOutlet(high_water=high_water)
    outlet.session = rig.hub.open(caller, outlet, LINES, is_merged=False)
    return outlet


async def test_each_channel_is_delivered_once_and_in_its_order(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    outlet = connected(rig, bob)
    session_of(outlet).follow("public.a")
    session_of(outlet).follow("public.b")
    for n in range(5):
        await rig.publish(ada, "public.a", n)
        await rig.publish(ada, "public.b", n)
    assert outlet.offsets("public.a") == outlet.offsets("public.b") == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("after", [0, 1, 4, 5])
async def test_it_goes_on_behind_an_offset_without_a_gap_or_a_double(
    rig: HubRig, ada: Caller, bob: Caller, after: int
) -> None:
    await rig.fill(ada, "public.a", 5)
    outlet = connected(rig, bob)
    session_of(outlet).follow("public.a", after=after)
    await rig.publish(ada, "public.a", "more")
    await rig.settle()
    assert outlet.offsets("public.a") == list(range(after + 1, 7))


async def test_nothing_is_written_within_the_turn_of_the_call(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    await rig.fill(ada, "public.a", 3)
    outlet = connected(rig, bob)
    session_of(outlet).follow("public.a", after=0)
    assert outlet.frames == []
    await rig.settle()
    assert outlet.offsets("public.a") == [1, 2, 3]


async def test_a_slow_reader_of_several_channels_gets_each_of_them_whole(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    outlet = connected(rig, bob, high_water=3)
    for name in ("public.a", "public.b", "public.c"):
        session_of(outlet).follow(name)
    for n in range(20):
        for name in ("public.a", "public.b", "public.c"):
            await rig.publish(ada, name, n)
    for _ in range(100):
        await rig.settle()
        if not session_of(outlet).is_paused:
            break
        outlet.drain()
    for name in ("public.a", "public.b", "public.c"):
        assert outlet.offsets(name) == list(range(1, 21)), outlet.told


async def test_one_channel_can_be_shown_otherwise_and_be_changed_while_it_is_followed(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    outlet = connected(rig, bob)
    other, third = LineShape("other"), LineShape("third")
    session_of(outlet).follow("public.a", shape=other)
    session_of(outlet).follow("public.b")
    await rig.publish(ada, "public.a", 1)
    await rig.publish(ada, "public.b", 1)
    assert other.built == 1
    session_of(outlet).reshape("public.a", third)
    await rig.publish(ada, "public.a", 2)
    assert (other.built, third.built) == (1, 1)
    assert outlet.offsets("public.a") == [1, 2]
    session_of(outlet).unsubscribe(1)
    session_of(outlet).follow("public.a")
    await rig.publish(ada, "public.a", 3)
    assert third.built == 1, "the shape ends with the subscription"


async def test_what_may_not_be_read_is_not_followed(rig: HubRig, ada: Caller, bob: Caller) -> None:
    outlet = connected(rig, bob)
    with pytest.raises(Forbidden):
        session_of(outlet).follow("agent.ada.plan")
    await rig.publish(ada, "agent.ada.plan", "secret")
    assert outlet.frames == []


async def test_a_connection_follows_no_more_than_it_may(ada: Caller) -> None:
    limits = LimitSettings(subscriptions_per_session_max=2)
    async with started_hub(HubSettings(limits=limits)) as rig:
        outlet = connected(rig, await rig.account("bob"))
        session_of(outlet).follow("public.a")
        session_of(outlet).follow("public.b")
        with pytest.raises(TooManySubscriptions):
            session_of(outlet).follow("public.c")
        session_of(outlet).unsubscribe(1)
        session_of(outlet).follow("public.c")


async def test_nothing_is_left_of_a_connection_that_is_gone(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    outlet = connected(rig, bob)
    for n in range(50):
        session_of(outlet).follow(f"public.t{n}", shape=LineShape(f"s{n}"))
    session_of(outlet).close()
    assert not rig.hub.fanout.world("main").routes
    assert session_of(outlet).shapes == {}


async def test_the_envelope_says_how_an_event_came_in_only_if_its_door_says_so(
    rig: HubRig, ada: Caller
) -> None:
    from clawnet.core.calls.publishing import DoorPublish
    from clawnet.core.events import Origin

    outlet = rig.connect(ada, "public.a")
    plain = event("public.a", 1)
    said = DoorPublish(
        channel="public.a", data=plain.data, origin=Origin(client="c1", tags={"k": 'v"}'})
    )
    await rig.hub.publish_wait(ada, plain)
    await rig.hub.publish_wait(ada, said)
    assert "origin" not in outlet.frames[0].event
    assert outlet.frames[1].event["origin"] == {"client": "c1", "tags": {"k": 'v"}'}}


async def test_each_event_says_its_own_origin_and_few_of_them_are_remembered(
    rig: HubRig, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clawnet.core.calls.publishing import DoorPublish
    from clawnet.core.events import Origin

    monkeypatch.setattr("clawnet.hub.publishing.ORIGINS_MAX", 4)
    outlet = rig.connect(ada, "public.a")
    kept = Origin(client="kept", conn_info=msgspec.Raw(b'{"a":1}'))
    for number in range(40):
        # Made anew, so that one may lie where another lay.
        for origin in (kept, Origin(client=f"c{number}", chan_info=msgspec.Raw(b"[%d]" % number))):
            call = DoorPublish(channel="public.a", data=msgspec.Raw(b"1"), origin=origin)
            await rig.hub.publish_wait(ada, call)
    said = [frame.event["origin"] for frame in outlet.frames]
    assert said[::2] == [{"client": "kept", "conn_info": {"a": 1}}] * 40
    assert said[1::2] == [{"client": f"c{n}", "chan_info": [n]} for n in range(40)]
    remembered = rig.hub.publishing._origins
    assert len(remembered) <= 4
    assert all(id(origin) == key for key, (origin, _) in remembered.items())


async def test_a_ticket_opens_its_free_name_to_one_connection_and_nothing_else() -> None:
    import msgspec

    spaces = {"news": NamespaceSettings(read="nobody")}
    async with started_hub(HubSettings(channels=ChannelSettings(namespaces=spaces))) as rig:
        bob = await rig.account("bob")
        holder = msgspec.structs.replace(bob, tickets=frozenset({"news:x", "agent.ada.plan"}))
        for name, expected in (
            ("news:x", True),
            ("news:y", False),
            ("agent.ada.plan", False),
        ):
            allowed = decide(holder, Verb.SUBSCRIBE, parse(name), rig.hub.directory)
            assert (type(allowed).__name__ == "Allowed") is expected, name
        assert type(decide(bob, Verb.SUBSCRIBE, parse("news:x"), rig.hub.directory)).__name__ == (
            "Denied"
        )
