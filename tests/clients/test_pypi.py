"""The PyPI client of Centrifugo (`centrifuge-python`), unchanged, in JSON and protobuf."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import centrifuge
import pytest
from centrifuge import CentrifugeError, ClientEventHandler, StreamPosition, SubscriptionEventHandler
from centrifuge.client import ReplyError

from tests.clients.conftest import Hub, foreign
from tests.clients.test_npm import documents

WAIT_MAX_S = 15.0
FORMATS = pytest.mark.parametrize("is_protobuf", [False, True], ids=["json", "protobuf"])


class Heard:
    """Everything a handler was told, by its kind."""

    def __init__(self) -> None:
        self._told: dict[str, asyncio.Queue[Any]] = {}

    def _queue(self, event: str) -> asyncio.Queue[Any]:
        return self._told.setdefault(event, asyncio.Queue())

    async def hear(self, event: str) -> Any:
        return await asyncio.wait_for(self._queue(event).get(), WAIT_MAX_S)

    def count(self, event: str) -> int:
        return self._queue(event).qsize()


def handler(base: type[Any]) -> tuple[Any, Heard]:
    """A handler of the client's kind that writes down what it is told."""
    heard = Heard()

    def note(event: str) -> Callable[[Any, Any], Awaitable[None]]:
        async def told(self: Any, context: Any) -> None:
            heard._queue(event).put_nowait(context)

        return told

    methods = {name: note(name[3:]) for name in vars(base) if name.startswith("on_")}
    return type("Handler", (base,), methods)(), heard


class Person(Heard):
    """One client."""

    def __init__(self, hub: Hub, *, is_protobuf: bool, **options: Any) -> None:
        events, heard = handler(ClientEventHandler)
        self._told = heard._told
        self.is_protobuf = is_protobuf
        self.client = centrifuge.Client(
            hub.url.replace("http", "ws") + "/connection/websocket",
            events=events,
            use_protobuf=is_protobuf,
            min_reconnect_delay=0.02,
            max_reconnect_delay=0.2,
            proxy=None,
            **options,
        )
        self.subscriptions: dict[str, tuple[Any, Heard]] = {}

    async def connect(self) -> None:
        await self.client.connect()
        await self.hear("connected")

    async def close(self) -> None:
        """disconnect() leaves the closing of the socket to a task."""
        await self.client.disconnect()
        if ending := set(self.client._background_tasks):
            await asyncio.wait(ending)

    async def follow(self, channel: str, **options: Any) -> tuple[Any, Heard]:
        events, heard = handler(SubscriptionEventHandler)
        subscription = self.client.new_subscription(channel, events=events, **options)
        self.subscriptions[channel] = (subscription, heard)
        await subscription.subscribe()
        return await heard.hear("subscribed"), heard

    def shown(self, data: Any) -> Any:
        return json.loads(data) if self.is_protobuf and data is not None else data

    async def say(self, channel: str, value: Any) -> None:
        data = json.dumps(value).encode() if self.is_protobuf else value
        await self.client.publish(channel, data)

    async def data(self, heard: Heard, count: int) -> list[Any]:
        return [self.shown((await heard.hear("publication")).pub.data) for _ in range(count)]


MakePerson = Callable[..., Person]


@pytest.fixture
async def person(hub: Hub, is_protobuf: bool) -> AsyncIterator[MakePerson]:
    made: list[Person] = []

    def make(*, of: Hub = hub, **options: Any) -> Person:
        made.append(Person(of, is_protobuf=is_protobuf, **options))
        return made[-1]

    yield make
    for one in made:
        await one.close()


@FORMATS
async def test_what_one_publishes_the_other_reads(person: MakePerson, hub: Hub, name: str) -> None:
    ada, bob = person(token=hub.token("ada")), person(token=hub.token("bob"))
    await ada.connect()
    await bob.connect()
    channel = f"open:{name}"
    _, heard = await bob.follow(channel)
    value = {"text": "héllo ✓ 🎉 \n\u2028", "numbers": [1, -2.5], "none": None}

    await ada.say(channel, value)

    publication = (await heard.hear("publication")).pub
    assert bob.shown(publication.data) == value
    assert publication.offset == 1
    assert publication.info.user == "ada"
    assert bob.shown(publication.info.conn_info) == {"handle": "ada", "role": "worker"}


@FORMATS
async def test_who_reads_is_told_what_the_application_says_of_who_published(
    person: MakePerson, hub: Hub, name: str
) -> None:
    channel, said = f"open:{name}", {"shown": "as the application says"}
    nora, bob = person(token=foreign("user 42", info=said)), person(token=hub.token("bob"))
    await nora.connect()
    await bob.connect()
    _, heard = await bob.follow(channel)

    await nora.say(channel, 1)

    live = (await heard.hear("publication")).pub.info
    past = (await bob.client.history(channel, limit=1)).publications[0].info
    for info in (live, past):
        assert (info.user, bob.shown(info.conn_info)) == ("user 42", said)


@FORMATS
async def test_tokens_of_every_kind_are_taken_and_presence_shows_whose(
    person: MakePerson, hub: Hub, name: str
) -> None:
    channel = f"open:{name}"
    short = hub.ask("POST", "/api/v1/tokens/jwt", {}, token=hub.token("bob"))["token"]
    people = [person(token=token) for token in (hub.token("ada"), short, foreign("user 42"))]
    for one in people:
        await one.connect()
        await one.follow(channel)

    seen = (await people[0].client.presence(channel)).clients
    stats = await people[0].client.presence_stats(channel)

    assert sorted(one.user for one in seen.values()) == ["ada", "bob", "user 42"]
    assert (stats.num_clients, stats.num_users) == (3, 3)


@FORMATS
async def test_a_bad_token_ends_it_and_an_expired_one_is_replaced(
    person: MakePerson, hub: Hub
) -> None:
    eve = person(token=foreign("eve")[:-6] + "AAAAAA")
    await eve.client.connect()
    assert (await eve.hear("disconnected")).code == 3500

    async def fresh() -> str:
        return foreign("eve")

    late = person(token=foreign("eve", lasts_s=-60), get_token=fresh)
    await late.connect()


@FORMATS
async def test_tokens_that_end_are_refreshed(person: MakePerson, hub: Hub, name: str) -> None:
    """This client asks exactly when the time is up, and is still let stay."""
    channel = f"closed:{name}"
    asked: asyncio.Queue[str] = asyncio.Queue()
    lasts_s = iter((1.5, 1.5, 3600.0, 3600.0))

    async def fresh() -> str:
        asked.put_nowait("connection")
        return foreign("eve", lasts_s=next(lasts_s))

    async def fresh_ticket(channel: str) -> str:
        asked.put_nowait("subscription")
        return foreign("eve", channel=channel, lasts_s=next(lasts_s))

    eve = person(get_token=fresh)
    await eve.connect()
    _, heard = await eve.follow(channel, get_token=fresh_ticket)
    for_what = [await asyncio.wait_for(asked.get(), WAIT_MAX_S) for _ in range(4)]
    assert for_what[:2] == ["connection", "subscription"]
    assert sorted(for_what[2:]) == ["connection", "subscription"]
    await asyncio.to_thread(hub.api, "publish", {"channel": channel, "data": "go on"})

    assert await eve.data(heard, 1) == ["go on"]
    assert eve.count("disconnected") == 0
    assert heard.count("unsubscribed") == 0


@FORMATS
async def test_the_past_is_read_in_pages(person: MakePerson, hub: Hub, name: str) -> None:
    channel = f"open:{name}"
    ada = person(token=hub.token("ada"))
    await ada.connect()
    hub.publish("ada", channel, *range(1, 26))
    top = await ada.client.history(channel)
    assert (top.publications, top.offset) == ([], 25)

    pages, since = [], StreamPosition(offset=0, epoch=top.epoch)
    while page := (await ada.client.history(channel, limit=10, since=since)).publications:
        pages.append([ada.shown(one.data) for one in page])
        since = StreamPosition(offset=page[-1].offset, epoch=top.epoch)
    newest = (await ada.client.history(channel, limit=2, reverse=True)).publications

    assert pages == [list(range(1, 11)), list(range(11, 21)), list(range(21, 26))]
    assert [ada.shown(one.data) for one in newest] == [25, 24]
    with pytest.raises(CentrifugeError) as wrong:
        await ada.client.history(channel, limit=1, since=StreamPosition(offset=1, epoch="other"))
    assert isinstance(wrong.value, ReplyError)
    assert wrong.value.code == 112


@FORMATS
async def test_who_comes_and_goes_is_told(person: MakePerson, hub: Hub, name: str) -> None:
    channel = f"open:{name}"
    ada, bob = person(token=hub.token("ada")), person(token=hub.token("bob"))
    await ada.connect()
    await bob.connect()
    _, heard = await ada.follow(channel)
    assert (await heard.hear("join")).info.user == "ada"
    await bob.follow(channel)
    assert (await heard.hear("join")).info.user == "bob"

    await bob.client.disconnect()

    assert (await heard.hear("leave")).info.user == "bob"


@FORMATS
async def test_after_a_long_absence_nothing_is_missing_and_nothing_comes_twice(
    person: MakePerson, hub: Hub, name: str
) -> None:
    channel = f"open:{name}"
    ada = person(token=hub.token("ada"))
    await ada.connect()
    _, heard = await ada.follow(channel)
    hub.publish("ada", channel, "before")
    await ada.data(heard, 1)
    await ada.close()
    hub.publish("ada", channel, *range(900))
    await ada.connect()
    back = await heard.hear("subscribed")
    hub.publish("ada", channel, "after")

    assert back.was_recovering
    assert back.recovered
    assert await ada.data(heard, 901) == [*range(900), "after"]
    assert heard.count("publication") == 0


@FORMATS
async def test_clients_outlive_a_restart_of_the_hub(
    person: MakePerson, own_hub: Hub, is_protobuf: bool
) -> None:
    channel = "open:restart"
    ada = person(of=own_hub, token=own_hub.token("ada"))
    await ada.connect()
    _, heard = await ada.follow(channel)
    own_hub.publish("ada", channel, *range(5))
    assert await ada.data(heard, 5) == list(range(5))

    await asyncio.to_thread(own_hub.restart)
    own_hub.publish("ada", channel, *range(5, 10))

    assert (await heard.hear("subscribed")).recovered
    assert await ada.data(heard, 5) == list(range(5, 10))


@FORMATS
async def test_a_hundred_subscriptions(person: MakePerson, hub: Hub, name: str) -> None:
    channels = [f"open:{name}-{number}" for number in range(100)]
    ada = person(token=hub.token("ada"))
    await ada.connect()
    heard = [one for _, one in await asyncio.gather(*(ada.follow(c) for c in channels))]

    events = [{"channel": channel, "data": channel} for channel in channels]
    hub.ask("POST", "/api/v1/events/batch", {"events": events}, token=hub.token("ada"))

    assert [await ada.data(one, 1) for one in heard] == [[channel] for channel in channels]


@FORMATS
async def test_patches_make_what_was_published(person: MakePerson, hub: Hub, name: str) -> None:
    channel = f"open:{name}"
    texts = documents(4, 20)
    ada = person(token=hub.token("ada"))
    await ada.connect()
    _, heard = await ada.follow(channel, delta=centrifuge.DeltaType.FOSSIL)
    for text in texts:
        hub.publish("ada", channel, text)

    publications = [(await heard.hear("publication")).pub for _ in texts]

    assert [ada.shown(one.data) for one in publications] == texts
    assert [one.delta for one in publications] == [False] + [True] * 19


@FORMATS
async def test_a_refused_subscription_says_why(person: MakePerson, hub: Hub) -> None:
    bob = person(token=hub.token("bob"))
    await bob.connect()
    events, heard = handler(SubscriptionEventHandler)
    subscription = bob.client.new_subscription("agent.ada.secret", events=events)
    await subscription.subscribe()

    refused = await heard.hear("unsubscribed")

    assert refused.code == 103
    assert refused.reason.startswith("permission denied: ")
