"""Publications as patches of the one before ("delta": fossil), for readers who asked for it.

A channel's readers are in two groups. `fresh` ones are given whole texts; with the first one that
comes live they join the `warm` ones, who are given patches. Whoever is warm was given every event
since, live or from the log, so a patch is made exactly if the event before it is the one that was
made for the warm last; in any doubt the text is whole.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from weakref import WeakSet

import msgspec
from msgspec import Raw

from clawnet.core.channels import canonical
from clawnet.core.live import Shape
from clawnet.doors.centrifugo import fossil
from clawnet.doors.centrifugo.shapes import publication_of
from clawnet.doors.centrifugo.wire import Encoding, Publication
from clawnet.hub.sessions import Session
from clawnet.hub.subscriptions import State, Subscription

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

PATCHED_MAX_BYTES = 256 * 1024
"""A longer text is always sent whole: its checksum alone would hold up the loop."""
KEPT_MAX_BYTES = 32 * 1024 * 1024
"""How much of texts is kept to make patches of; those that rested longest are forgotten first."""

_OVERHEAD_BYTES = 512
"""What keeping a text costs beside it."""

_Key = tuple[str, str]
"""A world and a channel, as its readers call it."""


class _Place(msgspec.Struct, frozen=True, gc=False):
    world: str
    channel: str
    epoch: str = ""
    offset: int = 0
    """0 is a signal's: it has none."""


class _Base(msgspec.Struct, frozen=True, gc=False):
    """A text that every warm reader of a channel has."""

    epoch: str
    offset: int
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data) + _OVERHEAD_BYTES


class _Readers:
    """Who follows a channel here, and what the next patch is made of."""

    __slots__ = ("base", "fresh", "warm")

    def __init__(self) -> None:
        self.fresh: WeakSet[Subscription] = WeakSet()
        self.warm: WeakSet[Subscription] = WeakSet()
        self.base: _Base | None = None

    @property
    def is_gone(self) -> bool:
        return all(s.state is State.ENDED for some in (self.fresh, self.warm) for s in some)


_decode_place = msgspec.json.Decoder(_Place).decode


class Deltas:
    """The shapes of one kind of connection (format, framing, raw or not) for such readers.

    A reader follows with `fresh`, and started() is called in the same turn of the loop.
    """

    def __init__(self, encoding: Encoding, is_raw: bool, hub: Hub) -> None:
        self.encoding = encoding
        self.is_raw = is_raw
        self.hub = hub
        # In JSON a patch is a string, and so then is every text beside it.
        self.is_text = not encoding.key.startswith("protobuf")
        key = f"{encoding.key}{' raw' if is_raw else ''} delta"
        self.full: Shape = Full(self, key=f"{key} full")
        self.fresh: Shape = Fresh(self, key=f"{key} fresh")
        self.warm: Shape = Warm(self, key=f"{key} warm")
        self._readers: dict[_Key, _Readers] = {}
        """By when they were last given something, the longest ago first."""
        self._sweep_at = 64
        self._kept_bytes = 0
        self._promoted: list[tuple[_Key, Subscription, _Base | None]] = []
        """Who was given a whole text in this turn."""

    # --- for who subscribes -------------------------------------------------

    def started(self, session: Session, name: str) -> None:
        """A session has just followed a channel in the shape `fresh`."""
        subscription = next(reversed(session.subscriptions.values()))
        assert subscription.exact.keys() == {canonical(name)}, "called in the turn of follow()"
        self._readers.setdefault((session.caller.world, name), _Readers()).fresh.add(subscription)
        if len(self._readers) > self._sweep_at:
            self._sweep()

    def text(self, publication: Publication) -> Publication:
        """A whole publication as such a reader gets it; for what stands in an answer."""
        if not self.is_text:
            return publication
        return msgspec.structs.replace(publication, data=_string(bytes(publication.data)))

    # --- for the shapes -----------------------------------------------------

    def whole(self, body: bytes) -> bytes:
        """The frame of an event that no patch is made of."""
        name, publication = publication_of(body, is_raw=self.is_raw, hub=self.hub)
        return self.encoding.publication(name, self.text(publication))

    def first(self, body: bytes) -> bytes:
        """The frame for the fresh readers of a channel; those who are live are then promoted."""
        name, publication = publication_of(body, is_raw=self.is_raw, hub=self.hub)
        place = _decode_place(body)
        key = (place.world, place.channel)
        readers = self._readers.get(key)
        if readers is not None:
            if place.offset:
                base = _Base(place.epoch, place.offset, bytes(publication.data))
                self._promote_soon(key, readers, base)
            else:
                self._signalled(key, readers)
        return self.encoding.publication(name, self.text(publication))

    def next(self, body: bytes) -> bytes:
        """The frame for the warm readers of a channel: a patch where that is shorter."""
        name, publication = publication_of(body, is_raw=self.is_raw, hub=self.hub)
        place = _decode_place(body)
        key = (place.world, place.channel)
        data = bytes(publication.data)
        readers = self._readers.get(key)
        patch = None
        if readers is not None:
            patch = self._patch(readers.base, place, data)
            if place.offset:
                self._keep(key, readers, _Base(place.epoch, place.offset, data))
            else:
                self._signalled(key, readers)
        if patch is None:
            return self.encoding.publication(name, self.text(publication))
        shown = _string(patch) if self.is_text else Raw(patch)
        return self.encoding.publication(
            name, msgspec.structs.replace(publication, data=shown, delta=True)
        )

    # --- inside -------------------------------------------------------------

    def _patch(self, base: _Base | None, place: _Place, data: bytes) -> bytes | None:
        """The patch that makes the text of what the warm have; None if there is no shorter one."""
        if base is None or (base.epoch, base.offset + 1) != (place.epoch, place.offset):
            return None
        if max(len(base.data), len(data)) > PATCHED_MAX_BYTES:
            return None
        patch = fossil.create(base.data, data, is_text=self.is_text)
        return patch if len(patch) < len(data) else None

    def _signalled(self, key: _Key, readers: _Readers) -> None:
        """Whoever is live was given a signal, and would apply a patch to that: the next text is
        whole for all."""
        self._promoted = [(k, s, None if k == key else base) for k, s, base in self._promoted]
        self._keep(key, readers, None)

    def _promote_soon(self, key: _Key, readers: _Readers, base: _Base) -> None:
        live = [s for s in readers.fresh if s.state is State.LIVE]
        if live and not self._promoted:
            # Not now: the loop over the channel's subscribers is running.
            asyncio.get_running_loop().call_soon(self._promote)
        self._promoted += [(key, subscription, base) for subscription in live]

    def _promote(self) -> None:
        """Let those who have a whole text be given patches. Nothing was delivered to them since
        that is not in here, too: one who fell back meanwhile is given it by the log."""
        promoted, self._promoted = self._promoted, []
        for key, subscription, base in promoted:
            readers = self._readers.get(key)
            if readers is None or subscription.state is State.ENDED:
                continue
            now = readers.base
            if base and (now is None or now.epoch != base.epoch or now.offset < base.offset):
                self._keep(key, readers, base)
            if subscription in readers.fresh:
                readers.fresh.discard(subscription)
                readers.warm.add(subscription)
                subscription.session.reshape(canonical(key[1]), self.warm)

    def _keep(self, key: _Key, readers: _Readers, base: _Base | None) -> None:
        """Make the next patch of this text; of none if it is None."""
        if readers.base is not None:
            self._kept_bytes -= readers.base.size
        readers.base = base
        self._readers[key] = self._readers.pop(key)
        if base is None:
            return
        self._kept_bytes += base.size
        if self._kept_bytes > KEPT_MAX_BYTES:
            self._sweep()
            for resting in self._readers.values():
                if self._kept_bytes <= KEPT_MAX_BYTES:
                    break
                if resting.base is not None:
                    self._kept_bytes -= resting.base.size
                    resting.base = None

    def _sweep(self) -> None:
        """Forget channels that nobody follows here any more; names come from outside."""
        self._readers = {k: readers for k, readers in self._readers.items() if not readers.is_gone}
        self._sweep_at = 64 + 2 * len(self._readers)
        kept = [readers.base.size for readers in self._readers.values() if readers.base]
        self._kept_bytes = sum(kept)


class Full:
    """Whole texts."""

    def __init__(self, deltas: Deltas, *, key: str) -> None:
        self.key = key
        self._deltas = deltas

    def frame(self, body: bytes, cursor: bytes | None) -> bytes:
        return self._deltas.whole(body)


class Fresh:
    """Whole texts, for those who have none yet."""

    def __init__(self, deltas: Deltas, *, key: str) -> None:
        self.key = key
        self.replayed = deltas.full
        self._deltas = deltas

    def frame(self, body: bytes, cursor: bytes | None) -> bytes:
        return self._deltas.first(body)


class Warm:
    """Patches of the event before."""

    def __init__(self, deltas: Deltas, *, key: str) -> None:
        self.key = key
        self.replayed = deltas.full
        self._deltas = deltas

    def frame(self, body: bytes, cursor: bytes | None) -> bytes:
        return self._deltas.next(body)


def _string(data: bytes) -> Raw:
    """A text as a JSON string."""
    return Raw(msgspec.json.encode(data.decode()))
