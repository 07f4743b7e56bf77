"""Companions of a publish: told once of each event that concerns them, whatever becomes of it."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import pytest

from clawnet.core.callers import Caller
from clawnet.core.calls.publishing import Publish, PublishBatch
from clawnet.core.errors import BadRequest, ClawError
from clawnet.core.events import Draft, Existing, Stored
from clawnet.core.units import Committed, Delete, Outcome, Put
from clawnet.testing.hubs import HubRig, event


class Recorder:
    """Puts a key for each event with a correlation id that begins with its name."""

    def __init__(self, name: str, *, is_faulty: bool = False) -> None:
        self.name = name
        self.is_faulty = is_faulty
        self.told: list[tuple[str, Any]] = []

    def accompany(
        self, caller: Caller, call: Publish, draft: Draft, removed: Set[str]
    ) -> tuple[Put | Delete, ...] | None:
        named = call.correlation_id or ""
        if named == "refuse" and self.name == "b":
            raise BadRequest("no")
        if named[0] not in (self.name, "*", "r"):
            return None
        return (Put(f"x-{self.name}/{named[1:] or '-'}", draft.data),)

    def settled(self, call: Publish, draft: Draft, outcome: Outcome) -> None:
        if isinstance(outcome, Committed):
            [one] = outcome.events
            assert isinstance(one, Stored | Existing)
            assert len(outcome.revisions) == 1
            self.told.append((draft.data, (type(one).__name__, outcome.revisions[0] > 0)))
        else:
            self.told.append((draft.data, outcome.code))
        if self.is_faulty:
            raise RuntimeError("a defect")


@pytest.fixture
def both(rig: HubRig) -> tuple[Recorder, Recorder]:
    found = Recorder("a"), Recorder("b")
    for one in found:
        rig.hub.publishing.accompany(one)
    return found


async def test_nobody_is_asked_about_what_cannot_concern_them(
    rig: HubRig, ada: Caller, both: tuple[Recorder, Recorder]
) -> None:
    await rig.publish(ada, "public.x", 1)
    await rig.publish(ada, "public.x", 2, correlation_id="else")
    assert [one.told for one in both] == [[], []]


async def test_each_is_told_of_its_own_events_of_a_batch(
    rig: HubRig, ada: Caller, both: tuple[Recorder, Recorder]
) -> None:
    await rig.publish(ada, "public.x", 1, correlation_id="*1", dedupe_key="k")
    events = [
        event("public.x", 1, correlation_id="*1", dedupe_key="k"),
        event("public.x", 2, correlation_id="b2"),
        event("public.x", 3),
        event("public.x", 4, correlation_id="a4"),
    ]
    await rig.hub.call(PublishBatch(events=events), caller=ada)
    new, repeat = ("Stored", True), ("Existing", False)
    assert both[0].told == [("1", new), ("1", repeat), ("4", new)]
    assert both[1].told == [("1", new), ("1", repeat), ("2", new)]
    assert [entry.revision for entry in rig.engine.scan("x-a")] == [1, 1]


async def test_who_was_asked_is_told_of_a_refusal(
    rig: HubRig, ada: Caller, both: tuple[Recorder, Recorder]
) -> None:
    with pytest.raises(BadRequest):
        await rig.publish(ada, "public.x", 1, correlation_id="refuse")
    rig.engine.is_full = True
    with pytest.raises(ClawError):
        await rig.publish(ada, "public.x", 2, correlation_id="*")
    rig.engine.is_full = False
    assert both[0].told == [("1", "bad_request"), ("2", "disk_full")]
    assert both[1].told == [("2", "disk_full")]
    assert rig.engine.scan("x-a") == []


async def test_a_companions_defect_does_not_keep_the_answer_back(
    rig: HubRig, ada: Caller, both: tuple[Recorder, Recorder]
) -> None:
    both[0].is_faulty = True
    assert (await rig.publish(ada, "public.x", 1, correlation_id="*")).offset == 1
    events = [event("public.x", 2, correlation_id="*")]
    assert len((await rig.hub.call(PublishBatch(events=events), caller=ada)).events) == 1
    assert [len(one.told) for one in both] == [2, 2]
