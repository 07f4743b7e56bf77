"""Challenges that wait for their answer: in memory, bounded, each good once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from clawnet.core.addresses import place_of
from clawnet.core.errors import ChallengeExpired, RateLimited
from clawnet.ports.clock import Clock

PENDING_MAX = 10_000
PER_ADDRESS_MAX = 200
PER_NAME_AND_ADDRESS_MAX = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """`key` is the digest of the secret that only who asked was told; `text` what is to be shown
    or signed. `place` is where the request came from. `ends_s` is of the steady clock."""

    key: bytes
    name: str
    place: str
    text: str
    ends_s: float


class PendingChallenges:
    """All that wait, of one kind of proof.

    One is found by the digest of its secret: how long the search takes tells nothing of it.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        ttl_s: float,
        remembered_s: float = 0.0,
        pending_max: int = PENDING_MAX,
    ) -> None:
        """`remembered_s`: for so long one that is over is told from one that never was."""
        self._clock = clock
        self._ttl_s = ttl_s
        self._remembered_s = remembered_s
        self._max = pending_max
        # Both in the order of their ends, since all live equally long.
        self._all: dict[bytes, Pending] = {}
        self._over: dict[bytes, Pending] = {}
        self._of_place: dict[str, dict[bytes, Pending]] = {}
        self._of_both: Counter[tuple[str, str]] = Counter()

    def __len__(self) -> int:
        return len(self._all)

    def add(self, secret: str, *, name: str, address: str, text: str) -> None:
        """Wait for an answer. Raises RateLimited.

        Where too many of one address wait, the oldest of the name with the most of them goes:
        whoever begins many logins there keeps nobody else from beginning one.
        """
        now_s = self._clock.steady_s()
        self._expire(now_s)
        place = place_of(address)
        if self._of_both[name, place] >= PER_NAME_AND_ADDRESS_MAX:
            alike = (one for one in self._all.values() if (one.name, one.place) == (name, place))
            raise _too_many(f"{PER_NAME_AND_ADDRESS_MAX} logins with this name", alike, now_s)
        there = self._of_place.get(place, {})
        if len(there) >= PER_ADDRESS_MAX:
            of_name = Counter(one.name for one in there.values())
            # Of equals max() finds the first, which is the oldest.
            self.take(max(there.values(), key=lambda one: of_name[one.name]))
        if len(self._all) >= self._max:
            raise _too_many(f"{self._max} logins", self._all.values(), now_s)
        pending = Pending(
            key=_digest(secret), name=name, place=place, text=text, ends_s=now_s + self._ttl_s
        )
        self._all[pending.key] = pending
        self._of_place.setdefault(place, {})[pending.key] = pending
        self._of_both[name, place] += 1

    def find(self, secret: str, *, name: str) -> Pending | None:
        """The one that this secret is of, if it is of that name. Raises ChallengeExpired."""
        self._expire(self._clock.steady_s())
        key = _digest(secret)
        over = self._over.get(key)
        if over is not None and over.name == name:
            raise ChallengeExpired("The challenge has expired.")
        found = self._all.get(key)
        return found if found is not None and found.name == name else None

    def take(self, pending: Pending) -> bool:
        """It is answered and never good again; False if it was so already."""
        if self._all.pop(pending.key, None) is None:
            return False
        there = self._of_place[pending.place]
        del there[pending.key]
        if not there:
            del self._of_place[pending.place]
        both = (pending.name, pending.place)
        self._of_both[both] -= 1
        if not self._of_both[both]:
            del self._of_both[both]
        return True

    def _expire(self, now_s: float) -> None:
        while self._all:
            oldest = next(iter(self._all.values()))
            if oldest.ends_s > now_s:
                break
            self.take(oldest)
            if self._remembered_s:
                self._over[oldest.key] = oldest
        while self._over:
            oldest = next(iter(self._over.values()))
            is_remembered = oldest.ends_s + self._remembered_s > now_s
            if is_remembered and len(self._over) <= self._max:
                break
            del self._over[oldest.key]


def _too_many(what: str, those: Iterable[Pending], now_s: float) -> RateLimited:
    wait_s = min(one.ends_s for one in those) - now_s
    return RateLimited(
        f"{what} wait for an answer already.",
        next="Answer one of them, or wait as long as Retry-After says.",
        retry_after_s=max(wait_s, 1.0),
    )


def _digest(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()
