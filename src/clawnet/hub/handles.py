"""Who has, had and may take which name: the index behind unique ids and handles.

An account's id is its own for ever, its handle while it has it, and a handle it gave up for
HELD_S more, so that nobody is written to as the one who had the name yesterday. Names that look
alike are one name here (core.handles).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import msgspec

from clawnet.core.errors import Conflict
from clawnet.core.handles import fold, keys
from clawnet.core.times import rfc3339
from clawnet.core.units import Delete, Put
from clawnet.hub.lookalikes import lookalikes_of

HELD_S = 30 * 86_400
HELD_PER_ACCOUNT_MAX = 20
"""So many names an account may give up within HELD_S: enough for who cannot decide, too few to
keep names from others."""
FORGOTTEN_PER_CHANGE_MAX = 50


class HeldHandle(msgspec.Struct, frozen=True, kw_only=True):
    """As stored under `held/<world>/<folded handle>`. `until_ms` is in trusted time."""

    world: str
    handle: str
    account: str
    until_ms: int

    @property
    def key(self) -> str:
        return held_key(self.world, self.handle)


class Claim(NamedTuple):
    """A name that is an account's, as its id, its handle or one it gave up."""

    account: str
    kind: Literal["id", "handle", "held"]
    name: str
    until_ms: int = 0


class Handles:
    """All claims in memory. Only the directory changes it."""

    def __init__(self) -> None:
        self._claims: dict[tuple[str, str], set[Claim]] = {}
        self._held: dict[str, HeldHandle] = {}
        """By their keys, those that end first in front."""
        self._held_of: dict[tuple[str, str], int] = {}

    def claim(self, world: str, claim: Claim) -> None:
        """Take up a name. It may be somebody else's too: what was stored before is not undone."""
        for key in _keys(claim.name):
            self._claims.setdefault((world, key), set()).add(claim)

    def drop(self, world: str, claim: Claim) -> None:
        """A name is no longer an account's."""
        for key in _keys(claim.name):
            claims = self._claims.get((world, key))
            if claims is not None:
                claims.discard(claim)
                if not claims:
                    del self._claims[(world, key)]

    def hold(self, held: HeldHandle) -> None:
        """Keep a name back for the account that gave it up."""
        self.let_go(held.key)
        self._held[held.key] = held
        of = (held.world, held.account)
        self._held_of[of] = self._held_of.get(of, 0) + 1
        self.claim(held.world, _claim_of(held))

    def let_go(self, key: str) -> None:
        """A name is kept back no longer."""
        held = self._held.pop(key, None)
        if held is None:
            return
        of = (held.world, held.account)
        self._held_of[of] -= 1
        if not self._held_of[of]:
            del self._held_of[of]
        self.drop(held.world, _claim_of(held))

    def held(self, world: str, handle: str) -> HeldHandle | None:
        return self._held.get(held_key(world, handle))

    def held_of(self, world: str, account: str) -> list[HeldHandle]:
        """What an account gave up and nobody else may take yet, or has not been forgotten."""
        if (world, account) not in self._held_of:
            return []
        return [h for h in self._held.values() if (h.world, h.account) == (world, account)]

    def expired(self, now_ms: int) -> Iterator[HeldHandle]:
        """A few of the names that need not be kept back any more."""
        for _, held in zip(range(FORGOTTEN_PER_CHANGE_MAX), self._held.values(), strict=False):
            if held.until_ms > now_ms:
                return
            yield held

    def other(self, world: str, name: str, *, account: str, now_ms: int) -> Claim | None:
        """A claim of another account on a name, or on one that looks like it."""
        found: Claim | None = None
        for key in _keys(name):
            for claim in self._claims.get((world, key), ()):
                if claim.account == account:
                    continue
                if claim.kind != "held":
                    return claim
                if claim.until_ms > now_ms:
                    found = claim
        return found

    def check_free(
        self, world: str, name: str, *, account: str, now_ms: int, what: str = "handle"
    ) -> None:
        """Raises Conflict if a name is another account's, looks like it, or is kept back."""
        claim = self.other(world, name, account=account, now_ms=now_ms)
        if claim is None:
            return
        shown = ascii(name)
        if fold(claim.name) != fold(name):
            raise Conflict(
                f"The {what} {shown} looks like {ascii(claim.name)}, which is another account's.",
                next=f"Choose {_article(what)} {what} that nobody takes for another's.",
                reason="looks_alike",
            )
        if claim.kind == "held":
            until = rfc3339(claim.until_ms)
            raise Conflict(
                f"The {what} {shown} was given up and is kept back for its former account until"
                f" {until}.",
                next=f"Choose another {what}, or come back after that.",
                reason="held",
                until=until,
            )
        raise Conflict(
            f"The {what} {shown} is taken.", next=f"Choose another {what}.", reason="taken"
        )

    def given_up(self, world: str, account: str, handle: str, now_ms: int) -> HeldHandle:
        """The record of a handle that its account gives up now."""
        return HeldHandle(
            world=world, handle=handle, account=account, until_ms=now_ms + HELD_S * 1_000
        )

    def forget(self, now_ms: int) -> tuple[list[HeldHandle], list[Put | Delete]]:
        """What may be dropped with the next change: the records, and what to store of it."""
        gone = list(self.expired(now_ms))
        return gone, [Delete(held.key) for held in gone]


def held_key(world: str, handle: str) -> str:
    """The key under which a handle that was given up is stored."""
    return f"held/{world}/{fold(handle)}"


def _claim_of(held: HeldHandle) -> Claim:
    return Claim(held.account, "held", held.handle, held.until_ms)


def _keys(name: str) -> frozenset[str]:
    return keys(name, lookalikes_of(name).looks)


def _article(what: str) -> str:
    return "an" if what == "id" else "a"
