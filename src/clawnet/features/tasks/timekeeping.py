"""Keeps every task's time: what is due is said aloud, what is queued is sent when its worker
comes, and what has ended is let go in the end. One loop and one heap for all tasks."""

from __future__ import annotations

import asyncio
from heapq import nsmallest
from typing import TYPE_CHECKING

from clawnet.features.tasks.book import Key, Task, Tasks
from clawnet.features.tasks.changes import Changes
from clawnet.features.tasks.record import UNACCEPTED

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

AT_ONCE = 32
"""Changes of one round: it must not hold up the loop, and the next follows at once."""
ENDED_AT_ONCE = 64
LOOK_EVERY_S = 1.0
"""How often it is asked who came and who went."""
LOOK_AGAIN_S = 10.0
"""The trusted clock may be corrected while the loop waits for a time by it."""
KEPT_MAX = 10_000
KEPT_MAX_BYTES = 67_108_864
KEPT_MS = 30 * 86_400_000


class Timekeeping:
    """The feature's loop, and what ends tasks when rights do."""

    def __init__(self, hub: Hub, changes: Changes) -> None:
        self._hub = hub
        self._changes = changes
        self._book = changes.book
        self._look_s = 0.0
        """When it is asked again who came and who went."""

    async def run(self) -> None:
        """Look at what is due, and at who came and went, until the hub closes."""
        changes = self._changes
        loop = asyncio.get_running_loop()
        while True:
            changes.sooner.clear()
            wait_s = self._round() if self._hub.is_ready else LOOK_EVERY_S
            try:
                async with asyncio.timeout_at(loop.time() + wait_s):
                    await changes.sooner.wait()
            except TimeoutError:
                pass
            # Replies and others first: a round may be followed by the next at once.
            await asyncio.sleep(0)

    def _round(self) -> float:
        """One round; the seconds until the next."""
        changes, book = self._changes, self._book
        changes.notice_jump()
        due = book.due(changes.now_ms, AT_ONCE)
        for task in due:
            changes.look(task)
        is_more = len(due) == AT_ONCE
        now_s = self._hub.clock.steady_s()
        if changes.is_hurried or now_s >= self._look_s:
            changes.is_hurried = self._follow_presence()
            self._look_s = now_s + LOOK_EVERY_S
            is_more |= changes.is_hurried
        is_more |= self._forget()
        if is_more:
            return 0.0
        wait_s = LOOK_EVERY_S if book.queued or book.submitted else LOOK_AGAIN_S
        next_ms = book.next_ms()
        if next_ms is not None:
            wait_s = min(wait_s, max((next_ms - changes.now_ms) / 1000, 0.001))
        return wait_s

    def _follow_presence(self) -> bool:
        """Send what is queued for who is there, and queue what was sent to who is gone."""
        changes, book = self._changes, self._book
        changes.forget_visits()
        came = [key for key in book.queued if changes.is_there(*key)]
        gone = [key for key in book.submitted if changes.is_gone(*key)]
        moves: list[tuple[list[Key], dict[Key, Tasks], bool]] = [
            (came, book.queued, True),
            (gone, book.submitted, False),
        ]
        left = AT_ONCE
        for keys, tasks_of, is_there in moves:
            for key in keys:
                waiting = tasks_of.get(key, {})
                still = [t for t in waiting.values() if not (t.is_moving or t.retry_ms)]
                for task in nsmallest(left, still, key=_id_of):
                    changes.requeue(task, is_there=is_there)
                left -= len(still)
                if left < 0:
                    return True
        return False

    def _forget(self) -> bool:
        """Let ended tasks go that are too old or too many."""
        gone = self._book.expired(
            before_ms=self._changes.now_ms - KEPT_MS,
            count_max=KEPT_MAX,
            bytes_max=KEPT_MAX_BYTES,
            limit=AT_ONCE,
        )
        if gone:
            self._changes.forget(gone)
        return len(gone) == AT_ONCE

    def rights_changed(self, world: str, account: str) -> None:
        """End at once what the account may not give any more, or will not do. No await.

        Their units are queued before that of the revocation, so that its answer comes behind.
        Of very many the later ones are ended right behind it; until then none is sent or begun.
        """
        changes, book, key = self._changes, self._book, (world, account)
        given, taken = book.given.get(key), book.taken.get(key)
        if not given and not taken:
            return
        changes.notice_jump()
        # Of one account to another all tasks have the same right, or all have none.
        backed: dict[tuple[str, bool], bool] = {}
        ending: list[Task] = []
        for task in (given or {}).values():
            kind = (task.info.to, task.info.status in UNACCEPTED)
            if kind not in backed:
                backed[kind] = changes.is_backed(task.record)
            if not backed[kind]:
                ending.append(task)
        if taken and not self._hub.directory.has_account(world, account):
            ending += taken.values()
        for task in ending[:ENDED_AT_ONCE]:
            changes.look(task)
        for task in ending[ENDED_AT_ONCE:]:
            changes.look_soon(task)


def _id_of(task: Task) -> str:
    return task.id
