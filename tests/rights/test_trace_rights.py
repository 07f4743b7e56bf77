"""A trace gives whoever asks exactly the events that reading them one by one gives."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from clawnet.core.callers import HUB
from clawnet.core.calls.reading import ReadEvent
from clawnet.core.calls.tracing import ReadTrace
from clawnet.core.errors import ClawError
from tests.rights import matrix
from tests.rights.population import Asker, Population, populated, say

CHAIN = "everywhere"
SPEAKERS = {
    "owner": matrix.OWNER,
    "second": matrix.SECOND,
    "blocked": matrix.BLOCKED,
    "stranger": matrix.STRANGER,
    "master": matrix.MASTER,
}
"""Who says something wherever it may, by column; all but the warden, who reads everything."""
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
async def population() -> AsyncIterator[Population]:
    async with populated() as made:
        yield made


async def one_by_one(asker: Asker, ids: list[str]) -> list[str]:
    found = []
    for name in ids:
        try:
            await asker.running.hub.call(ReadEvent(id=name), caller=asker.caller())
            found.append(name)
        except ClawError:
            pass
    return found


async def by_trace(asker: Asker, name: str) -> list[str]:
    try:
        trace = await asker.running.hub.call(ReadTrace(id=name), caller=asker.caller())
    except ClawError:
        return []
    return [msgspec.json.decode(line)["id"] for line in trace.body.split(b"\n")]


async def test_a_trace_shows_what_reading_by_id_shows(population: Population) -> None:
    chains: dict[int, list[str]] = {}
    for asker in population.askers:
        hub = asker.running.hub
        if id(asker.running) in chains:
            continue
        made = chains[id(asker.running)] = []
        for row in matrix.NAMES:
            call = msgspec.structs.replace(
                say(row.channel, "linked"),
                correlation_id=CHAIN,
                causation_id=made[-1] if made else None,
                traceparent=f"00-{TRACE_ID}-00f067aa0ba902b7-01",
            )
            try:
                made.append((await hub.publish_wait(HUB, call)).id)
            except ClawError:
                pass  # a name that does not exist on this hub
        assert len(made) > 20
    shown: set[int] = set()
    for asker in population.askers:
        ids = chains[id(asker.running)]
        readable = await one_by_one(asker, ids)
        for name in (CHAIN, TRACE_ID):
            assert await by_trace(asker, name) == readable, (asker.column, name)
        # From an event that may not be read, one comes at nothing.
        for hidden in set(ids) - set(readable):
            assert await by_trace(asker, hidden) == [], asker.column
        shown.add(len(readable))
    assert len(shown) > 4, "the askers differ in what they may read"


async def test_a_trace_shows_ones_own_words_as_reading_by_id_does(population: Population) -> None:
    speakers = [asker for asker in population.askers if asker.column in SPEAKERS]
    made: list[tuple[str, str]] = []
    for speaker in speakers:
        for row in matrix.NAMES:
            if row.publish(speaker.column) == "w":
                call = msgspec.structs.replace(say(row.channel, "own"), correlation_id=CHAIN)
                done = await speaker.running.hub.publish_wait(speaker.caller(), call)
                made.append((done.id, SPEAKERS[speaker.column]))
    ids = [name for name, _ in made]
    for asker in population.askers:
        if asker.running is not population.main.running:
            continue
        readable = await one_by_one(asker, ids)
        assert await by_trace(asker, CHAIN) == readable, asker.column
        if asker.column in SPEAKERS:
            own = {name for name, account in made if account == SPEAKERS[asker.column]}
            assert own <= set(readable), asker.column
        for hidden in set(ids) - set(readable):
            assert await by_trace(asker, hidden) == [], asker.column
