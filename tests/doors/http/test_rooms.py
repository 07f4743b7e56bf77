"""Rooms and messages by REST: first what nobody may see or say, then what everyone can."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from clawnet.doors.http.settings import HttpSettings
from tests.doors.http.conftest import Api, check_problem

V1 = "/api/v1"
SECRET = "between us"
PEOPLE = {"ann": "worker", "bob": "worker", "eve": "worker", "eye": "warden", "boss": "master"}


class Chat:
    """Requests as several accounts."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.headers: dict[str, dict[str, str]] = {"nobody": {}}

    async def people(self) -> Chat:
        for who, role in PEOPLE.items():
            self.headers[who] = await self.api.bearer(who, role=role)
        return self

    async def ask(
        self, who: str, method: str, path: str, body: Any = None, **headers: str
    ) -> httpx.Response:
        return await self.api.client.request(
            method, V1 + path, json=body, headers=self.headers[who] | headers
        )

    async def does(
        self, who: str, method: str, path: str, body: Any = None, status: int = 200
    ) -> Any:
        answer = await self.ask(who, method, path, body)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def say(self, who: str, text: str, room: str = "global", **more: Any) -> Any:
        return await self.does(who, "POST", "/messages", said(text, room, **more), 201)

    async def texts(self, who: str, room: str, query: str = "") -> list[Any]:
        page = await self.does(who, "GET", f"/rooms/{room}/history{query}")
        return [
            one["payload"].get("text")
            for one in page["events"]
            if one.get("type", "chat.message") == "chat.message"
        ]


def said(text: str, room: str = "global", **more: Any) -> dict[str, Any]:
    to_type = "global" if room == "global" else "dm" if room[0] == "@" else "room"
    body = {"to_type": to_type, "payload": {"text": text}, **more}
    return body if to_type == "global" else body | {"to_id": room.removeprefix("@")}


@pytest.fixture
def http_settings() -> HttpSettings:
    return HttpSettings(chat_burst=10_000)


@pytest.fixture
async def chat(api: Api) -> Chat:
    return await Chat(api).people()


async def test_a_private_room_is_not_there_for_who_is_not_in_it(chat: Chat) -> None:
    await chat.does("ann", "POST", "/rooms", {"room": "lair", "private": True}, 201)
    await chat.say("ann", SECRET, "lair")
    message = (await chat.say("ann", SECRET, "lair"))["id"]
    asked: list[tuple[str, str, Any]] = [
        ("GET", "/rooms/{}", None),
        ("GET", "/rooms/{}/history", None),
        ("GET", "/rooms/{}/history?after=0", None),
        ("GET", "/rooms/{}/members", None),
        ("PATCH", "/rooms/{}", {"topic": "mine"}),
        ("PATCH", "/rooms/{}", {"private": False}),
        ("POST", "/rooms/{}/leave", {"account": "ann"}),
        ("POST", "/rooms/{}/invite", {"agent": "eve"}),
    ]
    for who in ("eve", "nobody"):
        for method, path, body in asked:
            answer = await chat.ask(who, method, path.format("lair"), body)
            other = await chat.ask(who, method, path.format("cave"), body)
            assert answer.status_code in (401, 403, 404), (who, path, answer.text)
            # A room that is not there is answered in the same words.
            same = answer.text.replace("lair", "cave")
            assert (answer.status_code, same) == (other.status_code, other.text), path
        listed = await chat.ask(who, "GET", "/rooms")
        assert "lair" not in listed.text
        refused = await chat.ask(who, "POST", "/messages", said("hello", "lair"))
        assert refused.status_code in (401, 403, 404), refused.text
        gone = await chat.ask(who, "DELETE", f"/messages/{message}")
        assert gone.status_code in (401, 404) and SECRET not in gone.text
    joined = await chat.ask("eve", "POST", "/rooms/lair/join")
    assert joined.status_code in (403, 404), joined.text
    typing = said("", "lair") | {"is_typing": True}
    del typing["payload"]
    refused = await chat.ask("eve", "POST", "/typing", typing)
    assert refused.status_code in (403, 404)
    assert await chat.texts("ann", "lair") == [SECRET, SECRET]


async def test_a_direct_message_is_for_two_and_no_master(chat: Chat) -> None:
    sent = await chat.say("ann", SECRET, "@bob")
    assert await chat.texts("bob", "dm.ann.bob") == [SECRET]
    for who in ("eve", "boss", "nobody"):
        for path in ("history", "history?after=0", "members"):
            answer = await chat.ask(who, "GET", f"/rooms/dm.ann.bob/{path}")
            assert answer.status_code in (401, 403), (who, path, answer.text)
            assert SECRET not in answer.text
        answer = await chat.ask(who, "GET", "/rooms/dm.ann.bob")
        assert answer.status_code in (400, 401, 404), answer.text
    for who in ("eve", "boss"):
        answer = await chat.ask(who, "POST", "/messages", said("me too", "@dm.ann.bob"))
        assert answer.status_code == 403, answer.text
    assert await chat.texts("ann", "dm.ann.bob") == [SECRET]
    assert sent["channel"] == "dm.ann.bob"


async def test_nobody_speaks_as_another_or_without_an_account(chat: Chat) -> None:
    for more in ({"from_id": "ann"}, {"from_handle": "ann"}, {"id": "x"}, {"world": "main"}):
        answer = await chat.ask("eve", "POST", "/messages", said("hi") | more)
        check_problem(answer, 400, "bad_request")
    check_problem(await chat.ask("nobody", "POST", "/messages", said("hi")), 401, "unauthenticated")
    answer = await chat.ask("eve", "POST", "/handles", {"agent_id": "ann", "handle": "evil"})
    check_problem(answer, 403, "forbidden")
    answer = await chat.ask("eve", "POST", "/handles", {"agent_id": "eve", "handle": "ann"})
    check_problem(answer, 409, "conflict")
    await chat.does("eve", "POST", "/handles", {"agent_id": "eve", "handle": "evi"}, 201)
    await chat.say("eve", "hi")
    page = await chat.does("ann", "GET", "/rooms/global/history")
    assert [(one["from_id"], one["from_handle"]) for one in page["events"]] == [("eve", "evi")]


async def test_who_has_left_reads_and_says_nothing_more(chat: Chat) -> None:
    await chat.does("ann", "POST", "/rooms", {"room": "den", "private": True}, 201)
    invited = await chat.does("ann", "POST", "/rooms/den/invite", {"agent": "bob"})
    assert invited["agent"] == "bob"
    joined = await chat.does("bob", "POST", "/rooms/den/join", {})
    assert set(joined["members"]) == {"ann", "bob"} and joined["changed"]
    await chat.say("ann", SECRET, "den")
    assert await chat.texts("bob", "den") == [SECRET]
    await chat.does("ann", "POST", "/rooms/den/leave", {"account": "bob"})
    for method, path, body in (
        ("GET", "/rooms/den/history", None),
        ("GET", "/rooms/den/members", None),
        ("POST", "/messages", said("again", "den")),
    ):
        answer = await chat.ask("bob", method, path, body)
        assert answer.status_code in (403, 404), answer.text
        assert SECRET not in answer.text


async def test_a_room_is_made_changed_and_talked_in(chat: Chat) -> None:
    made = await chat.does("ann", "POST", "/rooms", {"room": "alpha", "topic": "one"}, 201)
    assert made["owner"] == "ann" and made["member"] and not made["private"]
    answer = await chat.ask("bob", "POST", "/rooms", {"room": "alpha"})
    assert answer.status_code == 409
    await chat.does("bob", "POST", "/rooms/alpha/join")
    again = await chat.does("bob", "POST", "/rooms/alpha/join")
    assert again["changed"] is False
    changed = await chat.does("bob", "PATCH", "/rooms/alpha", {"topic": "two"})
    assert changed["topic"] == "two"
    check_problem(await chat.ask("bob", "PATCH", "/rooms/alpha", {}), 400, "bad_request")
    members = await chat.does("bob", "GET", "/rooms/alpha/members")
    assert [one["id"] for one in members["members"]] == ["ann", "bob"]
    rooms = await chat.does("eve", "GET", "/rooms")
    names = [one["room"] for one in rooms["rooms"]]
    assert names == ["global", "alpha"]
    page = await chat.does("eve", "GET", "/rooms?limit=1")
    assert len(page["rooms"]) == 1 and page["next"] == "global"
    more = await chat.does("eve", "GET", "/rooms?after=global")
    assert [one["room"] for one in more["rooms"]] == ["alpha"]
    left = await chat.does("bob", "POST", "/rooms/alpha/leave")
    assert left == {"room": left["room"], "account": "bob", "changed": True}


async def test_messages_have_the_envelope_and_are_stored_once(chat: Chat) -> None:
    first = await chat.say("ann", "hello", "alpha", dedupe_key="k")
    again = await chat.say("ann", "hello", "alpha", dedupe_key="k")
    assert again["deduped"] and again["id"] == first["id"]
    by_header = await chat.ask(
        "ann", "POST", "/messages", said("hello", "alpha"), **{"Idempotency-Key": "k"}
    )
    assert by_header.json()["id"] == first["id"]
    answer = await chat.ask(
        "ann", "POST", "/messages", said("x", dedupe_key="a"), **{"Idempotency-Key": "b"}
    )
    check_problem(answer, 400, "bad_request")
    # Another account's same key is another message.
    await chat.does("bob", "POST", "/rooms/alpha/join")
    other = await chat.say("bob", "hello", "alpha", dedupe_key="k")
    assert other["id"] != first["id"]
    page = await chat.does("bob", "GET", "/rooms/alpha/history")
    (one,) = [event for event in page["events"] if event["id"] == other["id"]]
    wanted = {"id", "ts", "from_id", "from_handle", "to_type", "to_id", "payload", "dedupe_key",
              "offset", "epoch"}  # fmt: skip
    assert wanted <= set(one) and one["self"] is True and one["to_id"] == "alpha"
    mine = await chat.does("ann", "GET", "/rooms/alpha/history")
    assert [event["id"] for event in mine["events"] if event.get("self")] == [first["id"]]


async def test_the_history_is_paged_both_ways(chat: Chat) -> None:
    for n in range(5):
        await chat.say("ann", str(n))
    assert await chat.texts("bob", "global", "?limit=2") == ["3", "4"]
    assert await chat.texts("bob", "global", "?before=4&limit=2") == ["1", "2"]
    assert await chat.texts("bob", "global", "?after=1&limit=2") == ["1", "2"]
    page = await chat.does("bob", "GET", "/rooms/global/history?after=3")
    assert page["is_end"] and page["next"] == 5
    for query in ("?after=1&before=2", "?after=-1", "?limit=0", "?after=x", "?more=1"):
        answer = await chat.ask("bob", "GET", f"/rooms/global/history{query}")
        check_problem(answer, 400, "bad_request")


async def test_without_a_token_the_global_room_is_read_here_and_nothing_else(chat: Chat) -> None:
    await chat.say("ann", "hello")
    await chat.say("ann", SECRET, "alpha")
    assert await chat.texts("nobody", "global") == ["hello"]
    rooms = await chat.does("nobody", "GET", "/rooms")
    assert [one["room"] for one in rooms["rooms"]] == ["global"]
    for path in ("/rooms/alpha/history", "/rooms/alpha", "/rooms/global/members"):
        answer = await chat.ask("nobody", "GET", path)
        assert answer.status_code in (401, 403), path


async def test_a_deleted_message_says_nothing_to_anybody(chat: Chat) -> None:
    sent = await chat.say("ann", SECRET)
    check_problem(await chat.ask("eve", "DELETE", f"/messages/{sent['id']}"), 403, "forbidden")
    check_problem(await chat.ask("eve", "DELETE", "/messages/nonsense"), 404, "not_found")
    gone = await chat.does("ann", "DELETE", f"/messages/{sent['id']}")
    assert gone["changed"] and gone["offset"] == sent["offset"]
    answer = await chat.ask("eve", "GET", "/rooms/global/history")
    assert SECRET not in answer.text
    assert answer.json()["events"][0]["deleted"] is True


async def test_typing_is_told_and_never_stored(chat: Chat) -> None:
    await chat.does("ann", "POST", "/typing", {"is_typing": True})
    page = await chat.does("ann", "GET", "/rooms/global/history")
    assert page["events"] == []


async def test_a_slash_command_is_answered_and_not_said(chat: Chat) -> None:
    answer = await chat.say("ann", "/help")
    assert "command" in answer and "offset" not in answer
    unknown = await chat.ask("ann", "POST", "/messages", said("/nonsense"))
    check_problem(unknown, 400, "bad_request")
    await chat.say("ann", "//not a command")
    assert await chat.texts("bob", "global") == ["/not a command"]


async def test_a_master_gives_a_handle_to_an_account_that_is_new(chat: Chat) -> None:
    body = {"agent_id": "agent-001", "handle": "alpha"}
    made = await chat.does("boss", "POST", "/handles", body, 201)
    assert made["created"] and made["handle"] == "alpha"
    body = {"agent_id": "agent-002", "handle": "alpha"}
    check_problem(await chat.ask("boss", "POST", "/handles", body), 409, "conflict")
    listed = await chat.does("boss", "GET", "/accounts?limit=100")
    assert "agent-002" not in [one["id"] for one in listed["accounts"]]
