"""When a token was last used: observed, exact to a second, written at most once a minute."""

from __future__ import annotations

import pytest

from clawnet.core.callers import Caller
from clawnet.core.calls.tokens import IssueJwt, ListTokens, RevokeToken
from clawnet.core.times import rfc3339
from clawnet.hub import uses
from clawnet.testing.hubs import HubRig


async def last_used(rig: HubRig, caller: Caller, token_id: str | None) -> str | None:
    listed = (await rig.hub.call(ListTokens(), caller=caller)).tokens
    return next(one.last_used for one in listed if one.id == token_id)


def ids(rig: HubRig) -> list[str]:
    return [entry.key for entry in rig.engine.real.scan("used")]


async def test_a_token_that_nobody_showed_has_no_last_use(rig: HubRig, ada: Caller) -> None:
    await rig.token("ada")
    unused = [one for one in (await rig.hub.call(ListTokens(), caller=ada)).tokens
              if one.id != ada.token_id]  # fmt: skip
    assert [one.last_used for one in unused] == [None]


async def test_showing_it_is_using_it(rig: HubRig, ada: Caller) -> None:
    token = await rig.token("ada")
    first = rig.hub.authenticate(token)
    used = await last_used(rig, ada, first.token_id)
    assert used == rfc3339(rig.hub.retention.now_ms())
    rig.clock.advance(3_600)
    assert await last_used(rig, ada, first.token_id) == used
    rig.hub.authenticate(token)
    await rig.clock.pass_time(30)
    later = await last_used(rig, ada, first.token_id)
    assert later is not None and used < later < rfc3339(rig.hub.retention.now_ms() - 20_000)


async def test_an_open_connection_uses_its_token_to_its_end(rig: HubRig, ada: Caller) -> None:
    caller = await rig.caller("ada")
    outlet = rig.connect(caller, "public.a")
    assert await last_used(rig, ada, caller.token_id) is not None
    rig.clock.advance(7_200)
    assert await last_used(rig, ada, caller.token_id) == rfc3339(rig.hub.retention.now_ms())
    rig.clock.advance(7_200)
    assert outlet.session is not None
    outlet.session.close()
    closed = rfc3339(rig.hub.retention.now_ms())
    assert await last_used(rig, ada, caller.token_id) == closed
    rig.clock.advance(7_200)
    assert await last_used(rig, ada, caller.token_id) == closed


async def test_it_is_written_once_a_minute_however_often_it_is_used(
    rig: HubRig, ada: Caller
) -> None:
    token = await rig.token("ada")
    await rig.clock.pass_time(61)
    before = rig.engine.commits
    for _ in range(50):
        rig.hub.authenticate(token)
        await rig.clock.pass_time(1)
    assert rig.engine.commits - before <= 2, "its own write, and the trusted time's"
    await rig.clock.pass_time(61)
    assert f"used/{rig.hub.authenticate(token).token_id}" in ids(rig)


async def test_it_outlives_a_restart_and_a_crash_all_but_a_minute(rig: HubRig, ada: Caller) -> None:
    token = await rig.token("ada")
    other = await rig.token("ada")
    caller = rig.hub.authenticate(token)
    used = await last_used(rig, ada, caller.token_id)
    await rig.restart()
    rig.clock.advance(10)
    asks = rig.hub.authenticate(other)
    assert await last_used(rig, asks, caller.token_id) == used
    rig.hub.authenticate(token)
    await rig.clock.pass_time(61)
    later = await last_used(rig, asks, caller.token_id)
    await rig.crash()
    asks = rig.hub.authenticate(other)
    assert await last_used(rig, asks, caller.token_id) == later != used


async def test_what_belongs_to_tokens_that_are_gone_is_deleted(rig: HubRig, ada: Caller) -> None:
    caller = await rig.caller("ada")
    await rig.clock.pass_time(61)
    assert f"used/{caller.token_id}" in ids(rig)
    await rig.hub.call(RevokeToken(id=str(caller.token_id)), caller=ada)
    await rig.clock.pass_time(61)
    assert f"used/{caller.token_id}" not in ids(rig)
    assert rig.hub.uses.last_ms(str(caller.token_id)) is None


async def test_a_full_disk_loses_it_and_stops_nothing(rig: HubRig, ada: Caller) -> None:
    token = await rig.token("ada")
    rig.engine.is_full = True
    rig.hub.authenticate(token)
    await rig.clock.pass_time(130)
    rig.engine.is_full = False
    caller = rig.hub.authenticate(token)
    await rig.clock.pass_time(61)
    assert f"used/{caller.token_id}" in ids(rig)


async def test_what_a_full_disk_refused_is_written_without_another_use(
    rig: HubRig, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uses, "CHANGES_PER_UNIT", 1)
    callers = [await rig.caller("ada") for _ in range(3)]
    used = [await last_used(rig, ada, caller.token_id) for caller in callers]
    rig.engine.is_full = True
    await rig.clock.pass_time(61)
    rig.engine.is_full = False
    assert ids(rig) == []
    await rig.clock.pass_time(61)
    keys = [f"used/{caller.token_id}" for caller in callers]
    assert set(keys) <= set(ids(rig))
    await rig.crash()
    assert [await last_used(rig, ada, caller.token_id) for caller in callers] == used


async def test_a_jwts_use_is_shown_and_not_written(rig: HubRig, ada: Caller) -> None:
    made = await rig.hub.call(IssueJwt(), caller=ada)
    rig.hub.authenticate(made.token)
    assert await last_used(rig, ada, made.jti) is not None
    await rig.clock.pass_time(61)
    assert not [key for key in ids(rig) if "jwt_" in key]
