"""Wake leases: an agent can be woken as long as its own process says so, and never by a flag.

A lease lives in memory: it ends by time, with its token, and with the hub, after whose
restart the process renews it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING

from clawnet.core.callers import Caller
from clawnet.core.calls.tokens import Done
from clawnet.core.calls.wake import (
    HOW_MAX_CHARS,
    LEASE_MAX_S,
    LEASE_MIN_S,
    EndWake,
    HoldWake,
    ReadWake,
    WakeInfo,
)
from clawnet.core.errors import BadRequest, ClawError, NotFound
from clawnet.core.times import rfc3339
from clawnet.hub.accounts import need_account

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

LEASES_PER_ACCOUNT_MAX = 100
ENDED_MAX = 10_000

_Key = tuple[str, str]


class _Lease:
    """One process that can be woken. `until_s` (steady clock) is None while it holds on;
    `until_ms` is the same place on the wall's clock, as it is told."""

    __slots__ = ("caller", "how", "until_ms", "until_s")

    def __init__(
        self, how: str, until_s: float | None, until_ms: int | None, caller: Caller | None
    ) -> None:
        self.how = how
        self.until_s = until_s
        self.until_ms = until_ms
        self.caller = caller


class Leases:
    """All leases of the hub, and when each account's last one ended."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._held: dict[_Key, dict[str, _Lease]] = {}
        self._ended: dict[_Key, int] = {}
        """When an account's last lease ended, ms."""
        self._numbers = count(1)
        self.started_ms = hub.clock.wall_ms()

    def register(self) -> None:
        """Register the calls of core.calls.wake."""
        self._hub.handle(HoldWake, self.hold_for)
        self._hub.handle(EndWake, self.end)
        self._hub.handle(ReadWake, self.read)

    @contextmanager
    def hold(self, world: str, account: str, *, how: str) -> Iterator[None]:
        """A lease for as long as the block runs: a process of the account is waiting there."""
        name = f"held {next(self._numbers)}"
        self._put((world, account), name, _Lease(how, None, None, None))
        try:
            yield
        finally:
            self._end((world, account), name)

    async def hold_for(self, call: HoldWake, caller: Caller) -> WakeInfo:
        """Hold or renew the lease of the caller's token. Raises BadRequest."""
        account = need_account(caller)
        caller.need("events:read")
        if not LEASE_MIN_S <= call.ttl_s <= LEASE_MAX_S:
            raise BadRequest(
                f"ttl_s must be {LEASE_MIN_S:g} to {LEASE_MAX_S:g}.",
                next="Hold it for 30 s and renew it every 10 s.",
            )
        if not call.how or len(call.how) > HOW_MAX_CHARS or not call.how.isprintable():
            raise BadRequest(
                f"how must be 1 to {HOW_MAX_CHARS} printable characters.",
                next="Name the process, such as claw wake.",
            )
        key = (caller.world, account)
        self.sweep_account(key)
        held = self._held.get(key, {})
        name = caller.token_id or "hub"
        if name not in held and len(held) >= LEASES_PER_ACCOUNT_MAX:
            raise BadRequest(
                f"An account holds at most {LEASES_PER_ACCOUNT_MAX} wake leases.",
                next="End some of the processes that hold one, or wait until theirs are over.",
            )
        clock = self._hub.clock
        until_ms = clock.wall_ms() + round(call.ttl_s * 1000)
        self._put(key, name, _Lease(call.how, clock.steady_s() + call.ttl_s, until_ms, caller))
        return self.info(*key)

    async def end(self, call: EndWake, caller: Caller) -> Done:
        """End the lease of the caller's token, if there is one."""
        key = (caller.world, need_account(caller))
        name = caller.token_id or "hub"
        is_held = name in self._held.get(key, {})
        self._end(key, name)
        return Done(changed=is_held)

    async def read(self, call: ReadWake, caller: Caller) -> WakeInfo:
        """Raises NotFound for what is no account of the caller's world."""
        need_account(caller)
        caller.need("events:read")
        if not self._hub.directory.has_account(caller.world, call.account):
            raise NotFound(f"There is no account {ascii(call.account[:80])}.")
        return self.info(caller.world, call.account)

    def info(self, world: str, account: str) -> WakeInfo:
        """Whether an account can be woken now."""
        key = (world, account)
        self.sweep_account(key)
        held = self._held.get(key)
        if not held:
            ended_ms = self._ended.get(key)
            return WakeInfo(
                account=account,
                held=False,
                how=None,
                until=None,
                ended=None if ended_ms is None else rfc3339(ended_ms),
                reason=self.why_not(world, account),
            )
        lasting = max(held.values(), key=_lasts)
        return WakeInfo(
            account=account,
            held=True,
            how=lasting.how,
            until=None if lasting.until_ms is None else rfc3339(lasting.until_ms),
            ended=None,
            reason=f"a process of {account} ({lasting.how}) holds a wake lease",
        )

    def why_not(self, world: str, account: str) -> str:
        """Why an account without a lease has none."""
        now_ms = self._hub.clock.wall_ms()
        ended_ms = self._ended.get((world, account))
        if ended_ms is None:
            ago = ago_text(now_ms - self.started_ms)
            return f"no process of {account} has held a wake lease since the hub started {ago} ago"
        ago = ago_text(now_ms - ended_ms)
        return f"no process of {account} holds a wake lease; the last one ended {ago} ago"

    def sweep(self) -> None:
        """Notice what is over; once a second, so that the time it ended is right."""
        for key in list(self._held):
            self.sweep_account(key)
        while len(self._ended) > ENDED_MAX:
            del self._ended[next(iter(self._ended))]

    def sweep_account(self, key: _Key) -> None:
        """End an account's leases whose time is up or whose token is gone."""
        now_s = self._hub.clock.steady_s()
        for name, lease in list(self._held.get(key, {}).items()):
            if lease.until_s is None:
                continue
            over_s = now_s - lease.until_s
            if over_s >= 0:
                self._end(key, name, ago_s=over_s)
            elif lease.caller is not None and not self._is_valid(lease.caller):
                self._end(key, name)

    def _is_valid(self, caller: Caller) -> bool:
        try:
            self._hub.directory.refresh(caller)
        except ClawError:
            return False
        return True

    def _put(self, key: _Key, name: str, lease: _Lease) -> None:
        held = self._held.setdefault(key, {})
        if not held:
            # A process of the account is there, though it may have no connection of its own.
            self._hub.presence.connected(*key)
        held[name] = lease

    def _end(self, key: _Key, name: str, *, ago_s: float = 0.0) -> None:
        held = self._held.get(key)
        if held is None or held.pop(name, None) is None:
            return
        if not held:
            del self._held[key]
            self._hub.presence.disconnected(*key)
        # Behind the others, since the oldest are forgotten first.
        before_ms = self._ended.pop(key, 0)
        self._ended[key] = max(before_ms, self._hub.clock.wall_ms() - round(ago_s * 1000))


def ago_text(ms: int) -> str:
    """A span of time as people say it: `3 minutes`."""
    seconds = max(ms // 1000, 0)
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size:
            number = seconds // size
            return f"{number} {unit}{'' if number == 1 else 's'}"
    return f"{seconds} second{'' if seconds == 1 else 's'}"


def _lasts(lease: _Lease) -> float:
    return float("inf") if lease.until_s is None else lease.until_s
