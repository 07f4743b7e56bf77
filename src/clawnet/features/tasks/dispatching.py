"""Gives work: whom to, whether the caller may, and whether it was asked before."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from math import isfinite
from typing import TYPE_CHECKING

import msgspec

from clawnet.core import payloads
from clawnet.core.buckets import Buckets
from clawnet.core.callers import Caller
from clawnet.core.calls.tasks import (
    ALL,
    COMMAND_MAX_CHARS,
    TARGETS_MAX,
    TIMEOUT_MAX_S,
    Dispatched,
    DispatchTask,
    TaskInfo,
)
from clawnet.core.channels import LOBBY, Channel, parse
from clawnet.core.chat import room_channel
from clawnet.core.errors import (
    BadRequest,
    DedupeConflict,
    NotFound,
    PayloadTooLarge,
    RateLimited,
)
from clawnet.core.events import CORRELATION_MAX_CHARS, DEDUPE_KEY_MAX_CHARS, check_key
from clawnet.core.handles import fold
from clawnet.core.rights import Allowed, Verb, decide, require, tasks_channel
from clawnet.core.times import rfc3339
from clawnet.core.units import Committed, Outcome
from clawnet.features.tasks.book import TASK_BYTES, Task
from clawnet.features.tasks.changes import Changes
from clawnet.features.tasks.record import (
    RESULT_MIN_BYTES,
    Record,
    digests_of,
    found_in,
    moved,
    request_of,
    room_for_result,
    size_of,
)
from clawnet.hub.accounts import need_account

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

COMMAND_MAX_BYTES = 32_768
"""Of the command in JSON; with its arguments it must fit into an event."""
ARGS_MAX_BYTES = 16_384
OPEN_MAX_BYTES = 67_108_864
"""Of the open tasks that one account gave: they are held in memory."""
DISPATCH_MAX_BYTES = 4_194_304
"""Commands and arguments of one dispatch, over all its tasks: they are stored as one unit."""

_Key = tuple[str, str, str]
Lists = Callable[[str], tuple[Sequence[str], Sequence[str]]]


class Dispatching:
    """Handler of DispatchTask."""

    def __init__(self, hub: Hub, changes: Changes, lists: Lists) -> None:
        self._hub = hub
        self._changes = changes
        self._book = changes.book
        self._lists = lists
        """The deny list and the list of risky commands of a world, as they are now."""
        settings = changes.settings
        self._buckets = Buckets(
            rate_per_s=settings.dispatches_per_s, burst=settings.dispatches_burst
        )
        self._on_way: dict[_Key, asyncio.Future[None]] = {}
        """Dedupe keys of dispatches that wait for their commit."""
        self._giving: Counter[tuple[str, str]] = Counter()
        self._taking: Counter[tuple[str, str]] = Counter()
        """How many tasks of an account are on their way."""
        self._last_id = (0, 0)

    def load(self) -> None:
        """Ids go on behind those that are stored."""
        if self._book.tasks:
            last = max(self._book.tasks)
            self._last_id = (int(last[5:17], 16), int(last[17:21], 16))

    async def dispatch(self, call: DispatchTask, caller: Caller) -> Dispatched:
        """Raises Unauthenticated, Forbidden, NotFound, BadRequest, PayloadTooLarge,
        DedupeConflict, RateLimited."""
        call = _checked(call)
        while True:
            caller = self._hub.directory.refresh(caller)
            account = need_account(caller)
            targets = self._targets(call, caller, account)
            room = None if call.room is None else self._room(call.room, caller)
            key = (caller.world, account, call.dedupe_key or "")
            asked: str | list[str] = ALL if call.to == ALL else targets
            request = request_of(
                to=asked,
                kind=call.kind,
                command=call.command,
                args=call.args,
                timeout_s=call.timeout_s,
                room=None if room is None else room.name,
            )
            waiter = self._on_way.get(key) if call.dedupe_key is not None else None
            if waiter is None:
                break
            # No deadline: the committer answers every unit.
            await asyncio.wait([waiter])
        if call.dedupe_key is not None:
            repeated = self._repeated(key, request)
            if repeated is not None:
                return repeated
        size = size_of(call.command) + (
            0 if isinstance(call.args, msgspec.UnsetType) else len(bytes(call.args))
        )
        if len(targets) * size > DISPATCH_MAX_BYTES:
            raise PayloadTooLarge(
                f"One dispatch may hold {DISPATCH_MAX_BYTES} bytes over all its tasks.",
                next="Name fewer accounts at once, or send a reference instead of the text.",
                limit_bytes=DISPATCH_MAX_BYTES,
            )
        # No await from the rights above to the queue.
        self._check_budget(caller.world, account, targets, size)
        records = self._records(call, caller, account, targets, room, request)
        await self._commit(records, key if call.dedupe_key is not None else None)
        tasks = [
            self._book.get(caller.world, record.info.task_id) or Task(record, revision=0)
            for record in records
        ]
        return _dispatched(tasks, is_repeat=False)

    # --- who ----------------------------------------------------------------

    def _targets(self, call: DispatchTask, caller: Caller, account: str) -> list[str]:
        """The accounts, each once, that the caller may give work to."""
        directory = self._hub.directory
        if call.to == ALL:
            return self._everyone(caller, account)
        given = [call.to] if isinstance(call.to, str) else call.to
        by_handle: dict[str, str] | None = None
        found: dict[str, None] = {}
        for name in given:
            wanted = name.strip().removeprefix("@")
            id_ = wanted.lower()
            if not directory.has_account(caller.world, id_):
                if by_handle is None:
                    by_handle = {fold(a.handle): a.id for a in directory.accounts(caller.world)}
                id_ = by_handle.get(fold(wanted[:80]), "")
            if not id_:
                raise NotFound(f"There is no account {ascii(wanted[:80])}.")
            require(caller, Verb.DISPATCH, parse(tasks_channel(id_)), directory)
            found[id_] = None
        return list(found)

    def _everyone(self, caller: Caller, account: str) -> list[str]:
        directory = self._hub.directory
        # Asked of itself first, so that a token without the scope is told of that.
        require(caller, Verb.DISPATCH, parse(tasks_channel(account)), directory)
        found: list[str] = []
        for id_ in self._candidates(caller, account):
            other = directory.account(caller.world, id_)
            if other is None or other.is_deleted or other.kind != "agent":
                continue
            if other.role == "warden" or other.id == account:
                continue
            asked = decide(caller, Verb.DISPATCH, parse(tasks_channel(other.id)), directory)
            if isinstance(asked, Allowed):
                found.append(other.id)
            if len(found) > TARGETS_MAX:
                break
        if not found:
            raise NotFound(
                "There is no other agent that takes work from this account.",
                next="Ask an agent for: claw grant YOU --dispatch; a master may give to all.",
            )
        if len(found) > TARGETS_MAX:
            raise BadRequest(
                f"There are more than {TARGETS_MAX} agents, to whom one dispatch may go.",
                next="Name them in several dispatches.",
            )
        return found

    def _candidates(self, caller: Caller, account: str) -> list[str]:
        """Who may be among all that the caller gives work to, by id."""
        directory = self._hub.directory
        if caller.role == "master":
            return [other.id for other in directory.accounts(caller.world)]
        # Others do by grants alone: of ten thousand accounts, the few that gave them one.
        owners = {
            grant.channel.split(".")[1]
            for grant in directory.grants_of(caller.world, account)
            if "dispatch" in grant.verbs
        }
        return sorted(owners)

    def _room(self, name: str, caller: Caller) -> Channel:
        """The channel where it is told, if the caller may write there."""
        channel = parse(room_channel(name))
        require(caller, Verb.PUBLISH, channel, self._hub.directory)
        return channel

    # --- whether ------------------------------------------------------------

    def _repeated(self, key: _Key, request: str) -> Dispatched | None:
        known = self._book.by_key.get(key)
        if not known:
            return None
        tasks = list(known.values())
        if tasks[0].record.request != request:
            raise DedupeConflict(
                "This account used this dedupe_key for another dispatch.",
                key=key[2],
                task_ids=[task.id for task in tasks[:10]],
            )
        return _dispatched(tasks, is_repeat=True)

    def _check_budget(self, world: str, account: str, targets: list[str], size: int) -> None:
        """Raises RateLimited. `size` is that of one task."""
        settings, book = self._changes.settings, self._book
        limit = settings.open_per_account_max
        held = book.given_bytes[world, account] + len(targets) * (size + TASK_BYTES)
        if held > OPEN_MAX_BYTES:
            raise RateLimited(
                f"The open tasks of {account} may have {OPEN_MAX_BYTES} bytes in all.",
                next="Wait until some have ended, or cancel some (claw tasks cancel ID).",
                retry_after_s=10.0,
                reason="open_tasks",
                limit_bytes=OPEN_MAX_BYTES,
            )
        given = len(book.given.get((world, account), ())) + self._giving[world, account]
        if given + len(targets) > limit:
            raise RateLimited(
                f"{account} has {given} open tasks given; {limit} are allowed.",
                next="Wait until some have ended, or cancel some (claw tasks cancel ID).",
                retry_after_s=10.0,
                reason="open_tasks",
                limit=limit,
            )
        for target in targets:
            taken = len(book.taken.get((world, target), ())) + self._taking[world, target]
            if taken >= limit:
                raise RateLimited(
                    f"{target} has {taken} open tasks; {limit} are allowed.",
                    next="Wait until some of them have ended, or give it to another account.",
                    retry_after_s=10.0,
                    reason="open_tasks",
                    limit=limit,
                )
        if not self._hub.settings.limits.enabled:
            return
        wait_s = self._buckets.take(
            (world, account), now_s=self._hub.clock.steady_s(), n=len(targets)
        )
        if wait_s:
            raise RateLimited(
                f"This account is limited to {settings.dispatches_per_s:g} dispatches per second.",
                next="Wait as long as Retry-After says, then dispatch again with the same "
                "dedupe_key.",
                retry_after_s=wait_s,
                limit_per_s=settings.dispatches_per_s,
            )

    # --- what ---------------------------------------------------------------

    def _records(
        self,
        call: DispatchTask,
        caller: Caller,
        account: str,
        targets: list[str],
        room: Channel | None,
        request: str,
    ) -> list[Record]:
        changes = self._changes
        now_ms = changes.now_ms
        settings = changes.settings
        timeout_s = settings.timeout_s if call.timeout_s is None else float(call.timeout_s)
        correlation_id = call.correlation_id
        if correlation_id is None:
            correlation_id = f"cor_{self._hub.randomness.token_bytes(12).hex()}"
        denied, risky = self._lists(caller.world)
        denied_by = found_in(call.command, call.args, denied)
        risky_by = found_in(call.command, call.args, risky)
        floor = 0
        if room is not None and room.name != LOBBY:
            head = self._hub.storage.engine.channel(caller.world, room.name)
            floor = 0 if head is None else head.last
        created = rfc3339(now_ms)
        limit_bytes = self._hub.settings.limits.data_max_bytes
        records = []
        digests = digests_of(
            targets, kind=call.kind, command=call.command, args=call.args, timeout_s=timeout_s
        )
        for target, digest in zip(targets, digests, strict=True):
            blank = TaskInfo(
                task_id=self._new_id(now_ms),
                from_id=account,
                from_handle=caller.handle,
                to=target,
                kind=call.kind,
                command=call.command,
                status="submitted",
                timeout_s=timeout_s,
                correlation_id=correlation_id,
                digest=digest,
                fence=1,
                lease_s=settings.lease_s,
                created=created,
                updated=created,
                revision=0,
                args=call.args,
                room=None if room is None else room.name,
                dedupe_key=call.dedupe_key,
            )
            if room_for_result(blank, limit_bytes) < RESULT_MIN_BYTES:
                raise PayloadTooLarge(
                    "The command and its arguments leave no room for a result on this hub.",
                    next="Send a reference instead of the text.",
                    limit_bytes=limit_bytes,
                )
            record = Record(
                world=caller.world,
                info=blank,
                request=request,
                room_floor=floor,
                causation_id=call.causation_id,
            )
            records.append(self._begun(record, denied_by, risky_by, now_ms=now_ms))
        return records

    def _begun(
        self, record: Record, denied_by: str | None, risky_by: str | None, *, now_ms: int
    ) -> Record:
        """With its first status, by what of the lists is in it."""
        times = self._changes.times
        if denied_by is not None:
            told = f"{ascii(denied_by)} is on this hub's deny list."
            return moved(record, "rejected", now_ms=now_ms, times=times, reason=told)
        if risky_by is not None:
            told = f"{ascii(risky_by)} is on this hub's risky list: a master must approve it."
            return moved(record, "awaiting_approval", now_ms=now_ms, times=times, reason=told)
        return self._changes.deliverable(record, now_ms=now_ms)

    async def _commit(self, records: list[Record], key: _Key | None) -> None:
        """Store them all or none; counted while they are on their way."""
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        first = records[0]
        giver = (first.world, first.info.from_id)
        if key is not None:
            self._on_way[key] = asyncio.get_running_loop().create_future()

        def over() -> None:
            _less(self._giving, giver, len(records))
            for record in records:
                _less(self._taking, (record.world, record.info.to), 1)
            if key is not None:
                self._on_way.pop(key).set_result(None)

        def done(outcome: Outcome) -> None:
            over()
            if not waiter.done():
                waiter.set_result(outcome)

        self._giving[giver] += len(records)
        for record in records:
            self._taking[record.world, record.info.to] += 1
        try:
            self._changes.dispatch(records, done)
        except BaseException:  # a key that stays taken would hold its repeats for ever
            over()
            raise
        # No deadline: the committer answers every unit, also when storage fails.
        outcome = await waiter
        if not isinstance(outcome, Committed):
            raise outcome

    def _new_id(self, now_ms: int) -> str:
        """Ids grow with time, so that their order is that of the tasks."""
        last_ms, number = self._last_id
        if now_ms > last_ms:
            last_ms, number = now_ms, 0
        else:
            number += 1
            if number > 0xFFFF:
                last_ms, number = last_ms + 1, 0
        self._last_id = (last_ms, number)
        return f"task_{last_ms:012x}{number:04x}{self._hub.randomness.token_bytes(6).hex()}"


def _checked(call: DispatchTask) -> DispatchTask:
    """Raises BadRequest, PayloadTooLarge for what can be nobody's task."""
    if isinstance(call.to, list) and not 1 <= len(call.to) <= TARGETS_MAX:
        raise BadRequest(
            f"A dispatch names 1 to {TARGETS_MAX} accounts.", next="Name them in several."
        )
    if not call.command.strip():
        raise BadRequest("A task needs a command.", next="Say what is to be done.")
    if len(call.command) > COMMAND_MAX_CHARS or size_of(call.command) > COMMAND_MAX_BYTES:
        raise PayloadTooLarge(
            f"A command has at most {COMMAND_MAX_CHARS} characters and {COMMAND_MAX_BYTES} bytes.",
            limit_bytes=COMMAND_MAX_BYTES,
        )
    timeout_s = call.timeout_s
    if timeout_s is not None and not (isfinite(timeout_s) and 0 < timeout_s <= TIMEOUT_MAX_S):
        raise BadRequest(
            f"timeout_s must be above 0 and at most {TIMEOUT_MAX_S:g}.",
            next="Leave it out for the hub's own.",
        )
    check_key("dedupe_key", call.dedupe_key, max_chars=DEDUPE_KEY_MAX_CHARS)
    check_key("correlation_id", call.correlation_id, max_chars=CORRELATION_MAX_CHARS)
    check_key("causation_id", call.causation_id, max_chars=CORRELATION_MAX_CHARS)
    if isinstance(call.args, msgspec.UnsetType):
        return call
    # As admitted, without the line breaks that would end a frame.
    args = payloads.admit(bytes(call.args), max_bytes=ARGS_MAX_BYTES)
    return msgspec.structs.replace(call, args=msgspec.Raw(args.encode()))


def _dispatched(tasks: list[Task], *, is_repeat: bool) -> Dispatched:
    return Dispatched(
        task_ids=[task.id for task in tasks],
        correlation_id=tasks[0].info.correlation_id,
        tasks=[task.shown() for task in tasks],
        deduped=is_repeat,
    )


def _less(counts: Counter[tuple[str, str]], key: tuple[str, str], n: int) -> None:
    counts[key] -= n
    if counts[key] <= 0:
        del counts[key]
