"""What is stored of the fleet: who enrolled, and what agents say of themselves for good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec

from clawnet.core.units import Put
from clawnet.hub.vault import put
from clawnet.ports.log import State

ENROLMENT = "enrolment"
FLEET = "fleet"

Key = tuple[str, str]


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """As stored under `enrolment/<world>/<id>`: the secret made this account.

    `role` is the one that it gave, `tokens` are the ids of those it gave and that are kept, the
    oldest first. `has_own_token`: another token of the account was used, now or ever.
    `is_session`: no agent, but who opens sessions for those who only show the secret.
    """

    world: str
    id: str
    role: str
    tokens: list[str]
    last_ms: int | None = None
    has_own_token: bool = False
    is_session: bool = False

    @property
    def put(self) -> Put:
        return put(ENROLMENT, f"{self.world}/{self.id}", self)


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """As stored under `fleet/<world>/<id>`: what outlives a restart of what an agent reported."""

    world: str
    id: str
    role: str | None = None
    capabilities: list[str] = []
    last_seen_ms: int | None = None

    @property
    def put(self) -> Put:
        return put(FLEET, f"{self.world}/{self.id}", self)


class Enrolments:
    """Who enrolled, in memory."""

    def __init__(self) -> None:
        self._all: dict[Key, Enrolment] = {}
        self._counts: Counter[str] = Counter()

    def load(self, state: State) -> None:
        """Take up what is stored."""
        for entry in state.scan(ENROLMENT):
            self.add(msgspec.json.decode(entry.value, type=Enrolment))

    def find(self, world: str, id: str) -> Enrolment | None:
        return self._all.get((world, id))

    def count(self, world: str) -> int:
        return self._counts[world]

    def add(self, record: Enrolment) -> None:
        """What is so from now on. That a token of its own was used is never forgotten."""
        key = (record.world, record.id)
        before = self._all.get(key)
        if before is None:
            self._counts[record.world] += 1
        elif before.has_own_token and not record.has_own_token:
            record = msgspec.structs.replace(record, has_own_token=True)
        self._all[key] = record

    def remove(self, world: str, id: str) -> bool:
        """Forget one whose account is no more."""
        if self._all.pop((world, id), None) is None:
            return False
        self._counts[world] -= 1
        return True

    def __iter__(self) -> Iterator[Enrolment]:
        return iter(self._all.values())
