"""A random load for an engine: units of several sizes, keys, state, refusals, trims."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from msgspec import structs

from clawnet.core.events import Draft, content_digest
from clawnet.core.units import Delete, Put, Unit
from clawnet.ports.log import Engine
from tests.faults.ledger import Answered, Asked, Entry, Ledger, Trimming, draft

PLACES = (
    ("main", "public.a"),
    ("main", "public.b"),
    ("main", "room.x"),
    ("other", "public.a"),
)
KEYS = ("account/ann", "account/bob", "grant/ann", "token/1")
KEPT = frozenset({"chat.message"})


class Load:
    """Asks an engine for random things and keeps the ledger; the same seed, the same questions."""

    def __init__(self, seed: int, ledger: Ledger, *, note: Callable[[Entry], None]) -> None:
        self.ledger = ledger
        self._random = Random(seed)
        self._note = note
        self._number = seed * 1_000_000

    def step(self, engine: Engine) -> None:
        """One group, or now and then a trim."""
        if self.ledger.events and self._random.random() < 0.1:
            self._trim(engine)
        else:
            self._commit(engine)

    def _commit(self, engine: Engine) -> None:
        units = tuple(self._unit() for _ in range(self._random.choice((1, 1, 2, 5))))
        self._enter(Asked(units))
        self._enter(Answered(tuple(engine.commit(units)), engine.epochs))

    def _enter(self, entry: Entry) -> None:
        self.ledger.follow(entry)
        self._note(entry)

    def _unit(self) -> Unit:
        random = self._random
        drafts = [self._draft() for _ in range(random.choice((0, 1, 1, 1, 3, 20)))]
        known = [
            seq for seq in self.ledger.by_identity.values() if seq not in self.ledger.may_be_gone
        ]
        if known and random.random() < 0.2:  # A repeat: answered with the first event.
            drafts.append(self.ledger.drafts[random.choice(known)])
        if known and random.random() < 0.1:  # The key of one event with the data of another.
            first, other = self.ledger.drafts[random.choice(known)], self._draft()
            digest = content_digest(type=first.type, data=other.data)
            drafts.append(structs.replace(first, data=other.data, digest=digest))
        count = random.choice((0, 0, 1, 2)) if drafts else 1
        changes = tuple(self._change(key) for key in random.sample(KEYS, count))
        return Unit(drafts=tuple(drafts), changes=changes)

    def _draft(self) -> Draft:
        self._number += 1
        world, channel = self._random.choice(PLACES)
        return draft(
            self._number,
            world=world,
            channel=channel,
            type=self._random.choice(("chat.message", "x.message", "x.message")),
            key=f"key-{self._number}" if self._random.random() < 0.5 else None,
            pad="p" * self._random.choice((0, 10, 100, 1_000, 9_000)),
        )

    def _change(self, key: str) -> Put | Delete:
        self._number += 1
        revision = self._random.choice(
            (None, None, self.ledger.revisions.get(key, 0) if key in self.ledger.states else 0, 7)
        )
        if self._random.random() < 0.2:
            return Delete(key, if_revision=revision)
        return Put(key, f'{{"n":{self._number}}}', if_revision=revision)

    def _trim(self, engine: Engine) -> None:
        """A trim in pieces, perhaps left unfinished. What it may take is certain beforehand."""
        retained = self.ledger.retained()
        if not retained:
            return
        if self._random.random() < 0.5:
            bound = self._random.choice(retained)
            gone = {seq for seq in retained if seq <= bound}
            gone -= {seq for seq in gone if self.ledger.drafts[seq].type in KEPT}
            self._enter(Trimming(frozenset(gone)))
            piece = engine.trim_due(bound, after_seq=0, is_due=lambda _, kind: kind not in KEPT)
            removed = piece.removed
        else:
            world, name = self._random.choice(PLACES)
            keep = self._random.choice((1, 5, 50))
            last = self.ledger.heads.get((world, name), 0)
            gone = {
                seq
                for seq in retained
                if (event := self.ledger.events[seq]).offset <= last - keep
                and (event.world, event.channel) == (world, name)
            }
            self._enter(Trimming(frozenset(gone)))
            removed = engine.trim_channel(world, name, keep=keep)
        assert removed <= len(self.ledger.may_be_gone)
