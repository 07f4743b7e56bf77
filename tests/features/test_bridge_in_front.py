"""The hub behind a Centrifugo with the configuration we ship: proxies and bridge together.

The Centrifugo is a fake (clawnet.testing.centrifugo): what the real one does was not run.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Literal

import httpx
import pytest

from clawnet.core.callers import Caller
from clawnet.core.calls.grants import Grant, Revoke
from clawnet.core.calls.reading import ReadHistory
from clawnet.core.calls.tokens import RevokeToken
from clawnet.core.errors import Unavailable
from clawnet.doors.centrifugo.door import CentrifugoDoor
from clawnet.doors.centrifugo.proxy import ANSWER_MAX_S
from clawnet.doors.centrifugo.settings import CentrifugoSettings
from clawnet.doors.connections import Connections, ConnectionSettings
from clawnet.doors.http.app import HttpDoor, build_app
from clawnet.doors.wheel import Wheel
from clawnet.hub.interceptors import Interceptor, Proposed
from clawnet.testing.centrifugo import Refused
from clawnet.testing.hubs import Gate
from clawnet.testing.loops import LoopClock
from tests.features.bridging import BridgeRig, bridged, memory_engine

SECRET = "what Centrifugo shows"


class InFront(BridgeRig):
    """A rig whose fake asks the hub that is there now."""

    app: HttpDoor

    def serve(self) -> None:
        settings = CentrifugoSettings(proxy_secret=SECRET)
        door = CentrifugoDoor(self.hub, Connections(ConnectionSettings(), Wheel()), settings)
        self.app = build_app(self.hub, centrifugo=door)
        self.fake.serve(self.app)
        self.fake.proxy_headers = {"X-Clawnet-Proxy-Secret": SECRET}

    def attach(self) -> None:
        super().attach()
        self.serve()

    async def stored(self, channel: str, reader: Caller) -> list[Any]:
        """What lies in the log."""
        page = await self.hub.call(ReadHistory(channel=channel), caller=reader)
        return [json.loads(line)["data"] for line in page.body.split(b"\n") if line]


@pytest.fixture
async def rig() -> AsyncIterator[InFront]:
    clock = LoopClock()
    async with bridged(memory_engine(clock), clock) as made:
        made.__class__ = InFront
        assert isinstance(made, InFront)
        made.serve()
        yield made


@pytest.fixture
async def ada(rig: InFront) -> Caller:
    return await rig.account("ada")


@pytest.fixture
async def bob(rig: InFront) -> Caller:
    return await rig.account("bob")


async def test_a_publish_by_the_proxy_is_stored_once_and_told_once(
    rig: InFront, ada: Caller, bob: Caller
) -> None:
    speaker, listener = await rig.fake.connect("ada"), await rig.fake.connect("bob")
    await rig.fake.subscribe(listener, "public.news")
    await rig.fake.publish(speaker, "public.news", {"n": 1})
    await rig.told()
    (data,) = listener.read("public.news")
    assert data["payload"] == {"n": 1} and data["_claw"]["sender"] == "ada"
    assert await rig.stored("public.news", bob) == [{"n": 1}]
    # And what the hub is told by another door comes out of Centrifugo, behind it.
    await rig.publish(ada, "public.news", {"n": 2})
    await rig.told()
    assert [data["payload"]["n"] for data in listener.read("public.news")] == [1, 2]


async def test_both_names_of_the_lobby_hear_both_doors(rig: InFront, ada: Caller) -> None:
    one, two = await rig.fake.connect("ada"), await rig.fake.connect("ada")
    await rig.fake.subscribe(one, "public.lobby")
    await rig.fake.subscribe(two, "public.townsquare")
    await rig.fake.publish(one, "public.townsquare", "by the other name")
    await rig.fake.publish(one, "public.lobby", "by its name")
    await rig.publish(ada, "public.lobby", "from elsewhere")
    await rig.told()
    said = ["by the other name", "by its name", "from elsewhere"]
    for client, name in ((one, "public.lobby"), (two, "public.townsquare")):
        assert sorted(d["payload"] for d in client.read(name)) == sorted(said)


@pytest.mark.parametrize(
    ("channel", "code"),
    [
        ("agent.bob.diary", 403),
        ("agent.bob.inbox", 403),
        ("room.team", 403),
        ("dm.bob.eve", 403),
        ("system.accounts", 403),
        ("public.", 403),
        # No namespace, so that the hub is not even asked.
        ("global", 103),
        ("chat:1", 103),
        ("memory.notes", 102),
        ("external.x", 102),
    ],
)
async def test_the_shipped_configuration_lets_nobody_in_where_it_may_not(
    rig: InFront, ada: Caller, bob: Caller, channel: str, code: int
) -> None:
    client = await rig.fake.connect("ada")
    with pytest.raises(Refused) as refused:
        await rig.fake.subscribe(client, channel)
    assert refused.value.code == code
    if channel == "agent.bob.inbox":
        # Anybody may write there.
        await rig.fake.publish(client, channel, 1)
    else:
        with pytest.raises(Refused) as refused:
            await rig.fake.publish(client, channel, 1)
        assert refused.value.code == (103 if channel.startswith("system.") else code)
    assert not client.channels


async def test_nobody_speaks_as_somebody_else(rig: InFront, ada: Caller, bob: Caller) -> None:
    client = await rig.fake.connect("bob")
    for channel in ("agent.ada.public.feed", "agent.ada.plan"):
        with pytest.raises(Refused):
            await rig.fake.publish(client, channel, "as ada")
    await rig.fake.publish(client, "public.news", {"_claw": {"sender": "ada"}})
    await rig.told()
    assert rig.fake.published[-1][1]["_claw"]["sender"] == "bob"


async def test_a_revoke_ends_the_subscription_and_the_next_is_refused(
    rig: InFront, ada: Caller, bob: Caller
) -> None:
    client = await rig.fake.connect("bob")
    await rig.hub.call(Grant(account="bob", channel="plan"), caller=ada)
    await rig.fake.subscribe(client, "agent.ada.plan")
    rig.fake.is_down = True
    await rig.hub.call(Revoke(account="bob", channel="plan"), caller=ada)
    await rig.publish(ada, "agent.ada.plan", "a secret")
    await rig.clock.pass_time(300)
    rig.fake.is_down = False
    await rig.told()
    assert client.unsubscribed == ["agent.ada.plan"] and client.received == []
    with pytest.raises(Refused):
        await rig.fake.subscribe(client, "agent.ada.plan")


async def test_a_token_shown_to_the_proxy_ends_with_its_revocation(rig: InFront) -> None:
    ada = await rig.account("ada")
    token = await rig.token("ada")
    client = await rig.fake.connect(data={"token": token})
    assert client.user == "ada"
    await rig.fake.subscribe(client, "public.news")
    await rig.fake.publish(client, "public.news", 1)
    shown = rig.hub.authenticate(token).token_id
    assert shown is not None
    rig.fake.is_down = True
    await rig.hub.call(RevokeToken(id=shown), caller=ada)
    # At once, whether Centrifugo can be told or not.
    with pytest.raises(Refused):
        await rig.fake.publish(client, "public.news", 2)
    assert (await rig.fake.refresh(client)) == {"expired": True}
    rig.fake.is_down = False
    await rig.told()
    assert client.ended is not None


async def test_without_a_token_nobody_connects_unless_reading_is_open(rig: InFront) -> None:
    with pytest.raises(Refused):
        await rig.fake.connect(data={})
    with pytest.raises(Refused):
        await rig.fake.connect(data={"token": "made up"})


async def test_a_question_that_is_repeated_stores_again_what_it_published(
    rig: InFront, ada: Caller
) -> None:
    """Centrifugo gives no key to know it by; the docs say so."""
    client = await rig.fake.connect("ada")
    for _ in range(2):
        await rig.fake.publish(client, "public.news", "twice")
    assert await rig.stored("public.news", ada) == ["twice", "twice"]


async def test_a_hub_that_is_killed_behind_it_loses_nothing(
    rig: InFront, ada: Caller, bob: Caller
) -> None:
    speaker, listener = await rig.fake.connect("ada"), await rig.fake.connect("bob")
    await rig.fake.subscribe(listener, "public.news")
    for number in range(30):
        if number % 3:
            await rig.publish(ada, "public.news", number)
        else:
            await rig.fake.publish(speaker, "public.news", number)
        if number % 10 == 5:
            for _ in range(number):
                await asyncio.sleep(0)
            await rig.crash()
            ada = await rig.caller("ada")
    await rig.told()
    told = listener.read("public.news")
    read = [data["payload"] for data in told]
    assert sorted(set(read)) == list(range(30)), "everything"
    # Who was answered right before a kill may be told twice, by the same id.
    assert len({data["_claw"]["id"] for data in told}) == 30
    assert all(n % 3 == 0 for n, times in Counter(read).items() if times > 1)
    # What came by the hub's other doors is in its order.
    assert [n for n in read if n % 3] == [n for n in range(30) if n % 3]


# --- an answer that Centrifugo never had --------------------------------------


@pytest.mark.parametrize("when", ["before", "behind"])
@pytest.mark.parametrize("channel", ["public.news", "public.lobby", "public.townsquare"])
async def test_a_publish_whose_answer_is_lost_is_told_all_the_same(
    rig: InFront, ada: Caller, bob: Caller, when: Literal["before", "behind"], channel: str
) -> None:
    speaker, listener = await rig.fake.connect("ada"), await rig.fake.connect("bob")
    await rig.fake.subscribe(listener, channel)
    rig.fake.gives_up = when
    with pytest.raises(Refused):
        await rig.fake.publish(speaker, channel, "unheard")
    await rig.fake.publish(speaker, channel, "heard")
    await rig.publish(ada, channel, "by another door")
    await rig.told()
    said = [data["payload"] for data in listener.read(channel)]
    assert sorted(said) == ["by another door", "heard", "unheard"]
    assert await rig.stored(channel, bob) == ["unheard", "heard", "by another door"]


@pytest.mark.parametrize("took_s", [0.4, 0.6])
async def test_an_answer_that_may_have_come_too_late_is_told_again(
    rig: InFront, ada: Caller, took_s: float
) -> None:
    client = await rig.fake.connect("ada")
    await rig.fake.subscribe(client, "public.news")

    async def think(proposed: Proposed) -> None:
        await rig.clock.pass_time(took_s)

    rig.hub.intercept(Interceptor(name="slow", channels=("public.news",), intercept=think))
    await rig.fake.publish(client, "public.news", "late")
    await rig.told()
    told = client.read("public.news")
    assert len(told) == (1 if took_s < ANSWER_MAX_S else 2)
    # By which a client knows the second.
    assert len({data["_claw"]["id"] for data in told}) == 1


async def test_a_publish_whose_hub_is_killed_before_the_answer_is_told_after_its_restart(
    rig: InFront, ada: Caller, bob: Caller
) -> None:
    speaker, listener = await rig.fake.connect("ada"), await rig.fake.connect("bob")
    await rig.fake.subscribe(listener, "public.news")
    await rig.told()
    is_committed = asyncio.Event()

    async def never(work: Any) -> Any:
        is_committed.set()
        await asyncio.Event().wait()

    # From the commit on this hub does nothing more.
    vars(rig.hub.storage)["read"] = never
    asking = asyncio.create_task(rig.fake.publish(speaker, "public.news", "unheard"))
    await is_committed.wait()
    await rig.crash()
    asking.cancel()
    await rig.told()
    assert [data["payload"] for data in listener.read("public.news")] == ["unheard"]


async def test_what_is_answered_with_an_error_behind_its_commit_is_told(
    rig: InFront, ada: Caller
) -> None:
    client = await rig.fake.connect("ada")
    await rig.fake.subscribe(client, "public.news")
    storage = rig.hub.storage
    read = storage.read

    async def failing(work: Any) -> Any:
        found = await read(work)
        if isinstance(found, bytes):
            raise Unavailable("The event cannot be read.")
        return found

    vars(storage)["read"] = failing
    with pytest.raises(Refused):
        await rig.fake.publish(client, "public.news", "stored")
    await rig.told()
    assert [data["payload"] for data in client.read("public.news")] == ["stored"]


async def test_many_publishes_at_once_are_each_told_once(rig: InFront, ada: Caller) -> None:
    client = await rig.fake.connect("ada")
    await rig.fake.subscribe(client, "public.news")
    await asyncio.gather(
        *(rig.fake.publish(client, "public.news", number) for number in range(200))
    )
    await rig.told()
    assert sorted(d["payload"] for d in client.read("public.news")) == list(range(200))
    assert len(rig.hub.told) == 0, "what was asked about is forgotten"


async def test_without_a_connection_to_look_at_an_answer_counts_as_lost(
    rig: InFront, ada: Caller
) -> None:
    client = await rig.fake.connect("ada")
    rig.fake.hub = httpx.ASGITransport(rig.app)
    await rig.fake.publish(client, "public.news", 1)
    await rig.told()
    assert rig.on("public.news") == [1, 1]


@pytest.mark.parametrize("at", range(3))
async def test_a_right_that_goes_while_the_hub_answers_is_gone(
    rig: InFront, ada: Caller, bob: Caller, at: int
) -> None:
    await rig.hub.call(Grant(account="bob", channel="plan"), caller=ada)
    client = await rig.fake.connect("bob")
    gate = Gate(
        rig.hub,
        at=at,
        action=lambda: rig.hub.call(Revoke(account="bob", channel="plan"), caller=ada),
    )
    try:
        await rig.fake.subscribe(client, "agent.ada.plan")
    except Refused:
        pass
    await rig.publish(ada, "public.x", 1)
    await rig.told()
    await gate.open()
    await rig.clock.pass_time(20)
    await rig.told()
    assert not client.channels or not gate.was_reached
