"""Retention per channel and type: what a rule keeps is never trimmed, what a shorter one names
is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from clawnet.app.config import load
from clawnet.core.callers import Caller
from clawnet.core.calls.consumers import CreateConsumer, Fetch, Fetched
from clawnet.core.calls.reading import History, ReadHistory
from clawnet.core.cursors import AfterOffset
from clawnet.core.errors import BadConfiguration
from clawnet.engines import memory
from clawnet.hub import retention
from clawnet.hub.keeping import Keeping
from clawnet.hub.lanes import Lane
from clawnet.hub.settings import HubSettings, LimitSettings, RetentionRule, RetentionSettings
from clawnet.testing.hubs import HubRig, event, started_hub

YEAR_S = 365 * 86_400.0
RULES = [
    RetentionRule(types=["x.audit"], age_max_days="forever"),
    RetentionRule(channels="public.ticks.>", types=["x.tick"], age_max_days=1, events_max=40),
    RetentionRule(channels="public.ticks.>", age_max_days=5),
    RetentionRule(channels="public.lobby", age_max_days=90),
]


def with_rules(*rules: RetentionRule, **named: Any) -> HubSettings:
    return HubSettings(
        limits=LimitSettings(enabled=False),
        retention=RetentionSettings(rules=list(rules), **named),
    )


@pytest.fixture
def settings() -> HubSettings:
    return with_rules(*RULES)


async def run_hours(rig: HubRig, hours: float) -> None:
    """Time passes with a look at the clock every hour, then a round of trimming."""
    left = hours
    while left > 0:
        rig.clock.advance(min(left, 1) * 3_600)
        left -= 1
        rig.hub.retention.now_ms()
    await rig.clock.pass_time(61)


async def pad(rig: HubRig, caller: Caller) -> None:
    """The index of times is sparse: behind so many events the older ones can be told apart."""
    for n in range(1_100):
        rig.hub.publish(caller, event("public.pad", n), lane=Lane(), reply=lambda _: None)
    await rig.hub.drain()


def kept(rig: HubRig, channel: str) -> list[Any]:
    body = rig.engine.read_channel("main", channel).body
    return [msgspec.json.decode(line)["data"] for line in body.split(b"\n") if line]


async def mix(rig: HubRig, caller: Caller, channel: str = "public.ticks.a") -> None:
    for data, kind in enumerate(["x.tick", "x.note", "x.audit", "x.tick"]):
        await rig.publish(caller, channel, data, type=kind)


async def test_a_shorter_rule_trims_sooner_and_only_what_it_covers(
    rig: HubRig, ada: Caller
) -> None:
    await mix(rig, ada)
    await mix(rig, ada, "public.other")
    await pad(rig, ada)
    await run_hours(rig, 23)
    assert kept(rig, "public.ticks.a") == [0, 1, 2, 3]
    await run_hours(rig, 2)
    assert kept(rig, "public.ticks.a") == [1, 2]
    assert kept(rig, "public.other") == [0, 1, 2, 3]
    await run_hours(rig, 24 * 5)
    assert kept(rig, "public.ticks.a") == [2]
    assert kept(rig, "public.other") == [0, 1, 2, 3]


async def test_what_is_kept_for_ever_stays_whatever_else_goes(rig: HubRig, ada: Caller) -> None:
    await mix(rig, ada, "public.other")
    await mix(rig, ada)
    await mix(rig, ada, "public.lobby")
    await pad(rig, ada)
    await run_hours(rig, 24 * 31)
    assert kept(rig, "public.other") == [2]
    assert kept(rig, "public.lobby") == [0, 1, 2, 3]
    await run_hours(rig, 24 * 400)
    assert kept(rig, "public.other") == kept(rig, "public.lobby") == [2]
    assert kept(rig, "public.ticks.a") == [2]
    # New ones are trimmed as before: what was kept is not in their way.
    await mix(rig, ada)
    await pad(rig, ada)
    await run_hours(rig, 26)
    assert kept(rig, "public.ticks.a") == [2, 1, 2]


@pytest.mark.parametrize("jump_s", [YEAR_S, -YEAR_S])
async def test_a_wall_clock_that_jumps_trims_nothing_at_once(
    rig: HubRig, ada: Caller, jump_s: float
) -> None:
    await mix(rig, ada)
    await pad(rig, ada)
    rig.clock.jump(jump_s)
    for _ in range(10):
        rig.clock.advance(600)
        await rig.clock.pass_time(61)
    await rig.restart()
    await rig.clock.pass_time(200)
    assert kept(rig, "public.ticks.a") == [0, 1, 2, 3]


async def test_of_a_counted_type_the_newest_stay(rig: HubRig, ada: Caller) -> None:
    for n in range(200):
        await rig.publish(ada, "public.ticks.a", n, type="x.tick")
        await rig.publish(ada, "public.ticks.a", -n, type="x.note")
    await rig.publish(ada, "public.ticks.b", 0, type="x.tick")
    await rig.settle()
    ticks = [n for n in kept(rig, "public.ticks.a") if n > 0]
    assert ticks == list(range(200 - len(ticks), 200))
    assert 40 <= len(ticks) <= 50
    assert len([n for n in kept(rig, "public.ticks.a") if n <= 0]) == 200
    assert kept(rig, "public.ticks.b") == [0]


async def test_a_channel_that_is_cut_in_pieces_keeps_as_many(
    rig: HubRig, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "TRIM_MAX_EVENTS", 30)
    for turn in range(4):
        for n in range(100):
            kind = ("x.tick", "x.note")[n % 2]
            await rig.publish(ada, "public.ticks.a", (turn, n), type=kind)
        await rig.settle()
        ticks = [place for place in kept(rig, "public.ticks.a") if place[1] % 2 == 0]
        assert 40 <= len(ticks) <= 50
        assert ticks[-1] == [turn, 98]
        assert ticks[-40:] == [[turn, n] for n in range(20, 100, 2)]


async def test_where_channels_were_cut_is_remembered_of_a_bounded_number(
    rig: HubRig, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "CUTS_MAX", 3)
    for turn in range(2):
        for number in range(8):
            for n in range(60):
                await rig.publish(ada, f"public.ticks.c{number}", turn * 60 + n, type="x.tick")
            await rig.publish(ada, f"public.ticks.c{number}", -1, type="x.note")
        await rig.settle()
        assert 1 <= len(rig.hub.retention._cut) <= 3
    for number in range(8):
        ticks = [n for n in kept(rig, f"public.ticks.c{number}") if n >= 0]
        assert ticks == list(range(120 - len(ticks), 120)) and 40 <= len(ticks) <= 50
        # What another rule keeps is spared wherever the walk began.
        assert kept(rig, f"public.ticks.c{number}").count(-1) == 2


async def test_the_default_bound_spares_what_a_rule_keeps() -> None:
    rule = RetentionRule(types=["x.audit"], age_max_days="forever")
    async with started_hub(with_rules(rule, events_per_channel_max=20)) as rig:
        ada = await rig.account("ada")
        for n in range(30):
            await rig.publish(ada, "public.a", n, type="x.audit")
        for n in range(100, 200):
            await rig.publish(ada, "public.a", n)
        await rig.settle()
        left = kept(rig, "public.a")
        assert left[:30] == list(range(30))
        assert left[30:] == list(range(200 - len(left) + 30, 200))
        assert 20 <= len(left) - 30 <= 25


async def test_a_bound_that_was_lowered_holds_from_the_start() -> None:
    async with started_hub(with_rules()) as rig:
        ada = await rig.account("ada")
        for n in range(100):
            await rig.publish(ada, "public.a", n, type=("x.tick", "x.note")[n % 2])
            await rig.publish(ada, "public.b", n)
        rules = (RetentionRule(channels="public.a", types=["x.tick"], events_max=5),)
        await rig.restart(with_rules(*rules, events_per_channel_max=50))
        await rig.settle()
        left = kept(rig, "public.a")
        assert [n for n in left if n % 2 == 0] == [90, 92, 94, 96, 98]
        assert [n for n in left if n % 2] == list(range(1, 100, 2))
        assert kept(rig, "public.b") == list(range(50, 100))


async def test_readers_are_told_the_holes(rig: HubRig, ada: Caller) -> None:
    call = CreateConsumer(name="c", channels=["public.ticks.>"], since="all")
    await rig.hub.call(call, caller=ada)
    await mix(rig, ada)
    await mix(rig, ada)
    await pad(rig, ada)
    await run_hours(rig, 26)
    page: History = await rig.hub.call(ReadHistory(channel="public.ticks.a"), caller=ada)
    assert page.count == 4
    assert [(gap.first, gap.last) for gap in page.gaps] == [(1, 1), (4, 5), (8, 8)]
    fetched: Fetched = await rig.hub.call(Fetch(name="c", limit=10), caller=ada)
    assert [msgspec.json.decode(d.event)["offset"] for d in fetched.deliveries] == [2, 3, 6, 7]
    told = [(gap.channel, gap.first, gap.last) for gap in fetched.gaps]
    assert told == [("public.ticks.a", 1, 1), ("public.ticks.a", 4, 5), ("public.ticks.a", 8, 8)]
    outlet = rig.connect(ada, "public.ticks.a", since=AfterOffset(3))
    await rig.settle()
    assert outlet.offsets("public.ticks.a") == [6, 7]
    assert [(gap.first, gap.last) for _, gap in outlet.gaps] == [(4, 5), (8, 8)]
    again = await rig.publish(ada, "public.ticks.a", 9)
    assert again.offset == 9


async def test_the_key_of_a_trimmed_event_is_free_and_of_a_kept_one_is_not(
    rig: HubRig, ada: Caller
) -> None:
    channel = "public.ticks.a"
    await rig.publish(ada, channel, 1, type="x.tick", dedupe_key="t")
    first = await rig.publish(ada, channel, 1, type="x.audit", dedupe_key="a")
    await pad(rig, ada)
    await run_hours(rig, 26)
    again = await rig.publish(ada, channel, 2, type="x.tick", dedupe_key="t")
    assert not again.deduped and again.offset == 3
    repeat = await rig.publish(ada, channel, 1, type="x.audit", dedupe_key="a")
    assert repeat.deduped and repeat.id == first.id


async def test_a_long_trim_lets_publishes_through(rig: HubRig, ada: Caller) -> None:
    for n in range(6_000):
        rig.hub.publish(
            ada, event("public.ticks.a", n, type="x.tick"), lane=Lane(), reply=lambda _: None
        )
        rig.hub.publish(
            ada, event("public.keep", n, type="x.audit"), lane=Lane(), reply=lambda _: None
        )
    await rig.hub.drain()
    rig.clock.advance(2 * 86_400)
    rig.hub.retention.now_ms()
    pieces: list[int] = []
    trim_due = rig.engine.real.trim_due

    def counted(seq: int, **named: Any) -> Any:
        piece = trim_due(seq, **named)
        pieces.append(piece.removed)
        return piece

    rig.engine.real.trim_due = counted  # type: ignore[method-assign]
    rig.hub.retention._full.clear()
    await rig.hub.retention.trim_old()
    assert max(pieces) <= 1_000 and len(pieces) >= 3
    rounds = len(pieces)
    await rig.hub.retention.trim_old()
    assert len(pieces) == rounds, "what was looked at is not looked at again"


# --- settings -------------------------------------------------------------


def test_the_first_rule_that_covers_an_event_governs_it() -> None:
    keeping = Keeping(
        RetentionSettings(rules=RULES, keep_types=["account.*"], age_max_days=30), events_max=7
    )
    day = 86_400_000

    def found(channel: str, type: str) -> tuple[int | None, int | None]:
        bound = keeping.bounds[keeping.number(channel, type)]
        return bound.age_max_ms, bound.events_max

    assert found("public.ticks.a", "account.created") == (None, None)
    assert found("public.ticks.a", "x.audit") == (None, None)
    assert found("public.ticks.a", "x.tick") == (day, 40)
    assert found("public.ticks.a", "x.other") == (5 * day, 7)
    assert found("public.ticks", "x.tick") == (30 * day, 7)
    assert found("public.lobby", "chat.message") == (90 * day, 7)
    assert found('odd:name"', "chat.message") == (30 * day, 7)
    assert keeping.ages_ms == (day, 5 * day, 30 * day, 90 * day)
    only_channels = Keeping(RetentionSettings(rules=RULES[2:]), events_max=None)
    assert only_channels.numbers("public.ticks.a") == (0,)
    assert only_channels.numbers("public.other") == (2,)


def test_an_alias_names_its_channel() -> None:
    rule = RetentionRule(channels="global", age_max_days=1)
    keeping = Keeping(RetentionSettings(rules=[rule]), events_max=None)
    assert keeping.number("public.lobby", "chat.message") == 0


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"types": ["chat.mesage"], "events_max": 1}, "Did you mean chat.message?"),
        ({"types": ["chat.*", "tsk.*"], "events_max": 1}, "No event type is covered by 'tsk.*'"),
        ({"channels": "public..a", "events_max": 1}, "is not a channel's name"),
        ({"channels": "public.a*", "events_max": 1}, "is not a pattern"),
        ({"age_max_days": "for ever"}, "Invalid enum value 'for ever'"),
        ({"age_max_days": 0}, "> 0"),
        ({"age_max_days": -1}, "> 0"),
        ({"events_max": 0}, ">= 1"),
        ({"evens_max": 1}, "unknown field `evens_max`"),
        ({"channels": "public.a"}, "a rule says age_max_days, events_max, or both"),
    ],
)
def test_a_wrong_rule_is_refused_with_a_sentence(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.convert([wrong], list[RetentionRule])
    assert said in str(refused.value)


def test_a_type_to_keep_that_is_none_is_refused() -> None:
    with pytest.raises(BadConfiguration) as refused:
        RetentionSettings(keep_types=["chat.mesage"])
    assert "Did you mean chat.message?" in refused.value.message


def test_rules_come_from_the_file_and_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        """
        [[retention.rules]]
        channels = "public.ticks.>"
        types = ["x.tick"]
        age_max_days = 1
        events_max = 40
        [[retention.rules]]
        types = ["x.audit"]
        age_max_days = "forever"
        """
    )
    of_file = load(flags={}, environment={}, file=file).retention.rules
    assert of_file == [RULES[1], RULES[0]]
    given = {"CLAWNET_RETENTION_RULES": '[{"types": ["x.audit"], "age_max_days": "forever"}]'}
    assert load(flags={}, environment=given, file=file).retention.rules == [RULES[0]]


def test_a_typo_in_a_rule_is_told_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[[retention.rules]]\ntypes = ["chat.mesage"]\nevents_max = 5\n')
    with pytest.raises(BadConfiguration) as refused:
        load(flags={}, environment={}, file=file)
    for part in ("retention.rules in", str(file), "Did you mean chat.message?", "`$[0]`"):
        assert part in refused.value.message
