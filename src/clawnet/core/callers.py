"""The caller: who asks, as the hub established it from the token. Never taken from a message."""

from __future__ import annotations

import msgspec

from clawnet.core.errors import Forbidden
from clawnet.core.events import Source, quote


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticated (or anonymous) caller.

    `account` is None for an anonymous one. `scopes` narrow what the account
    may do; `*` is all. `is_hub` marks the hub itself, which may publish where
    the table says "hub" and never reads for others.
    """

    account: str | None
    handle: str = ""
    role: str = "worker"
    kind: str = "agent"
    world: str = "main"
    scopes: frozenset[str] = frozenset({"*"})
    token_id: str | None = None
    expires_ms: int | None = None
    is_hub: bool = False

    def allows(self, scope: str) -> bool:
        """Whether the token's scopes cover this."""
        return "*" in self.scopes or scope in self.scopes

    def need(self, scope: str) -> None:
        """Raise Forbidden unless the token's scopes cover this."""
        if not self.allows(scope):
            raise Forbidden(
                f"This token lacks the scope {scope}.",
                next=f"Use a token with the scope {scope} (claw token create --scope {scope}).",
                reason="scope",
            )

    @property
    def is_anonymous(self) -> bool:
        return self.account is None

    def actor_json(self) -> str:
        """The envelope's actor."""
        return f'{{"id":"{self.account}","handle":{quote(self.handle)}}}'

    @property
    def source(self) -> Source:
        """The envelope's source."""
        if self.is_hub:
            return "system"
        if self.kind == "human":
            return "user"
        return "external" if self.kind == "ext" else "agent"


HUB = Caller(account="hub", handle="hub", role="master", kind="service", is_hub=True)
"""The hub's own voice. `hub` is a reserved id that no account can have."""

STRANGER = Caller(account=None, scopes=frozenset())
"""Who has no token and asks for one: redeems an invitation, registers. Limited by address."""
