"""Deadlines over kills at random moments: each expected answer is closed or missed, once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any

import msgspec
import pytest

from clawnet.core.callers import Caller
from clawnet.core.calls.reading import ReadHistory
from clawnet.core.errors import ClawError
from clawnet.core.events import Event, Expect
from clawnet.hub.settings import HubSettings, LimitSettings
from clawnet.testing.hubs import HubRig, started_hub
from clawnet.testing.loops import TimelessLoop

KILLS = 50
MANY = HubSettings(limits=LimitSettings(enabled=False))


def at_once(work: Coroutine[Any, Any, None]) -> None:
    """Run on a loop in which time passes at once."""
    with asyncio.Runner(loop_factory=TimelessLoop) as runner:
        runner.run(work)


async def inbox(rig: HubRig, account: str) -> list[Event]:
    events: list[Event] = []
    after = 0
    while True:
        page = rig.engine.read_channel("main", f"agent.{account}.inbox", after=after)
        if not page.count:
            return events
        events += [msgspec.json.decode(line, type=Event) for line in page.body.split(b"\n")]
        after = page.offset


class Asking:
    """Two accounts that ask and answer, whatever happens to the hub in between."""

    def __init__(self, rig: HubRig, chance: Random) -> None:
        self.rig = rig
        self.chance = chance
        self.asked: dict[str, str] = {}
        """Event ids by dedupe key, as far as an answer was heard."""
        self.callers: dict[str, Caller] = {}

    async def connect(self) -> None:
        self.callers = {name: await self.rig.caller(name) for name in ("ada", "bob")}

    async def ask(self, key: str) -> None:
        within = Expect(reply_within_s=self.chance.choice([0.5, 2, 5]))
        sent = await self.rig.publish(
            self.callers["ada"], "agent.bob.inbox", key, dedupe_key=key, expect=within
        )
        self.asked[key] = sent.id

    async def answer(self, key: str) -> None:
        await self.rig.publish(
            self.callers["bob"], "agent.ada.inbox", key, causation_id=self.asked[key]
        )

    async def work(self, number: int) -> None:
        """A few asks and answers, and the hub is killed somewhere among them."""
        keys = [f"{number}-{n}" for n in range(4)]
        tasks = [asyncio.ensure_future(self.ask(key)) for key in keys]
        await self._turns()
        tasks += [asyncio.ensure_future(self.answer(k)) for k in keys[:2] if k in self.asked]
        await self._turns()
        await self.rig.clock.pass_time(self.chance.choice([0.0, 0.0, 0.5, 1.0, 2.0]))
        await self._turns()
        await self.rig.crash()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.connect()

    async def _turns(self) -> None:
        for _ in range(self.chance.randrange(6)):
            await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(3))
def test_no_kill_doubles_or_loses_a_missed_answer(seed: int) -> None:
    at_once(kill_at_random(seed))


async def kill_at_random(seed: int) -> None:
    async with started_hub(MANY) as rig:
        asking = Asking(rig, Random(seed))
        for name in ("ada", "bob"):
            await rig.account(name)
        await asking.connect()
        for number in range(KILLS):
            await asking.work(number)
            # 100 tokens are an account's limit.
            for name in ("ada", "bob"):
                for token in rig.hub.directory.tokens_of("main", name)[:-1]:
                    rig.hub.directory.remove_token(token.id)
        await rig.clock.pass_time(60)
        questions = {e.id for e in await inbox(rig, "bob")}
        told = await inbox(rig, "ada")
        missed = [e.causation_id for e in told if e.type == "expectation.missed"]
        answered = {e.causation_id for e in told if e.type != "expectation.missed"}
        assert len(questions) > KILLS
        assert 5 < len(missed) < len(questions)
        assert len(missed) == len(set(missed)), "told twice"
        assert set(missed) | answered >= questions, "lost"
        # Both only if the answer came too late: behind the event that says so.
        for event_id in set(missed) & answered:
            places = [e.type for e in told if e.causation_id == event_id]
            assert places[0] == "expectation.missed", places
        assert rig.engine.scan("expectation") == []


def test_a_disk_that_is_full_at_the_start_delays_what_is_due() -> None:
    at_once(start_full())


async def start_full() -> None:
    async with started_hub(MANY) as rig:
        ada = await rig.account("ada")
        await rig.account("bob")
        soon = Expect(reply_within_s=1)
        await rig.publish(ada, "agent.bob.inbox", 1, expect=soon)
        rig.clock.advance(5)
        rig.engine.is_full = True
        await rig.crash()
        await rig.clock.pass_time(10)
        with pytest.raises(ClawError):
            await rig.publish(ada, "agent.bob.inbox", 2, expect=soon)
        rig.engine.is_full = False
        await rig.clock.pass_time(5)
        await rig.crash()
        await rig.clock.pass_time(5)
        page = await rig.hub.call(
            ReadHistory(channel="agent.ada.inbox"), caller=await rig.caller("ada")
        )
        assert page.count == 1
