"""Self-registration: on a hub for development, whoever is on its machine makes an account.

The door asks whether the request is local; here stands that it needs --dev, and its bounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clawnet.core.callers import STRANGER, Caller
from clawnet.core.calls.invitations import Joined, Register
from clawnet.core.errors import NotFound, RateLimited
from clawnet.core.limits import Bucket
from clawnet.hub.accounts import EVENTS, Accounts, told_of
from clawnet.hub.newcomers import newcomer

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

REGISTERED_MAX = 1_000
PER_S = 2.0
BURST = 50.0


class Registration:
    """Handler of core.calls.invitations.Register."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._bucket = Bucket(rate_per_s=PER_S, burst=BURST, now_s=hub.clock.steady_s())

    def register(self) -> None:
        self._hub.handle(Register, self.join, is_change=True)

    async def join(self, call: Register, caller: Caller) -> Joined:
        """A worker of main with a token. Raises NotFound, RateLimited, BadRequest, Conflict."""
        hub = self._hub
        if not hub.settings.is_dev or caller is not STRANGER:
            raise no_registration()
        wait_s = self._bucket.take(1, now_s=hub.clock.steady_s())
        if wait_s:
            raise RateLimited(
                f"This hub registers {PER_S:g} accounts per second.",
                retry_after_s=wait_s,
                limit_per_s=PER_S,
            )
        made = sum(1 for account in hub.directory.all_accounts() if account.proof == "dev")
        if made >= REGISTERED_MAX:
            raise NotFound(
                f"{REGISTERED_MAX} accounts registered themselves here; no more may.",
                next="Ask whoever runs the hub for an invitation (claw invite).",
            )
        accounts = Accounts(hub)
        account = await accounts.made(
            "main", call.id, call.handle, role="worker", kind="agent", proof="dev", by=None
        )
        new = newcomer(hub, account, name="dev", scopes=["*"])
        itself = Caller(account=account.id)
        await hub.change(
            *new.puts, events=(hub.note(itself, EVENTS, "account.created", told_of(account)),)
        )
        new.arrive(hub)
        return new.joined()


def no_registration() -> NotFound:
    """The answer where nobody registers themselves."""
    return NotFound(
        "Nobody registers themselves on this hub.",
        next="Ask whoever runs it for an invitation (claw invite), then: claw join LINK --as NAME",
    )
