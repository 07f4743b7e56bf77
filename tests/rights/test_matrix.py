"""Every cell of the matrix through every door."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from urllib.parse import quote

import pytest

from clawnet.core.callers import HUB
from clawnet.core.calls.reading import ReadHistory
from clawnet.core.errors import ClawError
from clawnet.core.rights import Verb
from tests.rights import asking, matrix
from tests.rights.asking import attempt, covers, said, shown
from tests.rights.matrix import NAMES, ROWS, Row
from tests.rights.population import SEEDS, Asker, Population, Seed, mark, say

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACCOUNTS = {
    "owner": matrix.OWNER,
    "owner-ro": matrix.OWNER,
    "owner-wo": matrix.OWNER,
    "second": matrix.SECOND,
    "blocked": matrix.BLOCKED,
    "stranger": matrix.STRANGER,
    "warden": matrix.WARDEN,
    "master": matrix.MASTER,
}
"""The actor that the envelope must name, by column."""

PATTERNS = (
    "> *.> *.* * public.> public.* agent.> agent.*.* agent.*.public.> agent.*.inbox agent.olga.> "
    "agent.olga.* agent.olga.inbox.> agent.olga.project.* agent.olga.deep.> agent.greta.> "
    "agent.*.diary room.* room.> dm.> dm.*.olga dm.blake.* system.> system.* system.timer.> "
    "memory.* graph.> external.> desk.* club.* void.>"
).split()

FEW_PATTERNS = "> agent.> agent.*.* agent.olga.> agent.*.inbox room.* dm.> system.> *".split()
"""For doors that only carry what the hub has decided."""

CANONICAL = {"global": "public.lobby", "public.townsquare": "public.lobby"}


class Cells:
    """Collects what was expected and what was found; says where they differ."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.count = 0

    def add(self, row: Row | str, asker: Asker, *, expected: str, found: str) -> None:
        self.count += 1
        is_right = found in "?-!" if expected == "x" else found == expected
        if not is_right:
            name = row if isinstance(row, str) else row.channel
            self.wrong.append(f"{name!a:30} {asker.column:12} expected {expected} found {found}")

    def check(self) -> None:
        assert self.count, "nothing was asked"
        assert not self.wrong, f"{len(self.wrong)} of {self.count} cells:\n" + "\n".join(self.wrong)


# --- publish ------------------------------------------------------------------------------------


async def published(
    population: Population,
    way: str,
    ask: Callable[[Asker, str, str], Awaitable[str]],
    askers: Iterable[Asker] | None = None,
) -> None:
    """Let everyone publish everywhere; then see what is stored, and under which name."""
    cells = Cells()
    for asker in askers or population.askers:
        for row in ROWS:
            text = f"{way} by {asker.column} on {row.channel!a}"
            found = await attempt(partial(ask, asker, row.channel, text))
            cells.add(row, asker, expected=row.publish(asker.column), found=found)
    cells.check()
    await stored(population, way)


async def stored(population: Population, way: str) -> None:
    """What is stored is exactly what was allowed, and its actor is the token's account."""
    hub = population.main.running.hub
    (warden,) = [asker for asker in population.askers if asker.column == "warden"]
    wrong = []
    for row in NAMES:
        if row.read("warden") != "r":
            continue
        call = ReadHistory(channel=row.channel, limit=1_000, reverse=True)
        page = await hub.call(call, caller=warden.caller())
        found = set()
        for line in page.body.splitlines():
            event = json.loads(line)
            if str(event["data"]).startswith(f"{way} by "):
                assert event["source"] == "agent"
                found.add((event["data"], event["actor"]["id"]))
        same = [r for r in NAMES if CANONICAL.get(r.channel, r.channel)
                == CANONICAL.get(row.channel, row.channel)]  # fmt: skip
        expected = {
            (f"{way} by {column} on {name.channel!a}", account)
            for name in same
            for column, account in ACCOUNTS.items()
            if name.publish(column) == "w"
        }
        if found != expected:
            wrong.append(f"{row.channel}: {sorted(found ^ expected)}")
    assert not wrong, "\n".join(wrong)


async def test_publish_as_decided(population: Population) -> None:
    cells = Cells()
    for asker in population.askers:
        for row in ROWS:
            found = await attempt(partial(asking.decided, asker, row.channel, Verb.PUBLISH))
            cells.add(row, asker, expected=row.publish(asker.column), found=found)
    cells.check()


async def test_publish_by_the_hub(population: Population) -> None:
    await published(population, "hub", asking.hub_publish)


async def test_publish_by_a_session(population: Population) -> None:
    await published(population, "session", asking.hub_session_publish)


async def test_publish_a_batch_by_the_hub(population: Population) -> None:
    await published(population, "hub-batch", asking.hub_batch)
    await batches(population, "hub-batch")


@pytest.mark.parametrize("way", ["publish", "shell", "batch"])
async def test_publish_by_http(population: Population, way: str) -> None:
    for asker in population.askers:
        async with asking.http(asker) as client:
            cells = Cells()
            for row in ROWS:
                text = f"http-{way} by {asker.column} on {row.channel!a}"
                found = await getattr(client, way)(row.channel, text)
                cells.add(row, asker, expected=row.publish(asker.column), found=found)
            cells.check()
    await stored(population, f"http-{way}")
    if way == "batch":
        await batches(population, "http-batch")


async def test_publish_by_websocket(population: Population) -> None:
    cells = Cells()
    for asker in population.askers:
        async with asking.socket(asker) as socket:
            numbers = []
            for row in ROWS:
                text = f"ws by {asker.column} on {row.channel!a}"
                if socket is not None:
                    numbers.append(
                        await socket.send("publish", channel=row.channel, data=text, type="x.tried")
                    )
            if socket is not None:
                await socket.answered(len(numbers))
            for n, row in enumerate(ROWS):
                found = "?" if socket is None else socket.sign(numbers[n])
                cells.add(row, asker, expected=row.publish(asker.column), found=found)
    cells.check()
    await stored(population, "ws")


async def batches(population: Population, way: str) -> None:
    """A batch of which one event was refused left nothing, its first event neither."""
    hub = population.main.running.hub
    (warden,) = [asker for asker in population.askers if asker.column == "warden"]
    call = ReadHistory(channel=asking.BATCH_FIRST, limit=1_000)
    page = await hub.call(call, caller=warden.caller())
    found = {json.loads(line)["data"] for line in page.body.splitlines()}
    expected = {
        f"{way} by {column} on {row.channel!a}"
        for row in ROWS
        for column in ACCOUNTS
        if row.publish(column) == "w"
    }
    assert {text for text in found if text.startswith(f"{way} by ")} == expected


# --- read one channel ---------------------------------------------------------------------------


async def test_read_as_decided(population: Population) -> None:
    cells = Cells()
    for verb in (Verb.READ, Verb.SUBSCRIBE):
        for asker in population.askers:
            for row in ROWS:
                found = await attempt(partial(asking.decided, asker, row.channel, verb))
                cells.add(row, asker, expected=row.read(asker.column), found=found)
    cells.check()


def seeds_of(population: Population, asker: Asker, row: Row) -> list[Seed]:
    return population.seeds(asker, row.channel) if row.is_name else []


@pytest.mark.parametrize("reverse", [False, True])
async def test_history_by_the_hub(population: Population, reverse: bool) -> None:
    cells = Cells()
    for asker in population.askers:
        for row in ROWS:
            seeds = seeds_of(population, asker, row)
            work = partial(asking.hub_history, asker, row.channel, seeds, reverse=reverse)
            cells.add(row, asker, expected=row.read(asker.column), found=await attempt(work))
    cells.check()


@pytest.mark.parametrize("reverse", ["false", "true"])
async def test_history_by_http(population: Population, reverse: str) -> None:
    cells = Cells()
    for asker in population.askers:
        async with asking.http(asker) as client:
            for row in ROWS:
                seeds = seeds_of(population, asker, row)
                found = await client.history(row.channel, seeds, how=f"&reverse={reverse}")
                cells.add(row, asker, expected=row.read(asker.column), found=found)
    cells.check()


async def live_everywhere(asker: Asker, text: str) -> None:
    """The hub says something on every channel of the asker's hub."""
    for row in NAMES:
        try:
            await asker.running.hub.publish_wait(HUB, say(row.channel, f"{text} {row.channel!a}"))
        except ClawError:
            assert row.read("warden") == "-", "only undeclared names are closed to the hub"


async def follow(asker: Asker, row: Row, seeds: list[Seed]) -> str:
    async def live() -> None:
        await asker.running.hub.publish_wait(HUB, say(row.channel, "live now"))

    text = await asking.hub_follow(asker, [row.channel], live=live)
    return shown(said(text), seeds) if mark("live now") in text else "not live"


async def test_subscribe_by_the_hub(population: Population) -> None:
    cells = Cells()
    for asker in population.askers:
        for row in ROWS:
            work = partial(follow, asker, row, seeds_of(population, asker, row))
            cells.add(row, asker, expected=row.read(asker.column), found=await attempt(work))
    cells.check()


@pytest.mark.parametrize("way", ["sse", "sub"])
async def test_subscribe_by_a_stream(population: Population, way: str) -> None:
    cells = Cells()
    for asker in population.askers:
        async with asking.http(asker) as client:
            for row in ROWS:
                seeds = seeds_of(population, asker, row)
                last = seeds[-1].mark if seeds else None
                if way == "sse":
                    path, params = "/api/v1/events/stream", {"channels": row.channel}
                else:
                    path, params = f"/sub/{quote(row.channel, safe='')}", {}
                found = await client.stream(path, {"since": "all", **params}, last)
                found = found if len(found) < 4 else shown(said(found), seeds)
                cells.add(row, asker, expected=row.read(asker.column), found=found)
    cells.check()


async def test_subscribe_by_websocket(population: Population) -> None:
    cells = Cells()
    for n, asker in enumerate(population.askers):
        async with asking.socket(asker) as socket:
            if socket is None:
                for row in ROWS:
                    cells.add(row, asker, expected=row.read(asker.column), found="?")
                continue
            numbers = [
                await socket.send("subscribe", channels=[row.channel], since="all") for row in ROWS
            ]
            await socket.answered(len(ROWS))
            await socket.rest()
            await live_everywhere(asker, f"live {n}")
            await socket.rest()
            given = said(socket.text)
            for row, number in zip(ROWS, numbers, strict=True):
                found = socket.sign(number)
                if row.is_name:
                    is_live = mark(f"live {n} {row.channel!a}") in given
                    past = shown(given, seeds_of(population, asker, row))
                    if found == "w":
                        found = past if is_live else "not live"
                    elif is_live or past in "r3some":
                        found += " and yet given"
                cells.add(row, asker, expected=row.read(asker.column), found=found)
    cells.check()


async def consume(asker: Asker, row: Row, seeds: list[Seed]) -> str:
    return shown(said(await asking.hub_consume(asker, [row.channel])), seeds)


async def test_consume_by_the_hub(population: Population) -> None:
    cells = Cells()
    for asker in population.askers:
        for row in ROWS:
            work = partial(consume, asker, row, seeds_of(population, asker, row))
            cells.add(row, asker, expected=durable(row, asker), found=await attempt(work))
    cells.check()


async def test_consume_by_http(population: Population) -> None:
    cells = Cells()
    for asker in population.askers:
        async with asking.http(asker) as client:
            for row in ROWS:
                seeds = seeds_of(population, asker, row)
                found = await client.consume([row.channel])
                found = found if len(found) < 4 else shown(said(found), seeds)
                cells.add(row, asker, expected=durable(row, asker), found=found)
    cells.check()


def durable(row: Row, asker: Asker) -> str:
    """What a consumer gets: without a token nobody has one."""
    if asker.column.startswith("anon"):
        return "x"
    return row.read(asker.column)


# --- read by id ---------------------------------------------------------------------------------


def unknown(id: str) -> str:
    """An id as the hub could have given it, of an event that there is not."""
    return id[:-12] + f"{2**40:012x}"


async def test_an_event_that_may_not_be_read_is_as_one_that_is_not_there(
    population: Population,
) -> None:
    cells = Cells()
    for asker in population.askers:
        async with asking.http(asker) as client:
            somewhere = unknown(population.seeds(asker, "public.news")[0].id)
            absent = await client.event(somewhere)
            assert absent.status_code == (404 if may_read_at_all(asker) else 401)
            for row in NAMES:
                cell = row.read(asker.column)
                # The first lies below what a cell of 3 opens, the last does not.
                for seed in population.seeds(asker, row.channel)[:: SEEDS - 1]:
                    may = cell == "r" or (cell.isdigit() and seed.offset >= int(cell))
                    answer = await client.event(seed.id)
                    if answer.status_code == 200:
                        found = "r" if answer.json()["id"] == seed.id else "another"
                    elif answer.status_code == absent.status_code and (
                        answer.text.replace(seed.id, somewhere) == absent.text
                    ):
                        found = "as unknown"
                    else:
                        found = f"told apart: {answer.text}"
                    cells.add(row, asker, expected="r" if may else "as unknown", found=found)
    cells.check()


def may_read_at_all(asker: Asker) -> bool:
    """Whether the asker is let in to read anything at all."""
    return asker.column in (*ACCOUNTS, "anon-local", "anon-on")


async def test_ones_own_word_is_read_back_by_its_id_by_the_very_account(
    population: Population,
) -> None:
    """Wherever one may say something, one's account reads that one event back, and else only
    who may read the channel: docs/adr/0011."""
    cells = Cells()
    speakers = [asker for asker in population.askers if asker.column in ACCOUNTS]
    askers = [asker for asker in population.askers if asker.running is population.main.running]
    for speaker in speakers:
        for row in NAMES:
            if row.publish(speaker.column) != "w":
                continue
            call = say(row.channel, "one's own", type="x.own")
            made = await speaker.running.hub.publish_wait(speaker.caller(), call)
            for asker in askers:
                cell = row.read(asker.column)
                is_own = ACCOUNTS.get(asker.column) == ACCOUNTS[speaker.column]
                may = cell in "r3" or (is_own and asker.column != "owner-wo")
                refused = "0" if may_read_at_all(asker) else "?"
                found = await attempt(partial(asking.hub_event, asker, made.id))
                found = found if len(found) < 4 else "r"
                cells.add(
                    f"{row.channel} by {speaker.column}", asker,
                    expected="r" if may else refused, found=found,
                )  # fmt: skip
    cells.check()


async def test_event_by_the_hub(population: Population) -> None:
    cells = Cells()
    for asker in population.askers:
        for row in NAMES:
            seed = population.seeds(asker, row.channel)[-1:]
            for last in seed:
                may = row.read(asker.column) in "r3"
                refused = "0" if may_read_at_all(asker) else "?"
                found = await attempt(partial(asking.hub_event, asker, last.id))
                found = found if len(found) < 4 else shown(said(found), seed)
                cells.add(row, asker, expected="r" if may else refused, found=found)
    cells.check()


# --- many channels at once ----------------------------------------------------------------------


def is_listed(row: Row, asker: Asker) -> bool:
    """Without a token only exact names are known, so nothing is listed."""
    return asker.column in ACCOUNTS and row.read(asker.column) in "r3"


@pytest.mark.parametrize("door", ["hub", "http"])
async def test_the_list_of_channels_names_what_may_be_read(
    population: Population, door: str
) -> None:
    cells = Cells()
    for asker in population.askers:
        if door == "hub":
            try:
                names = await asking.hub_list(asker)
            except ClawError as error:
                names = set()
                assert error.status in (401, 403)
        else:
            async with asking.http(asker) as client:
                found = await client.listed()
            names = set() if isinstance(found, str) else found
        for row in NAMES:
            if row.channel not in CANONICAL:
                cells.add(
                    row, asker,
                    expected="listed" if is_listed(row, asker) else "hidden",
                    found="listed" if row.channel in names else "hidden",
                )  # fmt: skip
        assert not names & set(CANONICAL), "an alias is no channel of its own"
    cells.check()


def compare_pattern(
    cells: Cells, population: Population, asker: Asker, pattern: str, text: str, live: str | None
) -> None:
    """What a pattern gave (or the sign of its refusal) against the cells that it covers."""
    is_refused = len(text) < 4
    given = said(text)
    for row in NAMES:
        name = CANONICAL.get(row.channel, row.channel)
        seeds = population.seeds(asker, row.channel)
        cell = row.read(asker.column)
        is_given = covers(pattern, name) and cell in "r3" and asker.column in ACCOUNTS
        found = shown(given, seeds)
        if live is not None and (mark(f"{live} {row.channel!a}") in given) != is_given:
            found += " live"
        cells.add(
            f"{pattern} on {row.channel}", asker,
            expected=(cell if is_given else "0"), found=found,
        )  # fmt: skip
    if is_refused:
        assert text in ("", "?", "-"), text


async def test_patterns_by_the_hub(population: Population) -> None:
    cells = Cells()
    for n, asker in enumerate(population.askers):
        for pattern in PATTERNS:
            live = None
            work: Callable[[], Awaitable[None]] = asking.turns
            if asker.column in ACCOUNTS and pattern in (">", "agent.*.*", "room.*"):
                live = f"pattern {n} {pattern}"
                work = partial(live_everywhere, asker, live)
            text = await attempt(partial(asking.hub_follow, asker, [pattern], live=work))
            compare_pattern(cells, population, asker, pattern, text, live)
    cells.check()


async def test_patterns_of_a_consumer(population: Population) -> None:
    cells = Cells()
    for asker in population.askers:
        for pattern in PATTERNS:
            text = await attempt(partial(asking.hub_consume, asker, [pattern]))
            compare_pattern(cells, population, asker, pattern, text, None)
    cells.check()


async def test_patterns_by_websocket(population: Population) -> None:
    cells = Cells()
    for n, asker in enumerate(population.askers):
        for pattern in FEW_PATTERNS:
            async with asking.socket(asker) as socket:
                if socket is None:
                    compare_pattern(cells, population, asker, pattern, "?", None)
                    continue
                answer = await socket.ask("subscribe", channels=[pattern], since="all")
                live = None
                await socket.rest()
                if answer["type"] == "ok" and pattern in (">", "agent.*.*"):
                    live = f"ws pattern {n} {pattern}"
                    await live_everywhere(asker, live)
                    await socket.rest()
                text = socket.text if answer["type"] == "ok" else socket.sign(answer["id"])
                compare_pattern(cells, population, asker, pattern, text, live)
    cells.check()


async def test_patterns_by_sse(population: Population) -> None:
    """The last thing said on a channel that every account reads ends the wait for the rest."""
    cells = Cells()
    for n, asker in enumerate(population.askers):
        async with asking.http(asker) as client:
            for pattern in FEW_PATTERNS:
                end = f"end of {n} {pattern}"
                await asker.running.hub.publish_wait(HUB, say("public.end", end))
                params = {"channels": f"{pattern},public.end", "since": "all"}
                text = await client.stream("/api/v1/events/stream", params, mark(end))
                compare_pattern(cells, population, asker, pattern, text, None)
    cells.check()
