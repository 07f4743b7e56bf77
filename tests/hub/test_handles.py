"""Handles: what may be one, what looks like another's, and how long one stays kept back."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import unicodedata
from importlib import resources
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawnet.core.callers import Caller
from clawnet.core.calls.accounts import (
    CreateAccount,
    DeleteAccount,
    ListAccounts,
    ReadAccount,
    UpdateAccount,
)
from clawnet.core.calls.reading import ReadHistory
from clawnet.core.errors import BadRequest, ClawError, Conflict, RateLimited
from clawnet.core.handles import ASCII_LOOKS, RESERVED, fold, keys, skeleton
from clawnet.hub.directory import Account
from clawnet.hub.handles import HELD_PER_ACCOUNT_MAX, HELD_S
from clawnet.hub.lookalikes import _load, lookalikes_of
from clawnet.testing.hubs import HubRig, started_hub
from clawnet.testing.loops import TimelessLoop

DAY_S = 86_400.0


async def take(rig: HubRig, caller: Caller, handle: str) -> str:
    """What becomes of a caller's wish for a handle: its reason, or `given`."""
    try:
        await rig.hub.call(UpdateAccount(id=str(caller.account), handle=handle), caller=caller)
    except (BadRequest, Conflict) as error:
        return str(error.facts.get("reason", "bad"))
    return "given"


# --- what may be a handle --------------------------------------------------


@pytest.mark.parametrize(
    ("handle", "reason"),
    [
        ("аlice", "mixed_scripts"),  # Cyrillic а
        ("pαul", "mixed_scripts"),  # Greek α
        ("한국ひらがな", "mixed_scripts"),
        ("иван-ΓΔ", "mixed_scripts"),
        ("a\u200bb", "bad"),
        ("a\u200db", "bad"),
        ("a\u2060b", "bad"),
        ("\u202eabc", "bad"),
        ("a\u2066b", "bad"),
        ("a\ufeffb", "bad"),
        ("a\u00adb", "bad"),
        ("a\u0000", "bad"),
        ("a\ud800", "bad"),
        ("a\u2028b", "bad"),
        ("a\u00a0b", "bad"),
        ("a  b", "characters"),
        ("a\u034fb", "invisible"),
        ("\u3164", "invisible"),
        ("\u115f\u1160", "invisible"),
        ("a\ufe0f", "invisible"),
        ("a\U000e0101", "invisible"),
        ("\u2800", "invisible"),
        ("\u0301a", "marks"),
        ("a\u0301\u0301", "marks"),
        ("á\u0301", "marks"),
        ("a\u0316\u0317\u0318\u0319\u031c", "marks"),
        ("\ufdfa" * 10, "characters"),
        ("admin", "reserved"),
        ("Administrator", "reserved"),
        ("ROOT", "reserved"),
        ("ｒｏｏｔ", "reserved"),
        ("r00t", "reserved"),
        ("adm1n", "reserved"),
        ("al1", "reserved"),
        ("-a11-", "reserved"),
        ("AdmIn", "reserved"),
        ("-admin_", "reserved"),
        ("vvarden", "reserved"),
        ("rnaster", "reserved"),
        ("сΙаѡ", "mixed_scripts"),
        ("ѕуѕтеm", "mixed_scripts"),
        ("оԝпег"[:2] + "ner", "mixed_scripts"),
        ("𝐚𝐝𝐦𝐢𝐧", "reserved"),
        ("me", "reserved"),
        ("everyone", "reserved"),
    ],
    ids=ascii,
)
async def test_what_deceives_is_refused(
    rig: HubRig, ada: Caller, master: Caller, handle: str, reason: str
) -> None:
    assert await take(rig, ada, handle) == reason
    with pytest.raises(BadRequest):
        await rig.hub.call(CreateAccount(id="new", handle=handle), caller=master)
    assert (await rig.hub.call(ReadAccount(id="ada"), caller=ada)).handle == "ada"


@pytest.mark.parametrize(
    "handle",
    [
        "Mia M.", "zoë", "José", "Иван", "Δήμητρα", "漢字kanji", "カタカナ-7", "한국어 bot", "नमस्ते",
        "שלום", "Nguyễn", "agent 🦞", "x", "7", "a11", "O'Neill", "中文ㄅㄆ", "ﬁne", "ß" * 32,
    ],
    ids=ascii,
)  # fmt: skip
async def test_names_of_all_peoples_are_taken(rig: HubRig, ada: Caller, handle: str) -> None:
    assert await take(rig, ada, handle) == "given"
    await rig.restart()
    assert (await rig.hub.call(ReadAccount(id="ada"), caller=ada)).handle == handle


@pytest.mark.parametrize("id", [*sorted(RESERVED), "adm1n", "r00t", "-root-", "cIaw"])
async def test_a_reserved_id_is_given_by_nobody(rig: HubRig, master: Caller, id: str) -> None:
    with pytest.raises(BadRequest):
        await rig.hub.call(CreateAccount(id=id, handle="fine"), caller=master)


async def test_a_name_that_was_stored_before_it_was_reserved_stays(rig: HubRig) -> None:
    await rig.account("support", role="master")
    old = await rig.caller("support")
    assert await take(rig, old, "Support") == "given"
    assert await take(rig, old, "Moderator") == "reserved"
    info = await rig.hub.call(UpdateAccount(id="support", role="master"), caller=old)
    assert info.handle == "Support"


# --- what looks like another's ---------------------------------------------


@pytest.mark.parametrize(
    ("has", "wants"),
    [
        ("billing", "bi11ing"),
        ("billing", "bilIing"),
        ("bob-1", "bob-l"),
        ("agent-10", "agent-1o"),
        ("bern", "bem"),
        ("wave", "vvave"),
        ("lucy", "Iucy"),
        ("Iucy", "lucy"),
        ("paypa", "раура"),
        ("раура", "paypa"),
        ("ATO", "ΑΤΟ"),
        ("ΑΤΟ", "ato"),
        ("coo1", "ⅽool"),
        ("Jose\u0301", "JOSÉ"),
        ("ﬁne", "fine"),
        ("straße", "STRASSE"),
        ("x&y", "xꝸy"),
        ("o", "0"),
        ("o", "০"),
        ("漢ー", "漢一"),
    ],
    ids=ascii,
)
async def test_two_names_that_look_alike_are_one(
    rig: HubRig, ada: Caller, bob: Caller, master: Caller, has: str, wants: str
) -> None:
    assert await take(rig, ada, has) == "given"
    assert await take(rig, bob, wants) in ("looks_alike", "taken")
    with pytest.raises(Conflict):
        await rig.hub.call(CreateAccount(id="new", handle=wants), caller=master)
    await rig.restart()
    assert await take(rig, bob, wants) in ("looks_alike", "taken")
    assert await take(rig, ada, wants) == "given"


async def test_names_of_a_series_do_not_meet(rig: HubRig, master: Caller) -> None:
    for n in range(120):
        await rig.hub.call(CreateAccount(id=f"agent-{n}"), caller=master)


async def test_an_id_and_a_handle_that_look_alike_are_one(
    rig: HubRig, ada: Caller, bob: Caller, master: Caller
) -> None:
    await take(rig, ada, "Wave-One")
    for new, handle in (("wave-one", "x"), ("vvave-one", "x"), ("b0b", "x"), ("x", "B0B")):
        with pytest.raises(Conflict):
            await rig.hub.call(CreateAccount(id=new, handle=handle), caller=master)
    await rig.hub.call(DeleteAccount(id="bob"), caller=master)
    rig.clock.advance(HELD_S + 1)
    for new, handle in (("b0b", "x"), ("x", "b0b"), ("bob", "x"), ("x", "bob")):
        with pytest.raises(Conflict):
            await rig.hub.call(CreateAccount(id=new, handle=handle), caller=master)


def test_the_table_of_ascii_is_unicodes_and_two_letters_more() -> None:
    for character in map(chr, range(33, 127)):
        # Beside something that is not ASCII the whole table is asked.
        assert skeleton(f"{character}漢", _load().looks) == skeleton(character, {}) + "漢"
        assert _load().looks.get(character) == ASCII_LOOKS.get(character)
    assert skeleton("wW", ASCII_LOOKS) == "vvvv"


def test_whatever_unicode_takes_for_alike_is_alike_here() -> None:
    raw = resources.files("confusable_homoglyphs").joinpath("confusables.json").read_bytes()
    looks, marks = _load().looks, "\u200e"
    for character, alike in msgspec.json.decode(raw).items():
        # What stands for several characters is met by the texts it is taken for, in ASCII too.
        single = character.strip(marks)
        is_composed = single == unicodedata.normalize("NFC", single)
        if len(single) != 1 or single in "%ꭴ" or not is_composed:
            continue
        for other in (one["c"] for one in alike):
            pair = (single, other.strip(marks))
            if pair[1] != unicodedata.normalize("NFC", pair[1]):
                continue
            first, second = (skeleton(text, looks) for text in pair)
            assert first == second, [ascii(text) for text in (*pair, first, second)]


def test_the_table_is_not_read_for_names_within_ascii() -> None:
    code = (
        "import sys, clawnet.hub.hub; from clawnet.hub import lookalikes as l;"
        "l.lookalikes_of('plain').script_of('a');"
        "print(l._load.cache_info().currsize, 'confusable_homoglyphs' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "False"]


# --- kept back -------------------------------------------------------------


async def test_a_handle_given_up_is_its_former_owners_alone(
    rig: HubRig, ada: Caller, bob: Caller, master: Caller
) -> None:
    await take(rig, ada, "Countess")
    await take(rig, ada, "Duchess")
    for wants in ("Countess", "COUNTESS", "C0untess"):
        assert await take(rig, bob, wants) in ("held", "looks_alike")
        with pytest.raises(Conflict):
            await rig.hub.call(CreateAccount(id="new", handle=wants), caller=master)
    with pytest.raises(Conflict, match="2027-02-14"):
        await rig.hub.call(CreateAccount(id="countess", handle="new"), caller=master)
    await rig.restart()
    assert await take(rig, bob, "Countess") == "held"
    assert await take(rig, ada, "countess") == "given"
    assert await take(rig, bob, "Duchess") == "held"
    await rig.crash()
    assert await take(rig, bob, "Duchess") == "held"
    assert await take(rig, ada, "Duchess") == "given"


async def test_what_is_kept_back_is_free_after_30_days_and_not_before(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    await take(rig, ada, "Countess")
    await take(rig, ada, "Duchess")
    rig.clock.advance(HELD_S - 1)
    assert await take(rig, bob, "Countess") == "held"
    rig.clock.advance(2)
    assert await take(rig, bob, "Countess") == "given"
    assert await take(rig, ada, "Countess") == "taken"
    await rig.restart()
    assert await take(rig, ada, "Countess") == "taken"


async def test_a_clock_that_jumps_frees_nothing(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await take(rig, ada, "Countess")
    await take(rig, ada, "Duchess")
    rig.clock.jump(10 * 365 * DAY_S)
    assert await take(rig, bob, "Countess") == "held"


async def test_nobody_takes_the_handle_of_who_was_deleted_for_30_days(
    rig: HubRig, ada: Caller, bob: Caller, master: Caller
) -> None:
    await take(rig, ada, "Countess")
    await take(rig, ada, "Duchess")
    await rig.hub.call(DeleteAccount(id="ada"), caller=master)
    for _ in range(2):
        assert [await take(rig, bob, h) for h in ("Countess", "Duchess", "ada")] == [
            "held", "held", "taken",
        ]  # fmt: skip
        await rig.restart()
    rig.clock.advance(HELD_S + 1)
    assert [await take(rig, bob, h) for h in ("Countess", "Duchess", "ada")] == [
        "given", "given", "taken",
    ]  # fmt: skip


async def test_a_handle_lost_to_a_full_disk_is_still_held(
    rig: HubRig, ada: Caller, bob: Caller, master: Caller
) -> None:
    await take(rig, ada, "Countess")
    rig.engine.is_full = True
    with pytest.raises(ClawError):
        await rig.hub.call(UpdateAccount(id="ada", handle="Duchess"), caller=ada)
    assert await take(rig, bob, "Countess") == "taken"
    with pytest.raises(ClawError):
        await rig.hub.call(DeleteAccount(id="ada"), caller=master)
    rig.engine.is_full = False
    assert await take(rig, bob, "Countess") == "held"
    await rig.crash()
    assert await take(rig, bob, "Countess") == "held"


async def test_nobody_hoards_names(rig: HubRig, ada: Caller) -> None:
    for n in range(HELD_PER_ACCOUNT_MAX):
        assert await take(rig, ada, f"name {n}") == "given"
    with pytest.raises(RateLimited) as caught:
        await take(rig, ada, "one more")
    assert caught.value.retry_after_s == pytest.approx(HELD_S, abs=60)
    # Back to one that is held for it frees a place; the spelling alone costs none.
    assert await take(rig, ada, f"NAME {HELD_PER_ACCOUNT_MAX - 1}") == "given"
    rig.clock.advance(HELD_S + 1)
    assert await take(rig, ada, "one more") == "given"


async def test_what_is_over_is_forgotten(rig: HubRig, ada: Caller, bob: Caller) -> None:
    for n in range(4):
        await take(rig, ada, f"name {n}")
    assert len(list(rig.engine.scan("held"))) == 4
    rig.clock.advance(HELD_S + 1)
    await take(rig, bob, "Bobby")
    assert [entry.key for entry in rig.engine.scan("held")] == ["held/main/bob"]
    # What was expired and comes again is kept back again.
    await take(rig, bob, "name 0")
    await take(rig, bob, "other")
    assert await take(rig, ada, "name 0") == "held"


async def test_a_change_of_handle_is_on_record(rig: HubRig, ada: Caller, master: Caller) -> None:
    await take(rig, ada, "Countess")
    page = await rig.hub.call(ReadHistory(channel="system.accounts", limit=100), caller=master)
    events = [msgspec.json.decode(line) for line in page.body.split(b"\n")]
    last = next(e for e in reversed(events) if e["type"] == "account.updated")
    assert last["data"]["handle"] == "Countess"
    assert last["data"]["was"] == {"handle": "ada", "role": "worker"}
    assert last["data"]["by"] == "ada"
    created = next(e for e in events if e["data"]["account"] == "ada")
    assert created["data"]["proof"] == "operator"


async def test_how_an_account_came_to_be_is_kept(rig: HubRig, master: Caller) -> None:
    made = await rig.hub.call(CreateAccount(id="new"), caller=master)
    assert (made.proof, made.proved_by, made.proved) == ("operator", "boss", made.created)
    await rig.hub.call(UpdateAccount(id="new", handle="newer"), caller=master)
    await rig.restart()
    assert await rig.hub.call(ReadAccount(id="new"), caller=master) == msgspec.structs.replace(
        made, handle="newer"
    )


def test_a_record_from_before_is_an_operators() -> None:
    old = (
        b'{"world":"main","id":"a","name":"A","handle":"A","role":"worker","kind":"agent",'
        b'"created_ms":5,"is_deleted":false}'
    )
    account = msgspec.json.decode(old, type=Account)
    assert (account.proof, account.proved_by) == ("operator", None)


# --- whatever happens -------------------------------------------------------

NAMES = st.sampled_from(
    ["bob", "B0B", "Bob", "воb", "lucy", "Iucy", "1ucy", "LUCY", "bern", "bem", "BERN", "раура",
     "paypa", "PAYPA", "РАУРА", "wave", "vvave", "ato", "ΑΤΟ", "ATO", "漢ー", "漢一", "fine", "ﬁne"]
)  # fmt: skip
IDS = st.sampled_from(["bob", "b0b", "lucy", "1ucy", "bern", "bem", "x1", "xl", "paypa", "wave"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("create"), IDS, NAMES | st.none()),
        st.tuples(st.just("update"), IDS, NAMES),
        st.tuples(st.just("delete"), IDS, st.none()),
        st.tuples(st.just("wait"), st.sampled_from([1.0, 16.0, 31.0]), st.none()),
        st.tuples(st.just("restart"), st.none(), st.none()),
    ),
    max_size=25,
)


def looks(name: str) -> frozenset[str]:
    return keys(name, lookalikes_of(name).looks)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_no_two_accounts_ever_hold_names_that_look_alike(steps: list[tuple[str, Any, Any]]) -> None:
    """Nor does anybody hold what another gave up less than 30 days ago."""

    async def history() -> None:
        async with started_hub() as rig:
            given_up: list[tuple[str, str, float]] = []
            await rig.account("boss", role="master")
            boss = await rig.caller("boss")
            for step in steps:
                before = await named(rig, boss)
                await act(rig, boss, step)
                now_s = rig.clock.steady_s()
                after = await named(rig, boss)
                for owner, handle in before.items():
                    if fold(after.get(owner, "")) != fold(handle):
                        given_up.append((owner, handle, now_s + HELD_S))
                check(after, given_up, now_s)

    with asyncio.Runner(loop_factory=TimelessLoop) as runner:
        runner.run(history())


async def named(rig: HubRig, boss: Caller) -> dict[str, str]:
    page = await rig.hub.call(ListAccounts(limit=1_000), caller=boss)
    return {account.id: account.handle for account in page.accounts}


async def act(rig: HubRig, boss: Caller, step: tuple[str, Any, Any]) -> None:
    what, subject, handle = step
    if what == "wait":
        rig.clock.advance(subject * DAY_S)
    elif what == "restart":
        await rig.restart()
    else:
        calls = {
            "create": lambda: CreateAccount(id=subject, handle=handle),
            "update": lambda: UpdateAccount(id=subject, handle=handle),
            "delete": lambda: DeleteAccount(id=subject),
        }
        try:
            await rig.hub.call(calls[what](), caller=boss)
        except ClawError as error:
            assert error.status in (400, 404, 409)


def check(present: dict[str, str], given_up: list[tuple[str, str, float]], now_s: float) -> None:
    names = [(own, looks(own) | looks(handle)) for own, handle in present.items()]
    for index, (own, mine) in enumerate(names):
        for other, theirs in names[:index]:
            assert mine.isdisjoint(theirs), f"{own} and {other}: {present}"
        for owner, handle, until_s in given_up:
            if owner != own and now_s < until_s:
                assert looks(handle).isdisjoint(mine), f"{own} has what {owner} gave up: {handle}"
