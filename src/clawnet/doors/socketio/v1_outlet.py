"""What stands before a v1 connection's link: what of the shared frames is not for it as it is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import msgspec

from clawnet.doors.socketio.outlet import BeforeLink
from clawnet.doors.socketio.packets import bounds
from clawnet.doors.socketio.talk import Link, Talk
from clawnet.doors.socketio.v1_shapes import COMMAND, STORED, TASKS_MOVED

GIVEN_MAX = 1_024
"""So many commands are remembered; what is answered as a connection begins is fewer."""


class Outlet1(BeforeLink):
    """What says that tasks moved becomes the list of them, and a task that was given as the
    connection began is not given by its event as well."""

    __slots__ = ("_given", "_on_tasks")

    def __init__(self, link: Link, talk: Talk, *, on_tasks: Callable[[], None]) -> None:
        super().__init__(link, talk)
        self._on_tasks = on_tasks
        self._given: OrderedDict[tuple[str, int], None] = OrderedDict()

    def is_given(self, task_id: str, fence: int) -> bool:
        """Whether this dispatch was given to this connection; from now on it was."""
        key = (task_id, fence)
        if key in self._given:
            return True
        self._given[key] = None
        if len(self._given) > GIVEN_MAX:
            self._given.popitem(last=False)
        return False

    def write(self, frames: bytes) -> None:
        if TASKS_MOVED in frames or COMMAND in frames:
            frames = self._own(frames)
        if frames:
            self._link.write(frames)

    def _own(self, frames: bytes) -> bytes:
        kept: list[bytes] = []
        for at, start, end in bounds(frames):
            said = frames[start:end]
            if said == TASKS_MOVED:
                self._on_tasks()
                continue
            if said.startswith(COMMAND):
                _, command = msgspec.json.decode(said[2:], type=tuple[str, _Command])
                # What is announced again is given again: nobody acknowledged it.
                is_double = self.is_given(command.id, command.fence)
                if is_double and said.endswith(STORED):
                    continue
            kept.append(frames[at:end])
        return b"".join(kept)


class _Command(msgspec.Struct, frozen=True):
    id: str
    fence: int
