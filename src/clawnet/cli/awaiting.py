"""The work of `claw dispatch --wait`: give it, print its output as it comes, tell how it ended."""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import dataclass, field
from typing import Any

import msgspec

from clawnet.cli.exits import DONE, FAILED, NOT_ALLOWED, NOT_REACHED
from clawnet.cli.speech import blocks
from clawnet.cli.terminal import is_terminal, json_text, note, plain
from clawnet.client.client import Client
from clawnet.client.wire import Signal
from clawnet.core.calls.tasks import ENDED, Dispatched, TaskInfo
from clawnet.core.errors import ClawError
from clawnet.core.rights import tasks_channel

LOOK_S = 20.0
"""How long one question for a task's end waits."""
GRACE_S = 30.0
"""Beside a task's own time: for its way to the worker, and back."""
AGAIN_S = 1.0

_CODES = {
    "completed": DONE,
    "rejected": NOT_ALLOWED,
    "timed_out": NOT_REACHED,
    "outcome_unknown": NOT_REACHED,
    "delivery_failed": NOT_REACHED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be given to whom; `body` is that of POST /api/v1/tasks."""

    url: str
    token: str | None
    body: dict[str, Any]
    is_json: bool


class Piece(msgspec.Struct):
    """A piece of output, as a signal brings it."""

    task_id: str
    output: str | None = None
    piece: int | None = None


@dataclass(slots=True)
class Outputs:
    """Prints pieces as they come, and at a task's end what no piece had."""

    is_json: bool
    _printed: dict[str, str] = field(default_factory=dict)
    _pieces: set[tuple[str, int]] = field(default_factory=set)
    _is_mid_line: bool = False

    def put(self, signal: Signal) -> None:
        """A piece, if it is of a task of ours; others' and repeated ones are passed over."""
        if signal.type != "task.output" or self.is_json:
            return
        try:
            piece = msgspec.json.decode(signal.data, type=Piece)
        except msgspec.DecodeError:
            return
        if piece.task_id not in self._printed or not piece.output:
            return
        if piece.piece is not None:
            place = (piece.task_id, piece.piece)
            if place in self._pieces:
                return
            self._pieces.add(place)
        self._printed[piece.task_id] += piece.output
        self._write(piece.output)

    def expect(self, task_id: str) -> None:
        self._printed.setdefault(task_id, "")

    def end(self, task: TaskInfo) -> None:
        """The rest of a task's output, and on stderr how it ended."""
        if self.is_json:
            sys.stdout.write(json_text(plain(task)) + "\n")
            sys.stdout.flush()
            return
        output, before = task.output or "", self._printed.get(task.task_id, "")
        if output.startswith(before):
            self._write(output[len(before) :])
        elif output.strip() and output.strip() not in before:
            self._end_line()
            self._write(output)
        self._end_line()
        if task.error:
            note(f"claw: {task.to}: {task.error}")
        if task.status != "completed":
            code = "" if task.exit_code is None else f" (exit code {task.exit_code})"
            why = f": {task.reason}" if task.reason else ""
            note(f"claw: task {task.task_id} for {task.to} is {task.status}{code}{why}")

    def _write(self, text: str) -> None:
        if not text:
            return
        # For a program the bytes as they are; a person's terminal must obey none of them.
        sys.stdout.write(blocks(text) if is_terminal() else text)
        sys.stdout.flush()
        self._is_mid_line = not text.endswith("\n")

    def _end_line(self) -> None:
        if self._is_mid_line:
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._is_mid_line = False


def run(order: Order) -> int:
    """Give it and wait; returns the exit code. Raises ClawError, KeyboardInterrupt."""
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    return asyncio.run(_run(order))


async def _run(order: Order) -> int:
    outputs = Outputs(order.is_json)
    early: list[Signal] = []

    def heard(signal: Signal) -> None:
        # A fast worker's first piece may overtake the answer that names its task.
        if given is None:
            early.append(signal)
        else:
            outputs.put(signal)

    given: Dispatched | None = None
    async with Client(order.url, order.token) as client:
        me = (await client.me()).account
        channel = tasks_channel(me.id if me is not None else "nobody")
        async with client.subscribe([channel], on_signal=heard, is_patient=False) as events:

            async def follow() -> None:
                async for _ in events:
                    pass

            following = asyncio.create_task(follow())
            try:
                body = order.body
                given = await client.request(
                    "POST", "/api/v1/tasks", body, Dispatched, within_s=GRACE_S
                )
                for task_id in given.task_ids:
                    outputs.expect(task_id)
                for task in given.tasks:
                    if task.status in ("queued", "awaiting_approval"):
                        why = f": {task.reason}" if task.reason else ""
                        note(f"claw: task {task.task_id} for {task.to} is {task.status}{why}")
                for signal in early:
                    outputs.put(signal)
                codes = [await _ended(client, task, outputs) for task in given.tasks]
            except asyncio.CancelledError:
                if given is not None:
                    note(f"claw: not waited for any more: claw tasks show {given.task_ids[0]}")
                raise
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
    return max(codes, default=DONE)


async def _ended(client: Client, task: TaskInfo, outputs: Outputs) -> int:
    """Wait for a task's end, tell of it, and give its exit code."""
    try:
        async with asyncio.timeout(task.timeout_s + GRACE_S):
            while task.status not in ENDED:
                try:
                    task = await client.task(task.task_id, wait_s=LOOK_S)
                except ClawError as error:
                    if not error.retryable:
                        raise
                    await asyncio.sleep(max(AGAIN_S, error.retry_after_s or 0.0))
    except TimeoutError:
        note(f"claw: task {task.task_id} for {task.to} is still {task.status}; it goes on.")
        return NOT_REACHED
    outputs.end(task)
    return _CODES.get(task.status, FAILED)
