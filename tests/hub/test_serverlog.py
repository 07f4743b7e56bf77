"""What the hub logged, for masters of main alone, bounded and without secrets."""

from __future__ import annotations

import logging
import sys

import msgspec
import pytest

from clawnet.core.callers import Caller
from clawnet.core.calls.logs import LogLine, ReadLog
from clawnet.core.errors import BadRequest, Forbidden
from clawnet.hub.serverlog import LINES_MAX
from clawnet.testing.hubs import HubRig


def log(rig: HubRig, text: str, *parts: object, **named: object) -> None:
    record = logging.LogRecord("clawnet.x", logging.WARNING, "f", 1, text, parts, None)
    record.__dict__.update(named)
    rig.hub.server_log.handle(record)


async def lines(rig: HubRig, caller: Caller, **how: int) -> list[LogLine]:
    page = await rig.hub.call(ReadLog(**how), caller=caller)
    return [msgspec.json.decode(record, type=LogLine) for record in page.records]


async def test_nobody_but_a_master_of_main_reads_it(
    rig: HubRig, ada: Caller, warden: Caller, master: Caller
) -> None:
    elsewhere = msgspec.structs.replace(master, world="other", token_id=None)
    for caller in (ada, warden, elsewhere):
        with pytest.raises(Forbidden):
            await rig.hub.call(ReadLog(), caller=caller)
    for limit in (0, 1_001):
        with pytest.raises(BadRequest):
            await rig.hub.call(ReadLog(limit=limit), caller=master)


async def test_no_secret_no_control_character_and_no_foreign_text_gets_out(
    rig: HubRig, master: Caller
) -> None:
    token = await rig.token("boss")
    log(rig, "refused %s and %s", token, "inv_" + "a" * 30)
    log(rig, "jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln\x1b[2J\nnext")
    try:
        raise ValueError("what a client sent")
    except ValueError:
        log(rig, "it failed", exc_info=sys.exc_info())
    log(rig, "odd %d", "no number")
    said = [line.message for line in await lines(rig, master)]
    assert said == [
        "refused (secret) and (secret)", "jwt (secret) [2J next", "it failed (ValueError)",
        "odd %d",
    ]  # fmt: skip


async def test_it_is_bounded_and_read_on_from_a_number(rig: HubRig, master: Caller) -> None:
    for n in range(LINES_MAX + 5):
        log(rig, "line %s %s", n, "x" * (5_000 if n == LINES_MAX else 1))
    newest = await lines(rig, master, limit=2)
    assert [line.number for line in newest] == [LINES_MAX + 4, LINES_MAX + 5]
    oldest = await lines(rig, master, after=0, limit=2)
    assert [line.number for line in oldest] == [6, 7]
    longest = await lines(rig, master, after=LINES_MAX, limit=1)
    assert len(longest[0].message) == 2_000
    # A number of before a restart does not hide what came since.
    assert len(await lines(rig, master, after=10**9, limit=3)) == 3
