"""What masters change while the hub runs: by whom, in which world, and over a restart."""

from __future__ import annotations

import msgspec
import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.controls import PATTERNS_MAX, ChangeControls, ReadControls
from clawnet.core.errors import BadRequest, Forbidden
from clawnet.testing.hubs import HubRig


async def test_only_a_master_sees_or_changes_them(
    rig: HubRig, ada: Caller, warden: Caller, master: Caller
) -> None:
    narrow = await rig.caller("boss", scopes=["events:read"])
    for caller in (ada, warden, narrow):
        for call in (ReadControls(), ChangeControls(auto_create=False)):
            with pytest.raises(Forbidden):
                await rig.hub.call(call, caller=caller)
    assert rig.hub.controls.of("main").auto_create


async def test_a_change_is_in_force_at_once_and_outlives_a_restart(
    rig: HubRig, master: Caller
) -> None:
    reader = rig.connect(master, "system.config")
    assert rig.hub.controls.of("main").auto_create
    call = ChangeControls(command_denylist=["rm -rf", "rm -rf"], auto_create=False)
    answer = await rig.hub.call(call, caller=master)
    assert answer.command_denylist == ["rm -rf"] and answer.auto_create is False
    await rig.hub.call(ChangeControls(command_riskylist=["sudo"]), caller=master)
    assert not rig.hub.controls.of("main").auto_create
    await rig.settle()
    assert "system.config_changed" in str(reader.__dict__)
    await rig.crash()
    found = rig.hub.controls.of("main")
    assert found.command_denylist == ("rm -rf",) and found.command_riskylist == ("sudo",)
    assert not found.auto_create


async def test_worlds_have_their_own(rig: HubRig, master: Caller) -> None:
    there = msgspec.structs.replace(HUB, world="other")
    await rig.hub.call(ChangeControls(auto_create=False), caller=there)
    assert not rig.hub.controls.of("other").auto_create
    assert rig.hub.controls.of("main").auto_create
    assert (await rig.hub.call(ReadControls(), caller=master)).auto_create
    await rig.crash()
    assert not rig.hub.controls.of("other").auto_create
    assert rig.hub.controls.of("main").auto_create


async def test_what_the_configuration_says_holds_until_a_master_chose(
    rig: HubRig, master: Caller
) -> None:
    board = rig.hub.controls
    board.default(command_denylist=["shutdown"])
    assert list(board.of("main").command_denylist) == ["shutdown"]
    await rig.hub.call(ChangeControls(command_denylist=[]), caller=master)
    board.default(command_denylist=["reboot"])
    assert list(board.of("main").command_denylist) == []


@pytest.mark.parametrize(
    "call",
    [
        ChangeControls(),
        ChangeControls(command_denylist=[""]),
        ChangeControls(command_denylist=["  "]),
        ChangeControls(command_riskylist=["x" * 201]),
        ChangeControls(command_riskylist=["x"] * (PATTERNS_MAX + 1)),
    ],
)
async def test_what_makes_no_sense_is_refused(
    rig: HubRig, master: Caller, call: ChangeControls
) -> None:
    with pytest.raises(BadRequest):
        await rig.hub.call(call, caller=master)
