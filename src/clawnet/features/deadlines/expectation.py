"""An expectation: who waits for what, until when, and whose word ends it. And the open ones."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

import msgspec

from clawnet.core.channels import Kind, parse

KIND = "expectation"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """As stored under `expectation/<world>/<identity>`, in the unit of its event.

    The event's id is given by that commit, so it is not in here; `identity` (hex) leads to it.
    """

    world: str
    sender: str
    channel: str
    correlation_id: str
    reply_within_s: float
    due_ms: int
    identity: str
    traceparent: str | None = None


class Expectation:
    """An open one: the record, its revision, and the event it belongs to."""

    __slots__ = ("event_id", "record", "revision")

    def __init__(self, record: Record, *, revision: int, event_id: str | None) -> None:
        self.record = record
        self.revision = revision
        self.event_id = event_id
        """None if a restart did not find the event any more: it was trimmed."""

    @property
    def key(self) -> str:
        """Its key in the state."""
        return key_of(self.record)

    def is_awaited_from(self, account: str) -> bool:
        """Whether the answer may come from this account, as far as the channel's name says.

        On an inbox and a direct channel it must be the addressee; elsewhere anybody
        who may read the channel (which the hub knows), but never the sender itself.
        """
        if account == self.record.sender:
            return False
        channel = parse(self.record.channel)
        if channel.kind is Kind.INBOX:
            return account == channel.owner
        if channel.kind is Kind.DM:
            return account in (channel.peers or ())
        return True


class OpenOnes:
    """The open expectations, by what an answer names and by when they are due."""

    def __init__(self) -> None:
        self._by_key: dict[str, Expectation] = {}
        self._by_correlation: dict[tuple[str, str], dict[str, Expectation]] = {}
        self._by_event: dict[tuple[str, str], Expectation] = {}
        self._counts: dict[tuple[str, str], int] = {}
        self._alike: dict[tuple[str, str, str], int] = {}
        self._heap: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._by_key)

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def count(self, world: str, sender: str) -> int:
        """How many answers an account waits for."""
        return self._counts.get((world, sender), 0)

    def count_alike(self, world: str, sender: str, correlation_id: str) -> int:
        """How many answers with this correlation id an account waits for."""
        return self._alike.get((world, sender, correlation_id), 0)

    def get(self, key: str) -> Expectation | None:
        """The open one of a key."""
        return self._by_key.get(key)

    def add(self, one: Expectation) -> None:
        """Take up an expectation; one of the same key is replaced."""
        self.remove(one.key)
        record = one.record
        self._by_key[one.key] = one
        correlation = (record.world, record.correlation_id)
        self._by_correlation.setdefault(correlation, {})[one.key] = one
        if one.event_id is not None:
            self._by_event[record.world, one.event_id] = one
        sender = (record.world, record.sender)
        self._counts[sender] = self._counts.get(sender, 0) + 1
        alike = (*sender, record.correlation_id)
        self._alike[alike] = self._alike.get(alike, 0) + 1
        self.push(one, record.due_ms)

    def push(self, one: Expectation, due_ms: int) -> None:
        """Let it be due (again) at this time."""
        heappush(self._heap, (due_ms, one.key))
        if len(self._heap) > 1_000 + 2 * len(self._by_key):
            # What is answered stays in the heap until it is due; with long times that adds up.
            self._heap = [entry for entry in self._heap if entry[1] in self._by_key]
            heapify(self._heap)

    def remove(self, key: str) -> Expectation | None:
        """Forget one that is answered, missed or moot."""
        one = self._by_key.pop(key, None)
        if one is None:
            return None
        record = one.record
        correlation = (record.world, record.correlation_id)
        named = self._by_correlation[correlation]
        del named[key]
        if not named:
            del self._by_correlation[correlation]
        if one.event_id is not None:
            self._by_event.pop((record.world, one.event_id), None)
        sender = (record.world, record.sender)
        self._counts[sender] -= 1
        if not self._counts[sender]:
            del self._counts[sender]
        alike = (*sender, record.correlation_id)
        self._alike[alike] -= 1
        if not self._alike[alike]:
            del self._alike[alike]
        return one

    def answered_by(
        self, world: str, correlation_id: str | None, causation_id: str | None
    ) -> Iterator[Expectation]:
        """Those that an event with these ids may answer, each once."""
        caused = None if causation_id is None else self._by_event.get((world, causation_id))
        if caused is not None:
            yield caused
        if correlation_id is not None:
            for one in self._by_correlation.get((world, correlation_id), {}).values():
                if one is not caused:
                    yield one

    def due(self, now_ms: int, limit: int) -> list[Expectation]:
        """Up to `limit` that are due, taken from the heap: push() them again to try later."""
        found: list[Expectation] = []
        while self._heap and self._heap[0][0] <= now_ms and len(found) < limit:
            one = self._by_key.get(heappop(self._heap)[1])
            # Under one key there may have been several in turn; the newest has its own entry.
            if one is not None and one.record.due_ms <= now_ms and one not in found:
                found.append(one)
        return found

    def next_due_ms(self) -> int | None:
        """When the next one is due; one that is answered may still stand here."""
        return self._heap[0][0] if self._heap else None


def key_of(record: Record) -> str:
    """The record's key in the state."""
    return f"{KIND}/{record.world}/{record.identity}"
