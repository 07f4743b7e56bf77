"""The rows of the matrix that are channels of the chat, through the chat's own doors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import pytest

from clawnet.core.callers import HUB
from clawnet.core.calls.reading import ReadHistory
from tests.rights import asking, chatting
from tests.rights.asking import shown
from tests.rights.matrix import NAMES, Row
from tests.rights.population import Asker, Population, mark, say
from tests.rights.test_matrix import ACCOUNTS, CANONICAL, Cells

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = [
    row for row in NAMES if row.channel.startswith(("room.", "dm.")) or row.channel in
    ("public.lobby", *CANONICAL)
]  # fmt: skip
OTHERS = [row for row in NAMES if row not in CHAT]


def target(row: Row, account: str) -> tuple[str, str] | None:
    """How `account` names a channel as its message's target; None for what it cannot name."""
    if row.channel.startswith("room."):
        return "room", row.channel[5:]
    if row.channel.startswith("dm."):
        peers = row.channel.split(".")[1:]
        if account not in peers:
            return None
        return "dm", peers[peers[0] == account]
    return "global", ""


def is_followed(row: Row, account: str) -> bool:
    """Whether a client of this account is given the channel if it may read it."""
    return not row.channel.startswith("dm.") or account in row.channel.split(".")


@asynccontextmanager
async def talking(asker: Asker, account: str, way: str) -> AsyncIterator[chatting.Socketio | None]:
    """A Socket.IO client, if that is the way; it is let in with a good token only."""
    if way == "rest":
        yield None
        return
    async with chatting.socketio(asker, account, version=int(way[1])) as talk:
        assert (talk is None) == (asker.column not in ACCOUNTS)
        yield talk


async def stored(population: Population, way: str) -> set[tuple[str, str, str]]:
    """What of these tries is in the log, as the warden reads it: channel, actor, text."""
    hub = population.main.running.hub
    (warden,) = [asker for asker in population.askers if asker.column == "warden"]
    found = set()
    for row in CHAT:
        call = ReadHistory(channel=row.channel, limit=1_000, reverse=True)
        for line in (await hub.call(call, caller=warden.caller())).body.splitlines():
            event = json.loads(line)
            text = event["data"].get("text") if isinstance(event["data"], dict) else None
            if isinstance(text, str) and text.startswith(way):
                channel = CANONICAL.get(event["channel"], event["channel"])
                found.add((channel, event["actor"]["id"], text))
    return found


@pytest.mark.parametrize("way", ["v2", "v1", "rest"])
async def test_a_message_is_taken_from_who_may_publish(population: Population, way: str) -> None:
    cells, expected = Cells(), set()
    for asker in population.askers:
        account = ACCOUNTS.get(asker.column, "olga")
        async with asking.http(asker) as client, talking(asker, account, way) as talk:
            for row in CHAT:
                to = target(row, account)
                if to is None:
                    continue
                text = f"{way} by {asker.column} on {row.channel}"
                if way == "rest":
                    body = {"to_type": to[0], "to_id": to[1], "payload": {"text": text}}
                    found = asking.sign(await client.ask("POST", "/api/v1/messages", body))
                    found = "-" if found == "0" else found
                elif talk is None:
                    found = "?"
                elif way == "v2":
                    said = {"to_type": to[0], "to_id": to[1], "payload": {"text": text}}
                    found = chatting.sign(await talk.ask("chat_send", said))
                else:
                    whom = {"global": "all", "room": f"#{to[1]}", "dm": to[1]}[to[0]]
                    found = chatting.sign(await talk.ask("chat", {"to": whom, "msg": text}))
                sign = row.publish(asker.column)
                cells.add(row, asker, expected=sign, found=found)
                if sign == "w":
                    channel = CANONICAL.get(row.channel, row.channel)
                    expected.add((channel, account, text))
    cells.check()
    assert await stored(population, way) == expected


async def test_a_client_is_given_what_its_account_may_read(population: Population) -> None:
    """From the log and live, by v2 from a cursor before everything."""
    cells = Cells()
    for n, asker in enumerate(population.askers):
        account = ACCOUNTS.get(asker.column)
        hub = asker.running.hub
        since = f"{hub.log_epoch}-0"
        async with chatting.socketio(asker, account or "olga", since=since) as talk:
            if talk is None:
                assert account is None
                continue
            for row in NAMES:
                if row.read("warden") == "r":
                    await hub.publish_wait(HUB, say(row.channel, f"live {n} {row.channel!a}"))
            # Each answer is behind what was written before; the past is read in pieces.
            await talk.rest()
            given = asking.said(talk.text) | said_of(talk)
            for row in CHAT:
                seeds = population.seeds(asker, row.channel)
                is_meant = is_followed(row, account or "")
                sign = row.read(asker.column) if is_meant else "-"
                is_live = mark(f"live {n} {row.channel!a}") in given
                past = shown(given, seeds)
                found = past if is_live else "-" if past == "0" else "past only"
                cells.add(row, asker, expected=sign, found=found)
            for row in OTHERS:
                assert mark(f"live {n} {row.channel!a}")[1:-1] not in talk.text, row.channel
                assert not {s.mark for s in population.seeds(asker, row.channel)} & given
    cells.check()


def said_of(talk: chatting.Socketio) -> set[str]:
    """What the messages said, as JSON; the hub's seeds are texts."""
    return {mark(data["payload"].get("text")) for data in talk.of("chat_message")}


@pytest.mark.parametrize("way", ["v2", "rest"])
async def test_the_past_is_read_by_who_may(population: Population, way: str) -> None:
    cells = Cells()
    for asker in population.askers:
        account = ACCOUNTS.get(asker.column, "olga")
        async with asking.http(asker) as client, talking(asker, account, way) as talk:
            for row in (*CHAT, *OTHERS):
                seeds = population.seeds(asker, row.channel)
                found = await past(asker, row, client, talk, way)
                found = found if len(found) < 4 else shown({mark(t) for t in texts(found)}, seeds)
                if row in OTHERS:
                    found = "-" if found in "0!?" else found
                    cells.add(row, asker, expected="-", found=found)
                else:
                    # Nobody is on a Socket.IO connection without a token.
                    is_in = way == "rest" or asker.column in ACCOUNTS
                    expected = row.read(asker.column) if is_in else "?"
                    cells.add(row, asker, expected=expected, found=found)
    cells.check()


async def past(
    asker: Asker, row: Row, client: asking.Http, talk: chatting.Socketio | None, way: str
) -> str:
    """The channel's past as JSON, or the sign of a refusal."""
    if way == "rest":
        path = f"/api/v1/rooms/{quote(row.channel, safe='')}/history?limit=1000&after=0"
        answer = await client.ask("GET", path)
        return answer.text if answer.status_code == 200 else asking.sign(answer)
    if talk is None:
        return "?"
    asked = {"channel": row.channel, "offset": 0, "limit": 1_000}
    said = await talk.ask("replay", asked)
    return json.dumps(said) if said["ok"] else chatting.sign(said)


def texts(page: str) -> list[object]:
    found = []
    for event in json.loads(page)["events"]:
        payload = event["payload"]
        found.append(payload.get("text") if isinstance(payload, dict) else payload)
    return found
