"""Tasks on the durable engine: what a kill and the next start leave of them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from clawnet.core.errors import Conflict
from tests.features.tasks_asking import dispatch, finish, given, read, take, update
from tests.features.test_deadlines_durable import started


async def test_a_killed_hub_has_what_it_answered(tmp_path: Path) -> None:
    async with started(tmp_path, is_killed=True) as rig:
        boss = await rig.account("boss", role="master")
        bob = await rig.account("bob")
        queued = await given(rig, boss, dedupe_key="k")
        second = await given(rig, boss)
        assert [task.status for task in await take(rig, bob)] == ["submitted", "submitted"]
        accepted = await update(rig, bob, second)
    async with started(tmp_path, 2, is_killed=True) as rig:
        boss, bob = await rig.caller("boss"), await rig.caller("bob")
        assert (await dispatch(rig, boss, dedupe_key="k")).task_ids == [queued.task_id]
        found = await read(rig, boss, accepted)
        # The hub gives a worker time to come back.
        assert found == msgspec.structs.replace(accepted, due=found.due)
        assert [task.task_id for task in await take(rig, bob)] == [queued.task_id]
        done = await finish(rig, bob, second, output="x")
    async with started(tmp_path, 3) as rig:
        bob = await rig.caller("bob")
        assert await read(rig, bob, second) == done == await finish(rig, bob, second, output="x")
        with pytest.raises(Conflict):
            await finish(rig, bob, second, output="y")
