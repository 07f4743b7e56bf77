"""How fast an account may publish by /api/publish: far slower than by the hub's own API, as the
clients of claw.events expect. What is refused here never reaches the hub, and costs no storage."""

from __future__ import annotations

from clawnet.core.callers import Caller
from clawnet.core.errors import RateLimited
from clawnet.doors.http.request import Request


def take_publish(request: Request, caller: Caller) -> None:
    """Raises RateLimited with the time to wait."""
    if not request.hub.settings.limits.enabled:
        return
    limits = request.door.claw_events
    wait_s = request.door.claw_publishes.take(
        (caller.world, caller.account), now_s=request.hub.clock.steady_s()
    )
    if wait_s:
        raise RateLimited(
            f"rate limit exceeded ({limits.publish_per_s:g} messages per second)",
            retry_after_s=wait_s,
            limit_per_s=limits.publish_per_s,
        )
