"""Tells the service manager how the hub is: sd_notify(3), without its library.

    READY=1      it listens
    RELOADING=1  SIGHUP arrived; READY=1 follows
    STOPPING=1   it stops in order
    WATCHDOG=1   the loop turns; sent twice per interval, if the manager set one
    STATUS=      one line for `systemctl status`

Without NOTIFY_SOCKET nothing is sent. A message that cannot be sent is no
reason for anything: the manager draws its own conclusion.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, MutableMapping

_log = logging.getLogger(__name__)


class Notifier:
    """One manager's socket. Messages are datagrams and never wait."""

    def __init__(self, address: str | None, *, watchdog_s: float | None = None) -> None:
        self._socket: socket.socket | None = None
        self._watchdog_s = watchdog_s
        self._timer: asyncio.TimerHandle | None = None
        self._status: Callable[[], str] = str
        self._said = ""
        if address and address[0] in "/@" and hasattr(socket, "AF_UNIX"):
            self._socket = _connected(address)

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> Notifier:
        """Takes NOTIFY_SOCKET and WATCHDOG_* out, so that no child speaks for this process."""
        address = environment.pop("NOTIFY_SOCKET", None)
        interval = environment.pop("WATCHDOG_USEC", "")
        process = environment.pop("WATCHDOG_PID", "")
        is_ours = not process or process == str(os.getpid())
        is_set = interval.isascii() and interval.isdecimal() and int(interval) > 0
        return cls(address, watchdog_s=int(interval) / 1e6 if is_set and is_ours else None)

    @property
    def is_heard(self) -> bool:
        """Whether there is a manager."""
        return self._socket is not None

    def ready(self, status: Callable[[], str]) -> None:
        """It listens; from now on the loop proves that it turns."""
        self._status = status
        self._said = status()
        self._send("READY=1", f"STATUS={self._said}")
        if self.is_heard and self._watchdog_s is not None:
            self._later()

    def reloading(self) -> None:
        """A reload begins; reloaded() ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1_000}")

    def reloaded(self) -> None:
        """A reload has ended, well or not."""
        self._send("READY=1")

    def stopping(self) -> None:
        """It stops. Repeating it is no error."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._send("STOPPING=1", "STATUS=stopping")

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _later(self) -> None:
        assert self._watchdog_s is not None, "only asked for with an interval"
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._watchdog_s / 2, self._alive)

    def _alive(self) -> None:
        lines = ["WATCHDOG=1"]
        status = self._status()
        if status != self._said:
            self._said = status
            lines.append(f"STATUS={status}")
        self._send(*lines)
        self._later()

    def _send(self, *lines: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.send("\n".join(lines).encode())
        except OSError as error:
            _log.debug("the service manager was not told %s: %s", lines[0], error)


def _connected(address: str) -> socket.socket | None:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    made.setblocking(False)
    try:
        # An abstract socket's name begins with a zero byte, which the environment cannot hold.
        made.connect("\0" + address[1:] if address.startswith("@") else address)
    except OSError as error:
        _log.warning("NOTIFY_SOCKET cannot be used: %s", error)
        made.close()
        return None
    return made
