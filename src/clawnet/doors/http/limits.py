"""Limits of this door beside the hub's: chat by account or address, and who has no valid token."""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable

from starlette.types import Scope

from clawnet.core.buckets import Buckets
from clawnet.core.callers import Caller
from clawnet.core.errors import ClawError, RateLimited, Unauthenticated
from clawnet.doors.http.settings import HttpSettings
from clawnet.hub.hub import Hub


class RouteLimits:
    """Buckets of one door. They take nothing where the hub's limits are off."""

    def __init__(self, hub: Hub, settings: HttpSettings) -> None:
        self._hub = hub
        self._chat = Buckets(rate_per_s=settings.chat_per_s, burst=settings.chat_burst)
        self._strangers = Buckets(
            rate_per_s=settings.unauthenticated_per_s, burst=settings.unauthenticated_burst
        )

    def take_chat(self, caller: Caller, scope: Scope) -> None:
        """Raises RateLimited. Those without an account are told apart by their address."""
        key = address_of(scope) if caller.account is None else (caller.world, caller.account)
        self._take(self._chat, key, whose="account" if caller.account else "address")

    def told(self, refused: Unauthenticated, scope: Scope) -> ClawError:
        """What a request without a valid token is told: that, or to wait, if its address asks on
        and on. A valid token from the same address is not held up."""
        try:
            self._take(self._strangers, address_of(scope), whose="address")
        except RateLimited as limited:
            return limited
        return refused

    def _take(self, buckets: Buckets, key: Hashable, *, whose: str) -> None:
        if not self._hub.settings.limits.enabled:
            return
        wait_s = buckets.take(key, now_s=self._hub.clock.steady_s())
        if wait_s:
            raise RateLimited(
                f"This {whose} is limited to {buckets.rate_per_s:g} such requests per second.",
                retry_after_s=wait_s,
                limit_per_s=buckets.rate_per_s,
            )


def address_of(scope: Scope) -> str:
    """The client's address by the gate's verdict; "" where no gate stands in front.

    Of IPv6 the network of 64 bits, all of which one machine can have.
    """
    admitted = scope.get("state", {}).get("admitted")
    address = "" if admitted is None else str(admitted.client)
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((found.packed[:8] + bytes(8), 64)))
