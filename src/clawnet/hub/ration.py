"""Limits per account: how fast it may publish and call, how many sessions it may hold."""

from __future__ import annotations

from clawnet.core.callers import STRANGER, Caller
from clawnet.core.errors import RateLimited, TooManySubscriptions
from clawnet.core.limits import Bucket
from clawnet.hub.settings import LimitSettings
from clawnet.ports.clock import Clock


class Ration:
    """Buckets by account. The hub's own voice is not limited, nor are the server API's publishes:
    it has the operator's key, and speaks for all users of its application at once."""

    def __init__(self, settings: LimitSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._publishes: dict[tuple[str, str | None], Bucket] = {}
        self._calls: dict[tuple[str, str | None], Bucket] = {}
        self.active: set[tuple[str, str | None]] = set()
        """Who published, called or subscribed since presence last looked. Measured: beside the
        bucket (600 ns) it costs a publish nothing that can be told from noise."""
        self._was_active = False
        """Whether who made the last call was among them before it."""

    def take_publish(self, caller: Caller, n: int) -> None:
        """Raises RateLimited with the time to wait."""
        limits = self._settings
        key = (caller.world, caller.account)
        self.active.add(key)
        # Who comes in insecure mode may do as much as the server API, and is confined and anybody.
        is_backend = caller.rules_free and not caller.is_confined
        if limits.enabled and not caller.is_hub and not is_backend:
            self._take(self._publishes, key, n, limits.publish_per_s, limits.publish_burst)

    def take_call(self, caller: Caller, n: int = 1) -> None:
        """Raises RateLimited with the time to wait. `n`: what costs as much as so many calls."""
        limits = self._settings
        key = (caller.world, caller.account)
        self._was_active = key in self.active
        self.active.add(key)
        # What a stranger may call has limits of its own, so that anonymous readers do not share
        # theirs with who guesses at invitations.
        if limits.enabled and not caller.is_hub and caller is not STRANGER:
            self._take(self._calls, key, n, limits.calls_per_s, limits.calls_burst)

    def was_no_activity(self, caller: Caller) -> None:
        """The call that is being answered is no sign of life of who works there (telemetry, a
        status by one's own word). Only before the first await of its handler."""
        if not self._was_active:
            self.active.discard((caller.world, caller.account))

    def check_sessions(self, caller: Caller, present: int) -> None:
        """Raises TooManySubscriptions if the account holds as many sessions as it may."""
        limit = self._settings.sessions_per_account_max
        if self._settings.enabled and present >= limit:
            raise TooManySubscriptions(
                f"An account holds at most {limit} live connections.",
                next="Close some of this account's connections.",
                limit=limit,
            )

    def forget_idle(self) -> None:
        """Drop full buckets, so that memory follows the active accounts."""
        now_s = self._clock.steady_s()
        for table in (self._publishes, self._calls):
            if len(table) > 256:
                for key in [k for k, bucket in table.items() if bucket.is_full(now_s=now_s)]:
                    del table[key]

    def _take(
        self,
        table: dict[tuple[str, str | None], Bucket],
        key: tuple[str, str | None],
        n: int,
        rate_per_s: float,
        burst: float,
    ) -> None:
        now_s = self._clock.steady_s()
        bucket = table.get(key)
        if bucket is None:
            bucket = table[key] = Bucket(rate_per_s=rate_per_s, burst=burst, now_s=now_s)
        wait_s = bucket.take(n, now_s=now_s)
        if wait_s:
            raise RateLimited(
                f"This account is limited to {rate_per_s:g} per second.",
                retry_after_s=wait_s,
                limit_per_s=rate_per_s,
            )
