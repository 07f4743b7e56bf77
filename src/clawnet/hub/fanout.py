"""Fan-out: each committed event to every live subscription it concerns, as ready bytes.

Frames are built once for each shape, joined once for each channel and turn,
and the same bytes are written to every subscriber; the loop over subscribers
holds nothing but the write. Measured: joining is worth 30 to 40 times, any
work per subscriber costs it back. A session that follows one channel is
"sole" and takes part in that; one that follows several gets its frames
merged by seq instead.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from clawnet.core.events import Stored, quote_name
from clawnet.core.filters import PatternIndex
from clawnet.core.live import Shape, StoredShape
from clawnet.hub.sessions import Session
from clawnet.hub.storage import Storage
from clawnet.hub.subscriptions import Subscription

Write = Callable[[bytes], None]

_log = logging.getLogger(__name__)


class Route:
    """Who follows one channel live.

    `sole` holds, for each way the event looks (shape, alias), the writes of
    sessions that follow nothing else; `mixed` counts the exact subscriptions
    of the others. Pattern followers are World's to find.
    """

    __slots__ = ("mixed", "sole", "waiters")

    def __init__(self) -> None:
        self.sole: dict[tuple[str, str], dict[Session, Write]] = {}
        self.mixed: dict[Session, int] = {}
        self.waiters: set[asyncio.Future[None]] = set()

    @property
    def is_empty(self) -> bool:
        return not (self.sole or self.mixed or self.waiters)


class World:
    """The live side of one world."""

    __slots__ = ("_followers", "members", "names", "names_listed", "patterns", "routes")

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.patterns: PatternIndex[Subscription] = PatternIndex()
        self._followers = 0
        self.members: dict[str, tuple[Session, ...]] = {}
        """What find_members() found; emptied as soon as patterns or rights change, so that no
        session outlives its connection in here."""
        self.names: set[str] = set()
        """Every channel that was ever published on; patterns choose from these."""
        self.names_listed: list[str] = []
        """The same, in the order in which they came; only ever added to."""

    def learn(self, names: Iterable[str]) -> None:
        """Take up names that may be new."""
        for name in names:
            if name not in self.names:
                self.names.add(name)
                self.names_listed.append(name)

    def route(self, name: str) -> Route:
        route = self.routes.get(name)
        if route is None:
            route = self.routes[name] = Route()
        return route

    def find_members(self, name: str) -> tuple[Session, ...]:
        """The sessions to which a channel's events go merged: `mixed` and pattern followers."""
        route = self.routes.get(name)
        if route is None and not self._followers:
            return ()
        found = dict.fromkeys(route.mixed) if route is not None else {}
        for subscription in self.patterns.match(name):
            if subscription.may_read(name):
                found[subscription.session] = None
        members = self.members[name] = tuple(found)
        return members

    def patterns_changed(self, *, by: int = 0) -> None:
        """Forget all members: `by` pattern followers came, or rights changed."""
        self._followers += by
        self.members.clear()

    def subscribers(self, name: str) -> int:
        route = self.routes.get(name)
        sole = 0 if route is None else sum(map(len, route.sole.values()))
        members = self.members.get(name)
        return sole + len(self.find_members(name) if members is None else members)


class Fanout:
    """Delivers groups in order. Everything here runs on the loop and never waits."""

    def __init__(self, *, log_epoch: Callable[[], str]) -> None:
        self.position = 0
        """The seq up to which events have been handed to sessions."""
        self.delivered = 0
        self._worlds: dict[str, World] = {}
        self._log_epoch = log_epoch
        self._direct: dict[str, StoredShape | None] = {}
        self._is_delivering = False
        self._paused: list[Session] = []

    def world(self, world: str) -> World:
        found = self._worlds.get(world)
        if found is None:
            found = self._worlds[world] = World()
        return found

    # --- membership ---------------------------------------------------------

    def join(self, session: Session, name: str) -> None:
        """Let a session get a channel's events live, once more."""
        world = self.world(session.caller.world)
        route = world.route(name)
        if session.is_sole:
            route.sole.setdefault(session.look(name), {})[session] = session.outlet.write
        else:
            route.mixed[session] = route.mixed.get(session, 0) + 1
            world.members.pop(name, None)

    def leave(self, session: Session, name: str) -> None:
        """Take back one join()."""
        world = self.world(session.caller.world)
        route = world.routes.get(name)
        if route is None:
            return
        if session.is_sole:
            look = session.look(name)
            writes = route.sole.get(look, {})
            writes.pop(session, None)
            if not writes:
                route.sole.pop(look, None)
        else:
            count = route.mixed.get(session, 0) - 1
            if count > 0:
                route.mixed[session] = count
            else:
                route.mixed.pop(session, None)
        # Also where only this route held it: a name that nobody follows leaves nothing.
        world.members.pop(name, None)
        if route.is_empty:
            # Names come from outside: a route that nobody follows must not stay.
            del world.routes[name]

    def join_pattern(self, subscription: Subscription, pattern: str) -> None:
        world = self.world(subscription.session.caller.world)
        world.patterns.add(pattern, subscription)
        world.patterns_changed(by=1)

    def leave_pattern(self, subscription: Subscription, pattern: str) -> None:
        world = self.world(subscription.session.caller.world)
        world.patterns.remove(pattern, subscription)
        world.patterns_changed(by=-1)

    def rights_changed(self, world: str) -> None:
        """Ask the rights of pattern followers anew, channel by channel, from the next event on."""
        self.world(world).patterns_changed()

    def wait(self, world: str, name: str) -> asyncio.Future[None]:
        """A future that ends with the channel's next event. Give it to forget() afterwards."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.world(world).route(name).waiters.add(waiter)
        return waiter

    def forget(self, world: str, name: str, waiter: asyncio.Future[None]) -> None:
        routes = self.world(world).routes
        route = routes.get(name)
        if route is not None:
            route.waiters.discard(waiter)
            if route.is_empty:
                del routes[name]
                self.world(world).members.pop(name, None)

    def subscribers(self, world: str, name: str) -> int:
        return self.world(world).subscribers(name)

    async def load(self, storage: Storage, worlds: Iterable[str]) -> None:
        """Learn the names that patterns choose from."""
        for world in worlds:
            found = self.world(world)
            after = ""
            while True:
                page = await storage.read(
                    lambda log, w=world, a=after: log.channels(w, after=a, limit=1_000)  # type: ignore[misc]
                )
                if not page:
                    break
                found.learn(head.name for head in page)
                after = page[-1].name

    # --- delivery -----------------------------------------------------------

    def deliver(self, events: list[Stored]) -> None:
        """Hand a group's events to all live subscribers. Must not be interleaved; no await."""
        if not events:
            return
        epoch = self._log_epoch()
        frames = _Frames(epoch, self._direct)
        by_route: dict[Route, list[Stored]] = {}
        merged: list[tuple[Stored, tuple[Session, ...]]] = []
        for event in events:
            world = self.world(event.world)
            if event.channel not in world.names:
                world.learn((event.channel,))
            route = world.routes.get(event.channel)
            members = world.members.get(event.channel)
            if members is None:
                members = world.find_members(event.channel)
            if members:
                merged.append((event, members))
            if route is not None and (route.sole or route.waiters):
                by_route.setdefault(route, []).append(event)
        self.position = events[-1].seq
        self._is_delivering = True
        for route, batch in by_route.items():
            for (shape_key, alias), writes in route.sole.items():
                shape = next(iter(writes)).shape_of(batch[0].channel)
                joined = b"".join([frames.get(e, shape, shape_key, alias, True) for e in batch])
                for write in writes.values():
                    write(joined)
                self.delivered += len(batch) * len(writes)
            if route.waiters:
                _wake(route.waiters)
        if merged:
            self._deliver_merged(merged, frames)
        self._is_delivering = False
        if self._paused:
            paused, self._paused = self._paused, []
            for session in paused:
                session.fall_back()

    def _deliver_merged(
        self, merged: list[tuple[Stored, tuple[Session, ...]]], frames: _Frames
    ) -> None:
        staged: dict[Session, list[bytes]] = {}
        for event, members in merged:
            for session in members:
                frame = frames.get(
                    event,
                    session.shape,
                    session.shape.key,
                    session.aliases.get(event.channel, ""),
                    session.has_cursor,
                )
                staged.setdefault(session, []).append(frame)
        for session, parts in staged.items():
            session.outlet.write(b"".join(parts))
            self.delivered += len(parts)

    def signal(self, world: str, name: str, body: bytes) -> None:
        """Hand a signal (an envelope without position) to who is live; others never see it."""
        found = self.world(world)
        route = found.routes.get(name) or Route()
        self._is_delivering = True
        for (_, alias), writes in route.sole.items():
            frame = next(iter(writes)).shape_of(name).frame(_renamed(body, name, alias), None)
            for write in writes.values():
                write(frame)
        for session in found.find_members(name):
            shown = _renamed(body, name, session.aliases.get(name, ""))
            session.outlet.write(session.shape.frame(shown, None))
        self._is_delivering = False
        paused, self._paused = self._paused, []
        for session in paused:
            session.fall_back()

    def paused(self, session: Session) -> None:
        """A session's transport is full: it falls back to reading the log.

        While a group is being delivered this is put off to its end, so that
        the session's position is the same on every channel.
        """
        if self._is_delivering:
            self._paused.append(session)
        else:
            session.fall_back()


class _Frames:
    """The frames of one delivery, each built once."""

    __slots__ = ("_bodies", "_built", "_direct", "_epoch")

    def __init__(self, epoch: str, direct: dict[str, StoredShape | None]) -> None:
        self._epoch = epoch
        # Which shapes need no envelope, by their keys: to ask each time would cost as much.
        self._direct = direct
        self._bodies: dict[tuple[int, str], bytes] = {}
        self._built: dict[tuple[int, str, str, bool], bytes] = {}

    def get(
        self, event: Stored, shape: Shape, shape_key: str, alias: str, has_cursor: bool
    ) -> bytes:
        key = (event.seq, shape_key, alias, has_cursor)
        frame = self._built.get(key)
        if frame is None:
            if shape_key not in self._direct:
                self._direct[shape_key] = shape if isinstance(shape, StoredShape) else None
            direct = self._direct[shape_key]
            if direct is not None:
                frame = direct.frame_of(event, alias or event.channel)
                if frame is not None:
                    self._built[key] = frame
                    return frame
            body = self._bodies.get((event.seq, alias))
            if body is None:
                body = event.text(alias or event.channel).encode()
                self._bodies[(event.seq, alias)] = body
            cursor = f"{self._epoch}-{event.seq}".encode() if has_cursor else None
            try:
                frame = shape.frame(body, cursor)
            except Exception:  # a door's defect must not cost other readers and features the event
                _log.exception("an event cannot be shown as %s", shape_key)
                frame = b""
            self._built[key] = frame
        return frame


def _renamed(body: bytes, name: str, alias: str) -> bytes:
    """A signal under the name its reader used; the name is the first thing in it."""
    if not alias:
        return body
    return body.replace(quote_name(name).encode(), quote_name(alias).encode(), 1)


def _wake(waiters: Iterable[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
