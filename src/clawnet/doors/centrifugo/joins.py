"""Who came to a channel and who went, told to those who watch it.

Told one by one, each of them would cost as many writes as the channel has watchers, and to come
and go costs its client next to nothing. So they are collected for a moment, and whoever came and
went within it is not told of at all.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from itertools import islice
from typing import TYPE_CHECKING

from clawnet.doors.centrifugo.wire import ClientInfo, Encoding, Presence, Push

if TYPE_CHECKING:
    from clawnet.doors.centrifugo.client import Client

APART_S = 0.05
"""How long after it was told something a channel's next is collected."""
TOLD_MAX = 256
"""How many joins and leaves are written together."""
WATCHERS_PER_TURN = 256


class Watchers:
    """Who is told of one channel's joins and leaves, and what is to be told."""

    __slots__ = ("_came", "_count", "_is_due", "_news", "_ready_s", "clients")

    def __init__(self) -> None:
        self.clients: dict[Client, tuple[str, int]] = {}
        """With the name that each uses, and how much had happened when it came."""
        self._count = 0
        self._news: dict[int, tuple[ClientInfo, bool]] = {}
        """By when it happened: who, and whether it was a join."""
        self._came: dict[str, int] = {}
        """The joins among them, by the client's id."""
        self._is_due = False
        self._ready_s = 0.0

    def add(self, client: Client, shown: str) -> None:
        """It is told of what happens from now on."""
        self.clients[client] = (shown, self._count)

    def note(self, info: ClientInfo, *, is_join: bool) -> None:
        """Have it told, in the next turn of the loop at the earliest."""
        came_at = self._came.pop(info.client, None)
        if came_at is not None and not is_join:
            del self._news[came_at]
            return
        self._count += 1
        self._news[self._count] = (info, is_join)
        if is_join:
            self._came[info.client] = self._count
        self._tell_soon()

    def _tell_soon(self) -> None:
        if self._is_due or not self._news:
            return
        self._is_due = True
        loop = asyncio.get_running_loop()
        if loop.time() >= self._ready_s:
            loop.call_soon(self._tell)
        else:
            loop.call_at(self._ready_s, self._tell)

    def _tell(self) -> None:
        news = dict(islice(self._news.items(), TOLD_MAX))
        for number, (info, _) in news.items():
            del self._news[number]
            if self._came.get(info.client) == number:
                del self._came[info.client]
        self._write(_Frames(news), list(self.clients), 0)

    def _write(self, frames: _Frames, clients: list[Client], start: int) -> None:
        """To some in each turn of the loop."""
        stop = start + WATCHERS_PER_TURN
        for client in clients[start:stop]:
            # As any signal: whoever lags is not given it, and nothing piles up for it.
            if client in self.clients and client.takes_signals:
                shown, since = self.clients[client]
                found = frames.behind(since, client.wire.encoding, shown)
                if found:
                    client.wire.say(found)
        loop = asyncio.get_running_loop()
        if stop < len(clients):
            loop.call_soon(self._write, frames, clients, stop)
            return
        self._ready_s = loop.time() + APART_S
        self._is_due = False
        self._tell_soon()


class _Frames:
    """What is told together, built once for each encoding and name."""

    __slots__ = ("_built", "_news", "_numbers", "_whole")

    def __init__(self, news: dict[int, tuple[ClientInfo, bool]]) -> None:
        self._news = news
        self._numbers = list(news)
        self._built: dict[tuple[str, str], list[bytes]] = {}
        self._whole: dict[tuple[str, str], bytes] = {}

    def behind(self, since: int, encoding: Encoding, shown: str) -> bytes:
        """The frames of what happened later than that."""
        key = (encoding.key, shown)
        built = self._built.get(key)
        if built is None:
            built = self._built[key] = [
                encoding.push(_push(shown, info, is_join=is_join))
                for info, is_join in self._news.values()
            ]
            self._whole[key] = b"".join(built)
        if not self._numbers or since < self._numbers[0]:
            return self._whole[key]
        return b"".join(built[bisect_right(self._numbers, since) :])


def _push(shown: str, info: ClientInfo, *, is_join: bool) -> Push:
    presence = Presence(info=info)
    return Push(channel=shown, join=presence) if is_join else Push(channel=shown, leave=presence)
