"""The npm client of Centrifugo (`centrifuge`), unchanged, against the hub, on every transport."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from tests.clients.conftest import Hub, foreign
from tests.clients.node import Answered, Node

TRANSPORTS = [
    pytest.param({"transport": "websocket"}, id="websocket"),
    pytest.param({"transport": "websocket", "protobuf": True}, id="websocket-protobuf"),
    pytest.param({"transport": "http_stream"}, id="http_stream"),
    pytest.param({"transport": "http_stream", "protobuf": True}, id="http_stream-protobuf"),
    pytest.param({"transport": "sse"}, id="sse"),
]
SOCKET = {"transport": "websocket"}
everywhere = pytest.mark.parametrize("how", TRANSPORTS)


class Person:
    """One client of the process, with its name."""

    def __init__(self, js: Node, hub: Hub, name: str, how: dict[str, Any], **options: Any) -> None:
        self.js = js
        self.name = name
        js.do("open", client=name, url=hub.url, **how, **options)

    def do(self, command: str, **arguments: Any) -> Any:
        return self.js.do(command, client=self.name, **arguments)

    def hear(self, event: str, **about: Any) -> dict[str, Any]:
        return self.js.hear(event, who=self.name, **about)

    def unheard(self, event: str, **about: Any) -> list[dict[str, Any]]:
        return self.js.unheard(event, who=self.name, **about)

    def connect(self) -> dict[str, Any]:
        self.do("connect")
        return self.hear("connected")

    def follow(self, *channels: str, **options: Any) -> dict[str, Any]:
        """Follow, and wait until it is so; gives what was said of the last one."""
        self.do("follow", channels=channels, **options)
        return [self.hear("subscribed", channel=channel) for channel in channels][-1]

    def data(self, channel: str, count: int) -> list[Any]:
        """The next publications' payloads."""
        return [self.hear("publication", channel=channel)["data"] for _ in range(count)]


@pytest.fixture
def person(js: Node, hub: Hub, name: str) -> Any:
    """Makes clients of this test, and takes them away in the end."""
    made: list[Person] = []

    def make(how: dict[str, Any], *, of: Hub = hub, **options: Any) -> Person:
        made.append(Person(js, of, f"{name}/{len(made)}", how, **options))
        return made[-1]

    yield make
    for one in made:
        if js.is_alive:
            one.do("disconnect")


@everywhere
def test_what_one_publishes_the_other_reads(
    how: dict[str, Any], person: Any, hub: Hub, name: str
) -> None:
    ada, bob = person(how, token=hub.token("ada")), person(how, token=hub.token("bob"))
    ada.connect()
    connected = bob.connect()
    assert connected["transport"] == how["transport"]
    channel = f"open:{name}"
    bob.follow(channel)
    value = {"text": 'héllo ✓ 🎉 \n\u2028 "quoted"', "numbers": [1, -2.5, 1e100], "none": None}

    ada.do("publish", channel=channel, data=value)
    ada.do("publish", channel=channel, data="second")

    first = bob.hear("publication", channel=channel)
    second = bob.hear("publication", channel=channel)
    assert first["data"] == value
    assert second["data"] == "second"
    assert (first["offset"], second["offset"]) == (1, 2)
    assert first["info"]["user"] == "ada"
    assert first["info"]["connInfo"] == {"handle": "ada", "role": "worker"}


@everywhere
def test_tokens_of_every_kind_are_taken(
    how: dict[str, Any], person: Any, hub: Hub, name: str
) -> None:
    channel = f"open:{name}"
    short = hub.ask("POST", "/api/v1/tokens/jwt", {}, token=hub.token("bob"))["token"]
    by = {"ada": hub.token("ada"), "bob": short}
    by["user 42"] = foreign("user 42", info={"shown": "as the application says"})
    people = {user: person(how, token=given) for user, given in by.items()}
    for one in people.values():
        one.connect()
        one.follow(channel)

    seen = people["ada"].do("presence", channel=channel)["clients"]

    assert sorted(one["user"] for one in seen.values()) == ["ada", "bob", "user 42"]
    infos = {one["user"]: one["connInfo"] for one in seen.values()}
    assert infos["user 42"] == {"shown": "as the application says"}
    assert infos["bob"] == {"handle": "bob", "role": "worker"}
    assert people["bob"].do("presenceStats", channel=channel) == {"numClients": 3, "numUsers": 3}


@everywhere
def test_who_reads_is_told_what_the_application_says_of_who_published(
    how: dict[str, Any], person: Any, hub: Hub, name: str
) -> None:
    channel, said = f"open:{name}", {"shown": "as the application says"}
    nora = person(how, token=foreign("user 42", info=said))
    bob = person(how, token=hub.token("bob"))
    for one in (nora, bob):
        one.connect()
    token = foreign("user 42", channel=channel, info={"seat": 7})
    nora.follow(channel, token=token)
    bob.follow(channel)

    nora.do("publish", channel=channel, data=1)

    info = bob.hear("publication", channel=channel)["info"]
    past = bob.do("history", channel=channel, limit=1)["publications"][0]["info"]
    seen = bob.do("presence", channel=channel)["clients"]
    assert (info["user"], info["connInfo"], info["chanInfo"]) == ("user 42", said, {"seat": 7})
    assert past == info
    there = seen[info["client"]]
    assert (there["connInfo"], there["chanInfo"]) == (said, {"seat": 7})


@everywhere
def test_a_bad_token_ends_it_for_good(how: dict[str, Any], person: Any, hub: Hub) -> None:
    right = foreign("eve")
    for token in ("nonsense", right[:-6] + "AAAAAA", foreign("eve", channel="open:x")):
        eve = person(how, token=token)
        eve.do("connect")
        assert eve.hear("disconnected")["code"] == 3500


@everywhere
def test_an_expired_token_is_replaced_by_a_new_one(
    how: dict[str, Any], person: Any, hub: Hub
) -> None:
    eve = person(how, token=foreign("eve", lasts_s=-60), tokens=[foreign("eve")])
    eve.do("connect")

    eve.hear("asked for a token")
    eve.hear("connected")


def test_clients_whose_token_ends_refresh_and_stay(person: Any, hub: Hub, name: str) -> None:
    """All transports at once: each waits until its token's time is up."""
    channel = f"open:{name}"
    people = []
    for transport in TRANSPORTS:
        short, later = foreign("eve", lasts_s=2), foreign("eve")
        eve = person(transport.values[0], token=short, tokens=[later])
        eve.connect()
        eve.follow(channel)
        people.append(eve)

    for eve in people:
        eve.hear("asked for a token")
    hub.publish("ada", channel, "still here")

    for eve in people:
        assert eve.data(channel, 1) == ["still here"]
        eve.do("publish", channel=f"{channel}-own", data="and may speak")
        assert eve.unheard("disconnected") == []


def test_without_a_token_only_what_anyone_may_read_is_read(
    person: Any, hub: Hub, name: str
) -> None:
    anyone = person(SOCKET)
    anyone.connect()
    anyone.follow(f"world:{name}")
    anyone.do("follow", channels=[f"open:{name}"])
    refused = anyone.hear("unsubscribed", channel=f"open:{name}")

    hub.publish("ada", f"world:{name}", "for all")

    assert anyone.data(f"world:{name}", 1) == ["for all"]
    assert refused["code"] == 103


@everywhere
def test_the_past_is_read_in_pages(how: dict[str, Any], person: Any, hub: Hub, name: str) -> None:
    channel = f"open:{name}"
    ada = person(how, token=hub.token("ada"))
    ada.connect()
    hub.publish("ada", channel, *range(1, 26))
    top = ada.do("history", channel=channel)
    assert top["publications"] == []
    assert top["offset"] == 25

    pages, since = [], {"offset": 0, "epoch": top["epoch"]}
    while True:
        page = ada.do("history", channel=channel, limit=10, since=since)["publications"]
        if not page:
            break
        pages.append([one["data"] for one in page])
        since["offset"] = page[-1]["offset"]
    newest = ada.do("history", channel=channel, limit=3, reverse=True)["publications"]
    before = ada.do(
        "history", channel=channel, limit=3, reverse=True,
        since={"offset": 10, "epoch": top["epoch"]},
    )["publications"]  # fmt: skip

    assert pages == [list(range(1, 11)), list(range(11, 21)), list(range(21, 26))]
    assert [one["data"] for one in newest] == [25, 24, 23]
    assert [one["data"] for one in before] == [9, 8, 7]
    with pytest.raises(Answered) as wrong:
        ada.do("history", channel=channel, limit=3, since={"offset": 1, "epoch": "other"})
    assert wrong.value.code == 112


@everywhere
def test_who_comes_and_goes_is_told(how: dict[str, Any], person: Any, hub: Hub, name: str) -> None:
    channel = f"open:{name}"
    ada, bob = person(how, token=hub.token("ada")), person(how, token=hub.token("bob"))
    ada.connect()
    bob.connect()
    ada.follow(channel)
    assert ada.hear("join", channel=channel)["info"]["user"] == "ada"

    bob.follow(channel)
    assert ada.hear("join", channel=channel)["info"]["user"] == "bob"
    bob.do("unfollow", channel=channel)
    assert ada.hear("leave", channel=channel)["info"]["user"] == "bob"
    bob.do("refollow", channel=channel)
    assert ada.hear("join", channel=channel)["info"]["user"] == "bob"
    bob.do("disconnect")

    assert ada.hear("leave", channel=channel)["info"]["user"] == "bob"


@everywhere
def test_after_a_long_absence_nothing_is_missing_and_nothing_comes_twice(
    how: dict[str, Any], person: Any, hub: Hub, name: str
) -> None:
    """Centrifugo itself gives up at 300 missed publications."""
    channel = f"open:{name}"
    ada = person(how, token=hub.token("ada"))
    ada.connect()
    ada.follow(channel)
    hub.publish("ada", channel, "before")
    ada.data(channel, 1)
    # Long enough that the hub is told everything before the client is back.
    ada.do("disconnect")
    ada.hear("disconnected")
    hub.publish("ada", channel, *range(900))
    ada.do("connect")
    back = ada.hear("subscribed", channel=channel)
    hub.publish("ada", channel, "after")

    got = [ada.hear("publication", channel=channel) for _ in range(901)]

    assert back["wasRecovering"]
    assert back["recovered"]
    assert [one["data"] for one in got] == [*range(900), "after"]
    assert [one["offset"] for one in got] == list(range(2, 903))
    assert ada.unheard("publication") == []


@everywhere
def test_a_broken_connection_is_made_again_and_goes_on_where_it_was(
    how: dict[str, Any], person: Any, hub: Hub, name: str
) -> None:
    channel = f"open:{name}"
    ada = person(how, token=hub.token("ada"), minReconnectDelay=200, maxReconnectDelay=300)
    ada.connect()
    ada.follow(channel)
    hub.publish("ada", channel, "before")
    ada.data(channel, 1)

    ada.do("sever")
    hub.publish("ada", channel, *range(20))
    ada.hear("connected")
    back = ada.hear("subscribed", channel=channel)
    hub.publish("ada", channel, "after")

    assert back["recovered"]
    assert ada.data(channel, 21) == [*range(20), "after"]


def test_who_was_there_before_the_first_event_recovers_it(person: Any, hub: Hub, name: str) -> None:
    channel = f"open:{name}"
    ada = person(SOCKET, token=hub.token("ada"))
    ada.connect()
    first = ada.follow(channel)
    ada.do("disconnect")
    ada.hear("disconnected")
    hub.publish("ada", channel, "the first of all")
    ada.do("connect")
    back = ada.hear("subscribed", channel=channel)

    assert first["streamPosition"]["offset"] == 0
    assert back["recovered"]
    assert ada.data(channel, 1) == ["the first of all"]


def test_everything_so_far_can_be_asked_for(person: Any, hub: Hub, name: str) -> None:
    """`since: {offset: 0, epoch: ""}`, as the documentation of the clients has it."""
    channel = f"open:{name}"
    hub.publish("ada", channel, *range(10))
    ada = person(SOCKET, token=hub.token("ada"))
    ada.connect()

    ada.follow(channel, since={"offset": 0, "epoch": ""})

    assert ada.data(channel, 10) == list(range(10))


@pytest.mark.parametrize(
    "how", [p for p in TRANSPORTS if p.id in ("websocket", "http_stream-protobuf", "sse")]
)
def test_clients_outlive_a_restart_of_the_hub(
    how: dict[str, Any], person: Any, own_hub: Hub
) -> None:
    channel = "open:restart"
    ada = person(how, of=own_hub, token=own_hub.token("ada"))
    eve = person(how, of=own_hub, token=foreign("eve"))
    for one in (ada, eve):
        one.connect()
        one.follow(channel)
    own_hub.publish("ada", channel, *range(5))
    assert ada.data(channel, 5) == eve.data(channel, 5) == list(range(5))
    for one in (ada, eve):
        one.do("disconnect")
        one.hear("disconnected")
    own_hub.publish("ada", channel, *range(5, 10))
    ada.do("connect")
    ada.hear("subscribed", channel=channel)

    own_hub.restart()
    own_hub.publish("ada", channel, *range(10, 15))
    eve.do("connect")
    again = [one.hear("subscribed", channel=channel) for one in (ada, eve)]

    assert all(one["recovered"] for one in again)
    assert ada.data(channel, 10) == eve.data(channel, 10) == list(range(5, 15))
    assert 3001 in [one["code"] for one in ada.unheard("connecting")]


@everywhere
def test_a_hundred_subscriptions_in_one_frame(
    how: dict[str, Any], person: Any, hub: Hub, name: str
) -> None:
    """Made before the client connects, they are sent together with the connect command."""
    channels = [f"open:{name}-{number}" for number in range(100)]
    ada = person(how, token=hub.token("ada"))
    ada.do("follow", channels=channels)
    ada.connect()
    for channel in channels:
        ada.hear("subscribed", channel=channel)

    events = [{"channel": channel, "data": channel} for channel in channels]
    hub.ask("POST", "/api/v1/events/batch", {"events": events}, token=hub.token("ada"))

    for channel in channels:
        assert ada.data(channel, 1) == [channel]


def test_the_hubs_own_channels_come_in_the_dress_of_claw_events(
    person: Any, hub: Hub, name: str
) -> None:
    channel = f"public.{name}"
    dressed = person(SOCKET, token=hub.token("ada"))
    bare = person(SOCKET, token=hub.token("ada"), query="?envelope=raw")
    stranger = person(SOCKET, token=foreign("eve"))
    for one in (dressed, bare):
        one.connect()
        one.follow(channel)
    stranger.connect()

    dressed.do("publish", channel=channel, data={"n": 1})

    shown = dressed.data(channel, 1)[0]
    assert shown["payload"] == {"n": 1}
    assert shown["_claw"]["sender"] == "ada"
    assert shown["_claw"]["id"].startswith("evt_")
    assert bare.data(channel, 1) == [{"n": 1}]


def test_a_refused_command_says_why(person: Any, hub: Hub, name: str) -> None:
    bob = person(SOCKET, token=hub.token("bob"))
    bob.connect()
    refusals = {"agent.ada.secret": 103, "undeclared:x": 102, "closed:x": 103}
    for channel, code in refusals.items():
        bob.do("follow", channels=[channel])
        refused = bob.hear("unsubscribed", channel=channel)
        assert refused["code"] == code
        assert len(refused["reason"]) > len("permission denied: ")
        with pytest.raises(Answered) as why:
            bob.do("publish", channel=channel, data=1)
        assert why.value.code == code
    with pytest.raises(Answered) as none:
        bob.do("rpc", method="nothing", data={})
    assert none.value.code == 108


def test_a_subscription_token_opens_a_closed_channel(person: Any, hub: Hub, name: str) -> None:
    channel = f"closed:{name}"
    eve = person(SOCKET, token=foreign("eve"))
    eve.connect()
    eve.do("follow", channels=[channel], tokens=[foreign("eve", channel=channel)])
    eve.hear("subscribed", channel=channel)

    said = hub.api("publish", {"channel": channel, "data": "to those with a ticket"})

    assert "error" not in said
    assert eve.data(channel, 1) == ["to those with a ticket"]


def test_a_subscription_whose_token_ends_is_refreshed(person: Any, hub: Hub, name: str) -> None:
    channel = f"closed:{name}"
    eve = person(SOCKET, token=foreign("eve"))
    eve.connect()
    tokens = [foreign("eve", channel=channel, lasts_s=s) for s in (2, 3600)]
    eve.do("follow", channels=[channel], tokens=tokens)
    eve.hear("subscribed", channel=channel)
    eve.hear("asked for a token", channel=channel)
    eve.hear("asked for a token", channel=channel)

    hub.api("publish", {"channel": channel, "data": "go on"})

    assert eve.data(channel, 1) == ["go on"]
    assert eve.unheard("unsubscribed") == []


def test_a_token_brings_its_subscriptions_along(person: Any, hub: Hub, name: str) -> None:
    channel = f"open:{name}"
    eve = person(SOCKET, token=foreign("eve", channels=[channel]))
    eve.connect()
    eve.hear("subscribed", channel=channel)

    hub.publish("ada", channel, "for you")

    assert eve.data(channel, 1) == ["for you"]


def test_the_backend_subscribes_and_unsubscribes_a_user(person: Any, hub: Hub, name: str) -> None:
    channel, user = f"open:{name}", f"user of {name}"
    eve = person(SOCKET, token=foreign(user))
    eve.connect()

    hub.api("subscribe", {"user": user, "channel": channel})
    eve.hear("subscribed", channel=channel)
    hub.api("publish", {"channel": channel, "data": "for you"})
    assert eve.data(channel, 1) == ["for you"]
    hub.api("unsubscribe", {"user": user, "channel": channel})
    eve.hear("unsubscribed", channel=channel)
    hub.api("disconnect", {"user": user})

    assert eve.hear("disconnected")["code"] == 3503


def documents(seed: int, count: int) -> list[Any]:
    """A document that changes in several places at once, umlauts and emojis among them."""
    chance = random.Random(seed)
    letters = 'abc äöü 漢字 🎉 " \\ '
    rows: list[dict[str, Any]] = [
        {"id": i, "note": "".join(chance.choices(letters, k=30))} for i in range(30)
    ]
    found = []
    for _ in range(count):
        for row in chance.sample(rows, 5):
            at = chance.randrange(25)
            row["note"] = row["note"][:at] + chance.choice(letters) * 3 + row["note"][at + 2 :]
        found.append(json.loads(json.dumps(rows)))
    return found


@everywhere
def test_patches_make_what_was_published(
    how: dict[str, Any], person: Any, hub: Hub, name: str
) -> None:
    """Its own applyDelta checks the checksum; texts missed meanwhile come whole."""
    channel = f"open:{name}"
    texts = documents(3, 40)
    ada = person(how, token=hub.token("ada"), minReconnectDelay=200, maxReconnectDelay=300)
    plain = person(how, token=hub.token("bob"))
    for one in (ada, plain):
        one.connect()
    ada.follow(channel, delta="fossil")
    assert ada.do("hasPatches", channel=channel)["has"]
    plain.follow(channel)
    for text in texts[:20]:
        hub.publish("ada", channel, text)
    assert ada.data(channel, 20) == plain.data(channel, 20) == texts[:20]
    ada.do("sever")
    hub.publish("ada", channel, *texts[20:25])
    assert ada.hear("subscribed", channel=channel, wasRecovering=True)["recovered"]
    for text in texts[25:]:
        hub.publish("ada", channel, text)

    assert ada.data(channel, 20) == plain.data(channel, 20) == texts[20:]
    assert ada.unheard("error") == []
