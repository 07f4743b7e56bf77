"""Who is connected by this door, and on which channels: for presence, joins and the server API.

Channels are called by their own names here, never by an alias.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clawnet.doors.centrifugo.joins import Watchers
from clawnet.doors.centrifugo.wire import ClientInfo

if TYPE_CHECKING:
    from clawnet.doors.centrifugo.client import Client
    from clawnet.doors.centrifugo.subs import Plan

_Place = tuple[str, str]


class Attendance:
    """Who follows one channel, and to whom of them it is told who comes and goes."""

    __slots__ = ("members", "watchers")

    def __init__(self) -> None:
        self.members: dict[Client, None] = {}
        self.watchers: Watchers | None = None
        """Most channels have none."""


class Pending:
    """Subscriptions that were admitted and wait for the log, so that they can be ended before
    they begin."""

    def __init__(self) -> None:
        self._plans: dict[Client, list[Plan]] = {}

    def add(self, client: Client, plan: Plan) -> None:
        """A plan is about to wait. Idempotent."""
        plans = self._plans.setdefault(client, [])
        if plan not in plans:
            plans.append(plan)

    def discard(self, client: Client, plan: Plan) -> None:
        """It begins, or never will. Idempotent."""
        plans = self._plans.get(client)
        if plans is not None and plan in plans:
            plans.remove(plan)
            if not plans:
                del self._plans[client]

    def forget(self, client: Client) -> None:
        """A client is gone."""
        self._plans.pop(client, None)

    def cancel(self, client: Client, name: str) -> bool:
        """End what waits of a channel, by the channel's own name; whether there was anything."""
        found = [plan for plan in self._plans.get(client, ()) if plan.channel.name == name]
        for plan in found:
            plan.is_cancelled = True
        return bool(found)


class Clients:
    """The clients of all transports that have connected."""

    def __init__(self) -> None:
        self._by_id: dict[str, Client] = {}
        self._by_session: dict[str, Client] = {}
        self._by_user: dict[tuple[str, str], dict[Client, None]] = {}
        self._channels: dict[_Place, Attendance] = {}
        self.num_subs = 0
        self.pending = Pending()

    # --- clients ------------------------------------------------------------

    def add(self, client: Client) -> None:
        """A client has connected."""
        self._by_id[client.id] = client
        if client.session_id:
            self._by_session[client.session_id] = client
        self._by_user.setdefault((client.world, client.user), {})[client] = None

    def discard(self, client: Client) -> None:
        """A client is gone. One that never was added is no error."""
        if self._by_id.pop(client.id, None) is None:
            return
        self._by_session.pop(client.session_id, None)
        self.pending.forget(client)
        key = (client.world, client.user)
        peers = self._by_user[key]
        del peers[client]
        if not peers:
            del self._by_user[key]

    def of_user(self, world: str, user: str) -> list[Client]:
        """The clients of a user, as the wire calls it."""
        return list(self._by_user.get((world, user), ()))

    def by_id(self, client_id: str) -> Client | None:
        return self._by_id.get(client_id)

    def by_session(self, session_id: str) -> Client | None:
        return self._by_session.get(session_id)

    def all(self) -> list[Client]:
        return list(self._by_id.values())

    @property
    def num_clients(self) -> int:
        return len(self._by_id)

    @property
    def num_users(self) -> int:
        return len(self._by_user)

    @property
    def num_channels(self) -> int:
        return len(self._channels)

    # --- channels -----------------------------------------------------------

    def join(self, client: Client, name: str, *, shown: str, is_watching: bool) -> None:
        """A client follows a channel. Who watches it is told by announce()."""
        attendance = self._channels.get((client.world, name))
        if attendance is None:
            attendance = self._channels[client.world, name] = Attendance()
        attendance.members[client] = None
        if is_watching:
            if attendance.watchers is None:
                attendance.watchers = Watchers()
            attendance.watchers.add(client, shown)
        self.num_subs += 1

    def leave(self, client: Client, name: str) -> None:
        """A client follows a channel no more."""
        key = (client.world, name)
        attendance = self._channels.get(key)
        if attendance is None or client not in attendance.members:
            return
        del attendance.members[client]
        self.unwatch(client, name)
        if not attendance.members:
            # Names come from outside: a channel that nobody follows must not stay.
            del self._channels[key]
        self.num_subs -= 1

    def unwatch(self, client: Client, name: str) -> None:
        """A client that follows a channel is told no more who comes and goes."""
        attendance = self._channels.get((client.world, name))
        if attendance is not None and attendance.watchers is not None:
            attendance.watchers.clients.pop(client, None)
            if not attendance.watchers.clients:
                attendance.watchers = None

    def announce(self, client: Client, name: str, info: ClientInfo, *, is_join: bool) -> None:
        """Tell who watches a channel that a client came or went."""
        attendance = self._channels.get((client.world, name))
        if attendance is not None and attendance.watchers is not None:
            attendance.watchers.note(info, is_join=is_join)

    def presence(self, world: str, channel: str) -> dict[str, ClientInfo]:
        """Who is on a channel, by client id."""
        attendance = self._channels.get((world, channel))
        if attendance is None:
            return {}
        return {
            client.id: client.info_on(channel)
            for client in attendance.members
            if client.is_shown_on(channel)
        }

    def count(self, world: str, channel: str) -> int:
        """How many clients follow a channel, shown or not."""
        attendance = self._channels.get((world, channel))
        return 0 if attendance is None else len(attendance.members)

    def stats(self, world: str, channel: str) -> tuple[int, int]:
        """How many clients are on a channel, and how many users they are."""
        attendance = self._channels.get((world, channel))
        if attendance is None:
            return 0, 0
        shown = [client for client in attendance.members if client.is_shown_on(channel)]
        return len(shown), len({client.user for client in shown})

    def channels(self, world: str) -> dict[str, int]:
        """Every channel that somebody follows, with the number of clients."""
        return {
            name: len(attendance.members)
            for (of_world, name), attendance in self._channels.items()
            if of_world == world
        }
